//! tc egress of the sink device: packets for which the kernel had no working way out.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_FIB_LOOKUP_DIRECT, BPF_FIB_LOOKUP_TBID};
use backtrail_ebpf_common::maps::{FEATURE_TBID, FlowKey4, FlowKey6, Iface};

use crate::family::FlowKey;
use crate::maps::{self, count};
use crate::resolve::{self, Answer, Question};
use crate::skb::Skb;
use crate::{DROP, NEXT, egress, packet, steer};

/// `RT_TABLE_MAIN`
const MAIN: u32 = 254;

/// Steers, else follows the FIB, else drops.
#[inline(always)]
pub fn run(skb: Skb) -> i32 {
    let Some(iface) = maps::iface(skb.ifindex()) else { return DROP };
    let mut verdict = egress::other(skb, iface);
    if verdict != NEXT {
        return verdict;
    }
    if forward(skb, iface, &mut verdict) {
        count!(iface.slot, sink_forwarded);
        return verdict;
    }
    count!(iface.slot, sink_dropped);
    DROP
}

/// Sends a packet by its route in main, or in the table of the sink's zone. Rules are not asked: they led here. The
/// kernel answers only while forwarding is on for the sink device.
#[inline(always)]
fn forward(skb: Skb, iface: &Iface, verdict: &mut i32) -> bool {
    let mut answer = MaybeUninit::uninit();
    if !route(skb, iface, &mut answer) {
        return false;
    }
    // SAFETY: written, as it said.
    let answer = unsafe { answer.assume_init_ref() };
    if answer.ifindex == iface.ifindex || (iface.l2_length == 0 && skb.push_ethernet().is_err()) {
        return false;
    }
    *verdict = steer::to_neighbour(answer.ifindex, answer.kind, &answer.address);
    true
}

/// Asks the FIB for a packet's destination.
#[inline(never)]
fn route(skb: Skb, iface: &Iface, answer: &mut MaybeUninit<Answer>) -> bool {
    let Some(headers) = packet::headers(skb, iface) else { return false };
    let zone = iface.zone;
    let table = if zone == 0 { MAIN } else { zone };
    let tbid = if maps::features() & FEATURE_TBID != 0 { BPF_FIB_LOOKUP_TBID } else { 0 };
    let question = Question { ifindex: iface.ifindex, table, flags: BPF_FIB_LOOKUP_DIRECT | tbid };
    if headers.family == 4 {
        resolve::ask(skb, &FlowKey4::request(headers, zone).mirrored(), &question, answer)
    } else {
        resolve::ask(skb, &FlowKey6::request(headers, zone).mirrored(), &question, answer)
    }
}
