//! tc egress: replies that are about to leave by another interface than their requests came in by.

use backtrail_ebpf_common::maps::{FlowKey4, FlowKey6, IFACE_CHECK_MAC, Iface, PATH_NODE};
use backtrail_ebpf_common::packet::fast::{Ethernet, Plain4, Plain6};
use backtrail_ebpf_common::packet::{Headers, Kind};

use crate::family::FlowKey;
use crate::maps::{self, count};
use crate::packet::Packet;
use crate::skb::{ETHERNET, Skb};
use crate::{NEXT, fragment, learn, packet, steer};

/// The verdict on one packet.
#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(iface) = maps::iface(skb.ifindex()) else { return NEXT };
    if u32::from(iface.l2_length) == ETHERNET && skb.vlan_present() == 0 {
        if let Some(ip) = skb.at::<Plain4>(Plain4::L3)
            && let Some(ethernet) = skb.at::<Ethernet>(0)
            && ip.is_plain(ethernet)
        {
            return plain(skb, iface, &ethernet.source, ip.reply(iface.zone), Plain4::L4, ip.hops);
        }
        if let Some(ip) = skb.at::<Plain6>(Plain6::L3)
            && let Some(ethernet) = skb.at::<Ethernet>(0)
            && ip.is_plain(ethernet)
        {
            return plain(skb, iface, &ethernet.source, ip.reply(iface.zone), Plain6::L4, ip.hops);
        }
    }
    other(skb, iface)
}

/// A packet in the usual frame.
#[inline(always)]
fn plain<K: FlowKey>(skb: Skb, iface: &'static Iface, mac: &[u8; 6], key: K, l4: u32, hops: u8) -> i32 {
    if iface.flags & IFACE_CHECK_MAC != 0 && *mac != iface.mac {
        count!(iface.slot, upper_device);
        return NEXT;
    }
    let Some(flow) = key.flow() else {
        let packet = Packet::plain(skb, iface, &key, l4, hops);
        if packet.kind == Kind::Opener {
            learn::reply(&packet);
        }
        return NEXT;
    };
    if flow.reply_gate != maps::gate() {
        learn::reply(&Packet::plain(skb, iface, &key, l4, hops));
    }
    if flow.path == PATH_NODE || flow.ifindex == iface.ifindex {
        return NEXT;
    }
    steer::steer(&Packet { skb, iface, key: &key, l3: ETHERNET, l4, hops, kind: Kind::Midflow }, flow)
}

/// Everything else.
#[inline(never)]
pub fn other(skb: Skb, iface: &'static Iface) -> i32 {
    if is_foreign(skb, iface) {
        count!(iface.slot, upper_device);
        return NEXT;
    }
    let Some(headers) = packet::headers(skb, iface) else { return NEXT };
    if headers.kind == Kind::LaterFragment && !fragment::recall(iface, headers) {
        count!(iface.slot, lost_fragments);
        return NEXT;
    }
    if headers.family == 4 {
        parsed::<FlowKey4>(skb, iface, headers)
    } else {
        parsed::<FlowKey6>(skb, iface, headers)
    }
}

/// A packet that the slow parser read.
#[inline(never)]
fn parsed<K: FlowKey>(skb: Skb, iface: &'static Iface, headers: &Headers) -> i32 {
    if headers.kind == Kind::Error {
        // It goes where the packet that it embeds came from: that one is the request.
        reply(skb, iface, headers, &K::request(headers, iface.zone))
    } else {
        reply(skb, iface, headers, &K::reply(headers, iface.zone))
    }
}

/// A packet whose flow has this key.
#[inline(never)]
fn reply<K: FlowKey>(skb: Skb, iface: &'static Iface, headers: &Headers, key: &K) -> i32 {
    let packet = Packet::parsed(skb, iface, key, headers);
    let Some(flow) = key.find() else {
        if headers.kind == Kind::Opener {
            learn::reply(&packet);
        }
        return NEXT;
    };
    if headers.first_fragment {
        fragment::remember(iface, headers);
    }
    if flow.reply_gate != maps::gate() {
        learn::reply(&packet);
    }
    if flow.path == PATH_NODE || flow.ifindex == iface.ifindex {
        return NEXT;
    }
    steer::steer(&packet, flow)
}

/// Whether a frame comes from a device on top of this one that has a MAC of its own.
#[inline(always)]
fn is_foreign(skb: Skb, iface: &Iface) -> bool {
    iface.flags & IFACE_CHECK_MAC != 0 && iface.l2_length != 0 && skb.source_mac() != Some(iface.mac)
}
