//! What goes out: batches to the programmer, dumps to blocking threads.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Agent, BULK, CHUNK, READY, Report, survey};
use crate::intent::types::RpFilter;
use crate::kernel::KernelError;
use crate::kernel::dump::{RouteFilter, dump_nexthops, visit_routes_behind};
use crate::kernel::gate::Gate;
use crate::metrics;
use crate::plan::steering::SINK_NAME;

/// Gateways at most whose neighbour entries are kept resolved: the kernel's tables hold 1,024 by default.
const MAX_WATCHED: usize = 512;

/// Whether many routes are on their way: then nobody listens to their notifications.
///
/// A load that the kernel takes as fast as it comes never has a long queue, so what was done lately counts as well.
#[derive(Debug)]
pub(super) struct Bulk {
    /// A second's beginning, and the operations done before it.
    second: (Instant, u64),
    /// Until when a load is taken to go on.
    until: Instant,
}

impl Bulk {
    /// After so long without a load notifications are listened to again.
    const CALM: Duration = Duration::from_secs(1);

    pub(super) fn new(now: Instant) -> Self {
        Self { second: (now, 0), until: now }
    }

    fn is_under_way(&mut self, now: Instant, backlog: usize, operations: u64) -> bool {
        let (began, before) = self.second;
        if now.saturating_duration_since(began) >= Self::CALM {
            self.second = (now, operations);
        }
        if backlog >= BULK || operations.saturating_sub(before) >= BULK as u64 {
            self.until = now + Self::CALM;
        }
        now < self.until
    }

    /// When to look again, while a load goes on.
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

impl Agent {
    /// Hands batches to the programmer, starts dumps that are due.
    pub(super) fn pump(&mut self) {
        let now = Instant::now();
        let frozen = self.is_frozen();
        let backlog = if frozen { 0 } else { self.engine.backlog() };
        let busy = self.bulk.is_under_way(now, backlog, self.engine.stats().operations);
        self.schedule_audit(busy, now);
        while let Some(batch) = (!frozen).then(|| self.engine.next_batch(now)).flatten() {
            if self.programmer.try_submit(batch).is_err() {
                // Cannot happen while the engine bounds what is under way; the thread has ended then.
                tracing::error!("the route programmer has stopped");
                break;
            }
        }
        if self.engine.is_suspended() {
            return self.answer_pausing();
        }
        self.listen_routes(!busy);
        self.send_feedback();
        metrics::set(&self.metrics.reconcile.queue, self.engine.backlog());
        if self.fpm.replaying && self.engine.is_idle() {
            self.fpm.replaying = false;
            self.fpm.replay_compared = Some(Instant::now());
        }
        if let Some(gateways) = self.engine.watch_gateways() {
            let gateways: BTreeSet<_> = gateways.into_iter().take(MAX_WATCHED).collect();
            self.todo.environment |= gateways != self.watched;
            self.watched = gateways;
        }
        self.note_feed();
        self.start_survey(now);
        self.start_peers(now);
        // Without a return path, an observed table or a filter to choose there is nothing to survey.
        let surveyed = self.survey.is_some() || !(self.todo.survey || self.surveying);
        let passed = surveyed
            && self.metrics.reconcile.passes.get() > 0
            && self.settle_at.is_none()
            && !self.steering.is_opening();
        self.answer_pausing();
        if !self.ready && passed && (frozen || self.engine.is_idle()) {
            self.ready = true;
            self.metrics.status.ready.set(1);
            tracing::info!(target: READY, "backtrail ready");
        }
    }

    pub(super) fn listen_routes(&mut self, on: bool) {
        if on == self.listening {
            return;
        }
        match self.monitor.listen_routes(on) {
            Ok(()) => {
                self.listening = on;
                if on {
                    // What happened while nobody listened shows in a dump only.
                    self.engine.want_audit();
                }
            }
            Err(error) => tracing::warn!(%error, "cannot listen to route notifications"),
        }
    }

