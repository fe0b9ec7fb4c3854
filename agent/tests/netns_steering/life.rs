//! Restart, upgrade, devices that come and go, and the end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail::intent::types::ReturnPathInterface;
use backtrail::plan::steering::SteeringPlan;
use backtrail::steering::{Attachment, Hook, Steering, SteeringError, SteeringOptions, cleanup};
use backtrail_ebpf_common::OBJECT;
use backtrail_lab::ways::connect_requests;
use backtrail_lab::{Flow, Lab, wait_until};

use crate::topology::{CLIENT4, PATIENCE, PORT, Topology, VIP4, asked, lacks_tcx};

/// Packets of a steady flow are this far apart.
const INTERVAL: Duration = Duration::from_millis(5);

fn attachments(lab: &Topology) -> Result<Vec<Attachment>> {
    let steering = lab.steering()?;
    Ok(lab.node.enter(|| steering.report())??.attachments)
}

fn pins(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?;
    let mut names: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

pub(crate) fn steady_flow(lab: &Topology) -> Result<Flow> {
    let target = format!("{VIP4}:{PORT}").parse()?;
    let flow = Flow::start(&lab.client, format!("{CLIENT4}:0").parse()?, target, INTERVAL)?;
    more_answers(&flow)?;
    Ok(flow)
}

pub(crate) fn more_answers(flow: &Flow) -> Result<()> {
    let received = flow.report().received;
    wait_until(PATIENCE, "packets are answered", || flow.report().received > received + 20).map(drop)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_restart_loses_nothing_tcx() -> Result<()> {
    if lacks_tcx("a_restart_loses_nothing_tcx") {
        return Ok(());
    }
    restart(Topology::new("restart")?, Hook::Tcx)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_restart_loses_nothing_clsact() -> Result<()> {
    let mut lab = Topology::new("restartc")?;
    lab.force_clsact = true;
    restart(lab, Hook::Clsact)
}

/// The agent goes and comes: flows go on without a loss by the right wire, links stay the same links.
fn restart(mut lab: Topology, hook: Hook) -> Result<()> {
    lab.apply()?;
    let before = attachments(&lab)?;
    ensure!(before.len() == 3 && before.iter().all(|at| at.hook == hook), "{before:?}");
    let flow = steady_flow(&lab)?;
    let mut default = 0;
    for _ in 0..3 {
        lab.steering = None;
        default += lab.wires(|| more_answers(&flow))?.default;
        lab.apply()?;
        default += lab.wires(|| more_answers(&flow))?.default;
    }
    let after = attachments(&lab)?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(before.link == after.link && before.ifindex == after.ifindex, "{before:?} {after:?}");
        ensure!(before.program != after.program, "the new agent's programs run");
        ensure!(hook == Hook::Clsact || after.programs_before == Some(0), "{after:?}");
    }
    let report = flow.stop();
    ensure!(report.lost == 0 && default == 0, "{report:?}, {default} by the default route");
    ensure!(lab.apply()?.is_unchanged());
    Ok(())
}

/// Flow tables of another size are made, filled with the flows and swapped in under traffic.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn flow_tables_change_their_size_under_traffic() -> Result<()> {
    let mut lab = Topology::new("resize")?;
    lab.apply()?;
    let flow = steady_flow(&lab)?;
    let learned = lab.counters("vred")?.learned;
    let mut plan = lab.plan()?;
    plan.flows.max_entries = 8192;
    let steering = lab.steering.as_mut().context("open")?;
    let report = lab.net.node.enter(|| steering.apply(&plan))?;
    ensure!(report.problems.is_empty() && report.attached == 3, "{report:?}");
    let wires = lab.wires(|| more_answers(&flow))?;
    ensure!(wires.default == 0, "{wires:?}");
    ensure!(lab.counters("vred")?.learned == learned, "the flow was copied, not learned anew");
    let status = lab.steering()?.report()?;
    let flows = status.maps.iter().find(|map| map.name == "rp_flows").context("rp_flows")?;
    ensure!(flows.max_entries == 8192, "{flows:?}");
    ensure!(!pins(&lab.bpffs)?.iter().any(|name| name.starts_with("old_")));
    let report = flow.stop();
    ensure!(report.lost == 0, "{report:?}");
    // The next agent finds the size that is pinned.
    lab.steering = None;
    lab.open()?;
    let steering = lab.steering.as_mut().context("open")?;
    let report = lab.net.node.enter(|| steering.apply(&plan))?;
    ensure!(report.writes == 0 && report.attached == 3, "{report:?}");
    Ok(())
}

/// Pinned maps of another schema are moved aside; the new programs start with empty ones.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn maps_of_another_schema_are_replaced() -> Result<()> {
    let mut lab = Topology::new("schema")?;
    lab.apply()?;
    lab.steering = None;
    let path = lab.bpffs.join("rp_schema");
    let data = aya::maps::MapData::from_pin(&path)?;
    let mut schema = aya::maps::Array::<_, u32>::try_from(aya::maps::Map::Array(data))?;
    schema.set(0, 4711, 0)?;
    let report = lab.apply()?;
    ensure!(report.attached == 3, "{report:?}");
    ensure!(!pins(&lab.bpffs)?.iter().any(|name| name.starts_with("old_")));
    lab.assert_steered()
}

