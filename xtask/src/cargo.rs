//! Running cargo, and finding what it has built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs this task, in the root of the repository.
pub(crate) fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What cargo tells of the package `xtask`: build scripts (ring's) look at these, and would be run again, with all that
    // depends on them, whenever cargo is run by hand and by a task in turn.
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
        command.env_remove(name);
    }
    command
}

/// `cargo build ARGUMENTS…`
pub(crate) fn build(arguments: &[&str]) -> Result<()> {
    let status = command().arg("build").args(arguments).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build {} failed", arguments.join(" "));
    Ok(())
}

fn metadata() -> Result<Value> {
    let out = command().args(["metadata", "--format-version=1", "--no-deps"]).output()?;
    serde_json::from_slice(&out.stdout).context("cargo metadata printed no JSON")
}

/// Where cargo builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata()?;
    let path = metadata.get("target_directory").and_then(Value::as_str);
    Ok(PathBuf::from(path.context("cargo metadata names no target directory")?))
}

/// This program, built anew: a build of the workspace may have replaced the file that this process was started from.
pub(crate) fn xtask() -> Result<PathBuf> {
    build(&["--quiet", "--package", "xtask"])?;
    Ok(target_dir()?.join("debug/xtask"))
}

/// Names of the integration tests that start with one of `prefixes`.
fn test_targets(prefixes: &[&str]) -> Result<Vec<String>> {
    let metadata = metadata()?;
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut names = Vec::new();
    for target in list(&metadata, "packages").iter().flat_map(|package| list(package, "targets")) {
        let name = target.get("name").and_then(Value::as_str).unwrap_or_default();
        if list(&target, "kind").iter().any(|kind| kind == "test")
            && prefixes.iter().any(|prefix| name.starts_with(prefix))
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A built test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestBinary {
    /// Name of the test target: `netns_steering`.
    pub(crate) name: String,
    /// The program.
    pub(crate) executable: PathBuf,
    /// Folder of its package, where cargo would run it.
    pub(crate) package: PathBuf,
}

/// Builds all integration tests whose name starts with one of `prefixes`, in one go: cargo builds what several calls
/// build with other features anew.
pub(crate) fn test_binaries(prefixes: &[&str]) -> Result<Vec<TestBinary>> {
    let names = test_targets(prefixes)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let out = command()
        .args(["test", "--workspace", "--no-run"])
        .args(names.iter().flat_map(|name| ["--test", name]))
        .args(["--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(out.status.success(), "the tests {}* do not compile", prefixes.join("*, "));
    let mut binaries: Vec<TestBinary> =
        String::from_utf8_lossy(&out.stdout).lines().filter_map(parse_artifact).collect();
    binaries.retain(|binary| names.contains(&binary.name));
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

fn parse_artifact(line: &str) -> Option<TestBinary> {
    let message: Value = serde_json::from_str(line).ok()?;
    let manifest = PathBuf::from(message.get("manifest_path")?.as_str()?);
    Some(TestBinary {
        name: message.get("target")?.get("name")?.as_str()?.to_owned(),
        executable: message.get("executable")?.as_str()?.into(),
        package: manifest.parent()?.to_owned(),
    })
}
