//! Changes on trial: probed, kept or taken back.

use std::time::Duration;

use anyhow::{Result, ensure};
use backtrail_lab::{TcpEcho, tcp_exchange};

use crate::rig::{Rig, manifests};

const SERVICE: &str = "10.5.0.1:7000";
/// TCP behind the VRF's gateway, and both families of echo requests to the gateway itself.
const PROBES: &str = "{apply: {probes: [{type: TCP, address: 10.5.0.1, port: 7000, timeout: 4s}, \
                      {type: ICMP, address: 192.0.2.1, timeout: 60s}, {type: ICMP, address: '2001:db8::1', timeout: 60s}]}}";

fn good(destinations: &[&str]) -> String {
    manifests("false", PROBES, destinations)
}

/// The gateway is gone: its VRF leads nowhere.
fn bad() -> String {
    good(&["10.5.0.0/16"]).replace("gateways: [{address: 192.0.2.1, interface: wan}]", "gateways: []")
}

/// A node that reaches the service by main, and the service.
fn reaching(name: &str, manifests: String) -> Result<(Rig, TcpEcho)> {
    let rig = Rig::prepared(name, manifests, "ip route add 10.5.0.0/16 via 192.0.2.1")?;
    let service = serve(&rig)?;
    Ok((rig, service))
}

/// The service, and sockets for echo requests.
fn serve(rig: &Rig) -> Result<TcpEcho> {
    rig.peer.run("ip addr add 10.5.0.1/32 dev lo")?;
    // As systemd sets it: the agent has no CAP_NET_RAW.
    rig.node.sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
    TcpEcho::start(&rig.peer, SERVICE.parse()?)
}

fn reaches(rig: &Rig) -> Result<()> {
    tcp_exchange(&rig.node, None, SERVICE.parse()?, Duration::from_secs(5)).map(drop)
}

/// Waits until a change is taken back, and nothing of it is left.
fn undone(rig: &Rig) -> Result<()> {
    rig.wait_reason("Enforced", "RolledBack")?;
    rig.wait("nothing of it is left", |rig| rig.ours().is_ok_and(|ours| ours.is_empty()))?;
    reaches(rig)
}

/// Without objects besides `DataplaneConfig`.
fn no_policy() -> String {
    good(&[]).split_once("---").map(|(config, _)| config.to_owned()).unwrap_or_default()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_change_after_which_a_probe_fails_is_taken_back_until_it_is_edited() -> Result<()> {
    let mut rig = Rig::start("trial", good(&["10.5.0.0/16"]))?;
    let _service = serve(&rig)?;
    reaches(&rig)?;

    // A change that does no harm stands its trial.
    rig.agent.write_manifests(&good(&["10.5.0.0/16", "10.6.0.0/16"]))?;
    rig.wait("the rule is there", |rig| rig.has_rule("10.6.0.0/16"))?;
    rig.wait_reason("Enforced", "Enforcing")?;
    ensure!(rig.agent.log().contains("all probes have succeeded"), "{}", rig.agent.log());

    rig.agent.write_manifests(&bad())?;
    rig.wait_reason("Enforced", "RolledBack")?;
    let status = rig.agent.command(&["status"])?;
    ensure!(status.0 == 2 && status.1.contains("TCP 10.5.0.1:7000"), "{}", status.1);
    rig.wait("the gateway is back", |rig| {
        rig.ours().is_ok_and(|ours| ours.contains("default via 192.0.2.1"))
    })?;
    rig.wait("the rule is back", |rig| rig.has_rule("10.6.0.0/16"))?;
    reaches(&rig)?;

    // Not tried again: not when it is read once more, nor by the next agent.
    rig.agent.reload()?;
    rig.wait("it was read", |rig| rig.agent.log().contains("they are not tried again until edited"))?;
    rig.agent.kill()?;
    rig.agent.run()?;
    ensure!(rig.condition("Enforced")?.1 == "RolledBack");
    ensure!(rig.ours()?.contains("default via 192.0.2.1"), "{}", rig.ours()?);
    reaches(&rig)?;

    rig.agent.write_manifests(&good(&["10.5.0.0/16"]))?;
    rig.wait("the rule goes", |rig| !rig.has_rule("10.6.0.0/16"))?;
    rig.wait_reason("Enforced", "Enforcing")?;
    reaches(&rig)
}

/// The first VRF wants a look at all routes before it is planned; so does every agent that starts.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_change_is_probed_when_it_is_written_however_long_that_is_prepared() -> Result<()> {
    let (mut rig, _service) = reaching("trialfirst", no_policy())?;
    rig.agent.write_manifests(&bad())?;
    undone(&rig)?;

    // An agent that dies during a trial, on a node that forgets what was written.
    rig.agent.write_manifests(&bad().replace("10.5.0.0/16", "10.5.0.0/24"))?;
    rig.wait("the rule is there", |rig| rig.has_rule("10.5.0.0/24"))?;
    rig.agent.kill()?;
    rig.node.run("ip rule flush proto 201")?;
    reaches(&rig)?;
    rig.agent.run()?;
    undone(&rig)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_change_that_is_made_during_a_pause_is_probed_after_it() -> Result<()> {
    let (rig, _service) = reaching("trialpause", no_policy())?;
    rig.agent.command(&["pause"])?;
    rig.agent.write_manifests(&bad())?;
    rig.wait_planned("to 10.5.0.0/16")?;
    // Longer than a change is given to come to rest.
    std::thread::sleep(Duration::from_secs(11));
    rig.agent.command(&["resume"])?;
    undone(&rig)
}

/// The way back is what was written last, never what wrote nothing.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_change_that_ends_a_dry_run_or_a_pause_is_taken_out_again() -> Result<()> {
    let (mut rig, _service) = reaching("trialdry", bad().replace("{apply: {", "{apply: {mode: DryRun, "))?;
    rig.wait_reason("Enforced", "DryRun")?;
    rig.agent.write_manifests(&bad())?;
    undone(&rig)?;
    rig.agent.kill()?;
    rig.agent.run()?;
    undone(&rig)?;

    rig.agent.write_manifests(&good(&["10.6.0.0/16"]))?;
    rig.wait("the rule is there", |rig| rig.has_rule("10.6.0.0/16"))?;
    rig.wait_reason("Enforced", "Enforcing")?;
    rig.agent.write_manifests(&manifests("maintenance", PROBES, &["10.7.0.0/16"]))?;
    rig.wait_reason("Enforced", "Paused")?;
    rig.agent.kill()?;
    rig.agent.run()?;
    rig.wait_reason("Enforced", "Paused")?;
    rig.agent.write_manifests(&bad())?;
    rig.wait_reason("Enforced", "RolledBack")?;
    rig.wait("what was written last is back", |rig| {
        rig.has_rule("10.6.0.0/16") && !rig.has_rule("10.5.0.0/16")
    })?;
    reaches(&rig)
}
