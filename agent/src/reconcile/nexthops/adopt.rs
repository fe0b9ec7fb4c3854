//! Taking over what a dump shows as ours.

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

use super::{GroupSlot, GroupState, HopSlot, HopState, Nexthops, Owned, Paths};
use crate::model::{Hop, Member, NexthopBody, NexthopId, NexthopObject, Resilience};
use crate::rib::HopSet;

impl Nexthops {
    /// Takes over the objects that a dump shows as ours. Known ones are compared; returns groups found missing.
    pub(in crate::reconcile) fn adopt(&mut self, objects: &[NexthopObject]) -> Vec<GroupSlot> {
        let mut seen = FxHashSet::default();
        let (first, last) = self.ids;
        let ours = || objects.iter().filter(|object| (first..=last).contains(&object.id.0));
        for object in ours() {
            seen.insert(object.id);
            if let NexthopBody::Single(hop) = &object.body {
                self.adopt_hop(object.id, *hop);
            }
        }
        for object in ours() {
            match &object.body {
                NexthopBody::Group(members) => self.adopt_group(object.id, members, None),
                NexthopBody::Resilient(members, how) => self.adopt_group(object.id, members, Some(*how)),
                _ => {}
            }
        }
        let unknown = objects.iter().map(|object| object.id).filter(|id| !self.by_id.contains_key(id));
        self.orphans = unknown.collect();
        self.taken.extend(self.orphans.iter().map(|id| id.0));
        let missing: Vec<NexthopId> =
            self.by_id.keys().filter(|id| !seen.contains(*id) && self.holds(**id)).copied().collect();
        missing.into_iter().flat_map(|id| self.lost(id)).collect()
    }

    fn adopt_hop(&mut self, id: NexthopId, hop: Hop) {
        if let Some(Owned::Hop(slot)) = self.by_id.get(&id).copied() {
            let Some(Some(state)) = self.hops.get_mut(slot as usize) else { return };
            state.present = true;
            state.altered = (state.hop != hop).then_some(self.protocol);
            if state.altered.is_some() {
                self.dirty_hops.insert(slot);
            }
            return;
        }
        if self.hop_index.contains_key(&hop) {
            // A second object with the same content; adopting it would make two of one.
            self.taken.insert(id.0);
            return;
        }
        let slot =
            self.store_hop(HopState { hop, id, refs: 0, present: true, altered: None, writing: false });
        self.dirty_hops.insert(slot);
    }

    fn adopt_group(&mut self, id: NexthopId, members: &[Member], resilient: Option<Resilience>) {
        let listed: Option<SmallVec<[(HopSlot, u16); 2]>> = members
            .iter()
            .map(|member| match self.by_id.get(&member.id) {
                Some(Owned::Hop(slot)) => Some((*slot, member.weight)),
                _ => None,
            })
            .collect();
        let Some(listed) = listed else { return };
        if let Some(Owned::Group(slot)) = self.by_id.get(&id).copied() {
            if let Some(group) = self.group_mut(slot)
                && group.programmed != listed
            {
                group.programmed = listed;
                self.dirty_groups.insert(slot);
            }
            return;
        }
        let set: HopSet = listed
            .iter()
            .filter_map(|(slot, weight)| Some((self.hop(*slot)?.hop, u32::from(*weight))))
            .collect();
        for (slot, _) in &listed {
            if let Some(Some(hop)) = self.hops.get_mut(*slot as usize) {
                hop.refs += 1;
            }
        }
        let set = Paths { hops: crate::rib::canonical(set), resilient };
        self.store(GroupState {
            id,
            set,
            members: listed.clone(),
            programmed: listed,
            refs: 0,
            adopted: true,
            lodgers: SmallVec::new(),
            former: SmallVec::new(),
            writing: false,
            doubtful: false,
        });
    }

    pub(in crate::reconcile) fn group_by_id(&self, id: NexthopId) -> Option<GroupSlot> {
        match self.by_id.get(&id) {
            Some(Owned::Group(slot)) => Some(*slot),
            _ => None,
        }
    }
}
