//! What operators do to an agent of a cluster: pause it, have a change probed.

use anyhow::{Result, ensure};
use backtrail_lab::{Agent, Cluster, Monitor, Namespace, TcpEcho, wait_until};
use serde_json::Value;

use crate::rig::{LIMIT, attachment, cluster, condition, message, rules};

const SERVICE: &str = "10.5.0.1:7000";

/// `DataplaneConfig` with an annotation and an `apply`.
fn config(paused: &str, apply: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1\nkind: DataplaneConfig\n\
         metadata: {{name: default, annotations: {{backtrail.dev/paused: '{paused}'}}}}\nspec: {{apply: {{{apply}}}}}\n"
    )
}

/// Traffic to `destination` by VRF red, which leads nowhere: it has no gateway, and ends in itself.
fn policy(name: &str, destination: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  rules:\n  \
         - {{name: only, match: {{destinations: [{destination}]}}, action: {{vrf: {{name: red, table: 10001}}}}}}\n"
    )
}

/// Why what is decided is, or is not, in force on the node.
fn enforced(agent: &Agent) -> String {
    let status = agent.json(&["status"]).unwrap_or_default();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|it| it["type"] == "Enforced").unwrap_or_default();
    found["reason"].as_str().unwrap_or_default().to_owned()
}

fn wait_rule(node: &Namespace, text: &str, there: bool) -> Result<()> {
    let what = format!("the rule '{text}' is there: {there}");
    wait_until(LIMIT, &what, || rules(node).is_ok_and(|all| all.contains(text) == there)).map(drop)
}

fn wait_enforced(rig: &Cluster, agent: &Agent, reason: &str) -> Result<Value> {
    wait_until(LIMIT, &format!("Enforced is {reason}"), || enforced(agent) == reason)?;
    rig.wait_for("nrs", "w1", &format!("it says {reason}"), |it| {
        let conditions = it["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|it| it["type"] == "Enforced" && it["reason"] == reason)
    })
}

/// Paused by command over a restart, then by the annotation: edits of objects wait, and the cluster is told so.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn a_pause_holds_back_what_the_cluster_asks_for() -> Result<()> {
    let Some(rig) = cluster("pause")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let mut agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: a}"))?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;

    agent.command(&["pause", "--reason", "the core is being moved"])?;
    let monitor = Monitor::start(&w1)?;
    rig.server.apply_text(&policy("first", "10.1.0.0/16"))?;
    let state = wait_enforced(&rig, &agent, "Paused")?;
    ensure!(message(&state, "Enforced").contains("the core is being moved"), "{state:#}");
    agent.kill()?;
    agent.run()?;
    wait_until(LIMIT, "what waits is counted", || {
        let status = agent.json(&["status"]).unwrap_or_default();
        status["apply"]["wouldChange"]["add"].as_u64().is_some_and(|count| count > 0)
    })?;
    ensure!(monitor.ours()?.is_empty(), "written while paused: {:?}", monitor.ours()?);
    agent.command(&["resume"])?;
    wait_rule(&w1, "to 10.1.0.0/16", true)?;

    rig.server.apply_text(&config("maintenance", ""))?;
    wait_enforced(&rig, &agent, "Paused")?;
    rig.server.apply_text(&policy("second", "10.2.0.0/16"))?;
    wait_until(LIMIT, "the second policy waits", || {
        agent.command(&["plan"]).is_ok_and(|(_, plan)| plan.contains("to 10.2.0.0/16"))
    })?;
    ensure!(!rules(&w1)?.contains("10.2.0.0/16"), "{}", rules(&w1)?);
    rig.server.apply_text(&config("false", ""))?;
    wait_rule(&w1, "to 10.2.0.0/16", true)?;
    wait_enforced(&rig, &agent, "Enforcing").map(drop)
}

/// A change that cuts the node off from what a probe reaches is taken back, by this agent and the next one, until it is
/// edited; what the Node's labels choose stays in force.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn a_change_after_which_a_probe_fails_is_taken_back() -> Result<()> {
    let Some(rig) = cluster("trial")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    rig.control.run("ip addr add 10.5.0.1/32 dev lo")?;
    w1.run("ip route add 10.5.0.0/16 via 203.0.113.5 proto static")?;
    let _service = TcpEcho::start(&rig.control, SERVICE.parse()?)?;
    rig.server
        .apply_text(&config("false", "probes: [{type: TCP, address: 10.5.0.1, port: 7000, timeout: 5s}]"))?;
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: a}"))?;
    let mut agent = rig.agent("w1", &w1)?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;

    rig.server.apply_text(&policy("harmless", "10.1.0.0/16"))?;
    wait_rule(&w1, "to 10.1.0.0/16", true)?;
    wait_enforced(&rig, &agent, "Enforcing")?;
    rig.server.apply_text(&policy("harmful", "10.5.0.0/16"))?;
    let state = wait_enforced(&rig, &agent, "RolledBack")?;
    ensure!(message(&state, "Enforced").contains(SERVICE), "{state:#}");
    let restored = |rules: &str| {
        rules.contains("lookup 10001")
            && rules.contains("to 10.1.0.0/16")
            && !rules.contains("to 10.5.0.0/16")
    };
    wait_until(LIMIT, "all else is in force", || rules(&w1).is_ok_and(|all| restored(&all)))?;
    agent.kill()?;
    agent.run()?;
    ensure!(
        enforced(&agent) == "RolledBack" && restored(&rules(&w1)?),
        "{}\n{}",
        enforced(&agent),
        rules(&w1)?
    );

    rig.server.kubectl(&["delete", "tp", "harmful"])?;
    wait_enforced(&rig, &agent, "Enforcing")?;
    ensure!(restored(&rules(&w1)?), "{}", rules(&w1)?);
    Ok(())
}
