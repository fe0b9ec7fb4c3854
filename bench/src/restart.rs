//! A new agent on a kernel that holds everything already: zebra replays, nothing may change.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use backtrail_lab::{
    Agent, AgentOptions, Frr, FrrInstall, FrrOptions, Lab, Monitor, Namespace, output, wait_until,
};
use clap::Args;
use ipnet::IpNet;

use crate::Common;
use crate::report::{Bar, Bound, Report};
use crate::routes::{self, set};

pub(crate) const BARS: &[Bar] = &[
    Bar {
        name: "restart-time",
        bound: Bound::Below(1.5),
        unit: "x",
        meaning: "zebra's replay into a new agent, to the last route compared, over its replay into a sink",
    },
    Bar {
        name: "restart-changes",
        bound: Bound::AtMost(0.0),
        unit: "",
        meaning: "changes of routes, rules and nexthop objects that the new agent made",
    },
];

/// zebra without `-R` writes main itself, and labels its copy so.
const FROM: u32 = 254;
const TABLE: u32 = 10_050;
/// For a million routes through bgpd, zebra and the agent, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// A replay has ended when nothing came for so long.
const QUIET: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// IPv4 routes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    routes: u32,
}

impl RestartArgs {
    fn size(&self) -> u32 {
        if self.common.quick { self.routes.min(20_000) } else { self.routes }
    }
}

pub(crate) fn describe(args: &RestartArgs) -> String {
    format!(
        "restart: {} IPv4 routes from BGP by zebra and the agent; {} times zebra replays into a sink, then into a new \
         agent after SIGKILL of the old one\n",
        args.size(),
        args.common.rounds()
    )
}

pub(crate) fn run(args: &RestartArgs, report: &mut Report) -> Result<()> {
    let count = args.size();
    report.setting("routes", count);
    report.setting("rounds", args.common.rounds());
    let lab = Lab::new("bench")?;
    let (node, peer) = routes::node(&lab, "restart")?;
    let binary = std::path::absolute(&args.common.agent)?;
    ensure!(binary.exists(), "no agent at {}: cargo build --release -p backtrail", binary.display());
    let options =
        AgentOptions { manifests: routes::manifests(FROM, TABLE, count), ..AgentOptions::default() };
    let mut agent = Agent::start(&lab, &node, &binary, options)?;
    let options = FrrOptions { fpm: true, bgpd: routes::bgpd(), ..FrrOptions::default() };
    let _frr = Frr::start(&lab, &node, &FrrInstall::host()?, options)?;
    let mut speaker = routes::speaker(&peer)?;
    let table: Vec<IpNet> = set::full_table(count, 1).into_iter().map(IpNet::V4).collect();
    speaker.announce(&table, routes::PEERS[0].into())?;
    wait_until(PATIENCE, "all routes are programmed", || {
        number(&agent, "/routes/programmed") >= u64::from(count)
    })?;
    for _ in 0..args.common.rounds() {
        wait_until(PATIENCE, "the agent is in sync", || synchronized(&agent))?;
        let monitor = Monitor::start(&node)?;
        agent.kill()?;
        let own = sink(&node)?;
        agent.run()?;
        wait_until(PATIENCE, "the new agent is in sync", || synchronized(&agent))?;
        let took = replay_seconds(&node)?;
        let changes = monitor.ours()?;
        eprintln!("  replay into a sink {own:.3} s, into the agent {took:.3} s, {} changes", changes.len());
        report.add("replay into a sink", "s", own);
        report.add("replay into the agent", "s", took);
        report.add_bar("restart-time", took / own);
        report.add_bar("restart-changes", f64::from(u32::try_from(changes.len())?));
    }
    drop(speaker);
    agent.stop()?;
    Ok(())
}

fn number(agent: &Agent, pointer: &str) -> u64 {
    // Counting a million routes takes the agent a while: not too often.
    std::thread::sleep(Duration::from_millis(500));
    let status = agent.json(&["status"]).unwrap_or_default();
    status.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0)
}

fn synchronized(agent: &Agent) -> bool {
    std::thread::sleep(Duration::from_millis(500));
    let status = agent.json(&["status"]).unwrap_or_default();
    let number = |pointer: &str| status.pointer(pointer).and_then(serde_json::Value::as_u64);
    let complete = status.pointer("/fpm/initialSyncComplete").and_then(serde_json::Value::as_bool);
    complete == Some(true) && number("/routes/pending") == Some(0) && number("/routes/stale") == Some(0)
}

/// Takes a whole replay and forgets it: seconds from its first byte to its last.
fn sink(node: &Namespace) -> Result<f64> {
    let listener = node.enter(|| TcpListener::bind("127.0.0.1:2620"))?.context("the FPM port is taken")?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(QUIET))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut first, mut last) = (None, Instant::now());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("zebra closed the session"),
            Ok(_) => {
                last = Instant::now();
                first.get_or_insert(last);
            }
            Err(_) if first.is_some() => break,
            Err(_) => {}
        }
    }
    let first = first.context("zebra replayed nothing")?;
    Ok(last.saturating_duration_since(first).as_secs_f64())
}

/// What the agent says of its last replay.
fn replay_seconds(node: &Namespace) -> Result<f64> {
    let text =
        node.enter(|| output(Command::new("curl").args(["-sS", "http://127.0.0.1:9472/metrics"])))??;
    let line = text.lines().find(|line| line.starts_with("backtrail_fpm_replay_seconds"));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.context("the agent's metrics do not tell how long the replay took")
}
