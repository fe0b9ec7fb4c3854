//! TCP, UDP, SCTP and echo: ports, and whether a packet may open a flow.

use super::{Bytes, Headers, ICMP, ICMPV6, Kind, SCTP, TCP, UDP, Unparsed};

const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const SCTP_INIT: u8 = 1;

/// Ports of TCP, UDP and SCTP at `offset`, and the kind of packet.
///
/// `whole` is false for what an ICMP error embeds: only eight bytes are promised there (RFC 792).
#[inline(always)]
pub(super) fn ports(
    packet: &impl Bytes,
    offset: u32,
    headers: &mut Headers,
    whole: bool,
) -> Result<(), Unparsed> {
    let ports: [u8; 4] = packet.load(offset).ok_or(Unparsed::Truncated)?;
    headers.source_port = u16::from_be_bytes([ports[0], ports[1]]);
    headers.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
    if whole {
        headers.kind = kind(packet, offset, headers.proto)?;
    }
    Ok(())
}

/// Whether the transport header at `offset` may open a flow ([`Kind::Opener`]) or not ([`Kind::Midflow`]).
///
/// # Errors
///
/// [`Unparsed::Truncated`]
#[inline(always)]
pub fn kind(packet: &impl Bytes, offset: u32, proto: u8) -> Result<Kind, Unparsed> {
    let opens = match proto {
        TCP => {
            let [flags] = packet.load(offset.wrapping_add(13)).ok_or(Unparsed::Truncated)?;
            opens_tcp(flags)
        }
        SCTP => {
            let [chunk] = packet.load(offset.wrapping_add(12)).ok_or(Unparsed::Truncated)?;
            chunk == SCTP_INIT
        }
        _ => proto == UDP,
    };
    Ok(if opens { Kind::Opener } else { Kind::Midflow })
}

/// Whether TCP flags are those of an opener: SYN without ACK.
#[inline(always)]
pub(super) const fn opens_tcp(flags: u8) -> bool {
    flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// An ICMP message, as much as concerns flows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// Echo request.
    Request,
    /// Echo reply.
    Reply,
    /// An error that embeds a packet after eight bytes.
    Error,
}

/// The message of an ICMP or ICMPv6 type; `None` for all else (redirects, ND, MLD, router messages).
#[inline(always)]
pub(super) const fn message(proto: u8, icmp_type: u8) -> Option<Message> {
    match (proto, icmp_type) {
        (ICMP, 8) | (ICMPV6, 128) => Some(Message::Request),
        (ICMP, 0) | (ICMPV6, 129) => Some(Message::Reply),
        (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4) => Some(Message::Error),
        _ => None,
    }
}

/// Echo: the id is the port of the side that asks.
#[inline(always)]
pub(super) fn echo(
    packet: &impl Bytes,
    offset: u32,
    headers: &mut Headers,
    message: Message,
) -> Result<(), Unparsed> {
    let id = u16::from_be_bytes(packet.load(offset.wrapping_add(4)).ok_or(Unparsed::Truncated)?);
    if message == Message::Request {
        headers.source_port = id;
        headers.kind = Kind::Opener;
    } else {
        headers.destination_port = id;
        headers.kind = Kind::Midflow;
    }
    Ok(())
}
