//! Who sums up, and who does so when it is gone: the agent's controller for two nodes without a kernel, at a pace that a
//! test can wait for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail::api::{NodeRoutingStateStatus, ObjectStatus};
use backtrail::control::{Call, Response};
use backtrail::kube::{Pace, Snapshot, follow};
use backtrail_lab::Cluster;
use kube::config::Kubeconfig;
use kube::{Client, Config};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::rig::{attachment, cluster, condition, message};

const PACE: Pace = Pace {
    look: Duration::from_millis(200),
    gap: Duration::from_millis(500),
    heartbeat: Duration::from_secs(2),
    numbers: Duration::from_secs(1),
    lead: Duration::from_secs(2),
    silent: Duration::from_secs(15),
    patience: Duration::from_secs(3600),
};
/// A holder is never silent: only an edit without an answer tells.
const UNANSWERED: Pace = Pace { silent: Duration::from_secs(3600), patience: Duration::from_secs(4), ..PACE };

/// A daemon that has the first generation of `VRFAttachment/red` in force.
async fn daemon(node: &'static str, mut calls: mpsc::Receiver<Call>) {
    let entry = ObjectStatus {
        kind: "VRFAttachment".into(),
        name: "red".into(),
        accepted: true,
        reason: "Valid".into(),
        message: String::new(),
        generation: Some(1),
    };
    while let Some(call) = calls.recv().await {
        let mut status = NodeRoutingStateStatus { objects: vec![entry.clone()], ..Default::default() };
        status.agent.node = node.into();
        call.reply.send(Response::Status(Box::new(status))).ok();
    }
}

/// The controller of a node, with the token of its agent: it ends when this is dropped.
struct Controller {
    _running: oneshot::Sender<()>,
}

impl Controller {
    fn start(rig: &Cluster, node: &'static str, pace: Pace) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(rig.kubeconfig(node, &rig.server.url())?)?;
        let (running, ended) = oneshot::channel();
        let run = async move {
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            config.default_retry = false;
            let client = Client::try_from(config)?;
            let ((calls_in, calls), (out, _)) = (mpsc::channel(4), watch::channel(Snapshot::default()));
            tokio::select! {
                () = follow(client, node.to_owned(), calls_in, pace, out) => {}
                () = daemon(node, calls) => {}
                _ = ended => {}
            }
            anyhow::Ok(())
        };
        // Threads that are started inside stay inside.
        rig.control.enter(|| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                if let Err(error) = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run)) {
                    eprintln!("controller of {node}: {error:#}");
                }
            });
        })?;
        Ok(Self { _running: running })
    }
}

/// Who holds the Lease, and how often it has changed hands.
fn holder(rig: &Cluster) -> Result<(String, i64)> {
    let text = rig.server.try_kubectl(&[
        "get",
        "lease",
        "backtrail-sum",
        "--namespace=backtrail-system",
        "--output=json",
    ])?;
    let lease: Value = serde_json::from_str(&text)?;
    let name = lease["spec"]["holderIdentity"].as_str().context("no holder")?.to_owned();
    Ok((name, lease["spec"]["leaseTransitions"].as_i64().unwrap_or_default()))
}

fn ready(count: u32) -> impl Fn(&Value) -> bool {
    move |it| it["status"]["readyNodes"] == count
}

/// A cluster with two controllers of which the first sums up.
fn two(test: &str, pace: Pace) -> Result<Option<(Cluster, Controller, Controller)>> {
    let Some(rig) = cluster(test)? else { return Ok(None) };
    for node in ["w1", "w2"] {
        rig.server.apply_text(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {node}}}}}"))?;
    }
    rig.server.apply_text(&attachment("red", "red", 10001, ""))?;
    let first = Controller::start(&rig, "w1", pace)?;
    rig.wait_for("vrfa", "red", "the first sums up", ready(1))?;
    let second = Controller::start(&rig, "w2", pace)?;
    rig.wait_for("vrfa", "red", "both count", ready(2))?;
    ensure!(holder(&rig)? == ("w1".to_owned(), 0), "{:?}", holder(&rig)?);
    Ok(Some((rig, first, second)))
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn another_agent_sums_up_when_the_first_is_gone() -> Result<()> {
    let Some((rig, first, _second)) = two("lead", PACE)? else { return Ok(()) };
    drop(first);
    let red = rig.wait_for("vrfa", "red", "the one that is gone is missed", ready(1))?;
    ensure!(red["status"]["failedNodes"][0]["node"] == "w1", "{red:#}");
    ensure!(red["status"]["failedNodes"][0]["reason"] == "AgentSilent", "{red:#}");
    ensure!(holder(&rig)? == ("w2".to_owned(), 1), "{:?}", holder(&rig)?);

    // It comes back, and leaves the sums to the other.
    let _first = Controller::start(&rig, "w1", PACE)?;
    rig.wait_for("vrfa", "red", "both count again", ready(2))?;
    ensure!(holder(&rig)? == ("w2".to_owned(), 1), "{:?}", holder(&rig)?);
    Ok(())
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn an_edit_without_an_answer_raises_the_question_who_sums_up() -> Result<()> {
    let Some((rig, first, _second)) = two("unanswered", UNANSWERED)? else { return Ok(()) };
    drop(first);
    rig.server.apply_text(&attachment(
        "red",
        "red",
        10001,
        "matchExpressions: [{key: a, operator: DoesNotExist}]",
    ))?;
    let red =
        rig.wait_for("vrfa", "red", "the edit is answered", |it| condition(it, "Programmed") == "False")?;
    ensure!(message(&red, "Programmed").contains("w1, w2"), "neither has said what it makes of it: {red:#}");
    ensure!(holder(&rig)? == ("w2".to_owned(), 1), "{:?}", holder(&rig)?);
    Ok(())
}
