//! BGP advertises only what forwards: `fpm.offloadAck` with an FRR that waits for it, and with one that cannot.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{FrrInstall, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::rig::{NODE_AS, PEER_AS, Rig, Sessions, Setup, WAIT};

const OFFLOAD_ACK: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {name: default}
spec: {fpm: {offloadAck: true}}
";
const PREFIX: &str = "10.64.0.0/24";
const OTHER: &str = "10.65.0.0/24";

/// The first peer announces, the node passes on, the second peer sees.
fn suppressing(install: &FrrInstall) -> Result<Rig> {
    ensure!(install.takes_feedback(), "FRR {} ignores feedback: another suite is needed", install.version());
    Rig::with(
        install,
        Sessions::V4,
        &Setup {
            zebra: vec!["--asic-offload=notify_on_offload".to_owned()],
            bgp: " bgp suppress-fib-pending\n",
            manifests: OFFLOAD_ACK,
            transit: true,
            ..Setup::default()
        },
    )
}

impl Rig {
    fn announce(&self, prefix: &str) -> Result<()> {
        self.speakers[0].announce(PEER_AS, &[prefix.to_owned()])
    }

    /// Whether the second peer has learned the prefix from the node.
    fn passed_on(&self, prefix: &str) -> bool {
        let shown = self.speakers[1].json(&format!("show bgp ipv4 unicast {prefix} json"));
        shown.is_ok_and(|shown| {
            shown.get("paths").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
        })
    }

    fn wait_passed_on(&self, prefix: &str, expected: bool) -> Result<()> {
        let what = format!("{prefix} is {}with the second peer", if expected { "" } else { "no longer " });
        let waited = wait_until(WAIT, &what, || self.passed_on(prefix) == expected);
        waited.map(drop).with_context(|| {
            let shown = self.frr.vtysh(&["show ip route", "show bgp ipv4 unicast"]).unwrap_or_default();
            format!("{shown}\n{}", self.agent.log())
        })
    }

    /// Waits until the node's zebra shows a flag of the route.
    fn wait_flag(&self, prefix: &str, flag: &str) -> Result<()> {
        wait_until(WAIT, &format!("{prefix} is {flag} in zebra"), || {
            let shown = self.frr.json(&format!("show ip route {prefix} json")).unwrap_or_default();
            let routes = shown.get(prefix).and_then(Value::as_array).cloned().unwrap_or_default();
            routes.iter().any(|route| route.get(flag) == Some(&Value::Bool(true)))
        })
        .map(drop)
        .with_context(|| self.frr.vtysh(&["show ip route"]).unwrap_or_default())
    }

    /// Waits until the node's zebra shows that the route failed: in its table only, JSON has no word for it.
    fn wait_failed(&self, prefix: &str) -> Result<()> {
        wait_until(WAIT, &format!("{prefix} has the flag o in zebra"), || {
            let shown = self.frr.vtysh(&["show ip route"]).unwrap_or_default();
            let flags = shown.lines().find_map(|line| line.split_once(prefix)).map(|(flags, _)| flags);
            flags.is_some_and(|flags| flags.contains('o'))
        })
        .map(drop)
        .with_context(|| self.frr.vtysh(&["show ip route"]).unwrap_or_default())
    }

    /// Makes the node advertise something of its own, which waits for nobody, and waits until the second peer has it: what
    /// the node had to say before, it has said.
    fn wait_said(&self, own: &str) -> Result<()> {
        self.frr.announce(NODE_AS, &[own.to_owned()])?;
        self.wait_passed_on(own, true)
    }
}

fn advertised_once_the_kernel_has_it(install: &FrrInstall) -> Result<()> {
    let mut rig = suppressing(install)?;
    rig.agent.process()?.signal(Signal::SIGSTOP)?;
    rig.announce(PREFIX)?;
    rig.wait_flag(PREFIX, "queued")?;
    rig.wait_said("198.51.100.0/24")?;
    ensure!(!rig.passed_on(PREFIX), "advertised before anything forwards");
    ensure!(rig.routes(4)?.is_empty());
    rig.agent.process()?.signal(Signal::SIGCONT)?;
    rig.wait_passed_on(PREFIX, true)?;
    ensure!(!rig.ways(PREFIX)?.is_empty(), "advertised, and not in the kernel");
    rig.wait_flag(PREFIX, "offloaded")?;
    rig.speakers[0].withdraw(PEER_AS, &[PREFIX.to_owned()])?;
    rig.wait_passed_on(PREFIX, false)
}

