//! Updates to netlink messages, as zebra's `dplane_fpm_nl` writes them: for tests, generators and benchmarks.

use std::net::IpAddr;

use super::attr::{NESTED, align};
use super::encap;
use super::wire::{
    GROUP_TYPE_RESILIENT, MESSAGE_HEADER_LEN, RTM_DELNEIGH, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_NEWNEIGH,
    RTM_NEWNEXTHOP, RTM_NEWROUTE, RTNH_F_ONLINK, nda, nha, rta,
};
use crate::types::{Family, IfIndex, Metric, Mtu, NexthopId, RouteKey};
use crate::update::{
    Encap, Lsp, LspNexthop, Neighbor, Nexthop, NexthopBody, NexthopGroup, NexthopObject, Route, RouteDel,
    Target, Update,
};

/// `NLM_F_REQUEST | NLM_F_CREATE`
const CREATE: u16 = 0x401;
/// `NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE`
const REPLACE: u16 = 0x501;

/// Appends the netlink message of an update to a payload; `pid` is zebra's netlink port id.
///
/// What netlink cannot express is left out: a VRF or protobuf's protocol number. A protobuf message kept raw
/// appends nothing.
pub fn encode(update: &Update, pid: u32, out: &mut Vec<u8>) {
    match update {
        Update::Route(route) => {
            message(RTM_NEWROUTE, REPLACE, pid, out, |w| encode_route(route, route.flags, w));
        }
        Update::RouteDel(route) => message(RTM_DELROUTE, CREATE, pid, out, |w| encode_route_del(route, w)),
        Update::Nexthop(object) => message(RTM_NEWNEXTHOP, REPLACE, pid, out, |w| encode_nexthop(object, w)),
        Update::NexthopDel { id, protocol } => message(RTM_DELNEXTHOP, CREATE, pid, out, |w| {
            w.bytes(&[0, 0, protocol.0, 0, 0, 0, 0, 0]);
            w.u32(nha::ID, id.0);
        }),
        Update::Neighbor(neighbor) => {
            message(RTM_NEWNEIGH, REPLACE, pid, out, |w| encode_neighbor(neighbor, w));
        }
        Update::NeighborDel(neighbor) => {
            message(RTM_DELNEIGH, CREATE, pid, out, |w| encode_neighbor(neighbor, w));
        }
        Update::Lsp(lsp) => message(RTM_NEWROUTE, REPLACE, pid, out, |w| encode_lsp(lsp, w)),
        Update::LspDel(lsp) => message(RTM_DELROUTE, CREATE, pid, out, |w| encode_lsp(lsp, w)),
        Update::Raw(raw) => {
            if let Some(nlmsg_type) = raw.nlmsg_type {
                message(nlmsg_type, CREATE, pid, out, |w| w.bytes(&raw.body));
            }
        }
    }
}

/// Appends a netlink message, whose body `write` appends.
pub(crate) fn message(
    nlmsg_type: u16,
    flags: u16,
    pid: u32,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Writer<'_>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; MESSAGE_HEADER_LEN]);
    write(&mut Writer { out, start });
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    let mut header = [0; MESSAGE_HEADER_LEN];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..6].copy_from_slice(&nlmsg_type.to_ne_bytes());
    header[6..8].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&pid.to_ne_bytes());
    if let Some(space) = out.get_mut(start..start + MESSAGE_HEADER_LEN) {
        space.copy_from_slice(&header);
    }
    out.resize(start + align(out.len() - start), 0);
}

/// Appends to the body of a message.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Where the message begins: attributes are aligned relative to it.
    start: usize,
}

impl Writer<'_> {
    /// Appends bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Appends an attribute with its padding.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |w| w.bytes(value));
    }

    /// Appends an attribute of 32 bits.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends an address.
    pub(crate) fn ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    /// Appends an attribute whose value `write` appends; zebra sets `NLA_F_NESTED` on those that hold others.
    pub(crate) fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let at = self.out.len();
        self.bytes(&[0, 0]);
        self.bytes(&kind.to_ne_bytes());
        write(self);
        self.finish_length(at);
    }

    /// Fills in the 16 bits at `at` with the length since there, and pads.
    fn finish_length(&mut self, at: usize) {
        let len = u16::try_from(self.out.len() - at).unwrap_or(u16::MAX);
        if let Some(field) = self.out.get_mut(at..at + 2) {
            field.copy_from_slice(&len.to_ne_bytes());
        }
        self.out.resize(self.start + align(self.out.len() - self.start), 0);
    }

    fn len(&self) -> usize {
        self.out.len()
    }
}

