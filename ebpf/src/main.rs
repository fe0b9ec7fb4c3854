//! Backtrail's tc programs: replies leave by the way their requests came in.
//!
//! [`rp_ingress`] remembers the way of a request, [`rp_egress`] redirects replies that are about to leave by another,
//! [`rp_sink`] does the same on the sink device. All of them fail open: what they do not know passes to the next
//! program (`TCX_NEXT`). No fwmark, no conntrack.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macro makes functions without")]

mod egress;
mod event;
mod family;
mod fragment;
mod ingress;
mod learn;
mod listener;
mod maps;
mod mtu;
mod packet;
mod resolve;
mod sink;
mod skb;
mod steer;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::skb::Skb;

/// On to the next program: `TCX_NEXT`, which clsact knows as `TC_ACT_UNSPEC`.
const NEXT: i32 = aya_ebpf::bindings::TC_ACT_UNSPEC;
/// Drop, on TCX and clsact.
const DROP: i32 = aya_ebpf::bindings::TC_ACT_SHOT as i32;

/// tc ingress of a listed interface.
#[classifier]
pub fn rp_ingress(ctx: TcContext) -> i32 {
    ingress::run(Skb::new(&ctx));
    NEXT
}

/// tc egress of an interface that a reply could leave by.
#[classifier]
pub fn rp_egress(ctx: TcContext) -> i32 {
    egress::run(Skb::new(&ctx))
}

/// tc egress of the sink device.
#[classifier]
pub fn rp_sink(ctx: TcContext) -> i32 {
    sink::run(Skb::new(&ctx))
}

/// The kernel lends its helpers for redirects and FIB lookups to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
