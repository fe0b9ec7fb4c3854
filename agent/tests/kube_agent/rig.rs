//! A cluster in a lab: an API server in one namespace, each node with its agent in another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use backtrail_lab::{Agent, AgentOptions, ApiServer, End, InCluster, Lab, Namespace, wait_until};
use serde_json::Value;

/// What is awaited comes within a second or two on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);
const ADDRESS: &str = "192.0.2.1";

pub(crate) struct Rig {
    pub(crate) server: ApiServer,
    pub(crate) control: Namespace,
    pub(crate) lab: Lab,
}

impl Rig {
    /// With the CRDs, the ServiceAccount, its rights and the admission policy as they are shipped. `None`: skipped.
    pub(crate) fn new(test: &str) -> Result<Option<Self>> {
        let lab = Lab::new(test)?;
        let control = lab.namespace("cp")?;
        control.run(&format!("ip link set lo up; ip addr add {ADDRESS}/32 dev lo"))?;
        let Some(server) = ApiServer::start(&lab, &control, ADDRESS.parse()?, test)? else { return Ok(None) };
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        for path in [
            "crds",
            "kustomize/base/namespace.yaml",
            "kustomize/base/rbac.yaml",
            "kustomize/base/admission.yaml",
        ] {
            let path = deploy.join(path);
            if path.is_dir() {
                server.kubectl(&["apply", "--kustomize", &path.display().to_string()])?;
            } else {
                server.apply(&path)?;
            }
        }
        server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"])?;
        Ok(Some(Self { server, control, lab }))
    }

    /// A Node in the cluster, and a namespace that stands for it, with the interface `red0` beside the one that leads to
    /// the API server.
    pub(crate) fn node(&self, name: &str, labels: &str) -> Result<Namespace> {
        self.server.apply_text(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{podCIDR: 10.244.{}.0/24}}\n",
            number(name)
        ))?;
        let node = self.lab.namespace(name)?;
        node.run("ip link set lo up")?;
        let n = number(name);
        let (to, red) = (format!("to-{name}"), format!("red-{name}"));
        self.lab.connect(
            &End::new(&self.control, &to, &[&format!("198.51.100.{}/30", 4 * n + 1)]),
            &End::new(&node, "eth0", &[&format!("198.51.100.{}/30", 4 * n + 2)]),
        )?;
        self.lab.connect(
            &End::new(&self.control, &red, &[&format!("203.0.113.{}/30", 4 * n + 1)]),
            &End::new(&node, "red0", &[&format!("203.0.113.{}/30", 4 * n + 2)]),
        )?;
        node.run(&format!("ip route add {ADDRESS}/32 via 198.51.100.{}", 4 * n + 1))?;
        Ok(node)
    }

    /// A kubeconfig with a token as kubelet would give it to an agent on `node`.
    pub(crate) fn kubeconfig(&self, node: &str, url: &str) -> Result<PathBuf> {
        self.server.account("backtrail-system", "backtrail", node, url)
    }

    /// The agent of a node, started.
    pub(crate) fn agent(&self, node: &str, namespace: &Namespace) -> Result<Agent> {
        self.agent_at(node, namespace, &self.server.url())
    }

    /// The agent of a node, with another way to the API server.
    pub(crate) fn agent_at(&self, node: &str, namespace: &Namespace, url: &str) -> Result<Agent> {
        let cluster = InCluster { kubeconfig: self.kubeconfig(node, url)?, node: node.to_owned() };
        let options = AgentOptions { cluster: Some(cluster), ..AgentOptions::default() };
        Agent::start(&self.lab, namespace, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)
    }

    /// Waits until an object is as it should be.
    pub(crate) fn wait_for(
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

/// `status` of a condition of an object; empty where it is not there.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|it| it["type"] == kind);
    found.and_then(|it| it["status"].as_str()).unwrap_or_default()
}

/// `message` of a condition of an object.
pub(crate) fn message<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|it| it["type"] == kind);
    found.and_then(|it| it["message"].as_str()).unwrap_or_default()
}

/// The agent's policy rules, as text.
pub(crate) fn rules(node: &Namespace) -> Result<String> {
    node.run("ip rule show; ip -6 rule show")
}

/// A VRFAttachment of `red0` and of nothing else.
pub(crate) fn attachment(name: &str, vrf: &str, table: u32, selector: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1\nkind: VRFAttachment\nmetadata: {{name: {name}}}\n\
         spec:\n  nodeSelector: {{{selector}}}\n  vrf: {{name: {vrf}, table: {table}}}\n  interfaces: [{{name: red0}}]\n"
    )
}
