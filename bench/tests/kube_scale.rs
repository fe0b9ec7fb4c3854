//! `cargo xtask bench kube` with a few nodes: its bars are held by every run of the tests.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use backtrail_lab::{kube_assets, output};

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn many_agents_and_one_api_server() -> Result<()> {
    if kube_assets().is_none() {
        println!("SKIPPED many_agents_and_one_api_server: no kube-apiserver: run `cargo xtask kube-assets`");
        return Ok(());
    }
    let bench = Path::new(env!("CARGO_BIN_EXE_backtrail-bench"));
    let agent = bench.with_file_name("backtrail");
    ensure!(agent.exists(), "{} is not built: cargo build -p backtrail", agent.display());
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(bench);
    command.args(["kube", "--quick", "--agent"]).arg(agent).arg("--out").arg(folder.path());
    // Exit status 2 where a bar is not reached.
    let said = output(&mut command)?;
    println!("{said}");
    ensure!(
        said.lines().filter(|line| line.starts_with("BAR ") && line.ends_with(" ok")).count() == 6,
        "{said}"
    );
    Ok(())
}
