//! How the way back is found.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use backtrail::intent::types::{GatewaySource, ReturnPathInterface};
use backtrail_lab::wait_until;

use crate::life::{more_answers, steady_flow};
use crate::topology::{PATIENCE, Topology, VIP4, VIP6, asked};

fn with_source(name: &str, gateway: GatewaySource) -> Result<Topology> {
    let mut lab = Topology::new(name)?;
    lab.asked = vec![ReturnPathInterface { gateway, ..asked("vred") }];
    Ok(lab)
}

fn gateways_of_flows(lab: &Topology) -> Result<Vec<Option<IpAddr>>> {
    let page = lab.steering()?.flows(0, 1000)?;
    let steered = page.flows.into_iter().filter(|flow| flow.steered_packets > 0);
    Ok(steered.map(|flow| flow.gateway).collect())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_without_candidate_answers_the_mac_that_asked() -> Result<()> {
    let mut lab = Topology::new("auto")?;
    lab.apply()?;
    lab.assert_steered()?;
    let counters = lab.counters("vred")?;
    ensure!(counters.steered_mac == counters.steered, "{counters:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_with_one_candidate_takes_it() -> Result<()> {
    let mut lab = Topology::new("only")?;
    lab.gateways.extend([("vred", "10.0.2.1".parse::<IpAddr>()?), ("vred", "fd00:2::1".parse()?)]);
    lab.apply()?;
    lab.assert_steered()?;
    ensure!(lab.counters("vred")?.steered_mac == 0);
    let known: [Option<IpAddr>; 2] = [Some("10.0.2.1".parse()?), Some("fd00:2::1".parse()?)];
    for gateway in gateways_of_flows(&lab)? {
        ensure!(known.contains(&gateway), "{gateway:?}");
    }
    Ok(())
}

/// Two gateways on the link: the one whose neighbour entry has the request's MAC is the one that asked.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_with_several_candidates_matches_the_mac() -> Result<()> {
    let mut lab = Topology::new("several")?;
    lab.gateways.extend([("vred", "10.0.2.1".parse::<IpAddr>()?), ("vred", "10.0.2.9".parse()?)]);
    lab.gateways.extend([("vred", "fd00:2::1".parse::<IpAddr>()?), ("vred", "fd00:2::9".parse()?)]);
    lab.node.run("ping -n -q -c 1 -w 3 10.0.2.1 >/dev/null; ping -n -q -c 1 -w 3 fd00:2::1 >/dev/null")?;
    lab.apply()?;
    lab.assert_steered()?;
    let known: [Option<IpAddr>; 2] = [Some("10.0.2.1".parse()?), Some("fd00:2::1".parse()?)];
    for gateway in gateways_of_flows(&lab)? {
        ensure!(known.contains(&gateway), "{gateway:?}");
    }
    Ok(())
}

/// A flow that was learned before any gateway was known takes the one that becomes known, with its next request.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_candidate_that_appears_later_is_taken_by_flows_that_are_there() -> Result<()> {
    let mut lab = Topology::new("later")?;
    lab.apply()?;
    let flow = steady_flow(&lab)?;
    ensure!(gateways_of_flows(&lab)? == [None], "the MAC that asked");
    lab.gateways.push(("vred", "10.0.2.1".parse()?));
    lab.apply()?;
    let known: IpAddr = "10.0.2.1".parse()?;
    wait_until(PATIENCE, "the flow takes the gateway", || {
        gateways_of_flows(&lab).is_ok_and(|gateways| gateways == [Some(known)])
    })?;
    let wires = lab.wires(|| more_answers(&flow))?;
    let report = flow.stop();
    ensure!(report.lost == 0 && wires.default == 0, "{report:?} {wires:?}");
    Ok(())
}

/// VRRP, HSRP and MLAG forward with MACs of their own: a flow holds its gateway's address, and follows that to another MAC.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_gateway_that_moves_to_another_mac_keeps_its_flows() -> Result<()> {
    let mut lab = Topology::new("vrrp")?;
    lab.gateways.extend([("vred", "10.0.2.1".parse::<IpAddr>()?), ("vred", "10.0.2.9".parse()?)]);
    lab.node.run("ping -n -q -c 1 -w 3 10.0.2.1 >/dev/null")?;
    lab.apply()?;
    let flow = steady_flow(&lab)?;
    let known: IpAddr = "10.0.2.1".parse()?;
    ensure!(gateways_of_flows(&lab)? == [Some(known)]);
    // The new master announces itself, as VRRP has it (RFC 5798, 6.4.1).
    lab.router.sysctl("net.ipv4.conf.rred.arp_notify", "1")?;
    lab.router.run("ip link set rred address 02:00:5e:00:01:07")?;
    let wires = lab.wires(|| more_answers(&flow))?;
    ensure!(wires.default == 0 && wires.request > 0, "{wires:?}");
    // Once the neighbour entry is known, the new MAC stands for the same gateway.
    lab.apply()?;
    more_answers(&flow)?;
    ensure!(gateways_of_flows(&lab)? == [Some(known)]);
    ensure!(lab.counters("vred")?.steered_mac == 0);
    let report = flow.stop();
    println!("{} of {} packets were lost while the MAC changed", report.lost, report.sent);
    Ok(())
}

