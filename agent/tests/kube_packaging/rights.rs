//! RBAC and the admission policy, tried from both sides: what the agent and people may, and what they may not.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Cluster, condition};
use serde_json::Value;

use super::{NAMESPACE, installed};

const INTENT: [&str; 5] =
    ["dataplaneconfigs", "returnpaths", "routeimports", "trafficpolicies", "vrfattachments"];
/// A return path, for which every node is too many interfaces short.
const RETURN_PATH: &str = "{apiVersion: backtrail.dev/v1alpha1, kind: ReturnPath, metadata: {name: NAME}, spec: {interfaces: [{name: red0}]}}";

/// Rights that the server knows of the user of a kubeconfig in a namespace, as `verb group/resource`; those that everybody
/// has are left out.
fn granted(cluster: &Cluster, kubeconfig: &Path, namespace: &str) -> Result<BTreeSet<String>> {
    let review = format!(
        "{{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectRulesReview, spec: {{namespace: {namespace}}}}}"
    );
    let file = cluster.server.write("review.yaml", &review)?;
    let said = cluster
        .server
        .kubectl_as(kubeconfig, &["create", "--validate=false", "--filename", &file, "--output=json"])?;
    let said: Value = serde_json::from_str(&said)?;
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let list = rule[key].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut all = BTreeSet::new();
    for rule in said["status"]["resourceRules"].as_array().context("no rules")? {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                all.extend(words(rule, "verbs").iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    // Questions about oneself.
    all.retain(|right| !right.contains("authorization.k8s.io") && !right.contains("authentication.k8s.io"));
    Ok(all)
}

/// What the agent must be able to do everywhere.
fn needed() -> BTreeSet<String> {
    let ours = |verbs: &[&str], resource: &str| -> Vec<String> {
        verbs.iter().map(|verb| format!("{verb} backtrail.dev/{resource}")).collect()
    };
    let mut all = BTreeSet::new();
    for kind in INTENT {
        all.extend(ours(&["get", "list", "watch"], kind));
        all.extend(ours(&["get", "patch"], &format!("{kind}/status")));
    }
    all.extend(ours(&["get", "list", "watch", "create", "patch"], "noderoutingstates"));
    all.extend(ours(&["get", "patch"], "noderoutingstates/status"));
    for verb in ["get", "list", "watch"] {
        all.extend([format!("{verb} /nodes"), format!("{verb} networking.k8s.io/servicecidrs")]);
    }
    all
}

/// A command that must be refused, by RBAC or by the policy.
fn ensure_refused(cluster: &Cluster, user: &[&str], kubeconfig: &Path, command: &[&str]) -> Result<String> {
    let said = cluster.server.kubectl_as(kubeconfig, &[user, command].concat());
    let text = format!("{:#}", said.err().with_context(|| format!("{command:?} is allowed"))?);
    ensure!(text.contains("orbidden") || text.contains("denied"), "{command:?}: {text}");
    Ok(text)
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn the_agent_may_do_its_work_and_nothing_else() -> Result<()> {
    let Some(cluster) = installed("rights")? else { return Ok(()) };
    let (w1, _w2) = (cluster.node("w1", "rack: a")?, cluster.node("w2", "rack: b")?);
    let _agent = cluster.agent("w1", &w1)?;
    let server = &cluster.server;
    server.apply_text(&RETURN_PATH.replace("NAME", "red"))?;
    cluster.wait_for("rp", "red", "the agent sums up", |it| condition(it, "Accepted")["status"] == "True")?;
    let refused: Vec<_> = server.audited()?.into_iter().filter(|it| it.code == 403).collect();
    ensure!(refused.is_empty(), "it asks for what it may not do: {refused:?}");

    let token = cluster.kubeconfig("w1", &server.url())?;
    let with = |more: &[&str]| {
        let mut all = needed();
        all.extend(more.iter().map(|&right| right.to_owned()));
        all
    };
    let lease = "coordination.k8s.io/leases";
    for (namespace, all) in [
        ("kube-system", needed()),
        (
            NAMESPACE,
            with(
                &["get", "create", "update"]
                    .map(|verb| format!("{verb} {lease}"))
                    .each_ref()
                    .map(String::as_str),
            ),
        ),
        (
            "default",
            with(&[
                "create events.k8s.io/events",
                "patch events.k8s.io/events",
                "list discovery.k8s.io/endpointslices",
            ]),
        ),
    ] {
        let granted = granted(&cluster, &token, namespace)?;
        let (more, less) = (granted.difference(&all), all.difference(&granted));
        ensure!(
            granted == all,
            "{namespace}: too much {:?}, too little {:?}",
            more.collect::<Vec<_>>(),
            less.collect::<Vec<_>>()
        );
    }

    // The same by trying.
    let lie = r#"{"status": {"configHash": "lie"}}"#;
    let [own, other] = ["w1", "w2"]
        .map(|node| ["patch", "nrs", node, "--type=merge", "--subresource=status", "--patch", lie]);
    server.kubectl_as(&token, &own).context("its own state")?;
    server
        .apply_text("{apiVersion: backtrail.dev/v1alpha1, kind: NodeRoutingState, metadata: {name: w2}}")?;
    let third = server.write(
        "w3.yaml",
        "{apiVersion: backtrail.dev/v1alpha1, kind: NodeRoutingState, metadata: {name: w3}}",
    )?;
    for command in [
        &["patch", "rp", "red", "--type=merge", "--patch", r#"{"spec": {"mode": "Shadow"}}"#][..],
        &["delete", "rp", "red"],
        &["create", "--validate=false", "--filename", &third],
        &["patch", "nrs", "w2", "--type=merge", "--patch", r#"{"metadata": {"labels": {"a": "lie"}}}"#],
        &["delete", "nrs", "w1"],
        &["label", "node", "w1", "rack=b", "--overwrite"],
        &[
            "patch",
            "node",
            "w1",
            "--subresource=status",
            "--type=merge",
            "--patch",
            r#"{"status": {"phase": "Pending"}}"#,
        ],
        &["delete", "node", "w2"],
        &["get", "secrets", "--all-namespaces"],
        &["get", "configmaps", "--namespace", NAMESPACE],
        &["get", "pods", "--all-namespaces"],
        &["create", "token", "backtrail", "--namespace", NAMESPACE],
        &["get", "leases", "--namespace", "kube-system"],
        &["delete", "crd", "vrfattachments.backtrail.dev"],
        &["delete", "validatingadmissionpolicy", "backtrail-own-node"],
    ] {
        ensure_refused(&cluster, &[], &token, command)?;
    }
    let said = ensure_refused(&cluster, &[], &token, &other)?;
    ensure!(said.contains("NodeRoutingState w2: this agent's token is for node w1"), "{said}");
    // A token of the account that belongs to no node.
    let said = ensure_refused(&cluster, &[], &server.unbound(NAMESPACE, "backtrail")?, &other)?;
    ensure!(said.contains("for no node"), "{said}");

    for (role, user) in [("backtrail-view", "vera"), ("backtrail-edit", "eddi")] {
        server.kubectl(&["create", "clusterrolebinding", user, "--clusterrole", role, "--user", user])?;
    }
    let admin = server.admin();
    let path = server.write("path.yaml", &RETURN_PATH.replace("NAME", "theirs"))?;
    for user in ["vera", "eddi"] {
        let as_user = ["--as", user];
        server.kubectl(&["--as", user, "get", "backtrail"])?;
        for command in [
            &own[..],
            &[
                "patch",
                "rp",
                "red",
                "--type=merge",
                "--subresource=status",
                "--patch",
                r#"{"status": {"flows": 7}}"#,
            ],
            &["get", "secrets", "--all-namespaces"],
        ] {
            ensure_refused(&cluster, &as_user, &admin, command)?;
        }
    }
    ensure_refused(&cluster, &["--as", "vera"], &admin, &["create", "--filename", &path])?;
    server.kubectl(&["--as", "eddi", "create", "--filename", &path])?;
    server.kubectl(&["--as", "eddi", "delete", "--filename", &path])?;
    Ok(())
}
