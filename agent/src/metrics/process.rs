//! What the process itself costs, read from `/proc` at each scrape.

use std::fmt;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Listed;

/// Each metric, as in `docs/metrics.md`.
pub(super) const LISTED: &[Listed] = &[RESIDENT, START, BUILD];

const RESIDENT: Listed =
    Listed("process_resident_memory_bytes", MetricType::Gauge, "Resident memory of the agent, bytes");
const START: Listed =
    Listed("process_start_time_seconds", MetricType::Gauge, "Start of the agent, seconds since 1970");
const BUILD: Listed = Listed("build", MetricType::Info, "Always 1; the label `version` is the agent's");

#[derive(Debug)]
struct Process {
    started: f64,
}

pub(super) fn register(registry: &mut Registry) {
    let started = jiff::Timestamp::now().as_duration().as_secs_f64();
    registry.register_collector(Box::new(Process { started }));
    registry.register(BUILD.0, BUILD.2, Info::new([("version", env!("CARGO_PKG_VERSION"))]));
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |Listed(name, kind, meaning): Listed, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, meaning, None, kind)?)
        };
        gauge(START, self.started)?;
        // Where /proc is not readable the series is absent, which says more than a zero.
        resident_bytes().map_or(Ok(()), |bytes| gauge(RESIDENT, bytes))
    }
}

/// Second field of `/proc/self/statm`, in pages (proc(5)).
fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = u32::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    Some(pages * f64::from(page))
}
