//! From what should be to what is: the difference, in the kernel's operations, and what became of each.
//!
//! The [`Engine`] is a pure state machine: FPM events, plans, dumps, notifications and acknowledgements go in,
//! batches of operations come out. It keeps, for each route of ours, what the kernel holds; a change anywhere marks
//! keys *dirty*, and only dirty keys are evaluated. An evaluation that finds the kernel as desired emits nothing:
//! that is why a restart, a reconnect or a reload changes nothing that need not change.

mod audit;
mod batch;
mod bodies;
mod contested;
mod contributions;
mod devices;
mod evaluate;
mod failover;
mod feedback;
mod learn;
mod nexthops;
mod outcome;
mod preview;
mod queue;
mod report;
mod room;
mod rules;
mod tables;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use zebra_fpm::session::Feed;

pub use self::audit::Audit;
use self::audit::Losses;
use self::batch::{Ops, Pending};
use self::bodies::{Bodies, BodySlot, NO_BODY};
use self::contested::Contested;
pub use self::devices::device_ops;
use self::evaluate::Outcome;
use self::feedback::Answers;
use self::nexthops::{GroupSlot, NexthopOp, Nexthops};
use self::queue::{Burst, Queue};
pub use self::report::{Counts, ImportCounts, RouteList, RouteView, TableCounts};
use self::room::Waiting;
pub use self::rules::{RuleChanges, admissible, diff_rules, sort_for_deletion};
use self::tally::{Judgements, Tallies};
use crate::intent::types::Config;
use crate::model::RouteKey;
use crate::plan::{ImportPlan, Plan, ZebraTables};
use crate::rib::{Generation, Rib, Scope, Slot};

/// Operations of one batch at most: large enough to keep the kernel busy, small enough to answer in between.
const MAX_BATCH: usize = 8192;
/// Batches under way at most: one being applied, the others so that the writer never waits for us while we read a
/// burst of updates.
const MAX_IN_FLIGHT: usize = 4;
/// First delay before a refused route is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Delay before refused nexthop objects are tried again.
const NEXTHOP_RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A (table, metric) that routes go into, numbered for the entries.
type TargetId = Scope;
/// What an entry is for.
type Key = (TargetId, IpNet);

/// The kernel holds the route.
const INSTALLED: u8 = 1;
/// Found in a dump, not confirmed by FRR or a manifest since.
const ADOPTED: u8 = 2;
/// An operation on it is under way.
const IN_FLIGHT: u8 = 4;
/// Seen in the dump that is being read.
const SEEN: u8 = 8;
/// Waits to be evaluated: in the queue or, where an operation is under way, for its end.
const DIRTY: u8 = 16;
/// The kernel refused it: `Engine::failures` has more.
const FAILED: u8 = 32;
/// Changed since the comparison began: the dump tells nothing of it.
const CHANGED: u8 = 64;

/// What the kernel holds for a key, or what is being done about it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    body: BodySlot,
    /// Which imports it comes from (index into `Engine::contributions`); 0: none.
    contribution: u16,
    flags: u8,
}

impl Default for Entry {
    fn default() -> Self {
        Self { body: NO_BODY, contribution: 0, flags: 0 }
    }
}

impl Entry {
    /// Whether there is a route, in the kernel or waiting for its way out.
    fn is_held(&self) -> bool {
        self.body != NO_BODY
    }
}

/// Why a route of ours is not in the kernel as it should be.
#[derive(Debug, Clone)]
struct Failure {
    errno: i32,
    text: String,
    retry_at: Instant,
    delay: Duration,
}

/// What FRR's nexthop id means to one import: memo of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct View {
    import: u16,
    generation: Generation,
    id: u32,
    v6: bool,
}

/// Counters of the engine since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Operations acknowledged.
    pub operations: u64,
    /// Operations refused by the kernel.
    pub refused: u64,
    /// Objects of ours that somebody else removed or changed, and that were mended.
    pub drift: u64,
    /// Batches acknowledged.
    pub batches: u64,
}

