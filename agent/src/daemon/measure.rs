//! Metrics: what is counted when it happens, and the gauges that are read off the state.

use zebra_fpm::Update;
use zebra_fpm::server::EventReceiver;

use super::Agent;
use super::manifests::Manifests;
use crate::api::{ApplyState, ChangeCounts};
use crate::metrics::{self, Kind, Metrics, Operation, Reason, ReloadResult, Table};
use crate::model::ops::{BatchDone, RouteOp};
use crate::reconcile::Counts;
use crate::status::reason;

/// Gauges that are counted, not kept.
pub(super) fn publish(agent: &Agent, counts: &Counts) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let metrics = &agent.metrics;
    let apply = agent.apply_state();
    metrics.apply.paused.set(i64::from(apply.mode == ApplyState::Paused));
    metrics.apply.dry_run.set(i64::from(apply.mode == ApplyState::DryRun));
    let ChangeCounts { add, replace, delete } = apply.would_change.unwrap_or_default();
    for (kind, count) in [("add", add), ("replace", replace), ("delete", delete)] {
        metrics.apply.would_change.get_or_create(&Kind { kind }).set(number(count));
    }
    metrics.fpm.connected.set(i64::from(agent.fpm.connected));
    metrics.fpm.epoch.set(number(agent.fpm.epoch));
    if let Some(stats) = agent.fpm_events.as_ref().map(EventReceiver::stats) {
        metrics::store(&metrics.fpm.frames, stats.frames);
        metrics::store(&metrics.fpm.bytes, stats.bytes);
    }
    metrics::store(&metrics.fpm.decode_errors, agent.fpm.malformed);
    metrics.rib.refused.set(number(counts.refused));
    metrics.rib.stale.set(number(counts.stale));
    metrics.rib.nexthops.set(number(agent.engine.rib().nexthop_count() as u64));
    metrics.rib.routes.clear();
    for (table, routes) in agent.engine.rib().tables() {
        metrics.rib.routes.get_or_create(&Table { table: *table }).set(number(*routes));
    }
    metrics.plan.rejected.clear();
    for (reason, routes) in &counts.rejected {
        metrics.plan.rejected.get_or_create(&Reason { reason }).set(number(*routes));
    }
    metrics.plan.accepted.clear();
    for (table, routes) in &counts.tables {
        metrics.plan.accepted.get_or_create(&Table { table: *table }).set(number(routes.desired));
    }
    metrics.plan.rules.set(number(agent.engine.plan().rules.len() as u64));
    metrics.reconcile.programmed.set(number(counts.programmed));
    metrics.reconcile.failed.set(number(counts.failed));
    metrics.config.objects.set(number(agent.intent.objects.iter().filter(|o| o.accepted).count() as u64));
    metrics.config.conflicts.set(number(agent.intent.conflicts.len() as u64));
    metrics.config.rejected.clear();
    for object in agent.intent.objects.iter().filter(|object| !object.accepted) {
        let words = reason::CONDITIONS.iter().chain(reason::ITEMS);
        if let Some(reason) = words.copied().find(|word| *word == object.reason) {
            metrics.config.rejected.get_or_create(&Reason { reason }).inc();
        }
    }
}

/// Counts what zebra sent; returns how many nexthop objects that were.
pub(super) fn count_updates(metrics: &Metrics, updates: &[Update]) -> u64 {
    let mut kinds = [0u64; 5];
    for update in updates {
        let kind = match update {
            Update::Route(_) => 0,
            Update::RouteDel(_) => 1,
            Update::Nexthop(_) => 2,
            Update::NexthopDel { .. } => 3,
            _ => 4,
        };
        if let Some(count) = kinds.get_mut(kind) {
            *count += 1;
        }
    }
    for (kind, count) in ["route", "route_del", "nexthop", "nexthop_del", "other"].into_iter().zip(kinds) {
        if count > 0 {
            metrics.fpm.updates.get_or_create(&Kind { kind }).inc_by(count);
        }
    }
    let [_, _, nexthops, ..] = kinds;
    nexthops
}

/// Counts what the kernel acknowledged and refused.
pub(super) fn count_batch(metrics: &Metrics, done: &BatchDone) {
    metrics.reconcile.batch_seconds.observe(done.elapsed.as_secs_f64());
    let mut errors = done.errors.iter().map(|error| error.index).peekable();
    let mut counts = std::collections::BTreeMap::new();
    for (index, op) in done.ops.iter().enumerate() {
        let result = if errors.next_if_eq(&index).is_some() { "error" } else { "ok" };
        let (op, kind) = match op {
            RouteOp::AddRoute(_) => ("add", "route"),
            RouteOp::ReplaceRoute(_) => ("replace", "route"),
            RouteOp::DelRoute(_) => ("delete", "route"),
            RouteOp::AddNexthop(_) => ("add", "nexthop"),
            RouteOp::ReplaceNexthop(_) => ("replace", "nexthop"),
            RouteOp::DelNexthop(_) => ("delete", "nexthop"),
        };
        *counts.entry((op, kind, result)).or_insert(0u64) += 1;
    }
    for ((op, kind, result), count) in counts {
        metrics.reconcile.operations.get_or_create(&Operation { op, kind, result }).inc_by(count);
    }
}

/// Counts a reading of the manifests.
pub(super) fn count_reload(metrics: &Metrics, manifests: &Manifests) {
    let result = if manifests.errors().next().is_none() { "ok" } else { "error" };
    metrics.config.reloads.get_or_create(&ReloadResult { result }).inc();
}
