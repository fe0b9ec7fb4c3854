//! The packet parser: from bytes to the tuple of a flow.
//!
//! Two ways lead to the same tuples (a property test holds them together). [`fast`] reads the usual frame (Ethernet,
//! IPv4 without options or IPv6 without extension headers, not fragmented, TCP, UDP or SCTP) in place. [`parse`]
//! reads everything else through [`Bytes`], a few bytes at a time.

pub mod fast;
mod ipv4;
mod ipv6;
#[cfg(test)]
mod tests;
mod transport;

pub use self::transport::kind;
use crate::maps::{FlowKey4, FlowKey6};

/// IP protocol number: ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number: TCP.
pub const TCP: u8 = 6;
/// IP protocol number: UDP.
pub const UDP: u8 = 17;
/// IP protocol number: ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number: SCTP.
pub const SCTP: u8 = 132;

/// Ethertype: IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethertype: IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethertype: VLAN tag (802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Ethertype: outer VLAN tag (802.1ad).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// A packet's bytes, from its L2 header on (or its L3 header, on devices without L2).
pub trait Bytes {
    /// `N` bytes at `offset`, or `None` where the packet ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What a packet is to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// May open a flow: TCP SYN without ACK, SCTP INIT, echo request, any UDP.
    Opener,
    /// Belongs to a flow that is open.
    Midflow,
    /// May be the first or the only answer to an opener: TCP SYN with ACK, TCP RST, SCTP INIT ACK and ABORT, echo reply.
    Answer,
    /// An ICMP error; the tuple is the one that it embeds, not its own.
    Error,
    /// Not the first fragment of its packet: there are no ports.
    LaterFragment,
}

/// A parsed packet. Addresses are in network order, IPv4 in the first four bytes; ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port, or the id of an echo request.
    pub source_port: u16,
    /// Destination port, or the id of an echo reply.
    pub destination_port: u16,
    /// Identification of a fragment, as on the wire; 0 otherwise.
    pub fragment_id: u32,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the transport header; 0 for errors and later fragments.
    pub l4: u32,
    /// 4 or 6.
    pub family: u8,
    /// Of the flow: [`TCP`], [`UDP`], [`SCTP`], [`ICMP`] or [`ICMPV6`].
    pub proto: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// What it is to its flow.
    pub kind: Kind,
    /// Whether it is the first of several fragments.
    pub first_fragment: bool,
}

/// Why a packet has no tuple. All of them pass untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unparsed {
    /// Shorter than its headers say.
    Truncated,
    /// Header fields that contradict each other.
    Malformed,
    /// More extension headers or VLAN tags than are followed.
    TooDeep,
    /// No IP, or a protocol that has no flows here (ND, MLD, VRRP, ESP, ...).
    Other,
    /// A VLAN frame where the device does not terminate them.
    UpperDevice,
}

/// How a packet's L2 header is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// 14, or 0 on devices without L2 header.
    pub length: u32,
    /// Ethertype that the kernel holds for the packet: the one that counts without L2 header.
    pub ethertype: u16,
    /// Whether VLAN tags in the packet belong to this device.
    pub tagged: bool,
}

/// VLAN tags that are followed.
const MAX_TAGS: u32 = 2;

/// The tuple of a packet.
///
/// # Errors
///
/// [`Unparsed`] says why there is none.
#[inline(always)]
pub fn parse(packet: &impl Bytes, link: Link) -> Result<Headers, Unparsed> {
    let (l3, ethertype) = if link.length == 0 { (0, link.ethertype) } else { ethernet(packet, link)? };
    let mut headers = match ethertype {
        ETHERTYPE_IPV4 => ipv4::parse(packet, l3)?,
        ETHERTYPE_IPV6 => ipv6::parse(packet, l3)?,
        _ => return Err(Unparsed::Other),
    };
    if headers.kind != Kind::LaterFragment && transport::parse(packet, &mut headers, true)? {
        return embedded(packet, &headers);
    }
    Ok(headers)
}

