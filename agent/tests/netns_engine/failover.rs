//! Paths that die and come back.

use anyhow::{Result, ensure};
use backtrail_lab::feeder::announce;
use backtrail_lab::{Monitor, wait_until};

use crate::rig::{BOTH, Rig, UP, WAIT, prefixes};

const ROUTES: u32 = 2000;

/// Changes of ours since the monitor started: of nexthop objects, and of routes.
fn changes(monitor: &Monitor) -> Result<(Vec<String>, usize)> {
    let (routes, objects): (Vec<_>, Vec<_>) =
        monitor.ours()?.into_iter().partition(|line| line.contains("/24 "));
    Ok((objects, routes.len()))
}

/// Whether a gateway is resolved, and kept so by the kernel.
fn answers(rig: &Rig, number: usize) -> bool {
    let shown = rig.node.run(&format!("ip neigh show 198.18.{number}.1 dev up{number}"));
    shown.is_ok_and(|text| text.contains("lladdr") && text.contains("managed"))
}

/// Without its entry nobody would find out that a gateway has died, but for traffic.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_gateway_whose_entry_was_flushed_is_watched_again() -> Result<()> {
    let mut rig = Rig::start("")?;
    rig.load(ROUTES, BOTH)?;
    wait_until(WAIT, "both gateways are resolved", || answers(&rig, 0) && answers(&rig, 1))?;
    rig.node.run("ip neigh flush dev up0; ip neigh del 198.18.1.1 dev up1")?;
    wait_until(WAIT, "both are resolved again", || answers(&rig, 0) && answers(&rig, 1))?;
    rig.peers[0].run("ip link set dev eth0 arp off; ip neigh flush dev eth0")?;
    rig.wait_ways(ROUTES as usize, &[1]).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_gateway_that_stops_answering_leaves_with_one_message() -> Result<()> {
    let mut rig = Rig::start("")?;
    rig.load(ROUTES, BOTH)?;
    rig.wait_ways(ROUTES as usize, &[0, 1])?;
    // The agent keeps both resolved without any traffic.
    wait_until(WAIT, "both gateways are resolved", || answers(&rig, 0) && answers(&rig, 1))?;
    let before = rig.fib()?;
    let monitor = Monitor::start(&rig.node)?;
    rig.peers[0].run("ip link set dev eth0 arp off; ip neigh flush dev eth0")?;
    rig.wait_ways(ROUTES as usize, &[1])?;
    let (objects, routes) = changes(&monitor)?;
    ensure!(objects.len() == 1 && routes == 0, "{objects:?}, {routes} routes");
    // FRR notices later, and moves every route: nothing is left to do.
    rig.feeder()?.send(prefixes(ROUTES).into_iter().map(|net| announce(net, UP[1])))?;
    rig.feeder()?.send([announce("10.200.0.0/24".parse::<ipnet::Ipv4Net>()?, UP[1])])?;
    rig.wait_ways(ROUTES as usize + 1, &[1])?;
    let (_, routes) = changes(&monitor)?;
    ensure!(routes == 1, "{routes} routes were changed, of which one is new");
    // The gateway is back before FRR is: routes that no longer want it stay as they are.
    rig.peers[0].run("ip link set dev eth0 arp on")?;
    wait_until(WAIT, "the gateway answers", || {
        // Once no route wants it any more it need not be kept resolved.
        rig.node.run("ip neigh show 198.18.0.1 dev up0").is_ok_and(|text| text.contains("lladdr"))
    })?;
    rig.feeder()?.send(prefixes(ROUTES).into_iter().map(|net| announce(net, BOTH)))?;
    rig.wait_fib("all as before", |fib| before.iter().all(|(net, ways)| fib.get(net) == Some(ways)))?;
    rig.ensure_clean()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_gateway_that_answers_again_is_put_back() -> Result<()> {
    let mut rig = Rig::start("")?;
    rig.load(ROUTES, BOTH)?;
    let before = rig.fib()?;
    for _ in 0..2 {
        rig.peers[1].run("ip link set dev eth0 arp off; ip neigh flush dev eth0")?;
        rig.wait_ways(ROUTES as usize, &[0])?;
        let monitor = Monitor::start(&rig.node)?;
        rig.peers[1].run("ip link set dev eth0 arp on")?;
        rig.wait_ways(ROUTES as usize, &[0, 1])?;
        let (objects, routes) = changes(&monitor)?;
        ensure!(objects.len() == 1 && routes == 0, "{objects:?}, {routes} routes");
    }
    ensure!(rig.fib()? == before);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_goes_with_a_carrier_returns_with_it() -> Result<()> {
    let mut rig = Rig::start("")?;
    rig.load(200, UP[0])?;
    rig.feeder()?.send(prefixes(400).into_iter().skip(200).map(|net| announce(net, BOTH)))?;
    rig.wait_fib("all routes", |fib| fib.len() == 400)?;
    let before = rig.fib()?;
    for (down, up) in [
        ("ip link set dev eth0 down", "ip link set dev eth0 up"),
        ("ip link set dev eth0 down; ip link set dev eth0 up", "true"),
    ] {
        rig.peers[0].run(down)?;
        if up != "true" {
            rig.wait_ways(200, &[1])?;
        }
        rig.peers[0].run(up)?;
        rig.wait_fib("all as before", |fib| *fib == before)?;
    }
    // The time without is told.
    let log = rig.agent.log();
    ensure!(
        log.contains("the kernel drops what goes by it alone") && log.contains("usable again after "),
        "{log}"
    );
    // The node's own end goes down and up.
    rig.node.run("ip link set dev up0 down; ip link set dev up0 up")?;
    rig.wait_fib("all as before", |fib| *fib == before)?;
    ensure!(rig.number("/routes/programmed")? == 400);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn resilient_groups_and_the_hash_policy_as_asked_for() -> Result<()> {
    let policies = |rig: &Rig| {
        ["ipv4", "ipv6"].map(|family| {
            let key = format!("net.{family}.fib_multipath_hash_policy");
            rig.node.read_sysctl(&key).unwrap_or_default()
        })
    };
    let mut rig = Rig::start("  multipath: {hashPolicy: L4, resilient: {buckets: 32, idleTimer: 60s}}\n")?;
    rig.load(50, BOTH)?;
    let before = rig.fib()?;
    let shown = rig.node.run("ip -d nexthop show")?;
    ensure!(shown.contains("type resilient buckets 32 idle_timer 60"), "{shown}");
    ensure!(policies(&rig) == ["1", "1"], "{:?}", policies(&rig));
    // A silent gateway's buckets move; the group stays the same object, and is taken over by the next agent.
    let monitor = Monitor::start(&rig.node)?;
    rig.peers[0].run("ip link set dev eth0 arp off; ip neigh flush dev eth0")?;
    rig.wait_ways(50, &[1])?;
    rig.peers[0].run("ip link set dev eth0 arp on")?;
    rig.wait_ways(50, &[0, 1])?;
    rig.agent.kill()?;
    rig.agent.run()?;
    rig.connect()?;
    rig.feeder()?.send(prefixes(50).into_iter().map(|net| announce(net, BOTH)))?;
    rig.wait_synchronized()?;
    let (objects, routes) = changes(&monitor)?;
    ensure!(objects.len() == 2 && routes == 0, "{objects:?}, {routes} routes");
    ensure!(rig.fib()? == before);
    rig.ensure_clean()?;
    ensure!(policies(&rig) == ["0", "0"], "restored: {:?}", policies(&rig));
    Ok(())
}
