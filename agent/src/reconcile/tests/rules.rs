//! Policy rules against a list that others change too.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::net;
use crate::model::{Family, Rule, RuleAction};
use crate::reconcile::diff_rules;

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
