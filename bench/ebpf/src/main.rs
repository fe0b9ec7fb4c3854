//! The least that steers, to measure Backtrail's programs against: IPv4 TCP and UDP without options or fragments, one
//! LRU hash of flows, a FIB lookup for each steered packet. And a program that does nothing: the test run's own cost.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{TC_ACT_UNSPEC, bpf_fib_lookup, bpf_redir_neigh};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::TcContext;

/// On to the next program.
const NEXT: i32 = TC_ACT_UNSPEC;
const AF_INET: u8 = 2;
/// `BPF_FIB_LOOKUP_OUTPUT`: as if the packet left by the given interface.
const OUTPUT: u32 = 2;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: a route, whose gateway is not resolved yet.
const NO_NEIGH: i64 = 7;

#[derive(Clone, Copy)]
#[repr(C)]
struct Key {
    client: u32,
    service: u32,
    client_port: u16,
    service_port: u16,
    proto: u32,
}

/// Flow → interface that its requests come in by.
#[map]
static FLOWS: LruHashMap<Key, u32> = LruHashMap::with_max_entries(1 << 20, 0);

/// Ethernet, IPv4 without options, ports.
#[repr(C, packed)]
struct Headers {
    macs: [u8; 12],
    ethertype: u16,
    version: u8,
    tos: u8,
    length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
}

#[inline(always)]
fn headers(ctx: &TcContext) -> Option<&Headers> {
    if ctx.data() + size_of::<Headers>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the packet is that long, and the type has no alignment.
    let headers = unsafe { &*(ctx.data() as *const Headers) };
    let plain = headers.ethertype == 0x0800u16.to_be() && headers.version == 0x45;
    (plain && (headers.proto == 6 || headers.proto == 17)).then_some(headers)
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel's context, valid while the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Nothing.
#[classifier]
pub fn empty(_ctx: TcContext) -> i32 {
    NEXT
}

/// Remembers where requests come in.
#[classifier]
pub fn learn(ctx: TcContext) -> i32 {
    let Some(h) = headers(&ctx) else { return NEXT };
    let key = Key {
        client: h.source,
        service: h.destination,
        client_port: h.source_port,
        service_port: h.destination_port,
        proto: u32::from(h.proto),
    };
    let here = ifindex(&ctx);
    // SAFETY: the value is copied at once.
    if unsafe { FLOWS.get(&key) }.copied() != Some(here) {
        // A full LRU map makes room by itself.
        let _ = FLOWS.insert(&key, &here, 0);
    }
    NEXT
}

/// Redirects replies that are about to leave elsewhere.
#[classifier]
pub fn steer(ctx: TcContext) -> i32 {
    let Some(h) = headers(&ctx) else { return NEXT };
    let key = Key {
        client: h.destination,
        service: h.source,
        client_port: h.destination_port,
        service_port: h.source_port,
        proto: u32::from(h.proto),
    };
    // SAFETY: the value is copied at once.
    let Some(way) = (unsafe { FLOWS.get(&key) }).copied() else { return NEXT };
    if way == ifindex(&ctx) { NEXT } else { redirect(&ctx, &key, way) }
}

#[inline(always)]
fn redirect(ctx: &TcContext, key: &Key, way: u32) -> i32 {
    // SAFETY: plain numbers.
    let mut lookup: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    lookup.family = AF_INET;
    lookup.ifindex = way;
    lookup.l4_protocol = key.proto as u8;
    lookup.__bindgen_anon_3.ipv4_src = key.service;
    lookup.__bindgen_anon_4.ipv4_dst = key.client;
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: context and structure live on; the size is the structure's.
    let found = i64::from(unsafe { helpers::bpf_fib_lookup(ctx.skb.skb.cast(), &mut lookup, size, OUTPUT) });
    if (found != 0 && found != NO_NEIGH) || lookup.ifindex != way {
        return NEXT;
    }
    // SAFETY: plain numbers.
    let mut gateway: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    gateway.nh_family = u32::from(AF_INET);
    // SAFETY: the lookup of this family wrote this field.
    gateway.__bindgen_anon_1.ipv4_nh = unsafe { lookup.__bindgen_anon_4.ipv4_dst };
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the structure lives on, the size is its own.
    unsafe { helpers::bpf_redirect_neigh(way, &mut gateway, size, 0) as i32 }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
