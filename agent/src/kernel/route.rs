//! Routes on the wire: `struct rtmsg` and its attributes (include/uapi/linux/rtnetlink.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::wire::{Attrs, Encoder, Unencodable, ip, u16_at, u32_at};
use crate::model::{Family, Hop, KernelRoute, NexthopId, RouteKey, RouteTarget, Special};

pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_SRC: u16 = 2;
pub(super) const RTA_IIF: u16 = 3;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
pub(super) const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_CACHEINFO: u16 = 12;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;
pub(super) const RTA_ENCAP_TYPE: u16 = 21;
pub(super) const RTA_ENCAP: u16 = 22;
pub(super) const RTA_EXPIRES: u16 = 23;
pub(super) const RTA_NH_ID: u16 = 30;
const RTAX_MTU: u16 = 2;

const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
const RTN_THROW: u8 = 9;

const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_NOWHERE: u8 = 255;

const RTNH_F_ONLINK: u8 = 4;
const RTM_F_CLONED: u32 = 0x200;

/// The metric that IPv6 means by 0 (`IP6_RT_PRIO_USER`, include/uapi/linux/ipv6_route.h).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// Length of `struct rtmsg`.
pub(super) const RTMSG: usize = 12;

/// Appends the message for `route`. A delete names all that identifies the route (protocol, metric, table, nexthop
/// id or gateways), so that nobody else's route with the same prefix can be hit.
pub(super) fn encode(
    enc: &mut Encoder,
    (kind, flags, seq): (u16, u16, u32),
    route: &KernelRoute,
) -> Result<(), Unencodable> {
    let delete = kind == super::wire::RTM_DELROUTE;
    let family = Family::of(&route.key.prefix);
    enc.begin(kind, flags, seq, &header(route, family, delete));
    if route.key.prefix.prefix_len() > 0 {
        enc.attr_ip(RTA_DST, route.key.prefix.network());
    }
    enc.attr_u32(RTA_TABLE, route.key.table);
    enc.attr_u32(RTA_PRIORITY, wire_metric(family, route.key.metric));
    if !delete {
        if let Some(source) = route.preferred_source {
            enc.attr_ip(RTA_PREFSRC, source);
        }
        if let Some(mtu) = route.mtu {
            let at = enc.nest(RTA_METRICS);
            enc.attr_u32(RTAX_MTU, mtu);
            enc.end(at);
        }
    }
    match &route.target {
        RouteTarget::Nexthop(id) => enc.attr_u32(RTA_NH_ID, id.0),
        RouteTarget::Inline(hops) => match hops.as_slice() {
            [] => {
                enc.cancel();
                return Err("a route needs a nexthop");
            }
            [(hop, _)] => hop_attrs(enc, family, hop),
            hops => multipath(enc, family, hops),
        },
        RouteTarget::Special(_) => {}
    }
    enc.finish()
}

/// IPv6 takes 0 for 1024 when it adds, and for "any" when it deletes.
fn wire_metric(family: Family, metric: u32) -> u32 {
    if family == Family::Ipv6 && metric == 0 { IPV6_DEFAULT_METRIC } else { metric }
}

/// `struct rtmsg`: family, dst_len, src_len, tos, table, protocol, scope, type, flags (4 bytes).
fn header(route: &KernelRoute, family: Family, delete: bool) -> [u8; RTMSG] {
    let kind = match route.target {
        RouteTarget::Special(Special::Blackhole) => RTN_BLACKHOLE,
        RouteTarget::Special(Special::Unreachable) => RTN_UNREACHABLE,
        RouteTarget::Special(Special::Prohibit) => RTN_PROHIBIT,
        RouteTarget::Special(Special::Throw) => RTN_THROW,
        RouteTarget::Nexthop(_) | RouteTarget::Inline(_) => RTN_UNICAST,
    };
    let scope = match (delete, route.scope_link) {
        (true, _) => RT_SCOPE_NOWHERE,
        (false, true) => RT_SCOPE_LINK,
        (false, false) => RT_SCOPE_UNIVERSE,
    };
    let onlink = match &route.target {
        RouteTarget::Inline(hops) => matches!(hops.as_slice(), [(hop, _)] if hop.onlink),
        RouteTarget::Nexthop(_) | RouteTarget::Special(_) => false,
    };
    let table = u8::try_from(route.key.table).unwrap_or(0);
    let [f0, f1, f2, f3] = u32::from(if onlink { RTNH_F_ONLINK } else { 0 }).to_ne_bytes();
    let len = route.key.prefix.prefix_len();
    [family.af(), len, 0, 0, table, route.protocol, scope, kind, f0, f1, f2, f3]
}

/// Egress interface and gateway. An IPv4 route's IPv6 gateway goes into RTA_VIA (RFC 8950, Linux 5.2).
fn hop_attrs(enc: &mut Encoder, family: Family, hop: &Hop) {
    if hop.ifindex != 0 {
        enc.attr_u32(RTA_OIF, hop.ifindex);
    }
    match hop.gateway {
        Some(IpAddr::V6(gateway)) if family == Family::Ipv4 => {
            let mut via = [0; 18];
            let (af, octets) = via.split_at_mut(2);
            af.copy_from_slice(&u16::from(Family::Ipv6.af()).to_ne_bytes());
            octets.copy_from_slice(&gateway.octets());
            enc.attr(RTA_VIA, &via);
        }
        Some(gateway) => enc.attr_ip(RTA_GATEWAY, gateway),
        None => {}
    }
}

