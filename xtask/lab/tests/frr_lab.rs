//! FRR in the lab: the distribution's, and newer ones where they can be obtained.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Daemon, End, Frr, FrrInstall, FrrOptions, Lab, Suite, wait_until, with_suite};

const WAIT: Duration = Duration::from_secs(60);

fn bgp(asn: u32, peer: &str, peer_asn: u32) -> FrrOptions {
    FrrOptions {
        bgpd: format!(
            "router bgp {asn}\n bgp router-id 192.0.2.{id}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
             neighbor {peer} remote-as {peer_asn}\n neighbor {peer} timers connect 1\n",
            id = asn % 250
        ),
        ..FrrOptions::default()
    }
}

fn two_routers(install: &FrrInstall) -> Result<()> {
    let lab = Lab::new("frr")?;
    let (fabric, node) = (lab.namespace("fabric")?, lab.namespace("node")?);
    lab.connect(&End::new(&fabric, "f0", &["192.0.2.1/24"]), &End::new(&node, "n0", &["192.0.2.2/24"]))?;
    let speaker = Frr::start(&lab, &fabric, &FrrInstall::host()?, bgp(65001, "192.0.2.2", 65002))?;
    let table = install.can_divert().then_some(5000);
    let mut frr =
        Frr::start(&lab, &node, install, FrrOptions { fpm: true, table, ..bgp(65002, "192.0.2.1", 65001) })?;
    frr.wait_established(1, WAIT)?;
    let prefixes: Vec<String> = (0..2000).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect();
    let kernel = || {
        let shown = node.run(&format!("ip route show table {} proto bgp", table.unwrap_or(254)));
        shown.map_or(usize::MAX, |text| text.lines().count())
    };
    speaker.announce(65001, &prefixes)?;
    wait_until(WAIT, "2000 routes in the kernel", || kernel() == 2000)?;
    speaker.withdraw(65001, prefixes.get(..1000).unwrap_or_default())?;
    wait_until(WAIT, "1000 routes in the kernel", || kernel() == 1000)?;
    frr.kill(Daemon::Zebra)?;
    frr.restart(Daemon::Zebra)?;
    frr.restart(Daemon::Bgpd)?;
    wait_until(WAIT, "1000 routes after zebra's restart", || {
        let routes = frr.json("show ip route bgp json");
        routes.is_ok_and(|routes| routes.as_object().is_some_and(|routes| routes.len() == 1000))
    })
    .with_context(|| frr.vtysh(&["show ip route summary", "show bgp summary"]).unwrap_or_default())?;
    ensure!(frr.vtysh(&["show running-config"])?.contains("fpm address 127.0.0.1"));
    Ok(())
}

#[test]
#[ignore = "needs FRR, root and network namespaces: cargo xtask test frr"]
fn the_distributions_frr_speaks_bgp() -> Result<()> {
    two_routers(&FrrInstall::host()?)
}

#[test]
#[ignore = "needs FRR, root and network namespaces: cargo xtask test frr"]
fn trixies_frr_writes_to_the_unused_table() -> Result<()> {
    with_suite(Suite::Trixie, "trixies_frr_writes_to_the_unused_table", two_routers)
}
