//! Services in pods behind an eBPF load balancer, which translates and redirects at tc ingress: neither conntrack nor the
//! routing table sees a packet.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType::Ingress;
use backtrail_lab::ways::{VIP4, VIP6};
use backtrail_lab::{Namespace, TcpEcho, UdpEcho, tcp_exchange, transfer, udp_exchange, wait_until};

use crate::foreign::{Foreign, Hop, Order, Translation};
use crate::rig::{PATIENCE, Place, WAIT, connect_pod, ensure_steered, wait_position};

/// The service's port.
const PORT: u16 = 80;
/// A service, and the pod behind it.
#[derive(Debug, Clone, Copy)]
struct Family {
    service: &'static str,
    pod: &'static str,
}

const FAMILIES: [Family; 2] =
    [Family { service: VIP4, pod: "10.244.0.2" }, Family { service: VIP6, pod: "fd00:244::2" }];

impl Family {
    fn target(self) -> Result<SocketAddr> {
        Ok((self.service.parse::<IpAddr>()?, PORT).into())
    }
}

struct Service {
    _servers: Vec<(TcpEcho, UdpEcho)>,
    _pod: Namespace,
}

/// An agent on a node with a pod; nobody translates yet.
fn place(name: &str) -> Result<(Place, Service)> {
    let mut service = None;
    let place = Place::with(name, "", |net| {
        let pod = connect_pod(net)?;
        let server = |family: Family| {
            let at: SocketAddr = (family.pod.parse::<IpAddr>()?, PORT).into();
            anyhow::Ok((TcpEcho::start(&pod, at)?, UdpEcho::start(&pod, at)?))
        };
        let servers = FAMILIES.into_iter().map(server).collect::<Result<_>>()?;
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
fn balance(place: &Place, family: Family, order: Order, replies: Hop) -> Result<[Foreign; 2]> {
    let (service, pod) = (family.service.parse()?, family.pod.parse()?);
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

fn tcp(place: &Place, family: Family) -> Result<()> {
    tcp_exchange(&place.client, None, family.target()?, PATIENCE).map(drop)
}

/// Behind ours in the chain, as a program or as a filter.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_a_balancer_redirects_goes_the_way_of_the_request() -> Result<()> {
    let (place, _service) = place("balancer")?;
    for family in FAMILIES {
        for order in [Order::Behind, Order::Filter(7)] {
            for replies in ways_out(&place)? {
                assert_steered(&place, family, order, replies)
                    .with_context(|| format!("{family:?} {order:?} {replies:?}"))?;
            }
        }
    }
    Ok(())
}

fn assert_steered(place: &Place, family: Family, order: Order, replies: Hop) -> Result<()> {
    let _balancer = balance(place, family, order, replies)?;
    ensure_steered("TCP", place.wires(|| tcp(place, family))?)?;
    let target = family.target()?;
    let udp = || udp_exchange(&place.client, None, target, PATIENCE).map(drop);
    ensure_steered("UDP", place.wires(udp)?)?;
    let large = || transfer::stream(&place.client, target, 1 << 20, PATIENCE);
    ensure_steered("1 MiB", place.wires(large)?)
}

/// Before ours it hides the requests: with TCX ours goes before it, with clsact that is told.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_balancer_before_ours_is_overtaken_or_told() -> Result<()> {
    let (place, _service) = place("hidden")?;
    let [family, _] = FAMILIES;
    let [hop, _] = ways_out(&place)?;
    let _balancer = balance(&place, family, Order::Before, hop)?;
    if backtrail::steering::features().tcx {
        let steered = || place.wires(|| tcp(&place, family)).is_ok_and(|wires| wires.are_steered());
        wait_until(WAIT, "ours is first again", steered)?;
        wait_position(&place, "vred", "ingress", "first")?;
        // It insists: that is told, for a minute.
        let _again = balance(&place, family, Order::Before, hop)?;
        return told(&place, family);
    }
    told(&place, family)
}

fn told(place: &Place, family: Family) -> Result<()> {
    let wires = place.wires(|| tcp(place, family))?;
    ensure!(wires.follow_default(), "requests are hidden: {wires:?}");
    wait_position(place, "vred", "ingress", "behind 1")?;
    let (_, findings) = place.agent.command(&["doctor"])?;
    ensure!(findings.contains("vred ingress: behind 1"), "{findings}");
    Ok(())
}
