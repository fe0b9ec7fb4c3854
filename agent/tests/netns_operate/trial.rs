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

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_change_after_which_a_probe_fails_is_taken_back_until_it_is_edited() -> Result<()> {
    let mut rig = Rig::start("trial", good(&["10.5.0.0/16"]))?;
    rig.peer.run("ip addr add 10.5.0.1/32 dev lo")?;
    // As systemd sets it: the agent has no CAP_NET_RAW.
    rig.node.sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
    let _service = TcpEcho::start(&rig.peer, SERVICE.parse()?)?;
    let reaches = |rig: &Rig| tcp_exchange(&rig.node, None, SERVICE.parse()?, Duration::from_secs(5));
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
    reaches(&rig).map(drop)
}
