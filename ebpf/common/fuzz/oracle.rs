//! What another parser, which knows nothing of this one, makes of an IP packet. Shared by fuzzing and property tests.

use crate::packet::{Bytes, Headers, Kind, Link, TCP, UDP, Unparsed, parse, widen};
use crate::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// A packet in memory.
pub(crate) struct Slice<'a>(pub(crate) &'a [u8]);

impl Bytes for Slice<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(N)?)?.try_into().ok()
    }
}

/// Addresses, protocol and ports.
pub(crate) type Tuple = ([u8; 16], [u8; 16], u8, (u16, u16));

/// The tuple of an unfragmented TCP or UDP packet, as etherparse reads it; `None` for all else.
///
/// In IPv4 an authentication header is a protocol of its own, here as in the kernel's connection tracking; etherparse
/// looks behind it.
pub(crate) fn tuple(ip: &[u8]) -> Option<Tuple> {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ip(ip).ok()?;
    let (source, destination) = match packet.net? {
        NetSlice::Ipv4(v4) if !v4.is_payload_fragmented() && v4.extensions().auth.is_none() => {
            (widen(v4.header().source()), widen(v4.header().destination()))
        }
        NetSlice::Ipv6(v6) if !v6.is_payload_fragmented() => {
            (v6.header().source(), v6.header().destination())
        }
        _ => return None,
    };
    let (proto, ports) = match packet.transport? {
        TransportSlice::Tcp(tcp) => (TCP, (tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => (UDP, (udp.source_port(), udp.destination_port())),
        _ => return None,
    };
    Some((source, destination, proto, ports))
}

/// This parser on an IP packet without an L2 header.
pub(crate) fn bare(ip: &[u8]) -> Result<Headers, Unparsed> {
    let ethertype =
        if ip.first().is_some_and(|first| first >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
    parse(&Slice(ip), Link { length: 0, ethertype, tagged: false })
}

/// Why the two parsers disagree about a packet; `None` when they do not.
///
/// This one follows fewer extension headers than there may be, and looks at no lengths but those it needs: what the other
/// one refuses it may read.
pub(crate) fn disagreement(ip: &[u8]) -> Option<String> {
    let theirs = tuple(ip)?;
    match bare(ip) {
        Err(Unparsed::TooDeep) => None,
        Ok(headers) if matches!(headers.kind, Kind::Opener | Kind::Midflow | Kind::Answer) => {
            let ports = (headers.source_port, headers.destination_port);
            let ours: Tuple = (headers.source, headers.destination, headers.proto, ports);
            (ours != theirs).then(|| format!("{ours:?} is {theirs:?}"))
        }
        other => Some(format!("{other:?} is {theirs:?}")),
    }
}
