//! What is never touched, though its packets come in by another interface than they leave by.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use backtrail_lab::frames;
use backtrail_lab::ways::{CLIENT4, CLIENT6, ECHO_PORT, VIP4, VIP6};
use backtrail_lab::{End, Namespace, TcpEcho, UdpEcho, ping, tcp_exchange, transfer, udp_exchange};

use crate::rig::{self, PATIENCE, Place, connect_reached_pod, ensure_steered, ensure_untouched, send};
use crate::wireguard;

/// Peer and node of each family: what the node sends leaves by the default route, what the peer sends comes in by `vred`.
const FAMILIES: [(&str, &str); 2] = [(CLIENT4, VIP4), (CLIENT6, VIP6)];

/// Servers on the client's side.
struct Outside {
    _tcp: Vec<TcpEcho>,
    _udp: Vec<UdpEcho>,
}

impl Outside {
    fn start(client: &Namespace) -> Result<Self> {
        let servers = || FAMILIES.iter().map(|(peer, _)| server(peer));
        Ok(Self {
            _tcp: servers().map(|at| TcpEcho::start(client, at?)).collect::<Result<_>>()?,
            _udp: servers().map(|at| UdpEcho::start(client, at?)).collect::<Result<_>>()?,
        })
    }
}

fn server(address: &str) -> Result<SocketAddr> {
    Ok((address.parse::<IpAddr>()?, 9000).into())
}

/// Connections of the node: sockets, and hand-made packets for those whose ports are alike on both sides.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_the_node_opens_is_untouched() -> Result<()> {
    let place = Place::new("own")?;
    let _outside = Outside::start(&place.client)?;
    for (peer, own) in FAMILIES {
        let source: SocketAddr = (own.parse::<IpAddr>()?, 0).into();
        let tcp = || tcp_exchange(&place.node, Some(source), server(peer)?, PATIENCE).map(drop);
        ensure_untouched("TCP", place.wires(tcp)?)?;
        let udp = || udp_exchange(&place.node, Some(source), server(peer)?, PATIENCE).map(drop);
        ensure_untouched("UDP", place.wires(udp)?)?;
        let echo = || {
            ensure!(ping(&place.node, Some(source.ip()), peer.parse()?)?, "no answer");
            Ok(())
        };
        ensure_untouched("echo", place.wires(echo)?)?;
        // NTP, IKE and ESP in UDP, WireGuard, DHCP's renewal, SIP; then SCTP's INIT, and what the peer answers.
        for (own_port, peer_port) in
            [(123, 123), (500, 500), (4500, 4500), (51_820, 51_820), (68, 67), (5060, 5060)]
        {
            let wires = place.wires(|| {
                for _ in 0..2 {
                    send(&place.node, own, peer, frames::udp(own_port, peer_port), 64)?;
                    send(&place.client, peer, own, frames::udp(peer_port, own_port), 64)?;
                }
                Ok(())
            })?;
            ensure_untouched(&format!("UDP {own_port} to {peer_port}"), wires)?;
        }
        let wires = place.wires(|| {
            send(&place.node, own, peer, frames::sctp(9899, 9899, 1), 64)?;
            send(&place.client, peer, own, frames::sctp(9899, 9899, 2), 64)?;
            send(&place.node, own, peer, frames::sctp(9899, 9899, 10), 64)
        })?;
        ensure_untouched("SCTP", wires)?;
    }
    place.wait_counter("vdef", "own", 16)
}

/// Protocols without flows: ESP, GRE, VRRP; and those of the link.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn other_protocols_and_those_of_the_link_are_untouched() -> Result<()> {
    let place = Place::new("others")?;
    for (peer, own) in FAMILIES {
        for number in [50, 47, 112] {
            let l4 = || frames::L4 { proto: frames::Proto::Number(number), bytes: vec![1; 24] };
            let wires = place.wires_of(rig::is(number), || {
                send(&place.client, peer, own, l4(), 64)?;
                send(&place.node, own, peer, l4(), 64)
            })?;
            ensure_untouched(&format!("protocol {number}"), wires)?;
        }
        // A relay's answer to its client is DHCP, whoever speaks first.
        let wires = place.wires(|| {
            send(&place.client, peer, own, frames::udp(68, 67), 64)?;
            send(&place.node, own, peer, frames::udp(67, 68), 64)
        })?;
        ensure_untouched("DHCP", wires)?;
        // Nobody listens there: of the node's frames only the datagrams count, not its errors.
        let wires = place.wires_of(rig::is(17), || {
            send(&place.node, own, peer, frames::udp(49_152, 3784), 255)?;
            send(&place.client, peer, own, frames::udp(49_153, 3784), 255)?;
            send(&place.node, own, peer, frames::udp(49_152, 3784), 255)
        })?;
        ensure_untouched("BFD", wires)?;
    }
    Ok(())
}

