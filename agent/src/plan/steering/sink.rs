//! The sink and the sysctls: what makes a reply reach a program at all.
//!
//! A reply is steered at tc egress of the interface it would wrongly leave by. With no route, or with one whose
//! gateway does not answer, it never gets there. Routes to a device of our own take it there.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::interfaces::{Listed, condition, owners};
use super::{SINK_NAME, SteeringInput, SteeringPlan};
use crate::intent::types::Config;
use crate::model::{Family, Hop, KernelRoute, Link, RouteKey, RouteTarget, Rule, RuleAction, TABLE_MAIN};
use crate::status::reason;

/// The kernel's default metric of IPv6 routes; IPv4 has 0.
const METRIC_IPV6: u32 = 1024;
/// `IPV6_MIN_MTU` (RFC 8200, section 5).
const LEAST_MTU_IPV6: u32 = 1280;

/// Adds the sink's device, rules and routes, and the reverse-path filters of the listed interfaces.
/// Interfaces in `Shadow` ask for none of it.
pub(super) fn plan(input: &SteeringInput<'_>, listed: &[Listed<'_>], plan: &mut SteeringPlan) {
    let enforced = || listed.iter().filter(|listed| listed.asked.enforce);
    if enforced().next().is_none() {
        return;
    }
    let services: BTreeSet<IpNet> =
        enforced().flat_map(|listed| &listed.asked.virtual_ips).map(IpNet::trunc).collect();
    let lacking: Vec<Family> = Family::ALL
        .into_iter()
        .filter(|family| {
            in_use(input, *family, &services) && !input.defaults.contains(&(TABLE_MAIN, *family))
        })
        .collect();
    plan.sink = !services.is_empty() || !lacking.is_empty();
    let device = input.links.iter().find(|link| link.name == SINK_NAME && link.up);
    if let Some(device) = device.filter(|_| plan.sink) {
        // The program on the sink asks the FIB on behalf of a device that must be one that forwards.
        for family in ["ipv4", "ipv6"] {
            plan.sysctls.insert(format!("net/{family}/conf/{SINK_NAME}/forwarding"), "1".to_owned());
        }
        let way = Way { config: &input.intent.config, device, mtu: smallest_mtu(input, plan) };
        for &family in &lacking {
            plan.routes.push(way.route(TABLE_MAIN, u32::MAX, family));
        }
        lead_services(input, listed, &services, &way, plan);
    }
    for listed in enforced().filter(|listed| listed.asked.manage_rp_filter) {
        let table = checked_table(plan, listed.link.ifindex);
        let sunk = table == TABLE_MAIN
            && plan
                .routes
                .iter()
                .any(|route| route.key.table == TABLE_MAIN && Family::of(&route.key.prefix) == Family::Ipv4);
        let loose = sunk || input.defaults.contains(&(table, Family::Ipv4));
        let key = format!("net/ipv4/conf/{}/rp_filter", listed.link.name);
        plan.sysctls.insert(key, if loose { "2" } else { "0" }.to_owned());
    }
}

/// The table of the reverse-path check: it ignores `iif` rules, but knows VRF devices.
fn checked_table(plan: &SteeringPlan, ifindex: u32) -> u32 {
    plan.interfaces
        .get(&ifindex)
        .map(|interface| interface.zone)
        .filter(|zone| *zone != 0)
        .unwrap_or(TABLE_MAIN)
}

/// Whether the node speaks this family. A default route for IPv6 on a node without it would turn "network
/// unreachable" into a timeout for every program that tries IPv6 first.
fn in_use(input: &SteeringInput<'_>, family: Family, services: &BTreeSet<IpNet>) -> bool {
    let mut addresses = input.links.iter().flat_map(|link| &link.addresses).map(|address| address.net.addr());
    services.iter().any(|net| Family::of(net) == family)
        || addresses.any(|address| Family::of_addr(&address) == family && routable(address))
}

fn routable(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// Leads the replies of the listed service addresses to the sink, by a table of its own.
fn lead_services(
    input: &SteeringInput<'_>,
    listed: &[Listed<'_>],
    services: &BTreeSet<IpNet>,
    way: &Way<'_>,
    plan: &mut SteeringPlan,
) {
    if services.is_empty() {
        return;
    }
    let config = way.config;
    let Some(table) = free_table(input) else {
        let message = "every table of ownership.tables is used by a VRF: widen the range by one".to_owned();
        let mut full = condition(&owners(listed), SINK_NAME, reason::UNSUPPORTED, message);
        full.item = "match.virtualIPs".to_owned();
        plan.conditions.push(full);
        return;
    };
    for family in Family::ALL {
        let mut of_family = services.iter().filter(|net| Family::of(net) == family).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        let metric = if family == Family::Ipv6 { METRIC_IPV6 } else { 0 };
        plan.routes.push(way.route(table, metric, family));
        // They all lead to one table: among them order decides nothing.
        let priority = config.rule_priorities.1;
        let rule = Rule::all(family, priority, RuleAction::Lookup(table), config.route_protocol);
        plan.rules.extend(of_family.map(|net| Rule { source: Some(*net), ..rule.clone() }));
    }
}

/// The highest table of the owned range that no VRF and no import uses.
fn free_table(input: &SteeringInput<'_>) -> Option<u32> {
    let (first, last) = input.intent.config.tables;
    let imports = input.intent.imports.iter().flat_map(|import| [import.from_table, import.into.table]);
    let used: BTreeSet<u32> = input.intent.vrfs.iter().map(|vrf| vrf.table).chain(imports).collect();
    (first..=last).rev().find(|table| !used.contains(table))
}

/// Bytes that fit every way out. The sink's own MTU means nothing: whom a packet from there does not fit on, nobody tells.
fn smallest_mtu(input: &SteeringInput<'_>, plan: &SteeringPlan) -> Option<u32> {
    let leads_out =
        |link: &&Link| link.up && link.name != SINK_NAME && plan.interfaces.contains_key(&link.ifindex);
    input.links.iter().filter(leads_out).map(|link| link.mtu).min()
}

/// What the routes to the sink have in common.
struct Way<'a> {
    config: &'a Config,
    device: &'a Link,
    mtu: Option<u32>,
}

impl Way<'_> {
    fn route(&self, table: u32, metric: u32, family: Family) -> KernelRoute {
        let (prefix, least) = match family {
            Family::Ipv4 => (IpNet::V4(Ipv4Net::default()), 0),
            Family::Ipv6 => (IpNet::V6(Ipv6Net::default()), LEAST_MTU_IPV6),
        };
        let hop = Hop { gateway: None, ifindex: self.device.ifindex, onlink: false, family };
        KernelRoute {
            key: RouteKey { table, prefix, metric },
            target: RouteTarget::Inline(vec![(hop, 1)]),
            preferred_source: None,
            mtu: self.mtu.map(|mtu| mtu.max(least)).filter(|mtu| *mtu != self.device.mtu),
            protocol: self.config.route_protocol,
            scope_link: family == Family::Ipv4,
        }
    }
}