/// Desired against kernel state, for routes and nexthops.
pub struct Engine {
    rib: Rib<Entry>,
    feed: Feed,
    zebra: ZebraTables,
    plan: Plan,
    protocol: u8,
    targets: Vec<(u32, u32)>,
    target_index: FxHashMap<(u32, u32), TargetId>,
    bodies: Bodies,
    nexthops: Nexthops,
    contributions: Vec<SmallVec<[u16; 2]>>,
    contribution_index: FxHashMap<SmallVec<[u16; 2]>, u16>,
    /// Prefixes that each import contributes to.
    accepted: Vec<u64>,
    /// Imports at whose limit new prefixes were rejected, until an edit (`onLimit: Freeze`).
    frozen: BTreeSet<u16>,
    /// What imports turned away for lack of room.
    limited: BTreeMap<u16, Waiting>,
    /// Imports that keep what was not announced again.
    held: Vec<bool>,
    views: FxHashMap<View, Outcome>,
    views_of: FxHashMap<u32, SmallVec<[View; 1]>>,
    /// FRR nexthop ids that routes use in ways that views do not cover.
    direct_ids: FxHashSet<u32>,
    changed_ids: FxHashSet<u32>,
    queue: Queue,
    burst: Burst,
    failures: FxHashMap<Slot, Failure>,
    retries: BTreeSet<(Instant, Slot)>,
    tallies: Tallies,
    judgements: Judgements,
    /// Some of the routes that no import takes, the latest ones.
    samples: VecDeque<Slot>,
    in_flight: FxHashMap<u64, Vec<Pending>>,
    next_batch: u64,
    /// Nothing is written: a comparison is about to begin, or is the first one.
    suspended: bool,
    /// The dump of nexthop objects has been taken over, that of routes goes on.
    comparing: bool,
    /// The first comparison has ended: what an earlier agent left is known.
    adopted: bool,
    /// Since the dump began that is being read.
    losses: Losses,
    nexthop_retry: Option<Instant>,
    contested: Contested,
    /// Nexthop objects and groups that the kernel refuses, in its words.
    nexthop_failures: BTreeMap<NexthopOp, String>,
    audit_wanted: bool,
    /// Bodies that routes wait for: their group is not in the kernel.
    waiting: FxHashSet<BodySlot>,
    /// A limited import may have room again.
    has_room: bool,
    /// Groups that routes use in ways that views do not cover: never changed in place.
    shared_groups: FxHashSet<GroupSlot>,
    /// Groups whose routes rest in another one, and groups with a twin: never changed in place either.
    aliased_groups: FxHashSet<GroupSlot>,
    /// Entries for whose routes there is no nexthop id.
    starved: FxHashSet<Slot>,
    dirty_since: Option<Instant>,
    latency: Option<Duration>,
    stats: EngineStats,
    answers: Answers,
}

impl Engine {
    /// An engine that knows nothing yet. `synced_pid` is the zebra whose state an earlier agent held whole.
    #[must_use]
    pub fn new(config: &Config, now: Instant, synced_pid: Option<u32>) -> Self {
        Self {
            rib: Rib::default(),
            feed: Feed::new(now, synced_pid),
            zebra: ZebraTables::default(),
            plan: Plan::default(),
            protocol: config.route_protocol,
            targets: Vec::new(),
            target_index: FxHashMap::default(),
            bodies: Bodies::default(),
            nexthops: Nexthops::new(config.nexthop_ids, config.route_protocol),
            contributions: vec![SmallVec::new()],
            contribution_index: FxHashMap::default(),
            accepted: Vec::new(),
            frozen: BTreeSet::new(),
            limited: BTreeMap::new(),
            held: Vec::new(),
            views: FxHashMap::default(),
            views_of: FxHashMap::default(),
            direct_ids: FxHashSet::default(),
            changed_ids: FxHashSet::default(),
            queue: Queue::default(),
            burst: Burst::default(),
            failures: FxHashMap::default(),
            retries: BTreeSet::new(),
            tallies: Tallies::default(),
            judgements: Judgements::default(),
            samples: VecDeque::new(),
            in_flight: FxHashMap::default(),
            next_batch: 0,
            suspended: false,
            comparing: false,
            adopted: false,
            losses: Losses::default(),
            nexthop_retry: None,
            contested: Contested::default(),
            nexthop_failures: BTreeMap::new(),
            audit_wanted: false,
            waiting: FxHashSet::default(),
            has_room: false,
            shared_groups: FxHashSet::default(),
            aliased_groups: FxHashSet::default(),
            starved: FxHashSet::default(),
            dirty_since: None,
            latency: None,
            stats: EngineStats::default(),
            answers: Answers::default(),
        }
    }

    /// What FRR taught us.
    #[must_use]
    pub fn rib(&self) -> &Rib<Entry> {
        &self.rib
    }

    /// The state of the feed.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    // ===== inputs: plan and links =====

    /// Puts another plan in force. What it judges differently is looked at again; what stays the same is not touched.
    pub fn set_plan(&mut self, plan: Plan, now: Instant) {
        if plan.judges_like(&self.plan) {
            return self.set_static_routes(plan, now);
        }
        let identity = |import: &ImportPlan| {
            let spec = &import.import;
            (spec.from_table, spec.from_interfaces.clone(), spec.into.table, spec.metric)
        };
        let held: Vec<bool> = plan
            .imports
            .iter()
            .map(|import| {
                let old = self.plan.imports.iter().position(|old| identity(old) == identity(import));
                old.and_then(|old| self.held.get(old).copied()).unwrap_or(!self.feed.is_synchronized())
            })
            .collect();
        self.plan = plan;
        self.rib.set_limit(self.plan.max_learned_routes());
        self.held = held;
        self.accepted = vec![0; self.plan.imports.len()];
        self.frozen.clear();
        self.limited.clear();
        self.contributions = vec![SmallVec::new()];
        self.contribution_index.clear();
        // Contributions are renumbered with the imports: they are counted anew as keys are evaluated.
        self.recount();
        self.presume_adopted();
        self.forget_views();
        self.answers.review = true;
        self.mark_everything(now);
    }

