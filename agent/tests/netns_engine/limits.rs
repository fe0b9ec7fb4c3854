//! A feed that wants too much.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use backtrail_lab::feeder::{announce, withdraw};
use backtrail_lab::wait_until;
use ipnet::Ipv4Net;

use crate::rig::{BOTH, Rig, UP, WAIT, manifests, prefixes};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_default_route_and_the_nodes_own_prefixes_stay_out() -> Result<()> {
    let mut rig = Rig::start("")?;
    rig.load(10, BOTH)?;
    let hostile = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "198.18.0.2/32", "198.18.1.2/32"];
    let nets = hostile.iter().map(|net| net.parse::<Ipv4Net>()).collect::<Result<Vec<_>, _>>()?;
    rig.feeder()?.send(nets.into_iter().map(|net| announce(net, UP[0])))?;
    rig.feeder()?.send([announce("10.200.0.0/24".parse::<Ipv4Net>()?, UP[0])])?;
    rig.wait_fib("the harmless one", |fib| fib.contains_key("10.200.0.0/24"))?;
    let fib = rig.fib()?;
    ensure!(fib.len() == 11 && hostile.iter().all(|net| !fib.contains_key(*net)), "{fib:?}");
    Ok(())
}

/// Stopped, edited and started: what the former configuration put elsewhere goes, with its default route, and the node is
/// in sync again.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn routes_of_an_older_configuration_go() -> Result<()> {
    const CONFIG: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {name: default}
spec: {guardrails: {defaultRoute: Allow}}
";
    let mut rig = Rig::start(&format!("  defaultRoute: Backup\n{CONFIG}"))?;
    let say = |rig: &mut Rig| {
        let default = announce("0.0.0.0/0".parse::<Ipv4Net>()?, UP[0]);
        rig.feeder()?.send(prefixes(2).into_iter().map(|net| announce(net, UP[0])).chain([default]))
    };
    let table = |rig: &Rig, table: &str| {
        let text = rig.node.run(&format!("ip -4 route show table {table} proto 201 2>/dev/null || true"));
        text.map(|text| text.lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>())
    };
    let backup = format!("metric {}", u32::MAX - 1);
    let backup = backup.as_str();
    say(&mut rig)?;
    rig.wait_fib("all three", |fib| fib.len() == 3)?;
    rig.wait_synchronized()?;
    let configurations = [
        ("Main", "  defaultRoute: Reject\n", None, "metric 20"),
        ("Main", "  defaultRoute: Accept\n", Some("metric 20"), "metric 20"),
        ("Main", "  defaultRoute: Backup\n", Some(backup), "metric 20"),
        ("Main", "  defaultRoute: Accept\n  metric: 30\n", Some("metric 30"), "metric 30"),
        ("10500", "  defaultRoute: Backup\n", Some(backup), "metric 20"),
        ("Main", "  defaultRoute: Reject\n", None, "metric 20"),
    ];
    for (into, spec, default, others) in configurations {
        rig.agent.stop()?;
        let text = manifests(&format!("{spec}{CONFIG}"));
        rig.agent.write_manifests(&text.replace("{table: Main}", &format!("{{table: {into}}}")))?;
        rig.agent.run()?;
        rig.connect()?;
        say(&mut rig)?;
        rig.wait_synchronized()?;
        let found = table(&rig, if into == "Main" { "main" } else { into })?;
        let number = |net: &str, metric: &str| {
            found.iter().filter(|line| line.starts_with(net) && line.ends_with(metric)).count()
        };
        let defaults = default.map_or(0, |metric| number("default", metric));
        let all = 2 + usize::from(default.is_some());
        ensure!(
            found.len() == all && number("10.64.", others) == 2 && defaults == all - 2,
            "{into} {spec}: {found:?}"
        );
        let elsewhere = table(&rig, if into == "Main" { "10500" } else { "main" })?;
        ensure!(elsewhere.is_empty(), "{into} {spec}: {elsewhere:?}");
    }
    rig.ensure_clean()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_limit_holds_over_a_restart_too() -> Result<()> {
    let mut rig = Rig::start("  maxRoutes: 100\n")?;
    rig.feeder()?.send(prefixes(300).into_iter().map(|net| announce(net, BOTH)))?;
    rig.wait_fib("just the limit", |fib| fib.len() == 100)?;
    rig.wait_synchronized()?;
    let before = rig.fib()?;
    // While the agent is away another hundred comes, and is announced first.
    rig.agent.kill()?;
    rig.agent.run()?;
    rig.connect()?;
    rig.feeder()?.send(prefixes(300).into_iter().rev().map(|net| announce(net, BOTH)))?;
    rig.wait_synchronized()?;
    ensure!(rig.fib()? == before, "{} routes of 100, or others than before", rig.fib()?.len());
    // A lower limit takes the surplus away.
    rig.agent.write_manifests(&manifests("  maxRoutes: 40\n"))?;
    rig.wait_fib("just the new limit", |fib| fib.len() == 40)?;
    Ok(())
}

