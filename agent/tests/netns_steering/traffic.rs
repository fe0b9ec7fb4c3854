//! What is steered, and what is left alone.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use backtrail::intent::types::{GatewaySource, ReturnPathInterface};
use backtrail_lab::{End, TcpEcho, UdpEcho, ping, tcp_exchange, udp_exchange};

use crate::topology::{CLIENT4, CLIENT6, PATIENCE, PORT, Topology, VIP4, VIP6, Wires, asked, lacks_tcx};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_the_interface_of_the_request_tcx() -> Result<()> {
    if lacks_tcx("replies_leave_by_the_interface_of_the_request_tcx") {
        return Ok(());
    }
    steers_every_protocol(Topology::new("tcx")?)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_leave_by_the_interface_of_the_request_clsact() -> Result<()> {
    let mut lab = Topology::new("clsact")?;
    lab.force_clsact = true;
    steers_every_protocol(lab)
}

fn steers_every_protocol(mut lab: Topology) -> Result<()> {
    for (name, exchange) in lab.each_protocol() {
        let wires = lab.wires(exchange)?;
        ensure!(wires.request == 0 && wires.default > 0, "{name} without steering: {wires:?}");
    }
    lab.apply()?;
    lab.assert_steered()?;
    let counters = lab.counters("vred")?;
    ensure!(counters.learned >= 6 && counters.steered >= 6, "{counters:?}");
    ensure!(lab.counters("vdef")?.learned == 0);
    let flows = lab.steering()?.flows(0, 1000)?;
    ensure!(flows.next.is_none());
    let client: [IpAddr; 2] = [CLIENT4.parse()?, CLIENT6.parse()?];
    let tcp = flows.flows.iter().filter(|flow| flow.protocol == 6 && client.contains(&flow.client.ip()));
    for flow in tcp {
        ensure!(flow.service.port() == PORT && flow.steered_packets > 0 && !flow.node_origin, "{flow:?}");
        ensure!(flow.ifindex == lab.ifindex("vred")?, "{flow:?}");
    }
    ensure!(lab.apply()?.is_unchanged(), "a second time there is nothing to do");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn flows_that_need_no_steering_are_untouched() -> Result<()> {
    let mut lab = Topology::new("straight")?;
    lab.router.run(&format!(
        "ip route replace {VIP4} via 10.0.1.2
         ip -6 route replace {VIP6} via fd00:1::2"
    ))?;
    lab.asked.push(asked("vdef"));
    lab.apply()?;
    for (name, exchange) in lab.each_protocol() {
        let wires = lab.wires(exchange)?;
        ensure!(wires.request == 0 && wires.default > 0, "{name}: {wires:?}");
    }
    let counters = lab.counters("vdef")?;
    ensure!(counters.learned >= 6 && counters.matched >= 6 && counters.steered == 0, "{counters:?}");
    ensure!(lab.counters("vred")?.steered == 0);
    Ok(())
}

/// The client's answers come back by the listed interface; the node's own packets must go on by the default route.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_nodes_own_connections_are_untouched() -> Result<()> {
    let mut lab = Topology::new("own")?;
    let (server4, server6): (SocketAddr, SocketAddr) =
        ((CLIENT4.parse::<IpAddr>()?, 9000).into(), (CLIENT6.parse::<IpAddr>()?, 9000).into());
    let _tcp = (TcpEcho::start(&lab.client, server4)?, TcpEcho::start(&lab.client, server6)?);
    let _udp = (UdpEcho::start(&lab.client, server4)?, UdpEcho::start(&lab.client, server6)?);
    lab.apply()?;
    let (own4, own6): (SocketAddr, SocketAddr) =
        ((VIP4.parse::<IpAddr>()?, 0).into(), (VIP6.parse::<IpAddr>()?, 0).into());
    for (own, server) in [(own4, server4), (own6, server6)] {
        let wires = lab.wires(|| tcp_exchange(&lab.node, Some(own), server, PATIENCE).map(drop))?;
        ensure!(wires.request == 0 && wires.default > 0, "TCP to {server}: {wires:?}");
        let wires = lab.wires(|| udp_exchange(&lab.node, Some(own), server, PATIENCE).map(drop))?;
        ensure!(wires.request == 0 && wires.default > 0, "UDP to {server}: {wires:?}");
        let wires = lab.wires(|| {
            ensure!(ping(&lab.node, Some(own.ip()), server.ip())?, "no answer");
            Ok(())
        })?;
        ensure!(wires.request == 0 && wires.default > 0, "echo to {server}: {wires:?}");
    }
    ensure!(lab.counters("vred")?.steered == 0);
    ensure!(lab.counters("vdef")?.node_origin >= 6);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pod_behind_dnat_answers_by_the_interface_of_the_request() -> Result<()> {
    let mut lab = Topology::new("dnat")?;
    let pod = lab.lab.namespace("pod")?;
    lab.lab.connect(
        &End::new(&pod, "eth0", &["10.244.0.2/24"]),
        &End::new(&lab.node, "vpod", &["10.244.0.1/24"]),
    )?;
    pod.run("ip route add default via 10.244.0.1")?;
    let _server = TcpEcho::start(&pod, "10.244.0.2:8080".parse()?)?;
    lab.node.run(&format!(
        "nft add table ip nat
         nft 'add chain ip nat prerouting {{ type nat hook prerouting priority dstnat; }}'
         nft add rule ip nat prerouting ip daddr {VIP4} tcp dport 80 dnat to 10.244.0.2:8080"
    ))?;
    lab.apply()?;
    let service: SocketAddr = (VIP4.parse::<IpAddr>()?, 80).into();
    let wires = lab.wires(|| tcp_exchange(&lab.client, None, service, PATIENCE).map(drop))?;
    ensure!(wires.default == 0 && wires.request > 0, "{wires:?}");
    // What the pod opens goes out by the default route.
    let server: SocketAddr = (CLIENT4.parse::<IpAddr>()?, 9000).into();
    let _outside = TcpEcho::start(&lab.client, server)?;
    lab.router.run("ip route add 10.244.0.0/24 via 10.0.2.2")?;
    let steered = lab.counters("vred")?.steered;
    tcp_exchange(&pod, None, server, PATIENCE)?;
    ensure!(lab.counters("vred")?.steered == steered, "the pod's own connection was steered");
    Ok(())
}

/// Overlapping client networks: the same address behind either interface.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn two_clients_with_one_address_get_their_own_answers() -> Result<()> {
    let mut lab = Topology::new("overlap")?;
    let (router, client) = (lab.lab.namespace("rb")?, lab.lab.namespace("cb")?);
    router.forward()?;
    lab.lab.connect(
        &End::new(&client, "c0", &["203.0.113.2/24"]),
        &End::new(&router, "r0", &["203.0.113.1/24"]),
    )?;
    lab.lab.connect(
        &End::new(&router, "rblue", &["10.0.3.1/24"]),
        &End::new(&lab.node, "vblue", &["10.0.3.2/24"]),
    )?;
    client.run("ip route add default via 203.0.113.1")?;
    router.run(&format!("ip route add {VIP4} via 10.0.3.2"))?;
    lab.asked.push(asked("vblue"));
    lab.apply()?;
    let service: SocketAddr = (VIP4.parse::<IpAddr>()?, PORT).into();
    let from =
        |port: u16| -> Result<Option<SocketAddr>> { Ok(Some((CLIENT4.parse::<IpAddr>()?, port).into())) };
    for round in 0..3 {
        tcp_exchange(&lab.client, from(20_000 + round)?, service, PATIENCE)?;
        tcp_exchange(&client, from(30_000 + round)?, service, PATIENCE)?;
        udp_exchange(&lab.client, from(20_000 + round)?, service, PATIENCE)?;
        udp_exchange(&client, from(30_000 + round)?, service, PATIENCE)?;
    }
    ensure!(lab.counters("vred")?.steered > 0 && lab.counters("vblue")?.steered > 0);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn shadow_counts_and_changes_nothing() -> Result<()> {
    let mut lab = Topology::new("shadow")?;
    lab.asked = vec![ReturnPathInterface { enforce: false, ..asked("vred") }];
    lab.apply()?;
    for (name, exchange) in lab.each_protocol() {
        let wires = lab.wires(exchange)?;
        ensure!(wires.request == 0 && wires.default > 0, "{name}: {wires:?}");
    }
    let counters = lab.counters("vred")?;
    ensure!(counters.would_steer >= 6 && counters.steered == 0, "{counters:?}");
    // Enforced, the flows that are known already are steered too.
    lab.asked = vec![asked("vred")];
    let report = lab.apply()?;
    ensure!(report.attached == 0 && report.writes > 0, "{report:?}");
    lab.assert_steered()
}

/// The strict filter drops requests before any program can help; the plan's sysctl lets them in.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_strict_reverse_path_filter_at_arrival_is_loosened() -> Result<()> {
    let mut lab = Topology::new("rpf")?;
    for device in ["all", "vred"] {
        lab.node.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1")?;
    }
    lab.apply()?;
    ensure!(lab.ping(VIP4).is_err(), "the strict filter drops requests");
    for (key, value) in lab.plan()?.sysctls {
        lab.node.enter(|| std::fs::write(format!("/proc/sys/{key}"), value))??;
    }
    let wires = lab.wires(|| lab.ping(VIP4))?;
    ensure!(wires == Wires { default: 0, request: wires.request } && wires.request > 0, "{wires:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn excepted_and_other_services_are_not_learned() -> Result<()> {
    let mut lab = Topology::new("except")?;
    lab.node.run("ip addr add 198.51.100.11/32 dev lo")?;
    lab.router.run("ip route add 198.51.100.11 via 10.0.2.2")?;
    let other: SocketAddr = "198.51.100.11:7000".parse()?;
    let _server = TcpEcho::start(&lab.node, other)?;
    lab.asked = vec![ReturnPathInterface {
        virtual_ips: vec![format!("{VIP4}/32").parse()?],
        except_ports: vec![(7001, 7009)],
        ..asked("vred")
    }];
    lab.apply()?;
    let excepted: SocketAddr = (VIP4.parse::<IpAddr>()?, 7005).into();
    let _excepted = TcpEcho::start(&lab.node, excepted)?;
    let wires = lab.wires(|| lab.tcp(VIP4))?;
    ensure!(wires.default == 0 && wires.request > 0, "{wires:?}");
    let wires = lab.wires(|| tcp_exchange(&lab.client, None, excepted, PATIENCE).map(drop))?;
    ensure!(wires.request == 0 && wires.default > 0, "{wires:?}");
    tcp_exchange(&lab.client, None, other, PATIENCE)?;
    let counters = lab.counters("vred")?;
    ensure!(counters.excepted > 0 && counters.other_service > 0, "{counters:?}");
    lab.asked =
        vec![ReturnPathInterface { except_sources: vec!["203.0.113.0/24".parse()?], ..asked("vred") }];
    lab.apply()?;
    let wires = lab.wires(|| lab.tcp(VIP4))?;
    ensure!(wires.request == 0 && wires.default > 0, "{wires:?}");
    ensure!(lab.asked[0].gateway == GatewaySource::Auto);
    Ok(())
}
