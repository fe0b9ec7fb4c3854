//! What FRR says, as it comes in: updates, and the beginnings and ends of its sessions.

use std::collections::BTreeSet;
use std::time::Instant;

use ipnet::IpNet;
use smallvec::SmallVec;
use zebra_fpm::Update;
use zebra_fpm::session::{FeedState, Retention};

use super::{ADOPTED, Engine, Key};
use crate::plan::sibling;
use crate::rib::Change;

impl Engine {
    /// A new FPM connection.
    pub fn fpm_connected(&mut self, now: Instant) {
        if !matches!(self.feed.state(), FeedState::Lost(_)) {
            self.age();
        }
        self.feed.connected(now);
        self.held.iter_mut().for_each(|held| *held = true);
        self.release_holds(now);
    }

    /// All that was learned so far is FRR's former word from here on.
    fn age(&mut self) {
        self.rib.new_generation();
        self.forget_views();
    }

    /// zebra's netlink port id, from its first message.
    pub fn fpm_pid(&mut self, pid: u32) {
        self.feed.seen_pid(pid);
    }

    /// Updates of whole frames.
    pub fn fpm_updates(&mut self, updates: &[Update], now: Instant) {
        for update in updates {
            match self.rib.apply(update) {
                Change::Route { table, prefix, present } => self.route_changed(table, prefix, present, now),
                Change::Nexthop(id) => {
                    self.changed_ids.insert(id);
                    self.changed_ids.extend(self.rib.groups_of(id).collect::<SmallVec<[u32; 8]>>());
                }
                Change::Ignored => {
                    if let Update::Route(route) = update {
                        self.answer_ignored(route);
                    }
                }
                Change::None => {}
            }
        }
        if !self.changed_ids.is_empty() {
            self.nexthops_changed(now);
        }
    }

    fn route_changed(&mut self, table: u32, prefix: IpNet, present: bool, now: Instant) {
        let targets: SmallVec<[(u32, u32); 2]> =
            self.plan.imports_from(table).map(|(_, import)| import.target(&prefix)).collect();
        if targets.is_empty() {
            self.answer(table, &prefix);
        }
        for (into, metric) in targets {
            let target = self.target_id(into, metric);
            // An explicit delete ends the benefit of the doubt that a route from before our start has.
            if !present && let Some(entry) = self.entries.get_mut(target, &prefix) {
                entry.flags &= !ADOPTED;
            }
            self.mark([(target, prefix)], now);
            // Half of the address space is a default route only together with the other half.
            if let Some(other) = sibling(&prefix) {
                self.mark([(target, other)], now);
            }
        }
    }

    /// The replay went quiet.
    pub fn fpm_replay_complete(&mut self, now: Instant) {
        self.feed.replay_complete(now);
        if !self.is_anything_stale() {
            self.held.iter_mut().for_each(|held| *held = false);
            self.rib.sweep();
            self.feed.synchronized();
        }
        self.release_holds(now);
    }

    /// Whether something is kept that this connection has not announced.
    fn is_anything_stale(&self) -> bool {
        let current = self.rib.generation();
        self.rib.iter().any(|(_, _, learned)| learned.generation != current)
            || self.entries.iter().any(|(_, _, entry)| entry.flags & ADOPTED != 0)
    }

    /// The connection is gone: what it taught is kept as `onFeedLoss` says.
    pub fn fpm_disconnected(&mut self, now: Instant) {
        self.age();
        self.feed.disconnected(now);
        self.held.iter_mut().for_each(|held| *held = true);
        self.release_holds(now);
    }

    /// Ends the holds whose time has come; sweeps what was not announced again.
    pub(super) fn release_holds(&mut self, now: Instant) {
        let mut released = BTreeSet::new();
        for (index, import) in self.plan.imports.iter().enumerate() {
            let due =
                self.feed.hold_until(import.import.on_feed_loss.into()).is_some_and(|until| now >= until);
            if let Some(held) = self.held.get_mut(index)
                && *held
                && due
            {
                *held = false;
                released.insert(import.import.into.table);
            }
        }
        if !released.is_empty() {
            let concerned =
                |target: u32| self.targets.get(target as usize).is_some_and(|(t, _)| released.contains(t));
            let keys: Vec<Key> = self
                .entries
                .iter()
                .filter(|(t, _, _)| concerned(*t))
                .map(|(t, prefix, _)| (t, prefix))
                .collect();
            self.mark(keys, now);
        }
        let whole = self.feed.hold_until(Retention::Forever).is_some_and(|at| now >= at);
        let complete = matches!(self.feed.state(), FeedState::Complete(_));
        let imports_done = !self.held.is_empty() && self.held.iter().all(|held| !held);
        if complete && !self.feed.is_synchronized() && (imports_done || (self.held.is_empty() && whole)) {
            self.rib.sweep();
            self.feed.synchronized();
        }
    }
}
