//! IPv4 (RFC 791), with options, fragments, echo and errors (RFC 792).

use super::transport::{self, Message};
use super::{Bytes, Headers, ICMP, Kind, SCTP, TCP, UDP, Unparsed, widen};

/// Length of the header without options.
const HEADER: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What the fixed header says.
struct Fixed {
    length: u32,
    id: u16,
    fragment: u16,
    hops: u8,
    proto: u8,
    source: [u8; 4],
    destination: [u8; 4],
}

#[inline(always)]
fn fixed(packet: &impl Bytes, l3: u32) -> Result<Fixed, Unparsed> {
    let h: [u8; HEADER as usize] = packet.load(l3).ok_or(Unparsed::Truncated)?;
    let length = u32::from(h[0] & 0x0f) << 2;
    if h[0] >> 4 != 4 || length < HEADER {
        return Err(Unparsed::Malformed);
    }
    Ok(Fixed {
        length,
        id: u16::from_ne_bytes([h[4], h[5]]),
        fragment: u16::from_be_bytes([h[6], h[7]]),
        hops: h[8],
        proto: h[9],
        source: [h[12], h[13], h[14], h[15]],
        destination: [h[16], h[17], h[18], h[19]],
    })
}

#[inline(always)]
fn headers(ip: &Fixed, l3: u32) -> Headers {
    Headers {
        source: widen(ip.source),
        destination: widen(ip.destination),
        source_port: 0,
        destination_port: 0,
        fragment_id: 0,
        l3,
        l4: 0,
        family: 4,
        proto: ip.proto,
        hops: ip.hops,
        kind: Kind::Midflow,
        first_fragment: false,
    }
}

#[inline(always)]
pub(super) fn parse(packet: &impl Bytes, l3: u32) -> Result<Headers, Unparsed> {
    let ip = fixed(packet, l3)?;
    let mut headers = headers(&ip, l3);
    if ip.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        headers.fragment_id = u32::from(ip.id);
        if ip.fragment & FRAGMENT_OFFSET != 0 {
            headers.kind = Kind::LaterFragment;
            return Ok(headers);
        }
        headers.first_fragment = true;
    }
    let l4 = l3.wrapping_add(ip.length);
    headers.l4 = l4;
    match ip.proto {
        TCP | UDP | SCTP => transport::ports(packet, l4, &mut headers, true)?,
        ICMP => {
            let [icmp_type] = packet.load(l4).ok_or(Unparsed::Truncated)?;
            match transport::message(ICMP, icmp_type) {
                Some(Message::Error) => return embedded(packet, l4.wrapping_add(8), &headers),
                Some(message) => transport::echo(packet, l4, &mut headers, message)?,
                None => return Err(Unparsed::Other),
            }
        }
        _ => return Err(Unparsed::Other),
    }
    Ok(headers)
}

/// The tuple of the packet that an error is about. The error goes to the sender of that packet, or it is none.
#[inline(always)]
fn embedded(packet: &impl Bytes, l3: u32, outer: &Headers) -> Result<Headers, Unparsed> {
    let ip = fixed(packet, l3)?;
    if ip.fragment & FRAGMENT_OFFSET != 0 {
        return Err(Unparsed::Other);
    }
    let mut headers = headers(&ip, outer.l3);
    if headers.source != outer.destination {
        return Err(Unparsed::Malformed);
    }
    headers.hops = outer.hops;
    let l4 = l3.wrapping_add(ip.length);
    match ip.proto {
        TCP | UDP | SCTP => transport::ports(packet, l4, &mut headers, false)?,
        ICMP => {
            let [icmp_type] = packet.load(l4).ok_or(Unparsed::Truncated)?;
            match transport::message(ICMP, icmp_type) {
                Some(Message::Error) | None => return Err(Unparsed::Other),
                Some(message) => transport::echo(packet, l4, &mut headers, message)?,
            }
        }
        _ => return Err(Unparsed::Other),
    }
    headers.kind = Kind::Error;
    Ok(headers)
}
