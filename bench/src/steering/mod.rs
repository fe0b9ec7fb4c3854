//! What steering costs a packet: in the programs alone, and end to end.

mod endtoend;
mod flows;
mod frames;
mod metal;
mod testrun;

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::Lab;
use clap::Args;

use self::endtoend::{Client, ConntrackRoom, Costs, Exchanges, Topology, Way};
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
    Bar {
        name: "million-flows",
        bound: Bound::AtMost(1.5),
        unit: "x",
        meaning: "a request and its steered answer, one of 1,000,000 flows in turn, against one flow",
    },
];

/// Bars of [`BARS`] that BPF_PROG_TEST_RUN decides, the first ones.
const PACKET_BARS: usize = 5;

/// Turns of the end-to-end measurements in each round.
const TURNS: u32 = 4;
/// Flows that are open from the beginning to the end.
const MOST_FLOWS: u32 = 1_000_000;
/// Requests with their answers in one measurement.
const EXCHANGES: u32 = 50_000;
/// The same with `--quick`, and the most flows then.
const FEW: u32 = 2_000;

/// Options of `steering`.
#[derive(Debug, Args)]
pub(crate) struct SteeringArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Measure the programs alone, by BPF_PROG_TEST_RUN: needs no agent
    #[arg(long)]
    packets_only: bool,
    /// Two machines: answer requests here, and tell what they cost
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["packets_only", "ask"])]
    serve: Option<SocketAddrV4>,
    /// Two machines: ask the one that serves there, as one, 10,000 and 1,000,000 clients
    #[arg(long, value_name = "ADDRESS:PORT", requires = "first", conflicts_with = "packets_only")]
    ask: Option<SocketAddrV4>,
    /// First of the clients' addresses, all of them local here
    #[arg(long, value_name = "ADDRESS", requires = "ask")]
    first: Option<Ipv4Addr>,
}

impl SteeringArgs {
    /// Whether this is one of two machines: nothing is built for it or compared.
    pub(crate) fn is_bare_metal(&self) -> bool {
        self.serve.is_some() || self.ask.is_some()
    }
}

/// The bars that a run with these options decides.
pub(crate) fn bars(args: &SteeringArgs) -> &'static [Bar] {
    if args.is_bare_metal() {
        &[]
    } else if args.packets_only {
        BARS.split_at(PACKET_BARS).0
    } else {
        BARS
    }
}

pub(crate) fn describe(args: &SteeringArgs) -> String {
    if let Some(at) = args.serve {
        return format!("steering: UDP at {at} is answered; requests/s and CPU time for each are printed\n");
    }
    if let (Some(service), Some(first)) = (args.ask, args.first) {
        return format!(
            "steering: {service} is asked by {:?} clients from {first} on; answers/s, p50, p99\n",
            flows::SIZES
        );
    }
    format!(
        "steering: {} rounds; in each, all packet cases by BPF_PROG_TEST_RUN (IPv4, IPv6; Backtrail, baseline), and {TURNS} \
         turns end to end (nothing, conntrack mark, Backtrail): TCP replies of one flow, then requests and answers of {:?} flows\n",
        args.common.rounds(),
        flows::SIZES
    )
}

/// One of two machines.
pub(crate) fn bare_metal(args: &SteeringArgs) -> Result<()> {
    if let Some(at) = args.serve {
        return metal::serve(at).map(drop);
    }
    let (service, first) = args.ask.zip(args.first).context("--ask and --first")?;
    metal::ask(service, first)
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
    let _room = ConntrackRoom::make()?;
    let sizes = flows::SIZES.into_iter().filter(|flows| !args.common.quick || *flows <= FEW);
    let mut exchanges: Vec<Exchanges> = sizes.map(Exchanges::new).collect();
    let count = if args.common.quick { FEW } else { EXCHANGES };
    eprintln!("opening flows");
    for topology in &topologies {
        for client in Client::ALL {
            topology.open(client, if args.common.quick { FEW } else { MOST_FLOWS })?;
        }
    }
    let mut costs = Costs::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: BPF_PROG_TEST_RUN");
        bed.round(report)?;
        eprintln!("round {round} of {rounds}: end to end");
        for turn in 0..TURNS {
            ensure!(!backtrail_lab::interrupted(), "interrupted");
            costs.turn(&topologies, turn % 2 == 1, report)?;
            for exchanges in &mut exchanges {
                exchanges.turn(&topologies, round * TURNS + turn, count, report)?;
            }
        }
    }
    for exchanges in &exchanges {
        exchanges.tell();
    }
    if let [one, .., million] = &exchanges[..] {
        for (million, one) in million.steered().iter().zip(one.steered()) {
            report.add_bar("million-flows", million / one);
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
