//! Which packet crossed which interface, in which direction.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use nix::sys::socket::{self, AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;

use crate::namespace::Namespace;
use crate::traffic::Background;

/// Frames kept at most; older ones stay.
const LIMIT: usize = 200_000;
/// `PACKET_OUTGOING` (include/uapi/linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
/// ARPHRD_ETHER and ARPHRD_LOOPBACK have the 14-byte header.
const ETHERNET: [u16; 2] = [1, 772];

/// Into or out of the interface, as its host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// An IP packet that crossed an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Name of the interface.
    pub interface: String,
    /// Direction.
    pub direction: Direction,
    /// Destination MAC, where there is an Ethernet header.
    pub destination_mac: Option<[u8; 6]>,
    /// Source MAC, where there is an Ethernet header.
    pub source_mac: Option<[u8; 6]>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6.
    pub protocol: u8,
    /// Source port; for ICMP the type.
    pub source_port: u16,
    /// Destination port; for ICMP echo the identifier.
    pub destination_port: u16,
    /// TCP flags (0x02 SYN, 0x10 ACK); 0 for other protocols.
    pub tcp_flags: u8,
    /// Bytes of the IP packet.
    pub length: usize,
}

/// A listener (AF_PACKET) on all interfaces of a namespace. Ends when dropped.
#[derive(Debug)]
pub struct Sniffer {
    frames: Arc<Mutex<Vec<Frame>>>,
    _thread: Background,
}

impl Sniffer {
    /// Starts listening; frames of interfaces that come later are seen too.
    ///
    /// # Errors
    /// When the socket cannot be made (CAP_NET_RAW).
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.enter(|| {
            socket::socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        })?;
        let socket = socket.context("cannot open a packet socket")?;
        socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
        socket::setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&frames);
        let namespace = namespace.clone();
        let thread = Background::start(move |stop| {
            let mut names = BTreeMap::new();
            let mut buffer = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Some(frame) = receive(&socket, &mut buffer, &mut names, &namespace) {
                    let mut frames = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    if frames.len() < LIMIT {
                        frames.push(frame);
                    }
                }
            }
        });
        Ok(Self { frames, _thread: thread })
    }

    /// A copy of what was seen so far.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many frames of an interface fit.
    #[must_use]
    pub fn count(&self, interface: &str, fits: impl Fn(&Frame) -> bool) -> usize {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.iter().filter(|frame| frame.interface == interface && fits(frame)).count()
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    names: &mut BTreeMap<usize, String>,
    namespace: &Namespace,
) -> Option<Frame> {
    let (length, from) = socket::recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer).ok()?;
    let from = from?;
    let interface = names.entry(from.ifindex()).or_insert_with(|| name_of(namespace, from.ifindex()));
    let mut frame = parse(buffer.get(..length)?, ETHERNET.contains(&from.hatype()))?;
    frame.interface.clone_from(interface);
    frame.direction = if from.pkttype() == PACKET_OUTGOING { Direction::Out } else { Direction::In };
    Some(frame)
}

fn name_of(namespace: &Namespace, ifindex: usize) -> String {
    let index = u32::try_from(ifindex).unwrap_or(0);
    let name = namespace.enter(|| nix::net::if_::if_indextoname(index));
    name.ok()
        .and_then(Result::ok)
        .map_or_else(|| format!("if{index}"), |name| name.to_string_lossy().into_owned())
}

/// An IPv4 or IPv6 packet with or without its Ethernet header (VLAN tags are skipped). ARP and the like are `None`.
fn parse(bytes: &[u8], ethernet: bool) -> Option<Frame> {
    let mut rest = bytes;
    let (mut destination_mac, mut source_mac) = (None, None);
    if ethernet {
        destination_mac = bytes.first_chunk().copied();
        source_mac = bytes.get(6..)?.first_chunk().copied();
        rest = bytes.get(12..)?;
        while matches!(rest.first_chunk::<2>()?, [0x81, 0x00] | [0x88, 0xa8]) {
            rest = rest.get(4..)?;
        }
        if !matches!(rest.first_chunk::<2>()?, [0x08, 0x00] | [0x86, 0xdd]) {
            return None;
        }
        rest = rest.get(2..)?;
    }
    let (source, destination, protocol, payload, length) = match rest.first()? >> 4 {
        4 => parse_ipv4(rest)?,
        6 => parse_ipv6(rest)?,
        _ => return None,
    };
    let pair = |at: usize| payload.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let icmp = matches!(protocol, 1 | 58);
    Some(Frame {
        interface: String::new(),
        direction: Direction::In,
        destination_mac,
        source_mac,
        source,
        destination,
        protocol,
        source_port: if icmp { payload.first().copied().map_or(0, u16::from) } else { pair(0) },
        destination_port: if icmp { pair(4) } else { pair(2) },
        tcp_flags: if protocol == 6 { payload.get(13).copied().unwrap_or(0) } else { 0 },
        length,
    })
}

type Packet<'a> = (IpAddr, IpAddr, u8, &'a [u8], usize);

fn parse_ipv4(bytes: &[u8]) -> Option<Packet<'_>> {
    let source: [u8; 4] = bytes.get(12..)?.first_chunk().copied()?;
    let destination: [u8; 4] = bytes.get(16..)?.first_chunk().copied()?;
    let payload = bytes.get(usize::from(bytes.first()? & 15) * 4..)?;
    let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let (source, destination) = (Ipv4Addr::from(source).into(), Ipv4Addr::from(destination).into());
    Some((source, destination, *bytes.get(9)?, payload, length))
}

fn parse_ipv6(bytes: &[u8]) -> Option<Packet<'_>> {
    let source: [u8; 16] = bytes.get(8..)?.first_chunk().copied()?;
    let destination: [u8; 16] = bytes.get(24..)?.first_chunk().copied()?;
    let length = 40 + usize::from(u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]));
    let (source, destination) = (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into());
    Some((source, destination, *bytes.get(6)?, bytes.get(40..)?, length))
}
