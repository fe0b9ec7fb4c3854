//! Two BGP peers and a node with FRR and the agent, for all tests with FRR.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{
    Agent, AgentOptions, End, Fib, Frr, FrrInstall, FrrOptions, Lab, Namespace, fib, wait_until,
};
use serde_json::Value;

/// For BGP, routes and restarts.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// The peers' autonomous systems: one, so that their paths are equal.
pub(crate) const PEER_AS: u32 = 65100;
/// The node's.
pub(crate) const NODE_AS: u32 = 65200;

/// Over which protocol the BGP sessions run. Both carry IPv4 routes; those over IPv6 have IPv6 nexthops (RFC 8950).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What differs from rig to rig.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// Further options of the node's zebra.
    pub(crate) zebra: Vec<String>,
    /// Further lines of the node's `router bgp`.
    pub(crate) bgp: &'static str,
    /// Further manifests.
    pub(crate) manifests: &'static str,
    /// The peers take each other's routes from the node, though they are in one autonomous system.
    pub(crate) transit: bool,
    /// Lines for the node's staticd.
    pub(crate) staticd: &'static str,
    /// Further capabilities of the agent.
    pub(crate) capabilities: &'static [&'static str],
}

/// The lab. Fields are dropped in this order.
pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) frr: Frr,
    pub(crate) speakers: [Frr; 2],
    pub(crate) peers: [Namespace; 2],
    pub(crate) node: Namespace,
    /// Where zebra writes: 5000 (divert) or 254 (mirror).
    pub(crate) from: u32,
    /// Where the agent writes: 254 (divert) or 10050 (mirror).
    pub(crate) into: u32,
    _lab: Lab,
}

/// The address of a peer that its announced nexthop is, and the node's end.
fn ends(peer: usize, sessions: Sessions) -> (String, String) {
    match sessions {
        Sessions::V4 => (format!("192.0.{}.1", peer + 1), format!("192.0.{}.2", peer + 1)),
        Sessions::V6 => (format!("2001:db8:{}::1", peer + 1), format!("2001:db8:{}::2", peer + 1)),
    }
}

fn bgp(asn: u32, id: usize, neighbors: &[(String, u32)], sessions: Sessions, setup: &Setup) -> String {
    let mut text = format!(
        "router bgp {asn}\n bgp router-id 192.0.2.{id}\n no bgp ebgp-requires-policy\n no bgp network import-check\n"
    );
    let node = asn == NODE_AS;
    if node {
        text += setup.bgp;
    }
    let mut activate = String::new();
    for (address, remote) in neighbors {
        text += &format!(
            " neighbor {address} remote-as {remote}\n neighbor {address} timers 3 9\n neighbor {address} timers connect 1\n"
        );
        if sessions == Sessions::V6 {
            text += &format!(" neighbor {address} capability extended-nexthop\n");
        }
        activate += &format!("  neighbor {address} activate\n");
        if setup.transit && !node {
            activate += &format!("  neighbor {address} allowas-in\n");
        }
    }
    for family in ["ipv4", "ipv6"] {
        text += &format!(" address-family {family} unicast\n{activate} exit-address-family\n");
    }
    text + "exit\n"
}

impl Rig {
    /// Lays out the lab with `install` on the node (the peers run the distribution's FRR), the agent importing all that BGP
    /// learns, and waits until it runs and both sessions are up.
    pub(crate) fn start(install: &FrrInstall, sessions: Sessions) -> Result<Self> {
        Self::with(install, sessions, &Setup::default())
    }

