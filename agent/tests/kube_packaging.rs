//! What `deploy/` renders to: the Helm chart, the kustomizations and the all-in-one manifest say the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{cache_dir, output};
use serde_json::Value;

/// The chart is tested with this one; any Helm 3 will do.
const HELM: &str = "helm-v3.21.4";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// A program of `PATH` or of one of these folders.
fn program(name: &str, folders: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = folders.into_iter().chain(std::env::split_paths(&path));
    let mut candidates = all.map(|folder| folder.join(name));
    candidates.find(|path| path.is_file())
}

/// A kubectl whose kustomize is new enough: that of the API server's tests, or `PATH`'s.
fn kubectl() -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let cached = std::fs::read_dir(cache_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let cached = cached.filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubernetes-"))
    });
    let found = program("kubectl", assets.into_iter().chain(cached))?;
    kustomize(&found, &deploy("kustomize/base")).is_ok().then_some(found)
}

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
    let Some(helm) = program("helm", [cache_dir().join(HELM)]) else {
        println!(
            "SKIPPED {TEST}: no helm: go install helm.sh/helm/v3/cmd/helm, in PATH or in {HELM} of the cache"
        );
        return Ok(());
    };
    let Some(kubectl) = kubectl() else {
        println!("SKIPPED {TEST}: no kubectl with kustomize 5");
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
    ] {
        ensure!(render(&["--set", bad]).is_err(), "the schema takes {bad}");
    }
    Ok(())
}