/// An agent that had fewer maps leaves its flows to the next one, without a loss.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn maps_that_an_older_agent_did_not_have_are_added() -> Result<()> {
    let mut lab = Topology::new("older")?;
    lab.apply()?;
    let flow = steady_flow(&lab)?;
    let learned = lab.counters("vred")?.learned;
    lab.steering = None;
    for name in ["rp_openers", "rp_openers6", "rp_recent"] {
        std::fs::remove_file(lab.bpffs.join(name))?;
    }
    ensure!(lab.apply()?.attached == 3);
    let wires = lab.wires(|| more_answers(&flow))?;
    ensure!(wires.default == 0, "{wires:?}");
    ensure!(lab.counters("vred")?.learned == learned, "the flow was kept, not learned anew");
    ensure!(pins(&lab.bpffs)?.iter().any(|name| name == "rp_openers6"));
    let report = flow.stop();
    ensure!(report.lost == 0, "{report:?}");
    lab.assert_steered()
}

/// A name does not matter to what runs, and the next plan finds the interface by its new one.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_that_is_renamed_goes_on() -> Result<()> {
    let mut lab = Topology::new("rename")?;
    lab.apply()?;
    let before = attachments(&lab)?;
    let flow = steady_flow(&lab)?;
    // Up as it is: Linux 6.2 and newer allow it, older ones only while it is down.
    if lab.node.run("ip link set vred name vblue").is_err() {
        lab.node.run(
            "ip link set vred down; ip link set vred name vblue; ip link set vblue up
             ip route replace 10.0.2.0/24 dev vblue; ip -6 addr add fd00:2::2/64 dev vblue nodad",
        )?;
    }
    lab.asked = vec![asked("vblue")];
    let report = lab.apply()?;
    ensure!(report.attached + report.detached == 0, "{report:?}");
    let steered = lab.counters("vblue")?.steered;
    more_answers(&flow)?;
    ensure!(lab.counters("vblue")?.steered > steered);
    let after = attachments(&lab)?;
    let links = |all: &[Attachment]| all.iter().map(|at| (at.ifindex, at.link)).collect::<Vec<_>>();
    ensure!(links(&before) == links(&after), "{before:?} {after:?}");
    ensure!(after.iter().any(|at| at.interface == "vblue"), "{after:?}");
    Ok(())
}

/// Away in another namespace and back: its programs went with it, and it gets new ones.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_that_was_away_is_steered_again() -> Result<()> {
    let mut lab = Topology::new("away")?;
    lab.apply()?;
    lab.assert_steered()?;
    let elsewhere = lab.lab.namespace("elsewhere")?;
    lab.node.run(&format!("ip link set vred netns {}", elsewhere.name()))?;
    lab.apply()?;
    ensure!(attachments(&lab)?.iter().all(|at| at.interface != "vred"), "{:?}", attachments(&lab)?);
    elsewhere.run(&format!("ip link set vred netns {}", lab.node.name()))?;
    lab.node.run(
        "ip link set vred up; ip addr add 10.0.2.2/24 dev vred; ip -6 addr add fd00:2::2/64 dev vred nodad",
    )?;
    lab.router.run(&format!(
        "ip route replace {VIP4} via 10.0.2.2; ip -6 route replace 2001:db8:5::10 via fd00:2::2"
    ))?;
    lab.apply()?;
    lab.assert_steered()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_device_that_was_made_anew_is_attached_anew() -> Result<()> {
    let mut lab = Topology::new("device")?;
    lab.apply()?;
    lab.assert_steered()?;
    let old = lab.ifindex("vred")?;
    lab.node.run("ip link del vred")?;
    let plan = lab.plan()?;
    ensure!(plan.interfaces.is_empty() && plan.conditions.len() == 1, "{:?}", plan.conditions);
    lab.apply()?;
    ensure!(attachments(&lab)?.is_empty());
    connect_requests(&lab.lab, &lab.router, &lab.node)?;
    lab.router.run(&format!(
        "ip route replace {VIP4} via 10.0.2.2; ip -6 route replace 2001:db8:5::10 via fd00:2::2"
    ))?;
    ensure!(lab.ifindex("vred")? != old);
    lab.apply()?;
    lab.assert_steered()
}

