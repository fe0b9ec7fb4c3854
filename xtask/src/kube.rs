//! `cargo xtask kube-assets`: what tests with a real Kubernetes API server run.
//!
//! etcd is Debian's. kube-apiserver and kubectl are built from the Go module `k8s.io/kubernetes`: a small module of ours
//! holds their `main`s, because that module requires its staging modules at v0.0.0 and so cannot be installed directly.
//! Helm is built from its own module.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{HELM, KUBERNETES, helm, kube_assets, output};
use serde::Deserialize;

use crate::apt::Apt;
use crate::cache;
use crate::golang::Go;

/// The `main` of each program: as in `cmd/` of Kubernetes, without its plugins for cloud logins.
const PROGRAMS: [(&str, &str); 2] = [
    (
        "kube-apiserver",
        r#"package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
"#,
    ),
    (
        "kubectl",
        r#"package main

import (
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
"#,
    ),
];

/// Prints the folders with the programs, after having made them where that was necessary.
pub(crate) fn run() -> Result<bool> {
    println!("{}", obtain()?.display());
    println!("{}", obtain_helm()?.display());
    Ok(true)
}

/// The folder with kube-apiserver, etcd and kubectl: `KUBEBUILDER_ASSETS`, the cache, or made now.
///
/// # Errors
/// When a download fails.
pub(crate) fn obtain() -> Result<PathBuf> {
    if let Some(folder) = kube_assets() {
        return Ok(folder);
    }
    cache::obtain(&format!("kubernetes-{KUBERNETES}"), |folder| {
        etcd(folder)?;
        kubernetes(folder)
    })
}

/// Helm: of `PATH`, of the cache, or made now.
///
/// # Errors
/// When a download fails.
pub(crate) fn obtain_helm() -> Result<PathBuf> {
    if let Some(program) = helm() {
        return Ok(program);
    }
    let folder = cache::obtain(&format!("helm-{HELM}"), |folder| {
        println!("building Helm {HELM}: four minutes of CPU time");
        let flags = format!("-s -w -X helm.sh/helm/v3/internal/version.version={HELM}");
        let module = format!("helm.sh/helm/v3/cmd/helm@{HELM}");
        let mut command = Go::obtain()?.command();
        command.args(["install", "-trimpath", "-ldflags", &flags, &module]).env("GOBIN", folder);
        output(&mut command).map(drop)
    })?;
    Ok(folder.join("helm"))
}

/// Debian's etcd, unpacked.
fn etcd(folder: &Path) -> Result<()> {
    let unpacked = folder.join("etcd-server");
    Apt::of("bookworm")?.unpack(&BTreeSet::from(["etcd-server".to_owned()]), &unpacked)?;
    fs::rename(unpacked.join("usr/bin/etcd"), folder.join("etcd")).context("no etcd in its package")?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
}

/// What `go mod download -json` says of the module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Module {
    go_mod: PathBuf,
}

fn kubernetes(folder: &Path) -> Result<()> {
    let go = Go::obtain()?;
    let source = tempfile::tempdir().context("cannot make a temporary folder")?;
    let module = format!("k8s.io/kubernetes@{KUBERNETES}");
    let said = output(go.command().args(["mod", "download", "-json", &module]).current_dir(source.path()))?;
    let said: Module = serde_json::from_str(&said).context("go mod download")?;
    let original =
        fs::read_to_string(&said.go_mod).with_context(|| format!("cannot read {}", said.go_mod.display()))?;
    fs::write(source.path().join("go.mod"), go_mod(&original)?)?;
    for (name, text) in PROGRAMS {
        fs::create_dir(source.path().join(name))?;
        fs::write(source.path().join(name).join("main.go"), text)?;
    }
    println!("building kube-apiserver and kubectl {KUBERNETES}: nine minutes of CPU time");
    let mut numbers = KUBERNETES.trim_start_matches('v').split('.');
    let mut flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}");
    for part in ["gitMajor", "gitMinor"] {
        flags += &format!(" -X k8s.io/component-base/version.{part}={}", numbers.next().unwrap_or_default());
    }
    output(
        go.command()
            .args(["build", "-mod=mod", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(folder)
            .args(PROGRAMS.map(|(name, _)| format!("./{name}")))
            .current_dir(source.path()),
    )?;
    Ok(())
}

/// A module that requires Kubernetes and has its staging modules at the versions that belong together.
fn go_mod(original: &str) -> Result<String> {
    let staging = KUBERNETES.replacen("v1.", "v0.", 1);
    let line = |start: &str| original.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    let replaced: Vec<_> = original
        .lines()
        .filter_map(|line| Some(line.trim().split_once(" => ./staging/")?.0.to_owned()))
        .map(|name| format!("\t{name} => {name} {staging}\n"))
        .collect();
    ensure!(!replaced.is_empty(), "go.mod of k8s.io/kubernetes {KUBERNETES} has no staging modules");
    Ok(format!(
        "module backtrail.dev/kube-assets\n\n{}\n\n{}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\nreplace (\n{})\n",
        line("go "),
        line("godebug "),
        replaced.concat()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_get_the_version_that_belongs_to_kubernetes() {
        let original = "module k8s.io/kubernetes\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire k8s.io/api v0.0.0\n\n\
                        replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let text = go_mod(original).unwrap();
        assert!(text.contains("\ngo 1.24.0\n\ngodebug default=go1.24\n"), "{text}");
        assert!(text.contains("\tk8s.io/api => k8s.io/api v0.33."), "{text}");
        assert!(go_mod("module k8s.io/kubernetes\n").is_err());
    }
}
