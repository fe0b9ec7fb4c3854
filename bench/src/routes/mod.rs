//! From FPM bytes to the FIB: the agent between the bare writer, which only the kernel limits, and zebra.

pub(crate) mod bgp;
mod fib;
pub(crate) mod netlink;
pub(crate) mod set;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, frames, nexthop, withdraw};
use backtrail_lab::{Agent, AgentOptions, End, Feeder, Frr, FrrInstall, FrrOptions, Lab, Namespace, output};
use clap::Args;
use ipnet::Ipv4Net;

use self::fib::Seen;
use self::netlink::{Direction, Into, Writer};
use self::set::Random;
use crate::Common;
use crate::report::{Bar, Bound, Report};
use crate::usage::{self, Usage};

pub(crate) const BARS: &[Bar] = &[
    Bar {
        name: "fpm-to-fib-insert",
        bound: Bound::AtLeast(0.9),
        unit: "x",
        meaning: "rate from FPM bytes to the FIB over the bare writer's",
    },
    Bar {
        name: "fpm-to-fib-withdraw",
        bound: Bound::AtLeast(0.9),
        unit: "x",
        meaning: "the same for withdrawals",
    },
    Bar {
        name: "faster-than-zebra",
        bound: Bound::Above(1.0),
        unit: "x",
        meaning: "zebra's time from its first to its last route in the kernel over the agent's from the first byte on",
    },
    Bar {
        name: "memory-per-route",
        bound: Bound::AtMost(100.0),
        unit: " bytes",
        meaning: "growth of the agent's resident memory over the number of routes",
    },
    Bar {
        name: "idle-memory",
        bound: Bound::Below(20.0),
        unit: " MiB",
        meaning: "resident memory of an agent without routes",
    },
];

const MIB: f64 = 1024.0 * 1024.0;
/// The table that the bare writer and the agent write.
const TABLE: u32 = 10_050;
const METRIC: u32 = 20;
const BARE_PROTOCOL: u8 = 250;
const AGENT_PROTOCOL: u8 = 201;
const BGP_PROTOCOL: u8 = 186;
/// The nexthop id that all routes carry.
const NEXTHOP: u32 = 17;
const PEER_AS: u16 = 65_100;
const NODE: &str = "10.99.0.1/24";
const PEER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Buffers of a load are given back by then.
const CALM: Duration = Duration::from_secs(2);

/// Options of `routes`.
#[derive(Debug, Args)]
pub(crate) struct RoutesArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// IPv4 routes, in the shape of the Internet's table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    routes: u32,
    /// Leave zebra out, which takes most of the time: its bar is short then
    #[arg(long)]
    without_zebra: bool,
}

impl RoutesArgs {
    fn size(&self) -> u32 {
        if self.common.quick { self.routes.min(20_000) } else { self.routes }
    }
}

pub(crate) fn describe(args: &RoutesArgs) -> String {
    format!(
        "routes: {} rounds; in each, {} IPv4 routes go into the kernel and out again: by a bare netlink writer, by the \
         agent from FPM bytes{}\n",
        args.common.rounds(),
        args.size(),
        if args.without_zebra { "" } else { ", by zebra from BGP" }
    )
}

/// What one contender took for one direction.
struct Took {
    seen: Seen,
    cpu: f64,
}

/// Measures, round by round.
pub(crate) fn run(args: &RoutesArgs, report: &mut Report) -> Result<()> {
    report.setting("routes", args.size());
    report.setting("rounds", args.common.rounds());
    let lab = Lab::new("bench")?;
    let ascending = set::full_table(args.size(), 1);
    let mut shuffled = ascending.clone();
    Random::new(2).shuffle(&mut shuffled);
    let (bare, peer) = node(&lab, "bare")?;
    let bare = Bare { node: bare, routes: &shuffled, _peer: peer };
    bare.node.run(&format!("ip nexthop add id 1 via {PEER} dev up0"))?;
    let mut agent = Contender::new(&lab, args, &ascending)?;
    let zebra = if args.without_zebra { None } else { Some(Zebra::new(&lab, &ascending)?) };
    for round in 1..=args.common.rounds() {
        eprintln!("round {round} of {}", args.common.rounds());
        let limit = bare.round(report)?;
        let ours = agent.round(report)?;
        for (bar, (limit, ours)) in
            ["fpm-to-fib-insert", "fpm-to-fib-withdraw"].into_iter().zip(limit.into_iter().zip(ours))
        {
            report.add_bar(bar, limit.as_secs_f64() / ours.as_secs_f64());
        }
        if let Some(zebra) = &zebra {
            let theirs = zebra.round(report)?;
            report.add_bar("faster-than-zebra", theirs.as_secs_f64() / ours[0].as_secs_f64());
        }
    }
    Ok(())
}

/// A node with one uplink, and the namespace behind that.
pub(crate) fn node(lab: &Lab, name: &str) -> Result<(Namespace, Namespace)> {
    let (node, peer) = (lab.namespace(name)?, lab.namespace(&format!("{name}-peer"))?);
    let address = format!("{PEER}/24");
    lab.connect(&End::new(&node, "up0", &[NODE]), &End::new(&peer, "eth0", &[&address]))?;
    Ok((node, peer))
}

