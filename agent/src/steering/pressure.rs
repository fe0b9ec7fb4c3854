//! Whether the flow tables are too small: a sample of flows is looked for again, and those that are gone though they were
//! not idle made room for others. The kernel tells nobody of an eviction.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use backtrail_ebpf_common::maps::{FlowDigest6, FlowKey4};

use super::SteeringError;
use super::flows::{Entry, Tables, V4, V6, seconds};
use super::sys;

/// Flows of each table that are looked for again.
const SAMPLE: usize = 256;

/// What the samples showed since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Flows that were looked for again.
    pub watched: u64,
    /// Those of them that were gone before they were idle for too long.
    pub evicted: u64,
    /// Seconds at most that the youngest of them had been idle for; `None`: none was evicted.
    pub youngest_evicted: Option<u64>,
}

/// A sample, and what earlier ones showed.
#[derive(Debug, Default)]
pub(super) struct Watch {
    v4: Vec<(FlowKey4, u32)>,
    v6: Vec<(FlowDigest6, u32)>,
    found: Pressure,
}

/// The part of a sample that is of one table.
pub(super) trait Sampled: Entry {
    fn sample(watch: &mut Watch) -> &mut Vec<(Self::Key, u32)>;
}

impl Sampled for V4 {
    fn sample(watch: &mut Watch) -> &mut Vec<(FlowKey4, u32)> {
        &mut watch.v4
    }
}

impl Sampled for V6 {
    fn sample(watch: &mut Watch) -> &mut Vec<(FlowDigest6, u32)> {
        &mut watch.v6
    }
}

impl Watch {
    pub(super) fn found(&self) -> Pressure {
        self.found
    }

    /// Takes flows into the sample, evenly spread, as long as there is room; `last` are the ticks of a flow's last packet.
    pub(super) fn add<E: Sampled>(
        &mut self,
        entries: &[(E::Key, E::Value)],
        last: impl Fn(&E::Value) -> u32,
    ) {
        let sample = E::sample(self);
        let room = SAMPLE.saturating_sub(sample.len());
        let Some(step) = entries.len().checked_div(room).map(|step| step + 1) else { return };
        sample.extend(entries.iter().step_by(step).map(|(key, value)| (*key, last(value))));
    }

    /// Looks for the flows of the sample again, and begins a new one.
    pub(super) fn check(&mut self, tables: &Tables<'_>, now: u32) -> Result<(), SteeringError> {
        self.check_table::<V4>(tables.flows4, tables, now)?;
        self.check_table::<V6>(tables.flows6, tables, now)
    }

    fn check_table<E: Sampled>(
        &mut self,
        table: &MapData,
        tables: &Tables<'_>,
        now: u32,
    ) -> Result<(), SteeringError> {
        for (key, last) in std::mem::take(E::sample(self)) {
            let there = sys::has_key::<E::Key, E::Value>(table.fd().as_fd(), &key)
                .map_err(|source| SteeringError::System { call: "looking for a flow", source })?;
            let idle = now.saturating_sub(last);
            self.note(there, idle, tables.idle_limit(E::protocol(&key)));
        }
        Ok(())
    }

    /// Notes a flow that was idle for `idle` ticks when it was looked for; `limit` 0: such flows are never forgotten.
    fn note(&mut self, there: bool, idle: u32, limit: u32) {
        // What may have been forgotten on purpose says nothing.
        if !there && limit != 0 && idle > limit {
            return;
        }
        self.found.watched += 1;
        if !there {
            self.found.evicted += 1;
            let age = seconds(idle);
            self.found.youngest_evicted =
                Some(self.found.youngest_evicted.map_or(age, |youngest| youngest.min(age)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_too_early_was_evicted() {
        let mut watch = Watch::default();
        watch.note(true, 500, 100);
        watch.note(false, 101, 100);
        assert_eq!(watch.found(), Pressure { watched: 1, evicted: 0, youngest_evicted: None });
        watch.note(false, 90, 100);
        watch.note(false, 30, 0);
        watch.note(false, 60, 100);
        assert_eq!(watch.found(), Pressure { watched: 4, evicted: 3, youngest_evicted: Some(32) });
    }

    #[test]
    fn a_sample_is_bounded_and_spread() {
        let key = |port| FlowKey4 {
            client: [0; 4],
            service: [0; 4],
            client_port: port,
            service_port: 0,
            proto: 6,
            zone: 0,
            reserved: 0,
        };
        let flow = backtrail_ebpf_common::maps::Flow {
            path: 1,
            ifindex: 1,
            born: 0,
            seen: 7,
            replied: 0,
            request_gate: 0,
            reply_gate: 0,
            nexthop: backtrail_ebpf_common::maps::Nexthop {
                generation: 0,
                gate: 0,
                kind: 0,
                address: [0; 16],
            },
            mac: [0; 6],
            flags: 0,
            steered: 0,
        };
        let entries: Vec<_> = (0..10_000).map(|port| (key(port), flow)).collect();
        let mut watch = Watch::default();
        for _ in 0..3 {
            watch.add::<V4>(&entries, |flow| flow.seen);
        }
        assert!(watch.v4.len() <= SAMPLE && watch.v4.len() > SAMPLE / 2, "{}", watch.v4.len());
        assert!(watch.v4.iter().any(|(key, last)| key.client_port > 9_000 && *last == 7));
        watch.add::<V4>(&[], |flow| flow.seen);
    }
}
