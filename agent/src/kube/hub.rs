//! The one owner of what is known about the cluster: takes messages, hands out snapshots, and sums up while it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::{mpsc, watch as latest};

use super::Snapshot;
use super::apply::Applier;
use super::events::Herald;
use super::node::{ClusterNode, Facts};
use super::pace::{Budget, Now, Pace, jitter};
use super::sum::{Raw, Reports, content, without_numbers};
use super::trouble::Trouble;
use super::watch::{Message, StateChange};
use crate::api::GROUP;
use crate::intent::types::ObjectRef;
use crate::intent::{Change, ClusterObjects, KINDS};
use crate::status::reason;

/// Everything that a node needs to have heard of once.
const SOURCES: usize = KINDS.len() + 1;
/// A watch pauses for half a minute at most: what has not failed for so long works again.
const FORGIVEN: Duration = Duration::from_secs(75);
/// Field manager of what the agent that sums up writes: the same for each, so that the next one takes over its fields.
const MANAGER: &str = "backtrail-sum";
/// For each node that follows an object, its sums are written so much more rarely: every write is an event for each node.
const NUMBERS_PER_NODE: Duration = Duration::from_millis(60);

/// The status of an object, to be written.
struct StatusWrite {
    object: ObjectRef,
    old: Value,
    status: Value,
}

struct Hub {
    objects: ClusterObjects,
    raw: BTreeMap<ObjectRef, Raw>,
    /// Names in a running list, by kind.
    listing: BTreeMap<&'static str, BTreeSet<String>>,
    node: Option<ClusterNode>,
    facts: Facts,
    /// Kinds, and the node, about which the server has said something.
    answered: BTreeSet<&'static str>,
    troubles: BTreeMap<&'static str, (Instant, Trouble)>,
    /// What was logged since everything last worked: each trouble once, however often it comes and goes.
    told: Vec<Trouble>,
    reports: Reports,
    /// News: an object was edited, or a status written.
    owed: Option<bool>,
    /// Of every object whose status was written.
    paced: BTreeMap<ObjectRef, Paced>,
    /// Of all of them together.
    budget: Budget,
    pace: Pace,
}

/// When the status of an object may be written again.
struct Paced {
    /// At all.
    next: Instant,
    /// For its numbers alone.
    numbers: Instant,
    /// The [`content`] of what was written.
    written: Value,
    /// How often that was written before and did not stay: writing failed, or the CRD is older and lacks a field of it.
    lost: u32,
}

/// Between the hub and the other parts of the edge.
pub(super) struct Links {
    /// Whether this agent sums up.
    pub(super) leading: latest::Receiver<bool>,
    /// Whether an edit waits for a status that answers it.
    pub(super) owed: latest::Sender<bool>,
    pub(super) out: latest::Sender<Snapshot>,
}

/// Runs until the senders are gone.
pub(super) async fn run(client: Client, inbox: mpsc::Receiver<Message>, links: Links, pace: Pace) {
    let (writes, queue) = mpsc::channel(256);
    tokio::join!(Hub::new(pace).run(inbox, links, writes), write_all(client, queue, pace));
}

