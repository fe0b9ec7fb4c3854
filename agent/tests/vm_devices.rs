//! The agent on VLAN and VRF devices: kinds that need modules, and a kernel of their own where the host has none.
//!
//! ```text
//! client ---(c0 r0)--- router ---(rdef vdef: default route)---------- node (services)
//!                         \------(rred vred, VLAN 100: requests)-----/
//! ```
#![expect(clippy::unwrap_used, reason = "tests fail by panic")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::ways::connect_client;
use backtrail_lab::{
    Agent, AgentOptions, Direction, End, Lab, Namespace, Sniffer, TcpEcho, ping, tcp_exchange, udp_exchange,
    wait_until,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use serde_json::Value;

const SERVICES: [&str; 2] = ["198.51.100.10", "2001:db8:5::10"];
const PORT: u16 = 7000;
/// Emulated machines are slow.
const WAIT: Duration = Duration::from_secs(60);

const RETURN_PATH: &str = "apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: services}
spec:
  interfaces: [{name: vred.100}]
  mode: TCRedirect
";

/// An echo of datagrams by a socket of one device, as services in a VRF have it. Ends when dropped.
struct UdpService {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl UdpService {
    fn start(node: &Namespace, address: SocketAddr, device: Option<&str>) -> Result<Self> {
        let socket = node.enter(|| bound(address, device))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // What the kernel refuses to send is a loss that the client sees.
                    socket.send_to(&buffer[..length], from).ok();
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

/// A socket of the device first: its addresses are local there only.
fn bound(address: SocketAddr, device: Option<&str>) -> Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(device) = device {
        setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

impl Drop for UdpService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            thread.join().ok();
        }
    }
}

/// Namespaces and links; fields are dropped in this order.
struct Net {
    _tcp: TcpEcho,
    udp: Vec<UdpService>,
    wire: Sniffer,
    client: Namespace,
    node: Namespace,
    lab: Lab,
}

impl Net {
    /// The net with the node's interfaces in a VRF, or in none.
    fn new(name: &str, vrf: Option<&str>) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, router, node) = (lab.namespace("cl")?, lab.namespace("ro")?, lab.namespace("no")?);
        connect_client(&lab, &client, &router)?;
        lab.connect(
            &End::new(&router, "rdef", &["10.0.1.1/24", "fd00:1::1/64"]),
            &End::new(&node, "vdef", &[]),
        )?;
        lab.connect(&End::new(&router, "rred", &[]), &End::new(&node, "vred", &[]))?;
        router.run(
            "ip link add link rred name rred.100 type vlan id 100; ip link set rred.100 up
             ip addr add 10.0.2.1/24 dev rred.100; ip addr add fd00:2::1/64 dev rred.100
             ip route add 198.51.100.10 via 10.0.2.2; ip -6 route add 2001:db8:5::10 via fd00:2::2",
        )?;
        node.run("ip link add link vred name vred.100 type vlan id 100; ip link set vred.100 up")?;
        let (device, route) = match vrf {
            Some(name) => {
                // First into the VRF: moving costs a device its IPv6 addresses.
                node.run(&format!(
                    "ip link add {name} type vrf table 10001; ip link set {name} up
                     ip link set vdef master {name}; ip link set vred.100 master {name}"
                ))?;
                node.sysctl("net.ipv4.tcp_l3mdev_accept", "1")?;
                (name, format!("vrf {name}"))
            }
            None => ("lo", String::new()),
        };
        node.run(&format!(
            "ip addr add 10.0.1.2/24 dev vdef; ip addr add fd00:1::2/64 dev vdef nodad
             ip addr add 10.0.2.2/24 dev vred.100; ip addr add fd00:2::2/64 dev vred.100 nodad
             ip addr add 198.51.100.10/32 dev {device}; ip addr add 2001:db8:5::10/128 dev {device} nodad
             ip route add default via 10.0.1.1 {route}; ip -6 route add default via fd00:1::1 {route}"
        ))?;
        // A listener on the wildcard accepts in every VRF, and answers from the address that was asked.
        let tcp = TcpEcho::start(&node, (Ipv6Addr::UNSPECIFIED, PORT).into())?;
        Ok(Self { _tcp: tcp, udp: udp(&node, vrf)?, wire: Sniffer::start(&router)?, client, node, lab })
    }

    fn agent(&self, manifests: &str) -> Result<Agent> {
        let options = AgentOptions { manifests: manifests.to_owned(), ..AgentOptions::default() };
        Agent::start(&self.lab, &self.node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)
    }

    /// Frames of the services that reached the router by the default route's wire, and by the request's.
    fn wires(&self) -> (usize, usize) {
        let count = |interface: &str| {
            let ours = |source: IpAddr| services().iter().any(|service| service.ip() == source);
            self.wire.count(interface, |frame| frame.direction == Direction::In && ours(frame.source))
        };
        (count("rdef"), count("rred.100"))
    }

    /// What the node's kernel shows, for a test that fails.
    fn describe(&self) -> String {
        let shown = self.node.run(
            "ip -d addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -6 neigh
             grep -v ' 0$' /proc/net/snmp6",
        );
        let met = self.wire.frames().iter().map(|frame| format!("{frame:?}\n")).collect::<String>();
        format!("{}\n{met}", shown.unwrap_or_default())
    }

    /// Runs each protocol in both families, and checks by which wire the replies come: the default route's, or the
    /// request's.
    fn check(&self, steered: bool) -> Result<()> {
        for service in services() {
            type Exchange<'a> = Box<dyn Fn() -> Result<()> + 'a>;
            let exchanges: [(&str, Exchange<'_>); 3] = [
                ("TCP", Box::new(|| tcp_exchange(&self.client, None, service, WAIT).map(drop))),
                ("UDP", Box::new(|| udp_exchange(&self.client, None, service, WAIT).map(drop))),
                (
                    "ping",
                    Box::new(|| {
                        ensure!(ping(&self.client, None, service.ip())?, "no echo reply");
                        Ok(())
                    }),
                ),
            ];
            for (name, exchange) in exchanges {
                self.wire.clear();
                exchange().with_context(|| format!("{name} to {service}"))?;
                wait_until(WAIT, "the sniffer has seen a reply", || self.wires() != (0, 0))?;
                let (default, request) = self.wires();
                let right = if steered { default == 0 } else { request == 0 };
                ensure!(
                    right,
                    "{name} to {service}: {default} by default route, {request} by request's wire"
                );
            }
        }
        Ok(())
    }

    fn replies_follow_requests(&self) -> Result<()> {
        self.check(false).context("without the agent")?;
        let mut agent = self.agent(RETURN_PATH)?;
        let steers = || {
            let status = agent.json(&["status"]).unwrap_or_default();
            status.to_string().contains("vred.100") && self.check(true).is_ok()
        };
        wait_until(WAIT, "replies leave by the request's interface", steers)
            .with_context(|| agent.command(&["status"]).map(|(_, text)| text).unwrap_or_default())?;
        self.check(true).context("with the agent")?;
        agent.stop()?;
        self.check(true).context("after the agent's end")?;
        agent.cleanup()?;
        self.check(false).context("after cleanup")
    }
}

/// UDP services; an answer goes by the VRF device that the socket is bound to, or by main.
fn udp(node: &Namespace, device: Option<&str>) -> Result<Vec<UdpService>> {
    services().into_iter().map(|service| UdpService::start(node, service, device)).collect()
}

fn services() -> [SocketAddr; 2] {
    SERVICES.map(|address| (address.parse::<IpAddr>().unwrap(), PORT).into())
}

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn replies_leave_by_the_vlan_of_the_request() -> Result<()> {
    Net::new("vlan", None)?.replies_follow_requests()
}

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn replies_leave_by_the_vlan_of_the_request_within_a_vrf() -> Result<()> {
    Net::new("vrf", Some("red"))?.replies_follow_requests()
}

const RED: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: red}
spec:
  vrf: {name: red, table: 10001, mode: Create}
  interfaces: [{name: vdef}, {name: vred.100}]
