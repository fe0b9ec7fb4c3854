//! Nexthop objects and the order of routes: what the kernel is spared, and what stays somebody else's.

use anyhow::{Result, ensure};
use backtrail_lab::Monitor;
use backtrail_lab::feeder::{announce, withdraw};

use crate::rig::{BOTH, Rig, UP, prefixes};

/// The first ids of the owned range, which others have taken.
const TAKEN: [u32; 2] = [4_200_000_000, 4_200_000_001];

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn ids_that_others_took_in_the_owned_range_are_left_to_them() -> Result<()> {
    let mut rig = Rig::start("")?;
    let compat = "net.ipv4.nexthop_compat_mode";
    ensure!(rig.node.read_sysctl(compat)? == "0", "the change of a nexthop rewrites every route");
    for id in TAKEN {
        rig.node.run(&format!("ip nexthop add id {id} via 198.18.0.1 dev up0 proto 99"))?;
    }
    let node = rig.node.clone();
    let others = || node.run("ip nexthop show proto 99 | sort");
    let before = others()?;
    rig.load(50, BOTH)?;
    rig.wait_ways(50, &[0, 1])?;
    let ours = rig.node.json("ip -j nexthop show proto 201")?;
    let ids: Vec<u64> =
        ours.as_array().into_iter().flatten().filter_map(|object| object["id"].as_u64()).collect();
    ensure!(ids.len() == 3, "two nexthops and their group: {ours}");
    ensure!(ids.iter().all(|id| (4_200_000_002..=4_200_065_535).contains(id)), "{ids:?}");
    ensure!(others()? == before, "before:\n{before}now:\n{}", others()?);
    rig.ensure_clean()?;
    ensure!(rig.node.read_sysctl(compat)? == "1", "what it was before");
    ensure!(others()? == before, "cleanup took what is not ours");
    Ok(())
}

/// The kernel's trie takes neighbours one after the other up to forty times slower.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn neighbours_are_not_written_one_after_the_other() -> Result<()> {
    let mut rig = Rig::start("")?;
    let monitor = Monitor::start(&rig.node)?;
    // As many as a listener's buffer holds, if it is not read meanwhile.
    let nets = prefixes(400);
    rig.feeder()?.send(nets.iter().map(|net| announce(*net, UP[0])))?;
    rig.wait_ways(400, &[0])?;
    rig.feeder()?.send(nets.iter().map(|net| withdraw(*net)))?;
    rig.wait_ways(0, &[0])?;
    for deleted in [false, true] {
        let written: Vec<usize> = monitor
            .ours()?
            .iter()
            .filter(|line| line.contains("Deleted") == deleted)
            .filter_map(|line| nets.iter().position(|net| line.contains(&format!(" {net} "))))
            .collect();
        ensure!(written.len() >= 360, "only {} were seen", written.len());
        let neighbours = written.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 2).count();
        ensure!(neighbours * 10 < written.len(), "{neighbours} of {} follow a neighbour", written.len());
    }
    Ok(())
}
