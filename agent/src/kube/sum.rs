//! The status of objects: what the agents of all nodes say about them, summed up. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pace::Now;
use crate::api::{ConflictStatus, FailedNode, ImportTotals, NodeRoutingState, ObjectStatus, RuleStatus};
use crate::intent::types::ObjectRef;
use crate::status::reason::{self, condition};
use crate::status::{ConditionSet, ConditionStatus};

/// Nodes that a status names at most.
const MAX_FAILED: usize = 10;
/// Nodes that a message names at most.
const MAX_NAMED: usize = 3;
/// Fields of a status that change with traffic alone.
const NUMBERS: [&str; 4] = ["flows", "steeredPackets", "wouldSteerPackets", "routes"];

/// What is needed of an object as the API server has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Raw {
    pub(super) name: String,
    pub(super) generation: i64,
    pub(super) spec: Value,
    pub(super) status: Value,
}

impl Raw {
    pub(super) fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        Self {
            name: metadata["name"].as_str().unwrap_or_default().to_owned(),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            spec: object["spec"].clone(),
            status: object.get("status").cloned().unwrap_or_else(|| json!({})),
        }
    }
}

/// What one agent says, as far as objects are judged by it.
#[derive(Debug)]
pub(super) struct NodeReport {
    seen: Instant,
    /// Most nodes say the same: then they share it.
    objects: Arc<[ObjectStatus]>,
    conflicts: Vec<ConflictStatus>,
    /// (owner, received, accepted, rejected, programmed, limited)
    imports: Vec<(String, ImportTotals, bool)>,
    /// Interfaces that learn: (name, attached, steered, would steer)
    interfaces: Vec<(String, bool, u64, u64)>,
    flows: u64,
}

/// What all agents say.
#[derive(Debug, Default)]
pub(super) struct Reports {
    nodes: BTreeMap<String, NodeReport>,
    /// Nodes of a running list.
    listing: Option<BTreeSet<String>>,
    whole: bool,
    shared: HashSet<Arc<[ObjectStatus]>>,
}

impl Reports {
    pub(super) fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    pub(super) fn end(&mut self) {
        if let Some(listed) = self.listing.take() {
            self.nodes.retain(|name, _| listed.contains(name));
        }
        self.whole = true;
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether all agents were heard of at least once.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Number of nodes.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn put(&mut self, state: &NodeRoutingState, now: Instant) {
        let name = state.metadata.name.clone().unwrap_or_default();
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        // An object that was made and has no status yet says nothing.
        let Some(status) = &state.status else { return };
        let mut objects = status.objects.clone();
        objects.sort();
        let objects: Arc<[ObjectStatus]> = objects.into();
        let objects = self.shared.get(&objects).cloned().unwrap_or(objects);
        self.shared.retain(|known| Arc::strong_count(known) > 1);
        self.shared.insert(Arc::clone(&objects));
        let import = |it: &crate::api::ImportStatus| {
            let totals = ImportTotals {
                received: it.routes.learned,
                accepted: it.routes.accepted,
                rejected: it.routes.rejected.values().sum(),
                programmed: it.routes.programmed,
            };
            let limited = it.routes.rejected.contains_key(reason::MAX_ROUTES);
            it.owners.iter().map(|owner| (owner.clone(), totals.clone(), limited)).collect::<Vec<_>>()
        };
        let learning = status.return_path.interfaces.iter().filter(|it| it.learns);
        let report = NodeReport {
            seen: now,
            objects,
            conflicts: status.conflicts.clone(),
            imports: status.imports.iter().flat_map(import).collect(),
            interfaces: learning
                .map(|it| {
                    let attached = it.state == reason::ATTACHED;
                    (it.name.clone(), attached, it.counters.steered, it.counters.would_steer)
                })
                .collect(),
            flows: status
                .return_path
                .maps
                .iter()
                .filter(|map| map.name.starts_with("rp_flows"))
                .filter_map(|map| map.entries)
                .sum(),
        };
        self.nodes.insert(name, report);
    }

    /// The status that each object should have. `silent`: an agent that has said nothing for so long does not count as ready.
    pub(super) fn judge(
        &self,
        objects: &BTreeMap<ObjectRef, Raw>,
        Now { instant, time }: Now,
        silent: Duration,
    ) -> Vec<(ObjectRef, Value)> {
        let groups = self.groups(instant, silent);
        let status = |(object, raw): (&ObjectRef, &Raw)| {
            let verdict = Verdict::of(object, raw, &groups, self);
            (object.clone(), verdict.status(object, raw, time))
        };
        objects.iter().map(status).collect()
    }

    /// Nodes that say the same of all objects.
    fn groups(&self, now: Instant, silent: Duration) -> Vec<Group<'_>> {
        let mut groups: HashMap<(*const ObjectStatus, bool), Group<'_>> = HashMap::new();
        for (name, report) in &self.nodes {
            let silent = now.saturating_duration_since(report.seen) > silent;
            let group = groups.entry((report.objects.as_ptr(), silent)).or_insert_with(|| Group {
                entries: report.objects.iter().map(|it| ((it.kind.as_str(), it.name.as_str()), it)).collect(),
                nodes: Vec::new(),
                silent,
            });
            group.nodes.push(name);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        // The same nodes are named each time.
        groups.sort_by(|a, b| a.nodes.cmp(&b.nodes));
        groups
    }
}

struct Group<'a> {
    entries: HashMap<(&'a str, &'a str), &'a ObjectStatus>,
    nodes: Vec<&'a str>,
    silent: bool,
}

