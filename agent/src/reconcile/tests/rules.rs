//! Policy rules against a list that others change too.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::net;
use crate::intent::types::{Band, Intent, PolicyProtocol, PolicyRule};
use crate::model::{Family, Rule, RuleAction};
use crate::plan::{Links, NodeFacts, Plan, PlanInput};
use crate::reconcile::{admissible, diff_rules};

const OURS: u8 = 201;
const OTHERS: u8 = 4;

/// A few rules that are often equal, of ours or of others.
fn rule(protocol: u8) -> impl Strategy<Value = Rule> {
    (1100..1103u32, 0..3u8, any::<bool>(), 0..2u32).prop_map(move |(priority, third, six, table)| {
        let family = if six { Family::Ipv6 } else { Family::Ipv4 };
        let prefix = if six { format!("2001:db8:{third}::/48") } else { format!("10.{third}.0.0/16") };
        let all = Rule::all(family, priority, RuleAction::Lookup(10001 + table), protocol);
        Rule { destination: Some(net(&prefix)), ..all }
    })
}

/// What happens between two passes.
#[derive(Debug, Clone)]
enum Event {
    Desire(BTreeSet<Rule>),
    /// Somebody removes one, whoever's it is.
    Remove(u8),
    /// Somebody adds one: their own, or one that carries our number, perhaps for the second time.
    Add(Rule),
    /// `ip rule flush proto 201`
    Flush,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => prop::collection::btree_set(rule(OURS), 0..8).prop_map(Event::Desire),
        2 => any::<u8>().prop_map(Event::Remove),
        1 => rule(OURS).prop_map(Event::Add),
        1 => rule(OTHERS).prop_map(Event::Add),
        1 => Just(Event::Flush),
    ]
}

/// The kernel's list: it takes equal rules of others, and a deletion takes the first one that fits.
fn remove(rules: &mut Vec<Rule>, gone: &Rule) {
    let at = rules.iter().position(|rule| rule == gone).expect("only what is there is deleted");
    rules.remove(at);
}

proptest! {
    #[test]
    fn rules_come_to_rest_as_desired_and_those_of_others_survive(events in prop::collection::vec(event(), 1..20)) {
        let (mut kernel, mut desired) = (Vec::<Rule>::new(), BTreeSet::new());
        for event in events {
            match event {
                Event::Desire(new) => desired = new,
                Event::Remove(pick) if !kernel.is_empty() => drop(kernel.remove(usize::from(pick) % kernel.len())),
                Event::Remove(_) => {}
                Event::Add(rule) => kernel.push(rule),
                Event::Flush => kernel.retain(|rule| rule.protocol != OURS),
            }
            let others: Vec<Rule> = kernel.iter().filter(|rule| rule.protocol != OURS).cloned().collect();
            let there: BTreeSet<Rule> = kernel.iter().filter(|rule| desired.contains(rule)).cloned().collect();
            let changes = diff_rules(&desired, &kernel, OURS);
            prop_assert!(changes.add.iter().all(|rule| !there.contains(rule)), "what is there is not added again");
            kernel.extend(changes.add);
            for rule in &changes.delete {
                remove(&mut kernel, rule);
            }
            let ours: Vec<Rule> = kernel.iter().filter(|rule| rule.protocol == OURS).cloned().collect();
            prop_assert_eq!(ours.len(), desired.len(), "each once");
            prop_assert_eq!(&ours.into_iter().collect::<BTreeSet<_>>(), &desired);
            prop_assert_eq!(kernel.iter().filter(|rule| rule.protocol != OURS).cloned().collect::<Vec<_>>(), others);
            prop_assert!(diff_rules(&desired, &kernel, OURS).is_empty(), "the next pass is a no-op");
        }
    }
}

/// Policies that overlap in every way and lead to two tables, without jumps.
fn policy() -> impl Strategy<Value = PolicyRule> {
    let ports = prop_oneof![
        3 => Just(None),
        1 => Just(Some((80, 80))),
        1 => Just(Some((1024, 2000))),
    ];
    (0..6usize, 10001..10003u32, any::<bool>(), ports).prop_map(|(at, table, drop, ports)| PolicyRule {
        owners: Vec::new(),
        name: format!("{at}"),
        band: Band::Normal,
        destinations: vec![net([
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.1.0/24",
            "10.1.1.1/32",
            "10.2.0.0/16",
            "0.0.0.0/0",
        ][at])],
        sources: Vec::new(),
        ingress_interfaces: Vec::new(),
        protocol: ports.map(|_| PolicyProtocol::TCP),
        destination_ports: ports.into_iter().collect(),
        host_traffic: true,
        table,
        vrf: format!("vrf{table}"),
        drop_if_unavailable: drop,
    })
}