/// The device came back while no agent ran: its pinned link is defunct, and maybe of an index that is taken again.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_defunct_link_is_made_anew() -> Result<()> {
    let mut lab = Topology::new("defunct")?;
    lab.apply()?;
    let index = lab.ifindex("vred")?;
    lab.steering = None;
    lab.node.run("ip link del vred")?;
    lab.node.run(&format!("ip link add vred index {index} type veth peer name rred"))?;
    lab.node.run(&format!("ip link set rred netns {}", lab.router.name()))?;
    lab.router.run(&format!(
        "ip addr add 10.0.2.1/24 dev rred; ip -6 addr add fd00:2::1/64 dev rred nodad; ip link set rred up
         ip route replace {VIP4} via 10.0.2.2; ip -6 route replace 2001:db8:5::10 via fd00:2::2"
    ))?;
    lab.node.run(
        "ip addr add 10.0.2.2/24 dev vred; ip -6 addr add fd00:2::2/64 dev vred nodad; ip link set vred up",
    )?;
    ensure!(lab.ifindex("vred")? == index);
    let report = lab.apply()?;
    ensure!(report.attached == 3, "{report:?}");
    lab.assert_steered()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_that_is_no_longer_listed_is_detached() -> Result<()> {
    let mut lab = Topology::new("unlist")?;
    lab.asked.push(asked("vdef"));
    lab.apply()?;
    ensure!(attachments(&lab)?.len() == 4);
    lab.asked.pop();
    let report = lab.apply()?;
    ensure!(report.detached == 1, "vdef keeps its egress program: {report:?}");
    lab.assert_steered()?;
    lab.asked.clear();
    lab.apply()?;
    ensure!(attachments(&lab)?.is_empty());
    let wires = lab.wires(|| lab.tcp(VIP4))?;
    ensure!(wires.request == 0 && wires.default > 0, "{wires:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn cleanup_leaves_nothing_tcx() -> Result<()> {
    if lacks_tcx("cleanup_leaves_nothing_tcx") {
        return Ok(());
    }
    cleaned(Topology::new("clean")?, false)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn cleanup_leaves_nothing_but_what_is_foreign_clsact() -> Result<()> {
    let mut lab = Topology::new("cleanc")?;
    lab.force_clsact = true;
    cleaned(lab, true)
}

/// A qdisc and a filter of somebody else's stay; a pin of somebody else's too.
fn cleaned(mut lab: Topology, clsact: bool) -> Result<()> {
    lab.bpffs.push("backtrail");
    lab.node.run(
        "tc qdisc add dev vdef clsact
         tc filter add dev vdef egress pref 7 bpf bytecode '1,6 0 0 0,'",
    )?;
    lab.apply()?;
    ensure!(lab.node.run("tc qdisc show dev vred")?.contains("clsact") == clsact);
    lab.assert_steered()?;
    lab.steering = None;
    let folder = lab.bpffs.clone();
    let removed = lab.node.enter(|| cleanup(&folder))??;
    ensure!(removed.iter().any(|name| name == "rp_flows"), "{removed:?}");
    ensure!(!folder.exists(), "{:?}", pins(&folder));
    ensure!(!lab.node.run("tc qdisc show dev vred")?.contains("clsact"));
    ensure!(lab.node.run("tc qdisc show dev vdef")?.contains("clsact"), "somebody else's");
    ensure!(lab.node.run("tc filter show dev vdef egress")?.contains("pref 7"), "somebody else's");
    let wires = lab.wires(|| lab.tcp(VIP4))?;
    ensure!(wires.request == 0 && wires.default > 0, "{wires:?}");
    ensure!(lab.node.enter(|| cleanup(&folder))??.is_empty(), "a second time there is nothing");
    Ok(())
}

/// Idle flows go; so do path ids that no flow holds any more, and no others.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn idle_flows_and_unused_paths_are_forgotten() -> Result<()> {
    let mut lab = Topology::new("expire")?;
    lab.apply()?;
    lab.assert_steered()?;
    let used = |lab: &Topology| -> Result<u64> {
        let status = lab.steering()?.report()?;
        status.maps.iter().find(|map| map.name == "rp_paths").and_then(|map| map.entries).context("rp_paths")
    };
    let before = used(&lab)?;
    lab.asked = vec![ReturnPathInterface {
        gateway: backtrail::intent::types::GatewaySource::FromRoute,
        ..asked("vred")
    }];
    lab.apply()?;
    ensure!(used(&lab)? == 2 * before, "flows hold the old paths");
    let steering = lab.steering.as_mut().context("open")?;
    let expired = steering.expire(1 << 20)?;
    ensure!(expired.complete && expired.removed == 0 && expired.scanned >= 6, "{expired:?}");
    ensure!(used(&lab)? == 2 * before, "flows hold the old paths");
    let mut plan = lab.plan()?;
    plan.flows.max_entries = 4096;
    (plan.flows.tcp_idle, plan.flows.udp_idle) = (Duration::from_secs(1), Duration::from_secs(1));
    let steering = lab.steering.as_mut().context("open")?;
    lab.net.node.enter(|| steering.apply(&plan))?;
    let mut removed = 0;
    wait_until(Duration::from_secs(20), "all flows are forgotten", || {
        removed += steering.expire(16).map_or(0, |expired| expired.removed);
        steering.flows(0, 100).is_ok_and(|page| page.flows.is_empty())
    })?;
    ensure!(removed >= 6);
    while !steering.expire(1 << 20)?.complete {}
    ensure!(used(&lab)? == before);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn without_bpffs_the_error_names_the_fix() -> Result<()> {
    let lab = Lab::new("nobpffs")?;
    let folder = lab.dir().join("backtrail");
    let error = Steering::open(&folder, OBJECT, SteeringOptions::default()).err().context("opened")?;
    ensure!(matches!(error, SteeringError::NotBpffs { .. }) && error.to_string().contains("mount -t bpf"));
    Ok(())
}

/// A device that is gone between plan and program costs itself only.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_device_that_vanishes_costs_itself_only() -> Result<()> {
    let mut lab = Topology::new("vanish")?;
    lab.lab.connect(
        &backtrail_lab::End::new(&lab.router, "rx", &[]),
        &backtrail_lab::End::new(&lab.node, "vx", &[]),
    )?;
    lab.asked.push(asked("vx"));
    let mut plan: SteeringPlan = lab.plan()?;
    plan.flows.max_entries = 4096;
    lab.node.run("ip link del vx")?;
    lab.open()?;
    let steering = lab.steering.as_mut().context("open")?;
    let report = lab.net.node.enter(|| steering.apply(&plan))?;
    ensure!(report.attached == 3 && report.problems.len() == 2, "{report:?}");
    lab.assert_steered()
}

/// Somebody deletes pins and qdiscs: the next pass puts programs back, and nothing else.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_somebody_detached_is_attached_again() -> Result<()> {
    if lacks_tcx("what_somebody_detached_is_attached_again") {
        return Ok(());
    }
    let mut lab = Topology::new("mend")?;
    lab.apply()?;
    let pin = format!("link_{:x}_eg", lab.ifindex("vdef")?);
    std::fs::remove_file(lab.bpffs.join(&pin))?;
    wait_until(PATIENCE, "the kernel detaches", || attachments(&lab).is_ok_and(|all| all.len() == 2))?;
    let report = lab.apply()?;
    ensure!(report.attached == 1 && report.writes == 0, "{report:?}");
    lab.assert_steered()
}

