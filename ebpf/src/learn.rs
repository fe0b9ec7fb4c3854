//! What is remembered of flows: openers that come in, openers that the node sends, and flows that move.
//!
//! A flow that a client opens is kept apart until it is confirmed: the client sends again after the node has answered, or the
//! node goes on to send. Then it moves to the flow table. Openers that nobody follows up make room for each other only.

use backtrail_ebpf_common::maps::{
    EVENT_LEARNED, FLOW_ADOPTED, FLOW_GATEWAY, FLOW_TRANSIT, Flow, IFACE_HAS_EXCEPT, IFACE_HAS_VIPS,
    IFACE_LEARN, IFACE_TRANSIT, Iface, MacKey, NEVER_EXCEPTED, NEXTHOP_NONE, Nexthop, PATH_NODE, PROTO_ICMP,
    PROTO_SCTP, PROTO_TCP, PROTO_UDP,
};
use backtrail_ebpf_common::packet::{Kind, SCTP, TCP, UDP};
use backtrail_ebpf_common::scope;

use crate::event::{self, Happened};
use crate::family::FlowKey;
use crate::maps::{self, count};
use crate::packet::Packet;

/// The group of the tries that holds for every interface.
const EVERY_INTERFACE: u32 = 0;

/// Ticks after which a service that goes on to send is one that its client listens to.
const PERSISTENT: u32 = 2;

/// A request whose flow is not in the flow table, or was not written in this gate.
#[inline(never)]
pub fn request<K: FlowKey>(packet: &Packet<'_, K>) {
    if !packet.skb.is_for_host() {
        return;
    }
    match packet.key.find() {
        Some(flow) if is_void(packet, flow) => {
            packet.key.forget();
            first_request(packet);
        }
        Some(flow) => next_request(packet, flow),
        None => unconfirmed_request(packet),
    }
}

/// A request of a flow that is not confirmed yet, or unknown.
#[inline(always)]
fn unconfirmed_request<K: FlowKey>(packet: &Packet<'_, K>) {
    let Some(flow) = packet.key.find_opener().filter(|flow| !is_void(packet, flow)) else {
        return first_request(packet);
    };
    if flow.request_gate != maps::gate() || flow.ifindex != packet.iface.ifindex {
        next_request(packet, flow);
    }
    if flow.replied != 0 && confirms(packet) && packet.key.confirm(flow) {
        count!(packet.iface.slot, confirmed);
    }
}

/// Whether a request takes over a record of the node's own: a client opens a flow where the node's was silent for long.
#[inline(always)]
fn is_void<K: FlowKey>(packet: &Packet<'_, K>, flow: &Flow) -> bool {
    flow.path == PATH_NODE
        && packet.kind == Kind::Opener
        && is_idle(flow, maps::now(), packet.key.proto())
}

/// Whether a request shows that its sender got the node's answer: not an opener that is repeated, nor a host's that never asked.
#[inline(always)]
fn confirms<K: FlowKey>(packet: &Packet<'_, K>) -> bool {
    match packet.kind {
        Kind::Midflow => true,
        Kind::Opener => packet.key.proto() != TCP && packet.key.proto() != SCTP,
        _ => false,
    }
}

/// A request of a flow that was learned: the router in front, or the interface, may have changed, and a gateway have become
/// known that was not when the flow was learned.
#[inline(never)]
fn next_request<K: FlowKey>(packet: &Packet<'_, K>, flow: &mut Flow) {
    let iface = packet.iface;
    flow.seen = maps::now();
    flow.request_gate = maps::gate();
    if flow.path == PATH_NODE || !is_learned_here(iface, packet.key.proto()) {
        return;
    }
    let mac = source_mac(packet);
    let (mut path, gateway) = path_of::<K>(iface, mac);
    // After a failover the gateway forwards from a MAC that is not known yet; its address stays.
    if gateway == 0 && flow.ifindex == iface.ifindex && maps::is_gateway(flow.path) {
        path = flow.path;
    }
    let flags = flow.flags & !FLOW_GATEWAY | gateway;
    let same = path == flow.path && flow.ifindex == iface.ifindex && flow.mac == mac && flow.flags == flags;
    if path == PATH_NODE || same {
        return;
    }
    if path != flow.path {
        count!(iface.slot, moved);
    }
    flow.nexthop.gate = maps::gate().wrapping_sub(1);
    flow.path = path;
    flow.ifindex = iface.ifindex;
    flow.mac = mac;
    flow.flags = flags;
}

