//! Programs of others in the same chain.

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use backtrail::steering::features;
use backtrail_lab::ways::VIP4;
use backtrail_lab::{Namespace, wait_until};

use crate::rig::{Place, WAIT, ensure_steered, ensure_untouched, interface};

/// The benchmark's empty program: it returns `TCX_NEXT`, which is found in its code and replaced.
const EMPTY: &[u8] = include_bytes!("../../../bench/ebpf/dist/baseline.bpf.o");
/// `w0 = -1; exit`
const RETURNS_NEXT: [u8; 16] = [0xb4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0];
/// `TCX_PASS`: on to the network, past all programs that come later.
const PASS: i32 = 0;
/// `TCX_DROP`
const DROP: i32 = 2;

/// Somebody else's program, which returns this verdict; detached when dropped.
fn foreign(node: &Namespace, interface: &str, verdict: i32, order: LinkOrder) -> Result<Ebpf> {
    let mut object = EMPTY.to_vec();
    let found = object.windows(RETURNS_NEXT.len()).position(|window| window == RETURNS_NEXT);
    let at = found.context("no `w0 = -1; exit` in the empty program")?;
    object[at + 4..at + 8].copy_from_slice(&verdict.to_le_bytes());
    let mut ebpf = Ebpf::load(&object)?;
    let program: &mut SchedClassifier = ebpf.program_mut("empty").context("empty")?.try_into()?;
    program.load()?;
    let options = TcAttachOptions::TcxOrder(order);
    node.enter(|| program.attach_with_options(interface, TcAttachType::Egress, options))??;
    Ok(ebpf)
}

fn lacks_tcx(test: &str) -> bool {
    let lacks = !features().tcx;
    if lacks {
        println!("SKIPPED {test}: this kernel has no TCX");
    }
    lacks
}

fn position(place: &Place, name: &str) -> Result<String> {
    let interface = interface(&place.agent, name)?;
    let programs = interface["programs"].as_array().cloned().unwrap_or_default();
    let egress = programs.iter().find(|program| program["direction"] == "egress").context("no egress")?;
    Ok(egress["position"].as_str().unwrap_or_default().to_owned())
}

/// An agent with the privileges that it is shipped with: it sees who came before it, and goes before them once; who insists is
/// reported.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_program_that_ends_the_chain_before_ours_is_overtaken() -> Result<()> {
    if lacks_tcx("a_program_that_ends_the_chain_before_ours_is_overtaken") {
        return Ok(());
    }
    let place = Place::new("before")?;
    place.tcp(VIP4)?;
    ensure!(position(&place, "vdef")? == "first");
    let _ends = foreign(&place.node, "vdef", PASS, LinkOrder::first())?;
    let steered = || place.wires(|| place.tcp(VIP4)).is_ok_and(|wires| wires.are_steered());
    wait_until(WAIT, "ours is first again", steered)?;
    wait_until(WAIT, "and says so", || position(&place, "vdef").is_ok_and(|at| at == "first"))?;
    let _insists = foreign(&place.node, "vdef", PASS, LinkOrder::first())?;
    wait_until(WAIT, "the order is told", || position(&place, "vdef").is_ok_and(|at| at == "behind 1"))?;
    ensure_untouched("ours is not asked", place.wires(|| place.tcp(VIP4))?)?;
    let (_, findings) = place.agent.command(&["doctor"])?;
    ensure!(findings.contains("vdef egress: behind 1"), "{findings}");
    Ok(())
}

/// What comes after ours sees nothing of what we redirect, and decides about the rest.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_program_after_ours_decides_about_the_rest() -> Result<()> {
    if lacks_tcx("a_program_after_ours_decides_about_the_rest") {
        return Ok(());
    }
    let place = Place::new("after")?;
    // Theirs will drop ARP and ND, too.
    place.tcp(VIP4)?;
    let _drops = foreign(&place.node, "vdef", DROP, LinkOrder::last())?;
    ensure_steered("behind ours", place.wires(|| place.tcp(VIP4))?)?;
    ensure!(!backtrail_lab::ping(&place.node, None, "10.0.1.1".parse()?)?, "theirs drops all else");
    ensure!(position(&place, "vdef")? == "first");
    Ok(())
}

/// Somebody removes the pin that holds a program: the agent attaches it, and pins it, by itself.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn programs_that_somebody_took_away_come_back() -> Result<()> {
    if lacks_tcx("programs_that_somebody_took_away_come_back") {
        return Ok(());
    }
    let place = Place::new("taken")?;
    let ifindex = interface(&place.agent, "vdef")?["ifindex"].as_u64().context("ifindex")?;
    let pin = place.agent.bpffs().join(format!("link_{ifindex:x}_eg"));
    std::fs::remove_file(&pin)?;
    let back = || pin.exists() && place.wires(|| place.tcp(VIP4)).is_ok_and(|wires| wires.are_steered());
    wait_until(WAIT, "it is attached again", back).map(drop)
}
