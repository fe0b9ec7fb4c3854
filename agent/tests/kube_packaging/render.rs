//! The Helm chart, the kustomizations and the all-in-one manifest say the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{deploy, helm, kube_assets, output};
use serde_json::Value;

fn kustomize(kubectl: &Path, folder: &Path) -> Result<String> {
    output(Command::new(kubectl).arg("kustomize").arg(folder))
}

/// Whole numbers without a fraction: kustomize writes `1` where the CRDs have `1.0`.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            // The CRDs' largest numbers are of 32 bits, far below where a fraction gets lost.
            #[expect(clippy::cast_possible_truncation, reason = "whole, and of 32 bits")]
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0) {
                *number = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Objects by kind, namespace and name.
fn objects(yaml: &str) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for document in yaml.split("\n---\n").filter(|text| text.lines().any(|line| line.starts_with("kind:"))) {
        let mut object: Value = serde_saphyr::from_str(document)?;
        whole_numbers(&mut object);
        // Helm keeps CRDs when the chart goes: an annotation that means nothing to anybody else.
        if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove("helm.sh/resource-policy");
            if annotations.is_empty() {
                object
                    .pointer_mut("/metadata")
                    .and_then(Value::as_object_mut)
                    .context("metadata")?
                    .remove("annotations");
            }
        }
        let part = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let key = ["/apiVersion", "/kind", "/metadata/namespace", "/metadata/name"].map(part).join(" ");
        ensure!(all.insert(key.clone(), object).is_none(), "{key} twice");
    }
    Ok(all)
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test kube"]
fn helm_and_kustomize_say_the_same() -> Result<()> {
    const TEST: &str = "helm_and_kustomize_say_the_same";
    let Some(helm) = helm() else {
        println!("SKIPPED {TEST}: no helm: run `cargo xtask kube-assets`");
        return Ok(());
    };
    let Some(kubectl) = kube_assets().map(|folder| folder.join("kubectl")) else {
        println!("SKIPPED {TEST}: no kubectl: run `cargo xtask kube-assets`, or set KUBEBUILDER_ASSETS");
        return Ok(());
    };
    let render = |values: &[&str]| {
        let mut command = Command::new(&helm);
        command.args(["template", "backtrail"]).arg(deploy("helm/backtrail"));
        output(command.args(["--namespace", "backtrail-system", "--kube-version", "1.33.0"]).args(values))
    };
    for (values, folder) in [
        (&[][..], "base"),
        (&["--set", "metrics.expose=true,metrics.monitoring=true"], "overlays/monitoring"),
        (&["--set", "seccompProfile.type=Unconfined"], "overlays/cri-o"),
        (&["--set", "frr.runDir=/var/run/frr"], "overlays/host-frr"),
    ] {
        // Helm itself makes the release's namespace.
        let all = [values, &["--set", "namespace.create=true"]].concat();
        let (chart, base) = (
            objects(&render(&all)?)?,
            objects(&kustomize(&kubectl, &deploy(&format!("kustomize/{folder}")))?)?,
        );
        ensure!(chart.keys().eq(base.keys()), "{folder}: {:?} and {:?}", chart.keys(), base.keys());
        for (key, object) in &chart {
            ensure!(
                base.get(key) == Some(object),
                "{folder}: {key}: helm {object}, kustomize {:?}",
                base.get(key)
            );
        }
    }
    let all_in_one = objects(&std::fs::read_to_string(deploy("backtrail.yaml"))?)?;
    ensure!(
        all_in_one == objects(&kustomize(&kubectl, &deploy("kustomize/base"))?)?,
        "deploy/backtrail.yaml is not the base"
    );
    for folder in ["cleanup", "overlays/frr-k8s", "overlays/metallb", "overlays/standalone-frr"] {
        ensure!(
            !objects(&kustomize(&kubectl, &deploy(&format!("kustomize/{folder}")))?)?.is_empty(),
            "{folder}"
        );
    }
    for bad in [
        "metrics.monitoring=true",
        "image.repositry=x",
        "capabilities={SYS_ADMIN,NET_ADMIN}",
        "maxUnavailable=0",
        "frr.runDir=run/frr",
    ] {
        ensure!(render(&["--set", bad]).is_err(), "the schema takes {bad}");
    }
    Ok(())
}
