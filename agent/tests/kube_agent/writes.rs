//! How often an agent writes while much changes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, nexthop, withdraw};
use backtrail_lab::{Cluster, Feeder, wait_until};
use ipnet::{IpNet, Ipv4Net};

use super::rig::{LIMIT, attachment, cluster, condition};

/// Routes that come and go together.
const BATCH: u32 = 500;
const CHANGES: u32 = 10_000;
const IMPORT: &str = "
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: red}
spec:
  from: {table: 5000}
  into: {vrf: {name: red, table: 10001}}
  allowed: {mode: All}
";

/// 10,000 routes that zebra announces and withdraws, and more until enough was written to judge by: nothing is written more
/// often than every ten seconds.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn an_agent_writes_rarely_while_routes_change() -> Result<()> {
    let Some(rig) = cluster("writes")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(&format!("{}---{IMPORT}", attachment("red", "red", 10001, "")))?;
    rig.wait_for("ri", "red", "it is ready", |it| condition(it, "Ready") == "True")?;
    let mut feeder = Feeder::connect(&w1)?;
    let ifindex = w1.json("ip -j link show dev red0")?[0]["ifindex"].as_u64().context("no ifindex")?;
    feeder.send([nexthop(11, Cluster::gateway("w1").parse()?, u32::try_from(ifindex)?)])?;
    let nets: Vec<IpNet> = (0..BATCH)
        .map(|n| anyhow::Ok(Ipv4Net::new(Ipv4Addr::from(0x0a14_0000 + (n << 8)), 24)?.into()))
        .collect::<Result<_>>()?;

    // Since when, and by what: requests that the agent made.
    let writes = || -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for request in rig.server.audited()?.into_iter().filter(|it| it.is_write() && it.node == "w1") {
            *counts.entry(request.target).or_insert(0) += 1;
        }
        Ok(counts)
    };
    const STATE: &str = "noderoutingstates/w1/status";
    let (began, before) = (Instant::now(), writes()?);
    let so_far = |counts: &BTreeMap<String, usize>, target: &str| {
        counts.get(target).copied().unwrap_or(0) - before.get(target).copied().unwrap_or(0)
    };
    let mut changes = 0;
    while changes < CHANGES || so_far(&writes()?, STATE) < 3 {
        ensure!(began.elapsed() < LIMIT, "{:?} after {changes} changes, before {before:?}", writes()?);
        let there = changes % (2 * BATCH) == 0;
        if there {
            feeder.send(nets.iter().map(|net| announce(*net, 11)))?;
        } else {
            feeder.send(nets.iter().map(|net| withdraw(*net)))?;
        }
        changes += BATCH;
        let expected = if there { BATCH as usize } else { 0 };
        wait_until(LIMIT, "the kernel follows", || {
            let routes = w1.run("ip route show table 10001 proto 201 | grep -c ^10.20 || true");
            // 10.20.0.0 to 10.21.243.0 do not all begin so.
            routes.is_ok_and(|text| (text.trim() != "0") == (expected > 0))
        })?;
    }
    let (counts, seconds) = (writes()?, began.elapsed().as_secs_f64());
    println!("{changes} changes in {seconds:.0} s: {counts:?}, before {before:?}");
    for target in counts.keys() {
        let count = so_far(&counts, target) as f64;
        ensure!(count <= seconds / 10.0 + 1.0, "{target}: {count} writes in {seconds} s, {changes} changes");
    }
    drop(agent);
    Ok(())
}
