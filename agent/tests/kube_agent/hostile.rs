//! A BGP peer that announces what the cluster needs.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, nexthop};
use backtrail_lab::{Feeder, Monitor, fib, wait_until};
use ipnet::IpNet;
use serde_json::Value;

use crate::rig::{LIMIT, attachment, cluster, condition};

const IMPORT: &str = "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: everything}
spec: {from: {table: 5000}, into: {table: Main}, allowed: {mode: All}}
";

/// The API server's address, the Service network, the Node's pods and its addresses are protected without anybody's having
/// listed them: what a peer announces of them stays out, and the agent goes on hearing from the API server.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn what_the_cluster_needs_is_protected_by_itself() -> Result<()> {
    let Some(rig) = cluster("hostile")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(IMPORT)?;
    let links = w1.json("ip -j link show dev red0")?;
    let ifindex = links[0]["ifindex"].as_u64().context("no ifindex")?;
    let monitor = Monitor::start(&w1)?;
    let mut feeder = Feeder::connect(&w1)?;
    feeder.send([nexthop(11, "203.0.113.5".parse()?, u32::try_from(ifindex)?)])?;
    // The API server, its Service, a pod, the addresses of the node's interfaces.
    let hostile = ["192.0.2.1/32", "10.96.0.1/32", "10.244.1.7/32", "198.51.100.6/32", "203.0.113.6/32"];
    let nets = hostile.iter().map(|net| net.parse::<IpNet>()).collect::<Result<Vec<_>, _>>()?;
    feeder.send(nets.into_iter().map(|net| announce(net, 11)))?;
    feeder.send([announce("10.64.0.0/24".parse::<IpNet>()?, 11)])?;
    wait_until(LIMIT, "the harmless one is there", || {
        fib(&w1, 4, 254).is_ok_and(|fib| fib.contains_key("10.64.0.0/24"))
    })
    .with_context(|| agent.log())?;
    for prefix in hostile {
        let rejected = |rows: &Value| {
            let mut rows = rows.as_array().into_iter().flatten();
            rows.any(|row| row["state"] == "Rejected" && row["reason"] == "ProtectedPrefix")
        };
        wait_until(LIMIT, &format!("{prefix} is rejected"), || {
            agent.json(&["routes", prefix]).is_ok_and(|rows| rejected(&rows))
        })
        .with_context(|| format!("{:?}\n{}", agent.json(&["routes"]), agent.log()))?;
    }
    let written = monitor.ours()?;
    ensure!(
        hostile.iter().all(|net| !written.iter().any(|line| line.contains(net.trim_end_matches("/32")))),
        "{written:?}"
    );
    rig.server.apply_text(&attachment("red", "red", 10001, ""))?;
    rig.wait_for("vrfa", "red", "the agent still hears and tells", |it| condition(it, "Ready") == "True")
        .map(drop)
}