    /// The usual case, such as after a link's change: a table of a million learned routes is not looked at.
    fn set_static_routes(&mut self, plan: Plan, now: Instant) {
        let old = std::mem::replace(&mut self.plan, plan);
        let gone = old.static_routes.keys().filter(|key| !self.plan.static_routes.contains_key(key));
        let new = self.plan.static_routes.iter();
        let new =
            new.filter(|(key, fixed)| old.static_routes.get(key).map(|was| &was.route) != Some(&fixed.route));
        let changed: Vec<RouteKey> = gone.chain(new.map(|(key, _)| key)).copied().collect();
        for key in changed {
            self.mark_key((key.table, key.metric), &key.prefix, now);
        }
    }

    fn forget_views(&mut self) {
        self.views.clear();
        self.views_of.clear();
        self.direct_ids.clear();
    }

    fn mark_everything(&mut self, now: Instant) {
        let mut wanted: Vec<(Slot, (u32, u32))> = Vec::new();
        for (slot, table, prefix, _) in self.rib.iter() {
            wanted.extend(self.plan.imports_from(table).map(|(_, import)| (slot, import.target(&prefix))));
        }
        for (slot, target) in wanted {
            self.mark_beside(slot, target, now);
        }
        let fixed: Vec<RouteKey> = self.plan.static_routes.keys().copied().collect();
        for key in fixed {
            self.mark_key((key.table, key.metric), &key.prefix, now);
        }
        let entries: Vec<Slot> = self.rib.entries().map(|(slot, ..)| slot).collect();
        self.mark_all(entries, now);
    }

    /// Has an entry evaluated; one with an operation under way afterwards.
    fn mark(&mut self, slot: Slot, now: Instant) {
        // Waiting counts for nothing.
        let Some((_, entry)) = self.rib.entry_mut(slot) else { return };
        if entry.flags & DIRTY != 0 {
            return;
        }
        entry.flags |= DIRTY;
        if entry.flags & IN_FLIGHT == 0 {
            self.queue.push(slot, entry.is_held());
        }
        self.dirty_since.get_or_insert(now);
    }

    fn mark_all(&mut self, slots: impl IntoIterator<Item = Slot>, now: Instant) {
        slots.into_iter().for_each(|slot| self.mark(slot, now));
    }

    fn mark_key(&mut self, target: (u32, u32), prefix: &IpNet, now: Instant) {
        let id = self.target_id(target);
        if let Some(slot) = id.and_then(|id| self.rib.entry_at(id, prefix)) {
            self.mark(slot, now);
        }
    }

    /// Has evaluated what goes into `target` for the prefix of a record.
    fn mark_beside(&mut self, slot: Slot, target: (u32, u32), now: Instant) {
        let id = self.target_id(target);
        if let Some(slot) = id.and_then(|id| self.rib.entry_beside(slot, id)) {
            self.mark(slot, now);
        }
    }

    /// The number of a (table, metric); `None`: the 65,536th, which is not programmed.
    fn target_id(&mut self, target: (u32, u32)) -> Option<TargetId> {
        if let Some(id) = self.target_index.get(&target) {
            return Some(*id);
        }
        let id = TargetId::try_from(self.targets.len()).ok().filter(|id| *id != TargetId::MAX)?;
        self.targets.push(target);
        self.target_index.insert(target, id);
        Some(id)
    }

    fn route_key(&self, (target, prefix): Key) -> RouteKey {
        let (table, metric) = self.targets.get(usize::from(target)).copied().unwrap_or_default();
        RouteKey { table, prefix, metric }
    }

    /// What is held for a key of the kernel.
    fn held_at(&self, table: u32, metric: u32, prefix: &IpNet) -> Option<(Slot, Entry)> {
        let slot = self.rib.find_entry(*self.target_index.get(&(table, metric))?, prefix)?;
        self.rib.entry(slot).map(|(_, _, entry)| (slot, entry)).filter(|(_, entry)| entry.is_held())
    }

    /// What is held in `target` for the prefix of a record.
    fn held_beside(&self, slot: Slot, target: (u32, u32)) -> Option<(Slot, Entry)> {
        let slot = self.rib.find_beside(slot, *self.target_index.get(&target)?)?;
        self.rib.entry(slot).map(|(_, _, entry)| (slot, entry)).filter(|(_, entry)| entry.is_held())
    }

