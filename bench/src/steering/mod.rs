//! What steering costs a packet: in the programs alone, and end to end.

mod endtoend;
mod frames;
mod testrun;

use anyhow::{Result, ensure};
use backtrail_lab::Lab;
use clap::Args;

use self::endtoend::{Client, Costs, Topology, Way};
use self::testrun::Bed;
use crate::Common;
use crate::report::{Bar, Bound, Report};

const BARS: &[Bar] = &[
    Bar {
        name: "unknown-flow",
        bound: Bound::AtMost(1.5),
        unit: "x",
        meaning: "egress, unknown flow, over an empty program, against the baseline's",
    },
    Bar {
        name: "known-flow",
        bound: Bound::AtMost(1.5),
        unit: "x",
        meaning: "egress, known flow on its own interface, against the baseline's",
    },
    Bar {
        name: "known-flow-ingress",
        bound: Bound::AtMost(1.5),
        unit: "x",
        meaning: "ingress, known flow, against the baseline's",
    },
    Bar {
        name: "steered-flow",
        bound: Bound::AtMost(4.0),
        unit: "x",
        meaning: "egress, steered with its path resolved, against the baseline's unknown flow",
    },
    Bar {
        name: "ipv6-over-ipv4",
        bound: Bound::AtMost(1.3),
        unit: "x",
        meaning: "the worst of these cases in IPv6 against IPv4",
    },
    Bar {
        name: "unsteered-end-to-end",
        bound: Bound::AtMost(0.0),
        unit: " ns",
        meaning: "what a packet that needs no steering pays beyond half of what the conntrack mark adds (lower end of the 95 % interval)",
    },
    Bar {
        name: "steered-end-to-end",
        bound: Bound::AtMost(0.0),
        unit: " ns",
        meaning: "what a steered packet pays beyond what the conntrack mark adds (lower end of the 95 % interval)",
    },
    Bar {
        name: "steered-throughput",
        bound: Bound::AtLeast(0.95),
        unit: "x",
        meaning: "throughput of a steered flow against the same flow routed straight",
    },
];

/// Bars of [`BARS`] that BPF_PROG_TEST_RUN decides, the first ones.
const PACKET_BARS: usize = 5;

/// Turns of the end-to-end measurements in each round.
const TURNS: u32 = 4;

/// Options of `steering`.
#[derive(Debug, Args)]
pub(crate) struct SteeringArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Measure the programs alone, by BPF_PROG_TEST_RUN: needs no agent
    #[arg(long)]
    packets_only: bool,
}

/// The bars that a run with these options decides.
pub(crate) fn bars(args: &SteeringArgs) -> &'static [Bar] {
    if args.packets_only { BARS.split_at(PACKET_BARS).0 } else { BARS }
}

pub(crate) fn describe(args: &SteeringArgs) -> String {
    format!(
        "steering: {} rounds; in each, all packet cases by BPF_PROG_TEST_RUN (IPv4, IPv6; Backtrail, baseline), and {TURNS} \
         turns of TCP replies end to end (nothing, conntrack mark, Backtrail)\n",
        args.common.rounds()
    )
}

/// Measures, round by round.
pub(crate) fn run(args: &SteeringArgs, report: &mut Report) -> Result<()> {
    let rounds = args.common.rounds();
    report.setting("rounds", rounds);
    let lab = Lab::new("bench")?;
    let mut bed = Bed::new(&lab)?;
    if args.packets_only {
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}: BPF_PROG_TEST_RUN");
            bed.round(report)?;
        }
        return Ok(());
    }
    let agent = std::path::absolute(&args.common.agent)?;
    ensure!(agent.exists(), "no agent at {}: cargo build --release -p backtrail", agent.display());
    let topologies = Way::ALL.map(|way| Topology::new(&lab, way, &agent));
    let [Ok(nothing), Ok(mark), Ok(ours)] = topologies else {
        return topologies.into_iter().try_for_each(|topology| topology.map(drop));
    };
    let topologies = [nothing, mark, ours];
    let mut costs = Costs::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: BPF_PROG_TEST_RUN");
        bed.round(report)?;
        eprintln!("round {round} of {rounds}: end to end");
        for turn in 0..TURNS {
            ensure!(!backtrail_lab::interrupted(), "interrupted");
            costs.turn(&topologies, turn % 2 == 1, report)?;
        }
    }
    for (bar, client, share) in
        [("unsteered-end-to-end", Client::Straight, 0.5), ("steered-end-to-end", Client::Astray, 1.0)]
    {
        let (mean, half) = costs.excess(client, share);
        println!("{bar}: {mean:.0} ns/packet, 95 % interval {:.0} to {:.0}", mean - half, mean + half);
        report.add_bar(bar, mean - half);
    }
    for ratio in costs.throughput() {
        report.add_bar("steered-throughput", ratio);
    }
    Ok(())
}
