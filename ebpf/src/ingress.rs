//! tc ingress: requests are remembered.

use backtrail_ebpf_common::maps::{FlowKey4, FlowKey6, Iface, PATH_NODE};
use backtrail_ebpf_common::packet::fast::{Ethernet, Plain4, Plain6};
use backtrail_ebpf_common::packet::{Headers, Kind};

use crate::family::{FlowKey, PlainHeader};
use crate::packet::Packet;
use crate::skb::{ETHERNET, Skb};
use crate::{learn, maps, packet};

/// Learns from one packet.
#[inline(always)]
pub fn run(skb: Skb) {
    let Some(iface) = maps::iface(skb.ifindex()) else { return };
    if u32::from(iface.l2_length) == ETHERNET && skb.vlan_present() == 0 {
        if let Some(ip) = skb.at::<Plain4>(Plain4::L3)
            && let Some(ethernet) = skb.at::<Ethernet>(0)
            && ip.is_plain(ethernet)
        {
            return plain(skb, iface, ip);
        }
        if let Some(ip) = skb.at::<Plain6>(Plain6::L3)
            && let Some(ethernet) = skb.at::<Ethernet>(0)
            && ip.is_plain(ethernet)
        {
            return plain(skb, iface, ip);
        }
    }
    other(skb, iface);
}

/// A request in the usual frame: nothing to do when the flow is known here and was written in this gate.
#[inline(always)]
fn plain<H: PlainHeader>(skb: Skb, iface: &'static Iface, ip: &H) {
    if let Some(flow) = ip.requested(iface.zone)
        && flow.request_gate == maps::gate()
        && (flow.ifindex == iface.ifindex || flow.path == PATH_NODE)
    {
        return;
    }
    look_at(skb, iface, ip);
}

/// What few packets need has stack of its own.
#[inline(never)]
fn look_at<H: PlainHeader>(skb: Skb, iface: &'static Iface, ip: &H) {
    let kind = packet::kind_of(skb, H::L4, ip.proto());
    learn::request(&Packet::plain(skb, iface, &ip.request(iface.zone), H::L4, ip.hops(), kind));
}

/// Everything else.
#[inline(always)]
fn other(skb: Skb, iface: &'static Iface) {
    let Some(headers) = packet::headers(skb, iface) else { return };
    if headers.family == 4 {
        parsed::<FlowKey4>(skb, iface, headers);
    } else {
        parsed::<FlowKey6>(skb, iface, headers);
    }
}

/// A request that the slow parser read.
#[inline(never)]
fn parsed<K: FlowKey>(skb: Skb, iface: &'static Iface, headers: &Headers) {
    if headers.kind != Kind::Error && headers.kind != Kind::LaterFragment {
        learn::request(&Packet::parsed(skb, iface, &K::request(headers, iface.zone), headers));
    }
}
