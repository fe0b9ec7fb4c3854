//! BFD sessions of FRR's bfdd, and what of them the agent makes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, group, nexthop};
use backtrail_lab::{
    Agent, AgentOptions, Daemon, End, Feeder, Frr, FrrInstall, FrrOptions, Lab, Monitor, Namespace, Suite,
    Version, fib, wait_until, with_suite,
};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(60);
const ROUTES: u32 = 500;
const MANIFESTS: &str = "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: everything}
spec:
  from: {table: 5000, protocols: [BGP]}
  into: {table: Main}
  allowed: {mode: All}
";
/// What a gateway does that answers neighbour solicitation and forwards nothing.
const DEAF: &str = "nft 'add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; \
                    add rule inet deaf in udp dport 3784 drop'";
const HEARING: &str = "nft delete table inet deaf";

/// A node with a gateway by each of two links.
struct Net {
    lab: Lab,
    node: Namespace,
    gateways: [Namespace; 2],
}

fn bfdd(peers: &[(String, String)]) -> FrrOptions {
    // A busy machine may keep bfdd waiting for a second.
    let peers = peers.iter().map(|(peer, interface)| {
        format!(
            " peer {peer} interface {interface}\n  detect-multiplier 5\n  receive-interval 300\n  transmit-interval 300\n exit\n"
        )
    });
    FrrOptions { bfdd: format!("bfd\n{}exit\n", peers.collect::<String>()), ..FrrOptions::default() }
}

impl Net {
    fn new() -> Result<Self> {
        let lab = Lab::new("bfd")?;
        let node = lab.namespace("node")?;
        let gateways = [lab.namespace("gateway0")?, lab.namespace("gateway1")?];
        for (number, gateway) in gateways.iter().enumerate() {
            let (theirs, ours) = (format!("198.18.{number}.1/24"), format!("198.18.{number}.2/24"));
            lab.connect(
                &End::new(gateway, "eth0", &[&theirs]),
                &End::new(&node, &format!("up{number}"), &[&ours]),
            )?;
        }
        Ok(Self { lab, node, gateways })
    }

    /// FRR on the node, and on both gateways.
    fn frr(&self, install: &FrrInstall) -> Result<[Frr; 3]> {
        let peers = [0, 1].map(|number| (format!("198.18.{number}.1"), format!("up{number}")));
        let node = Frr::start(&self.lab, &self.node, install, bfdd(&peers))?;
        let gateway = |number: usize| {
            let peers = [(format!("198.18.{number}.2"), "eth0".to_owned())];
            let gateway = self.gateways.get(number).context("two gateways")?;
            Frr::start(&self.lab, gateway, install, bfdd(&peers))
        };
        let all = [node, gateway(0)?, gateway(1)?];
        wait_until(WAIT, "both sessions are up", || {
            let peers = all[0].json("show bfd peers json").unwrap_or_default();
            let up = |peer: &&Value| peer["status"] == "up";
            peers.as_array().into_iter().flatten().filter(up).count() == 2
        })?;
        Ok(all)
    }

    fn ifindex(&self, name: &str) -> Result<u32> {
        Ok(self.node.run(&format!("ip -o link show {name} | cut -d: -f1"))?.trim().parse()?)
    }

    /// A session with the agent that announces routes by the group of both gateways.
    fn feed(&self) -> Result<Feeder> {
        let mut feeder = Feeder::connect(&self.node)?;
        let gateway = |number: u8| IpAddr::from([198, 18, number, 1]);
        feeder.send([
            nexthop(11, gateway(0), self.ifindex("up0")?),
            nexthop(12, gateway(1), self.ifindex("up1")?),
            group(20, &[11, 12]),
        ])?;
        let prefixes = (0..ROUTES).map(|number| Ipv4Addr::from_bits(0x0a40_0000 + (number << 8)));
        let prefixes = prefixes.map(|address| ipnet::Ipv4Net::new(address, 24).expect("24 is a length"));
        feeder.send(prefixes.map(|net| announce(net, 20)))?;
        Ok(feeder)
    }

    /// Waits until every route leaves by exactly these links.
    fn wait_ways(&self, agent: &Agent, links: &[usize]) -> Result<()> {
        let ways: BTreeSet<String> = links.iter().map(|n| format!("198.18.{n}.1 up{n}")).collect();
        let all = || {
            let fib = fib(&self.node, 4, 254).unwrap_or_default();
            fib.len() == ROUTES as usize && fib.values().all(|found| *found == ways)
        };
        let waited = wait_until(WAIT, &format!("all routes by {links:?}"), all);
        waited.map(drop).with_context(|| agent.log())
    }
}

