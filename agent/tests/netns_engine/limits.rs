//! A feed that wants too much.

use anyhow::{Result, ensure};
use backtrail_lab::feeder::announce;
use ipnet::Ipv4Net;

use crate::rig::{BOTH, Rig, UP, prefixes};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_default_route_and_the_nodes_own_prefixes_stay_out() -> Result<()> {
    let mut rig = Rig::start("")?;
    rig.load(10, BOTH)?;
    let hostile = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "198.18.0.2/32", "198.18.1.2/32"];
    let nets = hostile.iter().map(|net| net.parse::<Ipv4Net>()).collect::<Result<Vec<_>, _>>()?;
    rig.feeder()?.send(nets.into_iter().map(|net| announce(net, UP[0])))?;
    rig.feeder()?.send([announce("10.200.0.0/24".parse::<Ipv4Net>()?, UP[0])])?;
    rig.wait_fib("the harmless one", |fib| fib.contains_key("10.200.0.0/24"))?;
    let fib = rig.fib()?;
    ensure!(fib.len() == 11 && hostile.iter().all(|net| !fib.contains_key(*net)), "{fib:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_limit_holds_over_a_restart_too() -> Result<()> {
    let mut rig = Rig::start("  maxRoutes: 100\n")?;
    rig.feeder()?.send(prefixes(300).into_iter().map(|net| announce(net, BOTH)))?;
    rig.wait_fib("just the limit", |fib| fib.len() == 100)?;
    rig.wait_synchronized()?;
    let before = rig.fib()?;
    // While the agent is away another hundred comes, and is announced first.
    rig.agent.kill()?;
    rig.agent.run()?;
    rig.connect()?;
    rig.feeder()?.send(prefixes(300).into_iter().rev().map(|net| announce(net, BOTH)))?;
    rig.wait_synchronized()?;
    ensure!(rig.fib()? == before, "{} routes of 100, or others than before", rig.fib()?.len());
    // A lower limit takes the surplus away.
    rig.agent.write_manifests(&crate::rig::manifests("  maxRoutes: 40\n"))?;
    rig.wait_fib("just the new limit", |fib| fib.len() == 40)?;
    Ok(())
}