/// What a pod opens, untranslated or masqueraded as an address whose answers come in by `vred`.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_a_pod_opens_is_untouched() -> Result<()> {
    let mut pod = None;
    let place = Place::with("pod", "", |net| {
        pod = Some(connect_reached_pod(net)?);
        Ok(())
    })?;
    let Some(pod) = pod else { anyhow::bail!("no pod") };
    let _outside = Outside::start(&place.client)?;
    let sources: [IpAddr; 4] = ["10.244.0.2".parse()?, "fd00:244::2".parse()?, VIP4.parse()?, VIP6.parse()?];
    let check = |what: &str| -> Result<()> {
        for (peer, _) in FAMILIES {
            let ours = |frame: &backtrail_lab::Frame| sources.contains(&frame.source);
            let tcp = || tcp_exchange(&pod, None, server(peer)?, PATIENCE).map(drop);
            ensure_untouched(&format!("{what} TCP"), place.wires_of(ours, tcp)?)?;
            let udp = || udp_exchange(&pod, None, server(peer)?, PATIENCE).map(drop);
            ensure_untouched(&format!("{what} UDP"), place.wires_of(ours, udp)?)?;
            let echo = || {
                ensure!(ping(&pod, None, peer.parse()?)?, "no answer");
                Ok(())
            };
            ensure_untouched(&format!("{what} echo"), place.wires_of(ours, echo)?)?;
        }
        Ok(())
    };
    check("routed")?;
    place.node.run(&format!(
        "nft add table inet pods
         nft 'add chain inet pods postrouting {{ type nat hook postrouting priority srcnat; }}'
         nft add rule inet pods postrouting ip saddr 10.244.0.0/24 oifname vdef snat ip to {VIP4}
         nft add rule inet pods postrouting ip6 saddr fd00:244::/64 oifname vdef snat ip6 to {VIP6}"
    ))?;
    check("masqueraded")
}

/// Clients that reach another network through the node: their answers follow the routes.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn transit_is_untouched() -> Result<()> {
    let mut far = None;
    let place = Place::with("transit", "", |net| {
        let space = net.lab.namespace("far")?;
        net.lab.connect(
            &End::new(&space, "eth0", &["10.0.7.1/24", "fd00:7::1/64"]),
            &End::new(&net.node, "vfar", &["10.0.7.2/24", "fd00:7::2/64"]),
        )?;
        space.run(
            "ip addr add 192.0.2.7/32 dev lo; ip -6 addr add 2001:db8:7::7/128 dev lo nodad
             ip route add default via 10.0.7.2; ip -6 route add default via fd00:7::2",
        )?;
        net.node
            .run("ip route add 192.0.2.0/24 via 10.0.7.1; ip -6 route add 2001:db8:7::/64 via fd00:7::1")?;
        net.router
            .run("ip route add 192.0.2.0/24 via 10.0.2.2; ip -6 route add 2001:db8:7::/64 via fd00:2::2")?;
        far = Some(space);
        Ok(())
    })?;
    let Some(far) = far else { anyhow::bail!("no namespace") };
    for (address, protocol) in [("192.0.2.7", "IPv4"), ("2001:db8:7::7", "IPv6")] {
        let target: SocketAddr = (address.parse::<IpAddr>()?, ECHO_PORT).into();
        let _servers = (TcpEcho::start(&far, target)?, UdpEcho::start(&far, target)?);
        let theirs = |frame: &backtrail_lab::Frame| frame.source == target.ip();
        let tcp = || tcp_exchange(&place.client, None, target, PATIENCE).map(drop);
        ensure_untouched(&format!("TCP {protocol}"), place.wires_of(theirs, tcp)?)?;
        let udp = || udp_exchange(&place.client, None, target, PATIENCE).map(drop);
        ensure_untouched(&format!("UDP {protocol}"), place.wires_of(theirs, udp)?)?;
        let echo = || {
            ensure!(ping(&place.client, None, target.ip())?, "no answer");
            Ok(())
        };
        ensure_untouched(&format!("echo {protocol}"), place.wires_of(theirs, echo)?)?;
    }
    place.assert_steered()
}