";

/// The interfaces become members of a VRF device while the agent steers: programs stay, zones follow.
#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn steering_follows_interfaces_into_a_created_vrf() -> Result<()> {
    let mut net = Net::new("into", None)?;
    let agent = net.agent(RETURN_PATH)?;
    wait_until(WAIT, "replies are steered outside", || net.check(true).is_ok())?;
    agent.write_manifests(&format!("{RETURN_PATH}{RED}"))?;
    let joined = || net.node.run("ip -o link show master red").is_ok_and(|text| text.lines().count() == 2);
    wait_until(WAIT, "two members", joined).with_context(|| agent.log())?;
    // Moved, not doubled: rule 0 finds an address of main first, and echo replies of IPv6 then leave by main.
    net.node.run(
        "ip addr del 198.51.100.10/32 dev lo; ip addr del 2001:db8:5::10/128 dev lo
         ip addr add 198.51.100.10/32 dev red; ip addr add 2001:db8:5::10/128 dev red nodad",
    )?;
    net.udp.clear();
    net.udp = udp(&net.node, Some("red"))?;
    wait_until(WAIT, "replies are steered within", || net.check(true).is_ok())
        .with_context(|| format!("{:?}\n{}\n{}", net.check(true), net.describe(), agent.log()))?;
    net.check(true).context("within the VRF")
}

