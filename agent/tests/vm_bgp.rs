//! Real FRR on VRF and VLAN devices that the agent makes.
//!
//! ```text
//! FRR ---(p1 e1: BGP of VRF red, on VLAN 100)--- FRR, agent
//!    \---(p2 e2: BGP of the default VRF, on VLAN 200)---/
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Agent, AgentOptions, End, Frr, FrrInstall, FrrOptions, Lab, Namespace, wait_until};

/// Emulated machines are slow.
const WAIT: Duration = Duration::from_secs(60);

/// VRF red with BGP of its own, VRF green without; the default VRF's VLAN is in a table alone.
const VRFS: &str = "apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: red}
spec:
  vrf: {name: red, table: 10001, mode: Create}
  interfaces:
  - {name: v.100, type: VLAN, vlan: {parent: e1, id: 100}, addresses: [\"192.0.2.2/24\", \"2001:db8:1::2/64\"]}
---
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: green}
spec:
  vrf: {name: green, table: 10002, mode: Create}
---
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: blue}
spec:
  vrf: {name: blue, table: 10003, mode: TableOnly}
  interfaces:
  - {name: v.200, type: VLAN, vlan: {parent: e2, id: 200}, addresses: [\"198.51.100.2/24\", \"2001:db8:2::2/64\"]}
---
";

fn import(name: &str, from: u32, into: &str, action: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: {name}}}
spec:
  from: {{table: {from}, protocols: [BGP]}}
  allowed: {{mode: All}}
  into: {into}
  action: {action}
---
"
    )
}

fn bgp(vrf: &str, asn: u32, peers: [(&str, u32); 2], networks: &[&str]) -> String {
    let mut text = format!(
        "router bgp {asn}{vrf}\n bgp router-id 192.0.2.{}\n no bgp ebgp-requires-policy\n no bgp network import-check\n no bgp default ipv4-unicast\n",
        asn % 1000
    );
    for (peer, remote) in peers {
        text += &format!(
            " neighbor {peer} remote-as {remote}\n neighbor {peer} timers 3 9\n neighbor {peer} timers connect 1\n"
        );
    }
    for (family, six, (peer, _)) in [("ipv4", false, peers[0]), ("ipv6", true, peers[1])] {
        text += &format!(" address-family {family} unicast\n  neighbor {peer} activate\n");
        for network in networks.iter().filter(|network| network.contains(':') == six) {
            text += &format!("  network {network}\n");
        }
        text += " exit-address-family\n";
    }
    text + "exit\n"
}

struct Net {
    agent: Agent,
    frr: Frr,
    speaker: Frr,
    node: Namespace,
    /// FPM's table of the default VRF.
    main: u32,
    _lab: Lab,
}

