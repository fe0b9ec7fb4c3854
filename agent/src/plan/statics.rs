//! Routes that follow from manifests and links alone: connected copies, gateways of last resort, isolation.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::{Links, METRIC_LAST_RESORT, METRIC_STRICT, NodeFacts, Plan, StaticRoute, default_prefix};
use crate::intent::types::{Config, Intent, ObjectRef, Vrf, VrfMode};
use crate::model::{Address, Family, Hop, KernelRoute, Link, RouteKey, RouteTarget, Special};
use crate::status::reason;

/// Metric of a connected IPv6 route (`IP6_RT_PRIO_ADDRCONF`, include/net/ip6_route.h).
const METRIC_CONNECTED6: u32 = 256;
/// Metric of what ends a lookup for the cluster's own destinations: before anything that is learned.
const METRIC_EXCEPTION: u32 = 1;

pub(super) fn compile(plan: &mut Plan, intent: &Intent, links: &Links, facts: &NodeFacts) {
    let by_name: BTreeMap<&str, &Link> = links.values().map(|link| (link.name.as_str(), link)).collect();
    for vrf in plan.vrfs_in_force(intent) {
        let Some(owner) = vrf.owners.first() else { continue };
        let mut add = |route: KernelRoute, owner: &ObjectRef, purpose| {
            let entry = StaticRoute { route, owner: owner.clone(), purpose };
            plan.static_routes.entry(entry.route.key).or_insert(entry);
        };
        for interface in &vrf.interfaces {
            let Some(link) = by_name.get(interface.name.as_str()) else { continue };
            let owner = interface.owners.first().unwrap_or(owner);
            // For the members of a VRF device the kernel itself makes connected routes.
            let (routes, purpose) = if vrf.mode == VrfMode::TableOnly {
                (connected(&intent.config, vrf.table, link), reason::CONNECTED_ROUTE)
            } else {
                (moved(&intent.config, vrf, link, links, facts), reason::MOVED_ROUTE)
            };
            for route in routes {
                add(route, owner, purpose);
            }
        }
        for family in Family::ALL {
            let hops = gateways(vrf, family, &by_name);
            if hops.len() > 1 {
                plan.watched_gateways.extend(hops.iter().filter_map(|(hop, _)| at_gateway(hop)));
            }
            if let Some(hops) = answering(hops, facts) {
                let target = RouteTarget::Inline(hops);
                let route =
                    route(&intent.config, vrf.table, default_prefix(family), METRIC_LAST_RESORT, target);
                add(route, owner, reason::LAST_RESORT);
            }
        }
        if vrf.mode != VrfMode::TableOnly {
            for prefix in facts.exceptions(vrf) {
                add(exception(&intent.config, vrf.table, prefix), owner, reason::CLUSTER_EXCEPTION);
            }
        }
        if vrf.strict {
            for family in Family::ALL {
                add(isolation(&intent.config, vrf.table, family), owner, reason::ISOLATION);
            }
        }
    }
}

/// The routes that main had by a link before it became a member of the VRF device.
fn moved(config: &Config, vrf: &Vrf, link: &Link, links: &Links, facts: &NodeFacts) -> Vec<KernelRoute> {
    let master = link.master.and_then(|master| links.get(&master));
    let joined = master.is_some_and(|master| master.vrf_table == Some(vrf.table));
    let changed = facts.moved.get(&link.ifindex).filter(|_| joined && link.usable());
    let here = |route: &KernelRoute| {
        let mut target = route.target.clone();
        if let RouteTarget::Inline(hops) = &mut target {
            // The address that leads to the gateway may not be usable yet.
            hops.iter_mut().for_each(|(hop, _)| hop.onlink = hop.gateway.is_some());
        }
        let key = RouteKey { table: vrf.table, ..route.key };
        KernelRoute { key, target, protocol: config.route_protocol, ..route.clone() }
    };
    changed.into_iter().flat_map(|changed| &changed.routes).map(here).collect()
}

/// Ends the lookup in the table of a VRF device for a destination within the cluster: the rules after l3mdev's decide,
/// of which the exception's leads to main.
fn exception(config: &Config, table: u32, prefix: IpNet) -> KernelRoute {
    route(config, table, prefix, METRIC_EXCEPTION, RouteTarget::Special(Special::Throw))
}

