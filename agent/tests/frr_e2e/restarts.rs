//! Restarts of zebra, of the agent and of their session: no packet of a steady flow is lost, nothing unchanged is touched.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Daemon, Flow, FrrInstall, Monitor, UdpEcho, wait_until};

use crate::rig::{PEER_AS, Rig, Sessions, WAIT};

const PREFIX: &str = "10.64.0.0/24";

/// A rig with 100 routes and a flow that needs one of them.
struct Steady {
    rig: Rig,
    flow: Flow,
    monitor: Monitor,
    _echo: UdpEcho,
}

impl Steady {
    fn start(install: &FrrInstall) -> Result<Self> {
        let rig = Rig::start(install, Sessions::V4)?;
        let mut prefixes: Vec<String> = (1..100).map(|n| format!("10.65.{n}.0/24")).collect();
        prefixes.push(PREFIX.to_owned());
        rig.speakers[0].announce(PEER_AS, &prefixes)?;
        rig.wait_count(4, 100)?;
        rig.wait_synchronized()?;
        rig.peers[0].run("ip addr add 10.64.0.1/32 dev lo")?;
        if rig.into != 254 {
            // In mirror mode main has a route too: the flow shall need the agent's table.
            rig.node.run(&format!(
                "ip rule add to {PREFIX} lookup {} pref 2000; ip rule add to {PREFIX} unreachable pref 2001",
                rig.into
            ))?;
        }
        let target = "10.64.0.1:9000".parse()?;
        let echo = UdpEcho::start(&rig.peers[0], target)?;
        let flow = Flow::start(&rig.node, "192.0.1.2:0".parse()?, target, Duration::from_millis(2))?;
        wait_until(WAIT, "the flow works", || flow.report().received > 50)?;
        let monitor = Monitor::start(&rig.node)?;
        Ok(Self { rig, flow, monitor, _echo: echo })
    }

    fn end(self) -> Result<()> {
        let seen = self.flow.report().received;
        wait_until(WAIT, "the flow still works", || self.flow.report().received > seen + 50)?;
        Rig::ensure_untouched(&self.monitor).with_context(|| self.rig.agent.log())?;
        let report = self.flow.stop();
        ensure!(report.lost == 0, "the flow lost packets: {report:?}");
        ensure!(self.rig.routes(4)?.len() == 100);
        Ok(())
    }

    /// Waits until FRR has announced all routes again.
    fn wait_confirmed(&self) -> Result<()> {
        let confirmed = || {
            let status = self.rig.agent.json(&["status"]).unwrap_or_default();
            let count =
                |what: &str| status.pointer(&format!("/routes/{what}")).and_then(serde_json::Value::as_u64);
            count("learned") == Some(100) && count("programmed") == Some(100) && count("stale") == Some(0)
        };
        wait_until(WAIT, "all routes are confirmed", confirmed)
            .map(drop)
            .with_context(|| self.rig.agent.log())
    }

    /// Waits until the agent has taken in something new, so all before it is done.
    fn wait_news(&self, prefix: &str) -> Result<()> {
        self.rig.speakers[1].announce(PEER_AS, &[prefix.to_owned()])?;
        self.rig.wait_ways(prefix, &["192.0.2.1 up1"])?;
        self.rig.speakers[1].withdraw(PEER_AS, &[prefix.to_owned()])?;
        self.rig.wait_ways(prefix, &[])
    }
}

fn killed_zebra(install: &FrrInstall) -> Result<()> {
    let mut steady = Steady::start(install)?;
    steady.rig.frr.kill(Daemon::Zebra)?;
    wait_until(WAIT, "the loss of zebra is seen", || {
        steady.rig.condition("FPMConnected").is_ok_and(|(status, _)| status == "False")
    })?;
    ensure!(steady.rig.routes(4)?.len() == 100, "routes went with zebra");
    // As watchfrr does it: bgpd does not tell a new zebra its routes.
    steady.rig.frr.restart(Daemon::Zebra)?;
    steady.rig.frr.restart(Daemon::Bgpd)?;
    steady.rig.frr.wait_established(2, WAIT)?;
    wait_until(WAIT, "the new zebra is seen", || {
        steady.rig.condition("FPMConnected").is_ok_and(|(status, _)| status == "True")
    })?;
    steady.wait_confirmed()?;
    steady.end()
}