/// Nodes with a reason, and the message of the first of them.
#[derive(Debug, Default)]
struct Named<'a> {
    nodes: Vec<&'a str>,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Named<'a> {
    fn add(&mut self, nodes: &[&'a str], reason: &'a str, message: &'a str) {
        if self.nodes.is_empty() {
            (self.reason, self.message) = (reason, message);
        }
        self.nodes.extend(nodes);
    }

    fn text(&self) -> String {
        let shown = self.nodes.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = self.nodes.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let colon = if self.message.is_empty() { "" } else { ": " };
        format!("{shown}{more}{colon}{}", self.message)
    }
}

/// What became of one object.
#[derive(Debug, Default)]
struct Verdict<'a> {
    matched: u32,
    ready: u32,
    /// Refused as a whole.
    refused: Named<'a>,
    /// Accepted, and not all of it in force.
    unready: Named<'a>,
    /// The agent has not said what it makes of the newest generation.
    behind: Named<'a>,
    conflicted: Named<'a>,
    failed: Vec<FailedNode>,
    totals: ImportTotals,
    limited: Named<'a>,
    /// Nodes on which a rule is left out, and why, by the rule's name.
    rules: BTreeMap<String, (u32, String)>,
    flows: u64,
    steered: u64,
    would_steer: u64,
}

