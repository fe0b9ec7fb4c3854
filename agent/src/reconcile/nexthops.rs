//! Nexthop objects and groups of ours: shared, counted, and what of them the kernel holds.
//!
//! A *hop* is one nexthop object, a *group* a kernel nexthop group; every route by nexthops points to a group, also
//! where it has one member, so that losing or gaining a path is one message however many routes use it. State here
//! is what the kernel holds once all emitted operations are done; errors correct it.

mod adopt;
mod foreign;
mod health;
mod outcome;

pub(super) use self::foreign::Written;

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::model::ops::RouteOp;
use crate::model::{Hop, Member, NexthopBody, NexthopId, NexthopObject, Resilience};
use crate::rib::HopSet;

/// Index of a hop.
pub(super) type HopSlot = u32;
/// Index of a group.
pub(super) type GroupSlot = u32;

/// What a group should hold, and how flows are spread over it. Equal ones share a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Paths {
    /// Where to.
    pub(super) hops: HopSet,
    /// Present for a resilient group.
    pub(super) resilient: Option<Resilience>,
}

struct HopState {
    hop: Hop,
    id: NexthopId,
    /// Groups that list it.
    refs: u32,
    present: bool,
    /// Somebody gave it another content, and this protocol.
    altered: Option<u8>,
    /// An operation on it is under way: the next one waits for its outcome.
    writing: bool,
}

struct GroupState {
    id: NexthopId,
    /// What it should hold when all links are well.
    set: Paths,
    members: SmallVec<[(HopSlot, u16); 2]>,
    /// What the kernel holds; empty: the group does not exist there.
    programmed: SmallVec<[(HopSlot, u16); 2]>,
    /// Bodies that use it.
    refs: u32,
    /// Found in a dump: what it should hold is not known while a path of it may be down.
    adopted: bool,
    /// Other sets whose routes rest here, because as things are they come to the same paths.
    lodgers: SmallVec<[Paths; 1]>,
    /// What stood before the operation under way, without what was lost since: that stands if it is refused.
    former: SmallVec<[(HopSlot, u16); 2]>,
    /// An operation on it is under way: the next one waits for its outcome.
    writing: bool,
    /// A replacement was refused: `programmed` is a guess until the next one succeeds.
    doubtful: bool,
}

/// What an emitted nexthop operation was about. Hops before groups: the cause before its consequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NexthopOp {
    Hop(HopSlot),
    Group(GroupSlot),
    Delete,
}

/// All hops and groups.
pub(super) struct Nexthops {
    hops: Vec<Option<HopState>>,
    hop_index: FxHashMap<Hop, HopSlot>,
    groups: Vec<Option<GroupState>>,
    by_set: FxHashMap<Paths, SmallVec<[GroupSlot; 1]>>,
    by_id: FxHashMap<NexthopId, Owned>,
    free_hops: Vec<HopSlot>,
    free_groups: Vec<GroupSlot>,
    usable: BTreeSet<u32>,
    /// (interface, gateway) whose neighbour entry has failed.
    silent: FxHashSet<(u32, IpAddr)>,
    /// Gateways whose BFD session has failed.
    failed: FxHashSet<(u32, IpAddr)>,
    /// Groups with lodgers.
    lodging: FxHashSet<GroupSlot>,
    /// [`Self::gateways`] may have changed since it was asked for.
    gateways_changed: bool,
    dirty_hops: FxHashSet<HopSlot>,
    dirty_groups: FxHashSet<GroupSlot>,
    unused: FxHashSet<GroupSlot>,
    ids: (u32, u32),
    next_id: u32,
    taken: FxHashSet<u32>,
    /// Ids have come free.
    freed: bool,
    /// Objects that carry our protocol and serve nothing: leftovers.
    orphans: FxHashSet<NexthopId>,
    protocol: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owned {
    Hop(HopSlot),
    Group(GroupSlot),
}

impl Nexthops {
    pub(super) fn new(ids: (u32, u32), protocol: u8) -> Self {
        Self {
            hops: Vec::new(),
            hop_index: FxHashMap::default(),
            groups: Vec::new(),
            by_set: FxHashMap::default(),
            by_id: FxHashMap::default(),
            free_hops: Vec::new(),
            free_groups: Vec::new(),
            usable: BTreeSet::new(),
            silent: FxHashSet::default(),
            failed: FxHashSet::default(),
            lodging: FxHashSet::default(),
            gateways_changed: false,
            dirty_hops: FxHashSet::default(),
            dirty_groups: FxHashSet::default(),
            unused: FxHashSet::default(),
            ids,
            next_id: ids.0,
            taken: FxHashSet::default(),
            freed: false,
            orphans: FxHashSet::default(),
            protocol,
        }
    }

