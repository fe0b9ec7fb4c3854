//! From a path to the neighbour that the packet goes to.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_DIRECT, BPF_FIB_LOOKUP_OUTPUT,
    BPF_FIB_LOOKUP_TBID,
};
use aya_ebpf::helpers::generated as helpers;
use backtrail_ebpf_common::maps::{
    FEATURE_TBID, Flow, NEXTHOP_MAC, NEXTHOP_NONE, NEXTHOP_V4, NEXTHOP_V6, Nexthop, PATH_AUTO, PATH_GATEWAY,
    PATH_MAC, Path,
};

use crate::family::FlowKey;
use crate::maps;
use crate::packet::Packet;
use crate::skb::Skb;

/// `AF_INET`
const AF_INET: u8 = 2;
/// `AF_INET6`
const AF_INET6: u8 = 10;

/// Where a packet goes.
pub struct Target<'a> {
    /// `NEXTHOP_*`
    pub kind: u16,
    /// Of the neighbour.
    pub address: &'a [u8; 16],
}

/// Brings the nexthop that a flow remembers up to date, where its path asks the FIB.
#[inline(always)]
pub fn refresh<K: FlowKey>(packet: &Packet<'_, K>, path: &Path, flow: &mut Flow) {
    if path.kind == PATH_GATEWAY || path.kind == PATH_MAC {
        return;
    }
    // Before the lookup: a route that changes during it makes its result void.
    let generation = maps::generation();
    let gate = maps::gate();
    if flow.nexthop.gate != gate || flow.nexthop.generation != generation {
        look_up(packet, path, &mut flow.nexthop);
        flow.nexthop.generation = generation;
        flow.nexthop.gate = gate;
    }
}

/// The target of a path, for a flow whose nexthop is up to date.
#[inline(always)]
pub fn target<'a>(path: &'a Path, flow: &'a Flow) -> Target<'a> {
    let nexthop = &flow.nexthop;
    match path.kind {
        PATH_GATEWAY => gateway(path),
        PATH_MAC => Target { kind: NEXTHOP_MAC, address: &path.gateway },
        PATH_AUTO if nexthop.kind == NEXTHOP_NONE && path.gateway_family != 0 => gateway(path),
        PATH_AUTO if nexthop.kind == NEXTHOP_NONE => Target { kind: NEXTHOP_MAC, address: &path.gateway },
        _ => Target { kind: nexthop.kind, address: &nexthop.address },
    }
}

#[inline(always)]
fn gateway(path: &Path) -> Target<'_> {
    Target { kind: path.gateway_family as u16, address: &path.gateway }
}

/// Asks the FIB for the client, by the path's interface.
#[inline(always)]
fn look_up<K: FlowKey>(packet: &Packet<'_, K>, path: &Path, nexthop: &mut Nexthop) {
    let flags = if maps::features() & FEATURE_TBID != 0 {
        BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_TBID | BPF_FIB_LOOKUP_OUTPUT
    } else {
        BPF_FIB_LOOKUP_OUTPUT
    };
    let question = Question { ifindex: path.ifindex, table: path.table, flags };
    nexthop.kind = NEXTHOP_NONE;
    let mut answer = MaybeUninit::uninit();
    if !ask(packet.skb, packet.key, &question, &mut answer) {
        return;
    }
    // SAFETY: written, as it said.
    let answer = unsafe { answer.assume_init_ref() };
    if answer.ifindex == path.ifindex {
        nexthop.address = answer.address;
        // The kernel sends what waited for an unresolved neighbour by the route that the packet had before the redirect.
        let unresolved = path.kind == PATH_AUTO && !answer.resolved;
        nexthop.kind = if unresolved { NEXTHOP_MAC } else { answer.kind };
    }
}

/// A FIB lookup.
pub struct Question {
    /// Device that it is asked for.
    pub ifindex: u32,
    /// Table, with `BPF_FIB_LOOKUP_TBID`.
    pub table: u32,
    /// `BPF_FIB_LOOKUP_*`
    pub flags: u32,
}

/// What the FIB says: the gateway, or the client itself when it is on-link.
pub struct Answer {
    /// Device that the route leaves by.
    pub ifindex: u32,
    /// `NEXTHOP_V4` or `NEXTHOP_V6`.
    pub kind: u16,
    /// Whether the neighbour's MAC is known.
    pub resolved: bool,
    /// Of the neighbour.
    pub address: [u8; 16],
}

/// `struct bpf_fib_lookup`, field by field: zeroing it as a whole would be a call.
#[repr(C)]
struct Params {
    family: u8,
    l4_protocol: u8,
    source_port: u16,
    destination_port: u16,
    total_length: u16,
    ifindex: u32,
    tos: u32,
    source: [u8; 16],
    destination: [u8; 16],
    table: u32,
    macs: (u32, u32, u32),
}

const _: () = assert!(size_of::<Params>() == 64);

/// The route from service to client of a flow.
#[inline(never)]
pub fn ask<K: FlowKey>(skb: Skb, key: &K, question: &Question, answer: &mut MaybeUninit<Answer>) -> bool {
    let (client_port, service_port) = key.ports();
    let mut params = Params {
        family: if K::FAMILY == 4 { AF_INET } else { AF_INET6 },
        l4_protocol: key.proto(),
        source_port: service_port.to_be(),
        destination_port: client_port.to_be(),
        total_length: 0,
        ifindex: question.ifindex,
        tos: 0,
        source: key.service(),
        destination: key.client(),
        table: question.table,
        macs: (0, 0, 0),
    };
    let size = size_of::<Params>() as i32;
    // SAFETY: as large as the kernel's struct, and laid out alike.
    let result = unsafe {
        helpers::bpf_fib_lookup(skb.context().cast(), (&raw mut params).cast(), size, question.flags)
    };
    if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) && result != i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        return false;
    }
    let kind = if params.family == AF_INET { NEXTHOP_V4 } else { NEXTHOP_V6 };
    let resolved = result == i64::from(BPF_FIB_LKUP_RET_SUCCESS);
    answer.write(Answer { ifindex: params.ifindex, kind, resolved, address: params.destination });
    true
}
