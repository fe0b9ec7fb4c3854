//! What FRR says, as it comes in: updates, and the beginnings and ends of its sessions.

use std::collections::BTreeSet;
use std::time::Instant;

use ipnet::IpNet;
use smallvec::SmallVec;
use zebra_fpm::Update;
use zebra_fpm::session::{FeedState, Retention};

use super::{ADOPTED, Engine, Entry};
use crate::plan::sibling;
use crate::rib::{AT_ONCE, Change, Slot};

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

    /// Updates of whole frames; [`Self::fpm_taken`] follows.
    pub fn fpm_updates(&mut self, updates: &[Update], now: Instant) {
        let tables = self.rib.announced_tables().len();
        for some in updates.chunks(AT_ONCE) {
            self.rib.warm(some);
            self.learn(some, now);
        }
        if self.rib.announced_tables().len() != tables {
            self.note_tables();
        }
        if !self.changed_ids.is_empty() {
            self.nexthops_changed(now);
        }
    }

    /// What came is learned, at `now`: that may have taken longer than the silence that ends a burst.
    pub fn fpm_taken(&mut self, now: Instant) {
        self.burst.fed(self.queue.len(), now);
    }

    fn learn(&mut self, updates: &[Update], now: Instant) {
        for update in updates {
            match self.rib.apply(update) {
                Change::Route(slot) => self.announced_at(slot, now),
                Change::Gone { table, prefix, slot } => self.withdrawn(table, &prefix, slot, now),
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
    }

    fn announced_at(&mut self, slot: Slot, now: Instant) {
        let Some((table, prefix, _)) = self.rib.at(slot) else { return };
        let targets = self.targets_of(table, &prefix);
        if targets.is_empty() {
            self.answer(slot);
        }
        for target in targets {
            let id = self.target_id(target);
            let Some(entry) = id.and_then(|id| self.rib.entry_beside(slot, id)) else { continue };
            if !self.stands(entry) {
                self.mark(entry, now);
            }
            self.sibling_changed(target, &prefix, now);
        }
    }

    fn withdrawn(&mut self, table: u32, prefix: &IpNet, slot: Option<Slot>, now: Instant) {
        for target in self.targets_of(table, prefix) {
            let Some(id) = self.target_index.get(&target).copied() else { continue };
            let near = slot.and_then(|slot| self.rib.find_beside(slot, id));
            if let Some(slot) = near.or_else(|| self.rib.find_entry(id, prefix)) {
                // An explicit delete ends the benefit of the doubt that a route from before our start has.
                self.edit(slot, |entry| entry.flags &= !ADOPTED);
                self.mark(slot, now);
            }
            self.sibling_changed(target, prefix, now);
        }
    }

    /// Where what is learned from a table goes.
    fn targets_of(&self, table: u32, prefix: &IpNet) -> SmallVec<[(u32, u32); 2]> {
        self.plan.imports_from(table).map(|(_, import)| import.target(prefix)).collect()
    }

    /// Half of the address space is a default route only together with the other half.
    fn sibling_changed(&mut self, target: (u32, u32), prefix: &IpNet, now: Instant) {
        if let Some(other) = sibling(prefix) {
            self.mark_key(target, &other, now);
        }
    }

    /// The replay went quiet.
    pub fn fpm_replay_complete(&mut self, now: Instant) {
        self.feed.replay_complete(now);
        self.zebra.complete = true;
        if !self.is_anything_stale() {
            self.held.iter_mut().for_each(|held| *held = false);
            self.rib.sweep();
            self.feed.synchronized();
        }
        self.release_holds(now);
    }

    /// Whether something is kept that this connection has not announced.
    fn is_anything_stale(&self) -> bool {
        self.rib.stale() > 0 || self.held().any(|(.., entry)| entry.flags & ADOPTED != 0)
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
            let concerned = |target: u16| {
                self.targets.get(usize::from(target)).is_some_and(|(table, _)| released.contains(table))
            };
            let held = self
                .held()
                .filter(|(slot, (target, _), entry)| concerned(*target) && !self.is_confirmed(*slot, entry));
            let slots: Vec<Slot> = held.map(|(slot, ..)| slot).collect();
            self.mark_all(slots, now);
        }
        let whole = self.feed.hold_until(Retention::Forever).is_some_and(|at| now >= at);
        let complete = matches!(self.feed.state(), FeedState::Complete(_));
        let imports_done = !self.held.is_empty() && self.held.iter().all(|held| !held);
        if complete && !self.feed.is_synchronized() && (imports_done || (self.held.is_empty() && whole)) {
            self.rib.sweep();
            self.feed.synchronized();
        }
    }

    /// Whether a route comes from one announcement of the current session, so that no hold concerns it.
    fn is_confirmed(&self, slot: Slot, entry: &Entry) -> bool {
        let [index] = self.contribution(entry.contribution) else { return false };
        let Some(import) = self.plan.imports.get(usize::from(*index)) else { return false };
        let learned = self.rib.at(slot).filter(|(table, ..)| *table == import.import.from_table);
        entry.flags & ADOPTED == 0
            && learned.is_some_and(|(_, _, learned)| learned.generation == self.rib.generation())
    }
}
