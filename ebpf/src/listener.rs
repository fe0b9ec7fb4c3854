//! Whether something on the node listens for a TCP service.

use aya_ebpf::helpers::generated as helpers;
use backtrail_ebpf_common::maps::{FlowKey4, FlowKey6};

use crate::skb::Skb;

/// `TCP_LISTEN` of net/tcp_states.h.
const TCP_LISTEN: u32 = 10;
/// `BPF_F_CURRENT_NETNS`
const CURRENT_NETNS: u64 = u64::MAX;

/// `bpf_sock_tuple.ipv4`
#[repr(C, align(4))]
struct Tuple4 {
    source: [u8; 4],
    destination: [u8; 4],
    source_port: u16,
    destination_port: u16,
}

/// `bpf_sock_tuple.ipv6`
#[repr(C, align(4))]
struct Tuple6 {
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
}

/// The client's port is left out: no connection has port 0, so that only listeners are found.
#[inline(always)]
pub fn exists4(skb: Skb, key: &FlowKey4) -> bool {
    exists(
        skb,
        &mut Tuple4 {
            source: key.client,
            destination: key.service,
            source_port: 0,
            destination_port: key.service_port.to_be(),
        },
    )
}

/// As [`exists4`], for IPv6.
#[inline(always)]
pub fn exists6(skb: Skb, key: &FlowKey6) -> bool {
    exists(
        skb,
        &mut Tuple6 {
            source: key.client,
            destination: key.service,
            source_port: 0,
            destination_port: key.service_port.to_be(),
        },
    )
}

#[inline(always)]
fn exists<T>(skb: Skb, tuple: &mut T) -> bool {
    let tuple = core::ptr::from_mut(tuple).cast();
    // SAFETY: the tuple has one of the two sizes that the helper knows; a socket found is released.
    unsafe {
        let sock =
            helpers::bpf_skc_lookup_tcp(skb.context().cast(), tuple, size_of::<T>() as u32, CURRENT_NETNS, 0);
        if sock.is_null() {
            return false;
        }
        let listens = (*sock).state == TCP_LISTEN;
        helpers::bpf_sk_release(sock.cast());
        listens
    }
}
