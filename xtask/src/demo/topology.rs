//! The demo's lab: a client, a fabric router, a node, two gateways.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use backtrail_lab::{
    Agent, AgentOptions, End, Frr, FrrInstall, FrrOptions, Lab, Namespace, has_8021q, wait_until,
};

use super::manifests;
use super::screen::Screen;

const PICTURE: &str = "
   client ──────── fabric ═══ mgmt0    (default route; drops what does not belong there) ═══ node
     │  │            ╠═══════ vlan100  (BGP, services) ═══════════════════════════════════════╣
     │  │            ╚═══════ vlan120  (BGP, billing) ════════════════════════════════════════╣
     │  └── gateway1 ════════ vlan131  (BGP) ════════════════════════════════════════════════╣
     └───── gateway2 ════════ vlan132  (BGP) ════════════════════════════════════════════════╝
";

/// Waits for BGP, routes and the agent.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// The address that the node's own traffic has; the node announces it.
pub(crate) const NODE: &str = "10.99.0.1";
/// Prefixes behind VLAN 120: too many for static routes.
pub(crate) const BILLING: usize = 200;

/// Of each announcer the last route.
const ROUTES: [&str; 4] = ["172.16.10.0/24", "172.16.20.0/24", "10.20.199.0/24", "198.51.100.0/24"];

/// The running lab.
#[derive(Debug)]
pub(crate) struct Demo<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) client: Namespace,
    pub(crate) fabric: Namespace,
    pub(crate) node: Namespace,
    pub(crate) gateway1: Namespace,
    pub(crate) gateway2: Namespace,
    pub(crate) fabric_frr: Frr,
    pub(crate) node_frr: Frr,
    pub(crate) gateway_frr: [Frr; 2],
    /// zebra's table: 5000 with `-R`, else main.
    pub(crate) table: u32,
    pub(crate) agent: Option<Agent>,
    /// Takes back what an operator configured by hand.
    undo: Vec<&'static str>,
    binary: PathBuf,
}

impl<'a> Demo<'a> {
    /// Lays everything out and waits for BGP.
    pub(crate) fn build(screen: &Screen, lab: &'a Lab, install: &FrrInstall, binary: &Path) -> Result<Self> {
        println!("{PICTURE}");
        let space = |name| lab.namespace(name);
        let (client, fabric, node) = (space("client")?, space("fabric")?, space("node")?);
        let (gateway1, gateway2) = (space("gateway1")?, space("gateway2")?);
        let vlans = has_8021q(&node);
        screen.say(if vlans {
            "five namespaces, VLAN devices on the node"
        } else {
            "five namespaces; this kernel has no 8021q: plain veth interfaces carry the VLANs' names"
        });
        let wires = Wires { lab, node: &node, vlans };
        wires.lay(&client, &fabric, [&gateway1, &gateway2])?;
        addresses(&client, &fabric, &node, [&gateway1, &gateway2])?;
        let divert = install.can_divert();
        screen.say(&format!(
            "FRR {}: {}",
            install.version(),
            if divert {
                "zebra -R 5000 writes an unused table, main is Backtrail's to fill (divert)"
            } else {
                "older than 9.1, so main stays zebra's and Backtrail fills tables of its own (mirror)"
            }
        ));
        let plain = |bgpd: String| FrrOptions { bgpd, ..FrrOptions::default() };
        let start = |space: &Namespace, options| Frr::start(lab, space, install, options);
        let fabric_frr = start(&fabric, plain(fabric_bgp()))?;
        let gateway_frr =
            [start(&gateway1, plain(gateway_bgp(1)))?, start(&gateway2, plain(gateway_bgp(2)))?];
        let options = FrrOptions {
            fpm: true,
            table: divert.then_some(5000),
            bgpd: node_bgp(),
            ..FrrOptions::default()
        };
        let node_frr = start(&node, options)?;
        node_frr.wait_established(4, WAIT)?;
        let table = if divert { 5000 } else { 254 };
        wait_until(WAIT, "zebra has written what BGP learned", || {
            let routes = node.run(&format!("ip route show table {table} proto bgp"));
            routes.is_ok_and(|routes| ROUTES.iter().all(|route| routes.contains(route)))
        })?;
        screen.say("four BGP sessions are established, zebra has their routes");
        let binary = binary.to_owned();
        Ok(Self {
            lab,
            client,
            fabric,
            node,
            gateway1,
            gateway2,
            fabric_frr,
            node_frr,
            gateway_frr,
            table,
            agent: None,
            undo: Vec::new(),
            binary,
        })
    }

    /// Whether main is Backtrail's to fill.
    pub(crate) fn divert(&self) -> bool {
        self.table != 254
    }

