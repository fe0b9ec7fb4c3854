//! What became of operations, and what others did to ours.

use std::time::Instant;

use super::bodies::BodySlot;
use super::nexthops::{NexthopOp, Written};
use super::{
    CHANGED, DIRTY, Engine, FAILED, Failure, IN_FLIGHT, INSTALLED, NEXTHOP_RETRY, Pending, RETRY_MAX,
    RETRY_MIN,
};
use crate::model::ops::BatchDone;
use crate::model::{KernelRoute, NexthopId, NexthopObject, RouteKey};
use crate::rib::{AT_ONCE, Slot};

impl Engine {
    /// A batch was applied.
    pub fn batch_done(&mut self, done: &BatchDone, now: Instant) {
        let Some(pending) = self.in_flight.remove(&done.id) else { return };
        let mut errors = done.errors.iter().peekable();
        self.stats.batches += 1;
        let mut index = 0..;
        for some in pending.chunks(AT_ONCE) {
            self.rib.warm_removals(some.iter().filter_map(Pending::deleted));
            for (pending, index) in some.iter().zip(&mut index) {
                let error = errors.next_if(|error| error.index == index);
                let error = error.map(|error| (error.errno, error.to_string()));
                self.operation_done(pending, error, now);
            }
        }
        self.answer_united();
        if self.in_flight.is_empty()
            && self.queue.is_empty()
            && let Some(since) = self.dirty_since.take()
        {
            self.latency = Some(now.saturating_duration_since(since));
        }
    }

    fn operation_done(&mut self, pending: &Pending, error: Option<(i32, String)>, now: Instant) {
        self.stats.operations += 1;
        match *pending {
            Pending::Nexthop(about) => self.nexthop_done(about, error.as_ref(), now),
            Pending::Route { slot, old, installed } => {
                match error {
                    None => self.route_done(slot, old),
                    Some(error) => self.route_refused(slot, old, installed, error, now),
                }
                self.landed(slot);
            }
            Pending::Delete(slot) => {
                self.delete_done(slot, error, now);
                self.landed(slot);
            }
        }
    }

    fn nexthop_done(&mut self, op: NexthopOp, error: Option<&(i32, String)>, now: Instant) {
        let Some((errno, text)) = error else {
            self.nexthops.done(op);
            self.nexthop_failures.remove(&op);
            return;
        };
        // Somebody was faster than our delete: that is what was wanted.
        if op == NexthopOp::Delete && matches!(*errno, libc::ENOENT | libc::ESRCH) {
            return;
        }
        self.stats.refused += 1;
        if op != NexthopOp::Delete {
            self.nexthop_failures.insert(op, format!("{}: {text}", self.nexthops.describe(op)));
        }
        let gone = self.nexthops.failed(op, *errno);
        self.groups_vanished(&gone, now);
        self.nexthop_retry.get_or_insert(now + NEXTHOP_RETRY);
    }

    /// The operation on an entry has ended: it may be evaluated again.
    fn landed(&mut self, slot: Slot) {
        self.acknowledged(slot);
        let Some((_, _, entry)) = self.rib.entry(slot) else { return };
        if entry.flags & DIRTY != 0 {
            self.queue.push(slot, entry.is_held());
        }
        self.tidy(slot);
    }

    fn route_done(&mut self, slot: Slot, old: Option<BodySlot>) {
        self.edit(slot, |entry| entry.flags &= !IN_FLIGHT);
        old.into_iter().for_each(|old| self.bodies.release(old));
        self.forgive(slot);
    }

    /// The kernel refused a route: what stood there before still stands.
    fn route_refused(
        &mut self,
        slot: Slot,
        old: Option<BodySlot>,
        installed: bool,
        (errno, text): (i32, String),
        now: Instant,
    ) {
        self.stats.refused += 1;
        self.edit(slot, |entry| entry.flags &= !IN_FLIGHT);
        match old {
            None => self.vacate(slot),
            Some(old) => {
                let stands = if installed { INSTALLED } else { 0 };
                let new = self.edit(slot, |entry| {
                    entry.flags = (entry.flags & !INSTALLED) | stands;
                    std::mem::replace(&mut entry.body, old)
                });
                new.into_iter().for_each(|new| self.bodies.release(new));
                // A route of ours that was believed gone may still be there.
                self.audit_wanted |= errno == libc::EEXIST || errno == libc::ENOENT;
            }
        }
        self.fail(slot, errno, text, now);
    }

    fn delete_done(&mut self, slot: Slot, error: Option<(i32, String)>, now: Instant) {
        self.edit(slot, |entry| entry.flags &= !IN_FLIGHT);
        match error {
            Some((errno, text)) if !matches!(errno, libc::ESRCH | libc::ENOENT | libc::ENODEV) => {
                self.stats.refused += 1;
                self.fail(slot, errno, text, now);
            }
            _ => {
                self.vacate(slot);
                self.forgive(slot);
            }
        }
    }

