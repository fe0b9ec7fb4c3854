//! A wall clock that jumps, under an agent in a cluster.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{AgentOptions, output, wait_until};
use serde_json::Value;

use super::rig::{LIMIT, attachment, cluster, condition, rules};

/// Seconds by which the agent's clock jumps.
const JUMP: i64 = 3600;

/// Seconds by which an agent's clock was ahead of the API server's when it last wrote its state.
fn ahead(state: &Value) -> Option<i64> {
    let heartbeat: jiff::Timestamp = state["status"]["agent"]["heartbeat"].as_str()?.parse().ok()?;
    Some(heartbeat.as_second() - jiff::Timestamp::now().as_second())
}

/// An hour forth, and two back: edits are followed and answered, nothing is written more often, nobody is taken for silent
/// or gone, and there is nothing to warn of.
#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn a_clock_that_jumps_means_nothing() -> Result<()> {
    let Some(rig) = cluster("clocks")? else { return Ok(()) };
    let w1 = rig.node("w1", "rack: a")?;
    let [library, offset] = ["clock.so", "offset"].map(|name| rig.lab.dir().join(name).display().to_string());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube_agent/clock.c");
    output(Command::new("cc").args(["-shared", "-fPIC", "-o", &library]).arg(source))?;
    fs::write(&offset, 0_i64.to_ne_bytes())?;
    // In place: the agent has it mapped, and must never find it empty.
    let file = fs::OpenOptions::new().write(true).open(&offset)?;
    let jump = |seconds: i64| file.write_all_at(&seconds.to_ne_bytes(), 0).context("offset of the clock");
    let environment = vec![("LD_PRELOAD".to_owned(), library), ("CLOCK_OFFSET".to_owned(), offset.clone())];
    let options = AgentOptions { environment, ..AgentOptions::default() };
    let agent = rig.agent_with("w1", &w1, &rig.server.url(), options)?;
    rig.server.apply_text(&attachment("red", "red", 10001, ""))?;
    rig.wait_for("vrfa", "red", "it is ready", |it| condition(it, "Ready") == "True")?;

    let writes = || -> Result<usize> {
        let all = rig.server.audited()?;
        Ok(all.iter().filter(|it| it.is_write() && it.target == "noderoutingstates/w1/status").count())
    };
    // A server that has only just got its CRDs may answer 429, which is warned of, and is no matter of clocks.
    let told = agent.log().len();
    let (began, before) = (Instant::now(), writes()?);
    for (seconds, selector, is_there) in [(JUMP, "matchLabels: {rack: none}", false), (-JUMP, "", true)] {
        jump(seconds)?;
        rig.server.apply_text(&attachment("red", "red", 10001, selector))?;
        wait_until(LIMIT, "the edit is followed", || {
            rules(&w1).is_ok_and(|text| text.contains("lookup 10001") == is_there)
        })?;
        let at = |it: &Value| ahead(it).is_some_and(|ahead| (ahead - seconds).abs() < JUMP / 2);
        rig.wait_for("nrs", "w1", "its state tells the jump", at)?;
        let ready = if is_there { "True" } else { "Unknown" };
        rig.wait_for("vrfa", "red", "the edit is answered", |it| condition(it, "Ready") == ready)?;
    }
    let (count, seconds) = (writes()? - before, began.elapsed().as_secs_f64());
    ensure!(count as f64 <= seconds / 10.0 + 1.0, "{count} writes in {seconds} s");
    let lease = rig.server.kubectl(&[
        "get",
        "lease",
        "backtrail-sum",
        "--namespace=backtrail-system",
        "--output=jsonpath={.spec.leaseTransitions}",
    ])?;
    ensure!(lease == "0", "the Lease has changed hands {lease} times");
    let log = agent.log().split_off(told);
    ensure!(!log.contains("WARN"), "{log}");
    Ok(())
}