impl<'a> Verdict<'a> {
    fn of(object: &ObjectRef, raw: &Raw, groups: &'a [Group<'a>], reports: &'a Reports) -> Self {
        let mut verdict = Self::default();
        let mut unattached: BTreeSet<&str> = BTreeSet::new();
        if object.kind == "ReturnPath" {
            verdict.add_interfaces(raw, reports, &mut unattached);
        }
        for group in groups {
            let Some(entry) = group.entries.get(&(object.kind.as_str(), object.name.as_str())) else {
                continue;
            };
            verdict.matched += u32::try_from(group.nodes.len()).unwrap_or(u32::MAX);
            let current = entry.generation.is_none_or(|generation| generation >= raw.generation);
            let message = entry.message.as_str();
            if group.silent {
                verdict.unready.add(
                    &group.nodes,
                    reason::AGENT_SILENT,
                    "the agent has not written its state for long",
                );
                verdict.fail(
                    &group.nodes,
                    reason::AGENT_SILENT,
                    "its agent has not written its state for long",
                );
            } else if !current {
                verdict.behind.add(&group.nodes, reason::PENDING, "");
            } else if !entry.accepted {
                verdict.refused.add(&group.nodes, &entry.reason, message);
                verdict.fail(&group.nodes, &entry.reason, message);
            } else if entry.reason != reason::VALID {
                verdict.unready.add(&group.nodes, &entry.reason, message);
                verdict.fail(&group.nodes, &entry.reason, message);
            } else {
                let (bad, good): (Vec<&str>, Vec<&str>) =
                    group.nodes.iter().partition(|node| unattached.contains(*node));
                if !bad.is_empty() {
                    verdict.unready.add(
                        &bad,
                        reason::ATTACH_FAILED,
                        "programs are not attached to all interfaces",
                    );
                }
                verdict.ready += u32::try_from(good.len()).unwrap_or(u32::MAX);
            }
        }
        verdict.add_conflicts(object, reports);
        if object.kind == "RouteImport" {
            verdict.add_imports(object, reports);
        }
        verdict
    }

    fn fail(&mut self, nodes: &[&str], reason: &str, message: &str) {
        let room = MAX_FAILED.saturating_sub(self.failed.len());
        self.failed.extend(nodes.iter().take(room).map(|node| FailedNode {
            node: (*node).to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        }));
    }

    fn add_conflicts(&mut self, object: &ObjectRef, reports: &'a Reports) {
        for (name, report) in &reports.nodes {
            let ours = report.conflicts.iter().filter(|it| it.kind == object.kind && it.name == object.name);
            for (index, conflict) in ours.enumerate() {
                if index == 0 {
                    self.conflicted.add(&[name], &conflict.reason, &conflict.message);
                }
                let rule = conflict.item.strip_prefix("rules[").and_then(|item| item.strip_suffix(']'));
                if let Some(rule) = rule {
                    let entry = self.rules.entry(rule.to_owned()).or_insert((0, conflict.reason.clone()));
                    entry.0 += 1;
                }
            }
        }
    }

    fn add_imports(&mut self, object: &ObjectRef, reports: &'a Reports) {
        let owner = object.to_string();
        for (name, report) in &reports.nodes {
            for (_, totals, limited) in report.imports.iter().filter(|(it, _, _)| *it == owner) {
                self.totals.received += totals.received;
                self.totals.accepted += totals.accepted;
                self.totals.rejected += totals.rejected;
                self.totals.programmed += totals.programmed;
                if *limited {
                    self.limited.add(&[name], reason::MAX_ROUTES, "");
                }
            }
        }
    }

    fn add_interfaces(&mut self, raw: &Raw, reports: &'a Reports, unattached: &mut BTreeSet<&'a str>) {
        let patterns: Vec<&str> = raw.spec["interfaces"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|interface| interface["name"].as_str())
            .collect();
        for (name, report) in &reports.nodes {
            let ours = report.interfaces.iter().filter(|(interface, ..)| {
                patterns.iter().any(|pattern| glob_match::glob_match(pattern, interface))
            });
            let mut any = false;
            for (_, attached, steered, would_steer) in ours {
                any = true;
                self.steered += steered;
                self.would_steer += would_steer;
                if !attached {
                    unattached.insert(name);
                }
            }
            if any {
                self.flows += report.flows;
            }
        }
    }

    /// The whole status, with the times of transition that it had.
    fn status(&self, object: &ObjectRef, raw: &Raw, now: jiff::Timestamp) -> Value {
        let conditions = self.conditions(object, raw, now);
        let observed = if self.matched > 0 && self.behind.nodes.is_empty() {
            json!(raw.generation)
        } else {
            raw.status["observedGeneration"].clone()
        };
        let mut status = match object.kind.as_str() {
            "DataplaneConfig" => json!({}),
            "VRFAttachment" => {
                json!({"matchedNodes": self.matched, "readyNodes": self.ready, "failedNodes": self.failed})
            }
            "RouteImport" => {
                json!({"matchedNodes": self.matched, "programmedNodes": self.ready, "routes": self.totals})
            }
            "TrafficPolicy" => {
                json!({"matchedNodes": self.matched, "readyNodes": self.ready, "rules": self.rule_status(raw)})
            }
            _ => json!({
                "matchedNodes": self.matched,
                "attachedNodes": self.ready,
                "flows": self.flows,
                "steeredPackets": self.steered,
                "wouldSteerPackets": self.would_steer,
            }),
        };
        if !observed.is_null() {
            status["observedGeneration"] = observed;
        }
        status["conditions"] = json!(conditions.as_slice());
        status
    }

    fn rule_status(&self, raw: &Raw) -> Vec<RuleStatus> {
        let names =
            raw.spec["rules"].as_array().into_iter().flatten().filter_map(|rule| rule["name"].as_str());
        let in_force = self.matched - len(&self.refused.nodes) - len(&self.behind.nodes);
        names
            .map(|name| {
                let (left_out, reason) = self.rules.get(name).cloned().unwrap_or_default();
                RuleStatus {
                    name: name.to_owned(),
                    programmed_nodes: in_force.saturating_sub(left_out),
                    reason,
                }
            })
            .collect()
    }

    fn conditions(&self, object: &ObjectRef, raw: &Raw, now: jiff::Timestamp) -> ConditionSet {
        let old = serde_json::from_value(raw.status["conditions"].clone()).unwrap_or_default();
        let mut set = ConditionSet::new(old);
        let some = |named: &Named<'_>| (!named.nodes.is_empty()).then(|| named.text());
        let nobody =
            "no agent has reported on it: either nodeSelector matches no node, or no agent runs there";
        let none = self.matched == 0;
        let mut put = |kind: &str, status: ConditionStatus, reason: &str, message: &str| {
            set.set(now, kind, status, reason, message);
        };
        let unknown = ConditionStatus::Unknown;
        let accepted = match some(&self.refused) {
            Some(text) => (ConditionStatus::False, self.refused.reason, text),
            None if none => (unknown, reason::NO_MATCHING_NODE, nobody.to_owned()),
            None => (ConditionStatus::True, reason::VALID, String::new()),
        };
        put(condition::ACCEPTED, accepted.0, accepted.1, &accepted.2);
        if object.kind == "DataplaneConfig" {
            return set;
        }
        let conflicted = some(&self.conflicted);
        let (is_conflicted, why) = match &conflicted {
            Some(_) => (ConditionStatus::True, self.conflicted.reason),
            None => (ConditionStatus::False, reason::ALL_WELL),
        };
        put(condition::CONFLICTED, is_conflicted, why, conflicted.as_deref().unwrap_or_default());
        if object.kind == "RouteImport" {
            let limited = some(&self.limited);
            let why = if limited.is_some() { reason::MAX_ROUTES } else { reason::ALL_WELL };
            put(
                condition::LIMIT_REACHED,
                limited.is_some().into(),
                why,
                limited.as_deref().unwrap_or_default(),
            );
        }
        let in_force = match (some(&self.unready), some(&self.behind)) {
            _ if none => (unknown, reason::NO_MATCHING_NODE, nobody.to_owned()),
            (Some(text), _) => (ConditionStatus::False, self.unready.reason, text),
            (None, Some(text)) => (ConditionStatus::False, reason::PENDING, text),
            (None, None) if self.ready == self.matched => {
                (ConditionStatus::True, reason::ALL_NODES, String::new())
            }
            (None, None) => (ConditionStatus::False, reason::SOME_NODES, self.refused.text()),
        };
        let kind = if object.kind == "ReturnPath" { condition::ATTACHED } else { condition::PROGRAMMED };
        put(kind, in_force.0, in_force.1, &in_force.2);
        let ready = match (accepted.0, is_conflicted, in_force.0) {
            (ConditionStatus::True, ConditionStatus::False, ConditionStatus::True) => {
                (ConditionStatus::True, reason::ALL_NODES, String::new())
            }
            (ConditionStatus::True, ConditionStatus::True, ConditionStatus::True) => {
                (ConditionStatus::False, why, conflicted.unwrap_or_default())
            }
            (ConditionStatus::False, ..) => (ConditionStatus::False, accepted.1, accepted.2),
            _ => in_force,
        };
        put(condition::READY, ready.0, ready.1, &ready.2);
        set
    }
}

fn len(nodes: &[&str]) -> u32 {
    u32::try_from(nodes.len()).unwrap_or(u32::MAX)
}

/// What a status says, whenever that came to be: without times and without what changes with traffic alone.
pub(super) fn content(status: &Value) -> Value {
    let mut status = without_numbers(status);
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        condition.remove("lastTransitionTime");
    }
    status
}

/// A status without what changes with traffic alone.
pub(super) fn without_numbers(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, _| !NUMBERS.contains(&name.as_str()));
    }
    status
}

#[cfg(test)]
mod tests;