fn agent_stopped_and_started(install: &FrrInstall) -> Result<()> {
    let mut steady = Steady::start(install)?;
    ensure!(steady.rig.agent.stop()?.success(), "SIGTERM is no failure");
    steady.rig.agent.run()?;
    steady.rig.wait_synchronized()?;
    steady.end()
}

fn agent_killed_and_started(install: &FrrInstall) -> Result<()> {
    let mut steady = Steady::start(install)?;
    steady.rig.agent.kill()?;
    steady.rig.agent.run()?;
    steady.rig.wait_synchronized()?;
    steady.end()
}

/// As after a reboot of the daemons: all are dead at once, the agent is back first, and the others' objects are theirs.
fn all_killed_at_once(install: &FrrInstall) -> Result<()> {
    let mut steady = Steady::start(install)?;
    steady.rig.node.run(
        "ip route add 172.16.0.0/16 via 192.0.2.1 proto static; ip rule add to 172.17.0.0/16 lookup 7 pref 900
         ip route add 172.18.0.0/16 via 192.0.2.1 proto 99",
    )?;
    // No nexthop objects: FRR 10.3 sweeps those of others when it starts.
    let foreign =
        || steady.rig.node.run("ip route show proto static; ip route show proto 99; ip rule show pref 900");
    let before = foreign()?;
    steady.rig.frr.kill(Daemon::Zebra)?;
    steady.rig.agent.kill()?;
    steady.rig.frr.kill(Daemon::Bgpd)?;
    steady.rig.agent.run()?;
    steady.rig.frr.restart(Daemon::Zebra)?;
    steady.rig.frr.restart(Daemon::Bgpd)?;
    steady.rig.frr.wait_established(2, WAIT)?;
    steady.wait_confirmed()?;
    ensure!(foreign()? == before, "{before}\nnow:\n{}", foreign()?);
    steady.end()
}

fn reload_of_unchanged_manifests(install: &FrrInstall) -> Result<()> {
    let mut steady = Steady::start(install)?;
    let reloads = |log: &str| log.matches("manifests read").count();
    let before = reloads(&steady.rig.agent.log());
    steady.rig.agent.reload()?;
    wait_until(WAIT, "the agent logs the reload", || reloads(&steady.rig.agent.log()) > before)?;
    steady.end()
}

fn reconnected_feed(install: &FrrInstall) -> Result<()> {
    let steady = Steady::start(install)?;
    steady.rig.frr.configure("no fpm address\n")?;
    wait_until(WAIT, "the disconnect is seen", || {
        steady.rig.condition("FPMConnected").is_ok_and(|(status, _)| status == "False")
    })?;
    steady.rig.frr.configure("fpm address 127.0.0.1 port 2620\n")?;
    steady.rig.wait_synchronized()?;
    steady.end()
}

fn withdrawn_while_the_agent_is_down(install: &FrrInstall) -> Result<()> {
    let mut steady = Steady::start(install)?;
    steady.rig.agent.stop()?;
    let gone = "10.65.7.0/24";
    steady.rig.speakers[0].withdraw(PEER_AS, &[gone.to_owned()])?;
    wait_until(WAIT, "zebra has withdrawn it", || {
        let shown = steady.rig.node.run(&format!("ip route show table {} proto bgp", steady.rig.from));
        shown.is_ok_and(|shown| !shown.contains(gone))
    })?;
    steady.rig.agent.run()?;
    steady.rig.wait_ways(gone, &[])?;
    ensure!(steady.rig.routes(4)?.len() == 99);
    steady.wait_news("10.66.0.0/24")?;
    let lost = steady.flow.stop().lost;
    ensure!(lost == 0, "the flow lost {lost} packets");
    Ok(())
}

with_each_frr!(
    killed_zebra,
    agent_stopped_and_started,
    agent_killed_and_started,
    all_killed_at_once,
    reload_of_unchanged_manifests,
    reconnected_feed,
    withdrawn_while_the_agent_is_down,
);

with_frr_of!(sid, Sid: killed_zebra, all_killed_at_once, reconnected_feed);
