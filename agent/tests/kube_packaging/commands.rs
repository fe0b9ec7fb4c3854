//! The commands of docs/kubernetes.md, in their order, on a real API server: blocks whose info string is `sh cluster`,
//! then those of `sh helm`.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{ApiServer, Cluster, deploy, helm, wait_until};
use serde_json::json;

use super::install::{bring_others, end_namespace, uninstall};
use super::plugin::Folder;
use super::{LIMIT, NAMESPACE, installed, pod};

/// FRR-K8s' DaemonSet, of which only the name matters.
const FRR_K8S: &str = "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: frr-k8s-daemon, namespace: frr-k8s-system}, \
                       spec: {selector: {matchLabels: {app: frr}}, template: {metadata: {labels: {app: frr}}, \
                       spec: {containers: [{name: frr, image: frr}]}}}}";

/// Lines of the blocks with an info string, without comments.
fn commands(info: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(deploy("../docs/kubernetes.md"))?;
    let fence = format!("```{info}\n");
    let blocks = text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(str::trim);
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

fn run(folder: &Folder, cluster: &Cluster, command: &str) -> Result<()> {
    let out = folder.run(cluster, "/bin/sh", &["-euc", command])?;
    let code = out.status.code().context("killed")?;
    // Documentation's interfaces are not there, so the node is not healthy: 2 says that.
    let good = code == 0 || (code == 2 && command.starts_with("kubectl backtrail "));
    ensure!(good, "{command}: {code}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// What the controller of DaemonSets says where no node wants a pod.
fn rolled_out(server: &ApiServer, name: &str) -> Result<()> {
    let namespace = format!("--namespace={NAMESPACE}");
    let generation = ["get", "daemonset", name, &namespace, "--output=jsonpath={.metadata.generation}"];
    let generation: i64 = server.kubectl(&generation)?.parse().context("no generation")?;
    let status = json!({"status": {
        "observedGeneration": generation,
        "currentNumberScheduled": 0,
        "desiredNumberScheduled": 0,
        "numberMisscheduled": 0,
        "numberReady": 0,
    }});
    let patch = status.to_string();
    let patch =
        ["patch", "daemonset", name, &namespace, "--subresource=status", "--type=merge", "--patch", &patch];
    server.kubectl(&patch).map(drop)
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn commands_of_the_documentation_work() -> Result<()> {
    let Some(cluster) = installed("commands")? else { return Ok(()) };
    let server = &cluster.server;
    bring_others(server)?;
    server.apply_text(FRR_K8S)?;
    let node = cluster.node("w1", "rack: a")?;
    let agent = cluster.agent("w1", &node)?;
    server.apply_text(&pod(&cluster, "w1", NAMESPACE)?.to_string())?;
    cluster.wait_for("nrs", "w1", "it is written", |it| it["status"]["agent"]["node"] == "w1")?;
    let folder = Folder::new(&cluster, &agent)?;
    let all = commands("sh cluster")?;
    ensure!(all.len() >= 19, "{all:?}");
    for command in all {
        if command.starts_with("kubectl rollout status daemonset/backtrail-cleanup ") {
            rolled_out(server, "backtrail-cleanup")?;
        }
        if !(command.starts_with("kubectl delete ") && command.contains("-f deploy/backtrail.yaml")) {
            run(&folder, &cluster, &command)?;
            continue;
        }
        // It waits for the namespace's end, which is its controller's to bring.
        std::thread::scope(|scope| {
            let deleting = scope.spawn(|| run(&folder, &cluster, &command));
            let ended = wait_until(LIMIT, "the namespace is to go", || {
                let namespace = server.get("namespace", NAMESPACE).unwrap_or_default();
                namespace["status"]["phase"] == "Terminating"
            });
            ended.and_then(|_| end_namespace(server))?;
            deleting.join().map_err(|_| anyhow::anyhow!("panicked"))?
        })?;
        let left = server.kubectl(&["get", "crd,clusterrole,validatingadmissionpolicy", "--output=name"])?;
        ensure!(!left.contains("backtrail"), "{left}");
    }
    if helm().is_none() {
        println!("SKIPPED commands_of_the_documentation_work: no helm: run `cargo xtask kube-assets`");
        return Ok(());
    }
    // The overlays for FRR have installed it again.
    uninstall(server)?;
    with_helm(&cluster, &folder)
}

/// On a cluster with nothing installed.
fn with_helm(cluster: &Cluster, folder: &Folder) -> Result<()> {
    let all = commands("sh helm")?;
    let verbs: Vec<&str> = all.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(verbs == ["apply", "install", "upgrade", "uninstall"], "{all:?}");
    for command in &all {
        run(folder, cluster, command)?;
        let image = "--output=jsonpath={.items[*].spec.template.spec.containers[0].image}";
        let image = cluster.server.kubectl(&["get", "daemonset", "--namespace", NAMESPACE, image])?;
        let is_there = command.starts_with("helm install") || command.starts_with("helm upgrade");
        ensure!(image.starts_with("REGISTRY/backtrail:") == is_there, "{command}: {image}");
    }
    let kept = cluster.server.kubectl(&["get", "crd", "--output=name"])?;
    ensure!(kept.contains("noderoutingstates.backtrail.dev"), "CRDs stay, and so the objects: {kept}");
    Ok(())
}