/// RTA_MULTIPATH: a `struct rtnexthop` (len, flags, hops = weight - 1, ifindex) before each one's attributes.
fn multipath(enc: &mut Encoder, family: Family, hops: &[(Hop, u16)]) {
    let list = enc.nest(RTA_MULTIPATH);
    for (hop, weight) in hops {
        let flags = if hop.onlink { RTNH_F_ONLINK } else { 0 };
        let weight = u8::try_from(weight.saturating_sub(1)).unwrap_or(u8::MAX);
        let at = enc.nest(u16::from_ne_bytes([flags, weight]));
        enc.raw(&hop.ifindex.to_ne_bytes());
        hop_attrs(enc, family, &Hop { ifindex: 0, ..*hop });
        enc.end(at);
    }
    enc.end(list);
}

/// The attributes of a route that matter here.
#[derive(Default)]
struct Fields<'a> {
    dst: Option<IpAddr>,
    table: Option<u32>,
    metric: u32,
    source: Option<IpAddr>,
    oif: u32,
    gateway: Option<IpAddr>,
    multipath: Option<&'a [u8]>,
    nhid: Option<u32>,
    mtu: Option<u32>,
}

impl<'a> Fields<'a> {
    fn read(attrs: Attrs<'a>) -> Self {
        let mut fields = Self::default();
        for (kind, value) in attrs {
            match kind {
                RTA_DST => fields.dst = ip(value),
                RTA_TABLE => fields.table = u32_at(value, 0),
                RTA_PRIORITY => fields.metric = u32_at(value, 0).unwrap_or(0),
                RTA_PREFSRC => fields.source = ip(value),
                RTA_OIF => fields.oif = u32_at(value, 0).unwrap_or(0),
                RTA_GATEWAY => fields.gateway = ip(value),
                RTA_VIA => fields.gateway = via(value),
                RTA_MULTIPATH => fields.multipath = Some(value),
                RTA_NH_ID => fields.nhid = u32_at(value, 0),
                RTA_METRICS => {
                    fields.mtu =
                        Attrs(value).find(|(kind, _)| *kind == RTAX_MTU).and_then(|(_, v)| u32_at(v, 0));
                }
                _ => {}
            }
        }
        fields
    }
}

/// `struct rtvia`: an address family, then the address.
pub(super) fn via(value: &[u8]) -> Option<IpAddr> {
    value.get(2..).and_then(ip)
}

/// A route of a dump or a notification. `None` for what Backtrail neither makes nor competes with: local,
/// broadcast, multicast and cached routes, and those with a TOS or an IPv6 source prefix.
pub(super) fn decode(payload: &[u8]) -> Option<KernelRoute> {
    let [af, dst_len, src_len, tos, table, protocol, scope, kind] = *payload.first_chunk()?;
    let family = Family::ALL.into_iter().find(|family| family.af() == af)?;
    if tos != 0 || src_len != 0 || u32_at(payload, 8)? & RTM_F_CLONED != 0 {
        return None;
    }
    let fields = Fields::read(Attrs(payload.get(RTMSG..)?));
    let target = match (kind, fields.nhid) {
        (RTN_UNICAST | RTN_BLACKHOLE, Some(id)) => RouteTarget::Nexthop(NexthopId(id)),
        (RTN_UNICAST, None) => RouteTarget::Inline(inline(family, &fields, *payload.get(8)?)?),
        (RTN_BLACKHOLE, None) => RouteTarget::Special(Special::Blackhole),
        (RTN_UNREACHABLE, _) => RouteTarget::Special(Special::Unreachable),
        (RTN_PROHIBIT, _) => RouteTarget::Special(Special::Prohibit),
        (RTN_THROW, _) => RouteTarget::Special(Special::Throw),
        _ => return None,
    };
    let any = match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Some(KernelRoute {
        key: RouteKey {
            table: fields.table.unwrap_or(u32::from(table)),
            prefix: IpNet::new(fields.dst.unwrap_or(any), dst_len).ok()?.trunc(),
            metric: fields.metric,
        },
        target,
        preferred_source: fields.source,
        mtu: fields.mtu,
        protocol,
        scope_link: scope == RT_SCOPE_LINK,
    })
}

fn inline(family: Family, fields: &Fields<'_>, flags: u8) -> Option<Vec<(Hop, u16)>> {
    let hop = |ifindex, gateway: Option<IpAddr>, flags: u8| Hop {
        gateway,
        ifindex,
        onlink: flags & RTNH_F_ONLINK != 0,
        family: gateway.map_or(family, |gateway| Family::of_addr(&gateway)),
    };
    let Some(list) = fields.multipath else {
        return Some(vec![(hop(fields.oif, fields.gateway, flags), 1)]);
    };
    let mut hops = Vec::new();
    let mut rest = list;
    while let Some(len) = u16_at(rest, 0).map(usize::from) {
        let (flags, weight) = (*rest.get(2)?, u16::from(*rest.get(3)?) + 1);
        let each = Fields::read(Attrs(rest.get(8..len)?));
        hops.push((hop(u32_at(rest, 4)?, each.gateway, flags), weight));
        rest = rest.get((len + 3) & !3..).unwrap_or_default();
    }
    Some(hops)
}
