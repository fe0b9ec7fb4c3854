//! What routes lead to, shared: thousands of routes have one body.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use super::nexthops::{GroupSlot, Nexthops};
use crate::model::{Hop, KernelRoute, NexthopId, RouteKey, RouteTarget, Special};

/// Index of a body.
pub(super) type BodySlot = u32;
/// No body.
pub(super) const NO_BODY: BodySlot = BodySlot::MAX;

/// Where routes lead, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Body {
    pub(super) target: BodyTarget,
    pub(super) preferred_source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) scope_link: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum BodyTarget {
    Group(GroupSlot),
    Inline(Vec<(Hop, u16)>),
    Special(Special),
    /// A nexthop object that is not a group of ours: only ever observed, never desired.
    Foreign(NexthopId),
}

impl Body {
    pub(super) fn plain(target: BodyTarget) -> Self {
        Self { target, preferred_source: None, mtu: None, scope_link: false }
    }
}

struct BodyState {
    body: Body,
    refs: u32,
}

/// All bodies.
#[derive(Default)]
pub(super) struct Bodies {
    states: Vec<Option<BodyState>>,
    index: FxHashMap<Body, BodySlot>,
    free: Vec<BodySlot>,
}

impl Bodies {
    pub(super) fn get(&self, slot: BodySlot) -> Option<&Body> {
        self.states.get(slot as usize)?.as_ref().map(|state| &state.body)
    }

    /// The slot of a body; a new one holds a reference to its group.
    pub(super) fn intern(&mut self, body: &Body, nexthops: &mut Nexthops) -> BodySlot {
        if let Some(slot) = self.index.get(body) {
            return *slot;
        }
        if let BodyTarget::Group(group) = body.target {
            nexthops.reference(group);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.states.push(None);
            u32::try_from(self.states.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.states.get_mut(slot as usize) {
            *place = Some(BodyState { body: body.clone(), refs: 0 });
        }
        self.index.insert(body.clone(), slot);
        slot
    }

    pub(super) fn reference(&mut self, slot: BodySlot) {
        if let Some(Some(state)) = self.states.get_mut(slot as usize) {
            state.refs += 1;
        }
    }

    pub(super) fn release(&mut self, slot: BodySlot) {
        if let Some(Some(state)) = self.states.get_mut(slot as usize) {
            state.refs = state.refs.saturating_sub(1);
        }
    }

    /// Forgets bodies that no route has; returns them.
    pub(super) fn collect(&mut self, nexthops: &mut Nexthops) -> Vec<BodySlot> {
        let mut gone = Vec::new();
        for (slot, place) in self.states.iter_mut().enumerate() {
            if place.as_ref().is_some_and(|state| state.refs == 0)
                && let Some(state) = place.take()
            {
                self.index.remove(&state.body);
                if let BodyTarget::Group(group) = state.body.target {
                    nexthops.release(group);
                }
                let slot = u32::try_from(slot).unwrap_or(u32::MAX);
                self.free.push(slot);
                gone.push(slot);
            }
        }
        gone
    }

    /// Bodies that use one of these groups.
    pub(super) fn using(&self, groups: &[GroupSlot]) -> Vec<BodySlot> {
        let uses = |state: &BodyState| matches!(state.body.target, BodyTarget::Group(group) if groups.contains(&group));
        self.find(uses)
    }

    /// Bodies with inline nexthops on one of these links.
    pub(super) fn inline_on(&self, links: &std::collections::BTreeSet<u32>) -> Vec<BodySlot> {
        self.find(|state| match &state.body.target {
            BodyTarget::Inline(hops) => hops.iter().any(|(hop, _)| links.contains(&hop.ifindex)),
            _ => false,
        })
    }

    fn find(&self, wanted: impl Fn(&BodyState) -> bool) -> Vec<BodySlot> {
        let states = self.states.iter().enumerate();
        let found = states.filter(|(_, state)| state.as_ref().is_some_and(&wanted));
        found.map(|(slot, _)| u32::try_from(slot).unwrap_or(u32::MAX)).collect()
    }

    /// Whether two bodies lead to the same nexthops in the same way, be it by different groups.
    pub(super) fn same(&self, a: BodySlot, b: BodySlot, nexthops: &Nexthops) -> bool {
        a == b || self.alike(a, b, |a, b| nexthops.set(a) == nexthops.set(b))
    }

    /// Whether two bodies come to the same paths in the same way as things are, though not for ever.
    pub(super) fn works_like(&self, a: BodySlot, b: BodySlot, nexthops: &Nexthops) -> bool {
        self.alike(a, b, |a, b| nexthops.set(b).is_some_and(|set| nexthops.works_like(a, set)))
    }

    fn alike(&self, a: BodySlot, b: BodySlot, groups: impl Fn(GroupSlot, GroupSlot) -> bool) -> bool {
        let (Some(a), Some(b)) = (self.get(a), self.get(b)) else { return false };
        let targets = match (&a.target, &b.target) {
            (BodyTarget::Group(a), BodyTarget::Group(b)) => groups(*a, *b),
            (a, b) => a == b,
        };
        targets && (a.preferred_source, a.mtu, a.scope_link) == (b.preferred_source, b.mtu, b.scope_link)
    }

    /// The route that a key gets with this body. `None` if its group is not there.
    pub(super) fn route(
        &self,
        key: RouteKey,
        slot: BodySlot,
        nexthops: &Nexthops,
        protocol: u8,
    ) -> Option<KernelRoute> {
        let body = self.get(slot)?;
        let target = match &body.target {
            BodyTarget::Group(group) => RouteTarget::Nexthop(nexthops.id(*group)?),
            BodyTarget::Inline(hops) => RouteTarget::Inline(hops.clone()),
            BodyTarget::Special(kind) => RouteTarget::Special(*kind),
            BodyTarget::Foreign(id) => RouteTarget::Nexthop(*id),
        };
        Some(KernelRoute {
            key,
            target,
            preferred_source: body.preferred_source,
            mtu: body.mtu,
            protocol,
            scope_link: body.scope_link,
        })
    }
}
