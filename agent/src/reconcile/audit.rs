//! Comparing with a dump: at the start (adoption of what an earlier agent left), after lost notifications, and slowly
//! for ever, because the kernel does not notify of everything.

use std::time::Instant;

use smallvec::SmallVec;

use super::bodies::{Body, BodyTarget};
use super::{ADOPTED, Engine, Entry, IN_FLIGHT, INSTALLED, Key, SEEN};
use crate::model::{KernelRoute, NexthopObject, RouteTarget};

/// A comparison under way. No batch is submitted while it lasts.
#[derive(Debug, Default)]
pub struct Audit {
    /// Routes of ours that the dump showed.
    pub routes: u64,
    /// Differences found.
    pub differences: u64,
}

impl Engine {
    /// Whether a dump is wanted now.
    #[must_use]
    pub fn audit_wanted(&self) -> bool {
        self.audit_wanted && self.in_flight.is_empty()
    }

    /// Holds back batches until the comparison that is about to begin has ended.
    pub fn hold_back(&mut self) {
        self.suspended = true;
        self.audit_wanted = false;
    }

    /// Begins a comparison: holds back batches; those under way must have ended.
    pub fn begin_audit(&mut self, nexthops: &[NexthopObject], now: Instant) -> Audit {
        self.hold_back();
        self.entries.for_each_mut(|entry| entry.flags &= !SEEN);
        let gone = self.nexthops.adopt(nexthops);
        self.comparing = true;
        self.groups_vanished(&gone, now);
        Audit::default()
    }

    /// A part of the dump of routes that carry our protocol.
    pub fn audit_routes(&mut self, audit: &mut Audit, routes: &[KernelRoute], now: Instant) {
        for route in routes {
            audit.routes += 1;
            let key: Key = (self.target_id(route.key.table, route.key.metric), route.key.prefix);
            let body = self.observed_body(route);
            match self.entries.get_mut(key.0, &key.1) {
                Some(entry) if entry.flags & INSTALLED != 0 && entry.body == body => entry.flags |= SEEN,
                Some(entry) => {
                    let old = std::mem::replace(&mut entry.body, body);
                    entry.flags = (entry.flags & ADOPTED) | INSTALLED | SEEN;
                    self.bodies.reference(body);
                    self.bodies.release(old);
                    audit.differences += 1;
                    self.mark([key], now);
                }
                None => {
                    self.bodies.reference(body);
                    let contribution = self.presume(key);
                    let entry = Entry { body, contribution, flags: INSTALLED | ADOPTED | SEEN };
                    self.entries.insert(key.0, &key.1, entry);
                    audit.differences += 1;
                    self.mark([key], now);
                }
            }
        }
    }

    /// The body of a route that the kernel shows as ours.
    fn observed_body(&mut self, route: &KernelRoute) -> super::BodySlot {
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
        self.bodies.intern(&body, &mut self.nexthops)
    }

    /// Ends the comparison: what the dump did not show is not in the kernel.
    pub fn finish_audit(&mut self, audit: &mut Audit, now: Instant) {
        self.suspended = false;
        self.comparing = false;
        let mut missing: SmallVec<[Key; 8]> = SmallVec::new();
        for (target, prefix, entry) in self.entries.iter() {
            if entry.flags & (INSTALLED | SEEN | IN_FLIGHT) == INSTALLED {
                missing.push((target, prefix));
            }
        }
        for key in &missing {
            if let Some(entry) = self.entries.get_mut(key.0, &key.1) {
                entry.flags &= !INSTALLED;
            }
        }
        audit.differences += missing.len() as u64;
        self.mark(missing, now);
        self.nexthops.retry();
    }

    /// The audit's dump failed: goes on as before.
    pub fn abort_audit(&mut self) {
        self.suspended = false;
        self.comparing = false;
    }
}
