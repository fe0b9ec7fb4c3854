//! Benchmarks of Backtrail beside their baselines, always in one run: `cargo xtask bench NAME`.
//!
//! Exit status: 0 when every bar is reached, 2 when one is not, 1 when something failed.

mod allocations;
mod decode;
mod failover;
mod fed;
mod kube;
mod machine;
mod memory;
mod report;
mod restart;
mod routes;
mod steering;
mod svg;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::report::Report;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Benchmarks beside their baselines, in one run")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From FPM bytes to typed updates, beside a copy of the bytes
    Fpm(decode::DecodeArgs),
    /// From FPM bytes to the kernel's FIB and back, beside a bare netlink writer and zebra
    Routes(routes::RoutesArgs),
    /// Losing one of two gateways, under few routes and under many
    Failover(failover::FailoverArgs),
    /// A new agent on a kernel that holds everything already
    Restart(restart::RestartArgs),
    /// What a route costs the agent in memory
    Memory(memory::MemoryArgs),
    /// What steering costs a packet, beside the prototype, nothing at all, and a conntrack mark
    Steering(steering::SteeringArgs),
    /// What the agents of many nodes ask of one API server
    Kube(kube::KubeArgs),
}

/// Options of every benchmark.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Repetitions, each with all contenders in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Small and once: whether it works, not what it measures
    #[arg(long)]
    pub(crate) quick: bool,
    /// Say what would be measured, and against which bars
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Folder for the JSON file of the run
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// The agent to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/backtrail")]
    pub(crate) agent: PathBuf,
}

impl Common {
    /// Repetitions.
    pub(crate) fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse().bench) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench) -> Result<bool> {
    let (name, common, bars) = match bench {
        Bench::Fpm(args) => ("fpm", &args.common, decode::BARS),
        Bench::Routes(args) => ("routes", &args.common, routes::BARS),
        Bench::Failover(args) => ("failover", &args.common, failover::BARS),
        Bench::Restart(args) => ("restart", &args.common, restart::BARS),
        Bench::Memory(args) => ("memory", &args.common, memory::BARS),
        Bench::Steering(args) => ("steering", &args.common, steering::bars(args)),
        Bench::Kube(args) => ("kube", &args.common, kube::BARS),
    };
    if common.dry_run {
        print!("{}", describe(bench));
        for bar in bars {
            println!("bar: {bar}");
        }
        return Ok(true);
    }
    if let Bench::Steering(args) = bench
        && args.is_bare_metal()
    {
        return steering::bare_metal(args).map(|()| true);
    }
    backtrail_lab::catch_interrupts()?;
    let mut report = Report::new(name, bars);
    match bench {
        Bench::Fpm(args) => decode::run(args, &mut report)?,
        Bench::Routes(args) => routes::run(args, &mut report)?,
        Bench::Failover(args) => failover::run(args, &mut report)?,
        Bench::Restart(args) => restart::run(args, &mut report)?,
        Bench::Memory(args) => memory::run(args, &mut report)?,
        Bench::Steering(args) => steering::run(args, &mut report)?,
        Bench::Kube(args) => kube::run(args, &mut report)?,
    }
    report.finish(&common.out)
}

fn describe(bench: &Bench) -> String {
    match bench {
        Bench::Fpm(args) => decode::describe(args),
        Bench::Routes(args) => routes::describe(args),
        Bench::Failover(args) => failover::describe(args),
        Bench::Restart(args) => restart::describe(args),
        Bench::Memory(args) => memory::describe(args),
        Bench::Steering(args) => steering::describe(args),
        Bench::Kube(args) => kube::describe(args),
    }
}
