//! Programs of others in the same chain.

use anyhow::{Context as _, Result, ensure};
use aya::programs::TcAttachType::{Egress, Ingress};
use backtrail::steering::features;
use backtrail_lab::wait_until;
use backtrail_lab::ways::VIP4;
use nix::sys::signal::Signal;

use crate::foreign::{DROP, Foreign, NEXT, Order, PASS, redirect, verdict};
use crate::rig::{Place, WAIT, ensure_steered, ensure_untouched, interface, position, wait_position};

fn lacks_tcx(test: &str) -> bool {
    let lacks = !features().tcx;
    if lacks {
        println!("SKIPPED {test}: this kernel has no TCX");
    }
    lacks
}

fn is_steered(place: &Place) -> bool {
    place.wires(|| place.tcp(VIP4)).is_ok_and(|wires| wires.are_steered())
}

/// An agent, and a gateway of the default route that needs no ARP: programs of others may drop it.
fn with_neighbour(name: &str) -> Result<Place> {
    let place = Place::new(name)?;
    place.tcp(VIP4)?;
    place.node.run(
        "ip neigh replace 10.0.1.1 dev vdef nud permanent lladdr $(ip neigh show 10.0.1.1 dev vdef | cut -d' ' -f3)",
    )?;
    Ok(place)
}

/// Where packets go that somebody redirects.
fn index(place: &Place, name: &str) -> Result<u32> {
    let index = interface(&place.agent, name)?["ifindex"].as_u64().context("ifindex")?;
    Ok(u32::try_from(index)?)
}

/// An agent with the privileges that it is shipped with: it sees who came before it, and goes before them once; who insists is
/// reported.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_program_that_ends_the_chain_before_ours_is_overtaken() -> Result<()> {
    if lacks_tcx("a_program_that_ends_the_chain_before_ours_is_overtaken") {
        return Ok(());
    }
    let mut place = with_neighbour("before")?;
    ensure!(position(&place, "vdef", "egress")? == "first");
    let away = redirect(index(&place, "vred")?);
    // All of them come while the agent does not look.
    place.agent.process()?.signal(Signal::SIGSTOP)?;
    let mut others = Vec::new();
    for (at, code) in [
        (("vdef", Egress), verdict(NEXT)),
        (("vdef", Egress), away),
        (("vdef", Egress), verdict(DROP)),
        (("vdef", Egress), verdict(PASS)),
        (("vred", Ingress), verdict(NEXT)),
        (("vred", Ingress), verdict(PASS)),
        (("vred", Egress), verdict(PASS)),
    ] {
        others.push(Foreign::attach(&place.node, at, Order::Before, &code)?);
    }
    place.agent.process()?.signal(Signal::SIGCONT)?;
    wait_until(WAIT, "ours is first again", || is_steered(&place))?;
    for (name, side) in [("vdef", "egress"), ("vred", "ingress"), ("vred", "egress")] {
        wait_position(&place, name, side, "first")?;
    }
    let _insists = Foreign::attach(&place.node, ("vdef", Egress), Order::Before, &verdict(PASS))?;
    wait_position(&place, "vdef", "egress", "behind 1")?;
    ensure_untouched("ours is not asked", place.wires(|| place.tcp(VIP4))?)?;
    let (_, findings) = place.agent.command(&["doctor"])?;
    ensure!(findings.contains("vdef egress: behind 1"), "{findings}");
    Ok(())
}

/// Whatever comes behind ours sees nothing of what we redirect, and decides about the rest.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_program_after_ours_decides_about_the_rest() -> Result<()> {
    let place = with_neighbour("after")?;
    let away = redirect(index(&place, "vred")?);
    let filters = [Order::Behind, Order::Filter(7), Order::Filter(if features().tcx { 1 } else { 2 })];
    for order in filters {
        for (what, code) in [
            ("next", verdict(NEXT)),
            ("pass", verdict(PASS)),
            ("redirect", away.clone()),
            ("drop", verdict(DROP)),
        ] {
            let _theirs = Foreign::attach(&place.node, ("vdef", Egress), order, &code)?;
            let wires = place.wires(|| place.tcp(VIP4)).with_context(|| format!("{what} {order:?}"))?;
            ensure_steered(what, wires)?;
            let own = backtrail_lab::ping(&place.node, None, "10.0.1.1".parse()?)?;
            ensure!(own == matches!(what, "next" | "pass"), "{what} {order:?} decides: {own}");
        }
        for code in [NEXT, PASS] {
            let _theirs = Foreign::attach(&place.node, ("vred", Ingress), order, &verdict(code))?;
            ensure_steered("ingress", place.wires(|| place.tcp(VIP4))?)?;
        }
    }
    ensure!(position(&place, "vdef", "egress")? == "first");
    ensure!(position(&place, "vred", "ingress")? == "first");
    Ok(())
}

/// With clsact ours stays behind a filter of the first preference that came later: that is told, with what it means.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_filter_of_the_first_preference_is_told() -> Result<()> {
    if features().tcx {
        println!("SKIPPED a_filter_of_the_first_preference_is_told: this kernel has TCX");
        return Ok(());
    }
    let place = with_neighbour("pref")?;
    let lets = Foreign::attach(&place.node, ("vdef", Egress), Order::Before, &verdict(NEXT))?;
    wait_position(&place, "vdef", "egress", "behind 1")?;
    ensure_steered("behind one that lets pass", place.wires(|| place.tcp(VIP4))?)?;
    drop(lets);
    wait_position(&place, "vdef", "egress", "first")?;
    let _ends = Foreign::attach(&place.node, ("vdef", Egress), Order::Before, &verdict(PASS))?;
    ensure_untouched("ours is not asked", place.wires(|| place.tcp(VIP4))?)?;
    wait_position(&place, "vdef", "egress", "behind 1")?;
    let (_, findings) = place.agent.command(&["doctor"])?;
    ensure!(findings.contains("vdef egress: behind 1"), "{findings}");
    Ok(())
}

/// Somebody deletes the qdisc that TCX does without.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_qdisc_that_goes_takes_nothing_of_ours() -> Result<()> {
    if lacks_tcx("a_qdisc_that_goes_takes_nothing_of_ours") {
        return Ok(());
    }
    let place = Place::new("qdisc")?;
    place
        .node
        .run("for dev in vdef vred; do tc qdisc add dev $dev clsact; tc qdisc del dev $dev clsact; done")?;
    ensure_steered("without qdisc", place.wires(|| place.tcp(VIP4))?)?;
    ensure!(position(&place, "vdef", "egress")? == "first");
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
    let ifindex = index(&place, "vdef")?;
    let pin = place.agent.bpffs().join(format!("link_{ifindex:x}_eg"));
    std::fs::remove_file(&pin)?;
    let back = || pin.exists() && is_steered(&place);
    wait_until(WAIT, "it is attached again", back).map(drop)
}
