//! The usual frame, read in place: Ethernet, IPv4 without options or IPv6 without extension headers, unfragmented,
//! TCP, UDP or SCTP.

use super::{SCTP, TCP, UDP};
use crate::maps::{Flow6, FlowDigest6, FlowKey4, FlowKey6, SECRET, condense, words};

/// An Ethernet header without VLAN tags.
#[derive(Clone, Copy)]
#[repr(C, align(2))]
pub struct Ethernet {
    /// Destination MAC.
    pub destination: [u8; 6],
    /// Source MAC.
    pub source: [u8; 6],
    ethertype: [u8; 2],
}

/// An IPv4 header without options, and the ports after it. The kernel keeps IP headers aligned to four bytes on all
/// machines that care.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Plain4 {
    version_and_length: u8,
    tos: u8,
    length: [u8; 2],
    id: [u8; 2],
    fragment: [u8; 2],
    /// TTL.
    pub hops: u8,
    /// IP protocol number.
    pub proto: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// An IPv6 header, and the ports after it.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Plain6 {
    version: u8,
    flow_label: [u8; 3],
    length: [u8; 2],
    /// IP protocol number: no extension header in [`Self::is_plain`].
    pub proto: u8,
    /// Hop limit.
    pub hops: u8,
    source: [u8; 16],
    destination: [u8; 16],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

const _: () = {
    assert!(size_of::<Ethernet>() == 14);
    assert!(size_of::<Plain4>() == 24);
    assert!(size_of::<Plain6>() == 44);
};

/// IPv4's ethertype as it is read from the wire.
const IPV4: u16 = super::ETHERTYPE_IPV4.to_be();
/// IPv6's ethertype as it is read from the wire.
const IPV6: u16 = super::ETHERTYPE_IPV6.to_be();
/// More-fragments flag and fragment offset as they are read from the wire.
const FRAGMENTED: u16 = 0x3fff_u16.to_be();

/// Protocols whose ports come first.
#[inline(always)]
const fn has_ports(proto: u8) -> bool {
    proto == TCP || proto == UDP || proto == SCTP
}

impl Plain4 {
    /// Offset of the IP header in the frame.
    pub const L3: usize = size_of::<Ethernet>();
    /// Offset of the transport header in the frame.
    pub const L4: u32 = 34;

    /// Whether this is the usual frame. One branch for ethertype, header length and fragment.
    #[inline(always)]
    #[must_use]
    pub fn is_plain(&self, ethernet: &Ethernet) -> bool {
        let odd = (u16::from_ne_bytes(ethernet.ethertype) ^ IPV4)
            | (u16::from(self.version_and_length) ^ 0x45)
            | (u16::from_ne_bytes(self.fragment) & FRAGMENTED);
        odd == 0 && has_ports(self.proto)
    }

    /// The key, if this is a request.
    #[inline(always)]
    #[must_use]
    pub const fn request(&self, zone: u32) -> FlowKey4 {
        FlowKey4 {
            client: self.source,
            service: self.destination,
            client_port: u16::from_be_bytes(self.source_port),
            service_port: u16::from_be_bytes(self.destination_port),
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// The key, if this is a reply.
    #[inline(always)]
    #[must_use]
    pub const fn reply(&self, zone: u32) -> FlowKey4 {
        self.request(zone).mirrored()
    }

    /// [`recent_index`](crate::maps::recent_index)'s words, if this is a reply.
    #[inline(always)]
    #[must_use]
    pub const fn reply_recent(&self) -> (u32, u16, u16) {
        let ports = (u16::from_be_bytes(self.destination_port), u16::from_be_bytes(self.source_port));
        (u32::from_ne_bytes(self.destination), ports.0, ports.1)
    }
}

impl Plain6 {
    /// Offset of the IP header in the frame.
    pub const L3: usize = size_of::<Ethernet>();
    /// Offset of the transport header in the frame.
    pub const L4: u32 = 54;

    /// Whether this is the usual frame.
    #[inline(always)]
    #[must_use]
    pub fn is_plain(&self, ethernet: &Ethernet) -> bool {
        let odd = (u16::from_ne_bytes(ethernet.ethertype) ^ IPV6) | (u16::from(self.version & 0xf0) ^ 0x60);
        odd == 0 && has_ports(self.proto)
    }

    /// The key, if this is a request.
    #[inline(always)]
    #[must_use]
    pub const fn request(&self, zone: u32) -> FlowKey6 {
        FlowKey6 {
            client: copy(&self.source),
            service: copy(&self.destination),
            client_port: u16::from_be_bytes(self.source_port),
            service_port: u16::from_be_bytes(self.destination_port),
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// The key, if this is a reply.
    #[inline(always)]
    #[must_use]
    pub const fn reply(&self, zone: u32) -> FlowKey6 {
        self.request(zone).mirrored()
    }

    /// [`recent_index`](crate::maps::recent_index)'s words, if this is a reply.
    #[inline(always)]
    #[must_use]
    pub const fn reply_recent(&self) -> (u32, u16, u16) {
        let ports = (u16::from_be_bytes(self.destination_port), u16::from_be_bytes(self.source_port));
        (words(&self.destination)[3], ports.0, ports.1)
    }

    /// [`FlowKey6::digest`] of [`Self::request`], without the key.
    #[inline(always)]
    #[must_use]
    pub const fn request_digest(&self, zone: u32, secret: &[u32; SECRET]) -> FlowDigest6 {
        FlowDigest6 {
            addresses: condense(&self.source, &self.destination, secret),
            client_port: u16::from_be_bytes(self.source_port),
            service_port: u16::from_be_bytes(self.destination_port),
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// [`FlowKey6::digest`] of [`Self::reply`], without the key.
    #[inline(always)]
    #[must_use]
    pub const fn reply_digest(&self, zone: u32, secret: &[u32; SECRET]) -> FlowDigest6 {
        FlowDigest6 {
            addresses: condense(&self.destination, &self.source, secret),
            client_port: u16::from_be_bytes(self.destination_port),
            service_port: u16::from_be_bytes(self.source_port),
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// Whether an entry's flow is that of this request.
    #[inline(always)]
    #[must_use]
    pub const fn is_request_of(&self, flow: &Flow6) -> bool {
        flow.is_between(&self.source, &self.destination)
    }

    /// Whether an entry's flow is that of this reply.
    #[inline(always)]
    #[must_use]
    pub const fn is_reply_of(&self, flow: &Flow6) -> bool {
        flow.is_between(&self.destination, &self.source)
    }
}

/// An address, word by word: as a whole it would be copied by a call.
#[inline(always)]
const fn copy(address: &[u8; 16]) -> [u8; 16] {
    let [a, b, c, d] = words(address);
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}