/// A client on the link itself is answered directly, though there is a candidate.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_answers_a_client_on_the_link_directly() -> Result<()> {
    let mut lab = Topology::new("onlink")?;
    lab.gateways.push(("vred", "10.0.2.1".parse()?));
    // A route that leads the answers astray.
    lab.node.run(
        "ip rule add from 198.51.100.10 lookup 77 pref 50; ip route add default via 10.0.1.1 table 77",
    )?;
    lab.apply()?;
    let wires = lab.wires(|| {
        ensure!(backtrail_lab::ping(&lab.router, Some("10.0.2.1".parse()?), VIP4.parse()?)?, "no answer");
        Ok(())
    })?;
    ensure!(wires.default == 0 && wires.request > 0, "{wires:?}");
    let known: IpAddr = "10.0.2.1".parse()?;
    ensure!(gateways_of_flows(&lab)?.iter().all(|gateway| *gateway == Some(known)));
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn from_route_follows_the_interfaces_table() -> Result<()> {
    let mut lab = with_source("route", GatewaySource::FromRoute)?;
    lab.tables.push(("vred", 100));
    lab.apply()?;
    let wires = lab.wires(|| lab.tcp(VIP4))?;
    ensure!(wires.request == 0 && wires.default > 0, "no route in the table: {wires:?}");
    ensure!(lab.counters("vred")?.fib_misses > 0);
    lab.node.run(
        "ip route add default via 10.0.2.1 dev vred table 100
         ip -6 route add default via fd00:2::1 dev vred table 100",
    )?;
    if let Some(steering) = &mut lab.steering {
        steering.bump_generation()?;
    }
    lab.assert_steered()?;
    ensure!(lab.counters("vred")?.steered_mac == 0);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn from_source_mac_ignores_routes() -> Result<()> {
    let mut lab = with_source("mac", GatewaySource::FromSourceMAC)?;
    lab.gateways.push(("vred", "10.0.2.9".parse()?));
    lab.apply()?;
    lab.assert_steered()?;
    let counters = lab.counters("vred")?;
    ensure!(counters.steered_mac == counters.steered && counters.steered > 0, "{counters:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_prescribed_gateway_is_taken() -> Result<()> {
    let gateway = GatewaySource::Static { ipv4: Some("10.0.2.1".parse()?), ipv6: Some("fd00:2::1".parse()?) };
    let mut lab = with_source("static", gateway)?;
    lab.apply()?;
    lab.assert_steered()?;
    ensure!(lab.counters("vred")?.steered_mac == 0);
    Ok(())
}

/// A gateway that does not answer takes its path down with one write: replies follow the FIB, or are dropped.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_failed_gateway_takes_its_path_down() -> Result<()> {
    let gateway = GatewaySource::Static { ipv4: Some("10.0.2.9".parse()?), ipv6: None };
    let mut lab = with_source("down", gateway)?;
    lab.node.run("ip neigh replace 10.0.2.9 dev vred nud failed")?;
    lab.apply()?;
    let wires = lab.wires(|| lab.tcp(VIP4))?;
    ensure!(wires.request == 0 && wires.default > 0, "FollowFIB: {wires:?}");
    let wires = lab.wires(|| lab.tcp(VIP6))?;
    ensure!(wires.default == 0, "the other family is on Auto: {wires:?}");
    lab.asked = vec![ReturnPathInterface { gateway, drop_on_path_down: true, ..asked("vred") }];
    let report = lab.apply()?;
    ensure!(report.attached == 0 && report.detached == 0, "{report:?}");
    let wires = lab.wires(|| {
        ensure!(lab.ping(VIP4).is_err(), "answered");
        Ok(())
    })?;
    ensure!(wires.default == 0 && wires.request == 0, "Drop: {wires:?}");
    ensure!(lab.counters("vred")?.dropped > 0);
    // The gateway answers again.
    lab.router.run("ip addr add 10.0.2.9/24 dev rred")?;
    lab.node.run("ip neigh del 10.0.2.9 dev vred; ping -n -q -c 1 -w 3 10.0.2.9 >/dev/null")?;
    let report = lab.apply()?;
    ensure!(report.writes == 1, "one element: {report:?}");
    let wires = lab.wires(|| lab.ping(VIP4))?;
    ensure!(wires.default == 0 && wires.request > 0, "{wires:?}");
    Ok(())
}
