//! Hand-made packets and frames.
//!
//! Checksums are zero until [`checksummed`] fills them in; lengths that no packet can have are cut off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP flags.
pub const SYN: u8 = 0x02;
/// TCP flags.
pub const SYN_ACK: u8 = 0x12;
/// TCP flags.
pub const ACK: u8 = 0x10;
/// TCP: the connection is refused, or broken off.
pub const RST: u8 = 0x04;

/// A client and a service of one family.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Who asks.
    pub client: IpAddr,
    /// Who answers.
    pub service: IpAddr,
}

/// An IPv4 client and service.
pub const V4: Pair = Pair {
    client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
    service: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
};
/// An IPv6 client and service.
pub const V6: Pair = Pair {
    client: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 7)),
    service: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 10)),
};
/// Both families: nearly every test runs for each.
pub const PAIRS: [Pair; 2] = [V4, V6];

impl Pair {
    /// The pair of two addresses.
    ///
    /// # Panics
    /// When one is no address.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "addresses are literals")]
    pub fn new(client: &str, service: &str) -> Self {
        Self { client: client.parse().unwrap(), service: service.parse().unwrap() }
    }

    /// A frame from client to service.
    #[must_use]
    pub fn request(&self, l4: L4) -> Vec<u8> {
        ethernet(&ip(self.client, self.service, l4, 64))
    }

    /// A frame from service to client.
    #[must_use]
    pub fn reply(&self, l4: L4) -> Vec<u8> {
        ethernet(&ip(self.service, self.client, l4, 64))
    }
}

/// Protocol and bytes of what IP carries.
#[derive(Debug, Clone)]
pub struct L4 {
    /// Its protocol.
    pub proto: Proto,
    /// From its header on.
    pub bytes: Vec<u8>,
}

/// A protocol by its role, since ICMP's number differs between the families.
#[derive(Debug, Clone, Copy)]
pub enum Proto {
    /// The same number in both families.
    Number(u8),
    /// ICMP or ICMPv6; the first two bytes are the types for each, until [`ip`] puts type and code there.
    Icmp,
}

/// A TCP segment without payload.
#[must_use]
pub fn tcp(source: u16, destination: u16, flags: u8) -> L4 {
    let mut bytes = ports(source, destination);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    L4 { proto: Proto::Number(6), bytes }
}

/// The same with so many bytes of payload more.
#[must_use]
pub fn longer(mut l4: L4, bytes: usize) -> L4 {
    l4.bytes.extend(vec![0x5a; bytes]);
    l4
}

/// The Internet checksum over all of `bytes`: 0 when the one inside is right.
#[must_use]
pub fn checksum(bytes: &[u8], seed: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [a, b] => u32::from(u16::from_be_bytes([a, b])),
        [a] => u32::from(a) << 8,
        _ => 0,
    });
    let sum = words.fold(seed, |sum, word| sum + word);
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

/// A UDP datagram with four bytes.
#[must_use]
pub fn udp(source: u16, destination: u16) -> L4 {
    datagram(source, destination, b"data")
}

/// A UDP datagram.
#[must_use]
pub fn datagram(source: u16, destination: u16, payload: &[u8]) -> L4 {
    let mut bytes = ports(source, destination);
    bytes.extend(length(8 + payload.len()));
    bytes.extend([0, 0]);
    bytes.extend(payload);
    L4 { proto: Proto::Number(17), bytes }
}

/// An SCTP packet of one chunk without content; 1 is INIT, 2 INIT ACK.
#[must_use]
pub fn sctp(source: u16, destination: u16, chunk: u8) -> L4 {
    let mut bytes = ports(source, destination);
    bytes.extend([0; 8]);
    bytes.extend([chunk, 0, 0, 4]);
    L4 { proto: Proto::Number(132), bytes }
}

/// Any ICMP message: `types` for IPv4 and IPv6, then what follows the checksum.
#[must_use]
pub fn icmp(types: (u8, u8), rest: &[u8]) -> L4 {
    let mut bytes = vec![types.0, types.1, 0, 0];
    bytes.extend(rest);
    L4 { proto: Proto::Icmp, bytes }
}

