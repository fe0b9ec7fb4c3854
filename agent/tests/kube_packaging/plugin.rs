//! `kubectl backtrail` against a real API server, with an agent that runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, nexthop};
use backtrail_lab::{Agent, Cluster, Feeder, deploy, helm, wait_until};
use serde_json::Value;

use super::{LIMIT, NAMESPACE, installed, pod};

const MANIFESTS: &str = "
apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: red}
spec:
  vrf: {name: red, table: 10001}
  interfaces: [{name: red0}]
---
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: red}
spec:
  from: {table: 5000}
  into: {vrf: {name: red, table: 10001}}
  allowed: {mode: All}
---
apiVersion: backtrail.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: red}
spec:
  rules:
  - {name: red, match: {destinations: [10.20.0.0/16]}, action: {vrf: {name: red, table: 10001}}}
";

/// A folder with the plugin, Helm where there is one, and a kubectl that is the real one but for `exec`: what kubelet would run in the agent's pod is
/// run here, with the run folder that is mounted there.
pub(crate) struct Folder {
    path: PathBuf,
    kubeconfig: PathBuf,
}

impl Folder {
    pub(crate) fn new(cluster: &Cluster, agent: &Agent) -> Result<Self> {
        let path = cluster.lab.dir().join("plugin");
        fs::create_dir(&path)?;
        symlink(env!("CARGO_BIN_EXE_backtrail"), path.join("kubectl-backtrail"))?;
        if let Some(helm) = helm() {
            symlink(helm, path.join("helm"))?;
        }
        let script = format!(
            "#!/bin/sh\n\
             for word in \"$@\"; do\n  test \"$word\" = exec && exec=1\ndone\n\
             test -z \"$exec\" && exec {kubectl} \"$@\"\n\
             while test \"$1\" != --; do shift; done\n\
             shift 2\n\
             exec {agent} \"$@\" --run-dir {run}\n",
            kubectl = cluster.server.assets().join("kubectl").display(),
            agent = env!("CARGO_BIN_EXE_backtrail"),
            run = agent.run_dir().display(),
        );
        let kubectl = path.join("kubectl");
        fs::write(&kubectl, script)?;
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
        Ok(Self { path, kubeconfig: cluster.server.admin() })
    }

    /// Runs a program with both in its `PATH`.
    pub(crate) fn run(&self, cluster: &Cluster, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(deploy(".."));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path.display()));
        command.env("HOME", &self.path).env("KUBECONFIG", &self.kubeconfig);
        cluster.control.enter(|| command.output())?.with_context(|| format!("{program} does not start"))
    }

    fn ask(&self, cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
        let program = self.path.join("kubectl-backtrail");
        self.run(cluster, &program.display().to_string(), arguments)
    }

    /// What it prints, where it ends with one of these.
    fn text(&self, cluster: &Cluster, arguments: &[&str], codes: &[i32]) -> Result<String> {
        let out = self.ask(cluster, arguments)?;
        let code = out.status.code().context("killed")?;
        ensure!(codes.contains(&code), "{arguments:?}: {code}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn kubectl_backtrail_asks_the_cluster_and_the_node() -> Result<()> {
    let Some(cluster) = installed("plugin")? else { return Ok(()) };
    let node = cluster.node("w1", "rack: a")?;
    cluster.node("w2", "rack: b")?;
    let agent = cluster.agent("w1", &node)?;
    cluster.server.apply_text(&pod(&cluster, "w1", NAMESPACE)?.to_string())?;
    cluster.server.apply_text(MANIFESTS)?;
    let mut feeder = Feeder::connect(&node)?;
    let ifindex = node.json("ip -j link show dev red0")?[0]["ifindex"].as_u64().context("no ifindex")?;
    let gateway = Cluster::gateway("w1").parse()?;
    feeder.send([
        nexthop(11, gateway, u32::try_from(ifindex)?),
        announce("10.20.0.0/24".parse::<ipnet::IpNet>()?, 11),
    ])?;
    cluster.wait_for("nrs", "w1", "the route is programmed", |it| {
        it["status"]["imports"][0]["routes"]["programmed"] == 1
    })?;

    let folder = Folder::new(&cluster, &agent)?;
    let table = folder.text(&cluster, &["status"], &[0])?;
    ensure!(table.contains("READY") && table.contains("w1 "), "{table}");
    let status: Value =
        serde_json::from_str(&folder.text(&cluster, &["status", "w1", "-o", "json"], &[0, 2])?)?;
    ensure!(
        status["agent"]["node"] == "w1" && status["imports"][0]["owners"][0] == "RouteImport/red",
        "{status:#}"
    );
    // The API has what the node says itself.
    let own = agent.json(&["status"])?;
    ensure!(own["configHash"] == status["configHash"], "{own:#}");

    let mut routes = Value::Null;
    wait_until(LIMIT, "the route shows", || {
        let text =
            folder.text(&cluster, &["routes", "w1", "-o", "json", "10.20.0.0/24"], &[0]).unwrap_or_default();
        routes = serde_json::from_str(&text).unwrap_or_default();
        routes[0]["state"] == "Programmed"
    })
    .with_context(|| format!("{routes:#}"))?;
    ensure!(routes[0]["owner"] == "RouteImport/red", "{routes:#}");
    let explained = folder.text(&cluster, &["explain", "w1", "10.20.0.7"], &[0, 2])?;
    ensure!(explained.contains("TrafficPolicy/red") && explained.contains("red0"), "{explained}");

    let nowhere = folder.ask(&cluster, &["routes", "w2"])?;
    ensure!(String::from_utf8_lossy(&nowhere.stderr).contains("no agent runs on node w2"), "{nowhere:?}");
    let unknown = folder.ask(&cluster, &["status", "w9"])?;
    ensure!(String::from_utf8_lossy(&unknown.stderr).contains("NotFound"), "{unknown:?}");
    Ok(())
}
