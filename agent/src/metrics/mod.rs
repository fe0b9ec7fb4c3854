//! Metrics of every stage, in OpenMetrics form. `docs/metrics.md` lists them; a test holds the two together.
//!
//! The daemon owns one [`Metrics`] and counts with its fields, which are cheap handles (atomics); a scrape reads
//! them without stopping anything.

mod process;
mod server;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

pub use server::serve;

/// A gauge of seconds or of a ratio.
pub type Seconds = Gauge<f64, AtomicU64>;

/// Label `table`: number of a routing table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Table {
    /// Its number.
    pub table: u32,
}

/// Label `reason`, `kind`, `cause` or `state`: a word of a closed list, so that the number of series stays bounded.
macro_rules! word_label {
    ($($(#[$doc:meta])* $label:ident { $field:ident })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $label {
            /// The word.
            pub $field: &'static str,
        }
    )+};
}

word_label! {
    /// Label `reason`: a reason of `docs/cli.md`.
    Reason { reason }
    /// Label `kind`: of an update or an object.
    Kind { kind }
    /// Label `cause`: of drift.
    Cause { cause }
    /// Label `result`: `ok` or `error`.
    ReloadResult { result }
    /// Label `condition`: a condition of `docs/cli.md`.
    Condition { condition }
    /// Label `outcome`: of a route, as zebra was told.
    RouteOutcome { outcome }
}

/// Labels of a kernel operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    /// `add`, `replace`, `delete`
    pub op: &'static str,
    /// `route`, `nexthop`, `rule`, `link`, `neighbour`, `sysctl`
    pub kind: &'static str,
    /// `ok` or `error`
    pub result: &'static str,
}

/// Label `interface`: its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Interface {
    /// Its name.
    pub interface: String,
}

/// Labels of a steering counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SteeringEvent {
    /// Name of the interface.
    pub interface: String,
    /// Field of `rp_counters`: `steered`, `would_steer`, `learned`, …
    pub event: &'static str,
}

/// Label `map`: name of a BPF map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Map {
    /// Its name: `rp_flows`.
    pub map: &'static str,
}

/// A metric in the manual: its name (without prefix and `_total`), type and meaning.
#[derive(Debug, Clone, Copy)]
pub struct Listed(pub &'static str, pub MetricType, pub &'static str);

/// A metric that can be made from nothing.
trait Fresh {
    fn fresh() -> Self;
}

impl<N, A: Default> Fresh for Counter<N, A> {
    fn fresh() -> Self {
        Self::default()
    }
}

impl<N, A: Default> Fresh for Gauge<N, A> {
    fn fresh() -> Self {
        Self::default()
    }
}

impl<S: Clone + std::hash::Hash + Eq, M: Default> Fresh for Family<S, M> {
    fn fresh() -> Self {
        Self::default()
    }
}

impl Fresh for Histogram {
    /// Durations from 10 µs to 100 s, two buckets a decade.
    fn fresh() -> Self {
        Self::new([1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0])
    }
}