impl Net {
    fn start(install: &FrrInstall) -> Result<Self> {
        let lab = Lab::new("bgp")?;
        let (peer, node) = (lab.namespace("pe")?, lab.namespace("no")?);
        for n in [1, 2] {
            let (theirs, ours) = (format!("p{n}"), format!("e{n}"));
            lab.connect(&End::new(&peer, &theirs, &[]), &End::new(&node, &ours, &[]))?;
            let net = if n == 1 { "192.0.2" } else { "198.51.100" };
            peer.run(&format!(
                "ip link add link {theirs} name {theirs}.{n}00 type vlan id {n}00; ip link set {theirs}.{n}00 up
                 ip addr add {net}.1/24 dev {theirs}.{n}00; ip addr add 2001:db8:{n}::1/64 dev {theirs}.{n}00"
            ))?;
        }
        // Without -R zebra writes main itself, and calls it that.
        let main = if install.can_divert() { 5000 } else { 254 };
        let options = AgentOptions { manifests: VRFS.to_owned(), ..AgentOptions::default() };
        let agent = Agent::start(&lab, &node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
        let speaker = {
            let networks = ["203.0.113.0/24", "10.9.0.0/16", "2001:db8:900::/48"];
            let of = [("192.0.2.2", 65001), ("2001:db8:1::2", 65001)];
            let also = [("198.51.100.2", 65002), ("2001:db8:2::2", 65002)];
            let mut bgpd = bgp("", 65100, of, &networks);
            // One speaker has both sessions: the second pair without the heading.
            let second = bgp("", 65100, also, &[]);
            bgpd += &second;
            Frr::start(&lab, &peer, install, FrrOptions { bgpd, ..FrrOptions::default() })?
        };
        let options = FrrOptions {
            fpm: true,
            table: install.can_divert().then_some(5000),
            bgpd: bgp(" vrf red", 65001, [("192.0.2.1", 65100), ("2001:db8:1::1", 65100)], &[])
                + &bgp("", 65002, [("198.51.100.1", 65100), ("2001:db8:2::1", 65100)], &[]),
            ..FrrOptions::default()
        };
        let frr = Frr::start(&lab, &node, install, options)?;
        Ok(Self { agent, frr, speaker, node, main, _lab: lab })
    }

    fn until(&self, what: &str, ready: impl FnMut() -> bool) -> Result<()> {
        wait_until(WAIT, what, ready).map(drop).with_context(|| {
            let shown = self
                .node
                .run("ip addr; ip route show table all; ip -6 route show table all; ip nexthop; ip rule");
            let bgp = [&self.frr, &self.speaker].map(|frr| {
                frr.vtysh(&["show bgp vrf all summary", "show ip route vrf all"]).unwrap_or_default()
            });
            format!(
                "{}\n{bgp:?}\n{:?}\n{}",
                shown.unwrap_or_default(),
                self.agent.json(&["status"]),
                self.agent.log()
            )
        })
    }

    /// Whether a table holds the speaker's prefixes by this interface, with this protocol.
    fn has(&self, table: u32, protocol: &str, interface: &str) -> bool {
        let lines = |family: &str| {
            let script = format!(
                "ip {family} -N route show table {table} proto {protocol} 2>/dev/null || true; ip nexthop"
            );
            self.node.run(&script).unwrap_or_default()
        };
        lines("").contains("203.0.113.0/24")
            && lines("-6").contains("2001:db8:900::/48")
            && lines("").contains(&format!("dev {interface} "))
    }

    /// What an interface's routes and the rules look like: nobody should be changing them.
    fn shape(&self) -> Result<String> {
        self.node.run("ip -N route show table all | sort; ip -6 -N route show table all | sort; ip rule; ip -6 rule; ip nexthop | sort")
    }
}

#[test]
#[ignore = "needs VRF, 8021q and FRR: cargo xtask vm"]
fn bgp_runs_in_made_vrfs_and_on_made_vlans() -> Result<()> {
    let install = match FrrInstall::here() {
        Ok(install) => install,
        Err(error) => {
            println!("SKIPPED bgp_runs_in_made_vrfs_and_on_made_vlans: {error:#}");
            return Ok(());
        }
    };
    let mut net = Net::start(&install)?;
    net.until("all four sessions", || {
        net.frr
            .vtysh(&["show bgp vrf all summary json"])
            .is_ok_and(|text| text.matches("\"state\":\"Established\"").count() >= 4)
    })?;

    // BGP of VRF red: zebra writes its table itself, which is watched, and copied into a table of ours.
    let manifests = VRFS.to_owned()
        + &import("red", 10001, "{vrf: {name: red, table: 10001}}", "Observe")
        + &import("copy", 10001, "{table: 10050}", "Program")
        + &import("blue", net.main, "{vrf: {name: blue, table: 10003}}", "Program")
        + &import("green", net.main, "{vrf: {name: green, table: 10002}}", "Program");
    net.agent.write_manifests(&manifests)?;
    net.until("VRF red by zebra", || net.has(10001, "186", "v.100"))?;
    for (table, interface) in [(10050, "v.100"), (10003, "v.200"), (10002, "v.200")] {
        net.until(&format!("table {table}"), || net.has(table, "201", interface))?;
    }
    let status = || net.agent.json(&["status"]).unwrap_or_default();
    net.until("what is observed is there", || status()["fibDrift"]["missing"] == 0)?;
    let protected: Vec<String> =
        net.agent.json(&["routes"])?.as_array().into_iter().flatten().map(ToString::to_string).collect();
    ensure!(!protected.is_empty(), "no route is shown");

    // To write where zebra writes is refused, and nothing moves.
    let greedy =
        manifests.clone() + &import("greedy", net.main, "{vrf: {name: red, table: 10001}}", "Program");
    let before = net.shape()?;
    net.agent.write_manifests(&greedy)?;
    net.until("TableOwnedByZebra", || status().to_string().contains("TableOwnedByZebra"))?;
    ensure!(net.shape()? == before, "before:\n{before}\nafter:\n{}", net.shape()?);
    net.agent.write_manifests(&manifests)?;

    // A withdrawn prefix leaves all of them.
    net.speaker.withdraw(65100, &["10.9.0.0/16".to_owned()])?;
    net.until("the withdrawal", || net.shape().is_ok_and(|all| !all.contains("10.9.0.0/16")))?;

    // The carrier of a VLAN's parent drops and comes back.
    let full = |net: &Net| net.has(10003, "201", "v.200") && net.has(10002, "201", "v.200");
    net.node.run("ip link set e2 down")?;
    net.until("routes follow the link", || !full(&net))?;
    net.node.run("ip link set e2 up")?;
    net.until("routes are back", || full(&net))?;

    net.agent.stop()?;
    let said = net.agent.cleanup()?;
    ensure!(said.contains("4 devices"), "{said}");
    let left = net.node.run("ip -o link")?;
    for name in ["red", "green", "v.100", "v.200"] {
        ensure!(!left.contains(&format!(": {name}")), "{left}");
    }
    Ok(())
}
