//! Installing, using and removing it.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{ApiServer, Cluster, condition, deploy, helm, output, wait_until};
use serde_json::{Value, json};

use super::{LIMIT, NAMESPACE, argument, bare, installed, pod, rules};

/// Kinds of others that overlays and examples have objects of: (group, version, kind, plural).
const FOREIGN: [(&str, &str, &str, &str); 3] = [
    ("frrk8s.metallb.io", "v1beta1", "FRRConfiguration", "frrconfigurations"),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
];

/// Makes those kinds, of any content, and the namespaces of FRR-K8s and MetalLB.
pub(crate) fn bring_others(server: &ApiServer) -> Result<()> {
    let mut list = Vec::new();
    for (group, version, kind, plural) in FOREIGN {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version =
            json!({"name": version, "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
        let names = json!({"kind": kind, "plural": plural});
        list.push(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
        }));
    }
    for name in ["frr-k8s-system", "metallb-system"] {
        list.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    server.apply_text(&json!({"apiVersion": "v1", "kind": "List", "items": list}).to_string())?;
    server.wait_for_crds()?;
    Ok(())
}

/// All objects that say what is wanted.
fn intent(server: &ApiServer) -> Result<Vec<Value>> {
    let all: Value = serde_json::from_str(&server.kubectl(&["get", "backtrail", "--output", "json"])?)?;
    let all = all["items"].as_array().cloned().context("no list")?;
    Ok(all.into_iter().filter(|it| it["kind"] != "NodeRoutingState").collect())
}

/// Waits until the node's agent has accepted every object, and found no conflict.
fn wait_accepted(server: &ApiServer) -> Result<()> {
    let mut last = Vec::new();
    let is = |it: &Value, kind: &str, status: &str| condition(it, kind)["status"] == status;
    let waited = wait_until(LIMIT, "every object is accepted", || {
        last = intent(server).unwrap_or_default();
        let good = |it: &Value| is(it, "Accepted", "True") && !is(it, "Conflicted", "True");
        !last.is_empty() && last.iter().all(good)
    });
    waited.map(drop).with_context(|| format!("{last:#?}"))
}

/// The scenarios' folders, by name.
fn scenarios() -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(deploy("examples"))? {
        let path = entry?.path();
        if path.join("Kustomization").is_file() {
            all.push(path.display().to_string());
        }
    }
    all.sort();
    ensure!(all.len() == 4, "{all:?}");
    Ok(all)
}

/// Edits that mean nothing: (object, patch, words of the refusal: field and rule).
fn nonsense() -> Vec<([&'static str; 2], Value, [&'static str; 2])> {
    vec![
        (
            ["ri", "other-clusters"],
            json!({"maxRoutes": "many"}),
            ["spec.maxRoutes", "must be of type integer"],
        ),
        (["vrfa", "billing"], json!({"isolation": "Sometimes"}), ["spec.isolation", "\"FallbackToMain\""]),
        (["tp", "to-billing"], json!({"rules": []}), ["spec.rules", "at least 1 item"]),
        (
            ["rp", "lb-vips"],
            json!({"interfaces": [{"name": "no name"}]}),
            ["spec.interfaces[0].name", "interface"],
        ),
        (["dpc", "default"], json!({"fpm": {"listen": "nowhere"}}), ["spec.fpm.listen", "must be"]),
    ]
}

/// What `kubectl explain` says of every kind, as deep as it goes.
fn explain(server: &ApiServer) -> Result<()> {
    for (short, fields) in [
        ("dpc", &["spec", "spec.fpm", "spec.ownership", "spec.guardrails", "spec.apply", "status"][..]),
        ("vrfa", &["spec", "spec.vrf", "spec.interfaces", "spec.interfaces.vlan", "spec.gateways", "status"]),
        ("ri", &["spec", "spec.from", "spec.allowed", "spec.allowed.prefixes", "spec.multipath", "status"]),
        ("tp", &["spec", "spec.rules", "spec.rules.match", "spec.rules.action", "status.rules"]),
        (
            "rp",
            &["spec", "spec.interfaces", "spec.interfaces.gateway", "spec.match", "spec.flowTable", "status"],
        ),
        (
            "nrs",
            &["status", "status.agent", "status.fpm", "status.vrfs", "status.returnPath", "status.conflicts"],
        ),
    ] {
        for field in fields {
            let text = server.kubectl(&["explain", &format!("{short}.{field}")])?;
            let described = !text.contains("<no description>") && !text.contains("<empty>");
            ensure!(described && text.contains("DESCRIPTION:"), "kubectl explain {short}.{field}:\n{text}");
        }
    }
    Ok(())
}

