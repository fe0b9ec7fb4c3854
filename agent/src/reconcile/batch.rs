//! Batches: what waits is evaluated, nexthop objects go before the routes that need them, and after those that did.

use std::time::Instant;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use super::bodies::BodySlot;
use super::nexthops::NexthopOp;
use super::queue::{BURST, Growth};
use super::{Engine, Entry, INSTALLED, MAX_BATCH, MAX_IN_FLIGHT};
use crate::model::ops::{Batch, RouteOp};
use crate::rib::{AT_ONCE, Slot};

/// Records that are prepared for being looked up with each batch: less than what a batch takes to be written.
const SETTLED_AT_ONCE: usize = MAX_BATCH;

/// An emitted operation, waiting for its acknowledgement.
pub(super) enum Pending {
    Nexthop(NexthopOp),
    /// A route was added or replaced; what stood there before.
    Route {
        slot: Slot,
        old: Option<BodySlot>,
        installed: bool,
    },
    Delete(Slot),
}

impl Pending {
    /// The record that a delete is about: it goes with it.
    pub(super) fn deleted(&self) -> Option<Slot> {
        match self {
            Self::Delete(slot) => Some(*slot),
            Self::Nexthop(_) | Self::Route { .. } => None,
        }
    }
}

/// A batch in the making.
#[derive(Default)]
pub(super) struct Ops {
    pub(super) ops: Vec<RouteOp>,
    pub(super) pending: Vec<Pending>,
}

impl Ops {
    pub(super) fn push(&mut self, op: RouteOp, about: Pending) {
        self.ops.push(op);
        self.pending.push(about);
    }
}

impl Engine {
    /// The next batch for the programmer, if there is something to do and room for it.
    pub fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        let growth = self.growth(now);
        if growth == Growth::Not {
            self.rib.settle(SETTLED_AT_ONCE);
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let mut ops = Ops::default();
        if self.suspended {
            // A comparison may take seconds: paths that die meanwhile do not wait for its end.
            if self.comparing && self.in_flight.is_empty() {
                self.emit_nexthops(&mut ops, now);
            }
            return self.submit(ops);
        }
        self.emit_nexthops(&mut ops, now);
        while ops.ops.len() < MAX_BATCH {
            // What waits goes first: then it is known how much room there is.
            while self.queue.is_empty() && self.has_room {
                self.use_room(now);
            }
            let some: SmallVec<[Slot; AT_ONCE]> =
                std::iter::from_fn(|| self.queue.pop(growth)).take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            self.rib.warm_records(some.iter().copied());
            for slot in some {
                self.reconcile(slot, &mut ops, now);
            }
        }
        if self.queue.is_empty() {
            self.burst.over();
        }
        self.answer_united();
        let idle = ops.ops.is_empty() && self.in_flight.is_empty() && self.queue.is_empty();
        if idle && !self.comparing {
            self.collect_garbage(&mut ops, now);
        }
        if ops.ops.is_empty() && self.in_flight.is_empty() && self.queue.is_empty() {
            self.dirty_since = None;
        }
        self.submit(ops)
    }

    fn growth(&mut self, now: Instant) -> Growth {
        if !self.burst.is_growing(now) {
            Growth::Not
        } else if self.rib.ascending() < BURST / 2 {
            Growth::Everywhere
        } else {
            Growth::Upwards
        }
    }

    fn submit(&mut self, Ops { ops, pending }: Ops) -> Option<Batch> {
        if ops.is_empty() {
            return None;
        }
        let id = self.next_batch;
        self.next_batch += 1;
        self.in_flight.insert(id, pending);
        Some(Batch { id, ops })
    }

    pub(super) fn emit_nexthops(&mut self, ops: &mut Ops, now: Instant) {
        if !self.nexthops.is_dirty() {
            return;
        }
        let appeared = self.nexthops.emit(&mut |op, about| ops.push(op, Pending::Nexthop(about)));
        if appeared.is_empty() || self.waiting.is_empty() {
            return;
        }
        // Routes whose group came (back) into being.
        let mut bodies: FxHashSet<BodySlot> = self.bodies.using(&appeared).into_iter().collect();
        bodies.retain(|body| self.waiting.remove(body));
        if bodies.is_empty() {
            return;
        }
        let waits = |entry: &Entry| bodies.contains(&entry.body) && entry.flags & INSTALLED == 0;
        let slots: Vec<Slot> =
            self.held().filter(|(.., entry)| waits(entry)).map(|(slot, ..)| slot).collect();
        self.mark_all(slots, now);
    }

    fn collect_garbage(&mut self, ops: &mut Ops, now: Instant) {
        let gone: FxHashSet<BodySlot> = self.bodies.collect(&mut self.nexthops).into_iter().collect();
        if !gone.is_empty() {
            // Only the memo goes: `views_of` still knows that routes hang on these ids, if by another body.
            self.views.retain(|_, outcome| outcome.body().is_none_or(|body| !gone.contains(&body)));
            self.waiting.retain(|body| !gone.contains(body));
        }
        for group in self.nexthops.collect(&mut |op, about| ops.push(op, Pending::Nexthop(about))) {
            self.shared_groups.remove(&group);
            self.aliased_groups.remove(&group);
        }
        let nexthops = &self.nexthops;
        self.nexthop_failures.retain(|op, _| nexthops.is_wanted(*op));
        self.emit_nexthops(ops, now);
        if self.nexthops.take_freed() && !self.starved.is_empty() {
            let starved: Vec<Slot> = self.starved.iter().copied().collect();
            self.mark_all(starved, now);
        }
    }
}
