//! From FPM bytes to the FIB: the agent between the bare writer, which only the kernel limits, and zebra.

pub(crate) mod bgp;
mod contenders;
mod fib;
pub(crate) mod netlink;
pub(crate) mod set;
mod watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use backtrail_lab::{End, Lab, Namespace};
use clap::Args;
use ipnet::IpNet;

use self::contenders::{Backtrail, Bare, Contender, Zebra};
use self::fib::Seen;
use self::netlink::Writer;
use self::set::Random;
use self::watch::Listener;
use crate::Common;
use crate::report::{Bar, Bound, Report};

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

/// The table that the bare writer and the agent write.
const TABLE: u32 = 10_050;
const METRIC: u32 = 20;
const PEER_AS: u16 = 65_100;
const NODE: [&str; 2] = ["10.99.0.1/24", "fd00:99::1/64"];
/// Two neighbours: routes go to the first and move to the second.
pub(crate) const PEERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 3)];
const PEERS6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 3)];
/// IPv6 routes, and routes that move, at most.
const MAX_V6: u32 = 200_000;
const MAX_MOVED: usize = 200_000;
/// How often the routes that move do so in a round: they end where they began.
const MOVES: usize = 2;

/// Options of `routes`.
#[derive(Debug, Args)]
pub(crate) struct RoutesArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// IPv4 routes, in the shape of the Internet's table; of IPv6 as many, but 200,000 at most
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    routes: u32,
    /// Leave zebra out, which takes most of the time: its bar is short then
    #[arg(long)]
    without_zebra: bool,
    /// Announce and withdraw to the agent in random order: zebra's replay ascends, the changes that follow it need not
    #[arg(long)]
    shuffled: bool,
}

impl RoutesArgs {
    fn size(&self) -> u32 {
        if self.common.quick { self.routes.min(20_000) } else { self.routes }
    }
}

pub(crate) fn describe(args: &RoutesArgs) -> String {
    format!(
        "routes: {} rounds; in each, {} IPv4 routes go into the kernel, {} of them move {MOVES} times between two nexthops, and \
         all go out again; then {} IPv6 routes: by a bare netlink writer, by the agent from FPM bytes{}{}\n",
        args.common.rounds(),
        args.size(),
        (args.size() as usize).min(MAX_MOVED),
        args.size().min(MAX_V6),
        if args.shuffled { " in random order" } else { "" },
        if args.without_zebra { "" } else { ", by zebra from BGP" }
    )
}

/// Part of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Insert,
    /// Some routes move to the nexthop of this number.
    Move(usize),
    Withdraw,
}

/// Routes of one family.
pub(crate) struct Set {
    v6: bool,
    /// Ascending, as zebra replays them.
    routes: Vec<IpNet>,
    shuffled: Vec<IpNet>,
    /// Those that move: some, at random.
    moved: Vec<IpNet>,
}

impl Set {
    fn new(routes: Vec<IpNet>, v6: bool) -> Self {
        let mut shuffled = routes.clone();
        Random::new(2).shuffle(&mut shuffled);
        let mut moved = shuffled.clone();
        moved.truncate(MAX_MOVED);
        Self { v6, routes, shuffled, moved }
    }

    /// The routes that a phase is about, ascending or not as zebra and the kernel have them.
    fn of(&self, phase: Phase) -> &[IpNet] {
        if matches!(phase, Phase::Move(_)) { &self.moved } else { &self.routes }
    }

    fn nexthop(&self, number: usize) -> IpAddr {
        if self.v6 { PEERS6[number % 2].into() } else { PEERS[number % 2].into() }
    }

    fn family(&self) -> &'static str {
        if self.v6 { "IPv6" } else { "IPv4" }
    }
}

/// Measures, round by round.
pub(crate) fn run(args: &RoutesArgs, report: &mut Report) -> Result<()> {
    report.setting("routes", args.size());
    report.setting("shuffled", u32::from(args.shuffled));
    report.setting("rounds", args.common.rounds());
    let lab = Lab::new("bench")?;
    let v4 = set::full_table(args.size(), 1).into_iter().map(IpNet::V4).collect();
    let v6 = set::table6(args.size().min(MAX_V6), 1).into_iter().map(IpNet::V6).collect();
    let sets = [Set::new(v4, false), Set::new(v6, true)];
    let mut contenders: Vec<Box<dyn Contender>> =
        vec![Box::new(Bare::new(&lab)?), Box::new(Backtrail::new(&lab, args, &sets)?)];
    if !args.without_zebra {
        contenders.push(Box::new(Zebra::new(&lab)?));
    }
    for round in 1..=args.common.rounds() {
        eprintln!("round {round} of {}", args.common.rounds());
        report.add("load average", "processes", load_average());
        let mut took = Vec::new();
        for contender in &mut contenders {
            contender.start(report)?;
            let mut times = Vec::new();
            for set in &sets {
                for (what, phases) in PHASES {
                    times.push(measure(contender.as_mut(), set, what, phases, report)?);
                }
            }
            contender.stop(report)?;
            took.push(times);
        }
        compare(&took, report);
    }
    Ok(())
}

/// What is reported together: [`MOVES`] are two.
const PHASES: [(&str, &[Phase]); 3] = [
    ("insert", &[Phase::Insert]),
    ("move", &[Phase::Move(1), Phase::Move(0)]),
    ("withdraw", &[Phase::Withdraw]),
];

