//! Steering on devices that need modules: bonds, VLANs on them, VLANs in VLANs, VRF devices.
//!
//! ```text
//! client --- router ---(rdef vdef: default route)--- node (services on lo)
//!                  \---(rred vred: requests)--------/
//! ```

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use backtrail::steering::features;
use backtrail_lab::frames;
use backtrail_lab::ways::{TwoWays, VIP4, VIP6, Wires};
use backtrail_lab::{Direction, End, Lab, Sniffer, send_packet_by, wait_until};

#[expect(dead_code, reason = "the tests in namespaces use the rest")]
#[path = "netns_places/rig.rs"]
mod rig;

use rig::{WAIT, addresses, default_by, interface, rebuilt, return_path, start_agent};

const BOND: &str = "ip link add bond0 type bond mode active-backup miimon 100; ip link set vred down
     ip link set vred master bond0; ip link set bond0 up; ip link set vred up\n";

/// A VLAN on a bond, the way servers are wired.
#[test]
#[ignore = "needs bonding and 8021q: cargo xtask vm"]
fn replies_leave_by_the_vlan_of_a_bond() -> Result<()> {
    let net = TwoWays::new("bond")?;
    let node = format!(
        "{BOND}ip link add link bond0 name bond0.100 type vlan id 100\n{}",
        addresses("bond0.100", 2)
    );
    let router =
        format!("ip link add link rred name rred.100 type vlan id 100\n{}", addresses("rred.100", 1));
    rebuilt(&net, &node, &router)?;
    let _agent = start_agent(&net.lab, &net.node, return_path(&["bond0.100"], ""), &["bond0.100", "vdef"])?;
    net.assert_steered()
}

/// One tag within another: 802.1ad outside.
#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn replies_leave_by_a_vlan_within_a_vlan() -> Result<()> {
    let net = TwoWays::new("qinq")?;
    let tags = |device: &str| {
        format!(
            "ip link add link {device} name s.200 type vlan proto 802.1ad id 200; ip link set s.200 up
             ip link add link s.200 name c.100 type vlan id 100\n"
        )
    };
    let node = tags("vred") + &addresses("c.100", 2);
    let router = tags("rred") + &addresses("c.100", 1);
    rebuilt(&net, &node, &router)?;
    let _agent = start_agent(&net.lab, &net.node, return_path(&["c.100"], ""), &["c.100", "vdef"])?;
    net.assert_steered()
}

/// The default route on a VLAN of the bond that requests come in by untagged, and the other way round.
#[test]
#[ignore = "needs bonding and 8021q: cargo xtask vm"]
fn a_stacked_device_and_the_one_below_are_told_apart() -> Result<()> {
    for (name, listed, default, tag) in
        [("above", "bond0", "bond0.100", false), ("below", "bond0.100", "bond0", true)]
    {
        let net = TwoWays::new(name)?;
        let vlan = |device: &str| format!("ip link add link {device} name {device}.100 type vlan id 100\n");
        let (mut node, mut router) = (format!("{BOND}{}", vlan("bond0")), vlan("rred"));
        node += &addresses(listed, 2);
        router += &addresses(if tag { "rred.100" } else { "rred" }, 1);
        rebuilt(&net, &node, &router)?;
        let other = if tag { "rred" } else { "rred.100" };
        default_by(&net, default, other)?;
        let _agent = start_agent(&net.lab, &net.node, return_path(&[listed], ""), &[listed, default])?;
        for (what, exchange) in net.each_protocol() {
            net.wires(exchange).with_context(|| format!("{name}: {what}"))?;
            let services: [IpAddr; 2] = [VIP4.parse()?, VIP6.parse()?];
            let ours = |device: &str| {
                net.wire.count(device, |frame| {
                    frame.direction == Direction::In && services.contains(&frame.source)
                })
            };
            // The device below sees the tagged frames, too.
            let (all, tagged) = (ours("rred"), ours("rred.100"));
            let right = if tag { tagged == all } else { tagged == 0 };
            ensure!(right && all > 0, "{name}: {what}: {all} frames, {tagged} of them tagged");
        }
    }
    Ok(())
}

