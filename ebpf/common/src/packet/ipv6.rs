//! IPv6 (RFC 8200), with extension headers, fragments, echo and errors (RFC 4443).

use super::{Bytes, Headers, Kind, Unparsed};

/// Length of the fixed header.
const HEADER: u32 = 40;
/// Headers after the fixed one that are looked at: five extension headers, and the upper one.
const MAX_HEADERS: u32 = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The upper-layer header, after all extension headers.
struct Upper {
    proto: u8,
    offset: u32,
    /// Identification, and whether the offset is 0; of fragments only.
    fragment: Option<(u32, bool)>,
}

#[inline(always)]
fn fixed(packet: &impl Bytes, l3: u32) -> Result<(Headers, u8), Unparsed> {
    let [version, _, _, _, _, _, next, hops]: [u8; 8] = packet.load(l3).ok_or(Unparsed::Truncated)?;
    if version >> 4 != 6 {
        return Err(Unparsed::Malformed);
    }
    let headers = Headers {
        source: packet.load(l3.wrapping_add(8)).ok_or(Unparsed::Truncated)?,
        destination: packet.load(l3.wrapping_add(24)).ok_or(Unparsed::Truncated)?,
        source_port: 0,
        destination_port: 0,
        fragment_id: 0,
        l3,
        l4: 0,
        family: 6,
        proto: next,
        hops,
        kind: Kind::Midflow,
        first_fragment: false,
    };
    Ok((headers, next))
}

#[inline(always)]
fn upper(packet: &impl Bytes, l3: u32, next: u8) -> Result<Upper, Unparsed> {
    let mut upper = Upper { proto: next, offset: l3.wrapping_add(HEADER), fragment: None };
    for _ in 0..MAX_HEADERS {
        let length = match upper.proto {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => {
                let [next, length]: [u8; 2] = packet.load(upper.offset).ok_or(Unparsed::Truncated)?;
                let proto = core::mem::replace(&mut upper.proto, next);
                if proto == FRAGMENT {
                    let [_, _, o1, o2, i0, i1, i2, i3]: [u8; 8] =
                        packet.load(upper.offset).ok_or(Unparsed::Truncated)?;
                    let (offset, more) = (u16::from_be_bytes([o1, o2]) & 0xfff8, o2 & 1 != 0);
                    if offset != 0 || more {
                        upper.fragment = Some((u32::from_ne_bytes([i0, i1, i2, i3]), offset == 0));
                    }
                    if offset != 0 {
                        return Ok(upper);
                    }
                    8
                } else if proto == AUTHENTICATION {
                    u32::from(length).wrapping_add(2) << 2
                } else {
                    u32::from(length).wrapping_add(1) << 3
                }
            }
            _ => return Ok(upper),
        };
        upper.offset = upper.offset.wrapping_add(length);
    }
    Err(Unparsed::TooDeep)
}

/// The headers as far as IPv6 says.
#[inline(always)]
pub(super) fn parse(packet: &impl Bytes, l3: u32) -> Result<Headers, Unparsed> {
    let (mut headers, next) = fixed(packet, l3)?;
    let upper = upper(packet, l3, next)?;
    headers.proto = upper.proto;
    if let Some((id, first)) = upper.fragment {
        headers.fragment_id = id;
        headers.first_fragment = first;
        if !first {
            headers.kind = Kind::LaterFragment;
            return Ok(headers);
        }
    }
    headers.l4 = upper.offset;
    Ok(headers)
}

/// The headers of the packet that an error embeds. Extension headers are not followed, save a first fragment's.
#[inline(always)]
pub(super) fn embedded(packet: &impl Bytes, l3: u32) -> Result<Headers, Unparsed> {
    let (mut headers, next) = fixed(packet, l3)?;
    headers.l4 = l3.wrapping_add(HEADER);
    if next == FRAGMENT {
        let [next, _, o1, o2]: [u8; 4] = packet.load(headers.l4).ok_or(Unparsed::Truncated)?;
        if u16::from_be_bytes([o1, o2]) & 0xfff8 != 0 {
            return Err(Unparsed::Other);
        }
        headers.proto = next;
        headers.l4 = headers.l4.wrapping_add(8);
    }
    Ok(headers)
}
