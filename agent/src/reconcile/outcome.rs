//! What became of operations, and what others did to ours.

use std::time::Instant;

use super::bodies::BodySlot;
use super::nexthops::NexthopOp;
use super::{Engine, Failure, IN_FLIGHT, INSTALLED, Key, NEXTHOP_RETRY, Pending, RETRY_MAX, RETRY_MIN};
use crate::model::ops::{BatchDone, RouteOp};
use crate::model::{KernelRoute, NexthopId, RouteKey};

impl Engine {
    /// A batch was applied.
    pub fn batch_done(&mut self, done: &BatchDone, now: Instant) {
        let Some(pending) = self.in_flight.remove(&done.id) else { return };
        let mut errors = done.errors.iter().peekable();
        self.stats.batches += 1;
        for (index, pending) in pending.into_iter().enumerate() {
            let error = errors.next_if(|error| error.index == index);
            let error = error.map(|error| (error.errno, error.to_string()));
            self.stats.operations += 1;
            match pending {
                Pending::Nexthop(op) => {
                    let replaced = matches!(done.ops.get(index), Some(RouteOp::ReplaceNexthop(_)));
                    self.nexthop_done(op, replaced, error.as_ref(), now);
                }
                Pending::Route { key, new, old, installed } => match error {
                    None => self.route_done(key, old),
                    Some(error) => self.route_refused(key, new, old.map(|old| (old, installed)), error, now),
                },
                Pending::Delete { key } => self.delete_done(key, error, now),
            }
        }
        self.answer_united();
        if self.in_flight.is_empty()
            && self.queue.is_empty()
            && self.dirty.is_empty()
            && let Some(since) = self.dirty_since.take()
        {
            self.latency = Some(now.saturating_duration_since(since));
        }
    }

    fn nexthop_done(&mut self, op: NexthopOp, replaced: bool, error: Option<&(i32, String)>, now: Instant) {
        let Some((errno, text)) = error else {
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
        let gone = self.nexthops.failed(op, *errno, replaced);
        self.groups_vanished(&gone, now);
        self.nexthop_retry.get_or_insert(now + NEXTHOP_RETRY);
    }

    fn route_done(&mut self, key: Key, old: Option<BodySlot>) {
        if let Some(entry) = self.entries.get_mut(key.0, &key.1) {
            entry.flags &= !IN_FLIGHT;
        }
        old.into_iter().for_each(|old| self.bodies.release(old));
        self.failures.remove(&key);
        self.acknowledged(key);
    }

    /// The kernel refused a route: what stood there before still stands.
    fn route_refused(
        &mut self,
        key: Key,
        new: BodySlot,
        old: Option<(BodySlot, bool)>,
        (errno, text): (i32, String),
        now: Instant,
    ) {
        self.stats.refused += 1;
        self.bodies.release(new);
        match (old, self.entries.get_mut(key.0, &key.1)) {
            (Some((old, installed)), Some(entry)) => {
                entry.body = old;
                entry.flags = if installed { INSTALLED } else { 0 };
                // A route of ours that was believed gone may still be there.
                self.audit_wanted |= errno == libc::EEXIST || errno == libc::ENOENT;
            }
            _ => self.drop_entry(key),
        }
        self.fail(key, errno, text, now);
        self.acknowledged(key);
    }

    pub(super) fn drop_entry(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(key.0, &key.1) {
            self.uncount(entry.contribution);
        }
    }

    fn delete_done(&mut self, key: Key, error: Option<(i32, String)>, now: Instant) {
        match error {
            Some((errno, text)) if !matches!(errno, libc::ESRCH | libc::ENOENT | libc::ENODEV) => {
                if let Some(entry) = self.entries.get_mut(key.0, &key.1) {
                    entry.flags &= !IN_FLIGHT;
                }
                self.stats.refused += 1;
                self.fail(key, errno, text, now);
                self.acknowledged(key);
            }
            _ => {
                if let Some(entry) = self.entries.get(key.0, &key.1).copied() {
                    self.bodies.release(entry.body);
                    self.drop_entry(key);
                }
                self.failures.remove(&key);
                // What it should be may have changed while the delete was under way.
                self.mark([key], now);
            }
        }
    }

    fn fail(&mut self, key: Key, errno: i32, text: String, now: Instant) {
        let delay = self.failures.get(&key).map_or(RETRY_MIN, |failure| (failure.delay * 2).min(RETRY_MAX));
        self.failures.insert(key, Failure { errno, text, retry_at: now + delay, delay });
    }

    // ===== notifications =====

    /// Somebody else removed a route of ours, or put `route` in its place. Returns whether that is to be mended: one
    /// that is being changed by us anyway is looked at by a full comparison.
    pub fn route_vanished(&mut self, route: &KernelRoute, now: Instant) -> bool {
        let Some(target) = self.target_index.get(&(route.key.table, route.key.metric)).copied() else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(target, &route.key.prefix) else { return false };
        if entry.flags & IN_FLIGHT != 0 {
            // Before or after our own change? Only a dump can tell.
            self.audit_wanted = true;
        } else if entry.flags & INSTALLED != 0 {
            entry.flags &= !INSTALLED;
            self.stats.drift += 1;
            self.mark([(target, route.key.prefix)], now);
            return true;
        }
        false
    }

    /// Somebody's route is gone from a key: one of ours that had to stay out for it need not wait any longer.
    pub fn key_freed(&mut self, key: &RouteKey, now: Instant) {
        let target = self.target_index.get(&(key.table, key.metric)).copied();
        if let Some(target) = target
            && self.failures.contains_key(&(target, key.prefix))
        {
            self.mark([(target, key.prefix)], now);
        }
    }

    /// Somebody else added or changed a route that carries our protocol number: look at everything.
    pub fn route_appeared(&mut self) {
        self.audit_wanted = true;
    }

    /// Somebody else's route has come. Where it has the key of one of ours, a full comparison looks at both.
    pub fn foreign_appeared(&mut self, route: &KernelRoute) {
        let target = self.target_index.get(&(route.key.table, route.key.metric));
        let entry = target.and_then(|target| self.entries.get(*target, &route.key.prefix));
        self.audit_wanted |= entry.is_some_and(|entry| entry.flags & INSTALLED != 0);
    }

    /// A nexthop object is gone. Returns whether it was one of ours that is wanted.
    pub fn nexthop_vanished(&mut self, id: NexthopId, now: Instant) -> bool {
        let wanted = self.nexthops.holds(id);
        let gone = self.nexthops.lost(id);
        self.stats.drift += u64::from(wanted);
        self.groups_vanished(&gone, now);
        wanted
    }

    /// Notifications were lost, or contradict what we believe.
    pub fn want_audit(&mut self) {
        self.audit_wanted = true;
    }
}