    /// Shows the manifests and starts the agent with them.
    pub(crate) fn with_backtrail(&mut self, screen: &Screen, manifests: &str) -> Result<&Agent> {
        screen.manifests(manifests);
        let options = AgentOptions { manifests: manifests.to_owned(), ..AgentOptions::default() };
        let agent = Agent::start(self.lab, &self.node, &self.binary, options)?;
        screen.say("backtrail ready");
        Ok(self.agent.insert(agent))
    }

    /// Runs a command on the node as an operator would, and remembers what takes it back.
    pub(crate) fn by_hand(&mut self, screen: &Screen, command: &str, undo: &'static str) -> Result<()> {
        screen.prompt(&self.node, command);
        self.node.run(command)?;
        self.undo.push(undo);
        Ok(())
    }

    /// Takes back what was configured by hand.
    pub(crate) fn undo(&mut self) -> Result<()> {
        for command in std::mem::take(&mut self.undo) {
            self.node.run(command)?;
        }
        Ok(())
    }

    /// Stops the agent and removes what it owns.
    pub(crate) fn without_backtrail(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { return Ok(()) };
        agent.stop()?;
        agent.cleanup()?;
        for command in ["ip route show table all proto 201", "ip rule show proto 201", "ip nexthop show"] {
            let left = self.node.run(command)?;
            ensure!(!left.contains("proto 201"), "after `backtrail cleanup`, {command} shows: {left}");
        }
        Ok(())
    }

    /// The kept lab's last state: the agent with all manifests of the demo.
    pub(crate) fn leave_running(&mut self, screen: &Screen) -> Result<()> {
        screen.title("The lab that stays");
        let into = if self.divert() { "Main" } else { "10010" };
        let all = [
            manifests::dynamic_routing(self.table, into),
            manifests::segregation(self.table),
            manifests::gateways(self.table),
            manifests::return_path(),
        ];
        self.with_backtrail(screen, &all.join("---\n"))?;
        println!("\nEnter the namespaces, look at FRR and at Backtrail:");
        for space in [&self.client, &self.fabric, &self.node, &self.gateway1, &self.gateway2] {
            println!("  ip netns exec {} bash", space.name());
        }
        println!("  {}", self.node_frr.vtysh_hint());
        if let Some(agent) = &self.agent {
            println!("  {} status --run-dir {}", self.binary.display(), agent.run_dir().display());
        }
        Ok(())
    }
}

struct Wires<'a> {
    lab: &'a Lab,
    node: &'a Namespace,
    vlans: bool,
}

impl Wires<'_> {
    fn lay(&self, client: &Namespace, fabric: &Namespace, gateways: [&Namespace; 2]) -> Result<()> {
        let plain = |a: &Namespace, a_if: &str, a_ip: &str, b: &Namespace, b_if: &str, b_ip: &str| {
            self.lab.connect(&End::new(a, a_if, &[a_ip]), &End::new(b, b_if, &[b_ip]))
        };
        let [gateway1, gateway2] = gateways;
        plain(client, "eth0", "203.0.113.10/24", fabric, "eth0", "203.0.113.1/24")?;
        plain(client, "eth1", "10.231.0.10/24", gateway1, "eth0", "10.231.0.1/24")?;
        plain(client, "eth2", "10.232.0.10/24", gateway2, "eth0", "10.232.0.1/24")?;
        plain(fabric, "mgmt0", "10.0.0.1/24", self.node, "mgmt0", "10.0.0.2/24")?;
        self.vlan(100, fabric, "192.0.2.1/25", "192.0.2.2/25")?;
        self.vlan(120, fabric, "192.0.2.129/25", "192.0.2.130/25")?;
        self.vlan(131, gateway1, "10.131.0.1/24", "10.131.0.2/24")?;
        self.vlan(132, gateway2, "10.132.0.1/24", "10.132.0.2/24")
    }

    /// `vlanID` between a router and the node: a VLAN device over a pair, or the pair itself.
    fn vlan(&self, id: u16, router: &Namespace, router_address: &str, node_address: &str) -> Result<()> {
        let name = format!("vlan{id}");
        if !self.vlans {
            let router = End::new(router, &name, std::slice::from_ref(&router_address));
            return self.lab.connect(&router, &End::new(self.node, &name, &[node_address]));
        }
        let trunk = format!("trunk{id}");
        self.lab.connect(&End::new(router, &trunk, &[]), &End::new(self.node, &trunk, &[]))?;
        for (space, address) in [(router, router_address), (self.node, node_address)] {
            space.run(&format!(
                "ip link add link {trunk} name {name} type vlan id {id}
                 ip link set {name} up
                 ip addr add {address} dev {name}"
            ))?;
        }
        Ok(())
    }
}

