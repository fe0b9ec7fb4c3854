//! A packet with its flow key, as the slow functions take it: by reference, since BPF passes five words at most.

use backtrail_ebpf_common::maps::{IFACE_TAGGED, Iface};
use backtrail_ebpf_common::packet::{Bytes, Headers, Kind, Unparsed, kind, parse};

use crate::event;
use crate::family::FlowKey;
use crate::maps::{self, count};
use crate::skb::{ETHERNET, Skb};

/// A packet, its device and its flow.
pub struct Packet<'a, K> {
    /// The packet.
    pub skb: Skb,
    /// The device whose hook runs.
    pub iface: &'static Iface,
    /// The flow that it belongs to.
    pub key: &'a K,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the transport header; 0 where there is none.
    pub l4: u32,
    /// TTL or hop limit.
    pub hops: u8,
    /// What it is to the flow.
    pub kind: Kind,
}

impl<'a, K: FlowKey> Packet<'a, K> {
    /// A packet that the fast parser read; its transport header starts at `l4`.
    #[inline(always)]
    pub fn plain(skb: Skb, iface: &'static Iface, key: &'a K, l4: u32, hops: u8, kind: Kind) -> Self {
        Self { skb, iface, key, l3: ETHERNET, l4, hops, kind }
    }

    /// A packet that the slow parser read.
    #[inline(always)]
    pub fn parsed(skb: Skb, iface: &'static Iface, key: &'a K, headers: &Headers) -> Self {
        Self { skb, iface, key, l3: headers.l3, l4: headers.l4, hops: headers.hops, kind: headers.kind }
    }
}

/// What a packet that the fast parser read is to its flow.
#[inline(always)]
pub fn plain_kind(skb: Skb, l4: u32, proto: u8) -> Kind {
    kind(&Linear(skb), l4, proto).unwrap_or_else(|_| kind_of(skb, l4, proto))
}

/// The same wherever the bytes are, as a call: for packets that are looked at more closely.
#[inline(never)]
pub fn kind_of(skb: Skb, l4: u32, proto: u8) -> Kind {
    kind(&skb, l4, proto).unwrap_or(Kind::Midflow)
}

/// Bytes in the linear part only, without a helper call.
struct Linear(Skb);

impl Bytes for Linear {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.at::<[u8; N]>(offset as usize).copied()
    }
}

/// Parses any packet; counts it when it has no tuple. The result lies in this CPU's scratch memory, for the callers'
/// stacks.
#[inline(never)]
pub fn headers(skb: Skb, iface: &Iface) -> Option<&'static mut Headers> {
    let out = maps::scratch()?;
    let Err(why) = read(skb, iface, out) else { return Some(out) };
    match why {
        Unparsed::Truncated => count!(iface.slot, truncated),
        Unparsed::Malformed => count!(iface.slot, malformed),
        Unparsed::TooDeep => count!(iface.slot, too_deep),
        Unparsed::Other => count!(iface.slot, other_protocol),
        Unparsed::UpperDevice => count!(iface.slot, upper_device),
    }
    if matches!(why, Unparsed::Truncated | Unparsed::Malformed | Unparsed::TooDeep) {
        event::unparsable(iface.ifindex, why);
    }
    None
}

/// A function of its own, for its stack is the largest.
#[inline(never)]
fn read(skb: Skb, iface: &Iface, out: &mut Headers) -> Result<(), Unparsed> {
    let tagged = iface.flags & IFACE_TAGGED != 0;
    if skb.has_vlan() && !tagged {
        return Err(Unparsed::UpperDevice);
    }
    *out = parse(&skb, skb.link(iface.l2_length, tagged))?;
    Ok(())
}
