//! Every kind of traffic that is steered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::frames::{self, L4};
use backtrail_lab::ways::{CLIENT4, CLIENT6, VIP4, VIP6, services};
use backtrail_lab::{Frame, Namespace, send_packet, transfer};
use nix::sys::socket::{setsockopt, sockopt};

use crate::rig::{PATIENCE, Place, connect_reached_pod, ensure_steered, ensure_untouched, is, send};

/// Client and service of each family.
const FAMILIES: [(&str, &str); 2] = [(CLIENT4, VIP4), (CLIENT6, VIP6)];
/// IP protocol numbers.
const SCTP: u8 = 132;

/// ICMP's errors in either family; ND is ICMPv6, too.
fn is_error(frame: &Frame) -> bool {
    matches!((frame.protocol, frame.source_port), (1, 3 | 11 | 12) | (58, 1..=4))
}

/// TCP, UDP, echo; then protocols that no socket here speaks, as hand-made packets.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn every_protocol_is_answered_by_the_way_of_the_request() -> Result<()> {
    let place = Place::new("protocols")?;
    place.assert_steered()?;
    for (client, service) in FAMILIES {
        // Without SCTP the node answers by an error too, which embeds the packet: it goes the same way.
        let wires = place.wires_of(is(SCTP), || {
            send(&place.client, client, service, frames::sctp(36_412, 2905, 1), 64)?;
            send(&place.node, service, client, frames::sctp(2905, 36_412, 2), 64)
        })?;
        ensure_steered("SCTP", wires)?;
        let wires =
            place.wires_of(is_error, || send(&place.client, client, service, frames::udp(5353, 9), 64))?;
        ensure_steered("port unreachable", wires)?;
    }
    Ok(())
}

/// Refused by the kernel, for nobody listens, or by a firewall: the refusal goes the way of the request. By every address that the
/// node has.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn refusals_go_the_way_of_the_request() -> Result<()> {
    let place = Place::with("refusals", "", |net| {
        net.router
            .run("ip route replace 10.0.1.2 via 10.0.2.2; ip -6 route replace fd00:1::2 via fd00:2::2")?;
        net.node
            .run(
                "nft add table inet wall; nft 'add chain inet wall input { type filter hook input priority 0; }'
                 nft add rule inet wall input tcp dport 81 reject with tcp reset
                 nft add rule inet wall input tcp dport 82 reject with icmpx admin-prohibited
                 nft add rule inet wall input udp dport 83 reject with icmpx admin-prohibited",
            )
            .map(drop)
    })?;
    for (client, services) in
        [(CLIENT4, [VIP4, "10.0.1.2", "10.0.2.2"]), (CLIENT6, [VIP6, "fd00:1::2", "fd00:2::2"])]
    {
        for service in services {
            let from = |frame: &Frame| frame.source.to_string() == service;
            for (port, error) in [(80, false), (81, false), (82, true)] {
                let syn = || {
                    send(&place.client, client, service, frames::tcp(40_000 + port, port, frames::SYN), 64)
                };
                let fits = |frame: &Frame| {
                    from(frame) && if error { is_error(frame) } else { frame.tcp_flags & frames::RST != 0 }
                };
                ensure_steered(&format!("{service} port {port}"), place.wires_of(fits, syn)?)?;
            }
            let udp = || send(&place.client, client, service, frames::udp(40_083, 83), 64);
            let fits = |frame: &Frame| from(frame) && is_error(frame);
            ensure_steered(&format!("{service} port 83"), place.wires_of(fits, udp)?)?;
        }
    }
    Ok(())
}

/// Errors that the node makes about what a client sends through it, and not to it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn errors_of_the_node_as_a_router_go_to_the_client_by_its_way() -> Result<()> {
    let mut kept = None;
    let place = Place::with("errors", "", |net| {
        kept = Some(connect_reached_pod(net)?);
        net.node.run("ip link set vpod mtu 1280").map(drop)
    })?;
    for (client, pod, absent) in
        [(CLIENT4, "10.244.0.2", "10.244.0.77"), (CLIENT6, "fd00:244::2", "fd00:244::77")]
    {
        let wires =
            place.wires_of(is_error, || send(&place.client, client, pod, frames::udp(4001, 53), 2))?;
        ensure_steered("time exceeded", wires)?;
        let big = frames::datagram(4002, 53, &[0; 1300]);
        let wires = place.wires_of(is_error, || send_unfragmented(&place.client, client, pod, big))?;
        ensure_steered("too big", wires)?;
        let wires = place.wires_of(is_error, || {
            send(&place.client, client, absent, frames::udp(4003, 53), 64)?;
            // The kernel asks for the neighbour three times, a second each.
            let told = || ["rred", "rdef"].iter().any(|wire| place.wire.count(wire, is_error) > 0);
            backtrail_lab::wait_until(PATIENCE, "host unreachable", told).map(drop)
        })?;
        ensure_steered("host unreachable", wires)?;
    }
    Ok(())
}