/// Declares a stage: its metrics, how they are registered, and what the manual says of them.
macro_rules! stage {
    ($(#[$doc:meta])* $stage:ident { $($field:ident: $type:ty = $name:literal, $meaning:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $stage {
            $(#[doc = $meaning] pub $field: $type,)+
        }

        impl $stage {
            /// Each metric, as in `docs/metrics.md`.
            pub const LISTED: &[Listed] = &[$(Listed($name, <$type as TypedMetric>::TYPE, $meaning)),+];

            fn register(registry: &mut Registry) -> Self {
                let stage = Self { $($field: <$type as Fresh>::fresh()),+ };
                $(registry.register($name, $meaning, stage.$field.clone());)+
                stage
            }
        }
    };
}

stage! {
    /// The FPM session with zebra.
    Fpm {
        connected: Gauge = "fpm_connected", "1 while zebra is connected, else 0";
        epoch: Gauge = "fpm_epoch", "Number of the current or last session, counted from the agent's start";
        sessions: Counter = "fpm_sessions", "Sessions that began";
        refused: Counter = "fpm_refused", "Connections turned away before their first valid frame";
        frames: Counter = "fpm_frames", "Frames received";
        bytes: Counter = "fpm_bytes", "Bytes received";
        updates: Family<Kind, Counter> = "fpm_updates", "Updates received, by kind (route, route_del, nexthop, nexthop_del, other)";
        feedback: Family<RouteOutcome, Counter> = "fpm_feedback", "Routes that zebra was told about (`fpm.offloadAck`), by what: offload (it forwards) or offload_failed";
        decode_errors: Counter = "fpm_decode_errors", "Frames or messages that could not be decoded; each ends its session";
        replay_seconds: Seconds = "fpm_replay_seconds", "Seconds of the last complete replay, from its beginning until its last route was compared with the kernel, without the quiet time that ends it";
    }
}

stage! {
    /// What FRR taught.
    Rib {
        routes: Family<Table, Gauge> = "rib_routes", "Routes learned, by FPM table";
        refused: Gauge = "rib_refused_announcements", "Announcements of this session that were not learned: as many routes as are kept were known (`MaxLearnedRoutes`)";
        stale: Gauge = "rib_stale_routes", "Routes learned in an earlier session and not confirmed in this one";
        nexthops: Gauge = "rib_nexthops", "Nexthop objects learned";
    }
}

stage! {
    /// What the intent makes of it.
    Plan {
        accepted: Family<Table, Gauge> = "plan_accepted_routes", "Routes wanted in the kernel, by target table";
        rejected: Family<Reason, Gauge> = "plan_rejected_routes", "Learned routes that no import takes, by reason";
        rules: Gauge = "plan_rules", "Policy rules wanted";
        compile_seconds: Histogram = "plan_compile_seconds", "Seconds to compile intent and links into a plan";
    }
}

stage! {
    /// The way into the kernel.
    Reconcile {
        queue: Gauge = "reconcile_queue", "Operations waiting for the kernel";
        operations: Family<Operation, Counter> = "reconcile_operations", "Operations acknowledged by the kernel, by operation, kind and result";
        batch_seconds: Histogram = "reconcile_batch_seconds", "Seconds from sending a batch to its last acknowledgement";
        convergence_seconds: Histogram = "reconcile_convergence_seconds", "Seconds from receiving a route over FPM to the kernel's acknowledgement";
        programmed: Gauge = "reconcile_programmed_routes", "Routes that the kernel acknowledged and that are wanted";
        failed: Gauge = "reconcile_failed_routes", "Routes that the kernel refuses";
        drift_mended: Family<Cause, Counter> = "reconcile_drift_mended", "Objects put right after somebody else changed them, by cause";
        failover_seconds: Histogram = "reconcile_failover_seconds", "Seconds from the notification that a gateway went silent, or answers again, to the kernel's acknowledgement of the groups";
        passes: Counter = "reconcile_passes", "Full comparisons with the kernel";
    }
}

stage! {
    /// Whether what is decided is written.
    Apply {
        paused: Gauge = "apply_paused", "1 while nothing is written because somebody paused, else 0";
        dry_run: Gauge = "apply_dry_run", "1 while nothing is written because of `apply.mode: DryRun`, else 0";
        rollbacks: Counter = "apply_rollbacks", "Changes of the configuration that were taken back because a probe failed";
        would_change: Family<Kind, Gauge> = "apply_would_change", "What would change while nothing is written (routes, rules, devices, sysctls, programs), by kind of change (add, replace, delete)";
    }
}

stage! {
    /// The netlink edge.
    Kernel {
        notifications: Counter = "kernel_notifications", "Netlink notifications received";
        overruns: Counter = "kernel_overruns", "Times that notifications were lost (ENOBUFS); each is followed by a full comparison";
        dump_seconds: Histogram = "kernel_dump_seconds", "Seconds to dump routes, rules or nexthops";
    }
}

stage! {
    /// Return-path steering, read from the BPF maps.
    Steering {
        events: Family<SteeringEvent, Counter> = "steering_events", "Packets or flows, by interface and event (fields of the map rp_counters)";
        attached: Family<Interface, Gauge> = "steering_attached", "1 while the programs of the interface are attached, else 0";
        flows: Gauge = "steering_flows", "Entries of the flow tables";
        flows_watched: Counter = "steering_flows_watched", "Flows of samples that were looked for again half a minute later";
        flows_evicted: Counter = "steering_flows_evicted", "Flows of samples that were gone then though they were not idle: they made room for others";
        youngest_evicted_seconds: Gauge = "steering_youngest_evicted_seconds", "Seconds at most that the youngest of them had been idle for; 0 while there is none";
        map_entries: Family<Map, Gauge> = "steering_map_entries", "Entries in use, by BPF map";
        map_max_entries: Family<Map, Gauge> = "steering_map_max_entries", "Entries that fit, by BPF map";
    }
}

stage! {
    /// Manifests.
    Config {
        objects: Gauge = "config_objects", "Manifests that are in force on this node";
        rejected: Family<Reason, Gauge> = "config_rejected_objects", "Manifests that are not in force, by reason";
        conflicts: Gauge = "config_conflicts", "Items left out because they disagree with another object";
        reloads: Family<ReloadResult, Counter> = "config_reloads", "Times that manifests were read again, by result";
    }
}

stage! {
    /// What the agent says of itself.
    Status {
        ready: Gauge = "status_ready", "1 once the first pass over the kernel has ended, else 0; `/readyz` says the same";
        conditions: Family<Condition, Gauge> = "status_condition", "1 where the condition is True, else 0";
    }
}

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    /// The FPM session.
    pub fpm: Fpm,
    /// What FRR taught.
    pub rib: Rib,
    /// What the intent makes of it.
    pub plan: Plan,
    /// The way into the kernel.
    pub reconcile: Reconcile,
    /// Whether what is decided is written.
    pub apply: Apply,
    /// The netlink edge.
    pub kernel: Kernel,
    /// Return-path steering.
    pub steering: Steering,
    /// Manifests.
    pub config: Config,
    /// What the agent says of itself.
    pub status: Status,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("backtrail");
        process::register(&mut registry);
        Self {
            fpm: Fpm::register(&mut registry),
            rib: Rib::register(&mut registry),
            plan: Plan::register(&mut registry),
            reconcile: Reconcile::register(&mut registry),
            apply: Apply::register(&mut registry),
            kernel: Kernel::register(&mut registry),
            steering: Steering::register(&mut registry),
            config: Config::register(&mut registry),
            status: Status::register(&mut registry),
            registry,
        }
    }
}

impl Metrics {
    /// The answer to a scrape (OpenMetrics 1.0 text).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

/// Every metric, in the order of `docs/metrics.md`.
#[must_use]
pub fn listed() -> Vec<Listed> {
    [
        Fpm::LISTED,
        Rib::LISTED,
        Plan::LISTED,
        Reconcile::LISTED,
        Apply::LISTED,
        Kernel::LISTED,
        Steering::LISTED,
        Config::LISTED,
        Status::LISTED,
        process::LISTED,
    ]
    .concat()
}

/// Sets a counter to what is counted elsewhere, such as in a BPF map.
pub fn store(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

/// Sets a gauge from a count; what does not fit saturates.
pub fn set(gauge: &Gauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
