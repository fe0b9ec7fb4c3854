//! Policy rules: the band, its tenths, and an order that no insertion order can change.
//!
//! The kernel evaluates rules of one priority in insertion order, so a mended rule would change the meaning.
//! Rules that overlap therefore get distinct priorities; rules that cannot match the same packet share one.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{NodeFacts, Plan, Problem};
use crate::intent::types::{Band, Config, Intent, PolicyProtocol, PolicyRule, VrfMode};
use crate::model::{Family, Rule, RuleAction, TABLE_MAIN};

/// Priorities of the parts of the band, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bands {
    pub(super) exceptions: u32,
    pub(super) interfaces: u32,
    early: (u32, u32),
    normal: (u32, u32),
    late: (u32, u32),
}

impl Bands {
    /// Tenths: 1 exceptions and interfaces, 4 Early, 3 Normal, 2 Late. The last priority of all is steering's.
    pub(super) fn of(config: &Config) -> Self {
        let (from, to) = config.rule_priorities;
        let width = u64::from(to.saturating_sub(from)) + 1;
        let at = |tenths: u64| from.saturating_add(u32::try_from(width * tenths / 10).unwrap_or(u32::MAX));
        Self {
            exceptions: from,
            interfaces: at(1).saturating_sub(1).max(from),
            early: (at(1), at(5).saturating_sub(1)),
            normal: (at(5), at(8).saturating_sub(1)),
            late: (at(8), to.saturating_sub(1)),
        }
    }

    fn range(&self, band: Band) -> (u32, u32) {
        match band {
            Band::Early => self.early,
            Band::Normal => self.normal,
            Band::Late => self.late,
        }
    }
}

pub(super) fn compile(plan: &mut Plan, intent: &Intent, facts: &NodeFacts) {
    let bands = Bands::of(&intent.config);
    for prefix in exceptions(plan, intent, facts) {
        let rule =
            blank(&intent.config, Family::of(&prefix), bands.exceptions, RuleAction::Lookup(TABLE_MAIN));
        plan.rules.insert(Rule { destination: Some(prefix), ..rule });
    }
    for vrf in plan.vrfs_in_force(intent) {
        if vrf.mode != VrfMode::TableOnly {
            // The kernel's l3mdev rule leads the members of a VRF device to its table.
            continue;
        }
        for interface in &vrf.interfaces {
            for family in Family::ALL {
                let rule = blank(&intent.config, family, bands.interfaces, RuleAction::Lookup(vrf.table));
                plan.rules.insert(Rule { iif: Some(interface.name.clone()), ..rule.clone() });
                plan.rules.insert(Rule { oif: Some(interface.name.clone()), ..rule });
            }
        }
    }
    for band in [Band::Early, Band::Normal, Band::Late] {
        policies(plan, intent, band, bands.range(band));
    }
}

/// The destinations that main decides about, whatever a VRF says. A policy that leads to a table without an attachment,
/// which could say otherwise, leaves the cluster alone too.
fn exceptions(plan: &Plan, intent: &Intent, facts: &NodeFacts) -> BTreeSet<IpNet> {
    let attached = |table: u32| intent.vrfs.iter().any(|vrf| vrf.table == table);
    let unattached =
        intent.rules.iter().any(|rule| !plan.occupied.contains_key(&rule.table) && !attached(rule.table));
    let of_vrfs = plan.vrfs_in_force(intent).into_iter().flat_map(|vrf| facts.exceptions(vrf));
    of_vrfs.chain(unattached.then(|| facts.cluster()).into_iter().flatten()).collect()
}

fn blank(config: &Config, family: Family, priority: u32, action: RuleAction) -> Rule {
    Rule::all(family, priority, action, config.route_protocol)
}

/// One match of a policy rule, multiplied out, with the rules that it becomes.
struct Item<'a> {
    selector: Rule,
    /// Ports that `selector` takes in and the policy does not.
    below: Ports,
    policy: &'a PolicyRule,
}

/// Inclusive, as in [`Rule::destination_ports`].
type Ports = Option<(u16, u16)>;

/// How a range of ports is selected: by the range itself, or by no port at all (but a protocol) behind a jump for the
/// ports below it. No rule of the kernel has port 65535 (include/net/fib_rules.h, `fib_rule_port_range_valid`).
pub(crate) fn port_selectors(range: (u16, u16)) -> (Ports, Ports) {
    match range {
        (from, u16::MAX) => (None, (from > 1).then(|| (1, from - 1))),
        range => (Some(range), None),
    }
}

impl Item<'_> {
    /// Priorities it takes: goto, lookup, unreachable, landing place.
    fn slots(&self) -> u32 {
        let jumps = self.skips_host() || self.below.is_some();
        1 + u32::from(self.policy.drop_if_unavailable) + 2 * u32::from(jumps)
    }

    fn skips_host(&self) -> bool {
        !self.policy.host_traffic && self.selector.iif.is_none()
    }

    fn length(prefix: Option<&IpNet>) -> u8 {
        prefix.map_or(0, IpNet::prefix_len)
    }
}