/// `struct rtmsg`, then the attributes that make the key. `metric` goes between them where zebra has it.
pub(crate) fn encode_route_head(
    w: &mut Writer<'_>,
    key: &RouteKey,
    [protocol, scope, kind]: [u8; 3],
    flags: u32,
    metric: Option<Metric>,
) {
    let short_table = u8::try_from(key.table.0).ok();
    let src_len = key.src.map_or(0, |src| src.prefix_len());
    w.bytes(&[key.family().to_wire(), key.dst.prefix_len(), src_len, 0, short_table.unwrap_or(0)]);
    w.bytes(&[protocol, scope, kind]);
    w.bytes(&flags.to_ne_bytes());
    w.ip(rta::DST, key.dst.addr());
    if let Some(src) = key.src {
        w.ip(rta::SRC, IpAddr::V6(src.addr()));
    }
    if let Some(Metric(metric)) = metric {
        w.u32(rta::PRIORITY, metric);
    }
    if short_table.is_none() {
        w.u32(rta::TABLE, key.table.0);
    }
}

/// `struct rtmsg` and all attributes.
pub(crate) fn encode_route(route: &Route, flags: u32, w: &mut Writer<'_>) {
    let single = match route.target.nexthops() {
        [single] if single.weight == 1 => Some(single),
        _ => None,
    };
    let flags = flags | u32::from(single.map_or(0, onlink));
    let head = [route.protocol.0, route.scope, route.kind.to_wire()];
    encode_route_head(w, &route.key, head, flags, route.metric);
    if let Some(Mtu(mtu)) = route.mtu {
        w.nested(rta::METRICS | NESTED, |w| w.u32(rta::RTAX_MTU, mtu));
    }
    if let Some(realm) = route.realm {
        w.u32(rta::FLOW, realm);
    }
    let family = route.key.family();
    match (&route.target, single) {
        (Target::None, _) => {}
        (Target::Nexthop(NexthopId(id)), _) => w.u32(rta::NH_ID, *id),
        (Target::Nexthops(_), Some(single)) => {
            encode_hop(single, family, w);
            if let Some(IfIndex(index)) = single.ifindex {
                w.u32(rta::OIF, index);
            }
        }
        (Target::Nexthops(nexthops), None) => w.nested(rta::MULTIPATH | NESTED, |w| {
            for nexthop in nexthops {
                encode_multipath_entry(nexthop, w, |w| encode_hop(nexthop, family, w));
            }
        }),
    }
    if let Some(source) = route.preferred_source {
        w.ip(rta::PREFSRC, source);
    }
}

fn onlink(nexthop: &Nexthop) -> u8 {
    if nexthop.onlink { RTNH_F_ONLINK } else { 0 }
}

/// Encapsulation and gateway.
fn encode_hop(nexthop: &Nexthop, family: Family, w: &mut Writer<'_>) {
    if let Some(encap) = &nexthop.encap {
        encode_encap(encap, rta::ENCAP_TYPE, rta::ENCAP, w);
    }
    match nexthop.gateway {
        Some(gateway) if Family::of_addr(&gateway) == family => w.ip(rta::GATEWAY, gateway),
        Some(gateway) => encode_via(gateway, w),
        None => {}
    }
}

fn encode_encap(encap: &Encap, type_kind: u16, kind: u16, w: &mut Writer<'_>) {
    w.attribute(type_kind, &encap::type_of(encap).to_ne_bytes());
    w.nested(kind | NESTED, |w| encap::encode(encap, w));
}

/// `struct rtvia`
fn encode_via(gateway: IpAddr, w: &mut Writer<'_>) {
    w.nested(rta::VIA, |w| {
        w.bytes(&u16::from(Family::of_addr(&gateway).to_wire()).to_ne_bytes());
        match gateway {
            IpAddr::V4(address) => w.bytes(&address.octets()),
            IpAddr::V6(address) => w.bytes(&address.octets()),
        }
    });
}