    fn hop(&self, slot: HopSlot) -> Option<&HopState> {
        self.hops.get(slot as usize)?.as_ref()
    }

    fn group(&self, slot: GroupSlot) -> Option<&GroupState> {
        self.groups.get(slot as usize)?.as_ref()
    }

    fn group_mut(&mut self, slot: GroupSlot) -> Option<&mut GroupState> {
        self.groups.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn set(&self, slot: GroupSlot) -> Option<&Paths> {
        self.group(slot).map(|group| &group.set)
    }

    pub(super) fn id(&self, slot: GroupSlot) -> Option<NexthopId> {
        self.group(slot).map(|group| group.id)
    }

    /// Whether the kernel has the group.
    pub(super) fn is_present(&self, slot: GroupSlot) -> bool {
        self.group(slot).is_some_and(|group| !group.programmed.is_empty())
    }

    /// The group for a set, made if there is none; `None` when the id range is used up. `now` is the group that the
    /// asking route has. An adopted one that lacks only what does not work becomes the group of the set; in another
    /// one that comes to the same paths as things are, the set lodges: its routes need not be rewritten.
    pub(super) fn intern(&mut self, set: &Paths, now: Option<GroupSlot>) -> Option<GroupSlot> {
        if let Some(slot) = self.by_set.get(set).and_then(|slots| slots.first()).copied() {
            if let Some(group) = self.group_mut(slot) {
                group.adopted = false;
            }
            return Some(slot);
        }
        if let Some(slot) = now.filter(|slot| self.lacks_only_idle(*slot, set)) {
            self.retarget(slot, set)?;
            return Some(slot);
        }
        if let Some(slot) = now.filter(|slot| self.works_like(*slot, set)) {
            self.lodge(slot, set);
            return Some(slot);
        }
        self.has_ids(&set.hops, 1).then_some(())?;
        let members = self.members(&set.hops)?;
        let id = self.allocate()?;
        let state = GroupState {
            id,
            set: set.clone(),
            members,
            programmed: SmallVec::new(),
            refs: 0,
            adopted: false,
            lodgers: SmallVec::new(),
            former: SmallVec::new(),
            writing: false,
            doubtful: false,
        };
        let slot = self.store(state);
        self.dirty_groups.insert(slot);
        Some(slot)
    }

    /// Whether nexthops can exist on the link now.
    pub(super) fn is_usable(&self, ifindex: u32) -> bool {
        self.usable.contains(&ifindex)
    }

    fn lacks_only_idle(&self, slot: GroupSlot, set: &Paths) -> bool {
        let Some(group) = self.group(slot) else { return false };
        let working = self.working(&set.hops);
        let unclear = group.adopted && group.lodgers.is_empty() && group.set.resilient == set.resilient;
        unclear && !working.is_empty() && group.set.hops == working
    }

    fn store(&mut self, state: GroupState) -> GroupSlot {
        let slot = self.free_groups.pop().unwrap_or_else(|| {
            self.groups.push(None);
            slot_of(self.groups.len() - 1)
        });
        self.by_set.entry(state.set.clone()).or_default().push(slot);
        self.by_id.insert(state.id, Owned::Group(slot));
        self.taken.remove(&state.id.0);
        self.unused.insert(slot);
        self.gateways_changed |= state.set.hops.len() > 1;
        if let Some(place) = self.groups.get_mut(slot as usize) {
            *place = Some(state);
        }
        slot
    }

    /// Whether ids are left for the hops of a set that are new, and for `more`. Asked before anything is made: half of a
    /// group is of no use.
    fn has_ids(&self, set: &HopSet, more: usize) -> bool {
        let (first, last) = self.ids;
        let new = set.iter().filter(|(hop, _)| !self.hop_index.contains_key(hop)).count() + more;
        let used = self.by_id.len() + self.taken.iter().filter(|id| (first..=last).contains(*id)).count();
        new == 0 || used + new <= last.saturating_sub(first) as usize + 1
    }

    /// Whether ids were freed since this was last asked.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    fn members(&mut self, set: &HopSet) -> Option<SmallVec<[(HopSlot, u16); 2]>> {
        let mut members = SmallVec::new();
        for (hop, weight) in set {
            let slot = self.intern_hop(*hop)?;
            if let Some(Some(state)) = self.hops.get_mut(slot as usize) {
                state.refs += 1;
            }
            members.push((slot, u16::try_from(*weight).unwrap_or(u16::MAX)));
        }
        Some(members)
    }

