//! Whole IP packets, sent as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, setsockopt, socket,
    sockopt,
};

use crate::namespace::Namespace;

/// Sends an IP packet by the routes of a namespace; the kernel fills in IPv4's length and header checksum, and fragments
/// nothing.
///
/// # Errors
/// When it is no IP packet, or the kernel refuses it (no route, longer than the MTU).
pub fn send_packet(namespace: &Namespace, packet: &[u8]) -> Result<()> {
    send_packet_by(namespace, None, packet)
}

/// [`send_packet`] by the routes of a device; of a VRF device: by its table.
///
/// # Errors
/// See [`send_packet`].
pub fn send_packet_by(namespace: &Namespace, device: Option<&str>, packet: &[u8]) -> Result<()> {
    let (family, destination): (_, IpAddr) = match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let octets: [u8; 4] = *packet.get(16..).and_then(<[u8]>::first_chunk).context("an address")?;
            (AddressFamily::Inet, Ipv4Addr::from(octets).into())
        }
        Some(6) => {
            let octets: [u8; 16] = *packet.get(24..).and_then(<[u8]>::first_chunk).context("an address")?;
            (AddressFamily::Inet6, Ipv6Addr::from(octets).into())
        }
        _ => bail!("no IP packet: {packet:02x?}"),
    };
    namespace.enter(|| -> Result<()> {
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
            .context("cannot open a raw socket (CAP_NET_RAW)")?;
        if let Some(device) = device {
            setsockopt(&raw, sockopt::BindToDevice, &device.into())
                .with_context(|| format!("cannot bind to {device}"))?;
        }
        let to = SockaddrStorage::from(SocketAddr::from((destination, 0)));
        sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())
            .with_context(|| format!("cannot send {} bytes to {destination}", packet.len()))?;
        Ok(())
    })?
}
