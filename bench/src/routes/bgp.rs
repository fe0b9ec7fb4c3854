//! The shortest BGP speaker (RFC 4271) that can fill a router: it announces, withdraws, and listens to nothing.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::Namespace;
use ipnet::IpNet;

const MARKER: [u8; 16] = [0xff; 16];
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const KEEPALIVE: u8 = 4;
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
/// IPv6 unicast.
const AFI_SAFI: [u8; 3] = [0, 2, 1];
/// Bytes of the longest message.
const MAX: usize = 4096;

/// An established session.
pub(crate) struct Speaker {
    stream: TcpStream,
    asn: u16,
}

impl Speaker {
    /// Opens a session from a namespace to a router, for IPv4 and IPv6 unicast.
    pub(crate) fn establish(
        namespace: &Namespace,
        router: SocketAddr,
        asn: u16,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let began = Instant::now();
        let mut stream = loop {
            match namespace.enter(|| TcpStream::connect(router))? {
                Ok(stream) => break stream,
                Err(error) if began.elapsed() > Duration::from_secs(30) => {
                    return Err(error).context("bgpd does not listen");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // Version 4; hold time 0: no keepalives are expected; multiprotocol capabilities (RFC 4760).
        let mut open = vec![4];
        open.extend(asn.to_be_bytes());
        open.extend([0, 0]);
        open.extend(address.octets());
        open.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1]);
        stream.write_all(&message(OPEN, &open))?;
        ensure!(receive(&mut stream)? == OPEN, "bgpd answers OPEN with something else");
        stream.write_all(&message(KEEPALIVE, &[]))?;
        ensure!(receive(&mut stream)? == KEEPALIVE, "bgpd refuses the session");
        drain(stream.try_clone()?);
        Ok(Self { stream, asn })
    }

    /// Announces routes of one family by a nexthop of that family.
    pub(crate) fn announce(&mut self, routes: &[IpNet], nexthop: IpAddr) -> Result<()> {
        // ORIGIN IGP, AS_PATH of one AS_SEQUENCE.
        let mut path = vec![0x40, 1, 1, 0, 0x40, 2, 4, 2, 1];
        path.extend(self.asn.to_be_bytes());
        match nexthop {
            IpAddr::V4(nexthop) => {
                path.extend([0x40, 3, 4]);
                path.extend(nexthop.octets());
                self.send(routes, |prefixes| update(&path, prefixes))
            }
            IpAddr::V6(nexthop) => {
                let mut head = AFI_SAFI.to_vec();
                head.push(16);
                head.extend(nexthop.octets());
                head.push(0);
                self.send(routes, |prefixes| {
                    update(&[&path, &multiprotocol(MP_REACH, &head, prefixes)[..]].concat(), &[])
                })
            }
        }
    }

    /// Withdraws routes of one family.
    pub(crate) fn withdraw(&mut self, routes: &[IpNet]) -> Result<()> {
        if routes.first().is_some_and(|net| net.addr().is_ipv6()) {
            return self
                .send(routes, |prefixes| update(&multiprotocol(MP_UNREACH, &AFI_SAFI, prefixes), &[]));
        }
        self.send(routes, |prefixes| {
            let length = u16::try_from(prefixes.len()).unwrap_or(u16::MAX).to_be_bytes();
            [&length[..], prefixes, &[0, 0]].concat()
        })
    }

    fn send(&mut self, routes: &[IpNet], update: impl Fn(&[u8]) -> Vec<u8>) -> Result<()> {
        // Room for header, lengths and attributes; a prefix takes nine bytes at most, being no longer than /64.
        for some in routes.chunks((MAX - 128) / 9) {
            let prefixes: Vec<u8> = some.iter().flat_map(prefix).collect();
            self.stream.write_all(&message(UPDATE, &update(&prefixes))).context("bgpd closed the session")?;
        }
        Ok(())
    }
}

/// An UPDATE that withdraws nothing: path attributes, then IPv4 prefixes.
fn update(attributes: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0, 0], &length[..], attributes, prefixes].concat()
}

/// MP_REACH_NLRI or MP_UNREACH_NLRI (RFC 4760), of extended length.
fn multiprotocol(kind: u8, head: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(head.len() + prefixes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x90, kind][..], &length, head, prefixes].concat()
}

/// Length in bits, then as many bytes as hold them.
fn prefix(net: &IpNet) -> Vec<u8> {
    let octets = match net.addr() {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let bytes = usize::from(net.prefix_len().div_ceil(8));
    std::iter::once(net.prefix_len()).chain(octets.into_iter().take(bytes)).collect()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&MARKER[..], &length, &[kind], body].concat()
}

/// Reads one message; returns its type.
fn receive(stream: &mut TcpStream) -> Result<u8> {
    let mut header = [0; 19];
    stream.read_exact(&mut header).context("bgpd closed the session")?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(header.len())];
    stream.read_exact(&mut body)?;
    Ok(header[18])
}

/// Reads and forgets, so that bgpd never waits for us. Ends with the session.
fn drain(mut stream: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    });
}

impl Drop for Speaker {
    fn drop(&mut self) {
        // The reader holds a copy of the socket.
        self.stream.shutdown(std::net::Shutdown::Both).ok();
    }
}
