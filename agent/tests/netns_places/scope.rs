//! `match`: which requests are meant. And what happens while a path is down.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::frames;
use backtrail_lab::ways::{CLIENT4, CLIENT6, ECHO_PORT, VIP4, VIP6};
use backtrail_lab::{TcpEcho, tcp_exchange, wait_until};

use crate::rig::{PATIENCE, Place, WAIT, interface, return_path, send};

/// Service addresses beside the first.
const OTHERS: [&str; 2] = ["198.51.100.11", "2001:db8:5::11"];

/// A second service address of each family, echo services on two ports of all of them.
struct Services {
    _servers: Vec<TcpEcho>,
}

const PORTS: [u16; 2] = [8001, 8002];

fn services(net: &backtrail_lab::ways::TwoWays) -> Result<Services> {
    net.node.run(&format!(
        "ip addr add {}/32 dev lo; ip -6 addr add {}/128 dev lo nodad",
        OTHERS[0], OTHERS[1]
    ))?;
    net.router.run(&format!(
        "ip route add {} via 10.0.2.2; ip -6 route add {} via fd00:2::2",
        OTHERS[0], OTHERS[1]
    ))?;
    let mut servers = Vec::new();
    for address in [VIP4, VIP6, OTHERS[0], OTHERS[1]] {
        for port in PORTS {
            servers.push(TcpEcho::start(&net.node, (address.parse::<IpAddr>()?, port).into())?);
        }
    }
    Ok(Services { _servers: servers })
}

/// Whether the answers to an exchange with a service are steered.
fn is_steered(place: &Place, service: &str, port: u16) -> Result<bool> {
    let target = SocketAddr::from((service.parse::<IpAddr>()?, port));
    let wires = place.wires_of(
        |frame| frame.source == target.ip() && frame.source_port == port,
        || tcp_exchange(&place.client, None, target, PATIENCE).map(drop),
    )?;
    ensure!(wires.are_steered() || wires.follow_default(), "{service} {port}: {wires:?}");
    Ok(wires.are_steered())
}

/// Without `match` every service address is meant; with it, those that it names.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn service_addresses_ports_and_sources_are_told_apart() -> Result<()> {
    let mut kept = None;
    let place = Place::with("match", "", |net| {
        kept = Some(services(net)?);
        Ok(())
    })?;
    let steered = |service: &str, port| is_steered(&place, service, port);
    for service in [VIP4, VIP6, OTHERS[0], OTHERS[1]] {
        ensure!(steered(service, PORTS[0])?, "{service}");
    }
    let change = |spec: &str| -> Result<()> { place.agent.write_manifests(&return_path(&["vred"], spec)) };
    change("  match: {virtualIPs: [198.51.100.11/32, '2001:db8:5::11/128'], exceptPorts: [{from: 8002}]}\n")?;
    wait_until(WAIT, "the first address is not meant any more", || {
        steered(VIP4, PORTS[0]).is_ok_and(|it| !it)
    })?;
    for (service, port, meant) in [
        (VIP6, PORTS[0], false),
        (OTHERS[0], PORTS[0], true),
        (OTHERS[1], PORTS[0], true),
        (OTHERS[0], PORTS[1], false),
        (OTHERS[1], PORTS[1], false),
    ] {
        ensure!(steered(service, port)? == meant, "{service} {port}");
    }
    change(&format!("  match: {{exceptSources: [{CLIENT4}/32, '{CLIENT6}/128']}}\n"))?;
    wait_until(WAIT, "the client is excepted", || steered(OTHERS[0], PORTS[0]).is_ok_and(|it| !it))?;
    for service in [VIP4, VIP6, OTHERS[0], OTHERS[1]] {
        ensure!(!steered(service, PORTS[1])?, "{service}");
    }
    Ok(())
}

/// The gateway of the way back dies: replies follow the routing table, or are dropped.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_dead_gateway_leaves_replies_to_the_routes_or_drops_them() -> Result<()> {
    for (policy, drops) in [("FollowFIB", false), ("Drop", true)] {
        let spec = format!("  onPathDown: {policy}\n");
        let place = Place::with("dead", &spec, |net| {
            // Candidates, which other interfaces' routers deliver requests for.
            net.node
                .run(
                    "ip route add 192.0.2.0/24 via 10.0.2.1; ip -6 route add 2001:db8:2::/64 via fd00:2::1
                 ping -n -q -c 1 -w 5 10.0.2.1; ping -n -q -c 1 -w 5 fd00:2::1",
                )
                .map(drop)
        })?;
        place.assert_steered()?;
        // It goes on to deliver requests, but answers neither ARP nor ND any more.
        place.router.run(
            "for node in 10.0.2.2 fd00:2::2; do
                 ip neigh replace $node dev rred nud permanent lladdr $(ip neigh show $node dev rred | sed 's/.*lladdr //' | cut -d' ' -f1)
             done
             nft add table ip6 dead; nft 'add chain ip6 dead input { type filter hook input priority 0; }'
             nft add rule ip6 dead input iifname rred icmpv6 type nd-neighbor-solicit drop",
        )?;
        place.router.sysctl("net.ipv4.conf.rred.arp_ignore", "8")?;
        let (counter, other) = if drops { ("dropped", "pathDown") } else { ("pathDown", "dropped") };
        for (client, service, gateway) in [(CLIENT4, VIP4, "10.0.2.1"), (CLIENT6, VIP6, "fd00:2::1")] {
            let before = place.counter("vred", counter)?;
            // The kernel would ask again after half a minute.
            place.node.run(&format!("ip neigh replace {gateway} dev vred nud failed"))?;
            // By UDP: the progress of TCP would prove to the kernel that the gateway is there.
            let expected = || -> Result<bool> {
                let request = frames::udp(30_000, ECHO_PORT);
                let wires = place.wires(|| send(&place.client, client, service, request, 64))?;
                Ok(if drops { wires.default + wires.request == 0 } else { wires.follow_default() })
            };
            // While the kernel still asks for the gateway, what is sent to it is lost: only the programs' own verdict counts.
            let told =
                || expected().unwrap_or(false) && place.counter("vred", counter).is_ok_and(|n| n > before);
            wait_until(WAIT, policy, told).with_context(|| {
                format!("{service}: {:?} {:?}", place.node.run("ip neigh"), interface(&place.agent, "vred"))
            })?;
        }
        ensure!(place.counter("vred", other)? == 0, "{policy}");
    }
    Ok(())
}
