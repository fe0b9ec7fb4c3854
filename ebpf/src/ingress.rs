//! tc ingress: requests are remembered.

use backtrail_ebpf_common::maps::{FlowKey4, FlowKey6, Iface, PATH_NODE};
use backtrail_ebpf_common::packet::fast::{Ethernet, Plain4, Plain6};
use backtrail_ebpf_common::packet::{Headers, Kind};

use crate::family::FlowKey;
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
            return plain(skb, iface, ip.request(iface.zone), Plain4::L4, ip.hops);
        }
        if let Some(ip) = skb.at::<Plain6>(Plain6::L3)
            && let Some(ethernet) = skb.at::<Ethernet>(0)
            && ip.is_plain(ethernet)
        {
            return plain(skb, iface, ip.request(iface.zone), Plain6::L4, ip.hops);
        }
    }
    other(skb, iface);
}

/// A request in the usual frame: nothing to do when the flow is known here and was written in this gate.
#[inline(always)]
fn plain<K: FlowKey>(skb: Skb, iface: &'static Iface, key: K, l4: u32, hops: u8) {
    if let Some(flow) = key.flow()
        && flow.request_gate == maps::gate()
        && (flow.ifindex == iface.ifindex || flow.path == PATH_NODE)
    {
        return;
    }
    learn::request(&Packet::plain(skb, iface, &key, l4, hops));
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
