//! Policy rules: desired against observed.

use std::collections::BTreeSet;

use crate::model::Rule;

/// What brings the kernel's rules to the desired ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleChanges {
    /// To add, first: a packet must find its rule at every moment.
    pub add: Vec<Rule>,
    /// To delete, after that. A rule that stands twice is listed once for each copy too many.
    pub delete: Vec<Rule>,
}

impl RuleChanges {
    /// Whether nothing is to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.delete.is_empty()
    }
}

/// The difference between the desired rules and those of ours that the kernel shows.
///
/// Only rules that carry `protocol` are ours to delete, wherever they stand.
#[must_use]
pub fn diff_rules(desired: &BTreeSet<Rule>, observed: &[Rule], protocol: u8) -> RuleChanges {
    let mut seen = BTreeSet::new();
    let mut changes = RuleChanges::default();
    for rule in observed.iter().filter(|rule| rule.protocol == protocol) {
        if !desired.contains(rule) || !seen.insert(rule) {
            changes.delete.push(rule.clone());
        }
    }
    changes.add = desired.iter().filter(|rule| !seen.contains(rule)).cloned().collect();
    changes
}

/// Holds back what may not be added while foreign rules stand in the band: between them and ours nobody could say what
/// a packet meets. What was in force stays, and is mended. Returns what is held back.
pub fn held_back(changes: &mut RuleChanges, in_force: &BTreeSet<Rule>, foreign: &[Rule]) -> Vec<Rule> {
    let mixed = |rule: &Rule| foreign.iter().any(|other| other.family == rule.family);
    let (held, add) = changes.add.drain(..).partition(|rule| mixed(rule) && !in_force.contains(rule));
    changes.add = add;
    held
}
