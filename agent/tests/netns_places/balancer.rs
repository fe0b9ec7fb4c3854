//! Services in pods behind an eBPF load balancer, which translates and redirects at tc ingress: neither conntrack nor the
//! routing table sees a packet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType::Ingress;
use backtrail_lab::ways::VIP4;
use backtrail_lab::{Namespace, TcpEcho, UdpEcho, tcp_exchange, transfer, udp_exchange, wait_until};

use crate::foreign::{Foreign, Hop, Order, Translation};
use crate::rig::{PATIENCE, Place, WAIT, connect_pod, ensure_steered, wait_position};

/// The service's port.
const PORT: u16 = 80;
/// Where the pod is.
const POD: &str = "10.244.0.2";

struct Service {
    _servers: (TcpEcho, UdpEcho),
    _pod: Namespace,
}

/// An agent on a node with a pod; nobody translates yet.
fn place(name: &str) -> Result<(Place, Service)> {
    let mut service = None;
    let place = Place::with(name, "", |net| {
        let pod = connect_pod(net)?;
        let at: SocketAddr = (POD.parse::<IpAddr>()?, PORT).into();
        let servers = (TcpEcho::start(&pod, at)?, UdpEcho::start(&pod, at)?);
        service = Some(Service { _servers: servers, _pod: pod });
        Ok(())
    })?;
    Ok((place, service.context("a pod")?))
}

/// Index and MAC of an interface.
fn device(space: &Namespace, name: &str) -> Result<(u32, [u8; 6])> {
    let links = space.json(&format!("ip -j link show dev {name}"))?;
    let index = links[0]["ifindex"].as_u64().context("ifindex")?;
    let mut mac = [0; 6];
    let digits = links[0]["address"].as_str().context("address")?.split(':');
    for (byte, digits) in mac.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok((u32::try_from(index)?, mac))
}

/// The balancer's programs: one for each direction.
fn balance(place: &Place, order: Order, replies: Hop) -> Result<[Foreign; 2]> {
    let (service, pod) = (VIP4.parse::<Ipv4Addr>()?.octets(), POD.parse::<Ipv4Addr>()?.octets());
    let hop = Hop::Neighbour(device(&place.node, "vpod")?.0);
    let request = Translation { from: service, to: pod, port: PORT, requests: true, hop };
    let reply = Translation { from: pod, to: service, port: PORT, requests: false, hop: replies };
    Ok([
        Foreign::attach(&place.node, ("vred", Ingress), order, &request.code())?,
        Foreign::attach(&place.node, ("vpod", Ingress), order, &reply.code())?,
    ])
}

/// The two ways by which a balancer sends a reply out by the interface of the default route.
fn ways_out(place: &Place) -> Result<[Hop; 2]> {
    let (ifindex, source) = device(&place.node, "vdef")?;
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&device(&place.router, "rdef")?.1);
    macs[6..].copy_from_slice(&source);
    Ok([Hop::Neighbour(ifindex), Hop::Frame(ifindex, Some(macs))])
}

fn target() -> Result<SocketAddr> {
    Ok((VIP4.parse::<IpAddr>()?, PORT).into())
}

fn tcp(place: &Place) -> Result<()> {
    tcp_exchange(&place.client, None, target()?, PATIENCE).map(drop)
}

/// Behind ours in the chain, as a program or as a filter.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_a_balancer_redirects_goes_the_way_of_the_request() -> Result<()> {
    let (place, _service) = place("balancer")?;
    for order in [Order::Behind, Order::Filter(7)] {
        for replies in ways_out(&place)? {
            let context = || format!("{order:?} {replies:?}");
            let _balancer = balance(&place, order, replies)?;
            ensure_steered("TCP", place.wires(|| tcp(&place)).with_context(context)?)?;
            let udp = || udp_exchange(&place.client, None, target()?, PATIENCE).map(drop);
            ensure_steered("UDP", place.wires(udp).with_context(context)?)?;
            let large = || transfer::stream(&place.client, target()?, 1 << 20, PATIENCE);
            ensure_steered("1 MiB", place.wires(large).with_context(context)?)?;
        }
    }
    Ok(())
}

/// Before ours it hides the requests: with TCX ours goes before it, with clsact that is told.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_balancer_before_ours_is_overtaken_or_told() -> Result<()> {
    let (place, _service) = place("hidden")?;
    let [hop, _] = ways_out(&place)?;
    let _balancer = balance(&place, Order::Before, hop)?;
    if backtrail::steering::features().tcx {
        let steered = || place.wires(|| tcp(&place)).is_ok_and(|wires| wires.are_steered());
        wait_until(WAIT, "ours is first again", steered)?;
        wait_position(&place, "vred", "ingress", "first")?;
        // It insists: that is told, for a minute.
        let _again = balance(&place, Order::Before, hop)?;
        return told(&place);
    }
    told(&place)
}

fn told(place: &Place) -> Result<()> {
    let wires = place.wires(|| tcp(place))?;
    ensure!(wires.follow_default(), "requests are hidden: {wires:?}");
    wait_position(place, "vred", "ingress", "behind 1")?;
    let (_, findings) = place.agent.command(&["doctor"])?;
    ensure!(findings.contains("vred ingress: behind 1"), "{findings}");
    Ok(())
}