/// Adds what one contender took; prints it.
fn note(report: &mut Report, who: &str, direction: Direction, routes: usize, took: &Took) {
    let verb = if direction == Direction::Insert { "insert" } else { "withdraw" };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = routes as f64 / took.seen.last.as_secs_f64() / 1000.0;
    let seconds = took.seen.last.as_secs_f64();
    report.add(format!("{who} {verb}"), "s", seconds);
    report.add(format!("{who} {verb} rate"), "thousand routes/s", rate);
    report.add(format!("{who} {verb} CPU"), "s", took.cpu);
    eprintln!("  {who} {verb}: {seconds:.3} s, {rate:.0} thousand routes/s, {:.2} s of CPU", took.cpu);
}

/// Makes sure that exactly so many routes are in a table.
fn verify(namespace: &Namespace, table: u32, protocol: u8, expected: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let count = namespace.enter(|| Writer::open()?.count(table, protocol, false))??;
        if count as usize == expected {
            return Ok(());
        }
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "{} holds {count} routes of protocol {protocol} in table {table}, not {expected}",
            namespace.name()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs `work` in a thread while the FIB is watched; `cpu` is read after the last route.
fn timed(
    who: &str,
    direction: Direction,
    routes: usize,
    work: impl FnOnce() -> Result<()> + Send,
) -> Result<Seen> {
    let base = fib::settle()?;
    let count = u32::try_from(routes)?;
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let began = Instant::now();
        let worker = scope.spawn(|| work().inspect_err(|_| failed.store(true, Ordering::Relaxed)));
        let seen = fib::watch(who, direction, base, count, began, &failed);
        match worker.join() {
            Ok(result) => result.and(seen),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The bare writer.
struct Bare<'a> {
    node: Namespace,
    routes: &'a [Ipv4Net],
    _peer: Namespace,
}

impl Bare<'_> {
    /// Times of insert and withdraw.
    fn round(&self, report: &mut Report) -> Result<[Duration; 2]> {
        let mut times = [Duration::ZERO; 2];
        for (time, direction) in times.iter_mut().zip([Direction::Insert, Direction::Withdraw]) {
            let mut cpu = 0.0;
            let seen = timed("bare writer", direction, self.routes.len(), || {
                let into = Into { table: TABLE, protocol: BARE_PROTOCOL, metric: METRIC, nexthop: 1 };
                let (result, used) = self.node.enter(|| {
                    let before = usage::this_thread();
                    let result =
                        Writer::open().and_then(|mut writer| writer.apply(direction, self.routes, into));
                    (result, usage::this_thread() - before)
                })?;
                cpu = used;
                result
            })?;
            verify(&self.node, TABLE, BARE_PROTOCOL, expected(direction, self.routes))?;
            note(report, "bare writer", direction, self.routes.len(), &Took { seen, cpu });
            *time = seen.last;
        }
        Ok(times)
    }
}

fn expected(direction: Direction, routes: &[Ipv4Net]) -> usize {
    if direction == Direction::Insert { routes.len() } else { 0 }
}

/// The agent, fed by what zebra would send.
struct Contender {
    node: Namespace,
    agent: Agent,
    routes: Vec<Ipv4Net>,
    nexthop: Vec<u8>,
    announce: Vec<u8>,
    withdraw: Vec<u8>,
    _peer: Namespace,
}

impl Contender {
    fn new(lab: &Lab, args: &RoutesArgs, routes: &[Ipv4Net]) -> Result<Self> {
        let (node, peer) = node(lab, "agent")?;
        let links = node.json("ip -j link show dev up0")?;
        let ifindex = links.get(0).and_then(|link| link.get("ifindex")?.as_u64()).context("no ifindex")?;
        let options = AgentOptions {
            manifests: manifests(Feeder::TABLE, TABLE, args.size()),
            ..AgentOptions::default()
        };
        let binary = std::path::absolute(&args.common.agent)?;
        ensure!(binary.exists(), "no agent at {}: cargo build --release -p backtrail", binary.display());
        Ok(Self {
            agent: Agent::prepare(lab, &node, &binary, options)?,
            node,
            routes: routes.to_vec(),
            nexthop: frames([nexthop(NEXTHOP, PEER.into(), u32::try_from(ifindex)?)])?,
            announce: frames(routes.iter().map(|net| announce(*net, NEXTHOP)))?,
            withdraw: frames(routes.iter().map(|net| withdraw(*net)))?,
            _peer: peer,
        })
    }

    /// A fresh agent: times of insert and withdraw.
    fn round(&mut self, report: &mut Report) -> Result<[Duration; 2]> {
        self.agent.run()?;
        let pid = self.agent.process()?.pid();
        std::thread::sleep(CALM);
        let idle = usage::of(pid)?;
        report.add_bar("idle-memory", idle.rss / MIB);
        let mut feeder = Feeder::connect(&self.node)?;
        feeder.send_bytes(&self.nexthop)?;
        let insert = self.direction(report, Direction::Insert, &mut feeder, pid)?;
        std::thread::sleep(CALM);
        let loaded = usage::of(pid)?;
        self.note_memory(report, idle, loaded);
        let withdraw = self.direction(report, Direction::Withdraw, &mut feeder, pid)?;
        self.agent.stop()?;
        Ok([insert, withdraw])
    }

    fn direction(
        &self,
        report: &mut Report,
        direction: Direction,
        feeder: &mut Feeder,
        pid: u32,
    ) -> Result<Duration> {
        let bytes = if direction == Direction::Insert { &self.announce } else { &self.withdraw };
        let before = usage::of(pid)?;
        let seen = timed("agent", direction, self.routes.len(), || feeder.send_bytes(bytes))?;
        let cpu = usage::of(pid)?.cpu - before.cpu;
        verify(&self.node, TABLE, AGENT_PROTOCOL, expected(direction, &self.routes))?;
        note(report, "agent", direction, self.routes.len(), &Took { seen, cpu });
        Ok(seen.last)
    }

    fn note_memory(&self, report: &mut Report, idle: Usage, loaded: Usage) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let routes = self.routes.len() as f64;
        let each = (loaded.rss - idle.rss) / routes;
        report.add_bar("memory-per-route", each);
        report.add("agent peak memory", "MiB", loaded.peak / MIB);
        report.add("agent peak memory per route", "bytes", (loaded.peak - idle.rss) / routes);
        eprintln!(
            "  agent memory: idle {:.1} MiB, loaded {:.1} MiB ({each:.0} bytes a route), peak {:.1} MiB",
            idle.rss / MIB,
            loaded.rss / MIB,
            loaded.peak / MIB
        );
    }
}

