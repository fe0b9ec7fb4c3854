//! Nodes whose default route does not work, or is not there.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use backtrail_lab::ways::{TwoWays, VIP4, VIP6};
use backtrail_lab::{TcpEcho, transfer};

use crate::rig::{PATIENCE, Place, return_path, start_agent, wait_attached};

const LISTED: &str = "  match: {virtualIPs: [198.51.100.10/32, '2001:db8:5::10/128']}\n";
const SINK: &str = "backtrail0";

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_node_without_default_route_answers() -> Result<()> {
    let place = Place::bare("nodefault", "", &["vred", SINK], |net| {
        net.node.run("ip link set vdef down; ip -6 route del default || true").map(drop)
    })?;
    place.assert_steered_whole()
}

/// Nor does it answer ARP and ND; the service addresses are listed.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_dead_default_gateway_holds_nothing_up() -> Result<()> {
    let place = Place::bare("deadgw", LISTED, &["vred", "vdef", SINK], |net| {
        net.router.run("ip link set rdef arp off; ip addr flush dev rdef")?;
        net.node.run("ip neigh flush dev vdef").map(drop)
    })?;
    place.assert_steered_whole()
}

/// The interface of the default route goes down while the agent runs.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_that_goes_down_is_made_up_for() -> Result<()> {
    let place = Place::new("down")?;
    place.assert_steered()?;
    place.node.run("ip link set vdef down; ip -6 route del default || true")?;
    wait_attached(&place.agent, &["vred", SINK])?;
    place.assert_steered_whole()
}

/// With different MTUs on the ways out: what the node sends with a service address fits each of them.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_goes_by_way_of_the_sink_fits_the_way_out() -> Result<()> {
    for (name, default, request) in [("small", 1300, 1500), ("jumbo", 9000, 4000)] {
        let place = Place::bare(name, LISTED, &["vred", "vdef", SINK], |net| small(net, default, request))?;
        place.assert_steered_whole()?;
        let _outside = [
            TcpEcho::start(&place.router, "10.0.1.1:9000".parse()?)?,
            TcpEcho::start(&place.router, "[fd00:1::1]:9000".parse()?)?,
        ];
        for (own, server) in [(VIP4, "10.0.1.1:9000"), (VIP6, "[fd00:1::1]:9000")] {
            let own = SocketAddr::from((own.parse::<IpAddr>()?, 0));
            transfer::stream_from(&place.node, own, server.parse()?, 1 << 20, PATIENCE)?;
        }
    }
    Ok(())
}

fn small(net: &TwoWays, default: u32, request: u32) -> Result<()> {
    net.client.run("ip link set c0 mtu 9000")?;
    net.router.run(&format!(
        "ip link set r0 mtu 9000; ip link set rdef mtu {default}; ip link set rred mtu {request}"
    ))?;
    net.node.run(&format!("ip link set vdef mtu {default}; ip link set vred mtu {request}")).map(drop)
}

/// The agent's own device goes with its last `ReturnPath`, and nothing is left that led to it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_sink_goes_with_the_last_manifest() -> Result<()> {
    let net = TwoWays::new("gone")?;
    net.node.run("ip route del default; ip -6 route del default")?;
    let agent = start_agent(&net.lab, &net.node, return_path(&["vred"], LISTED), &["vred", SINK])?;
    agent.write_manifests("")?;
    let left = || {
        net.node.run("ip -o link show backtrail0 2>/dev/null || true; ip rule | grep 1189 || true; ip route show table all proto 201")
    };
    let gone = || left().is_ok_and(|left| left.is_empty());
    backtrail_lab::wait_until(crate::rig::WAIT, "nothing is left", gone).map(drop)
}
