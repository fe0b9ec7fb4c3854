//! What `deploy/` holds, on a real API server: installed, used, tried and removed as a newcomer would.

mod commands;
mod install;
mod plugin;
mod render;
mod rights;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use backtrail_lab::{Cluster, Namespace, deploy};
use serde_json::{Value, json};

/// What is awaited comes within a second or two on an idle machine.
const LIMIT: Duration = Duration::from_secs(240);
/// The namespace that everything is installed in.
const NAMESPACE: &str = "backtrail-system";

/// An API server with nothing installed. `None`: skipped.
fn bare(test: &str) -> Result<Option<Cluster>> {
    Cluster::bare(test, Path::new(env!("CARGO_BIN_EXE_backtrail")))
}

/// The same with `deploy/backtrail.yaml`.
fn installed(test: &str) -> Result<Option<Cluster>> {
    Cluster::installed(test, Path::new(env!("CARGO_BIN_EXE_backtrail")))
}

/// A path in `deploy/`, as an argument.
fn argument(path: &str) -> String {
    deploy(path).display().to_string()
}

/// The agent's policy rules, as text.
fn rules(node: &Namespace) -> Result<String> {
    node.run("ip rule show")
}

/// The pod that the DaemonSet's controller would make for a node.
fn pod(cluster: &Cluster, node: &str, namespace: &str) -> Result<Value> {
    let daemonset = cluster.server.kubectl(&[
        "get",
        "daemonset",
        "backtrail",
        "--namespace",
        NAMESPACE,
        "--output=json",
    ])?;
    let daemonset: Value = serde_json::from_str(&daemonset)?;
    let template = &daemonset["spec"]["template"];
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!(node);
    let labels = &template["metadata"]["labels"];
    let metadata = json!({"name": format!("backtrail-{node}"), "namespace": namespace, "labels": labels});
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}
