//! The agent in a cluster: a real API server with RBAC and admission, the agent with the shipped account's token.

mod bad;
mod clocks;
mod crds;
mod hostile;
mod lead;
mod operate;
mod proxy;
mod rig;
mod writes;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Monitor, wait_until};
use serde_json::Value;

use self::rig::{LIMIT, attachment, cluster, condition, message, rules};

/// Objects as a newcomer makes them: applied, edited, in conflict, deleted; labels of a node changed.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn objects_come_change_conflict_and_go() -> Result<()> {
    let Some(rig) = cluster("objects")? else { return Ok(()) };
    let (w1, w2) = (rig.node("w1", "rack: a")?, rig.node("w2", "rack: b")?);
    let (first, second) = (rig.agent("w1", &w1)?, rig.agent("w2", &w2)?);

    let state = rig.wait_for("nrs", "w1", "it is written", |it| it["status"]["agent"]["node"] == "w1")?;
    let owner = &state["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "Node" && owner["name"] == "w1", "the Node owns the state: {owner}");
    ensure!(state["status"]["agent"]["heartbeat"].is_string(), "it has a heartbeat");

    // For one node alone.
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: a}"))?;
    let red = rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;
    ensure!(
        (&red["status"]["matchedNodes"], &red["status"]["readyNodes"]) == (&1.into(), &1.into()),
        "{red:#}"
    );
    ensure!(red["status"]["observedGeneration"] == red["metadata"]["generation"], "{red:#}");
    ensure!(rules(&w1)?.contains("lookup 10001"), "{}", rules(&w1)?);
    ensure!(!rules(&w2)?.contains("lookup 10001"), "{}", rules(&w2)?);
    let columns = rig.server.kubectl(&["get", "vrfa", "red", "--no-headers"])?;
    ensure!(
        columns.split_whitespace().take(7).eq(["red", "red", "10001", "TableOnly", "1", "1", "False"]),
        "{columns}"
    );

    // A conflict names both, and what is programmed stays.
    rig.server.apply_text(&attachment("blue", "blue", 10002, ""))?;
    let blue =
        rig.wait_for("vrfa", "blue", "its conflict is told", |it| condition(it, "Conflicted") == "True")?;
    ensure!(message(&blue, "Conflicted").contains("VRFAttachment/red"), "{blue:#}");
    ensure!(condition(&blue, "Ready") == "False", "{blue:#}");
    ensure!(
        rules(&w1)?.contains("lookup 10001") && !rules(&w1)?.contains("iif red0 lookup 10002"),
        "{}",
        rules(&w1)?
    );
    wait_until(LIMIT, "the other node takes it", || {
        rules(&w2).is_ok_and(|text| text.contains("lookup 10002"))
    })?;
    let state =
        rig.wait_for("nrs", "w1", "the conflict is there", |it| it["status"]["conflicts"][0].is_object())?;
    let conflict = &state["status"]["conflicts"][0];
    ensure!(conflict["name"] == "blue" && conflict["winner"] == "VRFAttachment/red", "{conflict}");

    // The label moves, the attachment follows.
    rig.server.kubectl(&["delete", "vrfa", "blue"])?;
    rig.server.kubectl(&["label", "node", "w2", "rack=a", "--overwrite"])?;
    wait_until(LIMIT, "the node that matches now takes it", || {
        rules(&w2).is_ok_and(|text| text.contains("lookup 10001") && !text.contains("lookup 10002"))
    })?;
    rig.wait_for("vrfa", "red", "both nodes count", |it| it["status"]["readyNodes"] == 2)?;

    // An interface that one node lacks is named, with the node.
    let more = attachment("red", "red", 10001, "").replace("[{name: red0}]", "[{name: red0}, {name: eth7}]");
    rig.server.apply_text(&more)?;
    let red = rig.wait_for("vrfa", "red", "what is missing is told", |it| {
        it["status"]["failedNodes"][0].is_object()
    })?;
    ensure!(red["status"]["failedNodes"][0]["reason"] == "InterfaceNotFound", "{red:#}");
    ensure!(message(&red, "Ready").contains("eth7"), "{red:#}");

    // Events tell it to people.
    let events = rig.server.kubectl(&["get", "events", "--namespace", "default", "--output", "json"])?;
    let events: Value = serde_json::from_str(&events)?;
    let about = |name: &str| {
        events["items"].as_array().into_iter().flatten().any(|event| event["involvedObject"]["name"] == name)
    };
    ensure!(about("red"), "{events:#}");

    rig.server.kubectl(&["delete", "vrfa", "red"])?;
    for node in [&w1, &w2] {
        wait_until(LIMIT, "nothing is left", || rules(node).is_ok_and(|text| !text.contains("lookup 1000")))?;
    }
    drop((first, second));
    Ok(())
}

/// The API server goes, the agent is killed and started again: nothing that is programmed changes, nothing is lost.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn the_api_server_is_away_and_the_agent_starts() -> Result<()> {
    let Some(mut rig) = cluster("away")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let mut agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: a}"))?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;
    let snapshot =
        || w1.run("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip nexthop");
    let before = snapshot()?;

    let monitor = Monitor::start(&w1)?;
    rig.server.stop()?;
    agent.kill()?;
    agent.run()?;
    let away = |agent: &backtrail_lab::Agent| -> Result<Value> {
        let status = agent.json(&["status"])?;
        let conditions = status["conditions"].as_array().context("no conditions")?;
        Ok(conditions.iter().find(|it| it["type"] == "ClusterSynchronized").cloned().unwrap_or_default())
    };
    let mut last = Value::Null;
    wait_until(LIMIT, "the agent says what is wrong", || {
        last = away(&agent).unwrap_or_default();
        last["status"] == "False"
    })?;
    ensure!(last["reason"] == "APIServerAway", "{last}");
    ensure!(snapshot()? == before, "{}\nbefore:\n{before}", snapshot()?);
    let seen = monitor.ours()?;
    ensure!(seen.is_empty(), "a start without an API server changes nothing: {seen:#?}\n{}", agent.log());
    let log = agent.log();
    let told = log.lines().filter(|line| line.contains("the API server does not answer")).count();
    ensure!(told <= 3, "it is told once for each process, not {told} times:\n{log}");

    // It comes back, and with it what was changed meanwhile.
    rig.server.run()?;
    wait_until(LIMIT, "the API server is reached again", || {
        away(&agent).is_ok_and(|it| it["status"] == "True")
    })?;
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: none}"))?;
    wait_until(LIMIT, "edits are followed again", || {
        rules(&w1).is_ok_and(|text| !text.contains("lookup 10001"))
    })?;
    Ok(())
}
