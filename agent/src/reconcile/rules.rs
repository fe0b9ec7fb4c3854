//! Policy rules: desired against observed.

use std::collections::BTreeSet;

use crate::model::{Rule, RuleAction};

/// What brings the kernel's rules to the desired ones.
///
/// Between any two steps a packet meets what the old rules say of it, or what the new ones do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleChanges {
    /// To add, first, in this order: a packet must find its rule at every moment.
    pub add: Vec<Rule>,
    /// To delete, after that, in this order. A rule that stands twice is listed once for each copy too many.
    pub delete: Vec<Rule>,
}

impl RuleChanges {
    /// Whether nothing is to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.delete.is_empty()
    }
}

/// The order in which rules are added: as packets meet them, landing places before all jumps. So those that stand are
/// always the first of the new ones, and what ends a packet's way is the end that the old or the new rules have for it.
/// (A jump of either may pass over rules of the other, for as long as both stand.)
fn order(rule: &Rule) -> impl Ord + '_ {
    (rule.action != RuleAction::Nop, rule.priority, rule)
}

/// Puts rules into the order in which they can be deleted: the opposite of that in which they are added.
pub fn sort_for_deletion(rules: &mut [Rule]) {
    rules.sort_by(|a, b| order(b).cmp(&order(a)));
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
    changes.add.sort_by(|a, b| order(a).cmp(&order(b)));
    sort_for_deletion(&mut changes.delete);
    changes
}

/// What may be in force beside foreign rules in the band, and the desired rules that may not.
///
/// Between foreign rules and new ones of ours nobody could say what a packet meets. A family that has foreign ones
/// therefore stays as it is, whole, for as long as it lacks anything: a part of the new rules, or the old ones without
/// those that make way for new ones, would be neither the old policy nor the new one.
#[must_use]
pub fn admissible(
    desired: &BTreeSet<Rule>,
    in_force: &BTreeSet<Rule>,
    foreign: &[Rule],
) -> (BTreeSet<Rule>, Vec<Rule>) {
    let mixed = |rule: &&Rule| foreign.iter().any(|other| other.family == rule.family);
    let held: Vec<Rule> = desired.difference(in_force).filter(mixed).cloned().collect();
    let frozen = |rule: &&Rule| held.iter().any(|other| other.family == rule.family);
    let new = desired.iter().filter(|rule| !frozen(rule));
    (new.chain(in_force.iter().filter(frozen)).cloned().collect(), held)
}
