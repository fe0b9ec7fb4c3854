//! A node with an agent and without FRR: a VRF's table, a gateway, policy rules.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use backtrail_lab::{Agent, AgentOptions, End, Lab, Namespace, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A VRF's table with a gateway, and a policy rule for each destination. `config` is the spec of `DataplaneConfig`.
pub(crate) fn manifests(annotation: &str, config: &str, destinations: &[&str]) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {{name: default, annotations: {{backtrail.dev/paused: '{annotation}'}}}}
spec: {config}
---
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {{name: red}}
spec:
  vrf: {{name: red, table: 10001}}
  interfaces: [{{name: wan}}]
  gateways: [{{address: 192.0.2.1, interface: wan}}]
---
apiVersion: backtrail.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: to-red}}
spec:
  rules:
  - name: red
    match: {{destinations: [{}]}}
    action: {{vrf: {{name: red, table: 10001}}}}
",
        destinations.join(", ")
    )
}

/// A node with an agent, and a peer on the other end of `wan`.
pub(crate) struct Rig {
    pub(crate) agent: Agent,
    pub(crate) node: Namespace,
    pub(crate) peer: Namespace,
    pub(crate) lab: Lab,
}

impl Rig {
    /// Starts an agent with these manifests, on a node that `prepare` has made ready.
    pub(crate) fn start(name: &str, manifests: String) -> Result<Self> {
        Self::prepared(name, manifests, "")
    }

    pub(crate) fn prepared(name: &str, manifests: String, prepare: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (node, peer) = (lab.namespace("node")?, lab.namespace("peer")?);
        lab.connect(
            &End::new(&node, "wan", &["192.0.2.2/24", "2001:db8::2/64"]),
            &End::new(&peer, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        )?;
        node.run(prepare)?;
        let options = AgentOptions { manifests, ..AgentOptions::default() };
        let agent = Agent::start(&lab, &node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
        Ok(Self { agent, node, peer, lab })
    }

    /// All of ours in the kernel.
    pub(crate) fn ours(&self) -> Result<String> {
        self.node.run("ip rule | grep 'proto 201' || true; ip route show table all proto 201; ip nexthop show proto 201; ip -6 route show table all proto 201")
    }

    pub(crate) fn has_rule(&self, destination: &str) -> bool {
        self.ours().is_ok_and(|ours| ours.contains(&format!("to {destination} ")))
    }

    pub(crate) fn apply(&self) -> Result<Value> {
        Ok(self.agent.json(&["status"])?.get("apply").context("apply")?.clone())
    }

    /// Status and reason of a condition.
    pub(crate) fn condition(&self, kind: &str) -> Result<(String, String)> {
        let status = self.agent.json(&["status"])?;
        let found = status["conditions"].as_array().into_iter().flatten().find(|it| it["type"] == kind);
        let found = found.with_context(|| format!("no {kind} in {status}"))?;
        let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Ok((word("status"), word("reason")))
    }

    /// Waits until a condition has this reason.
    pub(crate) fn wait_reason(&self, kind: &str, reason: &str) -> Result<()> {
        self.wait(&format!("{kind} is {reason}"), |rig| rig.condition(kind).is_ok_and(|it| it.1 == reason))
    }

    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let waited = wait_until(PATIENCE, what, || condition(self)).map(drop);
        waited.with_context(|| format!("{:?}\n{:?}\n{}", self.ours(), self.apply(), self.agent.log()))
    }

    /// Waits until the agent's plan has a change of this object.
    pub(crate) fn wait_planned(&self, text: &str) -> Result<()> {
        self.wait(&format!("{text} is planned"), |rig| {
            rig.agent.command(&["plan"]).is_ok_and(|(_, plan)| plan.contains(text))
        })
    }
}
