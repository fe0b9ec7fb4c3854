//! Who puts routes into the kernel: the bare writer, the agent, zebra.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, frames, nexthop, withdraw};
use backtrail_lab::{Agent, AgentOptions, Feeder, Frr, FrrInstall, FrrOptions, Lab, Namespace, output};

use super::bgp::Speaker;
use super::fib::Seen;
use super::netlink::{Change, Into, Writer};
use super::set::Random;
use super::{METRIC, PEERS, PEERS6, Phase, RoutesArgs, Set, TABLE, bgpd, manifests, node, speaker};
use crate::memory::calm;
use crate::report::Report;
use crate::usage::{self, Usage};

const MIB: f64 = 1024.0 * 1024.0;
const BARE_PROTOCOL: u8 = 250;
const AGENT_PROTOCOL: u8 = 201;
const BGP_PROTOCOL: u8 = 186;
/// FRR's nexthop ids of the two neighbours, IPv6 ones after these.
const NEXTHOP: u32 = 17;

/// One of those that are compared.
pub(crate) trait Contender: Send {
    fn name(&self) -> &'static str;
    /// The namespace that it writes in.
    fn node(&self) -> &Namespace;
    /// The table that it writes, and its protocol number.
    fn table(&self) -> (u32, u8);
    /// Begins a round, afresh.
    fn start(&mut self, report: &mut Report) -> Result<()>;
    /// Does a phase's work; the kernel may take its time after that.
    fn run(&mut self, set: &Set, phase: Phase) -> Result<()>;
    /// CPU seconds so far.
    fn cpu(&self) -> Result<f64>;
    /// CPU seconds so far of each of its threads, where it has several.
    fn threads(&self) -> Result<BTreeMap<String, f64>> {
        Ok(BTreeMap::new())
    }
    /// The time that counts.
    fn took(&self, seen: Seen) -> Duration {
        seen.last
    }
    /// After phases of a kind.
    fn after(&mut self, _set: &Set, _what: &str, _report: &mut Report) -> Result<()> {
        Ok(())
    }
    /// Ends the round.
    fn stop(&mut self, report: &mut Report) -> Result<()>;
}

/// The bare writer.
pub(crate) struct Bare {
    node: Namespace,
    cpu: f64,
    _peer: Namespace,
}

impl Bare {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let (node, peer) = node(lab, "bare")?;
        for (number, (v4, v6)) in PEERS.into_iter().zip(PEERS6).enumerate() {
            node.run(&format!("ip nexthop add id {} via {v4} dev up0", 1 + number))?;
            node.run(&format!("ip nexthop add id {} via {v6} dev up0", 3 + number))?;
        }
        Ok(Self { node, cpu: 0.0, _peer: peer })
    }
}

impl Contender for Bare {
    fn name(&self) -> &'static str {
        "bare writer"
    }

    fn node(&self) -> &Namespace {
        &self.node
    }

    fn table(&self) -> (u32, u8) {
        (TABLE, BARE_PROTOCOL)
    }

    fn start(&mut self, _report: &mut Report) -> Result<()> {
        Ok(())
    }

    fn run(&mut self, set: &Set, phase: Phase) -> Result<()> {
        let (change, routes, number) = match phase {
            Phase::Insert => (Change::Insert, &set.shuffled, 0),
            Phase::Move(number) => (Change::Replace, &set.moved, number),
            Phase::Withdraw => (Change::Withdraw, &set.shuffled, 0),
        };
        let nexthop = u32::try_from(number)? + if set.v6 { 3 } else { 1 };
        let into = Into { table: TABLE, protocol: BARE_PROTOCOL, metric: METRIC, nexthop };
        let (result, used) = self.node.enter(|| {
            let before = usage::this_thread();
            let result = Writer::open().and_then(|mut writer| writer.apply(change, routes, into));
            (result, usage::this_thread() - before)
        })?;
        self.cpu += used;
        result
    }

    fn cpu(&self) -> Result<f64> {
        Ok(self.cpu)
    }

    fn stop(&mut self, _report: &mut Report) -> Result<()> {
        Ok(())
    }
}

/// The agent, fed by what zebra would send.
pub(crate) struct Backtrail {
    node: Namespace,
    agent: Agent,
    pid: u32,
    feeder: Option<Feeder>,
    idle: Option<Usage>,
    nexthops: Vec<u8>,
    /// Bytes of each phase, by family.
    streams: [Streams; 2],
    _peer: Namespace,
}

struct Streams {
    insert: Vec<u8>,
    moves: [Vec<u8>; 2],
    withdraw: Vec<u8>,
}

impl Streams {
    fn new(set: &Set, shuffled: bool) -> Result<Self> {
        let mut routes = set.routes.clone();
        if shuffled {
            Random::new(3).shuffle(&mut routes);
        }
        let first = NEXTHOP + if set.v6 { 2 } else { 0 };
        let moves = |id| frames(set.moved.iter().map(|net| announce(*net, id)));
        Ok(Self {
            insert: frames(routes.iter().map(|net| announce(*net, first)))?,
            moves: [moves(first)?, moves(first + 1)?],
            withdraw: frames(routes.iter().map(|net| withdraw(*net)))?,
        })
    }
}

