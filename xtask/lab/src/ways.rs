//! A node with two ways to its clients: the one by which requests come in, and the one that its default route takes.
//!
//! ```text
//! client --- router ---(rdef vdef: default route)--- node (services on lo)
//!                  \---(rred vred: requests)--------/
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{
    Direction, End, Frame, Lab, Namespace, Sniffer, TcpEcho, UdpEcho, ping, tcp_exchange, udp_exchange,
};

/// IPv4 address of the services.
pub const VIP4: &str = "198.51.100.10";
/// IPv6 address of the services.
pub const VIP6: &str = "2001:db8:5::10";
/// IPv4 address of the client.
pub const CLIENT4: &str = "203.0.113.2";
/// IPv6 address of the client.
pub const CLIENT6: &str = "2001:db8:c::2";
/// Port of the echo services, TCP and UDP.
pub const ECHO_PORT: u16 = 7000;

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The namespaces; nothing on the node steers yet.
#[derive(Debug)]
pub struct TwoWays {
    /// Has [`CLIENT4`] and [`CLIENT6`].
    pub client: Namespace,
    /// Between client and node.
    pub router: Namespace,
    /// Has [`VIP4`] and [`VIP6`], with echo services.
    pub node: Namespace,
    /// Listens on the router.
    pub wire: Sniffer,
    _servers: (Vec<TcpEcho>, Vec<UdpEcho>),
    /// Owner of it all.
    pub lab: Lab,
}

/// Frames that reached the router by each of its two links with the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wires {
    /// By the link of the node's default route.
    pub default: usize,
    /// By the link that requests come in by.
    pub request: usize,
}

impl Wires {
    /// Whether all of it, and something, left by the interface of the request.
    #[must_use]
    pub fn are_steered(&self) -> bool {
        self.default == 0 && self.request > 0
    }

    /// Whether all of it, and something, left by the default route.
    #[must_use]
    pub fn follow_default(&self) -> bool {
        self.request == 0 && self.default > 0
    }
}

