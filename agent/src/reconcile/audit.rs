//! Comparing with a dump: at the start (adoption of what an earlier agent left), after lost notifications, and slowly
//! for ever, because the kernel does not notify of everything.

use std::collections::BTreeSet;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::bodies::{Body, BodyTarget};
use super::{
    ADOPTED, BodySlot, CHANGED, DIRTY, Engine, Entry, FAILED, GroupSlot, IN_FLIGHT, INSTALLED, SEEN,
};
use crate::model::{KernelRoute, NexthopId, NexthopObject, RouteKey, RouteTarget};
use crate::rib::{AT_ONCE, Slot};

/// A comparison under way. Programming goes on meanwhile, but during the first one: what changes is known by the kernel's
/// answers, and the dump is not asked about it.
#[derive(Debug, Default)]
pub struct Audit {
    /// Routes of ours that the dump showed.
    pub routes: u64,
    /// Differences found.
    pub differences: u64,
    /// Bodies of routes that have nothing but a nexthop object.
    plain: FxHashMap<NexthopId, BodySlot>,
}

/// What the kernel lost since the dump began that is being read.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) links: BTreeSet<u32>,
    pub(super) objects: BTreeSet<NexthopId>,
    pub(super) groups: FxHashSet<GroupSlot>,
}

impl Engine {
    /// Whether a dump is wanted now.
    #[must_use]
    pub fn audit_wanted(&self) -> bool {
        self.audit_wanted && self.in_flight.is_empty()
    }

    /// A dump is about to be taken: holds back batches until the comparison has the nexthop objects, and takes note of
    /// what is lost from here on. What asks for a comparison from here on asks for another one.
    pub fn hold_back(&mut self) {
        self.suspended = true;
        self.audit_wanted = false;
        self.losses = Losses::default();
        self.rib.for_each_entry(|_, entry| entry.flags &= !(SEEN | CHANGED));
    }

    /// Whether nothing is written for a comparison's sake.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Whether it is known what an earlier agent left.
    #[must_use]
    pub fn has_adopted(&self) -> bool {
        self.adopted
    }

    /// Begins a comparison, after [`Self::hold_back`]; batches under way must have ended. Of what went since the dump began
    /// it may tell as if it were there: it goes once more.
    pub fn begin_audit(&mut self, nexthops: &[NexthopObject], now: Instant) -> Audit {
        self.suspended = !self.adopted;
        let mut gone = self.nexthops.adopt(nexthops);
        self.comparing = true;
        gone.extend(self.nexthops.flush_links(&self.losses.links));
        gone.extend(self.losses.objects.iter().flat_map(|id| self.nexthops.lost(*id)));
        self.groups_vanished(&gone, now);
        Audit::default()
    }

    /// A part of the dump of routes that carry our protocol.
    pub fn audit_routes(&mut self, audit: &mut Audit, routes: &[KernelRoute], now: Instant) {
        for some in routes.chunks(AT_ONCE) {
            self.rib.warm_prefixes(some.iter().map(|route| &route.key.prefix));
            self.compare(audit, some, now);
        }
    }

    fn compare(&mut self, audit: &mut Audit, routes: &[KernelRoute], now: Instant) {
        for route in routes {
            audit.routes += 1;
            let RouteKey { table, metric, prefix } = route.key;
            let Some(target) = self.target_id((table, metric)) else { continue };
            let Some(slot) = self.rib.entry_at(target, &prefix) else { continue };
            let Some((_, _, entry)) = self.rib.entry(slot) else { continue };
            if entry.flags & (CHANGED | IN_FLIGHT) != 0 {
                continue;
            }
            let body = self.observed_body(audit, route);
            let stands = !self.has_lost(body);
            let installed = if stands { INSTALLED } else { 0 };
            let flags = entry.flags & (DIRTY | FAILED) | installed | SEEN;
            let (seen, doubtful) = if !entry.is_held() {
                let contribution = self.presume((target, prefix));
                let kept = self.waits_for_frr(slot, contribution);
                (Entry { body, contribution, flags: flags | ADOPTED }, !(kept && stands))
            } else if entry.flags & INSTALLED != 0 && entry.body == body && stands {
                (Entry { flags: entry.flags | SEEN, ..entry }, false)
            } else {
                (Entry { body, flags: flags | entry.flags & ADOPTED, ..entry }, true)
            };
            if seen.body != entry.body {
                self.bodies.reference(body);
                self.bodies.release(entry.body);
            }
            audit.differences += u64::from(seen.body != entry.body || entry.flags & INSTALLED == 0);
            self.edit(slot, |entry| *entry = seen);
            if doubtful {
                self.mark(slot, now);
            }
        }
    }

