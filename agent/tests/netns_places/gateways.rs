//! Two gateways on one link.
//!
//! ```text
//! client a --- gateway a --\
//!                           lan --(vlan: requests)-- node --(vdef: default route)-- nobody
//! client b --- gateway b --/
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::ways::{CLIENT4, CLIENT6, ECHO_PORT, VIP4, VIP6};
use backtrail_lab::{
    Agent, Direction, End, Flow, Lab, Namespace, Sniffer, TcpEcho, UdpEcho, tcp_exchange, udp_exchange,
    wait_until,
};

use crate::rig::{PATIENCE, WAIT, interface, return_path, start_agent};

/// One router with its client.
struct Site {
    client: Namespace,
    router: Namespace,
}

/// The net; fields are dropped in this order.
struct Lan {
    _servers: (Vec<TcpEcho>, Vec<UdpEcho>),
    /// What reaches the gateways.
    wires: [Sniffer; 2],
    sites: [Site; 2],
    node: Namespace,
    /// The link itself, and where the default route leads.
    _others: [Namespace; 2],
    lab: Lab,
}

/// Addresses of the gateways on the link.
const GATEWAYS4: [&str; 2] = ["10.0.9.1", "10.0.9.2"];
const GATEWAYS6: [&str; 2] = ["fd00:9::1", "fd00:9::2"];

impl Lan {
    /// Both clients have the same address: the networks behind the gateways overlap.
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (switch, node, nobody) = (lab.namespace("lan")?, lab.namespace("no")?, lab.namespace("nobody")?);
        switch.run("ip link add lan type bridge; ip link set lan up")?;
        lab.connect(
            &End::new(&node, "vlan", &["10.0.9.10/24", "fd00:9::10/64"]),
            &End::new(&switch, "node", &[]),
        )?;
        lab.connect(
            &End::new(&node, "vdef", &["10.0.1.2/24", "fd00:1::2/64"]),
            &End::new(&nobody, "eth0", &["10.0.1.1/24", "fd00:1::1/64"]),
        )?;
        switch.run("ip link set node master lan")?;
        node.forward()?;
        node.run(&format!(
            "ip addr add {VIP4}/32 dev lo; ip -6 addr add {VIP6}/128 dev lo nodad
             ip route add default via 10.0.1.1; ip -6 route add default via fd00:1::1"
        ))?;
        let site = |letter: &str, at: usize| -> Result<Site> {
            let (client, router) =
                (lab.namespace(&format!("c{letter}"))?, lab.namespace(&format!("g{letter}"))?);
            let port = format!("port{letter}");
            let lan = [format!("{}/24", GATEWAYS4[at]), format!("{}/64", GATEWAYS6[at])];
            lab.connect(&End::new(&router, "lan0", &[&lan[0], &lan[1]]), &End::new(&switch, &port, &[]))?;
            switch.run(&format!("ip link set {port} master lan"))?;
            lab.connect(
                &End::new(&client, "c0", &[&format!("{CLIENT4}/24"), &format!("{CLIENT6}/64")]),
                &End::new(&router, "r0", &["203.0.113.1/24", "2001:db8:c::1/64"]),
            )?;
            router.forward()?;
            router
                .run(&format!("ip route add {VIP4} via 10.0.9.10; ip -6 route add {VIP6} via fd00:9::10"))?;
            client.run("ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8:c::1")?;
            Ok(Site { client, router })
        };
        let sites = [site("a", 0)?, site("b", 1)?];
        let services: [SocketAddr; 2] =
            [(VIP4.parse::<IpAddr>()?, ECHO_PORT).into(), (VIP6.parse::<IpAddr>()?, ECHO_PORT).into()];
        let servers = (
            services.iter().map(|at| TcpEcho::start(&node, *at)).collect::<Result<_>>()?,
            services.iter().map(|at| UdpEcho::start(&node, *at)).collect::<Result<_>>()?,
        );
        let wires = [Sniffer::start(&sites[0].router)?, Sniffer::start(&sites[1].router)?];
        Ok(Self { _servers: servers, wires, sites, node, _others: [switch, nobody], lab })
    }

    fn agent(&self) -> Result<Agent> {
        start_agent(&self.lab, &self.node, return_path(&["vlan"], ""), &["vlan", "vdef"])
    }

    /// Asserts that each gateway gets the answers to what it delivered, and no others.
    fn assert_each_gets_its_own(&self) -> Result<()> {
        for round in 0..8_u16 {
            for (at, site) in self.sites.iter().enumerate() {
                for (client, service) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
                    self.wires.iter().for_each(Sniffer::clear);
                    let port = 20_000 + round * 8 + u16::try_from(at)?;
                    let own = Some(SocketAddr::from((client.parse::<IpAddr>()?, port)));
                    let service: SocketAddr = (service.parse::<IpAddr>()?, ECHO_PORT).into();
                    let context = || format!("{client} port {port} of site {at}");
                    tcp_exchange(&site.client, own, service, PATIENCE).with_context(context)?;
                    udp_exchange(&site.client, own, service, PATIENCE).with_context(context)?;
                    // The end of a connection before may come late: it had another port.
                    let answers = |wire: &Sniffer| {
                        wire.count("lan0", |frame| {
                            let of_flow = frame.source == service.ip() && frame.destination_port == port;
                            frame.direction == Direction::In && of_flow
                        })
                    };
                    ensure!(
                        answers(&self.wires[1 - at]) == 0,
                        "the other gateway got answers: {}",
                        context()
                    );
                }
            }
        }
        Ok(())
    }

    /// Makes the node know the gateways' neighbour entries.
    fn resolve(&self) -> Result<()> {
        let pings =
            GATEWAYS4.iter().chain(&GATEWAYS6).map(|gateway| format!("ping -n -q -c 1 -w 5 {gateway}\n"));
        self.node.run(&pings.collect::<String>()).map(drop)
    }

    fn wait_gateways(agent: &Agent, addresses: &[&str]) -> Result<()> {
        let known = || {
            let state = interface(agent, "vlan").unwrap_or_default();
            let gateways = state["gateways"].as_array().cloned().unwrap_or_default();
            addresses.iter().all(|address| {
                gateways.iter().any(|gateway| gateway["address"] == *address && gateway["state"] == "Valid")
            })
        };
        let waited = wait_until(WAIT, "the gateways are known", known);
        waited.map(drop).with_context(|| format!("{:?}", interface(agent, "vlan")))
    }
}