/// An import of everything from one table into another.
pub(crate) fn manifests(from: u32, into: u32, routes: u32) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {{name: default}}
spec:
  guardrails: {{maxRoutesPerNode: {routes}}}
---
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: everything}}
spec:
  from: {{table: {from}, protocols: [BGP]}}
  into: {{table: {into}}}
  allowed: {{mode: All}}
  maxRoutes: {routes}
"
    )
}

/// bgpd's configuration on a [`node`].
pub(crate) fn bgpd() -> String {
    format!(
        "router bgp 65200\n no bgp ebgp-requires-policy\n neighbor {PEER} remote-as {PEER_AS}\n \
         neighbor {PEER} passive\nexit\n"
    )
}

/// The speaker behind a [`node`] that runs bgpd.
pub(crate) fn speaker(peer: &Namespace) -> Result<bgp::Speaker> {
    bgp::Speaker::establish(peer, "10.99.0.1:179".parse()?, PEER_AS, PEER)
}

/// The distribution's zebra, which learns the same routes by BGP.
struct Zebra<'a> {
    node: Namespace,
    peer: Namespace,
    lab: &'a Lab,
    install: FrrInstall,
    routes: Vec<Ipv4Net>,
}

impl<'a> Zebra<'a> {
    fn new(lab: &'a Lab, routes: &[Ipv4Net]) -> Result<Self> {
        let (node, peer) = node(lab, "zebra")?;
        Ok(Self { node, peer, lab, install: FrrInstall::host()?, routes: routes.to_vec() })
    }

    /// A fresh zebra: the time of the insert, from the first to the last route in the kernel.
    fn round(&self, report: &mut Report) -> Result<Duration> {
        let options = FrrOptions { bgpd: bgpd(), ..FrrOptions::default() };
        let frr = Frr::start(self.lab, &self.node, &self.install, options)?;
        let pid = self.pid_of("zebra")?;
        let mut speaker = speaker(&self.peer)?;
        let mut insert = Duration::ZERO;
        for direction in [Direction::Insert, Direction::Withdraw] {
            let before = usage::of(pid)?;
            let seen = timed("zebra", direction, self.routes.len(), || match direction {
                Direction::Insert => speaker.announce(&self.routes),
                Direction::Withdraw => speaker.withdraw(&self.routes),
            })?;
            let after = usage::of(pid)?;
            verify(&self.node, 254, BGP_PROTOCOL, expected(direction, &self.routes))?;
            // What bgpd does before is not zebra's.
            let own = Seen { first: Duration::ZERO, last: seen.last.saturating_sub(seen.first) };
            let took = Took { seen: own, cpu: after.cpu - before.cpu };
            note(report, "zebra", direction, self.routes.len(), &took);
            if direction == Direction::Insert {
                insert = own.last;
                report.add("zebra peak memory", "MiB", after.peak / MIB);
            }
        }
        drop(speaker);
        drop(frr);
        Ok(insert)
    }

    fn pid_of(&self, name: &str) -> Result<u32> {
        let pids = output(Command::new("ip").args(["netns", "pids", self.node.name()]))?;
        let named = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let pid = pids.split_whitespace().find(named).with_context(|| format!("{name} does not run"))?;
        Ok(pid.parse()?)
    }
}