/// Ratios of the round, from the seconds of each contender by set and phase.
fn compare(took: &[Vec<f64>], report: &mut Report) {
    let names = ["IPv4 insert", "IPv4 move", "IPv4 withdraw", "IPv6 insert", "IPv6 move", "IPv6 withdraw"];
    let [bare, ours, rest @ ..] = took else { return };
    for ((name, bare), ours) in names.iter().zip(bare).zip(ours) {
        report.add(format!("agent over bare writer, {name}"), "x", bare / ours);
    }
    for (bar, index) in [("fpm-to-fib-insert", 0), ("fpm-to-fib-withdraw", 2)] {
        report.add_bar(bar, bare[index] / ours[index]);
    }
    for theirs in rest {
        for ((name, theirs), ours) in names.iter().zip(theirs).zip(ours) {
            report.add(format!("agent over zebra, {name}"), "x", theirs / ours);
        }
        report.add_bar("faster-than-zebra", theirs[0] / ours[0]);
    }
}

/// Takes a contender through phases of a kind; returns their seconds.
fn measure(
    contender: &mut dyn Contender,
    set: &Set,
    what: &str,
    phases: &[Phase],
    report: &mut Report,
) -> Result<f64> {
    let (mut seconds, mut cpu, mut changes) = (0.0, 0.0, 0);
    let threads = contender.threads()?;
    for phase in phases {
        let before = contender.cpu()?;
        let seen = timed(contender, set, *phase)?;
        cpu += contender.cpu()? - before;
        seconds += contender.took(seen).as_secs_f64();
        changes += set.of(*phase).len();
        let held = if *phase == Phase::Withdraw { 0 } else { set.routes.len() };
        verify(contender, set.v6, held)?;
    }
    let name = format!("{} {} {what}", contender.name(), set.family());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = changes as f64 / seconds / 1000.0;
    report.add(name.clone(), "s", seconds);
    report.add(format!("{name} rate"), "thousand routes/s", rate);
    report.add(format!("{name} CPU"), "s of CPU", cpu);
    // On a machine that is not idle these tell what the wall clock does not: the busiest thread is what limits.
    for (thread, now) in contender.threads()? {
        let used = now - threads.get(&thread).copied().unwrap_or_default();
        if used > cpu / 50.0 {
            report.add(format!("{name} CPU, thread {thread}"), "s of CPU", used);
        }
    }
    eprintln!("  {name}: {seconds:.3} s, {rate:.0} thousand routes/s, {cpu:.2} s of CPU");
    contender.after(set, what, report)?;
    Ok(seconds)
}

/// Runs a phase in a thread while the kernel is watched.
fn timed(contender: &mut dyn Contender, set: &Set, phase: Phase) -> Result<Seen> {
    let name = contender.name();
    // The number of IPv4 routes shows by itself.
    let listener = match phase {
        Phase::Insert | Phase::Withdraw if !set.v6 => None,
        _ => Some(Listener::new(contender.node(), set.v6)?),
    };
    let base = fib::settle()?;
    let count = set.of(phase).len();
    let (node, (table, protocol)) = (contender.node().clone(), contender.table());
    let held = if phase == Phase::Withdraw { 0 } else { count };
    let is_done =
        || anyhow::Ok(node.enter(|| Writer::open()?.count(table, protocol, set.v6))?? as usize == held);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let began = Instant::now();
        let worker =
            scope.spawn(|| contender.run(set, phase).inspect_err(|_| failed.store(true, Ordering::Relaxed)));
        let seen = match &listener {
            Some(listener) => listener.watch(name, count, began, &failed),
            None => fib::watch(name, phase, (base, u32::try_from(count)?), began, &failed, is_done),
        };
        match worker.join() {
            Ok(result) => result.and(seen),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Makes sure that a contender's table holds exactly so many of its routes.
fn verify(contender: &dyn Contender, v6: bool, expected: usize) -> Result<()> {
    let (node, (table, protocol)) = (contender.node(), contender.table());
    let began = Instant::now();
    loop {
        let count = node.enter(|| Writer::open()?.count(table, protocol, v6))??;
        if count as usize == expected {
            return Ok(());
        }
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "{} holds {count} routes of protocol {protocol} in table {table}, not {expected}",
            node.name()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Of the last minute: what else the machine did.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// A node with one uplink, and the namespace behind that.
pub(crate) fn node(lab: &Lab, name: &str) -> Result<(Namespace, Namespace)> {
    let (node, peer) = (lab.namespace(name)?, lab.namespace(&format!("{name}-peer"))?);
    let addresses: Vec<String> = PEERS
        .map(|peer| format!("{peer}/24"))
        .into_iter()
        .chain(PEERS6.map(|peer| format!("{peer}/64")))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    lab.connect(&End::new(&node, "up0", &NODE), &End::new(&peer, "eth0", &addresses))?;
    Ok((node, peer))
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
        "router bgp 65200\n no bgp ebgp-requires-policy\n neighbor {peer} remote-as {PEER_AS}\n \
         neighbor {peer} passive\n address-family ipv6 unicast\n  neighbor {peer} activate\n exit-address-family\nexit\n",
        peer = PEERS[0]
    )
}

/// The speaker behind a [`node`] that runs bgpd.
pub(crate) fn speaker(peer: &Namespace) -> Result<bgp::Speaker> {
    bgp::Speaker::establish(peer, "10.99.0.1:179".parse()?, PEER_AS, PEERS[0])
}
