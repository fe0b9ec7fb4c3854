//! Losing a path without touching routes: silent gateways leave their groups, and routes that FRR then moves to what
//! is left stay where they are.
//!
//! When a path dies, FRR sooner or later gives every route another nexthop group, one by one. By then the kernel's
//! group has shrunk to just those paths. So a route whose new set comes to the same paths as its present group does
//! not move: its set *lodges* in that group until paths change again. Then the group becomes that of the set with the
//! most routes, and only the others move.

use std::net::IpAddr;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::bodies::{BodySlot, BodyTarget};
use super::nexthops::{GroupSlot, Paths};
use super::{Engine, Entry, INSTALLED};
use crate::model::{Neighbour, NeighbourState};
use crate::rib::Slot;

impl Engine {
    /// A neighbour entry changed its state, or is gone (`None`). Returns whether a group changes for it.
    ///
    /// While an entry is being resolved nothing is known: a silent gateway stays out until it answers.
    pub fn neighbour_changed(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        state: Option<NeighbourState>,
        now: Instant,
    ) -> bool {
        let silent = match state {
            Some(NeighbourState::Failed) => true,
            Some(NeighbourState::Valid) | None => false,
            Some(NeighbourState::Incomplete) => return false,
        };
        let concerns = self.nexthops.set_silent(ifindex, address, silent);
        if concerns {
            self.settle_lodgers(now);
        }
        concerns
    }

    /// Gateways that are known not to answer, by ifindex.
    pub fn silent_gateways(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.nexthops.silent().chain(self.nexthops.failed_sessions())
    }

    /// The gateways whose BFD session has failed, all of them. Returns whether that changes groups.
    pub fn sessions_failed(
        &mut self,
        failed: &std::collections::BTreeSet<(u32, IpAddr)>,
        now: Instant,
    ) -> bool {
        let before: Vec<(u32, IpAddr)> = self.nexthops.failed_sessions().collect();
        let mended = before.into_iter().filter(|at| !failed.contains(at)).map(|at| (at, false));
        let changes: Vec<_> = mended.chain(failed.iter().map(|at| (*at, true))).collect();
        let mut concerns = false;
        for (at, failed) in changes {
            concerns |= self.nexthops.set_failed(at, failed);
        }
        if concerns {
            self.settle_lodgers(now);
        }
        concerns
    }

    /// All neighbour entries, after a dump: what is not among them is not silent.
    pub fn neighbours_seen<'a>(&mut self, neighbours: impl Iterator<Item = &'a Neighbour>, now: Instant) {
        let mut gone: FxHashSet<(u32, IpAddr)> = self.nexthops.silent().collect();
        for neighbour in neighbours {
            gone.remove(&(neighbour.ifindex, neighbour.address));
            self.neighbour_changed(neighbour.ifindex, neighbour.address, Some(neighbour.state), now);
        }
        for (ifindex, address) in gone {
            self.neighbour_changed(ifindex, address, None, now);
        }
    }

    /// Gateways of multipath groups, if they may have changed since this was last asked: their neighbour entries must
    /// be kept alive, for only so does their failure, and their return, show.
    pub fn watch_gateways(&mut self) -> Option<std::collections::BTreeSet<(u32, IpAddr)>> {
        self.nexthops.take_gateways_changed().then(|| self.nexthops.gateways())
    }

    /// Whether the route in the kernel may stay for one with another body.
    pub(super) fn stays(&self, entry: &Entry, body: BodySlot) -> bool {
        self.bodies.same(entry.body, body, &self.nexthops)
            || (entry.flags & INSTALLED != 0 && self.bodies.works_like(entry.body, body, &self.nexthops))
    }

    /// A route stays in its group although its own would be another one.
    pub(super) fn note_alias(&mut self, stays_by: BodySlot, own: BodySlot) {
        let (Some(group), Some(own)) = (self.group_of(stays_by), self.group_of(own)) else { return };
        if group == own {
            return;
        }
        // The own group's views do not know all its routes: it may not change in place.
        self.aliased_groups.insert(own);
        if self.shared_groups.contains(&own) {
            self.shared_groups.insert(group);
        }
        match self.nexthops.set(own).cloned() {
            Some(set) if self.nexthops.set(group) != Some(&set) => self.nexthops.lodge(group, &set),
            // Two groups with the same content: neither may change in place.
            _ => {
                self.aliased_groups.insert(group);
            }
        }
    }

    pub(super) fn group_of(&self, body: BodySlot) -> Option<GroupSlot> {
        match self.bodies.get(body)?.target {
            BodyTarget::Group(group) => Some(group),
            _ => None,
        }
    }

    /// Paths changed: where lodgers no longer come to what their group does, they part.
    pub(super) fn settle_lodgers(&mut self, now: Instant) {
        for group in self.nexthops.unsettled() {
            let users = self.users_of(group);
            let own = self.nexthops.set(group).cloned().unwrap_or_default();
            let (heir, alone) = match users {
                // Routes outside any view may use it.
                None => (own.clone(), false),
                Some(users) => {
                    let heir = users.iter().max_by_key(|(_, routes)| **routes).map(|(set, _)| set.clone());
                    (heir.unwrap_or_else(|| own.clone()), users.len() <= 1)
                }
            };
            let heir = Some(heir).filter(|heir| *heir != own);
            // Without an id for it the heir's routes are looked at one by one.
            let inherited = self.nexthops.evict(group, heir.as_ref()).is_some();
            let bodies: FxHashSet<BodySlot> = self.bodies.using(&[group]).into_iter().collect();
            self.views.retain(|_, outcome| outcome.body().is_none_or(|body| !bodies.contains(&body)));
            if !(alone && inherited) {
                let rests = |entry: &Entry| bodies.contains(&entry.body);
                let slots: Vec<Slot> =
                    self.held().filter(|(.., entry)| rests(entry)).map(|(slot, ..)| slot).collect();
                self.mark_all(slots, now);
            }
        }
    }

    /// How many routes there are of the group's own set and of its lodgers; `None` where that cannot be told.
    fn users_of(&self, group: GroupSlot) -> Option<FxHashMap<Paths, u64>> {
        if self.shared_groups.contains(&group) || !self.feed.is_synchronized() {
            return None;
        }
        let own = self.nexthops.set(group)?;
        let lodgers = self.nexthops.lodgers(group);
        let mut users: FxHashMap<Paths, u64> = FxHashMap::default();
        for (id, views) in &self.views_of {
            let routes = self.rib.users(*id);
            if routes == 0 {
                continue;
            }
            for set in views.iter().filter_map(|view| self.view_set(*view)) {
                if set == *own || lodgers.contains(&set) {
                    *users.entry(set).or_default() += routes;
                }
            }
        }
        Some(users)
    }
}