const BILLING: &str = "apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: billing}
spec:
  vrf: {name: billing, table: 10020, mode: TableOnly}
  interfaces:
  - name: v.120
    type: VLAN
    vlan: {parent: vred, id: 120, mtu: 1400}
    addresses: [\"192.0.2.10/24\", \"2001:db8:120::10/64\"]
  - {name: vred.100, type: Existing}
";

/// Kind, state, MTU, mark and addresses of a device; none where there is no such device.
fn device(node: &Namespace, name: &str) -> Option<Value> {
    let links = node.json(&format!("ip -j -d addr show dev {name} 2>/dev/null || true")).ok()?;
    let link = links.get(0)?;
    let mut addresses: Vec<&str> =
        link.get("addr_info")?.as_array()?.iter().filter_map(|a| a["local"].as_str()).collect();
    addresses.retain(|address| !address.starts_with("fe80"));
    addresses.sort_unstable();
    Some(serde_json::json!({
        "kind": link["linkinfo"]["info_kind"],
        "id": link["linkinfo"]["info_data"]["id"],
        "up": link["flags"].as_array()?.iter().any(|flag| flag == "UP"),
        "mtu": link["mtu"],
        "alias": link["ifalias"],
        "addresses": addresses,
    }))
}

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn a_vlan_of_an_attachment_is_made_kept_and_removed() -> Result<()> {
    let net = Net::new("made", None)?;
    let links = || net.node.run("ip -o link show | cut -d' ' -f2");
    let (before, foreign) = (links()?, device(&net.node, "vred.100"));
    let expected = serde_json::json!({
        "kind": "vlan", "id": 120, "up": true, "mtu": 1400, "alias": "backtrail",
        "addresses": ["192.0.2.10", "2001:db8:120::10"],
    });
    let is_made = || device(&net.node, "v.120").as_ref() == Some(&expected);
    let mut agent = net.agent(BILLING)?;
    let waited = wait_until(WAIT, "v.120 as the manifest wants it", is_made);
    waited.with_context(|| format!("{:?}\n{}", device(&net.node, "v.120"), agent.log()))?;
    for (family, prefix) in [("", "192.0.2.0/24"), ("-6", "2001:db8:120::/64")] {
        let connected = || {
            let shown = net.node.run(&format!("ip {family} route show table 10020 proto 201 2>&1 || true"));
            shown.is_ok_and(|routes| routes.contains(&format!("{prefix} dev v.120")))
        };
        wait_until(WAIT, &format!("{prefix} in table 10020"), connected)?;
    }

    net.node.run("ip link del v.120")?;
    wait_until(WAIT, "v.120 is made again", is_made)?;

    agent.stop()?;
    ensure!(is_made(), "the agent's end takes the device away");
    let said = agent.cleanup()?;
    ensure!(said.contains("1 devices"), "{said}");
    ensure!(links()? == before, "before cleanup:\n{before}after:\n{}", links()?);
    ensure!(device(&net.node, "vred.100") == foreign, "another's device was changed");
    Ok(())
}