    fn intern_hop(&mut self, hop: Hop) -> Option<HopSlot> {
        if let Some(slot) = self.hop_index.get(&hop) {
            return Some(*slot);
        }
        let id = self.allocate()?;
        let slot =
            self.store_hop(HopState { hop, id, refs: 0, present: false, altered: None, writing: false });
        self.dirty_hops.insert(slot);
        Some(slot)
    }

    fn store_hop(&mut self, state: HopState) -> HopSlot {
        let slot = self.free_hops.pop().unwrap_or_else(|| {
            self.hops.push(None);
            slot_of(self.hops.len() - 1)
        });
        self.hop_index.insert(state.hop, slot);
        self.by_id.insert(state.id, Owned::Hop(slot));
        self.taken.remove(&state.id.0);
        if let Some(place) = self.hops.get_mut(slot as usize) {
            *place = Some(state);
        }
        slot
    }

    fn allocate(&mut self) -> Option<NexthopId> {
        let (first, last) = self.ids;
        let total = u64::from(last.saturating_sub(first)) + 1;
        for _ in 0..total {
            let id = self.next_id;
            self.next_id = if id >= last { first } else { id + 1 };
            if !self.by_id.contains_key(&NexthopId(id)) && !self.taken.contains(&id) {
                return Some(NexthopId(id));
            }
        }
        None
    }

    pub(super) fn reference(&mut self, slot: GroupSlot) {
        if let Some(group) = self.group_mut(slot) {
            group.refs += 1;
        }
        self.unused.remove(&slot);
    }

    pub(super) fn release(&mut self, slot: GroupSlot) {
        if let Some(group) = self.group_mut(slot) {
            group.refs = group.refs.saturating_sub(1);
            if group.refs == 0 {
                self.unused.insert(slot);
            }
        }
    }

    /// Changes what a group holds, in place: one message, whatever the number of routes. Not where no link of the new
    /// set is usable: the kernel has no empty groups.
    pub(super) fn replace(&mut self, slot: GroupSlot, set: &Paths) -> bool {
        // A group's type is for life.
        if self.set(slot).is_none_or(|now| now.resilient != set.resilient) {
            return false;
        }
        if !set.hops.iter().any(|(hop, _)| self.usable.contains(&hop.ifindex)) {
            return false;
        }
        self.retarget(slot, set).is_some()
    }

    fn retarget(&mut self, slot: GroupSlot, set: &Paths) -> Option<()> {
        self.has_ids(&set.hops, 0).then_some(())?;
        let members = self.members(&set.hops)?;
        let group = self.group_mut(slot)?;
        group.adopted = false;
        let old_set = std::mem::replace(&mut group.set, set.clone());
        let old_members = std::mem::replace(&mut group.members, members);
        self.gateways_changed = true;
        self.unindex(&old_set, slot);
        self.by_set.entry(set.clone()).or_default().push(slot);
        self.release_hops(&old_members);
        self.dirty_groups.insert(slot);
        Some(())
    }

