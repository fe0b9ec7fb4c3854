//! Routes that follow from manifests and links alone: connected copies, gateways of last resort, isolation.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::{
    DevicePlan, Links, METRIC_LAST_RESORT, METRIC_STRICT, Plan, Problem, StaticRoute, default_prefix,
};
use crate::intent::types::{Config, Intent, ObjectRef, Vrf, VrfMode};
use crate::model::{Address, Family, Hop, KernelRoute, Link, RouteKey, RouteTarget, Special};
use crate::status::reason;

/// Metric of a connected IPv6 route (`IP6_RT_PRIO_ADDRCONF`, include/net/ip6_route.h).
const METRIC_CONNECTED6: u32 = 256;

pub(super) fn compile(plan: &mut Plan, intent: &Intent, links: &Links) {
    for vrf in intent.vrfs.iter().filter(|vrf| vrf.mode == VrfMode::TableOnly) {
        let Some(owner) = vrf.owners.first() else { continue };
        let mut add = |route: KernelRoute, owner: &ObjectRef, purpose| {
            let entry = StaticRoute { route, owner: owner.clone(), purpose };
            plan.static_routes.entry(entry.route.key).or_insert(entry);
        };
        for interface in &vrf.interfaces {
            let owner = interface.owners.first().unwrap_or(owner);
            plan.devices.push(DevicePlan {
                name: interface.name.clone(),
                vlan: interface.vlan.clone(),
                addresses: interface.addresses.clone(),
            });
            match links.values().find(|link| link.name == interface.name) {
                Some(link) => {
                    for route in connected(&intent.config, vrf.table, link) {
                        add(route, owner, reason::CONNECTED_ROUTE);
                    }
                }
                None => plan.problems.push(Problem {
                    object: owner.clone(),
                    reason: reason::INTERFACE_NOT_FOUND,
                    message: not_found(
                        &interface.name,
                        interface.vlan.as_ref().map(|vlan| vlan.parent.as_str()),
                    ),
                }),
            }
        }
        for route in last_resort(&intent.config, vrf, links) {
            add(route, owner, reason::LAST_RESORT);
        }
        if vrf.strict {
            for family in Family::ALL {
                add(isolation(&intent.config, vrf.table, family), owner, reason::ISOLATION);
            }
        }
    }
}

fn not_found(name: &str, parent: Option<&str>) -> String {
    parent.map_or_else(
        || format!("interface {name} does not exist on this node (yet): it is used as soon as it appears"),
        |parent| format!("VLAN interface {name} could not be made (yet): does its parent {parent} exist?"),
    )
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

fn last_resort(config: &Config, vrf: &Vrf, links: &Links) -> Vec<KernelRoute> {
    let mut routes = Vec::new();
    for family in Family::ALL {
        let mut hops: Vec<(Hop, u16)> = vrf
            .gateways
            .iter()
            .filter(|gateway| Family::of_addr(&gateway.address) == family)
            .filter_map(|gateway| {
                let link = links.values().find(|link| link.name == gateway.interface && link.usable())?;
                let hop = Hop { gateway: Some(gateway.address), ifindex: link.ifindex, onlink: true, family };
                Some((hop, gateway.weight))
            })
            .collect();
        hops.sort_unstable();
        if !hops.is_empty() {
            let target = RouteTarget::Inline(hops);
            routes.push(route(config, vrf.table, default_prefix(family), METRIC_LAST_RESORT, target));
        }
    }
    routes
}

fn isolation(config: &Config, table: u32, family: Family) -> KernelRoute {
    let target = RouteTarget::Special(Special::Unreachable);
    route(config, table, default_prefix(family), METRIC_STRICT, target)
}
