//! The nexthop objects of one generation, and what comes of their ids.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use zebra_fpm::{NexthopBody, NexthopObject};

use super::types::{Generation, HopSet, Resolved, Unresolved, WeightedHop};
use crate::model::{Family, Hop, Special};

pub(super) struct Epoch {
    pub(super) generation: Generation,
    pub(super) nexthops: FxHashMap<u32, NexthopBody>,
    /// member id → groups that list it
    pub(super) groups_of: FxHashMap<u32, SmallVec<[u32; 4]>>,
}

impl Epoch {
    pub(super) fn new(generation: Generation) -> Self {
        Self { generation, nexthops: FxHashMap::default(), groups_of: FxHashMap::default() }
    }

    /// Takes an object in; returns whether it says something new.
    pub(super) fn insert(&mut self, object: &NexthopObject) -> bool {
        let id = object.id.0;
        if self.nexthops.get(&id).is_some_and(|old| *old == object.body) {
            return false;
        }
        self.remove(id);
        if let NexthopBody::Group(group) = &object.body {
            for member in &group.members {
                let groups = self.groups_of.entry(member.id.0).or_default();
                if !groups.contains(&id) {
                    groups.push(id);
                }
            }
        }
        self.nexthops.insert(id, object.body.clone());
        true
    }

    /// Forgets an object; returns whether there was one.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let Some(body) = self.nexthops.remove(&id) else { return false };
        let NexthopBody::Group(group) = body else { return true };
        for member in &group.members {
            if let Some(groups) = self.groups_of.get_mut(&member.id.0) {
                groups.retain(|group| *group != id);
                if groups.is_empty() {
                    self.groups_of.remove(&member.id.0);
                }
            }
        }
        true
    }

    /// The nexthops of an id.
    pub(super) fn resolve(&self, id: u32, family: Family) -> Resolved {
        let mut hops = HopSet::new();
        let mut missing = None;
        match self.nexthops.get(&id) {
            None => missing = Some(id),
            Some(NexthopBody::Single(hop)) if hop.encap.is_some() => {
                return Resolved::Unresolved(Unresolved::Encapsulated);
            }
            Some(NexthopBody::Single(hop)) => hops.extend(weighted(hop, family).map(|(hop, _)| (hop, 1))),
            Some(NexthopBody::Blackhole) => return Resolved::Special(Special::Blackhole),
            Some(NexthopBody::Group(group)) => {
                for member in &group.members {
                    match self.nexthops.get(&member.id.0) {
                        Some(NexthopBody::Single(hop)) if hop.encap.is_none() => {
                            hops.extend(weighted(hop, family).map(|(hop, _)| (hop, member.weight)));
                        }
                        Some(_) => {}
                        None => missing = Some(member.id.0),
                    }
                }
            }
        }
        if hops.is_empty() {
            return Resolved::Unresolved(missing.map_or(Unresolved::Empty, Unresolved::NexthopUnknown));
        }
        Resolved::Hops(canonical(hops))
    }
}

pub(super) fn weighted(hop: &zebra_fpm::Nexthop, family: Family) -> Option<WeightedHop> {
    let ifindex = hop.ifindex?.0;
    let family = hop.gateway.as_ref().map_or(family, Family::of_addr);
    Some((Hop { gateway: hop.gateway, ifindex, onlink: hop.onlink, family }, hop.weight))
}

/// Sorts and merges: equal sets are equal values, whatever order FRR sent them in.
#[must_use]
pub fn canonical(mut hops: HopSet) -> HopSet {
    hops.sort_unstable();
    hops.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = earlier.1.max(later.1);
        }
        same
    });
    hops
}
