//! Losing one of two gateways under many routes: from the kernel's notification to the kernel's group.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Lab, Namespace};
use clap::Args;
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::fed::{Fed, Node, TABLE, gateway};
use crate::report::{Bar, Bound, Report};
use crate::routes::netlink::{Change, Into, Writer};
use crate::routes::set;
use crate::{Common, memory};

pub(crate) const BARS: &[Bar] = &[
    Bar {
        name: "failover-ipv4",
        bound: Bound::Below(1.0),
        unit: " ms",
        meaning: "from the notification that a gateway failed to the kernel's changed group, under most IPv4 routes",
    },
    Bar {
        name: "failover-growth",
        bound: Bound::AtMost(2.0),
        unit: "x",
        meaning: "the same over that under 1,000 routes",
    },
    Bar {
        name: "failover-messages",
        bound: Bound::AtMost(1.0),
        unit: "",
        meaning: "changed nexthop objects for one lost gateway of one group",
    },
    Bar {
        name: "failover-ipv6",
        bound: Bound::AtMost(1.5),
        unit: "x",
        meaning: "the same under IPv6 routes, over the bare writer's replacement of a group under as many",
    },
];

const FEW: u32 = 1000;
/// What a group's change may take in the kernel, on a busy machine, with IPv6.
const PATIENCE: Duration = Duration::from_secs(20);

// include/uapi/linux/{netlink,rtnetlink,neighbour}.h
const RTM_NEWNEIGH: u16 = 28;
const RTM_NEWNEXTHOP: u16 = 104;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_NEXTHOP: u32 = 32;
const NUD_FAILED: u16 = 0x20;
/// Offset of `ndm_state` after the header.
const STATE: usize = 16 + 8;

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// IPv4 routes at most
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    routes: u32,
    /// IPv6 routes
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    routes6: u32,
}

pub(crate) fn describe(args: &FailoverArgs) -> String {
    let (most, six) = args.sizes();
    format!(
        "failover: {FEW} and {most} IPv4 routes, then {six} IPv6 routes, by a group of two gateways; {} times one of \
         them fails and returns; for IPv6 a bare netlink writer replaces a group under as many routes\n",
        args.common.rounds()
    )
}

impl FailoverArgs {
    fn sizes(&self) -> (u32, u32) {
        if self.common.quick {
            (self.routes.min(20_000), self.routes6.min(10_000))
        } else {
            (self.routes, self.routes6)
        }
    }
}

pub(crate) fn run(args: &FailoverArgs, report: &mut Report) -> Result<()> {
    let (most, six) = args.sizes();
    report.setting("routes", most);
    report.setting("routes6", six);
    report.setting("rounds", args.common.rounds());
    let lab = Lab::new("bench")?;
    let mut medians = Vec::new();
    for count in [FEW, most] {
        let routes: Vec<IpNet> = set::full_table(count, 1).into_iter().map(IpNet::V4).collect();
        let name = format!("failover, {count} IPv4 routes");
        let times = agent(&lab, args, &routes, &name, report)?;
        medians.push(times);
    }
    if let [few, many] = medians.as_slice() {
        for (few, many) in few.iter().zip(many) {
            report.add_bar("failover-ipv4", *many);
            report.add_bar("failover-growth", many / few);
        }
    }
    let routes: Vec<IpNet> = set::table6(six, 1).into_iter().map(IpNet::V6).collect();
    let ours = agent(&lab, args, &routes, &format!("failover, {six} IPv6 routes"), report)?;
    let theirs = bare(&lab, args, &routes, report)?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        report.add_bar("failover-ipv6", ours / theirs);
    }
    Ok(())
}

/// A fresh agent under these routes: milliseconds of each failure.
fn agent(
    lab: &Lab,
    args: &FailoverArgs,
    routes: &[IpNet],
    name: &str,
    report: &mut Report,
) -> Result<Vec<f64>> {
    let v6 = routes.first().is_some_and(|net| net.addr().is_ipv6());
    let space = format!("fail{}{}", routes.len(), if v6 { "s" } else { "" });
    let mut fed = Fed::new(lab, &space, &args.common.agent, u32::try_from(routes.len())?)?;
    fed.start(v6)?;
    fed.load(routes)?;
    memory::calm();
    let node = fed.on.node.clone();
    let watch = node.enter(Watch::open)??;
    let mut times = Vec::new();
    for _ in 0..args.common.rounds() {
        let at = gateway(0, v6);
        // Known to answer, then known not to: what ARP and ND would find out within seconds.
        set_neighbour(&node, &at, "lladdr 02:00:00:00:00:01 nud reachable")?;
        watch.settle();
        set_neighbour(&node, &at, "nud failed")?;
        let (took, messages) = watch.failover()?;
        eprintln!("  {name}: {took:.3} ms, {messages} messages");
        report.add(name, "ms", took);
        report.add_bar("failover-messages", f64::from(messages));
        times.push(took);
    }
    fed.stop()?;
    Ok(times)
}

