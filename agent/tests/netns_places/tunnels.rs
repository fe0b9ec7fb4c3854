//! Devices without L2 header: tun, GRE, WireGuard.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::ways::{TwoWays, VIP4, VIP6, Wires, services};
use backtrail_lab::{Direction, Frame, TunPair, transfer};

use crate::rig::{self, PATIENCE, return_path, start_agent};
use crate::wireguard;

/// A device without L2 header between node and router.
struct Tunnel {
    /// Of a tun device: who carries its packets.
    _carrier: Option<TunPair>,
}

/// Makes `tun0` on both, 10.0.4.2 and 10.0.4.1, over the link with these addresses; a tun device needs none.
fn connect(net: &TwoWays, kind: &str, [node, router]: [&str; 2]) -> Result<Tunnel> {
    let carrier = (kind == "tun").then(|| TunPair::new(&net.node, &net.router, "tun0")).transpose()?;
    for (space, own, peer, last) in [(&net.node, node, router, 2), (&net.router, router, node, 1)] {
        match kind {
            "tun" => {}
            "wireguard" => drop(space.run("ip link add tun0 type wireguard")?),
            _ => drop(space.run(&format!("ip link add tun0 type {kind} local {own} remote {peer}"))?),
        }
        space.run(&format!(
            "ip link set tun0 up; ip addr add 10.0.4.{last}/24 dev tun0
             ip -6 addr add fd00:4::{last}/64 dev tun0 nodad"
        ))?;
    }
    if kind == "wireguard" {
        wireguard::join("tun0", [(&net.node, node), (&net.router, router)])?;
    }
    Ok(Tunnel { _carrier: carrier })
}

/// Runs each kind of traffic, and lets `check` judge what came by which wire: frames of the services on both links, and in `tun0`.
fn each_way(net: &TwoWays, check: impl Fn(Wires, usize) -> bool) -> Result<()> {
    let addresses = [VIP4.parse::<IpAddr>()?, VIP6.parse()?];
    let mut exchanges = net.each_protocol();
    for target in services()? {
        exchanges.push(("1 MiB", Box::new(move || transfer::stream(&net.client, target, 1 << 20, PATIENCE))));
    }
    for (what, exchange) in exchanges {
        let wires = net.wires(exchange).with_context(|| what.to_owned())?;
        let ours = |frame: &Frame| frame.direction == Direction::In && addresses.contains(&frame.source);
        let inside = net.wire.count("tun0", ours);
        ensure!(check(wires, inside), "{what}: {wires:?}, {inside} inside");
    }
    Ok(())
}

/// Requests come by the tunnel, the default route has an L2 header.
fn assert_left_by(test: &str, kind: &str) -> Result<()> {
    let net = TwoWays::new(kind)?;
    if lacks(&net, test, kind)? {
        return Ok(());
    }
    let _tunnel = connect(&net, kind, ["10.0.2.2", "10.0.2.1"])?;
    net.router.run(&format!("ip route replace {VIP4} dev tun0; ip -6 route replace {VIP6} dev tun0"))?;
    let _agent = start_agent(&net.lab, &net.node, return_path(&["tun0"], ""), &["tun0", "vdef"])?;
    each_way(&net, |wires, inside| wires == Wires { default: 0, request: 0 } && inside > 0)
}

/// The default route leaves by the tunnel, requests come with an L2 header.
fn assert_taken_from(test: &str, kind: &str) -> Result<()> {
    let net = TwoWays::new(kind)?;
    if lacks(&net, test, kind)? {
        return Ok(());
    }
    let _tunnel = connect(&net, kind, ["10.0.1.2", "10.0.1.1"])?;
    net.node.run("ip route replace default dev tun0; ip -6 route replace default dev tun0")?;
    let _agent = start_agent(&net.lab, &net.node, return_path(&["vred"], ""), &["vred", "tun0"])?;
    each_way(&net, |wires, inside| wires.are_steered() && inside == 0)
}

/// Whether this kernel makes no devices of a kind.
fn lacks(net: &TwoWays, test: &str, kind: &str) -> Result<bool> {
    let made = match kind {
        "tun" => return Ok(false),
        "wireguard" => net.node.run("ip link add probe0 type wireguard"),
        // There is one without ends from the start.
        _ => net.node.run(&format!("ip link add probe0 type {kind} local 192.0.2.1 remote 192.0.2.2")),
    };
    net.node.run("ip link del probe0").ok();
    rig::lacks(test, made)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_a_tun_device() -> Result<()> {
    assert_left_by("replies_leave_by_a_tun_device", "tun")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_a_gre_device() -> Result<()> {
    assert_left_by("replies_leave_by_a_gre_device", "gre")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_a_wireguard_device() -> Result<()> {
    assert_left_by("replies_leave_by_a_wireguard_device", "wireguard")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_that_would_leave_by_a_tun_device_get_an_l2_header() -> Result<()> {
    assert_taken_from("replies_that_would_leave_by_a_tun_device_get_an_l2_header", "tun")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_that_would_leave_by_a_gre_device_get_an_l2_header() -> Result<()> {
    assert_taken_from("replies_that_would_leave_by_a_gre_device_get_an_l2_header", "gre")
}
