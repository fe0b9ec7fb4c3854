//! What the tests of the agent in a cluster share.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use backtrail_lab::{Agent, Cluster, Namespace};
use serde_json::Value;

/// What is awaited comes within a second or two on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// A cluster with the CRDs, the ServiceAccount, its rights and the admission policy as they are shipped. `None`: skipped.
pub(crate) fn cluster(test: &str) -> Result<Option<Cluster>> {
    Cluster::installed(test, Path::new(env!("CARGO_BIN_EXE_backtrail")))
}

/// `status` of a condition of an object; empty where it is not there.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    backtrail_lab::condition(object, kind)["status"].as_str().unwrap_or_default()
}

/// `message` of a condition of an object.
pub(crate) fn message<'a>(object: &'a Value, kind: &str) -> &'a str {
    backtrail_lab::condition(object, kind)["message"].as_str().unwrap_or_default()
}

/// The agent's policy rules, as text.
pub(crate) fn rules(node: &Namespace) -> Result<String> {
    node.run("ip rule show; ip -6 rule show")
}

/// Warnings of an agent that have a word, by its log.
pub(crate) fn warnings(agent: &Agent, word: &str) -> usize {
    agent.log().lines().filter(|line| line.contains("WARN") && line.contains(word)).count()
}

/// A VRFAttachment of `red0` and of nothing else.
pub(crate) fn attachment(name: &str, vrf: &str, table: u32, selector: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1\nkind: VRFAttachment\nmetadata: {{name: {name}}}\n\
         spec:\n  nodeSelector: {{{selector}}}\n  vrf: {{name: {vrf}, table: {table}}}\n  interfaces: [{{name: red0}}]\n"
    )
}