/// The end of the namespace, which is to go, as its controller would bring it.
pub(crate) fn end_namespace(server: &ApiServer) -> Result<()> {
    let empty = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}, "spec": {"finalizers": []}});
    let file = server.write("finalize.json", &empty.to_string())?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/finalize");
    server.kubectl(&["replace", "--raw", &path, "--filename", &file]).map(drop)
}

/// `kubectl delete` of everything.
pub(crate) fn uninstall(server: &ApiServer) -> Result<()> {
    server.kubectl(&["delete", "--filename", &argument("backtrail.yaml"), "--wait=false"])?;
    end_namespace(server)?;
    let kinds = "crd,namespace,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding";
    let mut left = String::new();
    let waited = wait_until(LIMIT, "nothing of it is left", || {
        left =
            server.try_kubectl(&["get", kinds, "--output", "name"]).unwrap_or_else(|error| error.to_string());
        !left.contains("backtrail")
    });
    waited.map(drop).context(left)
}

/// The path of the documentation: the all-in-one manifest, the four scenarios, looks, errors, the end.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn a_newcomer_installs_looks_errs_and_deletes() -> Result<()> {
    let Some(cluster) = bare("newcomer")? else { return Ok(()) };
    let server = &cluster.server;
    let manifest = argument("backtrail.yaml");
    server.kubectl(&["apply", "--warnings-as-errors", "--filename", &manifest])?;
    server.wait_for_crds()?;
    let again = server.kubectl(&["apply", "--filename", &manifest])?;
    ensure!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    server.kubectl(&["apply", "--warnings-as-errors", "--server-side", "--filename", &manifest])?;
    server.kubectl(&["diff", "--filename", &manifest]).context("the server has something else")?;

    bring_others(server)?;
    let node = cluster.node("w1", "rack: a")?;
    let _agent = cluster.agent("w1", &node)?;
    for folder in scenarios()? {
        server.kubectl(&["apply", "--warnings-as-errors", "--kustomize", &folder])?;
    }
    wait_accepted(server)?;
    let forced = || rules(&node).is_ok_and(|text| text.contains("to 10.20.0.0/16 lookup 10020"));
    wait_until(LIMIT, "the second scenario's rule is there", forced)?;

    let table = server.kubectl(&["get", "backtrail"])?;
    for object in intent(server)? {
        let name = object["metadata"]["name"].as_str().context("no name")?;
        let kind = object["kind"].as_str().context("no kind")?.to_lowercase();
        ensure!(table.contains(&format!("{kind}.backtrail.dev/{name} ")), "kubectl get backtrail:\n{table}");
    }
    let states = server.kubectl(&["get", "nrs"])?;
    let rows: Vec<Vec<&str>> = states.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows[0] == ["NAME", "FPM", "SYNC", "ROUTES", "VRFS", "STEERING", "READY", "AGE"], "{states}");
    ensure!(rows.len() == 2 && rows[1][0] == "w1", "{states}");
    explain(server)?;

    for ([kind, name], spec, words) in nonsense() {
        let patch = json!({"spec": spec}).to_string();
        let said = server.kubectl(&["patch", kind, name, "--type=merge", "--patch", &patch]);
        let said = format!("{:#}", said.err().with_context(|| format!("{kind} {patch} is taken"))?);
        ensure!(words.iter().all(|word| said.contains(word)), "{kind} {patch}: {said}");
    }
    let typo = server.apply_text(
        "{apiVersion: backtrail.dev/v1alpha1, kind: ReturnPath, metadata: {name: lb-vips}, spec: {interfacs: []}}",
    );
    let said = format!("{:#}", typo.err().context("a field that is none is taken")?);
    ensure!(said.contains("unknown field \"spec.interfacs\""), "{said}");
    ensure!(forced(), "{}", rules(&node)?);

    for folder in scenarios()? {
        server.kubectl(&["delete", "--timeout=120s", "--kustomize", &folder])?;
    }
    wait_until(LIMIT, "the rule goes with its object", || !forced())?;
    for file in ["mirror/1-dynamic-routing", "mirror/2-segregation", "mirror/3-multiple-gateways"] {
        let file = argument(&format!("examples/{file}.yaml"));
        server.kubectl(&["apply", "--warnings-as-errors", "--filename", &file])?;
        wait_accepted(server)?;
    }
    // Nobody here answers its probes.
    let careful = argument("examples/careful/probes.yaml");
    server.kubectl(&["apply", "--warnings-as-errors", "--dry-run=server", "--filename", &careful])?;
    uninstall(server)
}

