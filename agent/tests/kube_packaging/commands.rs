//! The commands of docs/kubernetes.md, in their order, on a real API server: blocks whose info string is `sh cluster`.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::deploy;

use super::install::bring_others;
use super::plugin::Folder;
use super::{NAMESPACE, installed, pod};

/// Lines of the marked blocks, without comments.
fn commands() -> Result<Vec<String>> {
    let text = std::fs::read_to_string(deploy("../docs/kubernetes.md"))?;
    let blocks = text.split("```sh cluster\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).map(str::trim);
    Ok(lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn commands_of_the_documentation_work() -> Result<()> {
    let Some(cluster) = installed("commands")? else { return Ok(()) };
    bring_others(&cluster.server)?;
    let node = cluster.node("w1", "rack: a")?;
    let agent = cluster.agent("w1", &node)?;
    cluster.server.apply_text(&pod(&cluster, "w1", NAMESPACE)?.to_string())?;
    cluster.wait_for("nrs", "w1", "it is written", |it| it["status"]["agent"]["node"] == "w1")?;
    let folder = Folder::new(&cluster, &agent)?;
    let commands = commands()?;
    ensure!(commands.len() >= 12, "{commands:?}");
    for command in commands {
        let out = folder.run(&cluster, "/bin/sh", &["-euc", &command])?;
        let code = out.status.code().context("killed")?;
        // Documentation's interfaces are not there, so the node is not healthy: 2 says that.
        let good = code == 0 || (code == 2 && command.starts_with("kubectl backtrail "));
        ensure!(good, "{command}: {code}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}
