//! An agent on a node with two uplinks, fed with route sets as zebra would feed it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, frames, group, nexthop};
use backtrail_lab::{Agent, AgentOptions, End, Feeder, Lab, Namespace};
use ipnet::IpNet;

use crate::routes::netlink::Writer;

/// The table that the agent writes.
pub(crate) const TABLE: u32 = 10_050;
const PROTOCOL: u8 = 201;
/// The nexthop ids that the feed uses: one for each uplink, and the group of both.
const UP: [u32; 2] = [11, 12];
/// The group of both uplinks.
pub(crate) const BOTH: u32 = 20;
/// A load ends at the latest.
const DEADLINE: Duration = Duration::from_secs(600);

/// A node with uplinks `up0` and `up1`, both families.
pub(crate) struct Node {
    pub(crate) node: Namespace,
    ifindexes: [u32; 2],
    _peers: [Namespace; 2],
}

impl Node {
    pub(crate) fn new(lab: &Lab, name: &str) -> Result<Self> {
        let node = lab.namespace(name)?;
        let peers = [lab.namespace(&format!("{name}-p0"))?, lab.namespace(&format!("{name}-p1"))?];
        for (n, peer) in peers.iter().enumerate() {
            let of = |host: u8| [format!("198.18.{n}.{host}/24"), format!("2001:db8:{n}::{host}/64")];
            let (theirs, ours) = (of(1), of(2));
            lab.connect(
                &End::new(peer, "eth0", &[&theirs[0], &theirs[1]]),
                &End::new(&node, &format!("up{n}"), &[&ours[0], &ours[1]]),
            )?;
        }
        let ifindexes = [ifindex(&node, "up0")?, ifindex(&node, "up1")?];
        Ok(Self { node, ifindexes, _peers: peers })
    }
}

fn ifindex(node: &Namespace, name: &str) -> Result<u32> {
    let links = node.json(&format!("ip -j link show dev {name}"))?;
    let index = links.get(0).and_then(|link| link.get("ifindex")?.as_u64()).context("no ifindex")?;
    Ok(u32::try_from(index)?)
}

/// The gateway of an uplink.
pub(crate) fn gateway(uplink: usize, v6: bool) -> String {
    if v6 { format!("2001:db8:{uplink}::1") } else { format!("198.18.{uplink}.1") }
}

/// The agent with its session.
pub(crate) struct Fed {
    pub(crate) on: Node,
    pub(crate) agent: Agent,
    feeder: Option<Feeder>,
}

impl Fed {
    /// Prepares an agent that takes up to `max_routes` into [`TABLE`].
    pub(crate) fn new(lab: &Lab, name: &str, binary: &Path, max_routes: u32) -> Result<Self> {
        let on = Node::new(lab, name)?;
        let binary = std::path::absolute(binary)?;
        ensure!(binary.exists(), "no agent at {}: cargo build --release -p backtrail", binary.display());
        let from = Feeder::TABLE;
        let manifests = crate::routes::manifests(from, TABLE, max_routes);
        let options = AgentOptions { manifests, ..AgentOptions::default() };
        let agent = Agent::prepare(lab, &on.node, &binary, options)?;
        Ok(Self { on, agent, feeder: None })
    }

    /// A fresh agent process and a session with the nexthop objects of a family.
    pub(crate) fn start(&mut self, v6: bool) -> Result<()> {
        self.agent.run()?;
        let mut feeder = Feeder::connect(&self.on.node)?;
        let object = |uplink: usize| {
            anyhow::Ok(nexthop(UP[uplink], gateway(uplink, v6).parse()?, self.on.ifindexes[uplink]))
        };
        feeder.send([object(0)?, object(1)?, group(BOTH, &UP)])?;
        self.feeder = Some(feeder);
        Ok(())
    }

    /// Announces routes by the group of both uplinks; returns when all are in the kernel.
    pub(crate) fn load(&mut self, routes: &[IpNet]) -> Result<()> {
        let feeder = self.feeder.as_mut().context("not started")?;
        feeder.send_bytes(&frames(routes.iter().map(|net| announce(*net, BOTH)))?)?;
        let v6 = routes.first().is_some_and(|net| net.addr().is_ipv6());
        let began = Instant::now();
        loop {
            let count = self.on.node.enter(|| Writer::open()?.count(TABLE, PROTOCOL, v6))??;
            if count as usize == routes.len() {
                return Ok(());
            }
            ensure!(began.elapsed() < DEADLINE, "{count} of {} routes are there", routes.len());
            ensure!(!backtrail_lab::interrupted(), "interrupted");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the session and the agent, and removes its routes.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.feeder = None;
        self.agent.stop()?;
        self.agent.cleanup()?;
        Ok(())
    }
}
