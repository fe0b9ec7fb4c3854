//! Others that meddle with what is ours.

use anyhow::{Result, ensure};
use backtrail_lab::wait_until;

use crate::rig::{BOTH, Rig, UP, WAIT};

const ROUTES: u32 = 300;

fn loaded() -> Result<Rig> {
    let mut rig = Rig::start("")?;
    rig.load(ROUTES, BOTH)?;
    Ok(rig)
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn deleted_routes_and_nexthop_objects_are_put_back_and_counted() -> Result<()> {
    let mut rig = loaded()?;
    rig.feeder()?
        .send([backtrail_lab::feeder::announce("10.200.0.0/24".parse::<ipnet::Ipv4Net>()?, UP[0])])?;
    rig.wait_fib("the single path", |fib| fib.len() == ROUTES as usize + 1)?;
    let before = rig.fib()?;
    for meddle in [
        "ip route flush proto 201",
        "ip route del 10.64.7.0/24",
        // All groups, then all objects: with each go its routes, and only the object's end is notified.
        "ip nexthop show groups | while read -r _ id _; do ip nexthop del id \"$id\"; done",
        "ip nexthop flush proto 201",
        "ip nexthop show | grep -v group | while read -r _ id _; do ip nexthop del id \"$id\"; done",
    ] {
        let mended = rig.number("/fibDrift/mended")?;
        rig.node.run(meddle)?;
        rig.wait_fib(meddle, |fib| *fib == before)?;
        wait_until(WAIT, "the drift is counted", || {
            rig.number("/fibDrift/mended").is_ok_and(|n| n > mended)
        })?;
    }
    rig.ensure_clean()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_replaced_route_is_taken_back_and_its_maker_named() -> Result<()> {
    let rig = loaded()?;
    let before = rig.fib()?;
    // Somebody's `replace` takes our route's place: same prefix, same metric.
    rig.node.run("ip route replace 10.64.9.0/24 via 198.18.1.1 dev up1 metric 20 proto static")?;
    let named = || {
        let status = rig.agent.json(&["status"]).unwrap_or_default();
        status.to_string().contains("static")
    };
    wait_until(WAIT, "the status names the maker", named).map_err(|error| error.context(rig.agent.log()))?;
    // It is not ours to overwrite: the route stays out until its maker takes it away.
    ensure!(rig.node.run("ip route show 10.64.9.0/24")?.contains("proto static"));
    rig.node.run("ip route del 10.64.9.0/24 proto static")?;
    rig.wait_fib("all as before", |fib| *fib == before)?;
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_renamed_interface_and_a_peer_that_vanishes() -> Result<()> {
    let mut rig = loaded()?;
    rig.node.run("ip link set dev up1 down; ip link set dev up1 name other1; ip link set dev other1 up")?;
    rig.wait_fib("both ways by the new name", |fib| {
        fib.len() == ROUTES as usize && fib.values().all(|ways| ways.contains("198.18.1.1 other1"))
    })?;
    // The namespace behind the other uplink goes, and the veth pair with it.
    rig.peers[0].run("ip link del dev eth0")?;
    rig.wait_fib("by what is left", |fib| {
        fib.len() == ROUTES as usize && fib.values().all(|ways| ways.iter().eq(["198.18.1.1 other1"]))
    })?;
    rig.wait_synchronized()?;
    rig.ensure_clean()
}
