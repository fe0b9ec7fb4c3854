//! Addresses and ports that no flow of ours ever has.

use crate::packet::UDP;

/// Hop limit of packets that no router forwarded: single-hop BFD (RFC 5881).
const UNFORWARDED: u8 = 255;

/// Whether an IPv4 address is unspecified, loopback, link-local, multicast, reserved or broadcast.
#[inline(always)]
#[must_use]
pub const fn is_local4(address: [u8; 4]) -> bool {
    let [a, b, ..] = address;
    a == 0 || a == 127 || a >= 224 || (a == 169 && b == 254)
}

/// Whether an IPv6 address is unspecified, loopback, link-local or multicast.
#[inline(always)]
#[must_use]
pub fn is_local6(address: &[u8; 16]) -> bool {
    let (high, low) = halves(address);
    let first = high >> 48;
    (high == 0 && low <= 1) || first & 0xff00 == 0xff00 || first & 0xffc0 == 0xfe80
}

#[inline(always)]
fn halves(a: &[u8; 16]) -> (u64, u64) {
    (
        u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    )
}

/// Whether a packet is DHCP, DHCPv6 or single-hop BFD: bound to its interface by its own means.
#[inline(always)]
#[must_use]
pub const fn is_link_protocol(proto: u8, source_port: u16, destination_port: u16, hops: u8) -> bool {
    if proto != UDP {
        return false;
    }
    match destination_port {
        67 | 68 | 546 | 547 => true,
        3784 | 3785 => hops == UNFORWARDED,
        _ => matches!(source_port, 67 | 68 | 546 | 547),
    }
}
