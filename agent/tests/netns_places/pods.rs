//! Services in pods behind DNAT.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use backtrail_lab::ways::{TwoWays, VIP4, VIP6};
use backtrail_lab::{Namespace, TcpEcho, UdpEcho, tcp_exchange, transfer, udp_exchange};

use crate::rig::{self, PATIENCE, Place, connect_pod, ensure_steered};

/// A pod with echo services, and its addresses.
struct Pod {
    _tcp: [TcpEcho; 2],
    _udp: [UdpEcho; 2],
    _space: Namespace,
}

/// Where the pod's services are, behind port 80 of the service addresses.
const BACKENDS: [&str; 2] = ["10.244.0.2:8080", "[fd00:244::2]:8080"];

fn with_pod(net: &TwoWays) -> Result<Pod> {
    let space = connect_pod(net)?;
    let [v4, v6] = [BACKENDS[0].parse()?, BACKENDS[1].parse()?];
    Ok(Pod {
        _tcp: [TcpEcho::start(&space, v4)?, TcpEcho::start(&space, v6)?],
        _udp: [UdpEcho::start(&space, v4)?, UdpEcho::start(&space, v6)?],
        _space: space,
    })
}

/// As kube-proxy has it: with `masquerade`, pods see the node as the client.
fn translate(node: &Namespace, masquerade: bool) -> Result<()> {
    node.run(&format!(
        "nft add table inet lb
         nft 'add chain inet lb prerouting {{ type nat hook prerouting priority dstnat; }}'
         nft 'add chain inet lb postrouting {{ type nat hook postrouting priority srcnat; }}'
         nft add rule inet lb prerouting ip daddr {VIP4} meta l4proto '{{ tcp, udp }}' th dport 80 dnat ip to {}
         nft add rule inet lb prerouting ip6 daddr {VIP6} meta l4proto '{{ tcp, udp }}' th dport 80 dnat ip6 to {}",
        BACKENDS[0], BACKENDS[1]
    ))?;
    if masquerade {
        node.run("nft add rule inet lb postrouting oifname vpod masquerade")?;
    }
    Ok(())
}

/// TCP, UDP, and more of it than fits a packet, to both service addresses.
fn assert_answered(place: &Place) -> Result<()> {
    for service in [VIP4, VIP6] {
        let target: SocketAddr = (service.parse::<IpAddr>()?, 80).into();
        let tcp = || tcp_exchange(&place.client, None, target, PATIENCE).map(drop);
        ensure_steered("TCP", place.wires(tcp)?)?;
        let udp = || udp_exchange(&place.client, None, target, PATIENCE).map(drop);
        ensure_steered("UDP", place.wires(udp)?)?;
        let large = || transfer::stream(&place.client, target, 1 << 20, PATIENCE);
        ensure_steered("1 MiB", place.wires(large)?)?;
        let fragments = || transfer::datagram(&place.client, target, 4000, PATIENCE);
        ensure_steered("fragments", place.wires(fragments)?)?;
    }
    Ok(())
}

fn answers(name: &str, masquerade: bool) -> Result<()> {
    let mut pod = None;
    let place = Place::with(name, "", |net| {
        pod = Some(with_pod(net)?);
        translate(&net.node, masquerade)
    })?;
    assert_answered(&place)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_behind_dnat_answers_by_the_way_of_the_request() -> Result<()> {
    answers("dnat", false)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_behind_dnat_and_masquerade_answers_by_the_way_of_the_request() -> Result<()> {
    answers("masq", true)
}

/// The same by iptables, first without and then with masquerade.
fn answers_by_iptables(test: &str, variant: &str) -> Result<()> {
    let mut pod = None;
    let place = Place::with(variant, "", |net| {
        pod = Some(with_pod(net)?);
        Ok(())
    })?;
    let tools = [("iptables", VIP4, BACKENDS[0]), ("ip6tables", VIP6, BACKENDS[1])];
    for (tool, service, backend) in tools {
        for protocol in ["tcp", "udp"] {
            let rule = format!("-d {service} -p {protocol} --dport 80 -j DNAT --to-destination {backend}");
            if rig::lacks(test, place.node.run(&format!("{tool}-{variant} -w -t nat -A PREROUTING {rule}")))?
            {
                return Ok(());
            }
        }
    }
    assert_answered(&place)?;
    for (tool, _, _) in tools {
        place.node.run(&format!("{tool}-{variant} -w -t nat -A POSTROUTING -o vpod -j MASQUERADE"))?;
    }
    assert_answered(&place)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_behind_iptables_nft_answers_by_the_way_of_the_request() -> Result<()> {
    answers_by_iptables("a_pod_behind_iptables_nft_answers_by_the_way_of_the_request", "nft")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_behind_iptables_legacy_answers_by_the_way_of_the_request() -> Result<()> {
    answers_by_iptables("a_pod_behind_iptables_legacy_answers_by_the_way_of_the_request", "legacy")
}

/// The pod is told of the smaller MTU of the way back, through the translation.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_learns_the_mtu_of_the_way_back() -> Result<()> {
    let mut pod = None;
    let place = Place::with("podmtu", "", |net| {
        pod = Some(with_pod(net)?);
        translate(&net.node, false)?;
        net.router.run("ip link set rred mtu 1300")?;
        // Clients announce what their own link takes.
        net.node.run("ip link set vred mtu 1300").map(drop)
    })?;
    assert_answered_in_segments(&place)?;
    ensure!(place.counter("vred", "dropped")? == 0);
    place.wait_counter("vred", "tooBig", 2)
}

/// The reply is led to the sink by the pod's address, and translated on its way there.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_on_a_node_without_default_route_answers() -> Result<()> {
    let mut pod = None;
    let place = Place::bare("podnone", "", &["vred", "backtrail0"], |net| {
        pod = Some(with_pod(net)?);
        translate(&net.node, false)?;
        net.node.run("ip link set vdef down; ip -6 route del default || true").map(drop)
    })?;
    assert_answered(&place)
}

/// IPv4 datagrams that may be fragmented are left to the FIB where they do not fit: only TCP here.
fn assert_answered_in_segments(place: &Place) -> Result<()> {
    for service in [VIP4, VIP6] {
        let target: SocketAddr = (service.parse::<IpAddr>()?, 80).into();
        ensure_steered("1 MiB", place.wires(|| transfer::stream(&place.client, target, 1 << 20, PATIENCE))?)?;
    }
    Ok(())
}