    /// All that is held.
    fn held(&self) -> impl Iterator<Item = (Slot, Key, &Entry)> + '_ {
        let entries = self.rib.entries().filter(|(.., entry)| entry.is_held());
        entries.map(|(slot, target, prefix, entry)| (slot, (target, prefix), entry))
    }

    /// Removes an entry that says nothing any more.
    fn tidy(&mut self, slot: Slot) {
        let idle = |entry: &Entry| !entry.is_held() && entry.flags & (DIRTY | IN_FLIGHT | FAILED) == 0;
        if self.rib.entry(slot).is_some_and(|(_, _, entry)| idle(&entry)) {
            self.rib.drop_entry(slot);
        }
    }

    /// Tells on which links nexthops can exist now.
    pub fn set_usable_links(&mut self, usable: BTreeSet<u32>, now: Instant) {
        let lost = self.nexthops.unusable_in(&usable);
        self.note_losses(|losses| losses.links.extend(&lost));
        let gone = self.nexthops.set_usable(usable);
        self.groups_vanished(&gone, now);
        let inline = self.bodies.inline_on(&lost);
        self.bodies_vanished(&inline, now);
        self.settle_lodgers(now);
    }

    /// The kernel dropped the nexthops of these links and, without a notification, the routes that lived by them
    /// alone: links that went down, lost their carrier, or changed their controller.
    pub fn links_flushed(&mut self, links: &BTreeSet<u32>, now: Instant) {
        self.note_losses(|losses| losses.links.extend(links));
        let gone = self.nexthops.flush_links(links);
        self.groups_vanished(&gone, now);
        let inline = self.bodies.inline_on(links);
        self.bodies_vanished(&inline, now);
        self.settle_lodgers(now);
    }

    /// A dump under way may be from before.
    fn note_losses(&mut self, note: impl FnOnce(&mut Losses)) {
        if self.suspended || self.comparing {
            note(&mut self.losses);
        }
    }

    fn groups_vanished(&mut self, groups: &[GroupSlot], now: Instant) {
        if !groups.is_empty() {
            self.note_losses(|losses| losses.groups.extend(groups));
            let bodies = self.bodies.using(groups);
            self.bodies_vanished(&bodies, now);
        }
    }

    /// The kernel holds no route with these bodies any more.
    fn bodies_vanished(&mut self, bodies: &[BodySlot], now: Instant) {
        if bodies.is_empty() {
            return;
        }
        let bodies: FxHashSet<BodySlot> = bodies.iter().copied().collect();
        let stood = |entry: &Entry| entry.flags & INSTALLED != 0 && bodies.contains(&entry.body);
        let lost: Vec<Slot> = self.held().filter(|(.., entry)| stood(entry)).map(|(slot, ..)| slot).collect();
        for slot in &lost {
            self.edit(*slot, |entry| entry.flags = (entry.flags & !INSTALLED) | CHANGED);
        }
        self.waiting.extend(bodies);
        self.mark_all(lost, now);
    }

    // ===== time =====

    /// When [`Self::tick`] is due next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let holds = self.plan.imports.iter().zip(&self.held).filter(|(_, held)| **held);
        let holds = holds.filter_map(|(import, _)| self.feed.hold_until(import.import.on_feed_loss.into()));
        let retry = self.retries.first().map(|(at, _)| *at);
        let others = [retry, self.nexthop_retry, self.contested.deadline(), self.burst.until()];
        holds.chain(others.into_iter().flatten()).min()
    }

    /// Time has passed: ends holds, tries again what was refused.
    pub fn tick(&mut self, now: Instant) {
        self.release_holds(now);
        self.burst.is_growing(now);
        while let Some((at, slot)) = self.retries.first().copied().filter(|(at, _)| *at <= now) {
            self.retries.remove(&(at, slot));
            if let Some(failure) = self.failures.get_mut(&slot) {
                failure.retry_at = now + failure.delay;
                self.retries.insert((failure.retry_at, slot));
            }
            self.mark(slot, now);
        }
        self.mend_altered(now);
        if self.nexthop_retry.is_some_and(|at| at <= now) {
            self.nexthop_retry = None;
            self.nexthops.retry();
        }
    }

    /// FPM message → kernel acknowledgement of the last burst, once.
    pub fn take_latency(&mut self) -> Option<Duration> {
        self.latency.take()
    }

    /// Whether everything is evaluated and acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.queue.is_empty() && !self.nexthops.is_dirty()
    }

    /// Whether batches are under way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Operations waiting or under way.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.queue.len() + self.in_flight.values().map(Vec::len).sum::<usize>()
    }
}
