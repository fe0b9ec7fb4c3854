//! The agent in a cluster: a real API server with RBAC and admission, the agent with the shipped account's token.

mod bad;
mod hostile;
mod operate;
mod proxy;
mod rig;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Monitor, wait_until};
use serde_json::Value;

use self::rig::{LIMIT, Rig, attachment, condition, message, rules};

/// Objects as a newcomer makes them: applied, edited, in conflict, deleted; labels of a node changed.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn objects_come_change_conflict_and_go() -> Result<()> {
    let Some(rig) = Rig::new("objects")? else { return Ok(()) };
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
    let Some(mut rig) = Rig::new("away")? else { return Ok(()) };
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

/// What the agent may not do is refused: by RBAC, or by the policy that keeps it to its own node.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn the_agent_may_do_its_work_and_nothing_else() -> Result<()> {
    let Some(rig) = Rig::new("rights")? else { return Ok(()) };
    let (w1, _w2) = (rig.node("w1", "rack: a")?, rig.node("w2", "rack: b")?);
    let _agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(&attachment("red", "red", 10001, ""))?;
    rig.wait_for("vrfa", "red", "the agent sums up", |it| condition(it, "Ready") == "True")?;
    let refused: Vec<_> = rig.server.audited()?.into_iter().filter(|it| it.code == 403).collect();
    ensure!(refused.is_empty(), "it asks for what it may not do: {refused:?}");

    let token = rig.kubeconfig("w1", &rig.server.url())?;
    let merge = |kind: &str, name: &str, status: &[&str], patch: &str| {
        let mut arguments = vec!["patch", kind, name, "--type=merge", "--patch", patch];
        arguments.extend(status);
        rig.server.kubectl_as(&token, &arguments)
    };
    let sub = ["--subresource=status"];
    merge("nrs", "w1", &sub, r#"{"status": {"configHash": "own"}}"#).context("its own state")?;
    // A state of another node, made by the administrator.
    rig.server
        .apply_text("apiVersion: backtrail.dev/v1alpha1\nkind: NodeRoutingState\nmetadata: {name: w2}\n")?;
    for (what, result) in [
        ("the spec of an object", merge("vrfa", "red", &[], r#"{"spec": {"isolation": "FallbackToMain"}}"#)),
        ("another node's state", merge("nrs", "w2", &sub, r#"{"status": {"configHash": "lie"}}"#)),
        ("a Node", merge("node", "w1", &[], r#"{"metadata": {"labels": {"rack": "b"}}}"#)),
        ("deletion of an object", rig.server.kubectl_as(&token, &["delete", "vrfa", "red"])),
        ("deletion of its state", rig.server.kubectl_as(&token, &["delete", "nrs", "w1"])),
        ("secrets", rig.server.kubectl_as(&token, &["get", "secrets", "--all-namespaces"])),
        ("pods", rig.server.kubectl_as(&token, &["get", "pods", "--all-namespaces"])),
        ("CRDs", rig.server.kubectl_as(&token, &["delete", "crd", "vrfattachments.backtrail.dev"])),
    ] {
        let error = result.err().with_context(|| format!("{what}: it is allowed"))?;
        let text = format!("{error:#}");
        ensure!(text.contains("orbidden") || text.contains("denied"), "{what}: {text}");
    }
    Ok(())
}

/// In quiet an agent writes nothing but its heartbeat; while things change, not more often than every ten seconds.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn an_agent_writes_rarely() -> Result<()> {
    let Some(rig) = Rig::new("writes")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(&attachment("red", "red", 10001, ""))?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;
    let writes = || -> Result<usize> {
        Ok(rig
            .server
            .audited()?
            .iter()
            .filter(|it| it.is_write() && it.target == "noderoutingstates/w1/status")
            .count())
    };
    let began = std::time::Instant::now();
    let before = writes()?;
    // Every change of a link is a change of the status; the agent looks every two seconds.
    let mut changes = 0;
    while writes()? < before + 2 {
        ensure!(began.elapsed() < LIMIT, "two writes do not come");
        changes += 1;
        w1.run(if changes % 2 == 0 { "ip link set red0 up" } else { "ip link set red0 down" })?;
    }
    let (count, seconds) = (writes()? - before, began.elapsed().as_secs_f64());
    ensure!(changes > count, "{changes} changes, {count} writes");
    ensure!(count as f64 <= seconds / 10.0 + 1.0, "{count} writes in {seconds} s");
    drop(agent);
    Ok(())
}