fn route(config: &Config, table: u32, prefix: IpNet, metric: u32, target: RouteTarget) -> KernelRoute {
    KernelRoute {
        key: RouteKey { table, prefix, metric },
        target,
        preferred_source: None,
        mtu: None,
        protocol: config.route_protocol,
        scope_link: false,
    }
}

/// The connected routes that the kernel has in main for this link, for `table`.
fn connected(config: &Config, table: u32, link: &Link) -> Vec<KernelRoute> {
    let mut routes = Vec::new();
    // The kernel drops connected routes with IFF_UP, not with the carrier.
    if !link.up {
        return routes;
    }
    let direct = |family| vec![(Hop { gateway: None, ifindex: link.ifindex, onlink: false, family }, 1)];
    for address in link.addresses.iter().filter(|address| !address.no_prefix_route) {
        let Some((prefix, source)) = connected_prefix(address) else { continue };
        let family = Family::of(&prefix);
        let metric = match (family, address.metric) {
            (Family::Ipv6, 0) => METRIC_CONNECTED6,
            (_, metric) => metric,
        };
        let mut new = route(config, table, prefix, metric, RouteTarget::Inline(direct(family)));
        // IPv6 chooses the source by the interface; its connected routes carry none.
        new.preferred_source = (family == Family::Ipv4).then_some(source);
        new.scope_link = family == Family::Ipv4;
        routes.push(new);
    }
    if link.addresses.iter().any(|address| is_link_local(&address.net.addr())) {
        // The same prefix stands on every link: a metric of its own lets several live in one table.
        let metric = METRIC_CONNECTED6.saturating_add(link.ifindex);
        let prefix = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64);
        routes.push(route(config, table, prefix.into(), metric, RouteTarget::Inline(direct(Family::Ipv6))));
    }
    routes
}

fn connected_prefix(address: &Address) -> Option<(IpNet, IpAddr)> {
    let source = address.net.addr();
    if is_link_local(&source) || (source.is_ipv6() && address.tentative) {
        return None;
    }
    if let Some(peer) = address.peer {
        return Some((IpNet::new(peer, address.net.prefix_len()).ok()?.trunc(), source));
    }
    // A host address has no connected prefix besides itself, which the local table holds.
    (address.net.prefix_len() < address.net.max_prefix_len()).then(|| (address.net.trunc(), source))
}

fn is_link_local(addr: &IpAddr) -> bool {
    matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The static gateways of one family, as far as their links are usable.
fn gateways(vrf: &Vrf, family: Family, links: &BTreeMap<&str, &Link>) -> Vec<(Hop, u16)> {
    let of_family = vrf.gateways.iter().filter(|gateway| Family::of_addr(&gateway.address) == family);
    let mut hops: Vec<(Hop, u16)> = of_family
        .filter_map(|gateway| {
            let link = links.get(gateway.interface.as_str()).filter(|link| link.usable())?;
            let hop = Hop { gateway: Some(gateway.address), ifindex: link.ifindex, onlink: true, family };
            Some((hop, gateway.weight))
        })
        .collect();
    hops.sort_unstable();
    hops
}

fn at_gateway(hop: &Hop) -> Option<(u32, IpAddr)> {
    hop.gateway.map(|gateway| (hop.ifindex, gateway))
}

/// Those that answer; all of them while none does, for traffic is what finds out that one is back.
fn answering(hops: Vec<(Hop, u16)>, facts: &NodeFacts) -> Option<Vec<(Hop, u16)>> {
    let answers = |(hop, _): &&(Hop, u16)| at_gateway(hop).is_none_or(|at| !facts.silent.contains(&at));
    let some: Vec<_> = hops.iter().filter(answers).copied().collect();
    let hops = if some.is_empty() { hops } else { some };
    (!hops.is_empty()).then_some(hops)
}

fn isolation(config: &Config, table: u32, family: Family) -> KernelRoute {
    let target = RouteTarget::Special(Special::Unreachable);
    route(config, table, default_prefix(family), METRIC_STRICT, target)
}
