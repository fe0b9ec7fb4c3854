//! Rules, tables, routes: what the kernel does in `fib_rules_lookup`, step by step.

use std::net::IpAddr;

use super::{Packet, Step, StepKind, World, owner, protocol_name};
use crate::model::{
    Hop, KernelRoute, Link, NexthopBody, RouteTarget, Rule, RuleAction, Special, TABLE_LOCAL,
};

/// Where a walk ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By this route, over one of these nexthops.
    Route(Box<KernelRoute>, Vec<(Hop, u32)>),
    /// A route or a rule forbids it.
    Special(Special),
    /// The packet is for this node.
    Local,
    /// No table has a route.
    Nothing,
}

/// The way of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// What decided.
    pub steps: Vec<Step>,
    /// The result.
    pub end: End,
    /// Rules that might have matched, by selectors that are not interpreted (marks, TOS, …).
    pub doubts: Vec<String>,
}

/// Follows a packet through the rules.
#[must_use]
pub fn walk(packet: &Packet, world: &World<'_>) -> Walk {
    let mut walk = Walk { steps: Vec::new(), end: End::Nothing, doubts: Vec::new() };
    let rules = world.rules.iter().filter(|rule| rule.family == packet.family());
    // The kernel keeps them sorted; among equals the order of insertion decides, which a stable sort keeps.
    let mut rules: Vec<&Rule> = rules.collect();
    rules.sort_by_key(|rule| rule.priority);
    let mut from = 0;
    for rule in rules {
        if rule.priority < from {
            continue;
        }
        if matches!(rule.action, RuleAction::Other(_)) {
            // Among what is not held may be a `not`: the selectors that are say nothing then.
            walk.doubts.push(rule.to_string());
            continue;
        }
        if !matches(rule, packet, world) {
            continue;
        }
        let outcome = |walk: &mut Walk, text: String| walk.steps.push(rule_step(rule, text, world));
        match rule.action {
            RuleAction::Lookup(table) => {
                if look_up(rule, table, packet, world, &mut walk) {
                    return walk;
                }
            }
            RuleAction::Goto(priority) => {
                outcome(&mut walk, format!("goes on at {priority}"));
                from = priority;
            }
            RuleAction::Nop => outcome(&mut walk, "goes on".to_owned()),
            RuleAction::Unreachable => return refused(walk, rule, Special::Unreachable, world),
            RuleAction::Blackhole => return refused(walk, rule, Special::Blackhole, world),
            RuleAction::Prohibit => return refused(walk, rule, Special::Prohibit, world),
            RuleAction::Other(_) => {}
            RuleAction::L3mdev => {
                if let Some(table) = vrf_table(packet, world)
                    && look_up(rule, table, packet, world, &mut walk)
                {
                    return walk;
                }
            }
        }
    }
    walk
}

fn refused(mut walk: Walk, rule: &Rule, how: Special, world: &World<'_>) -> Walk {
    walk.steps.push(rule_step(rule, format!("refused: {how:?}").to_lowercase(), world));
    walk.end = End::Special(how);
    walk
}

/// The table of the VRF device that the packet came in by.
fn vrf_table(packet: &Packet, world: &World<'_>) -> Option<u32> {
    let link = world.links.get(&packet.iif?)?;
    link.vrf_table.or_else(|| world.links.get(&link.master?)?.vrf_table)
}

/// Whether the selectors that [`Rule`] holds match (net/core/fib_rules.c, `fib_rule_match`).
fn matches(rule: &Rule, packet: &Packet, world: &World<'_>) -> bool {
    let within = |net: &Option<ipnet::IpNet>, address: Option<IpAddr>| match (net, address) {
        (None, _) => true,
        (Some(net), Some(address)) => net.contains(&address),
        (Some(net), None) => net.prefix_len() == 0,
    };
    let iif = match (&rule.iif, packet.iif) {
        (None, _) => true,
        (Some(name), None) => name == "lo",
        (Some(name), Some(ifindex)) => world.links.get(&ifindex).is_some_and(|link| link.name == *name),
    };
    let protocol = rule.ip_protocol.is_none_or(|wanted| packet.flow.is_some_and(|(it, ..)| it == wanted));
    let ports = rule
        .destination_ports
        .is_none_or(|(first, last)| packet.flow.is_some_and(|(.., port)| (first..=last).contains(&port)));
    // A packet of an unbound socket, or one to be forwarded, has no output interface yet.
    rule.oif.is_none()
        && iif
        && protocol
        && ports
        && within(&rule.source, packet.source)
        && within(&rule.destination, Some(packet.destination))
}