    /// Whether routes with this body went since the dump began, so that it may show what is no longer there.
    fn has_lost(&self, body: BodySlot) -> bool {
        match self.bodies.get(body).map(|body| &body.target) {
            Some(BodyTarget::Group(group)) => self.losses.groups.contains(group),
            Some(BodyTarget::Inline(hops)) => {
                hops.iter().any(|(hop, _)| self.losses.links.contains(&hop.ifindex))
            }
            _ => false,
        }
    }

    /// Whether an adopted route stays until FRR has spoken, so that there is nothing to evaluate.
    fn waits_for_frr(&self, slot: Slot, contribution: u16) -> bool {
        let [index] = self.contribution(contribution) else { return false };
        let held = self.held.get(usize::from(*index)).copied().unwrap_or(false);
        held && self.rib.at(slot).is_none()
    }

    /// The body of a route that the kernel shows as ours.
    fn observed_body(&mut self, audit: &mut Audit, route: &KernelRoute) -> BodySlot {
        let plain = match route.target {
            RouteTarget::Nexthop(id) if route.preferred_source.is_none() && route.mtu.is_none() => Some(id),
            _ => None,
        };
        if let Some(body) = plain.and_then(|id| audit.plain.get(&id)).filter(|_| !route.scope_link) {
            return *body;
        }
        let target = match &route.target {
            RouteTarget::Nexthop(id) => {
                self.nexthops.group_by_id(*id).map_or(BodyTarget::Foreign(*id), BodyTarget::Group)
            }
            RouteTarget::Inline(hops) => {
                let mut hops = hops.clone();
                hops.sort_unstable();
                BodyTarget::Inline(hops)
            }
            RouteTarget::Special(kind) => BodyTarget::Special(*kind),
        };
        let (preferred_source, mtu, scope_link) = (route.preferred_source, route.mtu, route.scope_link);
        let body = Body { target, preferred_source, mtu, scope_link };
        let body = self.bodies.intern(&body, &mut self.nexthops);
        if let Some(id) = plain.filter(|_| !scope_link) {
            audit.plain.insert(id, body);
        }
        body
    }

    /// Ends the comparison: what the dump did not show is not in the kernel.
    pub fn finish_audit(&mut self, audit: &mut Audit, now: Instant) {
        self.adopted = true;
        self.abort_audit();
        let unseen = |entry: &Entry| entry.flags & (INSTALLED | SEEN | CHANGED | IN_FLIGHT) == INSTALLED;
        let missing: Vec<Slot> =
            self.held().filter(|(.., entry)| unseen(entry)).map(|(slot, ..)| slot).collect();
        for slot in &missing {
            self.edit(*slot, |entry| entry.flags &= !INSTALLED);
        }
        audit.differences += missing.len() as u64;
        self.mark_all(missing, now);
        self.nexthops.retry();
    }

    /// The comparison has ended, or its dump failed: goes on as before. Without a first one nothing is written.
    pub fn abort_audit(&mut self) {
        self.suspended = !self.adopted;
        self.comparing = false;
        self.losses = Losses::default();
    }
}