/// Announcements of the hostile feed, unless `BACKTRAIL_HOSTILE_ROUTES` says how many: more than are kept.
const HOSTILE: u32 = 120_000;
/// What is kept of them with the guardrail at 1,000 routes.
const KEPT: u64 = 100_000;
/// Memory that a learned route may take in all, bytes; and what an agent takes that has learned none.
const EACH: u64 = 100;
const IDLE: u64 = 64 << 20;

/// Millions of prefixes that nobody asked for: memory and the kernel's table stay bounded, who was there stays, the node
/// answers, and it ends when the feed does.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_flood_of_prefixes_is_bounded_and_passes() -> Result<()> {
    let count =
        std::env::var("BACKTRAIL_HOSTILE_ROUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(HOSTILE);
    let mut rig = Rig::start(&format!("  maxRoutes: 500\n{GUARDRAIL}"))?;
    rig.load(100, BOTH)?;
    let before = rig.fib()?;
    // 44.0.0.0/28, 44.0.0.16/28, …
    let flood = |number: u32| Ipv4Net::new(Ipv4Addr::from_bits(0x2c00_0000 + (number << 4)), 28);
    for start in (0..count).step_by(50_000) {
        let nets = (start..count.min(start + 50_000)).map(flood).collect::<Result<Vec<_>, _>>()?;
        rig.feeder()?.send(nets.into_iter().map(|net| announce(net, UP[0])))?;
    }
    let refused = "backtrail_rib_refused_announcements";
    let surplus = u64::from(count) + 100 - KEPT;
    wait_until(WAIT * 5, "the surplus is refused", || rig.agent.metric(refused).is_ok_and(|n| n >= surplus))?;
    rig.wait_synchronized()?;
    rig.wait_condition("GuardrailTripped", "True", "MaxLearnedRoutes")?;
    let fib = rig.fib()?;
    ensure!(fib.len() == 500 && before.iter().all(|(net, ways)| fib.get(net) == Some(ways)), "{}", fib.len());
    ensure!(rig.number("/routes/learned")? == KEPT, "{}", rig.explain());
    let memory = rig.agent.memory()?;
    ensure!(memory <= IDLE + KEPT * EACH, "{} MiB for {count} announcements", memory >> 20);
    // What was there before can still change and go.
    rig.feeder()?.send(prefixes(50).into_iter().map(withdraw))?;
    rig.wait_fib("withdrawn", |fib| before.keys().filter(|net| fib.contains_key(*net)).count() == 50)?;
    // The peer is cut off, and zebra withdraws what it had announced.
    for start in (0..count).step_by(50_000) {
        let nets = (start..count.min(start + 50_000)).map(flood).collect::<Result<Vec<_>, _>>()?;
        rig.feeder()?.send(nets.into_iter().map(withdraw))?;
    }
    rig.wait_fib("only those of before", |fib| {
        fib.len() == 50 && fib.keys().all(|net| before.contains_key(net))
    })?;
    rig.agent.write_manifests(&manifests("  maxRoutes: 500\n"))?;
    rig.wait_synchronized()
}

const GUARDRAIL: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {name: default}
spec: {guardrails: {maxRoutesPerNode: 1000}}
";
