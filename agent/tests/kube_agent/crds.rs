//! CRDs of other versions than the agent's, and an API server that is upgraded while agents run.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Cluster, Monitor, deploy, wait_until};
use serde_json::{Value, json};

use super::rig::{LIMIT, attachment, cluster, condition, rules, warnings};

/// A CRD as it is shipped.
fn shipped(plural: &str) -> Result<Value> {
    let text = std::fs::read_to_string(deploy(&format!("crds/{plural}.yaml")))?;
    Ok(serde_saphyr::from_str(&text)?)
}

/// The same as it was before a field was there.
fn without(plural: &str, parent: &str, field: &str) -> Result<Value> {
    let mut crd = shipped(plural)?;
    let parent = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{parent}/properties");
    let fields = crd.pointer_mut(&parent).and_then(Value::as_object_mut).context("no such part")?;
    fields.remove(field).with_context(|| format!("no {field}"))?;
    Ok(crd)
}

/// The same, stored in another version.
fn stored_otherwise(plural: &str) -> Result<Value> {
    let mut crd = shipped(plural)?;
    let versions = crd.pointer_mut("/spec/versions").and_then(Value::as_array_mut).context("no versions")?;
    let mut next = versions[0].clone();
    next["name"] = json!("v1beta1");
    versions[0]["storage"] = json!(false);
    versions.push(next);
    Ok(crd)
}

/// Nodes that `red` is for, said in the ways that are the same to `w1`: a new generation, and nothing to do.
const SELECTORS: [&str; 4] = [
    "matchLabels: {rack: a}",
    "matchExpressions: [{key: rack, operator: Exists}]",
    "matchExpressions: [{key: rack, operator: In, values: [a]}]",
    "matchExpressions: [{key: rack, operator: In, values: [a, b]}]",
];

/// Edits `red`, and waits until its status is that of the edit.
fn edit(rig: &Cluster, selector: &str) -> Result<Value> {
    rig.server.apply_text(&attachment("red", "red", 10001, selector))?;
    rig.wait_for("vrfa", "red", "the edit is followed", |it| {
        let seen = it["status"]["observedGeneration"] == it["metadata"]["generation"];
        seen && condition(it, "Ready") == "True"
    })
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn older_crds_and_an_upgrade_of_the_server_change_nothing() -> Result<()> {
    let Some(mut rig) = cluster("crds")? else { return Ok(()) };
    // CRDs of a version that had neither field, before the agent is there.
    for crd in [
        without("vrfattachments", "status", "matchedNodes")?,
        without("noderoutingstates", "status", "fibDrift")?,
    ] {
        rig.server.apply_text(&crd.to_string())?;
    }
    let w1 = rig.node("w1", "rack: a")?;
    let agent = rig.agent("w1", &w1)?;
    let red = edit(&rig, SELECTORS[0])?;
    ensure!(red["status"]["readyNodes"] == 1 && red["status"]["matchedNodes"].is_null(), "{red:#}");
    let state = rig.wait_for("nrs", "w1", "it is written", |it| it["status"]["agent"]["node"] == "w1")?;
    ensure!(state["status"]["fibDrift"].is_null(), "{state:#}");
    let fields = [".status.matchedNodes", ".status.fibDrift"];
    wait_until(LIMIT, "what is left out is told", || fields.iter().all(|field| warnings(&agent, field) > 0))?;
    let monitor = Monitor::start(&w1)?;
    edit(&rig, SELECTORS[1])?;
    for field in fields {
        ensure!(warnings(&agent, field) == 1, "{field} is told again:\n{}", agent.log());
    }

    // The server is replaced by another, and the CRDs by those of this version.
    rig.server.stop()?;
    wait_until(LIMIT, "the agent misses the server", || warnings(&agent, "does not answer") > 0)?;
    rig.server.run()?;
    rig.server.apply(&deploy("backtrail.yaml"))?;
    let red = edit(&rig, SELECTORS[2])?;
    rig.wait_for("vrfa", "red", "nothing is lost any more", |it| it["status"]["matchedNodes"] == 1)
        .with_context(|| format!("{red:#}"))?;

    // Storage changes its version; the agent's is served still.
    for plural in ["vrfattachments", "noderoutingstates"] {
        rig.server.apply_text(&stored_otherwise(plural)?.to_string())?;
    }
    rig.server.wait_for_crds()?;
    edit(&rig, SELECTORS[3])?;
    ensure!(monitor.ours()?.is_empty(), "{:?}", monitor.ours()?);
    let away = warnings(&agent, "does not answer");
    ensure!(away <= 2, "told {away} times:\n{}", agent.log());
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: none}"))?;
    wait_until(LIMIT, "edits are followed", || rules(&w1).is_ok_and(|text| !text.contains("lookup 10001")))?;
    Ok(())
}

/// A node gets another name: its agent starts as that of the new Node, and takes over what is there.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn a_node_that_is_renamed_keeps_what_it_has() -> Result<()> {
    let Some(rig) = cluster("renamed")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let mut agent = rig.agent("w1", &w1)?;
    edit(&rig, SELECTORS[0])?;
    let monitor = Monitor::start(&w1)?;
    agent.stop()?;
    rig.server.kubectl(&["delete", "node,nrs", "w1"])?;
    rig.server.apply_text("{apiVersion: v1, kind: Node, metadata: {name: w7, labels: {rack: a}}, spec: {podCIDR: 10.244.1.0/24}}")?;
    let agent = rig.agent("w7", &w1)?;
    let state = rig.wait_for("nrs", "w7", "it is written", |it| it["status"]["agent"]["node"] == "w7")?;
    ensure!(state["metadata"]["ownerReferences"][0]["name"] == "w7", "{state:#}");
    edit(&rig, SELECTORS[1])?;
    ensure!(monitor.ours()?.is_empty(), "{:?}\n{}", monitor.ours()?, agent.log());
    Ok(())
}
