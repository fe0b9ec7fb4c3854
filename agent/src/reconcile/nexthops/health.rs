//! Which paths carry packets: links that nexthops can exist on, gateways that answer, and what follows for groups.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use super::{GroupSlot, HopSlot, Nexthops, Paths, slot_of};
use crate::model::Hop;
use crate::rib::HopSet;

impl Nexthops {
    /// Takes note of the links on which nexthops can exist. What stood on a link that went is gone from the kernel,
    /// silently (net/ipv4/nexthop.c, `nexthop_flush_dev`). Returns the groups that the kernel dropped with their routes.
    pub(in crate::reconcile) fn set_usable(&mut self, usable: BTreeSet<u32>) -> Vec<GroupSlot> {
        let lost: BTreeSet<u32> = self.usable.difference(&usable).copied().collect();
        let gained: BTreeSet<u32> = usable.difference(&self.usable).copied().collect();
        self.usable = usable;
        self.touch_links(&gained);
        self.flush_links(&lost)
    }

    /// Links on which nexthops could exist so far, and no longer.
    pub(in crate::reconcile) fn unusable_in(&self, usable: &BTreeSet<u32>) -> BTreeSet<u32> {
        self.usable.difference(usable).copied().collect()
    }

    fn touch_links(&mut self, links: &BTreeSet<u32>) {
        for (slot, state) in self.hops.iter().enumerate() {
            if let Some(state) = state
                && links.contains(&state.hop.ifindex)
            {
                self.dirty_hops.insert(slot_of(slot));
            }
        }
    }

    /// The kernel dropped every nexthop object of these links.
    pub(in crate::reconcile) fn flush_links(&mut self, links: &BTreeSet<u32>) -> Vec<GroupSlot> {
        if links.is_empty() {
            return Vec::new();
        }
        let mut gone = FxHashSet::default();
        for (slot, state) in self.hops.iter_mut().enumerate() {
            if let Some(state) = state
                && state.present
                && links.contains(&state.hop.ifindex)
            {
                state.present = false;
                gone.insert(slot_of(slot));
            }
        }
        self.dirty_hops.extend(gone.iter().copied());
        self.forget_members(&gone)
    }

    // ===== neighbours =====

    /// The neighbour entry of a gateway failed, or answers (or is gone, so that nothing is known against it). Groups
    /// lose a silent member and get it back: one message for each. Returns whether that is news.
    pub(in crate::reconcile) fn set_silent(&mut self, ifindex: u32, gateway: IpAddr, silent: bool) -> bool {
        self.judge(|this| &mut this.silent, (ifindex, gateway), silent)
    }

    /// The same of a gateway whose BFD session has failed, or no longer has.
    pub(in crate::reconcile) fn set_failed(&mut self, at: (u32, IpAddr), failed: bool) -> bool {
        self.judge(|this| &mut this.failed, at, failed)
    }

    fn judge(
        &mut self,
        list: fn(&mut Self) -> &mut FxHashSet<(u32, IpAddr)>,
        at: (u32, IpAddr),
        listed: bool,
    ) -> bool {
        let before = self.is_out(&at);
        let list = list(self);
        let _ = if listed { list.insert(at) } else { list.remove(&at) };
        if self.is_out(&at) == before {
            return false;
        }
        let hops: FxHashSet<HopSlot> = self
            .hops
            .iter()
            .enumerate()
            .filter(|(_, state)| state.as_ref().is_some_and(|state| at_gateway(&state.hop) == Some(at)))
            .map(|(slot, _)| slot_of(slot))
            .collect();
        self.touch_groups(&hops);
        !hops.is_empty()
    }

    /// Gateways that are known not to answer.
    pub(in crate::reconcile) fn silent(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.silent.iter().copied()
    }

    /// Gateways whose BFD session has failed.
    pub(in crate::reconcile) fn failed_sessions(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.failed.iter().copied()
    }

    fn is_out(&self, at: &(u32, IpAddr)) -> bool {
        self.silent.contains(at) || self.failed.contains(at)
    }

    /// Looks again at the groups that list one of these hops.
    pub(super) fn touch_groups(&mut self, hops: &FxHashSet<HopSlot>) {
        if hops.is_empty() {
            return;
        }
        for (slot, group) in self.groups.iter().enumerate() {
            if group.as_ref().is_some_and(|group| group.members.iter().any(|(hop, _)| hops.contains(hop))) {
                self.dirty_groups.insert(slot_of(slot));
            }
        }
    }

