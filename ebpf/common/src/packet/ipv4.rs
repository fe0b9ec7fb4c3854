//! IPv4 (RFC 791), with options, fragments, echo and errors (RFC 792).

use super::{Bytes, Headers, Kind, Unparsed, widen};

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

/// The headers as far as IPv4 says.
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
    headers.l4 = l3.wrapping_add(ip.length);
    Ok(headers)
}

/// The headers of the packet that an error embeds.
#[inline(always)]
pub(super) fn embedded(packet: &impl Bytes, l3: u32) -> Result<Headers, Unparsed> {
    let ip = fixed(packet, l3)?;
    if ip.fragment & FRAGMENT_OFFSET != 0 {
        return Err(Unparsed::Other);
    }
    let mut headers = headers(&ip, l3);
    headers.l4 = l3.wrapping_add(ip.length);
    Ok(headers)
}
