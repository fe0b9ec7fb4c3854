//! The one owner of what is known about the cluster: takes messages, hands out snapshots, and sums up while it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch as latest};

use super::Snapshot;
use super::events::Herald;
use super::node::{ClusterNode, Facts};
use super::pace::{Pace, jitter};
use super::sum::{Raw, Reports, without_numbers};
use super::trouble::Trouble;
use super::watch::{Message, StateChange};
use crate::api::{API_VERSION, GROUP};
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
    /// When the status of an object may be written again: at all, and for its numbers alone.
    next: BTreeMap<ObjectRef, (Instant, Instant)>,
    pace: Pace,
}

/// Runs until the senders are gone.
pub(super) async fn run(
    client: Client,
    inbox: mpsc::Receiver<Message>,
    leading: latest::Receiver<bool>,
    out: latest::Sender<Snapshot>,
    pace: Pace,
) {
    let (writes, queue) = mpsc::channel(256);
    tokio::join!(Hub::new(pace).run(inbox, leading, out, writes), write_all(client, queue));
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
            next: BTreeMap::new(),
            pace,
        }
    }

    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut leading: latest::Receiver<bool>,
        out: latest::Sender<Snapshot>,
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
                        self.publish(&out);
                    }
                }
                _ = tick.tick() => {
                    if self.forgive(Instant::now()) {
                        self.publish(&out);
                    }
                    if *leading.borrow_and_update() {
                        self.sum_up(&writes);
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
    fn sum_up(&mut self, writes: &mpsc::Sender<StatusWrite>) {
        if !self.reports.is_whole() || self.answered.len() < SOURCES {
            return;
        }
        let now = Instant::now();
        let numbers = self.pace.numbers.max(NUMBERS_PER_NODE * self.reports.len());
        let verdicts = self.reports.judge(&self.raw, now, self.pace.silent);
        self.next.retain(|object, _| self.raw.contains_key(object));
        for (object, status) in verdicts {
            let Some(raw) = self.raw.get(&object) else { continue };
            let old = raw.status.clone();
            let (next, next_numbers) = self.next.get(&object).copied().unwrap_or((now, now));
            let only_numbers = without_numbers(&old) == without_numbers(&status);
            let due = if only_numbers { next.max(next_numbers) } else { next };
            if old == status || now < due {
                continue;
            }
            let again = (now + jitter(self.pace.gap), now + jitter(numbers));
            if writes.try_send(StatusWrite { object: object.clone(), old, status }).is_ok() {
                self.next.insert(object, again);
            }
        }
    }
}

/// Writes one status after the other. What fails is found to differ again later.
async fn write_all(client: Client, mut queue: mpsc::Receiver<StatusWrite>) {
    let herald = Herald::new(client.clone(), "backtrail".to_owned());
    let mut told: Option<Trouble> = None;
    while let Some(StatusWrite { object, old, status }) = queue.recv().await {
        let Some((kind, plural)) = KINDS.iter().find(|(kind, _)| *kind == object.kind) else { continue };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1alpha1", kind), plural);
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": object.name},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(&object.name, &params, &Patch::Apply(&body)).await {
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