/// `struct rtnexthop` and its attributes. Weights over 256 are written as 256, which is all that fits.
fn encode_multipath_entry(nexthop: &Nexthop, w: &mut Writer<'_>, attributes: impl FnOnce(&mut Writer<'_>)) {
    let at = w.len();
    let hops = u8::try_from(nexthop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
    w.bytes(&[0, 0, onlink(nexthop), hops]);
    w.bytes(&nexthop.ifindex.map_or(0, |index| index.0).to_ne_bytes());
    attributes(w);
    w.finish_length(at);
}

fn encode_route_del(route: &RouteDel, w: &mut Writer<'_>) {
    let protocol = route.protocol.map_or(0, |protocol| protocol.0);
    encode_route_head(w, &route.key, [protocol, 0, 0], 0, route.metric);
}

fn encode_nexthop(object: &NexthopObject, w: &mut Writer<'_>) {
    let flags = match &object.body {
        NexthopBody::Single(nexthop) => onlink(nexthop),
        NexthopBody::Group(_) | NexthopBody::Blackhole => 0,
    };
    w.bytes(&[object.family.to_wire(), 0, object.protocol.0, 0]);
    w.bytes(&u32::from(flags).to_ne_bytes());
    w.u32(nha::ID, object.id.0);
    match &object.body {
        NexthopBody::Single(nexthop) => {
            if let Some(gateway) = nexthop.gateway {
                w.ip(nha::GATEWAY, gateway);
            }
            if let Some(IfIndex(index)) = nexthop.ifindex {
                w.u32(nha::OIF, index);
            }
            if let Some(encap) = &nexthop.encap {
                encode_encap(encap, nha::ENCAP_TYPE, nha::ENCAP, w);
            }
        }
        NexthopBody::Group(group) => encode_group(group, w),
        NexthopBody::Blackhole => w.attribute(nha::BLACKHOLE, &[]),
    }
}

fn encode_group(group: &NexthopGroup, w: &mut Writer<'_>) {
    w.nested(nha::GROUP, |w| {
        for member in &group.members {
            let [high, low] =
                u16::try_from(member.weight.saturating_sub(1)).unwrap_or(u16::MAX).to_be_bytes();
            w.bytes(&member.id.0.to_ne_bytes());
            w.bytes(&[low, high, 0, 0]);
        }
    });
    let Some(resilient) = group.resilient else {
        return;
    };
    w.nested(nha::RES_GROUP | NESTED, |w| {
        if let Some(buckets) = resilient.buckets {
            w.attribute(nha::RES_GROUP_BUCKETS, &buckets.to_ne_bytes());
        }
        if let Some(timer) = resilient.idle_timer {
            w.u32(nha::RES_GROUP_IDLE_TIMER, timer);
        }
        if let Some(timer) = resilient.unbalanced_timer {
            w.u32(nha::RES_GROUP_UNBALANCED_TIMER, timer);
        }
    });
    w.attribute(nha::GROUP_TYPE, &GROUP_TYPE_RESILIENT.to_ne_bytes());
}

fn encode_neighbor(neighbor: &Neighbor, w: &mut Writer<'_>) {
    w.bytes(&[neighbor.family.to_wire(), 0, 0, 0]);
    w.bytes(&neighbor.ifindex.map_or(0, |index| index.0).to_ne_bytes());
    w.bytes(&neighbor.state.to_ne_bytes());
    w.bytes(&[neighbor.flags, neighbor.kind]);
    if let Some(protocol) = neighbor.protocol {
        w.attribute(nda::PROTOCOL, &[protocol.0]);
    }
    if let Some(lladdr) = &neighbor.lladdr {
        w.attribute(nda::LLADDR, lladdr);
    }
    if let Some(dst) = neighbor.dst {
        w.ip(nda::DST, dst);
    }
    if let Some(NexthopId(id)) = neighbor.nexthop {
        w.u32(nda::NH_ID, id);
    }
    if let Some(vlan) = neighbor.vlan {
        w.attribute(nda::VLAN, &vlan.to_ne_bytes());
    }
    if let Some(vni) = neighbor.vni {
        w.u32(nda::VNI, vni);
    }
    if let Some(IfIndex(index)) = neighbor.master {
        w.u32(nda::MASTER, index);
    }
}

fn encode_lsp(lsp: &Lsp, w: &mut Writer<'_>) {
    let short_table = u8::try_from(lsp.table.0).ok();
    let single = match &*lsp.nexthops {
        [single] if single.nexthop.weight == 1 => Some(single),
        _ => None,
    };
    w.bytes(&[
        Family::Mpls.to_wire(),
        20,
        0,
        0,
        short_table.unwrap_or(0),
        lsp.protocol.0,
        0,
        lsp.kind.to_wire(),
    ]);
    w.bytes(&u32::from(single.map_or(0, |single| onlink(&single.nexthop))).to_ne_bytes());
    w.attribute(rta::DST, &encap::label_stack(&[lsp.label]));
    if short_table.is_none() {
        w.u32(rta::TABLE, lsp.table.0);
    }
    match single {
        Some(single) => {
            encode_lsp_hop(single, w);
            if let Some(IfIndex(index)) = single.nexthop.ifindex {
                w.u32(rta::OIF, index);
            }
        }
        None if lsp.nexthops.is_empty() => {}
        None => w.nested(rta::MULTIPATH | NESTED, |w| {
            for hop in &lsp.nexthops {
                encode_multipath_entry(&hop.nexthop, w, |w| encode_lsp_hop(hop, w));
            }
        }),
    }
}

fn encode_lsp_hop(hop: &LspNexthop, w: &mut Writer<'_>) {
    if !hop.labels.is_empty() {
        w.attribute(rta::NEWDST, &encap::label_stack(&hop.labels));
    }
    if let Some(encap) = &hop.nexthop.encap {
        encode_encap(encap, rta::ENCAP_TYPE, rta::ENCAP, w);
    }
    if let Some(gateway) = hop.nexthop.gateway {
        encode_via(gateway, w);
    }
}