fn rules_of(policies: Vec<PolicyRule>) -> BTreeSet<Rule> {
    let intent = Intent { rules: policies, ..Intent::default() };
    let (links, facts) = (Links::new(), NodeFacts::default());
    let input = PlanInput {
        intent: &intent,
        links: &links,
        zebra: &crate::plan::ZebraTables::default(),
        facts: &facts,
    };
    let rules = Plan::compile(input).rules;
    rules.into_iter().filter(|rule| rule.family == Family::Ipv4).collect()
}

/// What becomes of a TCP packet: the table that has a route for it, or none does, or it is refused.
fn fate(kernel: &[Rule], destination: &str, port: u16, full: &BTreeSet<u32>) -> Option<RuleAction> {
    let mut sorted: Vec<&Rule> = kernel.iter().collect();
    sorted.sort_by_key(|rule| rule.priority);
    for rule in sorted {
        let selected = rule.destination.is_none_or(|it| it.contains(&net(destination)))
            && rule.ip_protocol.is_none_or(|it| it == 6)
            && rule.destination_ports.is_none_or(|(first, last)| (first..=last).contains(&port));
        match rule.action {
            _ if !selected => {}
            RuleAction::Lookup(table) if full.contains(&table) => return Some(rule.action),
            RuleAction::Unreachable => return Some(rule.action),
            _ => {}
        }
    }
    None
}

proptest! {
    /// Between any two steps from one set of policies to another a packet meets what the old or the new ones say of it.
    #[test]
    fn no_step_from_old_rules_to_new_ones_harms_a_packet(
        old in prop::collection::vec(policy(), 0..5),
        new in prop::collection::vec(policy(), 0..5),
        full in prop::collection::btree_set(10001..10003u32, 0..3),
    ) {
        let (old, new) = (rules_of(old), rules_of(new));
        let packets: Vec<(&str, u16)> = ["10.3.0.1/32", "10.1.0.1/32", "10.1.1.2/32", "10.1.1.1/32", "10.2.0.1/32", "192.0.2.1/32"]
            .into_iter()
            .flat_map(|destination| [80, 1024, 5000].map(|port| (destination, port)))
            .collect();
        let mut kernel: Vec<Rule> = old.iter().cloned().collect();
        let fates = |kernel: &[Rule]| -> Vec<_> {
            packets.iter().map(|(destination, port)| fate(kernel, destination, *port, &full)).collect()
        };
        let before = fates(&kernel);
        let after = fates(&new.iter().cloned().collect::<Vec<_>>());
        let changes = diff_rules(&new, &kernel, OURS);
        let steps = changes.add.iter().map(|rule| (true, rule)).chain(changes.delete.iter().map(|rule| (false, rule)));
        for (added, rule) in steps {
            if added { kernel.push(rule.clone()) } else { remove(&mut kernel, rule) }
            for (at, fate) in fates(&kernel).into_iter().enumerate() {
                prop_assert!(
                    fate == before[at] || fate == after[at],
                    "{:?} meets {fate:?}, neither {:?} nor {:?}, after {rule} was {}",
                    packets[at], before[at], after[at], if added { "added" } else { "deleted" }
                );
            }
        }
    }
}

/// An edit that moves what is in force, while a foreign rule stands in the band, moves nothing; and what is in force is mended.
#[test]
fn beside_foreign_rules_a_family_stays_as_it_is_or_becomes_whole() {
    let at = |priority, family, table| {
        let prefix = if family == Family::Ipv4 { "10.5.0.0/16" } else { "2001:db8::/48" };
        Rule {
            destination: Some(net(prefix)),
            ..Rule::all(family, priority, RuleAction::Lookup(table), OURS)
        }
    };
    let foreign = [Rule { protocol: OTHERS, ..at(1180, Family::Ipv4, 254) }];
    let former = BTreeSet::from([at(1145, Family::Ipv4, 10001), at(1145, Family::Ipv6, 10001)]);
    let moved = BTreeSet::from([
        at(1145, Family::Ipv4, 10002),
        at(1147, Family::Ipv4, 10001),
        at(1147, Family::Ipv6, 10001),
    ]);
    let (admitted, held) = admissible(&moved, &former, &foreign);
    assert_eq!(admitted, BTreeSet::from([at(1145, Family::Ipv4, 10001), at(1147, Family::Ipv6, 10001)]));
    assert_eq!(held, [at(1145, Family::Ipv4, 10002), at(1147, Family::Ipv4, 10001)]);
    // Without anything new, what is no longer wanted goes.
    let fewer = BTreeSet::from([at(1145, Family::Ipv6, 10001)]);
    assert_eq!(admissible(&fewer, &former, &foreign), (fewer.clone(), Vec::new()));
    assert_eq!(admissible(&moved, &former, &[]), (moved.clone(), Vec::new()));
}