fn set_neighbour(node: &Namespace, gateway: &str, state: &str) -> Result<()> {
    node.run(&format!("ip neigh replace {gateway} dev up0 {state}")).map(drop)
}

/// The bare writer under as many routes: milliseconds for each replacement of the group.
fn bare(lab: &Lab, args: &FailoverArgs, routes: &[IpNet], report: &mut Report) -> Result<Vec<f64>> {
    let on = Node::new(lab, "failbare")?;
    on.node.sysctl("net.ipv4.nexthop_compat_mode", "0")?;
    let (first, second) = (gateway(0, true), gateway(1, true));
    on.node.run(&format!(
        "ip nexthop add id 1 via {first} dev up0; ip nexthop add id 2 via {second} dev up1
         ip nexthop add id 10 group 1/2"
    ))?;
    let mut routes = routes.to_vec();
    set::Random::new(2).shuffle(&mut routes);
    on.node.enter(|| {
        let into = Into { table: TABLE, protocol: 250, metric: 20, nexthop: 10 };
        let mut writer = Writer::open()?;
        writer.apply(Change::Insert, &routes, into)?;
        let mut times = Vec::new();
        for _ in 0..args.common.rounds() {
            writer.replace_group(10, &[1, 2])?;
            let began = Instant::now();
            writer.replace_group(10, &[2])?;
            let took = began.elapsed().as_secs_f64() * 1e3;
            report.add("bare writer, IPv6 group", "ms", took);
            times.push(took);
        }
        Ok(times)
    })?
}

/// A listener for neighbours and nexthop objects.
struct Watch {
    socket: Socket,
}

impl Watch {
    fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind(&SocketAddr::new(0, 0)).context("cannot bind a netlink socket")?;
        socket.add_membership(RTNLGRP_NEIGH)?;
        socket.add_membership(RTNLGRP_NEXTHOP)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Notifications that are there: type and, for neighbours, state.
    fn read(&self) -> Vec<(u16, u16)> {
        let mut buffer = Vec::with_capacity(64 << 10);
        if self.socket.recv(&mut buffer, 0).is_err() {
            return Vec::new();
        }
        let word = |at: usize| Some(u16::from_ne_bytes(buffer.get(at..at + 2)?.try_into().ok()?));
        let length = |at: usize| Some(u32::from_ne_bytes(buffer.get(at..at + 4)?.try_into().ok()?));
        let (mut at, mut seen) = (0, Vec::new());
        while let (Some(length), Some(kind)) = (length(at), word(at + 4)) {
            seen.push((kind, word(at + STATE).unwrap_or(0)));
            at += (length as usize).max(16).next_multiple_of(4);
        }
        seen
    }

    /// Reads until nothing has come for a second: the last group is whole again, which takes IPv6 its time.
    fn settle(&self) {
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_secs(1) {
            if !self.read().is_empty() {
                last = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a failed neighbour and for the nexthop object that changes for it: milliseconds between them, and how
    /// many objects changed until nothing more came for a while.
    fn failover(&self) -> Result<(f64, u32)> {
        let began = Instant::now();
        let (mut failed, mut took, mut messages) = (None, None, 0);
        loop {
            let now = Instant::now();
            for (kind, state) in self.read() {
                match kind {
                    RTM_NEWNEIGH if state == NUD_FAILED => {
                        failed.get_or_insert(now);
                    }
                    RTM_NEWNEXTHOP => {
                        let since = failed.context("a nexthop changed before the neighbour failed")?;
                        took.get_or_insert(now.saturating_duration_since(since));
                        messages += 1;
                    }
                    _ => {}
                }
            }
            if let (Some(took), Some(since)) = (took, failed)
                && since.elapsed() > took + Duration::from_millis(200)
            {
                return Ok((took.as_secs_f64() * 1e3, messages));
            }
            ensure!(began.elapsed() < PATIENCE, "the group was not changed");
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}