/// A request of an unknown flow.
#[inline(never)]
fn first_request<K: FlowKey>(packet: &Packet<'_, K>) {
    let Packet { iface, key, .. } = packet;
    let opener = packet.kind == Kind::Opener;
    if !is_learned_here(iface, key.proto()) || !(opener || key.proto() == TCP) {
        return;
    }
    if is_never(packet) {
        return count!(iface.slot, never);
    }
    // A reply to what the node, or a client by way of this node, asked.
    if (!opener || key.proto() == UDP) && key.mirror().find_any().is_some() {
        return;
    }
    if !is_in_scope(iface, *key) {
        return;
    }
    if !opener && !is_adopted(packet) {
        return count!(iface.slot, midflow);
    }
    let mac = source_mac(packet);
    let (path, gateway) = path_of::<K>(iface, mac);
    if path == PATH_NODE {
        return;
    }
    let flags = gateway | if opener { 0 } else { FLOW_ADOPTED };
    let now = maps::now();
    let flow = Flow { path, ifindex: iface.ifindex, seen: now, flags, mac, ..blank(now) };
    // What is adopted has been confirmed long ago, as far as anybody can tell; its replies are looked for in the flow table only.
    let stored = if opener { key.open(&flow) } else { key.store(&flow) };
    if !stored {
        return count!(iface.slot, full);
    }
    count!(iface.slot, learned);
    if !opener {
        count!(iface.slot, adopted);
    }
    event::flow(*key, &Happened { kind: EVENT_LEARNED, ifindex: iface.ifindex, path_ifindex: iface.ifindex });
}

/// Whether TCP in mid-flow is taken up: what answers somebody belongs to a flow that was opened here.
#[inline(always)]
fn is_adopted<K: FlowKey>(packet: &Packet<'_, K>) -> bool {
    packet.kind == Kind::Midflow
        && (packet.iface.flags & IFACE_HAS_VIPS != 0 || packet.key.has_listener(packet.skb))
}

/// A reply, or an opener of the node's, whose flow was not written in this gate.
#[inline(never)]
pub fn reply<K: FlowKey>(packet: &Packet<'_, K>, flow: &mut Flow) {
    let now = maps::now();
    // The node opens what was the client's flow: with UDP after a silence, for both may send at any time.
    let reopened =
        packet.kind == Kind::Opener && (packet.key.proto() != UDP || is_idle(flow, now, packet.key.proto()));
    if flow.path != PATH_NODE && reopened {
        flow.path = PATH_NODE;
        flow.ifindex = 0;
        count!(packet.iface.slot, node_origin);
    }
    flow.replied = now;
    flow.reply_gate = maps::gate();
    if flow.path != PATH_NODE && flow.ifindex == packet.iface.ifindex {
        count!(packet.iface.slot, matched);
    }
}

/// A reply of a flow that is not confirmed yet; returns its record. TCP and SCTP send more than answers only when the client has
/// shown that it is there; with UDP the client may only listen.
#[inline(always)]
pub fn next_reply<K: FlowKey>(packet: &Packet<'_, K>, flow: &'static mut Flow) -> Option<&'static mut Flow> {
    if flow.reply_gate != maps::gate() {
        reply(packet, flow);
    }
    let confirms = match packet.kind {
        Kind::Midflow => true,
        Kind::Opener => packet.key.proto() == UDP && flow.replied.wrapping_sub(flow.born) >= PERSISTENT,
        _ => false,
    };
    if !confirms || !packet.key.confirm(flow) {
        return Some(flow);
    }
    let flow = packet.key.find()?;
    if let Some(path) = maps::path(flow.path) {
        count!(path.slot, confirmed);
    }
    Some(flow)
}