impl Hub {
    fn new(pace: Pace) -> Self {
        Self {
            objects: ClusterObjects::default(),
            raw: BTreeMap::new(),
            listing: BTreeMap::new(),
            node: None,
            facts: Facts::default(),
            answered: BTreeSet::new(),
            troubles: BTreeMap::new(),
            told: Vec::new(),
            reports: Reports::default(),
            owed: None,
            paced: BTreeMap::new(),
            budget: Budget::new(Instant::now()),
            pace,
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut links: Links,
        writes: mpsc::Sender<StatusWrite>,
    ) {
        let mut tick = tokio::time::interval(self.pace.look);
        loop {
            tokio::select! {
                message = inbox.recv() => {
                    let Some(message) = message else { return };
                    let mut changed = self.take(message);
                    // A list is taken whole before anything is published.
                    while let Ok(message) = inbox.try_recv() {
                        changed |= self.take(message);
                    }
                    if changed {
                        self.publish(&links.out);
                    }
                    if let Some(owed) = self.owed.take() {
                        links.owed.send_if_modified(|now| std::mem::replace(now, owed) != owed);
                    }
                }
                _ = tick.tick() => {
                    if self.forgive(Instant::now()) {
                        self.publish(&links.out);
                    }
                    if *links.leading.borrow_and_update() {
                        self.sum_up(&writes, Now::read());
                    } else {
                        self.reports.clear();
                    }
                }
            }
        }
    }

    /// Takes a message; tells whether a snapshot would be another now.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Object(kind, change) => self.take_object(kind, change),
            Message::Node(node) => self.take_node(node.as_deref()),
            Message::Facts(facts) => {
                self.facts = facts;
                let Some(node) = &mut self.node else { return false };
                let changed = node.facts != self.facts;
                node.facts = self.facts.clone();
                changed
            }
            Message::State(change) => {
                match change {
                    StateChange::Begin => self.reports.begin(),
                    StateChange::Put(state) => self.reports.put(&state, Instant::now()),
                    StateChange::End => self.reports.end(),
                    StateChange::Delete(name) => self.reports.delete(&name),
                }
                false
            }
            Message::Trouble(what, None) => self.troubles.remove(what).is_some(),
            Message::Trouble(what, Some(trouble)) => self.take_trouble(what, trouble),
            Message::Reached => {
                let before = self.troubles.len();
                self.troubles.retain(|_, (_, trouble)| trouble.reason != reason::API_SERVER_AWAY);
                self.troubles.len() != before
            }
        }
    }

    fn take_object(&mut self, kind: &'static str, change: Change) -> bool {
        let object = |name: &str| ObjectRef { kind: kind.to_owned(), name: name.to_owned() };
        match &change {
            Change::Begin => {
                self.listing.insert(kind, BTreeSet::new());
            }
            Change::Item(value) | Change::Put(value) => {
                let raw = Raw::of(value);
                if matches!(change, Change::Item(_)) {
                    self.listing.entry(kind).or_default().insert(raw.name.clone());
                }
                let before = self.raw.get(&object(&raw.name));
                if before.is_some_and(|old| old.status != raw.status) {
                    self.owed = Some(false);
                } else if matches!(change, Change::Put(_))
                    && before.is_none_or(|old| old.generation != raw.generation)
                {
                    self.owed = Some(true);
                }
                self.raw.insert(object(&raw.name), raw);
            }
            Change::End => {
                let listed = self.listing.remove(kind).unwrap_or_default();
                self.raw.retain(|object, _| object.kind != kind || listed.contains(&object.name));
                self.answered.insert(kind);
            }
            Change::Delete(name) => {
                self.raw.remove(&object(name));
            }
        }
        self.objects.apply(kind, change)
    }

    fn take_node(&mut self, node: Option<&k8s_openapi::api::core::v1::Node>) -> bool {
        let mut changed = self.answered.insert("Node");
        match node {
            Some(node) => {
                let node = ClusterNode::of(node, self.facts.clone());
                changed |= self.troubles.remove("Node").is_some() | (self.node.as_ref() != Some(&node));
                self.node = Some(node);
            }
            // Its labels as they were stay: a Node that goes must not take routes with it.
            None => {
                let text = "the cluster has no Node of this name: --node-name (or NODE_NAME) must be the Node's metadata.name";
                changed |= self.take_trouble("Node", Trouble::new(reason::NODE_NOT_FOUND, text));
            }
        }
        changed
    }

    fn take_trouble(&mut self, what: &'static str, trouble: Trouble) -> bool {
        let answer = trouble.reason != reason::API_SERVER_AWAY;
        let mut changed = answer && self.answered.insert(what);
        if !self.told.contains(&trouble) {
            tracing::warn!(what, reason = trouble.reason, "{}; what is in force stays", trouble.message);
            self.told.push(trouble.clone());
            changed = true;
        }
        self.troubles.insert(what, (Instant::now(), trouble));
        changed
    }

    /// Drops troubles that have not come again; tells whether there were any.
    fn forgive(&mut self, now: Instant) -> bool {
        let before = self.troubles.len();
        self.troubles.retain(|_, (since, trouble)| {
            trouble.reason == reason::NODE_NOT_FOUND || now.saturating_duration_since(*since) < FORGIVEN
        });
        self.troubles.len() != before
    }

    fn publish(&mut self, out: &latest::Sender<Snapshot>) {
        let snapshot = Snapshot {
            loaded: Arc::new(self.objects.loaded()),
            node: self.node.clone(),
            trouble: self.troubles.values().next().map(|(_, trouble)| trouble.clone()),
            answered: self.answered.len() >= SOURCES,
        };
        if snapshot.trouble.is_none() && !self.told.is_empty() {
            self.told.clear();
            tracing::info!("the API server is reached again");
        }
        out.send_if_modified(|old| {
            let changed = *old != snapshot;
            *old = snapshot;
            changed
        });
    }

    /// Writes the status of every object that has changed, at the pace that it may.
    fn sum_up(&mut self, writes: &mpsc::Sender<StatusWrite>, time: Now) {
        let now = time.instant;
        if !self.reports.is_whole() || self.answered.len() < SOURCES {
            return;
        }
        let numbers = self.pace.numbers.max(NUMBERS_PER_NODE * self.reports.len());
        let verdicts = self.reports.judge(&self.raw, time, self.pace.silent);
        self.paced.retain(|object, _| self.raw.contains_key(object));
        let mut due = Vec::new();
        for (object, status) in verdicts {
            let Some(old) = self.raw.get(&object).map(|raw| raw.status.clone()) else { continue };
            let paced = self.paced.get(&object);
            let only_numbers = without_numbers(&old) == without_numbers(&status);
            let next = paced.map(|it| if only_numbers { it.next.max(it.numbers) } else { it.next });
            if old != status && next.is_none_or(|next| now >= next) {
                due.push((only_numbers, next, StatusWrite { object, old, status }));
            }
        }
        // Where not all can be written, those go first that have waited longest, numbers alone last.
        due.sort_by_key(|(only_numbers, next, _)| (*only_numbers, *next));
        for (only_numbers, _, write) in due {
            if !self.budget.take(now, self.reports.len()) {
                return;
            }
            // What does not stay is tried ever more rarely.
            let paced = self.paced.get(&write.object);
            let written = content(&write.status);
            let lost = paced.filter(|it| !only_numbers && it.written == written).map_or(0, |it| it.lost + 1);
            let again = Paced {
                next: now + jitter(self.pace.gap * (1 << lost.min(5))),
                numbers: now + jitter(numbers),
                written,
                lost,
            };
            let object = write.object.clone();
            if writes.try_send(write).is_ok() {
                self.paced.insert(object, again);
            }
        }
    }
}

/// Writes one status after the other. What fails is found to differ again later.
async fn write_all(client: Client, mut queue: mpsc::Receiver<StatusWrite>, pace: Pace) {
    let herald = Herald::new(client.clone(), "backtrail".to_owned());
    let mut told: Option<Trouble> = None;
    let mut applier = Applier::new(MANAGER, pace.gap * 3);
    while let Some(StatusWrite { object, old, status }) = queue.recv().await {
        let Some((kind, plural)) = KINDS.iter().find(|(kind, _)| *kind == object.kind) else { continue };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1alpha1", kind), plural);
        let api = Api::all_with(client.clone(), &resource);
        match applier.apply(&api, kind, &object.name, &status, Instant::now()).await {
            Ok(written) => {
                told = None;
                herald.object_changed(&object, written.metadata.uid, &old, &status).await;
            }
            // It was deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                let trouble = Trouble::of(&object.kind, &error);
                if trouble.is_some() && trouble != told {
                    tracing::warn!(%error, %object, "its status cannot be written");
                    told = trouble;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
