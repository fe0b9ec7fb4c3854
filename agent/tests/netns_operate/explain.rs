//! `backtrail explain` against the kernel's own answers, and where the two must differ.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{End, TcpEcho, tcp_exchange};
use serde_json::Value;

use crate::rig::{Rig, manifests};

const STEER: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: replies}
spec: {interfaces: [{name: alt, gateway: {source: Static, ipv4: 10.0.2.1}}]}
";

fn explain(rig: &Rig, target: &[&str]) -> Result<(i32, Value)> {
    let arguments = [&["explain", "-o", "json"], target].concat();
    let (code, text) = rig.agent.command(&arguments)?;
    let value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok((code, value))
}

/// The steps of a direction as `kind owner-or-maker`.
fn steps(direction: &Value) -> Vec<String> {
    let word = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
    let by =
        |step: &Value| format!("{} {}{}", word(step, "kind"), word(step, "owner"), word(step, "foreign"));
    direction["steps"].as_array().into_iter().flatten().map(by).collect()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_kernel_agrees_with_each_step_and_a_difference_is_told() -> Result<()> {
    let config = "{guardrails: {protectedPrefixes: [10.9.0.0/16]}}";
    let prepare = "ip route add default via 192.0.2.1 proto static metric 50
                   ip -6 route add default via 2001:db8::1 proto static";
    let rig =
        Rig::prepared("explain", manifests("false", config, &["10.1.0.0/16", "2001:db8:1::/48"]), prepare)?;
    for target in ["10.1.2.3", "10.1.0.0/16"] {
        let (code, said) = explain(&rig, &[target])?;
        ensure!(code == 0 && said["consistent"] == true, "{said:#}");
        let direction = &said["directions"][0];
        let expected = ["rule TrafficPolicy/to-red", "route VRFAttachment/red", "nexthop "];
        ensure!(steps(direction) == expected, "{said:#}");
        ensure!(direction["kernel"]["table"] == 10001 && direction["kernel"]["dev"] == "wan", "{said:#}");
        ensure!(direction["verdict"] == "leaves by wan via 192.0.2.1", "{said:#}");
    }
    // No gateway of that family: refused by the VRF's isolation.
    let (code, said) = explain(&rig, &["2001:db8:1::5"])?;
    ensure!(code == 0 && said["directions"][0]["verdict"] == "is refused: unreachable", "{said:#}");
    for (target, by) in
        [("203.0.113.5", "route static"), ("2001:db8:7::1", "route static"), ("192.0.2.2", "local ")]
    {
        let (code, said) = explain(&rig, &[target])?;
        ensure!(code == 0 && steps(&said["directions"][0]).contains(&by.to_owned()), "{said:#}");
    }
    // Somebody's rule in front.
    rig.node.run(
        "ip rule add pref 500 to 10.1.7.0/24 lookup 77 proto static
         ip route add default via 192.0.2.77 table 77 proto static",
    )?;
    let (code, said) = explain(&rig, &["10.1.7.1"])?;
    ensure!(
        code == 0 && steps(&said["directions"][0]) == ["rule static", "route static", "nexthop "],
        "{said:#}"
    );
    // One that cannot be interpreted: the kernel's answer differs, and the rule is named.
    rig.node.run("ip rule add pref 501 not to 203.0.113.0/24 lookup 77 proto static")?;
    let (code, said) = explain(&rig, &["10.1.8.1"])?;
    let mismatch = said["directions"][0]["mismatch"].as_str().unwrap_or_default();
    ensure!(code == 2 && mismatch.contains("table 77") && mismatch.contains("501:"), "{said:#}");
    let (code, text) = rig.agent.command(&["explain", "10.1.8.1"])?;
    ensure!(code == 2 && text.contains("MISMATCH") && text.contains("TrafficPolicy/to-red"), "{text}");
    Ok(())
}

/// The kernel has no rule for port 65535; a range that ends there is in force all the same, and no port more.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_range_up_to_the_last_port_is_in_force() -> Result<()> {
    let ports = "{destinations: [10.1.0.0/16], protocol: TCP, destinationPorts: [{from: 1024, to: 65535}]}";
    let manifests =
        manifests("false", "{}", &["10.1.0.0/16"]).replace("{destinations: [10.1.0.0/16]}", ports);
    let rig = Rig::prepared("ports", manifests, "ip route add default via 192.0.2.1 proto static")?;
    rig.wait("the rules are there", |rig| rig.has_rule("10.1.0.0/16"))?;
    for (port, table) in [(80, 254), (1023, 254), (1024, 10001), (65534, 10001), (65535, 10001)] {
        let (code, said) = explain(&rig, &["tcp", "192.0.2.2:40000", &format!("10.1.0.1:{port}")])?;
        ensure!(code == 0 && said["directions"][0]["kernel"]["table"] == table, "{port}: {said:#}");
    }
    ensure!(rig.condition("Programmed")?.0 == "True", "{}", rig.agent.log());
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_steered_flow_is_followed_both_ways() -> Result<()> {
    let mut rig = Rig::prepared(
        "explainflow",
        manifests("false", "{}", &["10.1.0.0/16"]),
        "ip route add default via 192.0.2.1
         ip addr add 198.51.100.10/32 dev lo",
    )?;
    rig.lab.connect(
        &End::new(&rig.node, "alt", &["10.0.2.2/24"]),
        &End::new(&rig.peer, "eth1", &["10.0.2.1/24"]),
    )?;
    rig.node.forward()?;
    rig.peer.run(
        "ip addr add 203.0.113.9/32 dev lo
         ip route add 198.51.100.10 via 10.0.2.2 src 203.0.113.9
         for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
    )?;
    rig.agent.write_manifests(&(manifests("false", "{}", &["10.1.0.0/16"]) + STEER))?;
    rig.wait("the programs are attached", |rig| {
        rig.agent.json(&["status"]).is_ok_and(|it| it["returnPath"]["interfaces"][0]["state"] == "Attached")
    })?;
    let service = "198.51.100.10:7000".parse()?;
    let _echo = TcpEcho::start(&rig.node, service)?;
    let client = "203.0.113.9:40123";
    tcp_exchange(&rig.peer, Some(client.parse()?), service, Duration::from_secs(10))?;

    let (code, said) = explain(&rig, &["tcp", client, "198.51.100.10:7000"])?;
    let (forward, reply) = (&said["directions"][0], &said["directions"][1]);
    ensure!(code == 0 && said["consistent"] == true, "{said:#}");
    ensure!(forward["iif"] == "alt" && forward["iifFrom"] == "flowTable", "{said:#}");
    ensure!(forward["verdict"] == "is delivered to this node", "{said:#}");
    ensure!(steps(forward)[0] == "program ReturnPath/replies", "{said:#}");
    ensure!(reply["kernel"]["dev"] == "wan" && reply["verdict"] == "leaves by alt via 10.0.2.1", "{said:#}");
    ensure!(steps(reply).last().is_some_and(|step| step == "program ReturnPath/replies"), "{said:#}");

    // From the service's end it is the same flow.
    let (_, turned) = explain(&rig, &["tcp", "198.51.100.10:7000", client])?;
    ensure!(turned["directions"][0]["verdict"] == reply["verdict"], "{turned:#}");
    // A flow that nobody opened is not steered.
    let (_, other) = explain(&rig, &["tcp", "203.0.113.9:1", "198.51.100.10:7000", "--iif", "alt"])?;
    ensure!(other["directions"][1]["verdict"] == "leaves by wan via 192.0.2.1", "{other:#}");
    ensure!(other["directions"][0]["iifFrom"] == "given", "{other:#}");
    rig.agent.stop().map(drop)
}