/// Out goes a packet without a record: maybe an opener, the node's or one that it forwards.
#[inline(never)]
pub fn first_reply<K: FlowKey>(packet: &Packet<'_, K>) {
    let Packet { iface, key, .. } = packet;
    if packet.kind != Kind::Opener || is_never(packet) || key.never(EVERY_INTERFACE).is_some() {
        return;
    }
    let now = maps::now();
    if let Some(flow) = key.mirror().find_any() {
        if iface.flags & IFACE_TRANSIT != 0 && flow.path != PATH_NODE && flow.ifindex != iface.ifindex {
            flow.path = PATH_NODE;
            flow.ifindex = 0;
            flow.flags |= FLOW_TRANSIT;
            count!(iface.slot, transit);
        }
        return;
    }
    if key.store(&Flow { replied: now, ..blank(now) }) {
        count!(iface.slot, node_origin);
    } else {
        count!(iface.slot, full);
    }
}

/// A record of the node's own, which a reply finds due for a write.
#[inline(always)]
fn blank(now: u32) -> Flow {
    let gate = maps::gate();
    let before = gate.wrapping_sub(1);
    Flow {
        path: PATH_NODE,
        ifindex: 0,
        born: now,
        seen: 0,
        replied: 0,
        request_gate: gate,
        reply_gate: before,
        nexthop: Nexthop { generation: 0, gate: before, kind: NEXTHOP_NONE, address: [0; 16] },
        mac: [0; 6],
        flags: 0,
        steered: 0,
    }
}

/// Whether an interface is listed, with this protocol.
#[inline(always)]
fn is_learned_here(iface: &Iface, proto: u8) -> bool {
    let bit = match proto {
        TCP => PROTO_TCP,
        UDP => PROTO_UDP,
        SCTP => PROTO_SCTP,
        _ => PROTO_ICMP,
    };
    iface.flags & IFACE_LEARN != 0 && iface.protocols & bit != 0
}

/// Whether a packet is bound to its link by nature.
#[inline(always)]
fn is_never<K: FlowKey>(packet: &Packet<'_, K>) -> bool {
    let (client, service) = packet.key.ports();
    packet.key.is_local() || scope::is_link_protocol(packet.key.proto(), client, service, packet.hops)
}

/// Whether a client and a service are meant by the `ReturnPath` of an interface; counts why not.
#[inline(always)]
fn is_in_scope<K: FlowKey>(iface: &Iface, key: &K) -> bool {
    if iface.flags & IFACE_HAS_VIPS != 0 && !key.is_vip(iface.slot) {
        count!(iface.slot, other_service);
        return false;
    }
    if key.never(EVERY_INTERFACE).is_some() {
        count!(iface.slot, protected);
        return false;
    }
    let excepted = iface.flags & IFACE_HAS_EXCEPT != 0
        && (key.never(iface.slot) == Some(NEVER_EXCEPTED)
            || maps::is_port_excepted(iface.slot, key.ports().1));
    if excepted {
        count!(iface.slot, excepted);
    }
    !excepted
}

/// The path of requests from a MAC, the gateway's that has it, else the interface's own; and `FLOW_GATEWAY` if the MAC stands
/// for the path.
#[inline(always)]
fn path_of<K: FlowKey>(iface: &Iface, mac: [u8; 6]) -> (u32, u16) {
    let key = MacKey { ifindex: iface.ifindex, mac, family: K::FAMILY };
    if let Some(path) = maps::path_of_mac(&key) {
        return (path, FLOW_GATEWAY);
    }
    let path = K::default_path(iface);
    (path, if iface.l2_length != 0 && maps::is_by_mac(path) { FLOW_GATEWAY } else { 0 })
}

/// Source MAC; zeros without L2 header.
#[inline(always)]
fn source_mac<K: FlowKey>(packet: &Packet<'_, K>) -> [u8; 6] {
    if packet.iface.l2_length == 0 { [0; 6] } else { packet.skb.source_mac().unwrap_or([0; 6]) }
}

/// Whether a flow was silent for so long that it is as good as unknown.
#[inline(always)]
fn is_idle(flow: &Flow, now: u32, proto: u8) -> bool {
    let limit = if proto == TCP || proto == SCTP { maps::tcp_idle() } else { maps::udp_idle() };
    let last = if flow.seen > flow.replied { flow.seen } else { flow.replied };
    limit != 0 && now.wrapping_sub(last) > limit
}