/// With don't-fragment, in IPv4.
fn send_unfragmented(from: &Namespace, source: &str, destination: &str, l4: L4) -> Result<()> {
    let mut packet = frames::packet(source.parse()?, destination.parse()?, l4, 64);
    if !source.contains(':') {
        packet[6] |= 0x40;
    }
    send_packet(from, &packet)
}

/// Requests and answers that do not fit a packet: first and later fragments.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn fragments_go_the_way_of_their_request() -> Result<()> {
    let place = Place::new("fragments")?;
    for target in services()? {
        let wires = place.wires(|| transfer::datagram(&place.client, target, 8000, PATIENCE))?;
        ensure_steered("UDP fragments", wires)?;
        ensure!(wires.request >= 6, "8000 bytes are six fragments: {wires:?}");
        let wires = place
            .wires(|| place.client.run(&format!("ping -n -q -c 1 -w 5 -s 4000 {}", target.ip())).map(drop))?;
        ensure_steered("echo fragments", wires)?;
        ensure!(wires.request >= 3, "{wires:?}");
    }
    place.wait_counter("vred", "steered", 18)?;
    ensure!(place.counter("vdef", "unparsable")? == 0);
    Ok(())
}

/// IPv4 options and IPv6 extension headers, on the way in and on the way out.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn options_and_extension_headers_are_followed() -> Result<()> {
    let place = Place::new("extensions")?;
    let (client4, vip4): (Ipv4Addr, Ipv4Addr) = (CLIENT4.parse()?, VIP4.parse()?);
    let (client6, vip6): (Ipv6Addr, Ipv6Addr) = (CLIENT6.parse()?, VIP6.parse()?);
    let udp = |source, destination| frames::udp(source, destination).bytes;
    // NOP, NOP, NOP, end of list.
    let options = [1, 1, 1, 0];
    let request = frames::ipv4(client4, vip4, 17, &udp(4100, 53), 64, &options, 0);
    let reply = frames::ipv4(vip4, client4, 17, &udp(53, 4100), 64, &options, 0);
    let wires = place.wires(|| {
        send_packet(&place.client, &frames::checksummed(request, 17, 24))?;
        send_packet(&place.node, &frames::checksummed(reply, 17, 24))
    })?;
    ensure_steered("IPv4 options", wires)?;
    // Destination options twice, padded: the second leads to UDP.
    let extended = |source, destination, ports: (u16, u16)| {
        let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0, 17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        payload.extend(udp(ports.0, ports.1));
        // The checksum's pseudo-header knows of UDP only.
        let plain = frames::ipv6(source, destination, 17, &udp(ports.0, ports.1), 64);
        let sum = frames::checksummed(plain, 17, 40);
        payload[30..32].copy_from_slice(&sum[46..48]);
        frames::ipv6(source, destination, 60, &payload, 64)
    };
    let wires = place.wires(|| {
        send_packet(&place.client, &extended(client6, vip6, (4100, 53)))?;
        send_packet(&place.node, &extended(vip6, client6, (53, 4100)))
    })?;
    ensure_steered("IPv6 extension headers", wires)?;
    Ok(())
}

/// Segmentation is left to the last device, and checksums too.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn large_tcp_transfers_are_steered_in_whole_segments() -> Result<()> {
    let place = Place::new("large")?;
    for target in services()? {
        let wires = place.wires(|| transfer::stream(&place.client, target, 4 << 20, PATIENCE))?;
        ensure_steered("4 MiB", wires)?;
        let longest = place.wire.frames().iter().map(|frame| frame.length).max().context("frames")?;
        ensure!(longest > 9000, "GSO is not exercised: {longest} bytes");
    }
    // As if the devices did not segment.
    place.node.run("ip link set vdef gso_max_segs 1; ip link set vred gso_max_segs 1")?;
    for target in services()? {
        ensure_steered(
            "single segments",
            place.wires(|| transfer::stream(&place.client, target, 1 << 20, PATIENCE))?,
        )?;
    }
    Ok(())
}

/// Datagrams that the kernel, or the device, cuts out of one large packet, as QUIC servers send them.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn segmented_datagrams_are_steered() -> Result<()> {
    const SEGMENTS: usize = 10;
    const BYTES: usize = 1200;
    let place = Place::new("segments")?;
    for (client, service) in FAMILIES {
        let socket = |space: &Namespace, address: &str, port: u16| -> Result<UdpSocket> {
            let at = SocketAddr::from((address.parse::<IpAddr>()?, port));
            let socket = space.enter(|| UdpSocket::bind(at))??;
            socket.set_read_timeout(Some(backtrail_lab::patient(PATIENCE)))?;
            Ok(socket)
        };
        let (asks, answers) = (socket(&place.client, client, 9443)?, socket(&place.node, service, 443)?);
        setsockopt(&answers, sockopt::UdpGsoSegment, &i32::try_from(BYTES)?)?;
        let wires = place.wires(|| {
            let mut buffer = [0; 2 * BYTES];
            asks.send_to(b"all", answers.local_addr()?)?;
            let (_, from) = answers.recv_from(&mut buffer)?;
            answers.send_to(&[0x42; SEGMENTS * BYTES], from)?;
            for _ in 0..SEGMENTS {
                let got = asks.recv(&mut buffer)?;
                ensure!(got == BYTES, "a datagram of {got} bytes");
            }
            Ok(())
        })?;
        ensure_steered(service, wires)?;
    }
    Ok(())
}