/// FRR-K8s' ConfigMap as its chart has made it, beside the key that the overlay takes.
const STARTUP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: frr-k8s-frr-startup, namespace: NAMESPACE}, \
                       data: {daemons: zebra_options=none, vtysh.conf: theirs}}";

/// Applied over it on the server, as the documentation says: one key changes hands.
fn beside_frr_k8s(cluster: &Cluster, overlay: &str, namespace: &str) -> Result<()> {
    let server = &cluster.server;
    let theirs = server.write("startup.yaml", &STARTUP.replace("NAMESPACE", namespace))?;
    server.kubectl(&["apply", "--server-side", "--field-manager=helm", "--filename", &theirs])?;
    let folder = argument(overlay);
    server.kubectl(&["apply", "--server-side", "--force-conflicts", "--kustomize", &folder])?;
    let in_namespace = format!("--namespace={namespace}");
    let of = |kind: &str, name: &str| -> Result<Value> {
        Ok(serde_json::from_str(&server.kubectl(&["get", kind, name, &in_namespace, "--output=json"])?)?)
    };
    let data = &of("configmap", "frr-k8s-frr-startup")?["data"];
    let options = data["daemons"].as_str().unwrap_or_default();
    ensure!(options.contains("-M dplane_fpm_nl -R 5000"), "{overlay}: {data}");
    ensure!(data["vtysh.conf"] == "theirs", "{overlay}: {data}");
    let raw = &of("frrconfiguration", "backtrail-fpm")?["spec"]["raw"]["rawConfig"];
    ensure!(raw == "fpm address 127.0.0.1 port 2620\n", "{overlay}: {raw}");
    Ok(())
}

/// Every kustomization and what the chart renders, one over the other; the server keeps all of what they say.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn every_way_to_install_is_taken_by_the_server() -> Result<()> {
    let Some(cluster) = installed("ways")? else { return Ok(()) };
    let server = &cluster.server;
    bring_others(server)?;
    for folder in [
        "base",
        "overlays/monitoring",
        "overlays/cri-o",
        "overlays/host-frr",
        "overlays/standalone-frr",
        "cleanup",
    ] {
        let path = argument(&format!("kustomize/{folder}"));
        server.kubectl(&["apply", "--warnings-as-errors", "--kustomize", &path])?;
        server.kubectl(&["apply", "--server-side", "--force-conflicts", "--kustomize", &path])?;
        server
            .kubectl(&["diff", "--kustomize", &path])
            .with_context(|| format!("{folder}: not as applied"))?;
    }
    server.kubectl(&["delete", "--timeout=120s", "--kustomize", &argument("kustomize/cleanup")])?;
    beside_frr_k8s(&cluster, "kustomize/overlays/frr-k8s", "frr-k8s-system")?;
    beside_frr_k8s(&cluster, "kustomize/overlays/metallb", "metallb-system")?;

    // The pod that comes of it is let in where the namespace says so, and only there.
    cluster.node("w1", "rack: a")?;
    let text = pod(&cluster, "w1", NAMESPACE)?;
    server.apply_text(&text.to_string())?;
    let made = server.kubectl(&["get", "pod", "backtrail-w1", "--namespace", NAMESPACE, "--output=json"])?;
    let made: Value = serde_json::from_str(&made)?;
    ensure!(made["spec"]["priority"] == 2_000_001_000, "{made:#}");
    let strict = "{apiVersion: v1, kind: Namespace, metadata: {name: strict, labels: {pod-security.kubernetes.io/enforce: baseline}}}";
    server.apply_text(strict)?;
    server.apply_text(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: backtrail, namespace: strict}}",
    )?;
    let refused = server.apply_text(&pod(&cluster, "w1", "strict")?.to_string());
    let refused = format!("{:#}", refused.err().context("a strict namespace takes the pod")?);
    ensure!(refused.contains("violates PodSecurity"), "{refused}");

    let Some(helm) = helm() else {
        println!("SKIPPED the chart of every_way_to_install_is_taken_by_the_server: no helm");
        return Ok(());
    };
    for values in [
        "namespace.create=true",
        "metrics.expose=true,metrics.monitoring=true",
        "seccompProfile.type=Unconfined,apiServer.host=192.0.2.1",
        "capabilities={NET_ADMIN},agent.logFormat=json",
    ] {
        let mut command = Command::new(&helm);
        command.args(["template", "backtrail", "--namespace", NAMESPACE, "--set", values]);
        let rendered = output(command.arg(deploy("helm/backtrail")))?;
        let file = server.write("chart.yaml", &rendered)?;
        server.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &file])?;
        server
            .kubectl(&["diff", "--server-side", "--force-conflicts", "--filename", &file])
            .with_context(|| format!("{values}: not as applied"))?;
    }
    Ok(())
}