/// The gateway at one end of a session that fails goes, with one message for its group, and returns with the session.
fn a_gateway_whose_session_fails_leaves_with_one_message(install: &FrrInstall) -> Result<()> {
    let net = Net::new()?;
    let mut frr = net.frr(install)?;
    let arguments = vec!["--frr-run-dir".to_owned(), frr[0].sockets().display().to_string()];
    let options = AgentOptions {
        manifests: MANIFESTS.to_owned(),
        arguments,
        // FRR's sockets are its own user's.
        capabilities: &["dac_override"],
        ..AgentOptions::default()
    };
    let mut agent = Agent::start(&net.lab, &net.node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
    let heard = |agent: &Agent, times: usize| {
        let count = || agent.log().matches("BFD sessions are heard of").count();
        let waited = wait_until(WAIT, &format!("heard of sessions {times} times"), || count() == times);
        waited.map(drop).with_context(|| agent.log())
    };
    heard(&agent, 1)?;
    let feeder = net.feed()?;
    net.wait_ways(&agent, &[0, 1])?;
    for _ in 0..2 {
        let monitor = Monitor::start(&net.node)?;
        net.gateways[0].run(DEAF)?;
        net.wait_ways(&agent, &[1])?;
        let (routes, objects): (Vec<_>, Vec<_>) =
            monitor.ours()?.into_iter().partition(|line| line.contains("/24 "));
        ensure!(objects.len() == 1 && routes.is_empty(), "{objects:?}, {} routes", routes.len());
        let neighbour = net.node.run("ip neigh show 198.18.0.1 dev up0")?;
        ensure!(neighbour.contains("lladdr"), "it answers all the while: {neighbour}");
        net.gateways[0].run(HEARING)?;
        net.wait_ways(&agent, &[0, 1])?;
    }
    // zebra comes and goes without the sessions.
    net.gateways[0].run(DEAF)?;
    net.wait_ways(&agent, &[1])?;
    let monitor = Monitor::start(&net.node)?;
    frr[0].kill(Daemon::Zebra)?;
    frr[0].restart(Daemon::Zebra)?;
    let by_zebra = usize::from(install.version() >= Version(10, 2));
    heard(&agent, 1 + by_zebra)?;
    net.wait_ways(&agent, &[1])?;
    let touched = monitor.ours()?;
    ensure!(touched.is_empty(), "{touched:?}");
    // Without bfdd nothing is known against it; with the next one it is again.
    frr[0].kill(Daemon::Bfdd)?;
    net.wait_ways(&agent, &[0, 1])?;
    net.gateways[0].run(HEARING)?;
    frr[0].restart(Daemon::Bfdd)?;
    heard(&agent, 2 + by_zebra)?;
    // Taken down on purpose: no failure.
    let peers = || frr[0].json("show bfd peers json").unwrap_or_default().to_string();
    wait_until(WAIT, "both sessions are up", || peers().matches("\"status\":\"up\"").count() == 2)?;
    frr[1].configure("bfd\npeer 198.18.0.2 interface eth0\nshutdown\n")?;
    wait_until(WAIT, "one is down", || peers().matches("\"status\":\"down\"").count() == 1)?;
    net.wait_ways(&agent, &[0, 1])?;
    net.gateways[1].run(DEAF)?;
    net.wait_ways(&agent, &[0])?;
    // The next agent learns what failed before it came.
    drop(feeder);
    agent.kill()?;
    agent.run()?;
    heard(&agent, 3 + by_zebra)?;
    let monitor = Monitor::start(&net.node)?;
    let _feeder = net.feed()?;
    let programmed = || {
        agent.json(&["status"]).is_ok_and(|status| {
            let count = |what: &str| status["routes"][what] == ROUTES;
            count("learned") && count("programmed") && status["routes"]["stale"] == 0
        })
    };
    wait_until(WAIT, "all is learned and programmed", programmed)?;
    net.wait_ways(&agent, &[0])?;
    // The failed gateway's own object may be made: nothing goes by it.
    let mut touched = monitor.ours()?;
    touched.retain(|line| line.contains("group ") || line.contains("/24 "));
    ensure!(touched.is_empty(), "it knew: {touched:?}");
    // Out of the configuration, it is a gateway like any other.
    frr[0].configure("bfd\nno peer 198.18.1.1 interface up1\n")?;
    net.wait_ways(&agent, &[0, 1])
}

mod distribution {
    #[test]
    #[ignore = "needs root and FRR: cargo xtask test frr"]
    fn a_gateway_whose_session_fails_leaves_with_one_message() -> anyhow::Result<()> {
        super::a_gateway_whose_session_fails_leaves_with_one_message(&super::FrrInstall::host()?)
    }
}

mod trixie {
    #[test]
    #[ignore = "needs root and FRR: cargo xtask test frr"]
    fn a_gateway_whose_session_fails_leaves_with_one_message() -> anyhow::Result<()> {
        super::with(super::Suite::Trixie)
    }
}

mod sid {
    #[test]
    #[ignore = "needs root and FRR: cargo xtask test frr"]
    fn a_gateway_whose_session_fails_leaves_with_one_message() -> anyhow::Result<()> {
        super::with(super::Suite::Sid)
    }
}

fn with(suite: Suite) -> Result<()> {
    let name = format!("{}::a_gateway_whose_session_fails_leaves_with_one_message", suite.name());
    with_suite(suite, &name, a_gateway_whose_session_fails_leaves_with_one_message)
}
