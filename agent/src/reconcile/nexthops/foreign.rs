//! What others do to objects of ours.

use super::{GroupSlot, HopSlot, NexthopOp, Nexthops, Owned};
use crate::model::{Member, NexthopBody, NexthopObject, Resilience};

/// What an object that somebody else wrote means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reconcile) enum Written {
    /// Not one of ours, or one of which only a dump tells whether it is as it should be.
    Unclear,
    /// One of ours, and as it was.
    Same,
    /// One of ours with another content, or another owner.
    Altered(NexthopOp),
}

impl Nexthops {
    /// Somebody else wrote this object. One of ours that is altered is mended once [`Self::mend`] says so; routes that use
    /// it follow the other content until then.
    pub(in crate::reconcile) fn written(&mut self, object: &NexthopObject) -> Written {
        let owned = self.by_id.get(&object.id).copied().filter(|_| !self.is_writing(object.id));
        match owned.filter(|_| self.holds(object.id)) {
            Some(Owned::Hop(slot)) => self.hop_written(slot, object),
            Some(Owned::Group(slot)) => self.group_written(slot, object),
            None => Written::Unclear,
        }
    }

    fn hop_written(&mut self, slot: HopSlot, object: &NexthopObject) -> Written {
        let protocol = self.protocol;
        let Some(Some(state)) = self.hops.get_mut(slot as usize) else { return Written::Unclear };
        let same = object.protocol == protocol && object.body == NexthopBody::Single(state.hop);
        state.altered = (!same).then_some(object.protocol);
        if same { Written::Same } else { Written::Altered(NexthopOp::Hop(slot)) }
    }

    /// The kernel keeps the protocol of a group that is replaced.
    fn group_written(&mut self, slot: GroupSlot, object: &NexthopObject) -> Written {
        let (members, resilient) = match &object.body {
            NexthopBody::Group(members) => (members.as_slice(), None),
            NexthopBody::Resilient(members, how) => (members.as_slice(), Some(*how)),
            NexthopBody::Single(_) | NexthopBody::Other => return Written::Unclear,
        };
        let Some(group) = self.group(slot) else { return Written::Unclear };
        let holds = |member: &Member| {
            let known = |(hop, weight): &(HopSlot, u16)| {
                *weight == member.weight && self.hop(*hop).is_some_and(|state| state.id == member.id)
            };
            group.programmed.iter().any(known)
        };
        let kept = resilient.map(|how: Resilience| how.buckets) == group.set.resilient.map(|how| how.buckets);
        if !kept || !members.iter().all(holds) {
            if let Some(group) = self.group_mut(slot) {
                group.doubtful = true;
            }
            return Written::Altered(NexthopOp::Group(slot));
        }
        // Less than it was: so the kernel tells of a group whose member somebody deleted, too.
        if members.len() == group.programmed.len() { Written::Same } else { Written::Unclear }
    }

    /// Has an altered object written as it should be.
    pub(in crate::reconcile) fn mend(&mut self, op: NexthopOp) {
        match op {
            NexthopOp::Hop(slot) => {
                let altered = self.hop(slot).and_then(|state| state.altered);
                if altered.is_some_and(|protocol| protocol != self.protocol) {
                    self.give_up(slot);
                }
                self.dirty_hops.insert(slot);
            }
            NexthopOp::Group(slot) => {
                self.dirty_groups.insert(slot);
            }
            NexthopOp::Delete => {}
        }
    }

    /// An object carries somebody else's mark now, and is theirs. Groups go on using it until they have ours, by another id.
    fn give_up(&mut self, slot: HopSlot) {
        self.renumber_hop(slot, true);
        if let Some(Some(state)) = self.hops.get_mut(slot as usize) {
            (state.present, state.altered) = (false, None);
        }
        for group in self.groups.iter_mut().flatten() {
            group.doubtful |= group.programmed.iter().any(|(hop, _)| *hop == slot);
        }
    }
}