impl Backtrail {
    pub(crate) fn new(lab: &Lab, args: &RoutesArgs, [v4, v6]: &[Set; 2]) -> Result<Self> {
        let (node, peer) = node(lab, "agent")?;
        let links = node.json("ip -j link show dev up0")?;
        let ifindex = links.get(0).and_then(|link| link.get("ifindex")?.as_u64()).context("no ifindex")?;
        let ifindex = u32::try_from(ifindex)?;
        let options = AgentOptions {
            manifests: manifests(Feeder::TABLE, TABLE, args.size()),
            ..AgentOptions::default()
        };
        let binary: PathBuf = std::path::absolute(&args.common.agent)?;
        ensure!(binary.exists(), "no agent at {}: cargo build --release -p backtrail", binary.display());
        let gateways = [v4.nexthop(0), v4.nexthop(1), v6.nexthop(0), v6.nexthop(1)];
        Ok(Self {
            agent: Agent::prepare(lab, &node, &binary, options)?,
            node,
            pid: 0,
            feeder: None,
            idle: None,
            nexthops: frames((NEXTHOP..).zip(gateways).map(|(id, gateway)| nexthop(id, gateway, ifindex)))?,
            streams: [Streams::new(v4, args.shuffled)?, Streams::new(v6, args.shuffled)?],
            _peer: peer,
        })
    }

    fn usage(&self) -> Result<Usage> {
        usage::of(self.pid)
    }
}

impl Contender for Backtrail {
    fn name(&self) -> &'static str {
        "agent"
    }

    fn node(&self) -> &Namespace {
        &self.node
    }

    fn table(&self) -> (u32, u8) {
        (TABLE, AGENT_PROTOCOL)
    }

    fn start(&mut self, report: &mut Report) -> Result<()> {
        self.agent.run()?;
        self.pid = self.agent.process()?.pid();
        calm();
        let idle = self.usage()?;
        report.add_bar("idle-memory", idle.rss / MIB);
        self.idle = Some(idle);
        let mut feeder = Feeder::connect(&self.node)?;
        feeder.send_bytes(&self.nexthops)?;
        self.feeder = Some(feeder);
        Ok(())
    }

    fn run(&mut self, set: &Set, phase: Phase) -> Result<()> {
        let streams = &self.streams[usize::from(set.v6)];
        let bytes = match phase {
            Phase::Insert => &streams.insert,
            Phase::Move(number) => &streams.moves[number % 2],
            Phase::Withdraw => &streams.withdraw,
        };
        self.feeder.as_mut().context("not started")?.send_bytes(bytes)
    }

    fn cpu(&self) -> Result<f64> {
        Ok(self.usage()?.cpu)
    }

    fn threads(&self) -> Result<BTreeMap<String, f64>> {
        usage::threads(self.pid)
    }

    fn after(&mut self, set: &Set, what: &str, report: &mut Report) -> Result<()> {
        if set.v6 || what != "insert" {
            return Ok(());
        }
        calm();
        let (idle, loaded) = (self.idle.context("not started")?, self.usage()?);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = (loaded.rss - idle.rss) / set.routes.len() as f64;
        report.add_bar("memory-per-route", each);
        eprintln!(
            "  agent memory: idle {:.1} MiB, loaded {:.1} MiB ({each:.0} bytes a route), peak {:.1} MiB",
            idle.rss / MIB,
            loaded.rss / MIB,
            loaded.peak / MIB
        );
        Ok(())
    }

    fn stop(&mut self, report: &mut Report) -> Result<()> {
        report.add("agent peak memory", "MiB", self.usage()?.peak / MIB);
        self.feeder = None;
        self.agent.stop()?;
        Ok(())
    }
}

/// The distribution's zebra, which learns the same routes by BGP.
pub(crate) struct Zebra<'a> {
    node: Namespace,
    peer: Namespace,
    lab: &'a Lab,
    install: FrrInstall,
    running: Option<Running>,
}

/// A fresh zebra with its neighbour.
struct Running {
    speaker: Speaker,
    _frr: Frr,
    pid: u32,
}

impl<'a> Zebra<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Result<Self> {
        let (node, peer) = node(lab, "zebra")?;
        Ok(Self { node, peer, lab, install: FrrInstall::host()?, running: None })
    }

    fn pid_of(&self, name: &str) -> Result<u32> {
        let pids = output(Command::new("ip").args(["netns", "pids", self.node.name()]))?;
        let named = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let pid = pids.split_whitespace().find(named).with_context(|| format!("{name} does not run"))?;
        Ok(pid.parse()?)
    }

    fn usage(&self) -> Result<Usage> {
        usage::of(self.running.as_ref().context("not started")?.pid)
    }
}

impl Contender for Zebra<'_> {
    fn name(&self) -> &'static str {
        "zebra"
    }

    fn node(&self) -> &Namespace {
        &self.node
    }

    fn table(&self) -> (u32, u8) {
        (254, BGP_PROTOCOL)
    }

    fn start(&mut self, _report: &mut Report) -> Result<()> {
        let options = FrrOptions { bgpd: bgpd(), ..FrrOptions::default() };
        let frr = Frr::start(self.lab, &self.node, &self.install, options)?;
        let pid = self.pid_of("zebra")?;
        self.running = Some(Running { speaker: speaker(&self.peer)?, _frr: frr, pid });
        Ok(())
    }

    fn run(&mut self, set: &Set, phase: Phase) -> Result<()> {
        let speaker = &mut self.running.as_mut().context("not started")?.speaker;
        match phase {
            Phase::Insert => speaker.announce(&set.routes, set.nexthop(0)),
            Phase::Move(number) => speaker.announce(&set.moved, set.nexthop(number)),
            Phase::Withdraw => speaker.withdraw(&set.routes),
        }
    }

    fn cpu(&self) -> Result<f64> {
        Ok(self.usage()?.cpu)
    }

    /// What bgpd does before the first change is not zebra's.
    fn took(&self, seen: Seen) -> Duration {
        seen.last.saturating_sub(seen.first)
    }

    fn stop(&mut self, report: &mut Report) -> Result<()> {
        report.add("zebra peak memory", "MiB", self.usage()?.peak / MIB);
        self.running = None;
        Ok(())
    }
}