fn is_disturbed(lab: &Topology) -> Result<bool> {
    let steering = lab.steering()?;
    Ok(lab.node.enter(|| steering.is_disturbed())??)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_filter_that_somebody_deleted_is_made_again() -> Result<()> {
    let mut lab = Topology::new("mendc")?;
    lab.force_clsact = true;
    lab.apply()?;
    ensure!(!is_disturbed(&lab)?);
    lab.node.run("tc qdisc del dev vdef clsact")?;
    ensure!(attachments(&lab)?.len() == 2 && is_disturbed(&lab)?);
    let report = lab.apply()?;
    ensure!(report.attached == 1 && report.writes == 0, "{report:?}");
    lab.assert_steered()
}

/// Programs of others end the chain: ours goes before those that are there, says when one came before it, and goes
/// before that one too, without a gap.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn ours_is_the_first_program_and_becomes_it_again() -> Result<()> {
    use aya::programs::tc::TcAttachOptions;
    use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
    if lacks_tcx("ours_is_the_first_program_and_becomes_it_again") {
        return Ok(());
    }
    let mut lab = Topology::new("order")?;
    // Their ingress programs pass everything.
    let mut foreign = [aya::Ebpf::load(OBJECT)?, aya::Ebpf::load(OBJECT)?, aya::Ebpf::load(OBJECT)?];
    let mut foreign = foreign.iter_mut().map(|ebpf| -> Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier =
            ebpf.program_mut("rp_ingress").context("a program")?.try_into()?;
        program.load()?;
        Ok(program)
    });
    let mut foreign = || foreign.next().context("another program")?;
    let program = foreign()?;
    lab.node.enter(|| program.attach("vdef", TcAttachType::Egress))??;
    lab.apply()?;
    let before = |lab: &Topology| -> Result<Vec<Option<usize>>> {
        Ok(attachments(lab)?.iter().map(|at| at.programs_before).collect())
    };
    ensure!(before(&lab)? == [Some(0); 3]);
    let program = foreign()?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    lab.node.enter(|| program.attach_with_options("vdef", TcAttachType::Egress, first))??;
    ensure!(before(&lab)?.contains(&Some(1)), "{:?}", before(&lab)?);
    let flow = steady_flow(&lab)?;
    ensure!(is_disturbed(&lab)?);
    let report = lab.apply()?;
    ensure!(report.attached == 3, "one by a new link, two in place: {report:?}");
    ensure!(before(&lab)? == [Some(0); 3], "{:?}", before(&lab)?);
    ensure!(!pins(&lab.bpffs)?.iter().any(|name| name.starts_with("old_")));
    let wires = lab.wires(|| more_answers(&flow))?;
    let report = flow.stop();
    ensure!(report.lost == 0 && wires.default == 0, "{report:?} {wires:?}");
    // Who insists on being first is let be, for a while, and reported.
    let program = foreign()?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    lab.node.enter(|| program.attach_with_options("vdef", TcAttachType::Egress, first))??;
    ensure!(lab.apply()?.attached == 0 && !is_disturbed(&lab)?);
    ensure!(before(&lab)?.contains(&Some(1)), "{:?}", before(&lab)?);
    Ok(())
}