    /// The members that a group should have in the kernel now. While no gateway answers all stay: traffic to any of
    /// them is what finds out that it is back.
    pub(super) fn carrying(&self, members: &[(HopSlot, u16)]) -> SmallVec<[(HopSlot, u16); 2]> {
        let state = |slot: &HopSlot| self.hop(*slot).filter(|state| state.present);
        let present: SmallVec<[(HopSlot, u16); 2]> =
            members.iter().copied().filter(|(hop, _)| state(hop).is_some()).collect();
        let answers = |slot: &HopSlot| state(slot).is_some_and(|state| !self.is_silent(&state.hop));
        let answering: SmallVec<[(HopSlot, u16); 2]> =
            present.iter().copied().filter(|(hop, _)| answers(hop)).collect();
        if answering.is_empty() { present } else { answering }
    }

    fn is_silent(&self, hop: &Hop) -> bool {
        at_gateway(hop).is_some_and(|at| self.is_out(&at))
    }

    /// What of a set carries packets as things are: the rule of [`Self::carrying`], for sets without a group.
    pub(super) fn working(&self, set: &HopSet) -> HopSet {
        let usable: HopSet =
            set.iter().copied().filter(|(hop, _)| self.usable.contains(&hop.ifindex)).collect();
        let answering: HopSet = usable.iter().copied().filter(|(hop, _)| !self.is_silent(hop)).collect();
        if answering.is_empty() { usable } else { answering }
    }

    /// Gateways of groups that can do without them: their neighbour entries are worth watching.
    pub(in crate::reconcile) fn gateways(&self) -> BTreeSet<(u32, IpAddr)> {
        let groups = self.groups.iter().flatten().filter(|group| group.set.hops.len() > 1);
        groups.flat_map(|group| group.set.hops.iter().filter_map(|(hop, _)| at_gateway(hop))).collect()
    }

    /// Whether [`Self::gateways`] may have changed since this was last asked.
    pub(in crate::reconcile) fn take_gateways_changed(&mut self) -> bool {
        std::mem::take(&mut self.gateways_changed)
    }

    // ===== lodgers =====

    /// Whether routes of `set` may rest in the group.
    pub(in crate::reconcile) fn works_like(&self, slot: GroupSlot, set: &Paths) -> bool {
        self.set(slot).is_some_and(|own| own.resilient == set.resilient) && self.comes_to(slot, &set.hops)
    }

    /// Whether the group comes to the same paths as these hops, as things are.
    pub(in crate::reconcile) fn comes_to(&self, slot: GroupSlot, hops: &HopSet) -> bool {
        let Some(group) = self.group(slot).filter(|group| !group.programmed.is_empty()) else { return false };
        let working = self.working(hops);
        !working.is_empty() && working == self.working(&group.set.hops)
    }

    /// Notes that routes of `set` rest in the group.
    pub(in crate::reconcile) fn lodge(&mut self, slot: GroupSlot, set: &Paths) {
        let Some(group) = self.group_mut(slot) else { return };
        if group.set != *set && !group.lodgers.contains(set) {
            group.lodgers.push(set.clone());
            self.lodging.insert(slot);
        }
    }

    /// The other sets whose routes rest in the group.
    pub(in crate::reconcile) fn lodgers(&self, slot: GroupSlot) -> &[Paths] {
        self.group(slot).map_or(&[], |group| &group.lodgers)
    }

    /// Groups whose lodgers no longer come to the same paths as the group's own set.
    pub(in crate::reconcile) fn unsettled(&self) -> Vec<GroupSlot> {
        let differs = |slot: &GroupSlot| {
            self.group(*slot).is_some_and(|group| {
                let working = self.working(&group.set.hops);
                group.lodgers.iter().any(|lodger| self.working(&lodger.hops) != working)
            })
        };
        self.lodging.iter().copied().filter(differs).collect()
    }

    /// Ends all lodging in the group, which is `heir`'s from now on, if one is named. `None` when ids are used up.
    pub(in crate::reconcile) fn evict(&mut self, slot: GroupSlot, heir: Option<&Paths>) -> Option<()> {
        if let Some(group) = self.group_mut(slot) {
            group.lodgers.clear();
        }
        self.lodging.remove(&slot);
        heir.map_or(Some(()), |heir| self.retarget(slot, heir))
    }
}

fn at_gateway(hop: &Hop) -> Option<(u32, IpAddr)> {
    hop.gateway.map(|gateway| (hop.ifindex, gateway))
}