    /// The same, with a difference.
    pub(crate) fn with(install: &FrrInstall, sessions: Sessions, setup: &Setup) -> Result<Self> {
        let lab = Lab::new("frr")?;
        let peers = [lab.namespace("peer0")?, lab.namespace("peer1")?];
        let node = lab.namespace("node")?;
        for (n, peer) in peers.iter().enumerate() {
            let of =
                |host: u8| [format!("192.0.{}.{host}/24", n + 1), format!("2001:db8:{}::{host}/64", n + 1)];
            let (theirs, ours) = (of(1), of(2));
            lab.connect(
                &End::new(peer, "eth0", &[&theirs[0], &theirs[1]]),
                &End::new(&node, &format!("up{n}"), &[&ours[0], &ours[1]]),
            )?;
        }
        let (from, into) = if install.can_divert() { (5000, 254) } else { (254, 10050) };
        let manifests = manifests(from, into) + setup.manifests;
        let options = AgentOptions { manifests, capabilities: setup.capabilities, ..AgentOptions::default() };
        let agent = Agent::start(&lab, &node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
        let distribution = FrrInstall::host()?;
        let speaker = |n: usize| {
            let bgpd = bgp(PEER_AS, n + 10, &[(ends(n, sessions).1, NODE_AS)], sessions, setup);
            Frr::start(&lab, &peers[n], &distribution, FrrOptions { bgpd, ..FrrOptions::default() })
        };
        let speakers = [speaker(0)?, speaker(1)?];
        let neighbors = [(ends(0, sessions).0, PEER_AS), (ends(1, sessions).0, PEER_AS)];
        let options = FrrOptions {
            fpm: true,
            table: install.can_divert().then_some(5000),
            arguments: setup.zebra.clone(),
            bgpd: bgp(NODE_AS, 1, &neighbors, sessions, setup),
            staticd: setup.staticd.to_owned(),
            ..FrrOptions::default()
        };
        let frr = Frr::start(&lab, &node, install, options)?;
        frr.wait_established(2, WAIT)?;
        Ok(Self { agent, frr, speakers, peers, node, from, into, _lab: lab })
    }

    /// What the kernel has of protocol 201 in the agent's table: prefix → gateways (`gateway dev`).
    pub(crate) fn routes(&self, family: u8) -> Result<Fib> {
        fib(&self.node, family, self.into)
    }

    /// The gateways of a route in the kernel (`gateway dev`); none without a route.
    pub(crate) fn ways(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let family = if prefix.contains(':') { 6 } else { 4 };
        Ok(self.routes(family)?.remove(prefix).unwrap_or_default())
    }

    /// Waits until the kernel's route has just these ways out.
    pub(crate) fn wait_ways(&self, prefix: &str, expected: &[&str]) -> Result<()> {
        let expected: BTreeSet<String> = expected.iter().map(|way| (*way).to_owned()).collect();
        let mut seen = BTreeSet::new();
        let waited = wait_until(WAIT, &format!("{prefix} by {expected:?}"), || {
            seen = self.ways(prefix).unwrap_or_default();
            seen == expected
        });
        waited.map(drop).with_context(|| format!("it is by {seen:?}; {}", self.explain()))
    }

    /// Waits until the agent's table has `count` routes of protocol 201.
    pub(crate) fn wait_count(&self, family: u8, count: usize) -> Result<Duration> {
        wait_until(WAIT, &format!("{count} routes in table {}", self.into), || {
            self.routes(family).is_ok_and(|routes| routes.len() == count)
        })
        .with_context(|| self.explain())
    }

    /// The condition of that type in `backtrail status`: its status and reason.
    pub(crate) fn condition(&self, kind: &str) -> Result<(String, String)> {
        let status = self.agent.json(&["status"])?;
        let conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| text(condition, "type") == kind);
        let found = found.with_context(|| format!("no condition {kind} in {status}"))?;
        Ok((text(found, "status").to_owned(), text(found, "reason").to_owned()))
    }

    /// Waits until the replay is complete and all is programmed.
    pub(crate) fn wait_synchronized(&self) -> Result<()> {
        let holds = |kind| self.condition(kind).is_ok_and(|(status, _)| status == "True");
        wait_until(WAIT, "Synchronized and Programmed", || holds("Synchronized") && holds("Programmed"))
            .map(drop)
            .with_context(|| self.explain())
    }

    /// The agent's view of one prefix: state and reason of each of its rows.
    pub(crate) fn rows(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let rows = self.agent.json(&["routes", prefix])?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        Ok(rows.iter().map(|row| (text(row, "state").to_owned(), text(row, "reason").to_owned())).collect())
    }

    fn explain(&self) -> String {
        let log = self.agent.log();
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        let status = self.agent.command(&["status"]).map(|(_, text)| text).unwrap_or_default();
        format!("{status}\nlog, newest first:\n{}", tail.join("\n"))
    }

    /// Makes sure that nothing that the kernel has of ours was changed since the monitor started.
    pub(crate) fn ensure_untouched(monitor: &backtrail_lab::Monitor) -> Result<()> {
        let changes = monitor.ours()?;
        let shown = changes.get(..changes.len().min(5));
        ensure!(changes.is_empty(), "{} changes of protocol 201: {shown:?}", changes.len());
        Ok(())
    }
}

fn manifests(from: u32, into: u32) -> String {
    let into = if into == 254 { "Main".to_owned() } else { into.to_string() };
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: everything}}
spec:
  from: {{table: {from}, protocols: [BGP]}}
  into: {{table: {into}}}
  allowed: {{mode: All}}
"
    )
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Makes two tests of each function: with the distribution's FRR, and with Debian trixie's where it can be had.
macro_rules! with_each_frr {
    ($($name:ident),* $(,)?) => {
        mod distribution {
            $(
                #[test]
                #[ignore = "needs FRR, root and network namespaces: cargo xtask test frr"]
                fn $name() -> anyhow::Result<()> {
                    super::$name(&backtrail_lab::FrrInstall::host()?)
                }
            )*
        }
        with_frr_of!(trixie, Trixie: $($name),*);
    };
}

/// Makes a test of each function, in a module, with the FRR of a Debian suite where it can be had.
macro_rules! with_frr_of {
    ($module:ident, $suite:ident: $($name:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                #[ignore = "needs FRR, root and network namespaces: cargo xtask test frr"]
                fn $name() -> anyhow::Result<()> {
                    let name = concat!(stringify!($module), "::", stringify!($name));
                    backtrail_lab::with_suite(backtrail_lab::Suite::$suite, name, super::$name)
                }
            )*
        }
    };
}
