//! An API server that behaves badly: nothing that is programmed is lost, and the reason is told once.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use backtrail_lab::{Monitor, wait_until};

use super::proxy::{Behaviour, Proxy};
use super::rig::{LIMIT, attachment, cluster, condition, rules, warnings};

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn a_bad_api_server_costs_nothing() -> Result<()> {
    let Some(rig) = cluster("bad")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let proxy = Proxy::start(&rig.control, "192.0.2.1:8080".parse()?, &rig.server.admin())?;
    let agent = rig.agent_at("w1", &w1, &proxy.url)?;
    rig.server.apply_text(&attachment("red", "red", 10001, ""))?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;
    let monitor = Monitor::start(&w1)?;
    let words = [
        "answers 500",
        "answers 429",
        "answers 409",
        "(403)",
        "does not know this kind",
        "does not answer: ",
    ];
    proxy.behave(Behaviour::Mixed);
    wait_until(LIMIT, "every trouble is told", || words.iter().all(|word| warnings(&agent, word) > 0))?;
    let (from, lines) = (proxy.requests(), agent.log().lines().count());
    wait_until(LIMIT, "they come again and again", || proxy.requests() > from + 12)?;
    let log = agent.log();
    // A kind that meets a refusal for the first time is told still.
    let more: Vec<_> = log.lines().skip(lines).filter(|line| !line.contains("INFO")).collect();
    let mut once =
        more.iter().map(|line| line.split_once(' ').map_or(*line, |(_, text)| text)).collect::<Vec<_>>();
    once.sort_unstable();
    once.dedup();
    ensure!(once.len() == more.len() && more.len() <= 20, "troubles are told again and again:\n{log}");
    ensure!(monitor.ours()?.is_empty(), "errors change {:?}", monitor.ours()?);
    for behaviour in [Behaviour::Slow(Duration::from_secs(1)), Behaviour::NoWatch, Behaviour::Answer(410)] {
        let from = proxy.requests();
        proxy.behave(behaviour);
        wait_until(LIMIT, &format!("{behaviour:?} is lived with"), || proxy.requests() > from + 6)?;
        ensure!(monitor.ours()?.is_empty(), "{behaviour:?} changes {:?}", monitor.ours()?);
    }
    // An edit that was made meanwhile is found afterwards.
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: none}"))?;
    proxy.behave(Behaviour::Pass);
    wait_until(LIMIT, "edits are followed again", || {
        rules(&w1).is_ok_and(|text| !text.contains("lookup 10001"))
    })?;
    Ok(())
}

/// A Node that is deleted, a right that is taken away, a CRD that goes or is newer than the agent.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn what_goes_midway_takes_nothing_with_it() -> Result<()> {
    let Some(rig) = cluster("midway")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let mut agent = rig.agent("w1", &w1)?;
    rig.server.apply_text(&attachment("red", "red", 10001, "matchLabels: {rack: a}"))?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;
    let monitor = Monitor::start(&w1)?;

    rig.server.kubectl(&["delete", "node", "w1"])?;
    wait_until(LIMIT, "the Node is missed", || agent.log().contains("the cluster has no Node of this name"))?;
    ensure!(monitor.ours()?.is_empty(), "{:?}", monitor.ours()?);
    rig.server.apply_text("apiVersion: v1\nkind: Node\nmetadata: {name: w1, labels: {rack: a}}\nspec: {podCIDR: 10.244.1.0/24}\n")?;

    // A newer CRD: its new field is named once, the object stays in force.
    let crd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds/vrfattachments.yaml");
    let crd = std::fs::read_to_string(crd)?;
    let newer = crd.replacen(
        "              isolation:\n",
        "              colour:\n                type: string\n              isolation:\n",
        1,
    );
    ensure!(newer != crd, "the CRD has another form than this test thinks");
    rig.server.apply_text(&newer)?;
    wait_until(LIMIT, "the server knows the new field", || {
        let coloured = attachment("red", "red", 10001, "matchLabels: {rack: a}") + "  colour: red\n";
        rig.server.apply_text(&coloured).is_ok()
            && rig.server.get("vrfa", "red").is_ok_and(|it| it["spec"]["colour"] == "red")
    })?;
    // Watches that were open before the CRD changed go on with the old schema for a while, without the field.
    let mut edits = 0;
    wait_until(LIMIT, "the field is named", || {
        edits += 1;
        let edit = rig.server.kubectl(&["annotate", "vrfa", "red", &format!("edit={edits}"), "--overwrite"]);
        edit.is_ok() && agent.log().contains("spec.colour")
    })?;
    ensure!(agent.log().matches("does not know are left aside").count() == 1, "{}", agent.log());
    ensure!(monitor.ours()?.is_empty(), "{:?}", monitor.ours()?);

    // Rights go: what is in force stays, over a restart too.
    rig.server.kubectl(&["delete", "clusterrolebinding", "backtrail"])?;
    agent.stop()?;
    agent.run()?;
    wait_until(LIMIT, "the refusal is told", || agent.log().contains("the API server refuses (403)"))?;
    ensure!(rules(&w1)?.contains("lookup 10001"), "{}", rules(&w1)?);
    ensure!(monitor.ours()?.is_empty(), "{:?}", monitor.ours()?);
    Ok(())
}
