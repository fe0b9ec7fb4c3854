//! Hand-made frames. MACs are filled in by the harness.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const ACK: u8 = 0x10;

/// A client and a service of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) client: IpAddr,
    pub(crate) service: IpAddr,
}

pub(crate) const V4: Pair = Pair {
    client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    service: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
};
pub(crate) const V6: Pair = Pair {
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 7)),
    service: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 10)),
};
/// Both families: nearly every test runs for each.
pub(crate) const PAIRS: [Pair; 2] = [V4, V6];

impl Pair {
    pub(crate) fn new(client: &str, service: &str) -> Self {
        Self { client: client.parse().unwrap(), service: service.parse().unwrap() }
    }

    /// A frame from client to service.
    pub(crate) fn request(&self, l4: L4) -> Vec<u8> {
        ethernet(&ip(self.client, self.service, l4, 64))
    }

    /// A frame from service to client.
    pub(crate) fn reply(&self, l4: L4) -> Vec<u8> {
        ethernet(&ip(self.service, self.client, l4, 64))
    }
}

/// Protocol and bytes of what IP carries.
#[derive(Debug, Clone)]
pub(crate) struct L4 {
    pub(crate) proto: Proto,
    pub(crate) bytes: Vec<u8>,
}

/// A protocol by its role, since ICMP's number differs between the families.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proto {
    Number(u8),
    Icmp,
}

pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> L4 {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    L4 { proto: Proto::Number(6), bytes }
}

/// The same with so many bytes of payload more.
pub(crate) fn longer(mut l4: L4, bytes: usize) -> L4 {
    l4.bytes.extend(vec![0x5a; bytes]);
    l4
}

/// The Internet checksum over all of `bytes`: 0 when the one inside is right.
pub(crate) fn checksum(bytes: &[u8], seed: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.fold(seed, |sum, word| sum + word);
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

pub(crate) fn udp(source: u16, destination: u16) -> L4 {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 12, 0, 0]);
    bytes.extend(*b"data");
    L4 { proto: Proto::Number(17), bytes }
}

pub(crate) fn sctp(source: u16, destination: u16, chunk: u8) -> L4 {
    let mut bytes = ports(source, destination);
    bytes.extend([0; 8]);
    bytes.extend([chunk, 0, 0, 4]);
    L4 { proto: Proto::Number(132), bytes }
}

/// Any ICMP message: `types` for IPv4 and IPv6, then what follows the checksum.
pub(crate) fn icmp(types: (u8, u8), rest: &[u8]) -> L4 {
    let mut bytes = vec![types.0, types.1, 0, 0];
    bytes.extend(rest);
    L4 { proto: Proto::Icmp, bytes }
}

pub(crate) fn echo_request(id: u16) -> L4 {
    let [a, b] = id.to_be_bytes();
    icmp((8, 128), &[a, b, 0, 1])
}

pub(crate) fn echo_reply(id: u16) -> L4 {
    let [a, b] = id.to_be_bytes();
    icmp((0, 129), &[a, b, 0, 1])
}

/// An unreachable error about an IP packet.
pub(crate) fn unreachable(packet: &[u8]) -> L4 {
    let mut rest = vec![0; 4];
    rest.extend(packet);
    icmp((3, 1), &rest)
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes
}

/// An IP packet.
pub(crate) fn ip(source: IpAddr, destination: IpAddr, mut l4: L4, hops: u8) -> Vec<u8> {
    let v4 = source.is_ipv4();
    let proto = match l4.proto {
        Proto::Number(number) => number,
        Proto::Icmp => {
            // The type for the family, and code 0.
            l4.bytes[0] = if v4 { l4.bytes[0] } else { l4.bytes[1] };
            l4.bytes[1] = 0;
            if v4 { 1 } else { 58 }
        }
    };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination, proto, &l4.bytes, hops, &[], 0)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, proto, &l4.bytes, hops),
        _ => panic!("one family"),
    }
}

/// An IPv4 packet with options (a multiple of four bytes) and a fragment field.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    proto: u8,
    payload: &[u8],
    hops: u8,
    options: &[u8],
    fragment: u16,
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let total = u16::try_from(words * 4 + payload.len()).unwrap().to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let mut packet = vec![0x40 | u8::try_from(words).unwrap(), 0, total[0], total[1], 0x12, 0x34];
    packet.extend([fragment[0], fragment[1], hops, proto, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet; `next` and `payload` may begin with extension headers.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8], hops: u8) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, hops];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A frame around an IP packet.
pub(crate) fn ethernet(packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut frame = vec![0; 12];
    frame.extend(ethertype);
    frame.extend(packet);
    frame
}

/// The frame with VLAN tags in the packet, outermost first.
pub(crate) fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (ethertype, id) in tags {
        out.extend(ethertype.to_be_bytes());
        out.extend(id.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}