/// With clsact filters run in the order of their priorities; within ours, the newest first.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_filter_before_ours_is_reported() -> Result<()> {
    let mut lab = Topology::new("orderc")?;
    lab.force_clsact = true;
    lab.node.run(
        "tc qdisc add dev vdef clsact; tc filter add dev vdef egress pref 7 bpf bytecode '1,6 0 0 0,'",
    )?;
    lab.apply()?;
    let before = |lab: &Topology| -> Result<Vec<Option<usize>>> {
        Ok(attachments(lab)?.iter().map(|at| at.programs_before).collect())
    };
    ensure!(before(&lab)? == [Some(0); 3], "{:?}", before(&lab)?);
    lab.node.run("tc filter add dev vdef egress pref 1 handle 9 bpf bytecode '1,6 0 0 0,'")?;
    ensure!(before(&lab)?.contains(&Some(1)), "{:?}", before(&lab)?);
    lab.assert_steered()
}

/// Programs that the verifier refuses: an error that says which, nothing pinned, and what runs goes on.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_refused_object_changes_nothing() -> Result<()> {
    /// `call bpf_redirect_neigh`
    const CALL: [u8; 8] = [0x85, 0, 0, 0, 152, 0, 0, 0];
    let mut bad = OBJECT.to_vec();
    for instruction in bad.chunks_exact_mut(CALL.len()).filter(|chunk| **chunk == CALL) {
        // No such instruction exists.
        instruction.fill(0xff);
    }
    ensure!(bad != OBJECT, "the object redirects nothing");
    let bad: &'static [u8] = bad.leak();
    let mut lab = Topology::new("refused")?;
    let open =
        |lab: &Topology| lab.node.enter(|| Steering::open(&lab.bpffs, bad, SteeringOptions::default()));
    let refusal = |lab: &Topology| -> Result<String> {
        match open(lab)? {
            Err(error @ SteeringError::Program { .. }) => {
                ensure!(error.reason() == "LoadFailed");
                Ok(error.to_string())
            }
            Err(error) => Err(error.into()),
            Ok(_) => anyhow::bail!("it was loaded"),
        }
    };
    ensure!(refusal(&lab)?.contains("the kernel refused the program"));
    ensure!(attachments_of(&pins(&lab.bpffs)?).is_empty(), "{:?}", pins(&lab.bpffs)?);
    lab.apply()?;
    let before = (attachments(&lab)?, pins(&lab.bpffs)?);
    let flow = steady_flow(&lab)?;
    refusal(&lab)?;
    more_answers(&flow)?;
    ensure!((attachments(&lab)?, pins(&lab.bpffs)?) == before, "programs and pins stay");
    let report = flow.stop();
    ensure!(report.lost == 0, "{report:?}");
    Ok(())
}

/// Names of pins that stand for attached programs.
fn attachments_of(pins: &[String]) -> Vec<&String> {
    pins.iter().filter(|name| name.starts_with("link_") || name.starts_with("filter_")).collect()
}