/// An echo request.
#[must_use]
pub fn echo_request(id: u16) -> L4 {
    let [a, b] = id.to_be_bytes();
    icmp((8, 128), &[a, b, 0, 1])
}

/// An echo reply.
#[must_use]
pub fn echo_reply(id: u16) -> L4 {
    let [a, b] = id.to_be_bytes();
    icmp((0, 129), &[a, b, 0, 1])
}

/// An unreachable error about an IP packet.
#[must_use]
pub fn unreachable(packet: &[u8]) -> L4 {
    let mut rest = vec![0; 4];
    rest.extend(packet);
    icmp((3, 1), &rest)
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// An IP packet.
///
/// # Panics
/// When the addresses are of two families.
#[must_use]
pub fn ip(source: IpAddr, destination: IpAddr, mut l4: L4, hops: u8) -> Vec<u8> {
    let v4 = source.is_ipv4();
    let proto = match l4.proto {
        Proto::Number(number) => number,
        Proto::Icmp => {
            // The type for the family, and code 0.
            if let [v4_type, second, ..] = &mut l4.bytes[..] {
                *v4_type = if v4 { *v4_type } else { *second };
                *second = 0;
            }
            if v4 { 1 } else { 58 }
        }
    };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination, proto, &l4.bytes, hops, &[], 0)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, proto, &l4.bytes, hops),
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// An IPv4 packet with options (a multiple of four bytes) and a fragment field.
#[must_use]
pub fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    proto: u8,
    payload: &[u8],
    hops: u8,
    options: &[u8],
    fragment: u16,
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let total = length(words * 4 + payload.len());
    let fragment = fragment.to_be_bytes();
    let version = 0x40 | u8::try_from(words).unwrap_or(15);
    let mut packet = vec![version, 0, total[0], total[1], 0x12, 0x34];
    packet.extend([fragment[0], fragment[1], hops, proto, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet; `next` and `payload` may begin with extension headers.
#[must_use]
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8], hops: u8) -> Vec<u8> {
    let length = length(payload.len());
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, hops];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A frame around an IP packet, with zeros for MACs.
#[must_use]
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let v4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let mut frame = vec![0; 12];
    frame.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}

/// The frame with VLAN tags in the packet, outermost first.
#[must_use]
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(frame.len().min(12));
    let mut out = macs.to_vec();
    for (ethertype, id) in tags {
        out.extend(ethertype.to_be_bytes());
        out.extend(id.to_be_bytes());
    }
    out.extend(rest);
    out
}

/// An IP packet as [`ip`] makes it, with its transport checksum.
///
/// # Panics
/// When the addresses are of two families.
#[must_use]
pub fn packet(source: IpAddr, destination: IpAddr, l4: L4, hops: u8) -> Vec<u8> {
    let packet = ip(source, destination, l4, hops);
    let (proto, at) = if source.is_ipv4() { (packet[9], 20) } else { (packet[6], 40) };
    checksummed(packet, proto, at)
}

/// The packet with the checksum of the transport header at `at`. SCTP's is left out: it is no Internet checksum, and nobody
/// on the way looks at it.
#[must_use]
pub fn checksummed(mut packet: Vec<u8>, proto: u8, at: usize) -> Vec<u8> {
    let field = match proto {
        1 | 58 => 2,
        6 => 16,
        17 => 6,
        _ => return packet,
    };
    let addresses = match packet.first().map(|first| first >> 4) {
        // ICMP's checksum covers no addresses in IPv4 (RFC 792).
        Some(4) if proto == 1 => 0..0,
        Some(4) => 12..20,
        _ => 8..40,
    };
    let (Some(addresses), Some(l4)) = (packet.get(addresses), packet.get(at..)) else { return packet };
    let length = u32::try_from(l4.len()).unwrap_or(u32::MAX);
    let pseudo = if addresses.is_empty() { 0 } else { u32::from(proto) + length };
    let sum = checksum(&[addresses, l4].concat(), pseudo).to_be_bytes();
    if let Some(old) = packet.get_mut(at + field..at + field + 2) {
        old.copy_from_slice(&sum);
    }
    packet
}