/// Whether the table decides.
fn look_up(rule: &Rule, table: u32, packet: &Packet, world: &World<'_>, walk: &mut Walk) -> bool {
    if let Some(ifindex) = local(table, packet, world) {
        walk.steps.push(rule_step(rule, format!("looks up table {table}"), world));
        walk.steps.push(Step {
            kind: StepKind::Local,
            object: format!("{} dev {}", packet.destination, world.name(ifindex)),
            outcome: "for this node".to_owned(),
            owner: None,
            foreign: None,
        });
        walk.end = End::Local;
        return true;
    }
    let Some(route) = best(table, packet.destination, world) else {
        // The local table answers for few packets: that it does not is no news.
        if table != TABLE_LOCAL {
            let text = format!("looks up table {table}: no route, goes on");
            walk.steps.push(rule_step(rule, text, world));
        }
        return false;
    };
    if route.target == RouteTarget::Special(Special::Throw) {
        let text = format!("looks up table {table}: {} is thrown, goes on", route.key.prefix);
        walk.steps.push(rule_step(rule, text, world));
        return false;
    }
    walk.steps.push(rule_step(rule, format!("looks up table {table}"), world));
    decide(route, world, walk);
    true
}

/// The interface whose address the destination is, if this table holds it.
fn local(table: u32, packet: &Packet, world: &World<'_>) -> Option<u32> {
    let ifindex = world.holder(packet.destination)?;
    let link = world.links.get(&ifindex)?;
    let of_vrf = |link: &Link| link.vrf_table.or_else(|| world.links.get(&link.master?)?.vrf_table);
    (of_vrf(link).unwrap_or(TABLE_LOCAL) == table).then_some(ifindex)
}

/// Longest prefix, then lowest metric.
fn best<'a>(table: u32, destination: IpAddr, world: &World<'a>) -> Option<&'a KernelRoute> {
    let covering = world.routes.get(&table)?.iter().filter(|route| route.key.prefix.contains(&destination));
    let alive = covering.filter(|route| is_alive(route, world));
    alive.min_by_key(|route| (std::cmp::Reverse(route.key.prefix.prefix_len()), route.key.metric))
}

/// A route of which every nexthop's interface is down is skipped (RTNH_F_DEAD).
fn is_alive(route: &KernelRoute, world: &World<'_>) -> bool {
    let hops = hops(route, world);
    let up = |hop: &Hop| world.links.get(&hop.ifindex).is_none_or(|link| link.up);
    matches!(route.target, RouteTarget::Special(_)) || hops.is_empty() || hops.iter().any(|(hop, _)| up(hop))
}

fn hops(route: &KernelRoute, world: &World<'_>) -> Vec<(Hop, u32)> {
    match &route.target {
        RouteTarget::Inline(hops) => hops.iter().map(|(hop, weight)| (*hop, u32::from(*weight))).collect(),
        RouteTarget::Special(_) => Vec::new(),
        RouteTarget::Nexthop(id) => match world.nexthops.get(id) {
            Some(NexthopBody::Single(hop)) => vec![(*hop, 1)],
            Some(NexthopBody::Group(members) | NexthopBody::Resilient(members, _)) => members
                .iter()
                .filter_map(|member| match world.nexthops.get(&member.id) {
                    Some(NexthopBody::Single(hop)) => Some((*hop, u32::from(member.weight))),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        },
    }
}

fn decide(route: &KernelRoute, world: &World<'_>, walk: &mut Walk) {
    let own = route.protocol == world.intent.config.route_protocol;
    let owner = world.owners.get(&route.key).filter(|_| own).cloned();
    let nexthop =
        if let RouteTarget::Nexthop(id) = route.target { format!(" nhid {}", id.0) } else { String::new() };
    let outcome = match &route.target {
        RouteTarget::Special(kind) => format!("refused: {}", format!("{kind:?}").to_lowercase()),
        _ => "longest prefix, lowest metric".to_owned(),
    };
    walk.steps.push(Step {
        kind: StepKind::Route,
        object: format!("{}{nexthop}", route.key),
        outcome,
        owner,
        foreign: (!own).then(|| protocol_name(route.protocol)),
    });
    if let RouteTarget::Special(kind) = route.target {
        walk.end = End::Special(kind);
        return;
    }
    let hops = hops(route, world);
    let several = hops.len() > 1;
    for (hop, weight) in &hops {
        let via = hop.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
        let weight = if several { format!(" weight {weight}") } else { String::new() };
        let up = world.links.get(&hop.ifindex).is_some_and(Link::usable);
        walk.steps.push(Step {
            kind: StepKind::Nexthop,
            object: format!("{via}dev {}{weight}", world.name(hop.ifindex)),
            outcome: match (up, several) {
                (false, _) => "its interface is down".to_owned(),
                (true, true) => "one of several, chosen by hash".to_owned(),
                (true, false) => "the only one".to_owned(),
            },
            owner: None,
            foreign: None,
        });
    }
    walk.end = End::Route(Box::new(route.clone()), hops);
}

fn rule_step(rule: &Rule, outcome: String, world: &World<'_>) -> Step {
    let own = rule.protocol == world.intent.config.route_protocol;
    Step {
        kind: StepKind::Rule,
        object: rule.to_string(),
        outcome,
        owner: owner::rule_owner(rule, world.intent),
        foreign: (!own).then(|| protocol_name(rule.protocol)),
    }
}
