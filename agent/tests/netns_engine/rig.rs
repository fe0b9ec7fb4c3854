//! A node with two uplinks, an agent on it, and a connection that says what zebra would say.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, group, nexthop};
use backtrail_lab::{Agent, AgentOptions, End, Feeder, Fib, Lab, Namespace, fib, wait_until};
use serde_json::Value;

/// For routes, restarts and neighbours that have to fail.
pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// The nexthop ids: one for each uplink, and the group of both.
pub(crate) const UP: [u32; 2] = [11, 12];
pub(crate) const BOTH: u32 = 20;
/// The ways out by each uplink.
pub(crate) const WAYS: [&str; 2] = ["198.18.0.1 up0", "198.18.1.1 up1"];
/// Where the agent writes.
pub(crate) const TABLE: u32 = 254;

/// The lab. Fields are dropped in this order.
pub(crate) struct Rig {
    pub(crate) feeder: Option<Feeder>,
    pub(crate) agent: Agent,
    pub(crate) peers: [Namespace; 2],
    pub(crate) node: Namespace,
    ifindexes: [u32; 2],
    pub(crate) lab: Lab,
}

pub(crate) fn manifests(spec: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: everything}}
spec:
  from: {{table: 5000, protocols: [BGP]}}
  into: {{table: Main}}
  allowed: {{mode: All}}
{spec}"
    )
}

/// `count` prefixes of length 24, from 10.64.0.0/24 on.
pub(crate) fn prefixes(count: u32) -> Vec<ipnet::Ipv4Net> {
    (0..count)
        .map(|number| {
            let address = std::net::Ipv4Addr::from_bits(0x0a40_0000 + (number << 8));
            ipnet::Ipv4Net::new(address, 24).expect("24 is a length")
        })
        .collect()
}