    fn fail(&mut self, slot: Slot, errno: i32, text: String, now: Instant) {
        let delay = self.failures.get(&slot).map_or(RETRY_MIN, |failure| (failure.delay * 2).min(RETRY_MAX));
        self.forgive(slot);
        if self.edit(slot, |entry| entry.flags |= FAILED).is_some() {
            let retry_at = now + delay;
            self.failures.insert(slot, Failure { errno, text, retry_at, delay });
            self.retries.insert((retry_at, slot));
        }
    }

    /// There is no nexthop id for what an entry should be: what stands there stays until one is free.
    pub(super) fn starve(&mut self, slot: Slot, now: Instant) {
        let text = "all nexthop ids of the owned range are in use: widen ownership.nexthopIDs";
        self.fail(slot, libc::ENOSPC, text.to_owned(), now);
        self.starved.insert(slot);
    }

    /// Nothing is wrong with an entry any more.
    pub(super) fn forgive(&mut self, slot: Slot) {
        if self.rib.entry(slot).is_none_or(|(.., entry)| entry.flags & FAILED == 0) {
            return;
        }
        self.edit(slot, |entry| entry.flags &= !FAILED);
        self.starved.remove(&slot);
        if let Some(failure) = self.failures.remove(&slot) {
            self.retries.remove(&(failure.retry_at, slot));
        }
    }

    // ===== notifications =====

    /// Somebody else removed a route of ours, or put `route` in its place. Returns whether that is to be mended: one
    /// that is being changed by us anyway is looked at by a full comparison.
    pub fn route_vanished(&mut self, route: &KernelRoute, now: Instant) -> bool {
        let RouteKey { table, metric, prefix } = route.key;
        let Some((slot, held)) = self.held_at(table, metric, &prefix) else { return false };
        if held.flags & IN_FLIGHT != 0 {
            // Before or after our own change? Only a dump can tell.
            self.audit_wanted = true;
            return false;
        }
        if held.flags & INSTALLED == 0 {
            return false;
        }
        self.edit(slot, |entry| entry.flags = (entry.flags & !INSTALLED) | CHANGED);
        self.stats.drift += 1;
        self.mark(slot, now);
        true
    }

    /// Somebody's route is gone from a key: one of ours that had to stay out for it need not wait any longer.
    pub fn key_freed(&mut self, key: &RouteKey, now: Instant) {
        let target = self.target_index.get(&(key.table, key.metric)).copied();
        let slot = target.and_then(|target| self.rib.find_entry(target, &key.prefix));
        if let Some(slot) = slot.filter(|slot| self.failures.contains_key(slot)) {
            self.mark(slot, now);
        }
    }

    /// Somebody else added or changed a route that carries our protocol number: look at everything.
    pub fn route_appeared(&mut self) {
        self.audit_wanted = true;
    }

    /// Somebody else's route has come. Where it has the key of one of ours, a full comparison looks at both.
    pub fn foreign_appeared(&mut self, route: &KernelRoute) {
        let held = self.held_at(route.key.table, route.key.metric, &route.key.prefix);
        self.audit_wanted |= held.is_some_and(|(_, entry)| entry.flags & INSTALLED != 0);
    }

    /// A nexthop object is gone. Returns whether it was one of ours that is wanted.
    pub fn nexthop_vanished(&mut self, id: NexthopId, now: Instant) -> bool {
        if self.nexthops.is_writing(id) {
            // Before or after our own change? Only a dump can tell.
            self.audit_wanted = true;
            return false;
        }
        self.note_losses(|losses| {
            losses.objects.insert(id);
        });
        let wanted = self.nexthops.holds(id);
        let gone = self.nexthops.lost(id);
        self.stats.drift += u64::from(wanted);
        self.groups_vanished(&gone, now);
        wanted
    }

    /// Somebody else made or changed a nexthop object. Returns whether it is one of ours, which is to be mended.
    pub fn nexthop_written(&mut self, object: &NexthopObject, now: Instant) -> bool {
        // A dump that is being read may be from before.
        let mut unclear = self.suspended;
        let altered = match self.nexthops.written(object) {
            Written::Altered(op) => {
                self.stats.drift += 1;
                self.contested.altered(op, now);
                self.mend_altered(now);
                true
            }
            Written::Same => false,
            Written::Unclear => {
                unclear |= object.protocol == self.protocol || self.nexthops.is_writing(object.id);
                false
            }
        };
        self.audit_wanted |= unclear;
        altered
    }

    /// Has written what somebody altered, as far as its time has come.
    pub(super) fn mend_altered(&mut self, now: Instant) {
        while let Some(op) = self.contested.pop(now) {
            self.nexthops.mend(op);
        }
        self.contested.forget(now);
    }

    /// Notifications were lost, or contradict what we believe.
    pub fn want_audit(&mut self) {
        self.audit_wanted = true;
    }
}