/// No route names them: the MAC that delivered the request is the way back.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn gateways_that_no_route_names_get_their_own_answers() -> Result<()> {
    let lan = Lan::new("unnamed")?;
    let _agent = lan.agent()?;
    lan.assert_each_gets_its_own()
}

/// Routes name both, the default route leads elsewhere.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn gateways_that_routes_name_get_their_own_answers() -> Result<()> {
    let lan = Lan::new("named")?;
    lan.node.run(
        "ip route add 192.0.2.0/24 nexthop via 10.0.9.1 nexthop via 10.0.9.2
         ip -6 route add 2001:db8:2::/64 nexthop via fd00:9::1 nexthop via fd00:9::2",
    )?;
    lan.resolve()?;
    let agent = lan.agent()?;
    Lan::wait_gateways(&agent, &[GATEWAYS4, GATEWAYS6].concat())?;
    lan.assert_each_gets_its_own()
}

/// The default route itself is shared by both: the reply leaves by the right interface anyway, but by its hash.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn gateways_that_share_the_default_route_get_their_own_answers() -> Result<()> {
    let lan = Lan::new("shared")?;
    lan.node.run(
        "ip route replace default nexthop via 10.0.9.1 nexthop via 10.0.9.2
         ip -6 route replace default nexthop via fd00:9::1 nexthop via fd00:9::2",
    )?;
    lan.resolve()?;
    let agent = start_agent(&lan.lab, &lan.node, return_path(&["vlan"], ""), &["vlan"])?;
    Lan::wait_gateways(&agent, &[GATEWAYS4, GATEWAYS6].concat())?;
    lan.assert_each_gets_its_own()
}

/// VRRP: the gateway's address and its virtual MAC move to the other router, each forwards with its own MAC. A flow outlives
/// the failover, and its answers go to whoever is master.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_flow_outlives_the_failover_of_its_virtual_router() -> Result<()> {
    const VIRTUAL: &str = "10.0.9.254";
    let lan = Lan::new("vrrp")?;
    let [a, b] = &lan.sites;
    // One client behind both.
    lan.lab.connect(
        &End::new(&a.client, "c1", &["203.0.114.2/24"]),
        &End::new(&b.router, "r1", &["203.0.114.1/24"]),
    )?;
    b.router.run("ip route del 203.0.113.0/24; ip route add 203.0.113.0/24 via 203.0.114.2")?;
    let master = "ip link add vrrp0 link lan0 address 00:00:5e:00:01:09 type macvlan mode private
         ip link set vrrp0 up; ip addr add 10.0.9.254/32 dev vrrp0";
    for site in &lan.sites {
        // The virtual address is answered for by the virtual MAC alone.
        site.router.sysctl("net.ipv4.conf.lan0.arp_ignore", "1")?;
        site.router.sysctl("net.ipv4.conf.default.arp_notify", "1")?;
    }
    a.router.run(master)?;
    lan.node.run(&format!("ip route add 192.0.2.0/24 via {VIRTUAL}; ping -n -q -c 1 -w 5 {VIRTUAL}"))?;
    let agent = lan.agent()?;
    Lan::wait_gateways(&agent, &[VIRTUAL])?;
    let own: SocketAddr = (CLIENT4.parse::<IpAddr>()?, 25_000).into();
    let service: SocketAddr = (VIP4.parse::<IpAddr>()?, ECHO_PORT).into();
    let flow = Flow::start(&a.client, own, service, Duration::from_millis(10))?;
    let answers = || flow.report().received;
    wait_until(WAIT, "answers by the first master", || answers() > 50)?;
    a.router.run("ip link del vrrp0")?;
    b.router.run(master)?;
    a.client.run("ip route replace default via 203.0.114.1")?;
    a.router.run("ip link set lan0 down")?;
    let before = answers();
    wait_until(WAIT, "answers by the second master", || answers() > before + 200)?;
    lan.wires[1].clear();
    let before = answers();
    wait_until(WAIT, "more of them", || answers() > before + 50)?;
    let virtual_mac = [0, 0, 0x5e, 0, 1, 9];
    let got = lan.wires[1]
        .count("lan0", |frame| frame.source == service.ip() && frame.destination_mac == Some(virtual_mac));
    ensure!(got > 0, "answers go to the virtual MAC, not to the one that delivered the request");
    let report = flow.stop();
    println!("{} of {} packets were lost in the failover", report.lost, report.sent);
    Ok(())
}