    /// Starts a comparison that is due. One under a load would take CPU time and tell little, for most of what it saw
    /// would have changed meanwhile: it ends when a load begins, and begins anew when things are quiet.
    fn schedule_audit(&mut self, busy: bool, now: Instant) {
        let yields = busy && self.engine.has_adopted();
        if yields && self.audit.take().is_some() {
            self.audit_stop.store(true, Ordering::Relaxed);
            self.engine.abort_audit();
            self.engine.want_audit();
        }
        // Compared with no plan at all, everything that an earlier agent left would be nobody's.
        let may_begin = self.planned && !self.audit_lag && !yields && self.comparison.may_begin(now);
        if may_begin && self.engine.audit_wanted() {
            self.start_audit();
        }
    }

    fn start_audit(&mut self) {
        self.audit_lag = true;
        self.audit_stop = Arc::default();
        self.engine.hold_back();
        let (reports, stop) = (self.reports.clone(), Arc::clone(&self.audit_stop));
        let gate = self.programmer.gate();
        let protocol = self.intent.config.route_protocol;
        tokio::task::spawn_blocking(move || {
            let result = audit_dump(&reports, protocol, &gate, &stop);
            let _ = reports.blocking_send(Report::AuditEnd(result));
        });
    }

    /// Whether something in force looks at the routes of others.
    pub(super) fn survey_needed(&self) -> bool {
        !self.intent.return_paths.is_empty()
            || self.intent.imports.iter().any(|import| !import.program)
            || self.intent.vrfs.iter().any(|vrf| vrf.rp_filter == RpFilter::Auto)
    }

    /// Whether nothing can be planned before the first survey has ended.
    pub(super) fn awaits_survey(&self) -> bool {
        self.survey.is_none() && self.survey_needed()
    }

    pub(super) fn start_survey(&mut self, now: Instant) {
        let wanted = self.todo.survey && !self.surveying && now >= self.next_survey;
        if !wanted || !self.survey_needed() {
            self.todo.survey &= self.survey_needed();
            return;
        }
        self.todo.survey = false;
        self.surveying = true;
        let (reports, gate) = (self.reports.clone(), self.programmer.gate());
        let observe: BTreeSet<u32> = self
            .intent
            .imports
            .iter()
            .filter(|import| !import.program)
            .map(|import| import.into.table)
            .collect();
        let sink = self.observed.by_name(SINK_NAME).map(|link| link.ifindex);
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let result = survey::survey(&observe, sink, &gate);
            let _ = reports.blocking_send(Report::Survey(result, began.elapsed()));
        });
    }
}

fn audit_dump(
    reports: &mpsc::Sender<Report>,
    protocol: u8,
    gate: &Gate,
    stop: &AtomicBool,
) -> Result<(), KernelError> {
    let objects = dump_nexthops(Some(protocol))?;
    let _ = reports.blocking_send(Report::AuditBegin(objects));
    let mut chunk = Vec::with_capacity(CHUNK);
    let filter = RouteFilter { protocol: Some(protocol), ..RouteFilter::default() };
    visit_routes_behind(gate, filter, &mut |route| {
        chunk.push(route);
        if chunk.len() == CHUNK {
            let _ = reports.blocking_send(Report::AuditRoutes(std::mem::take(&mut chunk)));
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let _ = reports.blocking_send(Report::AuditRoutes(chunk));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_one_while_it_goes_on_whether_it_queues_or_is_taken_as_it_comes() {
        let (start, load) = (Instant::now(), BULK as u64);
        let second = Bulk::CALM;
        let mut bulk = Bulk::new(start);
        assert!(!bulk.is_under_way(start, BULK - 1, load - 1));
        assert!(bulk.is_under_way(start, BULK, 0), "so much waits");
        assert!(bulk.is_under_way(start + second / 2, 0, 0) && !bulk.is_under_way(start + second, 0, 0));
        // The kernel takes it as fast as it comes: nothing waits.
        let now = start + 2 * second;
        assert!(!bulk.is_under_way(now, 0, 0));
        assert!(bulk.is_under_way(now + second / 2, 0, load));
        // The first look after a while still counts what came before it.
        assert!(bulk.is_under_way(now + 3 * second, 0, load));
        assert!(!bulk.is_under_way(now + 5 * second, 0, load));
    }
}
