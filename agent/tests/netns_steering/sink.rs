//! Replies that no working route takes to an interface with a program.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use backtrail::intent::types::ReturnPathInterface;
use backtrail::kernel::actions::Actions;
use backtrail::model::{Family, RuleAction};
use backtrail::plan::steering::{SINK_NAME, SteeringPlan};
use backtrail_lab::{TcpEcho, tcp_exchange};

use crate::topology::{PATIENCE, Topology, VIP4, VIP6, asked};

const PROTOCOL: u8 = 201;

/// Does what the netlink edge does with a plan: the device, its sysctls, rules and routes.
fn program(lab: &Topology, plan: &SteeringPlan) -> Result<()> {
    for route in &plan.routes {
        let family = if Family::of(&route.key.prefix) == Family::Ipv4 { "-4" } else { "-6" };
        let (table, metric) = (route.key.table, route.key.metric);
        lab.node.run(&format!(
            "ip {family} route replace default dev {SINK_NAME} table {table} metric {metric} proto {PROTOCOL}"
        ))?;
    }
    for rule in &plan.rules {
        let family = if rule.family == Family::Ipv4 { "-4" } else { "-6" };
        let RuleAction::Lookup(table) = rule.action else { bail!("{rule:?}") };
        let source = rule.source.context("a source")?;
        let priority = rule.priority;
        lab.node.run(&format!(
            "ip {family} rule add from {source} lookup {table} pref {priority} protocol {PROTOCOL}"
        ))?;
    }
    for (key, value) in &plan.sysctls {
        lab.node.enter(|| std::fs::write(format!("/proc/sys/{key}"), value))?.with_context(|| key.clone())?;
    }
    Ok(())
}

fn make_sink(lab: &Topology) -> Result<()> {
    lab.node.enter(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Actions::open(PROTOCOL)?.create_sink(SINK_NAME).await })?;
        Ok(())
    })?
}

/// Plans, programs and applies; the first pass makes the device, the second leads to it.
fn converge(lab: &mut Topology) -> Result<()> {
    ensure!(lab.plan()?.sink, "wanted");
    make_sink(lab)?;
    program(lab, &lab.plan()?)?;
    lab.apply()?;
    Ok(())
}

/// Neither a default route nor the interface that held it: replies leave by the interface of the request.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_node_without_default_route_answers() -> Result<()> {
    let mut lab = Topology::new("nodefault")?;
    lab.node.run("ip link set vdef down")?;
    lab.node.run("ip -6 route del default || true")?;
    lab.defaults.clear();
    lab.gateways.clear();
    lab.apply()?;
    ensure!(lab.ping(VIP4).is_err(), "no route, no program, no answer");
    converge(&mut lab)?;
    lab.assert_steered()
}

/// The default gateway does not answer ARP; the service addresses are listed.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_dead_default_gateway_does_not_hold_replies_up() -> Result<()> {
    let mut lab = Topology::new("deadgw")?;
    let listed = vec![format!("{VIP4}/32").parse()?, format!("{VIP6}/128").parse()?];
    lab.asked = vec![ReturnPathInterface { virtual_ips: listed, ..asked("vred") }];
    lab.router.run("ip link set rdef arp off; ip addr flush dev rdef")?;
    lab.node.run("ip neigh flush dev vdef")?;
    lab.apply()?;
    ensure!(lab.ping(VIP4).is_err(), "nothing leaves by a gateway that is dead");
    converge(&mut lab)?;
    lab.assert_steered()?;
    // What the node opens with a service address follows the FIB, by way of the sink.
    let server: SocketAddr = "10.0.2.1:9000".parse()?;
    let _server = TcpEcho::start(&lab.router, server)?;
    let own: SocketAddr = (VIP4.parse::<IpAddr>()?, 0).into();
    tcp_exchange(&lab.node, Some(own), server, PATIENCE)?;
    ensure!(lab.counters(SINK_NAME)?.sink_forwarded > 0);
    Ok(())
}