/// A tunnel between node and client whose packets come in by one interface and leave by the other. `create` makes `tun0` from
/// the addresses of its own end and of the other, `prepare` makes it ready.
fn assert_tunnel_untouched(
    test: &str,
    create: impl Fn(&str, &str) -> String,
    prepare: impl FnOnce(&Place) -> Result<()>,
) -> Result<()> {
    let place = Place::new("tunnel")?;
    place.assert_steered()?;
    for (space, own, peer, inner) in
        [(&place.node, VIP4, CLIENT4, "172.16.7.1"), (&place.client, CLIENT4, VIP4, "172.16.7.2")]
    {
        if rig::lacks(test, space.run(&create(own, peer)))? {
            return Ok(());
        }
        space.run(&format!("ip addr add {inner}/24 dev tun0; ip link set tun0 up"))?;
    }
    prepare(&place)?;
    // The node first: of what has the same port on both sides, who speaks first is the client.
    for (from, to) in [(&place.node, "172.16.7.2"), (&place.client, "172.16.7.1")] {
        let exchanges = || {
            ensure!(ping(from, None, to.parse()?)?, "no answer through the tunnel");
            Ok(())
        };
        ensure_untouched(test, place.wires(exchanges)?)?;
    }
    let inside: SocketAddr = "172.16.7.1:9000".parse()?;
    let _server = TcpEcho::start(&place.node, inside)?;
    let large = || transfer::stream(&place.client, inside, 1 << 18, PATIENCE);
    ensure_untouched(test, place.wires(large)?)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_vxlan_tunnel_is_untouched() -> Result<()> {
    let create = |own: &str, peer: &str| {
        format!("ip link add tun0 type vxlan id 7 local {own} remote {peer} dstport 4789")
    };
    assert_tunnel_untouched("a_vxlan_tunnel_is_untouched", create, |_| Ok(()))
}

/// Without an address of its own, the node would send from that of the default route's interface.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_geneve_tunnel_is_untouched() -> Result<()> {
    let create = |own: &str, peer: &str| {
        let src =
            if own == VIP4 { format!("ip route add {peer} via 10.0.1.1 src {own}; ") } else { String::new() };
        format!("{src}ip link add tun0 type geneve id 7 remote {peer}")
    };
    assert_tunnel_untouched("a_geneve_tunnel_is_untouched", create, |_| Ok(()))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_gre_tunnel_is_untouched() -> Result<()> {
    let create = |own: &str, peer: &str| format!("ip link add tun0 type gre local {own} remote {peer}");
    assert_tunnel_untouched("a_gre_tunnel_is_untouched", create, |_| Ok(()))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_ipip_tunnel_is_untouched() -> Result<()> {
    let create = |own: &str, peer: &str| format!("ip link add tun0 type ipip local {own} remote {peer}");
    assert_tunnel_untouched("an_ipip_tunnel_is_untouched", create, |_| Ok(()))
}

/// Both ends have the same port, and keep it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_wireguard_tunnel_is_untouched() -> Result<()> {
    let test = "a_wireguard_tunnel_is_untouched";
    let create = |own: &str, peer: &str| {
        let src =
            if own == VIP4 { format!("ip route add {peer} via 10.0.1.1 src {own}; ") } else { String::new() };
        format!("{src}ip link add tun0 type wireguard")
    };
    assert_tunnel_untouched(test, create, |place| {
        wireguard::join("tun0", [(&place.node, VIP4), (&place.client, CLIENT4)])
    })
}

/// The leg to a backend elsewhere is the node's own connection; the answer to the client is the client's.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_masqueraded_leg_is_untouched_and_its_answer_steered() -> Result<()> {
    let place = Place::with("leg", "", |net| {
        net.node
            .run(&format!(
                "nft add table ip nat
             nft 'add chain ip nat prerouting {{ type nat hook prerouting priority dstnat; }}'
             nft 'add chain ip nat postrouting {{ type nat hook postrouting priority srcnat; }}'
             nft add rule ip nat prerouting ip daddr {VIP4} tcp dport 80 dnat to 10.0.1.1:8080
             nft add rule ip nat postrouting ip daddr 10.0.1.1 tcp dport 8080 masquerade"
            ))
            .map(drop)
    })?;
    let _backend = TcpEcho::start(&place.router, "10.0.1.1:8080".parse()?)?;
    let service: SocketAddr = (VIP4.parse::<IpAddr>()?, 80).into();
    let exchange = || tcp_exchange(&place.client, None, service, PATIENCE).map(drop);
    ensure_steered("the answer", place.wires(exchange)?)?;
    let leg: IpAddr = "10.0.1.2".parse()?;
    let wires = place.wires_of(|frame| frame.source == leg && frame.protocol == 6, exchange)?;
    ensure_untouched("the leg", wires)
}