/// Two VRFs with one client address, one service address and the same ports: each reply stays in its VRF, on the interface of
/// its request.
#[test]
#[ignore = "needs VRF: cargo xtask vm"]
fn one_tuple_in_two_vrfs_is_two_flows() -> Result<()> {
    const CLIENT: &str = "203.0.113.2";
    let lab = Lab::new("zones")?;
    let node = lab.namespace("no")?;
    let mut routers = Vec::new();
    for (at, name) in ["red", "blue"].iter().enumerate() {
        let router = lab.namespace(name)?;
        let short = &name[..1];
        let (request, default) = (format!("{short}req"), format!("{short}def"));
        lab.connect(&End::new(&router, "req", &["10.0.2.1/24"]), &End::new(&node, &request, &[]))?;
        lab.connect(&End::new(&router, "def", &["10.0.1.1/24"]), &End::new(&node, &default, &[]))?;
        router.run(&format!("ip addr add {CLIENT}/32 dev lo; ip route add {VIP4} via 10.0.2.2"))?;
        node.run(&format!(
            "ip link add {name} type vrf table {table}; ip link set {name} up
             ip link set {request} master {name}; ip link set {default} master {name}
             ip addr add 10.0.2.2/24 dev {request}; ip addr add 10.0.1.2/24 dev {default}
             ip addr add {VIP4}/32 dev {name}; ip route add default via 10.0.1.1 vrf {name}",
            table = 10_001 + at
        ))?;
        let wire = Sniffer::start(&router)?;
        routers.push((router, wire, name));
    }
    let interfaces = ["rreq", "breq", "rdef", "bdef"];
    let agent = start_agent(&lab, &node, return_path(&interfaces[..2], ""), &interfaces)?;
    let (client, service): (IpAddr, IpAddr) = (CLIENT.parse()?, VIP4.parse()?);
    let request = frames::packet(client, service, frames::udp(4000, 53), 64);
    let reply = frames::packet(service, client, frames::udp(53, 4000), 64);
    for (router, _, _) in &routers {
        send_packet_by(router, None, &request)?;
    }
    let learned = || {
        ["rreq", "breq"].iter().all(|name| rig::counter(&agent, name, "learned").is_ok_and(|count| count > 0))
    };
    wait_until(WAIT, "both requests are learned", learned)?;
    for (_, _, vrf) in &routers {
        send_packet_by(&node, Some(vrf), &reply)?;
    }
    for (_, wire, name) in &routers {
        let count = |device: &str| {
            wire.count(device, |frame| {
                frame.direction == Direction::In && frame.protocol == 17 && frame.source == service
            })
        };
        wait_until(WAIT, &format!("the reply in {name}"), || count("req") + count("def") > 0)?;
        let wires = Wires { default: count("def"), request: count("req") };
        ensure!(wires.request == 1 && wires.default == 0, "{name}: {wires:?}");
    }
    Ok(())
}

/// Before 6.6 programs are filters of a qdisc, which somebody may delete: they come back by themselves.
#[test]
#[ignore = "needs a kernel without TCX: cargo xtask vm"]
fn a_qdisc_that_somebody_deleted_comes_back() -> Result<()> {
    if features().tcx {
        println!("SKIPPED a_qdisc_that_somebody_deleted_comes_back: this kernel has TCX");
        return Ok(());
    }
    let net = TwoWays::new("qdisc")?;
    let agent = start_agent(&net.lab, &net.node, return_path(&["vred"], ""), &["vred", "vdef"])?;
    ensure!(interface(&agent, "vdef")?["hook"] == "clsact");
    net.node.run("tc qdisc del dev vdef clsact; tc qdisc del dev vred clsact")?;
    wait_until(WAIT, "replies are steered again", || {
        net.wires(|| net.tcp(VIP4)).is_ok_and(|wires| wires.are_steered())
    })?;
    // Filters of others, after ours: what they drop they drop, what we redirect they never see.
    net.node.run("tc filter add dev vdef egress pref 7 bpf bytecode '1,6 0 0 0,' || true")?;
    net.assert_steered()
}

/// Both interfaces move into a VRF device while the agent runs, and back: its flows change their zone.
#[test]
#[ignore = "needs VRF: cargo xtask vm"]
fn interfaces_that_move_into_a_vrf_and_back_are_steered() -> Result<()> {
    let net = TwoWays::new("moves")?;
    // The echo services are to answer in every VRF.
    net.node.sysctl("net.ipv4.tcp_l3mdev_accept", "1")?;
    let agent = start_agent(&net.lab, &net.node, return_path(&["vred"], ""), &["vred", "vdef"])?;
    let steered = |what: &str| -> Result<()> {
        let is = || {
            net.wires(|| net.tcp(VIP4)).is_ok_and(|wires| wires.are_steered())
                && net.wires(|| net.ping(VIP4)).is_ok_and(|wires| wires.are_steered())
        };
        wait_until(WAIT, what, is).map(drop).with_context(|| format!("{:?}", agent.command(&["status"])))
    };
    steered("in main")?;
    for round in ["first", "second"] {
        net.node.run(&format!(
            "ip link add red type vrf table 10001; ip link set red up; ip addr add {VIP4}/32 dev red
             ip link set vred master red; ip link set vdef master red
             ip route add default via 10.0.1.1 vrf red"
        ))?;
        steered(&format!("in the VRF, {round}"))?;
        net.node.run(
            "ip link set vred nomaster; ip link set vdef nomaster; ip link del red
             ip route replace default via 10.0.1.1",
        )?;
        steered(&format!("back in main, {round}"))?;
    }
    Ok(())
}