impl TwoWays {
    /// Makes them.
    ///
    /// # Errors
    /// Without root, or when `ip` fails.
    pub fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, router, node) = (lab.namespace("cl")?, lab.namespace("ro")?, lab.namespace("no")?);
        connect_client(&lab, &client, &router)?;
        lab.connect(
            &End::new(&router, "rdef", &["10.0.1.1/24", "fd00:1::1/64"]),
            &End::new(&node, "vdef", &["10.0.1.2/24", "fd00:1::2/64"]),
        )?;
        connect_requests(&lab, &router, &node)?;
        node.forward()?;
        router.run(&format!(
            "ip route add {VIP4} via 10.0.2.2
             ip -6 route add {VIP6} via fd00:2::2"
        ))?;
        node.run(&format!(
            "ip addr add {VIP4}/32 dev lo
             ip -6 addr add {VIP6}/128 dev lo nodad
             ip route add default via 10.0.1.1
             ip -6 route add default via fd00:1::1"
        ))?;
        let addresses = services()?;
        let servers = (
            addresses.iter().map(|address| TcpEcho::start(&node, *address)).collect::<Result<_>>()?,
            addresses.iter().map(|address| UdpEcho::start(&node, *address)).collect::<Result<_>>()?,
        );
        Ok(Self { wire: Sniffer::start(&router)?, client, router, node, _servers: servers, lab })
    }

    /// Runs traffic and counts the services' frames on both wires.
    ///
    /// # Errors
    /// Those of the traffic.
    pub fn wires(&self, traffic: impl FnOnce() -> Result<()>) -> Result<Wires> {
        let services: [IpAddr; 2] = [VIP4.parse()?, VIP6.parse()?];
        self.wires_of(|frame| services.contains(&frame.source), traffic)
    }

    /// Runs traffic and counts what fits on both wires, of what the node sent.
    ///
    /// # Errors
    /// Those of the traffic.
    pub fn wires_of(
        &self,
        fits: impl Fn(&Frame) -> bool,
        traffic: impl FnOnce() -> Result<()>,
    ) -> Result<Wires> {
        self.wire.clear();
        traffic()?;
        let count = |interface: &str| {
            self.wire.count(interface, |frame| frame.direction == Direction::In && fits(frame))
        };
        // The sniffer reads the last frames a little later; where a steady flow runs it never falls silent.
        let mut wires = Wires { default: count("rdef"), request: count("rred") };
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            let before =
                std::mem::replace(&mut wires, Wires { default: count("rdef"), request: count("rred") });
            if wires == before {
                break;
            }
        }
        Ok(wires)
    }

    /// A TCP exchange of the client with an echo service.
    ///
    /// # Errors
    /// No answer.
    pub fn tcp(&self, address: &str) -> Result<()> {
        tcp_exchange(&self.client, None, service(address)?, PATIENCE).map(drop)
    }

    /// A UDP exchange of the client with an echo service.
    ///
    /// # Errors
    /// No answer.
    pub fn udp(&self, address: &str) -> Result<()> {
        udp_exchange(&self.client, None, service(address)?, PATIENCE).map(drop)
    }

    /// An echo of the client's with a service address.
    ///
    /// # Errors
    /// No answer.
    pub fn ping(&self, address: &str) -> Result<()> {
        ensure!(ping(&self.client, None, address.parse()?)?, "no echo reply from {address}");
        Ok(())
    }

    /// Asserts that each protocol's replies leave by the request's wire, and by it alone.
    ///
    /// # Errors
    /// Names the protocol that does not.
    pub fn assert_steered(&self) -> Result<()> {
        for (name, exchange) in self.each_protocol() {
            let wires = self.wires(exchange).with_context(|| name.to_owned())?;
            ensure!(wires.are_steered(), "{name}: {wires:?}");
        }
        Ok(())
    }

    /// One exchange of each protocol in both families, not yet made.
    #[expect(clippy::type_complexity, reason = "a list of names and closures")]
    #[must_use]
    pub fn each_protocol(&self) -> Vec<(&'static str, Box<dyn FnOnce() -> Result<()> + '_>)> {
        vec![
            ("TCP IPv4", Box::new(|| self.tcp(VIP4))),
            ("TCP IPv6", Box::new(|| self.tcp(VIP6))),
            ("UDP IPv4", Box::new(|| self.udp(VIP4))),
            ("UDP IPv6", Box::new(|| self.udp(VIP6))),
            ("ICMP", Box::new(|| self.ping(VIP4))),
            ("ICMPv6", Box::new(|| self.ping(VIP6))),
        ]
    }
}

/// The echo services, IPv4 and IPv6.
///
/// # Errors
/// None in fact.
pub fn services() -> Result<[SocketAddr; 2]> {
    Ok([service(VIP4)?, service(VIP6)?])
}

fn service(address: &str) -> Result<SocketAddr> {
    Ok((address.parse::<IpAddr>()?, ECHO_PORT).into())
}

/// Joins client and router, which forwards whatever the client sends.
///
/// # Errors
/// When `ip` fails.
pub fn connect_client(lab: &Lab, client: &Namespace, router: &Namespace) -> Result<()> {
    lab.connect(
        &End::new(client, "c0", &[&format!("{CLIENT4}/24"), &format!("{CLIENT6}/64")]),
        &End::new(router, "r0", &["203.0.113.1/24", "2001:db8:c::1/64"]),
    )?;
    router.forward()?;
    client.run("ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8:c::1").map(drop)
}

/// Joins router and node by the link that requests come in by.
///
/// # Errors
/// When `ip` fails.
pub fn connect_requests(lab: &Lab, router: &Namespace, node: &Namespace) -> Result<()> {
    lab.connect(
        &End::new(router, "rred", &["10.0.2.1/24", "fd00:2::1/64"]),
        &End::new(node, "vred", &["10.0.2.2/24", "fd00:2::2/64"]),
    )
}