fn addresses(
    client: &Namespace,
    fabric: &Namespace,
    node: &Namespace,
    gateways: [&Namespace; 2],
) -> Result<()> {
    for router in [fabric, gateways[0], gateways[1]] {
        router.forward()?;
    }
    node.forward()?;
    // Services of other clusters, billing, and the world behind the gateways are all in the client's namespace.
    client.run(
        "ip route add default via 203.0.113.1
         for n in 172.16.10.1 172.16.20.1; do ip addr add $n/32 dev lo; done
         for n in $(seq 0 15); do ip addr add 10.20.$n.1/32 dev lo; ip addr add 198.51.100.$((n + 1))/32 dev lo; done",
    )?;
    // Strict rp_filter on the management leg: as a firewall would, it drops what does not belong there.
    fabric.sysctl("net.ipv4.conf.mgmt0.rp_filter", "1")?;
    // ARP for the default gateway must not come from a service address: the filter would drop that too.
    node.sysctl("net.ipv4.conf.mgmt0.arp_announce", "2")?;
    fabric.run("for n in 172.16.0.0/16 10.20.0.0/16; do ip route add $n via 203.0.113.10; done")?;
    gateways[0].run("ip route add 198.51.100.0/24 via 10.231.0.10")?;
    gateways[1].run("ip route add 198.51.100.0/24 via 10.232.0.10")?;
    node.run(&format!(
        "ip route add default via 10.0.0.1
         for n in {NODE} 198.18.0.10 198.18.0.20; do ip addr add $n/32 dev lo; done"
    ))?;
    Ok(())
}

/// Sessions are tried each second and given up after nine.
fn neighbors(list: &[(&str, u32)]) -> String {
    list.iter()
        .map(|(address, asn)| {
            format!(
                " neighbor {address} remote-as {asn}
 neighbor {address} timers 3 9
 neighbor {address} timers connect 1
"
            )
        })
        .collect()
}

const COMMON: &str = " no bgp ebgp-requires-policy\n no bgp network import-check\n";

fn fabric_bgp() -> String {
    let billing: String = (0..BILLING).map(|n| format!("  network 10.20.{n}.0/24\n")).collect();
    format!(
        "router bgp 65000
 bgp router-id 192.0.2.1
{COMMON}{} address-family ipv4 unicast
  network 172.16.10.0/24
  network 172.16.20.0/24
{billing}  neighbor 192.0.2.2 route-map VLAN100 out
  neighbor 192.0.2.130 route-map VLAN120 out
 exit-address-family
exit
ip prefix-list VLAN100 seq 5 deny 172.16.20.0/24
ip prefix-list VLAN100 seq 10 permit 0.0.0.0/0 le 32
ip prefix-list VLAN120 seq 5 deny 172.16.10.0/24
ip prefix-list VLAN120 seq 10 permit 0.0.0.0/0 le 32
route-map VLAN100 permit 10
 match ip address prefix-list VLAN100
exit
route-map VLAN120 permit 10
 match ip address prefix-list VLAN120
exit
",
        neighbors(&[("192.0.2.2", 65010), ("192.0.2.130", 65010)])
    )
}

fn node_bgp() -> String {
    let peers = [("192.0.2.1", 65000), ("192.0.2.129", 65000), ("10.131.0.1", 65020), ("10.132.0.1", 65020)];
    format!(
        "router bgp 65010
 bgp router-id 192.0.2.2
{COMMON}{} address-family ipv4 unicast
  network {NODE}/32
  network 198.18.0.10/32
  network 198.18.0.20/32
  neighbor 192.0.2.1 route-map VLAN100 out
  neighbor 192.0.2.129 route-map VLAN120 out
  neighbor 10.131.0.1 route-map NOTHING out
  neighbor 10.132.0.1 route-map NOTHING out
 exit-address-family
exit
ip prefix-list VLAN100 seq 5 permit {NODE}/32
ip prefix-list VLAN100 seq 10 permit 198.18.0.10/32
ip prefix-list VLAN120 seq 5 permit 198.18.0.20/32
route-map VLAN100 permit 10
 match ip address prefix-list VLAN100
exit
route-map VLAN120 permit 10
 match ip address prefix-list VLAN120
exit
route-map NOTHING deny 10
exit
",
        neighbors(&peers)
    )
}

fn gateway_bgp(number: u8) -> String {
    format!(
        "router bgp 65020
 bgp router-id 10.13{number}.0.1
{COMMON}{} address-family ipv4 unicast
  network 198.51.100.0/24
 exit-address-family
exit
",
        neighbors(&[(&format!("10.13{number}.0.2"), 65010)])
    )
}
