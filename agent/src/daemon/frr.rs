//! What of FRR shows on this node, looked at rarely: at the ends of sessions and once a minute.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Agent, Report};
use crate::host::Host;
use crate::host::zebra::look;
use crate::preflight::{self, Known, Lack, Zebra};

/// A zebra that starts and never connects causes no event.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The last look.
#[derive(Debug)]
pub(super) struct Frr {
    /// `None` before the first one.
    zebra: Option<Zebra>,
    looking: bool,
    next: Instant,
}

impl Frr {
    pub(super) fn new(now: Instant) -> Self {
        Self { zebra: None, looking: false, next: now }
    }

    /// When to look again; not before the look under way has ended.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.looking).then_some(self.next)
    }

    /// Something happened that a look may explain.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.next = now;
    }

    pub(super) fn seen(&mut self, zebra: Zebra) {
        self.zebra = Some(zebra);
        self.looking = false;
    }
}

impl Agent {
    /// Looks, on another thread: `/proc` may hold thousands of processes.
    pub(super) fn look_for_frr(&mut self, now: Instant) {
        if self.frr.deadline().is_none_or(|next| now < next) {
            return;
        }
        self.frr.next = now + LOOK_EVERY;
        if self.intent.imports.is_empty() {
            return;
        }
        self.frr.looking = true;
        let reports = self.reports.clone();
        tokio::task::spawn_blocking(move || {
            let _ = reports.blocking_send(Report::Zebra(look(&Host::here())));
        });
    }

    /// What FRR lacks for the imports in force, as far as it is known.
    pub(super) fn frr_lacks(&self) -> Option<Lack> {
        let zebra = self.frr.zebra.as_ref()?;
        let listen = self.fpm.listen?;
        let announced: BTreeSet<u32> = self.engine.rib().announced_tables().iter().copied().collect();
        let vrfs = self.observed.links().values().filter_map(|link| link.vrf_table).collect();
        let known = Known {
            listen,
            connected: self.fpm.connected,
            announced: &announced,
            vrfs: &vrfs,
            imports: &self.intent.imports,
        };
        preflight::lack(zebra, &known)
    }
}