fn withheld_and_withdrawn_when_the_kernel_refuses(install: &FrrInstall) -> Result<()> {
    let rig = suppressing(install)?;
    let foreign = |act: &str, prefix: &str| {
        rig.node.run(&format!("ip route {act} {prefix} via 192.0.2.1 dev up1 metric 20 proto static"))
    };
    foreign("add", PREFIX)?;
    rig.announce(PREFIX)?;
    rig.announce(OTHER)?;
    rig.wait_passed_on(OTHER, true)?;
    rig.wait_failed(PREFIX)?;
    rig.wait_said("198.51.100.0/24")?;
    ensure!(!rig.passed_on(PREFIX), "advertised though somebody else's route is in its place");
    ensure!(rig.agent.metric("backtrail_fpm_feedback_total{outcome=\"offload_failed\"}")? >= 1);
    foreign("del", PREFIX)?;
    rig.wait_passed_on(PREFIX, true)?;

    // Somebody takes the place of a route that was advertised.
    foreign("replace", OTHER)?;
    rig.wait_passed_on(OTHER, false)?;
    ensure!(rig.passed_on(PREFIX), "the other prefix is not concerned");
    foreign("del", OTHER)?;
    rig.wait_passed_on(OTHER, true)
}

fn what_no_import_takes_is_not_advertised(install: &FrrInstall) -> Result<()> {
    let rig = suppressing(install)?;
    rig.announce("0.0.0.0/0")?;
    rig.announce(PREFIX)?;
    rig.wait_passed_on(PREFIX, true)?;
    rig.wait_failed("0.0.0.0/0")?;
    rig.wait_said("198.51.100.0/24")?;
    ensure!(!rig.passed_on("0.0.0.0/0"), "a default route that the import rejects attracts traffic");
    Ok(())
}

fn a_new_agent_answers_everything_again(install: &FrrInstall) -> Result<()> {
    const OFFLOADED: &str = "backtrail_fpm_feedback_total{outcome=\"offload\"}";
    let mut rig = suppressing(install)?;
    let all: Vec<String> = (0..50).map(|n| format!("10.64.{n}.0/24")).collect();
    rig.speakers[0].announce(PEER_AS, &all)?;
    for prefix in &all {
        rig.wait_passed_on(prefix, true)?;
    }
    rig.agent.kill()?;
    rig.announce(OTHER)?;
    rig.wait_flag(OTHER, "queued")?;
    rig.wait_said("198.51.100.0/24")?;
    ensure!(!rig.passed_on(OTHER), "advertised while nobody programs");
    rig.agent.run()?;
    rig.wait_passed_on(OTHER, true)?;
    wait_until(WAIT, "every route is answered for", || {
        rig.agent.metric(OFFLOADED).is_ok_and(|count| count >= 51)
    })?;
    ensure!(all.iter().all(|prefix| rig.passed_on(prefix)), "the restart withdrew something");
    Ok(())
}

with_frr_of!(sid, Sid:
    advertised_once_the_kernel_has_it,
    withheld_and_withdrawn_when_the_kernel_refuses,
    what_no_import_takes_is_not_advertised,
    a_new_agent_answers_everything_again,
);

#[test]
#[ignore = "needs FRR, root and network namespaces: cargo xtask test frr"]
fn an_frr_that_ignores_answers_is_named() -> Result<()> {
    let install = FrrInstall::host()?;
    if install.takes_feedback() {
        println!("SKIPPED an_frr_that_ignores_answers_is_named: FRR {} takes them", install.version());
        return Ok(());
    }
    // zebra runs as another user: only who may look at its process knows its version.
    let setup = Setup { manifests: OFFLOAD_ACK, capabilities: &["sys_ptrace"], ..Setup::default() };
    let rig = Rig::with(&install, Sessions::V4, &setup)?;
    wait_until(WAIT, "the condition names it", || {
        let expected = ("True".to_owned(), "FeedbackUnsupported".to_owned());
        rig.condition("FPMConnected").is_ok_and(|found| found == expected)
    })?;
    rig.announce(PREFIX)?;
    rig.wait_ways(PREFIX, &["192.0.1.1 up0"])?;
    rig.wait_synchronized()?;
    ensure!(rig.agent.metric("backtrail_fpm_feedback_total{outcome=\"offload\"}")? == 0, "nobody listens");
    let status = rig.agent.json(&["status"])?;
    ensure!(status.to_string().contains("ignores what an FPM server sends"), "{status}");
    Ok(())
}
