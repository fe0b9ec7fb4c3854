//! tc egress: replies that are about to leave by another interface than their requests came in by.

use backtrail_ebpf_common::maps::{
    FLOW_GATEWAY, Flow, FlowKey4, FlowKey6, IFACE_CHECK_MAC, Iface, PATH_NODE,
};
use backtrail_ebpf_common::packet::fast::{Ethernet, Plain4, Plain6};
use backtrail_ebpf_common::packet::{Headers, Kind};

use crate::family::{FlowKey, PlainHeader};
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
            return plain(skb, iface, ethernet, ip);
        }
        if let Some(ip) = skb.at::<Plain6>(Plain6::L3)
            && let Some(ethernet) = skb.at::<Ethernet>(0)
            && ip.is_plain(ethernet)
        {
            return plain(skb, iface, ethernet, ip);
        }
    }
    other(skb, iface)
}

/// A packet in the usual frame.
#[inline(always)]
fn plain<H: PlainHeader>(skb: Skb, iface: &'static Iface, ethernet: &Ethernet, ip: &H) -> i32 {
    if iface.flags & IFACE_CHECK_MAC != 0 && ethernet.source != iface.mac {
        return other(skb, iface);
    }
    let flow = match ip.replied(iface.zone) {
        Some(flow) => {
            if flow.reply_gate != maps::gate() {
                look_at(skb, iface, ip, flow);
            }
            flow
        }
        None => {
            let kind = packet::plain_kind(skb, H::L4, ip.proto());
            // What belongs to no opener shall not cost another lookup.
            if kind == Kind::Midflow && !ip.is_opener_recent() {
                return NEXT;
            }
            let Some(flow) = unconfirmed(skb, iface, ip, kind) else { return NEXT };
            flow
        }
    };
    if flow.path == PATH_NODE || is_right(flow, iface, || ethernet.destination == flow.mac) {
        return NEXT;
    }
    steer_plain(skb, iface, ip, flow)
}

/// Whether a reply leaves by the interface of its request, and to the gateway that delivered that one if it is a known one.
#[inline(always)]
fn is_right(flow: &Flow, iface: &Iface, to_gateway: impl FnOnce() -> bool) -> bool {
    flow.ifindex == iface.ifindex && (flow.flags & FLOW_GATEWAY == 0 || to_gateway())
}

/// What few packets need has stack of its own.
#[inline(never)]
fn look_at<H: PlainHeader>(skb: Skb, iface: &'static Iface, ip: &H, flow: &mut Flow) {
    let kind = packet::kind_of(skb, H::L4, ip.proto());
    learn::reply(&Packet::plain(skb, iface, &ip.reply(iface.zone), H::L4, ip.hops(), kind), flow);
}

/// The record of a packet whose flow is not in the flow table, or was not.
#[inline(never)]
fn unconfirmed<H: PlainHeader>(
    skb: Skb,
    iface: &'static Iface,
    ip: &H,
    kind: Kind,
) -> Option<&'static mut Flow> {
    let key = ip.reply(iface.zone);
    let packet = Packet::plain(skb, iface, &key, H::L4, ip.hops(), kind);
    let flow = key.find_opener();
    if flow.is_none() {
        learn::first_reply(&packet);
    }
    learn::next_reply(&packet, flow?)
}

#[inline(never)]
fn steer_plain<H: PlainHeader>(skb: Skb, iface: &'static Iface, ip: &H, flow: &mut Flow) -> i32 {
    let key = ip.reply(iface.zone);
    steer::steer(&Packet::plain(skb, iface, &key, H::L4, ip.hops(), Kind::Midflow), flow)
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
    if headers.kind == Kind::Error {
        // It goes where the packet that it embeds came from: that one is the request.
        headers.turn_round();
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
    let key = K::reply(headers, iface.zone);
    let packet = Packet::parsed(skb, iface, &key, headers);
    let Some(flow) = key.find_any() else {
        learn::first_reply(&packet);
        return NEXT;
    };
    if headers.first_fragment {
        fragment::remember(iface, headers);
    }
    if flow.reply_gate != maps::gate() {
        learn::reply(&packet, flow);
    }
    if flow.path == PATH_NODE || is_right(flow, iface, || skb.destination_mac() == Some(flow.mac)) {
        return NEXT;
    }
    steer::steer(&packet, flow)
}

/// Whether a frame comes from a device on top of this one that has a MAC of its own.
#[inline(always)]
fn is_foreign(skb: Skb, iface: &Iface) -> bool {
    iface.flags & IFACE_CHECK_MAC != 0 && iface.l2_length != 0 && skb.source_mac() != Some(iface.mac)
}