fn policies(plan: &mut Plan, intent: &Intent, band: Band, (first, last): (u32, u32)) {
    let in_force = |rule: &&PolicyRule| rule.band == band && !plan.occupied.contains_key(&rule.table);
    let of_band = intent.rules.iter().filter(in_force);
    let mut items: Vec<Item<'_>> = of_band.flat_map(|rule| multiply(&intent.config, rule)).collect();
    items.sort_by(|a, b| {
        let key = |item: &Item<'_>| {
            let destination = Item::length(item.selector.destination.as_ref());
            let source = Item::length(item.selector.source.as_ref());
            (std::cmp::Reverse(destination), std::cmp::Reverse(source))
        };
        key(a)
            .cmp(&key(b))
            .then_with(|| a.policy.name.cmp(&b.policy.name))
            .then_with(|| (&a.selector, a.below).cmp(&(&b.selector, b.below)))
    });
    let mut placed: Vec<(u32, &Item<'_>)> = Vec::with_capacity(items.len());
    let mut full = BTreeSet::new();
    for item in &items {
        let behind = placed
            .iter()
            .filter(|(_, other)| overlaps(&other.selector, &item.selector))
            .map(|(priority, other)| priority + other.slots())
            .max()
            .unwrap_or(first);
        if behind + item.slots() > last + 1 {
            full.extend(item.policy.owners.first().map(|owner| (owner.clone(), item.policy.name.clone())));
            continue;
        }
        placed.push((behind, item));
        plan.rules.extend(emit(item, behind));
    }
    for (object, name) in full {
        plan.problems.push(Problem {
            object,
            reason: crate::status::reason::BAND_FULL,
            message: format!(
                "rule {name}: too many overlapping rules for the {} priorities of band {band:?}: move some to another \
                 band, or widen ownership.rulePriorities",
                last + 1 - first
            ),
        });
    }
}

fn emit(item: &Item<'_>, first: u32) -> Vec<Rule> {
    let at = |offset: u32, action| Rule { priority: first + offset, action, ..item.selector.clone() };
    let landing = item.slots() - 1;
    let jump = || at(0, RuleAction::Goto(first + landing));
    let host = item.skips_host().then(|| Rule { iif: Some("lo".to_owned()), ..jump() });
    let below = item.below.map(|ports| Rule { destination_ports: Some(ports), ..jump() });
    let mut rules: Vec<Rule> = host.into_iter().chain(below).collect();
    let next = u32::from(!rules.is_empty());
    if next > 0 {
        let Rule { family, protocol, .. } = item.selector;
        rules.push(Rule::all(family, first + landing, RuleAction::Nop, protocol));
    }
    rules.push(at(next, RuleAction::Lookup(item.policy.table)));
    if item.policy.drop_if_unavailable {
        rules.push(at(next + 1, RuleAction::Unreachable));
    }
    rules
}

fn multiply<'a>(config: &'a Config, policy: &'a PolicyRule) -> impl Iterator<Item = Item<'a>> + 'a {
    Family::ALL.into_iter().flat_map(move |family| {
        let destinations = of_family(&policy.destinations, family);
        let sources = of_family(&policy.sources, family);
        let iifs: Vec<Option<String>> = optional(&policy.ingress_interfaces);
        let ip_protocol = policy.protocol.map(|protocol| number(protocol, family));
        let ranges = optional(&policy.destination_ports);
        let ports: Vec<_> = ranges.into_iter().map(|it| it.map_or((None, None), port_selectors)).collect();
        let mut items = Vec::new();
        for destination in &destinations {
            for source in &sources {
                for iif in &iifs {
                    for &(destination_ports, below) in &ports {
                        let rule = blank(config, family, 0, RuleAction::Nop);
                        let selector = Rule {
                            destination: *destination,
                            source: *source,
                            iif: iif.clone(),
                            ip_protocol,
                            destination_ports,
                            ..rule
                        };
                        items.push(Item { selector, below, policy });
                    }
                }
            }
        }
        items
    })
}

/// The prefixes of one family; an empty list in the manifest selects everything.
fn of_family(list: &[IpNet], family: Family) -> Vec<Option<IpNet>> {
    if list.is_empty() {
        return vec![None];
    }
    list.iter().filter(|prefix| Family::of(prefix) == family).map(|prefix| Some(*prefix)).collect()
}

fn optional<T: Clone>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().cloned().map(Some).collect() }
}

fn number(protocol: PolicyProtocol, family: Family) -> u8 {
    match (protocol, family) {
        (PolicyProtocol::TCP, _) => 6,
        (PolicyProtocol::UDP, _) => 17,
        (PolicyProtocol::SCTP, _) => 132,
        (PolicyProtocol::ICMP, Family::Ipv4) => 1,
        (PolicyProtocol::ICMP, Family::Ipv6) => 58,
    }
}

/// Whether some packet could match both.
fn overlaps(a: &Rule, b: &Rule) -> bool {
    fn both<T>(a: Option<&T>, b: Option<&T>, meet: impl Fn(&T, &T) -> bool) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => meet(a, b),
            _ => true,
        }
    }
    let nets = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    a.family == b.family
        && both(a.destination.as_ref(), b.destination.as_ref(), nets)
        && both(a.source.as_ref(), b.source.as_ref(), nets)
        && both(a.iif.as_ref(), b.iif.as_ref(), |a, b| a == b)
        && both(a.ip_protocol.as_ref(), b.ip_protocol.as_ref(), |a, b| a == b)
        && both(a.destination_ports.as_ref(), b.destination_ports.as_ref(), |a, b| a.0 <= b.1 && b.0 <= a.1)
}
