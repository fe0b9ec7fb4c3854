//! Packets that are too long for the path that they are steered to.
//!
//! A redirect neither fragments nor checks. The sender is told as a router on the path would tell it: the packet itself
//! is made into fragmentation-needed (RFC 1191) or packet-too-big (RFC 4443) from its destination, and comes in by the
//! path's interface.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated as helpers;
use backtrail_ebpf_common::maps::Path;
use backtrail_ebpf_common::packet::{Bytes, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, Kind, TCP};

use crate::{NEXT, steer};
use crate::family::FlowKey;
use crate::maps::count;
use crate::packet::Packet;
use crate::skb::Skb;

/// `BPF_F_INGRESS`
const INGRESS: u64 = 1;
/// Hop limit of a message that is delivered here.
const HOPS: u8 = 64;
/// `GSO_BY_FRAGS` of linux/skbuff.h: the segments are of different sizes (SCTP).
const BY_FRAGMENTS: u32 = 0xffff;
/// Don't-fragment, in the first byte of IPv4's fragment field.
const DONT_FRAGMENT: u8 = 0x40;

/// Fragmentation-needed, field by field in network order.
#[repr(C, align(8))]
struct Message4 {
    version_and_length: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment: u16,
    hops: u8,
    proto: u8,
    header_checksum: u16,
    source: MaybeUninit<[u8; 4]>,
    destination: MaybeUninit<[u8; 4]>,
    icmp_type: u8,
    code: u8,
    checksum: u16,
    unused: u16,
    mtu: u16,
    /// IP header and eight bytes of the packet.
    quote: MaybeUninit<[u8; 28]>,
}

/// Packet-too-big, field by field in network order.
#[repr(C, align(8))]
struct Message6 {
    version: u32,
    length: u16,
    proto: u8,
    hops: u8,
    source: MaybeUninit<[u8; 16]>,
    destination: MaybeUninit<[u8; 16]>,
    type_and_code: u16,
    checksum: u16,
    mtu: u32,
    /// IP header and eight bytes of the packet.
    quote: MaybeUninit<[u8; 48]>,
}

const _: () = {
    assert!(size_of::<Message4>() == 56);
    assert!(size_of::<Message6>() == 96);
};

/// Whether a packet, or a segment of it, is longer than the path's MTU.
#[inline(always)]
pub fn is_exceeded<K: FlowKey>(packet: &Packet<'_, K>, path: &Path) -> bool {
    path.mtu != 0 && packet.skb.len().wrapping_sub(packet.l3) > path.mtu && !has_short_segments(packet, path)
}

/// Whether the segments of a GSO packet fit.
#[inline(never)]
fn has_short_segments<K: FlowKey>(packet: &Packet<'_, K>, path: &Path) -> bool {
    let payload = packet.skb.gso_size();
    if payload == BY_FRAGMENTS {
        return packet.skb.has_segments_for(path.ifindex);
    }
    let header = if packet.key.proto() == TCP {
        let [words]: [u8; 1] = packet.skb.load(packet.l4.wrapping_add(12)).unwrap_or([0xf0]);
        u32::from(words >> 4) << 2
    } else {
        8
    };
    payload != 0 && packet.l4.wrapping_sub(packet.l3).wrapping_add(header).wrapping_add(payload) <= path.mtu
}

/// Answers the sender; what may be fragmented, or cannot be answered, is left to the FIB.
#[inline(never)]
pub fn answer<K: FlowKey>(packet: &Packet<'_, K>, path: &Path) -> i32 {
    let answered = if packet.kind == Kind::Error || packet.l3 != u32::from(packet.iface.l2_length) {
        Err(())
    } else if K::FAMILY == 4 {
        answer4(packet.skb, packet.l3, path)
    } else {
        answer6(packet.skb, packet.l3, path)
    };
    match answered {
        Ok(verdict) => {
            count!(path.slot, mtu_exceeded);
            verdict
        }
        Err(()) => {
            count!(path.slot, mtu_unfit);
            NEXT
        }
    }
}

