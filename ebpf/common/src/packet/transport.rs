//! TCP, UDP, SCTP and echo: ports, and whether a packet may open a flow.

use super::{Bytes, Headers, ICMP, ICMPV6, Kind, SCTP, TCP, UDP, Unparsed};

const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
const SCTP_INIT: u8 = 1;
const SCTP_INIT_ACK: u8 = 2;
const SCTP_ABORT: u8 = 6;

/// Length of an ICMP error before the packet that it embeds.
pub(super) const ERROR: u32 = 8;

/// Ports and kind of a packet, from its transport header; true for an ICMP error, whose tuple is that of the packet in it.
///
/// `whole` is false for what an ICMP error embeds: only eight bytes are promised there (RFC 792).
#[inline(always)]
pub(super) fn parse(packet: &impl Bytes, headers: &mut Headers, whole: bool) -> Result<bool, Unparsed> {
    let offset = headers.l4;
    match (headers.proto, headers.family) {
        (TCP | UDP | SCTP, _) => {
            let ports: [u8; 4] = packet.load(offset).ok_or(Unparsed::Truncated)?;
            headers.source_port = u16::from_be_bytes([ports[0], ports[1]]);
            headers.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
            if whole {
                headers.kind = kind(packet, offset, headers.proto)?;
            }
        }
        (ICMP, 4) | (ICMPV6, 6) => {
            let [icmp_type] = packet.load(offset).ok_or(Unparsed::Truncated)?;
            match message(headers.proto, icmp_type) {
                Some(Message::Error) if whole => return Ok(true),
                Some(Message::Error) | None => return Err(Unparsed::Other),
                Some(message) => echo(packet, offset, headers, message)?,
            }
        }
        _ => return Err(Unparsed::Other),
    }
    Ok(false)
}

/// Whether the transport header at `offset` may open a flow, may answer an opener, or neither ([`Kind::Midflow`]).
///
/// # Errors
///
/// [`Unparsed::Truncated`]
#[inline(always)]
pub fn kind(packet: &impl Bytes, offset: u32, proto: u8) -> Result<Kind, Unparsed> {
    Ok(match proto {
        TCP => {
            let [flags] = packet.load(offset.wrapping_add(13)).ok_or(Unparsed::Truncated)?;
            kind_tcp(flags)
        }
        SCTP => {
            let [chunk] = packet.load(offset.wrapping_add(12)).ok_or(Unparsed::Truncated)?;
            kind_sctp(chunk)
        }
        UDP => Kind::Opener,
        _ => Kind::Midflow,
    })
}

/// What TCP flags say.
#[inline(always)]
pub(super) const fn kind_tcp(flags: u8) -> Kind {
    if flags & (TCP_SYN | TCP_RST) == 0 {
        Kind::Midflow
    } else if flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
        Kind::Opener
    } else {
        Kind::Answer
    }
}

/// What the first chunk of an SCTP packet says.
#[inline(always)]
pub(super) const fn kind_sctp(chunk: u8) -> Kind {
    match chunk {
        SCTP_INIT => Kind::Opener,
        SCTP_INIT_ACK | SCTP_ABORT => Kind::Answer,
        _ => Kind::Midflow,
    }
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
        headers.kind = Kind::Answer;
    }
    Ok(())
}
