//! Whether what is decided is written: the kill switch, the annotation, dry runs.

use anyhow::{Result, ensure};
use backtrail_lab::Monitor;

use crate::rig::{Rig, manifests};

/// Paused by command: edits and drift show in the plan and nothing is written, over a restart, until `resume`.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_pause_freezes_all_writing_until_it_is_taken_back() -> Result<()> {
    let mut rig = Rig::start("pause", manifests("false", "{}", &["10.1.0.0/16"]))?;
    rig.wait("the rule is there", |rig| rig.has_rule("10.1.0.0/16"))?;
    let (_, said) = rig.agent.command(&["pause", "--reason", "the core is being moved"])?;
    ensure!(
        said.starts_with("PAUSED by backtrail pause") && said.contains("the core is being moved"),
        "{said}"
    );
    let monitor = Monitor::start(&rig.node)?;
    let before = rig.ours()?;
    rig.agent.write_manifests(&manifests("false", "{}", &["10.1.0.0/16", "10.2.0.0/16"]))?;
    rig.wait_planned("to 10.2.0.0/16")?;
    ensure!(rig.ours()? == before);
    // Somebody removes something of ours: it is seen beside the two new rules, and not mended.
    rig.node.run(
        "ip rule del to 10.1.0.0/16 proto 201; ip route del default table 10001 proto 201 metric 4294967293",
    )?;
    rig.wait("both are missed", |rig| rig.apply().is_ok_and(|it| it["wouldChange"]["add"] == 4))?;
    ensure!(rig.condition("Enforced")? == ("False".to_owned(), "Paused".to_owned()));
    ensure!(rig.condition("Programmed")? == ("False".to_owned(), "Paused".to_owned()));
    ensure!(rig.condition("Ready")?.0 == "False");

    rig.agent.kill()?;
    rig.agent.run()?;
    rig.wait_planned("to 10.1.0.0/16")?;
    let apply = rig.apply()?;
    ensure!(apply["mode"] == "Paused" && apply["reason"] == "the core is being moved", "{apply}");
    let added: Vec<String> = monitor.ours()?.into_iter().filter(|line| !line.contains("Deleted")).collect();
    ensure!(added.is_empty(), "written while paused: {added:?}");

    let (_, said) = rig.agent.command(&["resume"])?;
    ensure!(said == "changes are written\n", "{said}");
    rig.wait("all is there", |rig| rig.condition("Ready").is_ok_and(|it| it.0 == "True"))?;
    ensure!(rig.has_rule("10.1.0.0/16") && rig.has_rule("10.2.0.0/16"), "{}", rig.ours()?);
    ensure!(rig.ours()?.contains("192.0.2.1"), "{}", rig.ours()?);
    ensure!(rig.agent.command(&["plan"])? == (0, "no changes\n".to_owned()));
    Ok(())
}

/// Paused by annotation, from the first start on.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_annotation_pauses_too() -> Result<()> {
    let rig = Rig::start("annotation", manifests("maintenance", "{}", &["10.1.0.0/16"]))?;
    ensure!(rig.ours()?.is_empty(), "{}", rig.ours()?);
    ensure!(rig.condition("Enforced")? == ("False".to_owned(), "Paused".to_owned()));
    let apply = rig.apply()?;
    ensure!(apply["by"] == "backtrail.dev/paused" && apply["reason"] == "maintenance", "{apply}");
    rig.agent.write_manifests(&manifests("false", "{}", &["10.1.0.0/16"]))?;
    rig.wait("the rule is there", |rig| rig.has_rule("10.1.0.0/16"))?;
    rig.wait("Enforced", |rig| rig.condition("Enforced").is_ok_and(|it| it.0 == "True"))
}

/// A dry run makes nothing and tells all that it would make; sysctls and devices stay too.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_dry_run_shows_and_does_not_touch() -> Result<()> {
    const STEER: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: replies}
spec: {interfaces: [{name: wan}], match: {virtualIPs: [192.0.2.2/32]}}
";
    let with =
        |mode: &str| manifests("false", &format!("{{apply: {{mode: {mode}}}}}"), &["10.1.0.0/16"]) + STEER;
    let rig = Rig::start("dryrun", with("DryRun"))?;
    rig.node.sysctl("net.ipv4.conf.wan.rp_filter", "1")?;
    let links = || rig.node.run("ip -o link | wc -l");
    let before = links()?;
    rig.wait_planned("to 10.1.0.0/16")?;
    let (code, plan) = rig.agent.command(&["plan"])?;
    ensure!(code == 2 && plan.contains("0.0.0.0/0 table 10001 metric 4294967293"), "{plan}");
    for planned in
        ["link backtrail0", "sysctl net/ipv4/conf/wan/rp_filter", "program wan egress", "program wan ingress"]
    {
        ensure!(plan.contains(planned), "{planned} is not in {plan}");
    }
    ensure!(rig.condition("Enforced")? == ("False".to_owned(), "DryRun".to_owned()));
    // Rules, routes, the link, the filter and both programs: each row of the plan counts.
    let rows = rig.agent.json(&["plan"])?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    for change in ["add", "replace", "delete"] {
        let listed = rows.iter().filter(|row| row["change"] == change).count();
        let counted = |rig: &Rig| rig.apply().is_ok_and(|it| it["wouldChange"][change] == listed);
        rig.wait(&format!("{listed} rows to {change} are counted"), counted)?;
    }
    ensure!(rows.len() >= 8, "{plan}");
    ensure!(rig.ours()?.is_empty() && links()? == before, "{}", rig.ours()?);
    ensure!(rig.node.read_sysctl("net.ipv4.conf.wan.rp_filter")? == "1");
    ensure!(std::fs::read_dir(rig.agent.bpffs()).is_err(), "nothing is pinned");
    rig.agent.write_manifests(&with("Enforce"))?;
    rig.wait("all is there", |rig| rig.condition("Ready").is_ok_and(|it| it.0 == "True"))?;
    ensure!(rig.has_rule("10.1.0.0/16"), "{}", rig.ours()?);
    ensure!(rig.node.read_sysctl("net.ipv4.conf.wan.rp_filter")? != "1", "no strict filter any more");
    let (code, plan) = rig.agent.command(&["plan"])?;
    ensure!(code == 0, "{plan}");
    Ok(())
}