impl Rig {
    /// An agent with these lines in its import's `spec`, and the nexthop objects announced.
    pub(crate) fn start(spec: &str) -> Result<Self> {
        let lab = Lab::new("engine")?;
        let node = lab.namespace("node")?;
        let peers = [lab.namespace("peer0")?, lab.namespace("peer1")?];
        for (number, peer) in peers.iter().enumerate() {
            let (theirs, ours) = (format!("198.18.{number}.1/24"), format!("198.18.{number}.2/24"));
            let name = format!("up{number}");
            lab.connect(&End::new(peer, "eth0", &[&theirs]), &End::new(&node, &name, &[&ours]))?;
            // Neighbours fail within a second instead of eight.
            let set = |key: &str, value: &str| node.sysctl(&format!("net.ipv4.neigh.{name}.{key}"), value);
            set("delay_first_probe_time", "0")?;
            set("retrans_time_ms", "100")?;
            set("base_reachable_time_ms", "500")?;
            set("interval_probe_time_ms", "500").ok();
        }
        let links = node.json("ip -j link show")?;
        let ifindex = |name: &str| {
            let mut links = links.as_array().into_iter().flatten();
            let link = links.find(|link| link.get("ifname").and_then(Value::as_str) == Some(name));
            let index = link.and_then(|link| link.get("ifindex")?.as_u64()).context("no such link")?;
            anyhow::Ok(u32::try_from(index)?)
        };
        let ifindexes = [ifindex("up0")?, ifindex("up1")?];
        let options = AgentOptions { manifests: manifests(spec), ..AgentOptions::default() };
        let agent = Agent::start(&lab, &node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
        let mut rig = Self { feeder: None, agent, peers, node, ifindexes, lab };
        rig.connect()?;
        Ok(rig)
    }

    /// A new FPM session: the nexthop objects, as a replay begins.
    pub(crate) fn connect(&mut self) -> Result<()> {
        self.feeder = None;
        let mut feeder = Feeder::connect(&self.node)?;
        let gateways: [IpAddr; 2] = ["198.18.0.1".parse()?, "198.18.1.1".parse()?];
        feeder.send([
            nexthop(UP[0], gateways[0], self.ifindexes[0]),
            nexthop(UP[1], gateways[1], self.ifindexes[1]),
            group(BOTH, &UP),
        ])?;
        self.feeder = Some(feeder);
        Ok(())
    }

    pub(crate) fn feeder(&mut self) -> Result<&mut Feeder> {
        self.feeder.as_mut().context("not connected")
    }

    /// Announces the first `count` prefixes by a nexthop id and waits until they are there.
    pub(crate) fn load(&mut self, count: u32, id: u32) -> Result<()> {
        self.feeder()?.send(prefixes(count).into_iter().map(|net| announce(net, id)))?;
        self.wait_fib("the routes", |fib| fib.len() == count as usize)?;
        self.wait_synchronized()
    }

    /// Routes of protocol 201 in the agent's table.
    pub(crate) fn fib(&self) -> Result<Fib> {
        fib(&self.node, 4, TABLE)
    }

    /// Waits until the agent's routes are so.
    pub(crate) fn wait_fib(&self, what: &str, holds: impl Fn(&Fib) -> bool) -> Result<Duration> {
        let waited = wait_until(WAIT, what, || self.fib().is_ok_and(|fib| holds(&fib)));
        waited.with_context(|| {
            let fib = self.fib().unwrap_or_default();
            format!("{} routes, the first: {:?}\n{}", fib.len(), fib.iter().next(), self.explain())
        })
    }

    /// Waits until every route leaves by exactly these uplinks.
    pub(crate) fn wait_ways(&self, count: usize, uplinks: &[usize]) -> Result<Duration> {
        let ways = uplinks.iter().map(|uplink| WAYS[*uplink].to_owned()).collect();
        let what = format!("{count} routes by {uplinks:?}");
        self.wait_fib(&what, |fib| fib.len() == count && fib.values().all(|found| *found == ways))
    }

    /// A number in `status`, by its pointer.
    pub(crate) fn number(&self, pointer: &str) -> Result<u64> {
        let status = self.agent.json(&["status"])?;
        let number = status.pointer(pointer).and_then(Value::as_u64);
        number.with_context(|| format!("no {pointer} in {status}"))
    }

    /// Waits until the replay is complete and all is programmed.
    pub(crate) fn wait_synchronized(&self) -> Result<()> {
        let holds = |status: &Value, kind: &str| {
            let list = status.get("conditions").and_then(Value::as_array);
            let of_kind = |c: &&Value| c.get("type").and_then(Value::as_str) == Some(kind);
            let condition = list.into_iter().flatten().find(of_kind);
            condition.and_then(|c| c.get("status")?.as_str()) == Some("True")
        };
        wait_until(WAIT, "Synchronized and Programmed", || {
            let status = self.agent.json(&["status"]).unwrap_or_default();
            holds(&status, "Synchronized") && holds(&status, "Programmed")
        })
        .map(drop)
        .with_context(|| self.explain())
    }

    /// Waits until a condition is so, for this reason.
    pub(crate) fn wait_condition(&self, kind: &str, status: &str, reason: &str) -> Result<()> {
        let holds = || {
            let all = self.agent.json(&["status"]).unwrap_or_default();
            let mut all = all["conditions"].as_array().into_iter().flatten();
            all.any(|it| it["type"] == kind && it["status"] == status && it["reason"] == reason)
        };
        let waited = wait_until(WAIT, &format!("{kind} is {status}: {reason}"), holds).map(drop);
        waited.with_context(|| self.explain())
    }

    /// `backtrail cleanup` takes away all that is left, for tests that end with a stopped agent.
    pub(crate) fn ensure_clean(&mut self) -> Result<()> {
        self.agent.stop()?;
        self.agent.cleanup()?;
        let left = self.node.run("ip nexthop show; ip route show table all proto 201; ip rule")?;
        ensure!(!left.contains("201"), "left behind:\n{left}");
        Ok(())
    }

    pub(crate) fn explain(&self) -> String {
        let log = self.agent.log();
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        let status = self.agent.command(&["status"]).map(|(_, text)| text).unwrap_or_default();
        format!("{status}\nlog, newest first:\n{}", tail.join("\n"))
    }
}
