//! What a learned and programmed route costs the agent in resident memory.

use std::time::Duration;

use anyhow::Result;
use backtrail_lab::Lab;
use clap::Args;
use ipnet::IpNet;

use crate::Common;
use crate::fed::Fed;
use crate::report::{Bar, Bound, Report};
use crate::routes::set;
use crate::usage;

pub(crate) const BARS: &[Bar] = &[
    Bar {
        name: "memory-per-route",
        bound: Bound::AtMost(100.0),
        unit: " bytes",
        meaning: "growth of the agent's resident memory over the number of IPv4 routes, most of them",
    },
    Bar {
        name: "idle-memory",
        bound: Bound::Below(20.0),
        unit: " MiB",
        meaning: "resident memory of an agent without routes",
    },
];

const MIB: f64 = 1024.0 * 1024.0;
/// Buffers of a load are given back by then.
const CALM: Duration = Duration::from_secs(2);

/// Lets buffers of a load be given back, and pending work end.
pub(crate) fn calm() {
    std::thread::sleep(CALM);
}

#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// IPv4 routes at most
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    routes: u32,
}

impl MemoryArgs {
    fn sizes(&self) -> Vec<(u32, bool)> {
        let most = if self.common.quick { self.routes.min(100_000) } else { self.routes };
        vec![(most / 100, false), (most / 10, false), (most / 5, true), (most, false)]
    }
}

pub(crate) fn describe(args: &MemoryArgs) -> String {
    let list: Vec<String> = args
        .sizes()
        .into_iter()
        .map(|(count, v6)| format!("{count} IPv{}", if v6 { 6 } else { 4 }))
        .collect();
    format!("memory: {} rounds; in each a fresh agent for {} routes\n", args.common.rounds(), list.join(", "))
}

pub(crate) fn run(args: &MemoryArgs, report: &mut Report) -> Result<()> {
    report.setting("rounds", args.common.rounds());
    let lab = Lab::new("bench")?;
    let most = args.sizes().iter().map(|(count, _)| *count).max().unwrap_or(0);
    report.setting("routes", most);
    let mut fed = Fed::new(&lab, "memory", &args.common.agent, most)?;
    for _ in 0..args.common.rounds() {
        for (count, v6) in args.sizes() {
            let routes: Vec<IpNet> = if v6 {
                set::table6(count, 1).into_iter().map(IpNet::V6).collect()
            } else {
                set::full_table(count, 1).into_iter().map(IpNet::V4).collect()
            };
            fed.start(v6)?;
            let pid = fed.agent.process()?.pid();
            calm();
            let idle = usage::of(pid)?;
            fed.load(&routes)?;
            calm();
            let loaded = usage::of(pid)?;
            let each = (loaded.rss - idle.rss) / f64::from(count);
            let family = if v6 { 6 } else { 4 };
            report.add(format!("{count} IPv{family} routes"), "bytes a route", each);
            report.add(format!("{count} IPv{family} routes, peak"), "MiB", loaded.peak / MIB);
            eprintln!("  {count} IPv{family}: {each:.0} bytes a route, {:.1} MiB", loaded.rss / MIB);
            if count == most && !v6 {
                report.add_bar("memory-per-route", each);
                report.add_bar("idle-memory", idle.rss / MIB);
            }
            fed.stop()?;
        }
    }
    Ok(())
}
