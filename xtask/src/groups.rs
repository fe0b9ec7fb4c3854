//! The groups of tests.

use std::ffi::{OsStr, OsString};

use anyhow::{Result, ensure};

use crate::test::{Tally, counted};
use crate::{cargo, crds, deploy, docs, ebpf, fuzz, kube, tools};

/// Seconds that one test program may take.
const LIMIT: &str = "1200";

/// Format, lints, dependencies, unit tests, the BPF object, the documentation's commands.
pub(crate) fn unit() -> Result<Tally> {
    let mut tally = Tally::check("format", cargo_passes(&["fmt", "--all", "--check"]));
    let lints = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    tally += Tally::check("clippy", cargo_passes(&lints));
    tally += dependencies();
    tally += Tally::check("BPF object", ebpf::is_current());
    tally += Tally::check("CRDs", crds_are_current());
    tally += Tally::check("all-in-one manifest", manifest_is_current());
    tally += counted("unit", cargo::command().args(["test", "--quiet", "--workspace", "--no-fail-fast"]))?;
    tally += docs::run()?;
    tally += fuzz::brief();
    Ok(tally)
}

fn crds_are_current() -> Result<()> {
    ensure!(
        crds::run(&crds::CrdsArgs { check: true })?,
        "deploy/crds is not current: run `cargo xtask crds`"
    );
    Ok(())
}

fn manifest_is_current() -> Result<()> {
    ensure!(
        deploy::run(&deploy::DeployArgs { check: true })?,
        "deploy/backtrail.yaml is not current: run `cargo xtask deploy`"
    );
    Ok(())
}

fn cargo_passes(arguments: &[&str]) -> Result<()> {
    println!("cargo {}", arguments.join(" "));
    let status = cargo::command().args(arguments).status()?;
    ensure!(status.success(), "cargo {} fails", arguments.join(" "));
    Ok(())
}

/// Licences, sources and bans of dependencies, as `deny.toml` has them.
fn dependencies() -> Tally {
    let there = cargo::command().args(["deny", "--version"]).output().is_ok_and(|out| out.status.success());
    if !there {
        // Building it takes longer than all tests, and no package registry has one that is new enough.
        return Tally::skip("cargo deny", "not installed: cargo install --locked cargo-deny");
    }
    Tally::check("cargo deny", cargo_passes(&["deny", "check", "bans", "licenses", "sources"]))
}

/// That the committed BPF object is what the source says: rebuilt, compared, and its tests run on the fresh one.
pub(crate) fn ebpf() -> Tally {
    if let Err(error) = ebpf::obtain_toolchain() {
        return Tally::skip("rebuilding the BPF object", &format!("{error:#}"));
    }
    Tally::check("rebuilding the BPF object", ebpf::is_reproducible())
}

/// Tests with a real API server, where one can be had.
pub(crate) fn kube() -> Result<Tally> {
    // The tests of the chart name what is missing.
    if let Err(error) = kube::obtain_helm() {
        println!("no helm: {error:#}");
    }
    match kube::obtain() {
        Ok(folder) => privileged_with("kube_", &[("KUBEBUILDER_ASSETS", folder.as_os_str())]),
        Err(error) => Ok(Tally::skip("kube", &format!("no kube-apiserver: {error:#}"))),
    }
}

/// The ignored tests of all programs whose name starts with `prefix`, as root, in mount and pid namespaces of their own:
/// whatever a killed test leaves goes with them.
pub(crate) fn privileged(prefix: &str) -> Result<Tally> {
    privileged_with(prefix, &[])
}

/// The same, with variables in the environment.
fn privileged_with(prefix: &str, variables: &[(&str, &OsStr)]) -> Result<Tally> {
    let mut tally = Tally::default();
    for binary in cargo::test_binaries(&[prefix])? {
        println!("\n--- {} ---", binary.name);
        let mut command = tools::privileged("env");
        for (name, value) in variables {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(value);
            command.arg(variable);
        }
        command
            .arg("timeout")
            .args(["--signal=KILL", LIMIT])
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(&binary.executable)
            .args(["--ignored", "--test-threads=1", "--show-output"])
            .current_dir(&binary.package);
        tally += counted(&binary.name, &mut command)?;
    }
    Ok(tally)
}