    fn unindex(&mut self, set: &Paths, slot: GroupSlot) {
        if let Some(slots) = self.by_set.get_mut(set) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_set.remove(set);
            }
        }
    }

    fn release_hops(&mut self, members: &[(HopSlot, u16)]) {
        for (slot, _) in members {
            if let Some(Some(hop)) = self.hops.get_mut(*slot as usize) {
                hop.refs = hop.refs.saturating_sub(1);
                self.dirty_hops.insert(*slot);
            }
        }
    }

    // ===== losses =====

    /// These hops left the kernel: so did their memberships. Returns groups that the kernel dropped for it.
    fn forget_members(&mut self, gone: &FxHashSet<HopSlot>) -> Vec<GroupSlot> {
        let mut dropped = Vec::new();
        for (slot, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            group.former.retain(|(hop, _)| !gone.contains(hop));
            if !group.programmed.iter().any(|(hop, _)| gone.contains(hop)) {
                continue;
            }
            group.programmed.retain(|(hop, _)| !gone.contains(hop));
            self.dirty_groups.insert(slot_of(slot));
            if group.programmed.is_empty() {
                dropped.push(slot_of(slot));
            }
        }
        dropped
    }

    /// Whether the kernel is believed to hold this object of ours.
    pub(super) fn holds(&self, id: NexthopId) -> bool {
        match self.by_id.get(&id) {
            Some(Owned::Hop(slot)) => self.hop(*slot).is_some_and(|hop| hop.present),
            Some(Owned::Group(slot)) => self.is_present(*slot),
            None => false,
        }
    }

    /// An object of ours left the kernel (somebody deleted it, or a dump lacks it). Returns the groups that are gone.
    pub(super) fn lost(&mut self, id: NexthopId) -> Vec<GroupSlot> {
        match self.by_id.get(&id).copied() {
            Some(Owned::Hop(slot)) => {
                if let Some(Some(hop)) = self.hops.get_mut(slot as usize) {
                    hop.present = false;
                }
                self.dirty_hops.insert(slot);
                self.forget_members(&FxHashSet::from_iter([slot]))
            }
            Some(Owned::Group(slot)) => {
                let was = self.is_present(slot);
                if let Some(group) = self.group_mut(slot) {
                    group.programmed.clear();
                    group.former.clear();
                }
                self.dirty_groups.insert(slot);
                if was { vec![slot] } else { Vec::new() }
            }
            None => {
                self.freed |= self.taken.remove(&id.0);
                Vec::new()
            }
        }
    }

    // ===== operations =====

    /// Whether [`Self::emit`] has something to say.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty_hops.is_empty() || !self.dirty_groups.is_empty()
    }

    /// Emits what brings the kernel's objects to what is wanted, before the routes that need them. Returns the groups
    /// that exist (again) after it and did not before.
    pub(super) fn emit(&mut self, push: &mut impl FnMut(RouteOp, NexthopOp)) -> Vec<GroupSlot> {
        let hops: Vec<HopSlot> = self.dirty_hops.drain().collect();
        let (mut unused, mut new) = (Vec::new(), FxHashSet::default());
        for slot in hops {
            let Some(Some(state)) = self.hops.get_mut(slot as usize) else { continue };
            if state.writing {
                self.dirty_hops.insert(slot);
            } else if state.refs == 0 {
                unused.push(slot);
            } else if (!state.present || state.altered == Some(self.protocol))
                && self.usable.contains(&state.hop.ifindex)
            {
                let object = NexthopObject {
                    id: state.id,
                    protocol: self.protocol,
                    body: NexthopBody::Single(state.hop),
                };
                state.writing = true;
                if std::mem::replace(&mut state.present, true) {
                    push(RouteOp::ReplaceNexthop(object), NexthopOp::Hop(slot));
                } else {
                    state.altered = None;
                    new.insert(slot);
                    push(RouteOp::AddNexthop(object), NexthopOp::Hop(slot));
                }
            }
        }
        self.touch_groups(&new);
        let appeared = self.emit_groups(push);
        for slot in unused {
            self.drop_hop(slot, push);
        }
        appeared
    }

    fn emit_groups(&mut self, push: &mut impl FnMut(RouteOp, NexthopOp)) -> Vec<GroupSlot> {
        let dirty: Vec<GroupSlot> = self.dirty_groups.drain().collect();
        let mut appeared = Vec::new();
        for slot in dirty {
            let Some(Some(group)) = self.groups.get(slot as usize) else { continue };
            if group.writing {
                self.dirty_groups.insert(slot);
                continue;
            }
            let wanted = self.carrying(&group.members);
            if wanted.is_empty() || (wanted == group.programmed && !group.doubtful) {
                continue;
            }
            let members = wanted
                .iter()
                .filter_map(|(hop, weight)| Some(Member { id: self.hop(*hop)?.id, weight: *weight }));
            let members = members.collect();
            let body = match group.set.resilient {
                None => NexthopBody::Group(members),
                Some(resilience) => NexthopBody::Resilient(members, resilience),
            };
            let object = NexthopObject { id: group.id, protocol: self.protocol, body };
            let new = group.programmed.is_empty();
            push(
                if new { RouteOp::AddNexthop(object) } else { RouteOp::ReplaceNexthop(object) },
                NexthopOp::Group(slot),
            );
            if new {
                appeared.push(slot);
            }
            if let Some(group) = self.group_mut(slot) {
                group.former = std::mem::replace(&mut group.programmed, wanted);
                (group.writing, group.doubtful) = (true, false);
            }
        }
        appeared
    }

    fn drop_hop(&mut self, slot: HopSlot, push: &mut impl FnMut(RouteOp, NexthopOp)) {
        let Some(place) = self.hops.get_mut(slot as usize) else { return };
        let Some(state) = place.take() else { return };
        self.hop_index.remove(&state.hop);
        self.by_id.remove(&state.id);
        self.free_hops.push(slot);
        self.freed = true;
        if state.present {
            push(RouteOp::DelNexthop(state.id), NexthopOp::Delete);
        }
    }

    /// Groups that no route uses any more. Removing one removes the routes that still point to it, so this is called
    /// only after the kernel acknowledged the routes' change.
    pub(super) fn collect(&mut self, push: &mut impl FnMut(RouteOp, NexthopOp)) -> Vec<GroupSlot> {
        let unused: Vec<GroupSlot> = self.unused.drain().collect();
        for slot in &unused {
            let Some(place) = self.groups.get_mut(*slot as usize) else { continue };
            let Some(group) = place.take() else { continue };
            self.by_id.remove(&group.id);
            self.freed = true;
            self.unindex(&group.set, *slot);
            self.dirty_groups.remove(slot);
            self.lodging.remove(slot);
            self.gateways_changed |= group.set.hops.len() > 1;
            self.release_hops(&group.members);
            self.free_groups.push(*slot);
            if !group.programmed.is_empty() {
                push(RouteOp::DelNexthop(group.id), NexthopOp::Delete);
            }
        }
        for id in self.orphans.drain() {
            self.taken.remove(&id.0);
            self.freed = true;
            push(RouteOp::DelNexthop(id), NexthopOp::Delete);
        }
        unused
    }

    /// Tries again what failed: all groups and hops that are wanted and not present.
    pub(super) fn retry(&mut self) {
        let absent = |hop: &Option<HopState>| hop.as_ref().is_some_and(|hop| !hop.present && hop.refs > 0);
        let hops = self.hops.iter().enumerate().filter(|(_, hop)| absent(hop)).map(|(slot, _)| slot_of(slot));
        self.dirty_hops.extend(hops);
        let differs = |group: &Option<GroupState>| {
            group.as_ref().is_some_and(|g| g.programmed != g.members || g.doubtful)
        };
        let groups =
            self.groups.iter().enumerate().filter(|(_, g)| differs(g)).map(|(slot, _)| slot_of(slot));
        self.dirty_groups.extend(groups);
    }

    /// Whether what an operation was about is still wanted.
    pub(super) fn is_wanted(&self, op: NexthopOp) -> bool {
        match op {
            NexthopOp::Hop(slot) => self.hop(slot).is_some_and(|hop| hop.refs > 0),
            NexthopOp::Group(slot) => self.group(slot).is_some_and(|group| group.refs > 0),
            NexthopOp::Delete => false,
        }
    }

    /// A hop or group in words.
    pub(super) fn describe(&self, op: NexthopOp) -> String {
        match op {
            NexthopOp::Hop(slot) => self.hop(slot).map_or_else(String::new, |state| {
                let via = state.hop.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                format!("nexthop {}{via} on interface {}", state.id.0, state.hop.ifindex)
            }),
            NexthopOp::Group(slot) => {
                self.group(slot).map_or_else(String::new, |group| format!("nexthop group {}", group.id.0))
            }
            NexthopOp::Delete => "deletion of a nexthop".to_owned(),
        }
    }
}

fn slot_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
