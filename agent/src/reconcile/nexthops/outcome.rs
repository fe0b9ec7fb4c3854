//! What became of operations: what waited for it may be said, and what was believed is corrected.

use rustc_hash::FxHashSet;

use super::{GroupSlot, HopSlot, NexthopOp, Nexthops, Owned};
use crate::model::NexthopId;

impl Nexthops {
    /// An operation was applied, or refused: what waited for its outcome may be said.
    pub(in crate::reconcile) fn done(&mut self, op: NexthopOp) {
        match op {
            NexthopOp::Hop(slot) => {
                if let Some(Some(state)) = self.hops.get_mut(slot as usize) {
                    (state.writing, state.altered) = (false, None);
                }
            }
            NexthopOp::Group(slot) => {
                if let Some(group) = self.group_mut(slot) {
                    group.former.clear();
                    group.writing = false;
                }
            }
            NexthopOp::Delete => {}
        }
    }

    /// Whether an operation on this object is under way.
    pub(in crate::reconcile) fn is_writing(&self, id: NexthopId) -> bool {
        match self.by_id.get(&id) {
            Some(Owned::Hop(slot)) => self.hop(*slot).is_some_and(|hop| hop.writing),
            Some(Owned::Group(slot)) => self.group(*slot).is_some_and(|group| group.writing),
            None => false,
        }
    }

    /// An operation failed: corrects what was believed. EEXIST means that the id is somebody else's: another is taken.
    /// Returns groups that do not exist after all.
    pub(in crate::reconcile) fn failed(&mut self, op: NexthopOp, errno: i32) -> Vec<GroupSlot> {
        let gone = match op {
            NexthopOp::Delete => Vec::new(),
            NexthopOp::Hop(slot) => {
                // Where an altered one can be no more replaced the id is given up; with a dead link went the object.
                let altered = self.hop(slot).is_some_and(|state| state.altered.is_some());
                if errno == libc::EEXIST || altered && errno != libc::ENETDOWN {
                    self.renumber_hop(slot, errno != libc::ENOENT);
                }
                if let Some(Some(state)) = self.hops.get_mut(slot as usize) {
                    state.present = false;
                }
                self.forget_members(&FxHashSet::from_iter([slot]))
            }
            NexthopOp::Group(slot) => self.group_failed(slot, errno),
        };
        self.done(op);
        gone
    }

    /// What stood before still stands, with its routes, when a replacement failed: a member may have gone with its link
    /// a moment before. ENOENT: the group itself had gone. It gets another id, so that nobody takes the notification of
    /// that, which may still come, for the end of the new one.
    fn group_failed(&mut self, slot: GroupSlot, errno: i32) -> Vec<GroupSlot> {
        if matches!(errno, libc::EEXIST | libc::ENOENT) {
            self.renumber_group(slot, errno == libc::EEXIST);
        }
        let was = self.is_present(slot);
        let Some(group) = self.group_mut(slot) else { return Vec::new() };
        let mut stands = std::mem::take(&mut group.former);
        if errno == libc::ENOENT {
            stands.clear();
        }
        group.doubtful = !stands.is_empty();
        let tried = std::mem::replace(&mut group.programmed, stands);
        let members = group.members.clone();
        // The same again would fail again: that waits.
        if errno == libc::ENOENT || self.carrying(&members) != tried {
            self.dirty_groups.insert(slot);
        }
        if was && !self.is_present(slot) { vec![slot] } else { Vec::new() }
    }

    pub(super) fn renumber_hop(&mut self, slot: HopSlot, is_taken: bool) {
        let Some(new) = self.allocate() else { return };
        let Some(Some(state)) = self.hops.get_mut(slot as usize) else { return };
        let old = std::mem::replace(&mut state.id, new);
        self.by_id.remove(&old);
        self.taken.extend(is_taken.then_some(old.0));
        self.by_id.insert(new, Owned::Hop(slot));
        self.dirty_hops.insert(slot);
    }

    fn renumber_group(&mut self, slot: GroupSlot, is_taken: bool) {
        let Some(new) = self.allocate() else { return };
        let Some(group) = self.group_mut(slot) else { return };
        let old = std::mem::replace(&mut group.id, new);
        self.by_id.remove(&old);
        self.taken.extend(is_taken.then_some(old.0));
        self.by_id.insert(new, Owned::Group(slot));
        self.dirty_groups.insert(slot);
    }
}
