//! A cluster in a lab: an API server in one namespace, each node with its agent in another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::agent::{Agent, AgentOptions, InCluster};
use crate::kube::ApiServer;
use crate::lab::{End, Lab};
use crate::namespace::Namespace;
use crate::wait_until;

/// Where the API server listens.
const ADDRESS: &str = "192.0.2.1";
/// What is awaited comes within a second or two on an idle machine.
const LIMIT: Duration = Duration::from_secs(240);

/// An API server, and what nodes are connected to.
#[derive(Debug)]
pub struct Cluster {
    /// The API server.
    pub server: ApiServer,
    /// Its namespace, to which all nodes are connected.
    pub control: Namespace,
    /// Owner of all namespaces.
    pub lab: Lab,
    agent: PathBuf,
}

/// A path in `deploy/`.
#[must_use]
pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

impl Cluster {
    /// An API server alone. `agent` is the program that nodes run. `None`: there is no API server to run, which is said in
    /// the form of a skip of `test`.
    ///
    /// # Errors
    /// Without root, or when the API server does not come up.
    pub fn bare(test: &str, agent: &Path) -> Result<Option<Self>> {
        let lab = Lab::new(test)?;
        let control = lab.namespace("cp")?;
        control.run(&format!("ip addr add {ADDRESS}/32 dev lo"))?;
        let Some(server) = ApiServer::start(&lab, &control, ADDRESS.parse()?, test)? else { return Ok(None) };
        Ok(Some(Self { server, control, lab, agent: agent.to_owned() }))
    }

    /// With everything that `deploy/backtrail.yaml` holds.
    ///
    /// # Errors
    /// Like [`Cluster::bare`], and when the server refuses a manifest.
    pub fn installed(test: &str, agent: &Path) -> Result<Option<Self>> {
        let Some(cluster) = Self::bare(test, agent)? else { return Ok(None) };
        cluster.server.apply(&deploy("backtrail.yaml"))?;
        cluster.server.wait_for_crds()?;
        Ok(Some(cluster))
    }

    /// A Node in the cluster, and a namespace that stands for it, with the interface `red0` beside the one that leads to
    /// the API server. Its name ends with a number of its own.
    ///
    /// # Errors
    /// When the server refuses the Node, or `ip` fails.
    pub fn node(&self, name: &str, labels: &str) -> Result<Namespace> {
        let n = number(name);
        self.server.apply_text(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{podCIDR: 10.244.{n}.0/24}}\n"
        ))?;
        let node = self.lab.namespace(name)?;
        for (interface, network) in [("eth0", "198.51.100"), ("red0", "203.0.113")] {
            let [theirs, ours] = [1, 2].map(|host| format!("{network}.{}/30", 4 * n + host));
            self.lab.connect(
                &End::new(&self.control, &format!("{interface}-{name}"), &[&theirs]),
                &End::new(&node, interface, &[&ours]),
            )?;
        }
        node.run(&format!("ip route add {ADDRESS}/32 via 198.51.100.{}", 4 * n + 1))?;
        Ok(node)
    }

    /// The gateway of a node's `red0`.
    #[must_use]
    pub fn gateway(name: &str) -> String {
        format!("203.0.113.{}", 4 * number(name) + 1)
    }

    /// A kubeconfig with a token as kubelet would give it to an agent on `node`.
    ///
    /// # Errors
    /// Without the ServiceAccount or the Node.
    pub fn kubeconfig(&self, node: &str, url: &str) -> Result<PathBuf> {
        self.server.account("backtrail-system", "backtrail", node, url)
    }

    /// The agent of a node, started.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn agent(&self, node: &str, namespace: &Namespace) -> Result<Agent> {
        self.agent_at(node, namespace, &self.server.url())
    }

    /// The agent of a node, with another way to the API server.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn agent_at(&self, node: &str, namespace: &Namespace, url: &str) -> Result<Agent> {
        self.agent_with(node, namespace, url, AgentOptions::default())
    }

    /// The agent of a node, with options besides.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn agent_with(
        &self,
        node: &str,
        namespace: &Namespace,
        url: &str,
        options: AgentOptions,
    ) -> Result<Agent> {
        let cluster = InCluster { kubeconfig: self.kubeconfig(node, url)?, node: node.to_owned() };
        let options = AgentOptions { cluster: Some(cluster), ..options };
        Agent::start(&self.lab, namespace, &self.agent, options)
    }

    /// Waits until an object is as it should be.
    ///
    /// # Errors
    /// With the object as it was last, when it does not become so.
    pub fn wait_for(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait_until(LIMIT, &format!("{kind}/{name}: {what}"), || {
            last = self.server.get(kind, name).unwrap_or_default();
            holds(&last)
        });
        waited.with_context(|| format!("{kind}/{name} is {last:#}"))?;
        Ok(last)
    }
}

fn number(name: &str) -> u8 {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

/// A condition of an object; null where it is not there.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|it| it.get("type").is_some_and(|it| it == kind));
    found.unwrap_or(&Value::Null)
}
