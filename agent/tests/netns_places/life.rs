//! What happens to interfaces while an agent runs, and the end of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::wait_until;
use backtrail_lab::ways::{TwoWays, VIP4, VIP6, connect_requests, services};

use crate::rig::{PATIENCE, Place, WAIT, return_path, start_agent};

/// All that steering may leave on a node, in words.
fn traces(net: &TwoWays) -> Result<String> {
    net.node.run(
        "tc qdisc show; ip -br link | cut -d' ' -f1
         for dev in vred vdef; do
             for side in ingress egress; do tc filter show dev $dev $side; done
         done
         bpftool net show
         ip rule; ip -6 rule; ip route show table all proto 201; ip -6 route show table all proto 201
         ip neigh show nud all | grep -E 'managed|extern_learn|proto' || true
         grep -r . /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/forwarding \\
             /proc/sys/net/ipv6/conf/*/forwarding /proc/sys/net/ipv4/ip_forward",
    )
}

/// Neither program, link, filter, qdisc, pin, device, rule, route, nor another value of a sysctl; on every kernel.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn cleanup_leaves_the_node_as_it_was() -> Result<()> {
    let net = TwoWays::new("cleanup")?;
    net.node.sysctl("net.ipv4.conf.vred.rp_filter", "1")?;
    let before = traces(&net)?;
    let spec = "  match: {virtualIPs: [198.51.100.10/32, '2001:db8:5::10/128']}\n";
    let mut agent =
        start_agent(&net.lab, &net.node, return_path(&["vred"], spec), &["vred", "vdef", "backtrail0"])?;
    net.assert_steered()?;
    let steered = traces(&net)?;
    ensure!(steered != before && steered.contains("backtrail0"), "{steered}");
    agent.stop()?;
    net.assert_steered()?;
    agent.cleanup()?;
    let after = traces(&net)?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    ensure!(!agent.bpffs().exists(), "pins are left");
    Ok(())
}

fn wait_steered(place: &Place, what: &str) -> Result<()> {
    let steered = |service| place.wires(|| place.tcp(service)).is_ok_and(|wires| wires.are_steered());
    wait_until(WAIT, what, || steered(VIP4) && steered(VIP6))
        .map(drop)
        .with_context(|| format!("{:?}", place.agent.command(&["status"])))
}

/// Away in another namespace, renamed, made anew: the interface is known by its name.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_that_goes_and_comes_is_steered_again() -> Result<()> {
    let place = Place::new("comes")?;
    wait_steered(&place, "at first")?;
    let up = "ip link set vred up
         ip addr replace 10.0.2.2/24 dev vred; ip -6 addr replace fd00:2::2/64 dev vred nodad";
    let routes = format!("ip route replace {VIP4} via 10.0.2.2; ip -6 route replace {VIP6} via fd00:2::2");
    let elsewhere = place.lab.namespace("elsewhere")?;
    place.node.run(&format!("ip link set vred netns {}", elsewhere.name()))?;
    elsewhere.run(&format!("ip link set vred netns {}", place.node.name()))?;
    place.node.run(up)?;
    place.router.run(&routes)?;
    wait_steered(&place, "back from another namespace")?;
    place.node.run("ip link set vred down; ip link set vred name vgreen; ip link set vgreen up")?;
    place.node.run(&format!("ip link set vgreen down; ip link set vgreen name vred\n{up}"))?;
    wait_steered(&place, "under its name again")?;
    place.node.run("ip link del vred")?;
    connect_requests(&place.lab, &place.router, &place.node)?;
    place.router.run(&routes)?;
    wait_steered(&place, "made anew")
}

/// The router turns to the other interface and back in the middle of a connection: both are listed, and replies follow.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_connection_whose_requests_move_is_followed() -> Result<()> {
    let net = TwoWays::new("moves")?;
    let _agent = start_agent(&net.lab, &net.node, return_path(&["vred", "vdef"], ""), &["vred", "vdef"])?;
    let target = services()?[0];
    let mut stream = net.client.enter(|| TcpStream::connect(target))??;
    stream.set_read_timeout(Some(backtrail_lab::patient(PATIENCE)))?;
    let mut exchange = || -> Result<()> {
        let mut got = [0; 4];
        stream.write_all(b"ping")?;
        Ok(stream.read_exact(&mut got)?)
    };
    for gateway in ["10.0.2.2", "10.0.1.2", "10.0.2.2", "10.0.1.2"] {
        net.router.run(&format!("ip route replace {VIP4} via {gateway}"))?;
        // The acknowledgement of the last echo goes by the new way, too.
        exchange()?;
        let wires = net.wires(&mut exchange)?;
        let right = if gateway == "10.0.2.2" { wires.are_steered() } else { wires.follow_default() };
        ensure!(right, "requests by {gateway}: {wires:?}");
    }
    Ok(())
}

/// Hardware addresses that change: frames of the interface would be taken for somebody else's.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_with_another_mac_is_steered() -> Result<()> {
    let place = Place::new("mac")?;
    wait_steered(&place, "at first")?;
    for (at, device) in ["vdef", "vred"].iter().enumerate() {
        place.node.run(&format!("ip link set {device} address 02:00:00:00:0{at}:07"))?;
        place.router.run("ip neigh flush all")?;
        wait_steered(&place, device)?;
    }
    Ok(())
}