/// Checksums that no device makes: the kernel does, at the last device. The client's kernel checks them.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn checksums_are_right_with_and_without_offload() -> Result<()> {
    let test = "checksums_are_right_with_and_without_offload";
    let place = Place::new("checksums")?;
    if place.node.run("ethtool --version").is_err() {
        println!("SKIPPED {test}: no ethtool");
        return Ok(());
    }
    // Nobody believes anybody, and the router completes what the node left.
    place.client.run("ethtool -K c0 rx off")?;
    place.router.run("ethtool -K rred rx off; ethtool -K rdef rx off; ethtool -K r0 tx off")?;
    for (default, request) in [("on", "on"), ("on", "off"), ("off", "on"), ("off", "off")] {
        place.node.run(&format!("ethtool -K vdef tx {default}; ethtool -K vred tx {request}"))?;
        place.assert_steered_whole().with_context(|| format!("vdef {default}, vred {request}"))?;
    }
    let wrong = place.client.run("cat /proc/net/snmp6; nstat -az | cat")?;
    let counters = wrong.lines().filter(|line| line.contains("InCsumErrors"));
    let counts: Vec<_> = counters.filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(counts.len() > 4 && counts.iter().all(|count| *count == "0"), "{wrong}");
    Ok(())
}

/// Jumbo frames on both ways, then on the default route alone: the sender learns what fits the client's way.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_smaller_mtu_on_the_way_back_is_told_to_the_sender() -> Result<()> {
    let place = Place::with("mtu", "", |net| {
        net.client.run("ip link set c0 mtu 9000")?;
        net.router.run("ip link set r0 mtu 9000; ip link set rdef mtu 9000; ip link set rred mtu 9000")?;
        net.node.run("ip link set vdef mtu 9000; ip link set vred mtu 9000").map(drop)
    })?;
    let targets = services()?;
    for target in &targets {
        let wires = place.wires(|| transfer::datagram(&place.client, *target, 8900, PATIENCE))?;
        ensure!(wires.request == 1 && wires.default == 0, "a jumbo frame: {wires:?}");
        ensure_steered(
            "jumbo",
            place.wires(|| transfer::stream(&place.client, *target, 1 << 20, PATIENCE))?,
        )?;
    }
    place.node.run("ip link set vred mtu 1400")?;
    place.router.run("ip link set rred mtu 1400")?;
    for target in &targets {
        ensure_steered(
            "after",
            place.wires(|| transfer::stream(&place.client, *target, 1 << 20, PATIENCE))?,
        )?;
        let wires = place.wires(|| transfer::datagram(&place.client, *target, 5000, PATIENCE))?;
        ensure!(wires.request > 3, "fragments that fit: {wires:?}");
    }
    place.wait_counter("vred", "tooBig", 2)?;
    Ok(())
}

/// A small MTU beyond the gateway: its router tells the service address, by the request's way.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn path_mtu_discovery_works_through_the_service_address() -> Result<()> {
    let place = Place::with("blackhole", "", |net| {
        // The client announces a larger segment than fits: else nobody would ever send one that does not.
        net.client.run(
            "ip route replace default via 203.0.113.1 mtu 1300 advmss 1440
             ip -6 route replace default via 2001:db8:c::1 mtu 1300 advmss 1420",
        )?;
        net.router.run("ip link set r0 mtu 1300").map(drop)
    })?;
    for target in services()? {
        let wires = place.wires(|| transfer::stream(&place.client, target, 1 << 20, PATIENCE))?;
        ensure_steered("TCP", wires)?;
        let told = place
            .wire
            .count("rred", |frame| frame.direction == backtrail_lab::Direction::Out && is_error(frame));
        ensure!(told > 0, "the router told nobody");
        let wires = place.wires(|| transfer::datagram(&place.client, target, 4000, PATIENCE))?;
        ensure_steered("UDP", wires)?;
    }
    Ok(())
}

/// `match.protocols`.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn unlisted_protocols_are_left_alone() -> Result<()> {
    let place = Place::with("protocol", "  match: {protocols: [UDP]}\n", |_| Ok(()))?;
    ensure_steered("UDP", place.wires(|| place.udp(VIP4))?)?;
    ensure_steered("UDP", place.wires(|| place.udp(VIP6))?)?;
    for (client, service) in FAMILIES {
        ensure_untouched("TCP", place.wires(|| place.tcp(service))?)?;
        ensure_untouched("echo", place.wires(|| place.ping(service))?)?;
        let wires = place.wires_of(is(SCTP), || {
            send(&place.client, client, service, frames::sctp(1, 2, 1), 64)?;
            send(&place.node, service, client, frames::sctp(2, 1, 2), 64)
        })?;
        ensure_untouched("SCTP", wires)?;
    }
    Ok(())
}