#[inline(always)]
fn answer4(skb: Skb, l3: u32, path: &Path) -> Result<i32, ()> {
    let [version_and_length]: [u8; 1] = skb.load(l3).ok_or(())?;
    let [fragment]: [u8; 1] = skb.load(l3.wrapping_add(6)).ok_or(())?;
    if version_and_length != 0x45 || fragment & DONT_FRAGMENT == 0 {
        return Err(());
    }
    let mut message = Message4 {
        version_and_length: 0x45,
        tos: 0,
        length: (size_of::<Message4>() as u16).to_be(),
        id: 0,
        fragment: 0,
        hops: HOPS,
        proto: ICMP,
        header_checksum: 0,
        source: MaybeUninit::uninit(),
        destination: MaybeUninit::uninit(),
        // Destination unreachable, fragmentation needed.
        icmp_type: 3,
        code: 4,
        checksum: 0,
        unused: 0,
        mtu: (path.mtu as u16).to_be(),
        quote: MaybeUninit::uninit(),
    };
    skb.fill(l3.wrapping_add(16), &mut message.source)?;
    skb.fill(l3.wrapping_add(12), &mut message.destination)?;
    skb.fill(l3, &mut message.quote)?;
    message.header_checksum = checksum(&mut message, 0, 20, 0);
    message.checksum = checksum(&mut message, 20, 36, 0);
    send(skb, l3, path, &message, ETHERTYPE_IPV4)
}

#[inline(always)]
fn answer6(skb: Skb, l3: u32, path: &Path) -> Result<i32, ()> {
    let mut message = Message6 {
        version: 0x6000_0000_u32.to_be(),
        length: (size_of::<Message6>() as u16 - 40).to_be(),
        proto: ICMPV6,
        hops: HOPS,
        source: MaybeUninit::uninit(),
        destination: MaybeUninit::uninit(),
        // Packet too big.
        type_and_code: 0x0200_u16.to_be(),
        checksum: 0,
        mtu: path.mtu.to_be(),
        quote: MaybeUninit::uninit(),
    };
    skb.fill(l3.wrapping_add(24), &mut message.source)?;
    skb.fill(l3.wrapping_add(8), &mut message.destination)?;
    skb.fill(l3, &mut message.quote)?;
    // The pseudo-header has both addresses, the length and the protocol.
    let pseudo = (size_of::<Message6>() as u32 - 40 + u32::from(ICMPV6)).to_be();
    message.checksum = checksum(&mut message, 8, 88, pseudo);
    send(skb, l3, path, &message, ETHERTYPE_IPV6)
}

/// The Internet checksum (RFC 1071) of some bytes of a message, a multiple of four, over `seed` as it lies in memory.
#[inline(always)]
fn checksum<T>(message: &mut T, offset: usize, length: u32, seed: u32) -> u16 {
    // SAFETY: within the message; and no bytes of the other operand.
    let sum = unsafe {
        let bytes = core::ptr::from_mut(message).cast::<u8>().add(offset);
        helpers::bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), length, seed)
    };
    let sum = sum as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Makes the packet the message, and lets it come in by the path's interface.
#[inline(always)]
fn send<T>(skb: Skb, l3: u32, path: &Path, message: &T, ethertype: u16) -> Result<i32, ()> {
    skb.truncate(l3 + size_of::<T>() as u32)?;
    skb.store_value(l3, message)?;
    if l3 == 0 && path.l2_length != 0 {
        skb.push_ethernet()?;
    }
    if path.l2_length != 0 {
        steer::address(skb, &path.mac, &path.mac, ethertype)?;
    }
    // SAFETY: a helper call with numbers.
    Ok(unsafe { helpers::bpf_redirect(path.ifindex, INGRESS) } as i32)
}