/// The tuple of the packet that an error is about. The error goes to the sender of that packet, or it is none.
#[inline(always)]
fn embedded(packet: &impl Bytes, outer: &Headers) -> Result<Headers, Unparsed> {
    let l3 = outer.l4.wrapping_add(transport::ERROR);
    let mut headers =
        if outer.family == 4 { ipv4::embedded(packet, l3)? } else { ipv6::embedded(packet, l3)? };
    if headers.source != outer.destination {
        return Err(Unparsed::Malformed);
    }
    transport::parse(packet, &mut headers, false)?;
    Ok(Headers { l3: outer.l3, l4: 0, hops: outer.hops, kind: Kind::Error, ..headers })
}

/// Offset and ethertype of what an Ethernet frame carries.
#[inline(always)]
fn ethernet(packet: &impl Bytes, link: Link) -> Result<(u32, u16), Unparsed> {
    let mut offset = link.length;
    for _ in 0..=MAX_TAGS {
        let ethertype = u16::from_be_bytes(packet.load(offset.wrapping_sub(2)).ok_or(Unparsed::Truncated)?);
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            return Ok((offset, ethertype));
        }
        if !link.tagged {
            return Err(Unparsed::UpperDevice);
        }
        offset = offset.wrapping_add(4);
    }
    Err(Unparsed::TooDeep)
}

impl Headers {
    /// Exchanges the ends.
    #[inline(always)]
    pub const fn turn_round(&mut self) {
        (self.source, self.destination) = (self.destination, self.source);
        (self.source_port, self.destination_port) = (self.destination_port, self.source_port);
    }

    /// The key of a request with these headers.
    #[inline(always)]
    #[must_use]
    pub const fn request4(&self, zone: u32) -> FlowKey4 {
        FlowKey4 {
            client: first4(&self.source),
            service: first4(&self.destination),
            client_port: self.source_port,
            service_port: self.destination_port,
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// The key of a reply with these headers.
    #[inline(always)]
    #[must_use]
    pub const fn reply4(&self, zone: u32) -> FlowKey4 {
        FlowKey4 {
            client: first4(&self.destination),
            service: first4(&self.source),
            client_port: self.destination_port,
            service_port: self.source_port,
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// As [`Headers::request4`], for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn request6(&self, zone: u32) -> FlowKey6 {
        FlowKey6 {
            client: self.source,
            service: self.destination,
            client_port: self.source_port,
            service_port: self.destination_port,
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }

    /// As [`Headers::reply4`], for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn reply6(&self, zone: u32) -> FlowKey6 {
        FlowKey6 {
            client: self.destination,
            service: self.source,
            client_port: self.destination_port,
            service_port: self.source_port,
            proto: self.proto as u32,
            zone,
            reserved: 0,
        }
    }
}

/// The IPv4 address in the first bytes of a field for both families.
#[inline(always)]
#[must_use]
pub const fn first4(address: &[u8; 16]) -> [u8; 4] {
    [address[0], address[1], address[2], address[3]]
}

/// An IPv4 address as the first bytes of a field for both families.
#[inline(always)]
#[must_use]
pub const fn widen(address: [u8; 4]) -> [u8; 16] {
    [address[0], address[1], address[2], address[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

impl FlowKey4 {
    /// The same flow with the ends exchanged: the key of a packet in the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn mirrored(&self) -> Self {
        Self {
            client: self.service,
            service: self.client,
            client_port: self.service_port,
            service_port: self.client_port,
            ..*self
        }
    }
}

impl FlowKey6 {
    /// The same flow with the ends exchanged: the key of a packet in the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn mirrored(&self) -> Self {
        Self {
            client: self.service,
            service: self.client,
            client_port: self.service_port,
            service_port: self.client_port,
            ..*self
        }
    }
}
