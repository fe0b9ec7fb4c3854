//! The redirect of a packet to the path of its flow.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_redir_neigh;
use aya_ebpf::helpers::generated as helpers;
use backtrail_ebpf_common::maps::{
    EVENT_PATH_DOWN, EVENT_STEERED, Flow, IFACE_TAGGED, MacKey, NEXTHOP_MAC, NEXTHOP_NONE, NEXTHOP_V6,
    PATH_FLAG_DROP, PATH_FLAG_SHADOW, PATH_MAC, PATH_UP, Path,
};
use backtrail_ebpf_common::packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Kind};

use crate::event::{self, Happened};
use crate::family::FlowKey;
use crate::maps::{self, count};
use crate::packet::Packet;
use crate::resolve::{self, Target};
use crate::skb::Skb;
use crate::{DROP, NEXT, mtu};

/// `AF_INET`
const AF_INET: u32 = 2;
/// `AF_INET6`
const AF_INET6: u32 = 10;

/// The verdict on a packet whose flow has another path than this device, or another gateway than the frame's.
#[inline(never)]
pub fn steer<K: FlowKey>(packet: &Packet<'_, K>, flow: &mut Flow) -> i32 {
    let Some(path) = maps::path(flow.path) else { return NEXT };
    let here = path.ifindex == packet.iface.ifindex;
    if path.zone != packet.iface.zone || (here && !has_gateway::<K>(path, flow)) {
        return NEXT;
    }
    let shadow = path.flags & PATH_FLAG_SHADOW != 0;
    let ifindex = packet.iface.ifindex;
    if path.state != PATH_UP {
        event::flow(packet.key, &Happened { kind: EVENT_PATH_DOWN, ifindex, path_ifindex: path.ifindex });
        if path.flags & PATH_FLAG_DROP != 0 && !shadow {
            count!(path.slot, dropped);
            return DROP;
        }
        count!(path.slot, path_down);
        return NEXT;
    }
    if shadow {
        count!(path.slot, would_steer);
        return NEXT;
    }
    let (verdict, by_mac) = if here {
        if packet.skb.store(0, &flow.mac).is_err() {
            count!(path.slot, failed);
            return NEXT;
        }
        (NEXT, path.kind == PATH_MAC)
    } else {
        if mtu::is_exceeded(packet, path) {
            return mtu::answer(packet, path);
        }
        resolve::refresh(packet, path, flow);
        let target = resolve::target(path, flow);
        if target.kind == NEXTHOP_NONE {
            count!(path.slot, fib_misses);
            return NEXT;
        }
        let Ok(verdict) = redirect(packet, path, flow, &target) else {
            count!(path.slot, failed);
            return NEXT;
        };
        (verdict, target.kind == NEXTHOP_MAC)
    };
    if flow.steered == 0 {
        event::flow(packet.key, &Happened { kind: EVENT_STEERED, ifindex, path_ifindex: path.ifindex });
    }
    flow.steered += 1;
    if let Some(counters) = maps::counters(path.slot) {
        counters.steered += 1;
        counters.steered_mac += u64::from(by_mac);
        counters.icmp_errors += u64::from(packet.kind == Kind::Error);
    }
    verdict
}

/// Whether the request's MAC is still that of the path's gateway: the agent forgets it when the gateway has another one.
#[inline(never)]
fn has_gateway<K: FlowKey>(path: &Path, flow: &Flow) -> bool {
    let key = MacKey { ifindex: path.ifindex, mac: flow.mac, family: K::FAMILY };
    path.kind == PATH_MAC || maps::path_of_mac(&key) == Some(flow.path)
}

/// Sends the packet on by the path's interface. After an error the packet may carry an empty Ethernet header or
/// have lost its VLAN tags: both come only from a lack of memory.
#[inline(always)]
fn redirect<K: FlowKey>(
    packet: &Packet<'_, K>,
    path: &Path,
    flow: &Flow,
    target: &Target,
) -> Result<i32, ()> {
    let Packet { skb, iface, .. } = packet;
    if iface.l2_length == 0 {
        skb.push_ethernet()?;
    } else if iface.flags & IFACE_TAGGED != 0 {
        untag(*skb)?;
    }
    if target.kind != NEXTHOP_MAC {
        return Ok(to_neighbour(path.ifindex, target.kind, target.address));
    }
    if path.l2_length != 0 {
        let ethertype = if K::FAMILY == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        address(*skb, &flow.mac, &path.mac, ethertype)?;
    }
    // SAFETY: a helper call with numbers.
    Ok(unsafe { helpers::bpf_redirect(path.ifindex, 0) } as i32)
}

/// Writes an Ethernet header.
#[inline(never)]
pub fn address(skb: Skb, destination: &[u8; 6], source: &[u8; 6], ethertype: u16) -> Result<(), ()> {
    skb.store(0, destination)?;
    skb.store(6, source)?;
    skb.store(12, &ethertype.to_be_bytes())
}

/// Redirects to a neighbour on a device; the kernel writes the L2 header and resolves the neighbour if it must.
#[inline(always)]
pub fn to_neighbour(ifindex: u32, kind: u16, address: &[u8; 16]) -> i32 {
    let mut neighbour = MaybeUninit::<bpf_redir_neigh>::uninit();
    // SAFETY: the struct is a u32 and sixteen bytes, all of them written here.
    unsafe {
        let fields = neighbour.as_mut_ptr();
        (*fields).nh_family = if kind == NEXTHOP_V6 { AF_INET6 } else { AF_INET };
        (&raw mut (*fields).__bindgen_anon_1).cast::<[u8; 16]>().write(*address);
        helpers::bpf_redirect_neigh(ifindex, fields, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

/// Takes off up to two VLAN tags: the target device has its own.
#[inline(never)]
fn untag(skb: Skb) -> Result<(), ()> {
    for _ in 0..2 {
        let ethertype = skb.link(0, false).ethertype;
        if skb.vlan_present() != 0 || ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
            skb.pop_vlan()?;
        }
    }
    Ok(())
}
