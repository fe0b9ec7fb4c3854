//! What BGP announces is in the kernel, what it withdraws is not: with FRR 8.4 in mirror mode, FRR 10.3 in divert mode.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Daemon, FrrInstall, Monitor, ping, wait_until};

use crate::rig::{PEER_AS, Rig, Sessions, Setup, WAIT};

fn prefixes(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("10.{}.{}.0/24", 64 + n / 256, n % 256)).collect()
}

fn announced_and_withdrawn(install: &FrrInstall) -> Result<()> {
    let rig = Rig::start(install, Sessions::V4)?;
    let all = prefixes(5);
    rig.speakers[0].announce(PEER_AS, &all)?;
    for prefix in &all {
        rig.wait_ways(prefix, &["192.0.1.1 up0"])?;
    }
    rig.wait_synchronized()?;
    ensure!(rig.condition("FPMConnected")?.0 == "True");
    let monitor = Monitor::start(&rig.node)?;
    rig.speakers[0].withdraw(PEER_AS, &all[..2])?;
    rig.wait_count(4, 3)?;
    let changes = monitor.ours()?;
    ensure!(
        changes.iter().all(|line| !all[2..].iter().any(|prefix| line.contains(prefix.as_str()))),
        "routes that stayed were touched: {changes:?}"
    );
    ensure!(rig.rows(&all[2])?.iter().any(|(state, _)| state == "Programmed"), "{:?}", rig.rows(&all[2])?);
    Ok(())
}

fn equal_paths_become_multipath(install: &FrrInstall) -> Result<()> {
    let rig = Rig::start(install, Sessions::V4)?;
    let prefix = ["10.64.0.0/24".to_owned()];
    for (peer, speaker) in rig.peers.iter().zip(&rig.speakers) {
        peer.run("ip addr add 10.64.0.1/32 dev lo")?;
        speaker.announce(PEER_AS, &prefix)?;
    }
    rig.wait_ways(&prefix[0], &["192.0.1.1 up0", "192.0.2.1 up1"])?;
    if rig.into == 254 {
        ensure!(ping(&rig.node, None, "10.64.0.1".parse()?)?, "no answer through two gateways");
    }
    rig.speakers[0].withdraw(PEER_AS, &prefix)?;
    rig.wait_ways(&prefix[0], &["192.0.2.1 up1"])?;
    rig.speakers[0].announce(PEER_AS, &prefix)?;
    rig.wait_ways(&prefix[0], &["192.0.1.1 up0", "192.0.2.1 up1"])
}

fn ipv4_goes_by_ipv6_nexthops(install: &FrrInstall) -> Result<()> {
    let rig = Rig::start(install, Sessions::V6)?;
    rig.peers[0].run("ip addr add 10.64.0.1/32 dev lo; ip -6 addr add 2001:db8:64::1/128 dev lo")?;
    rig.speakers[0].announce(PEER_AS, &["10.64.0.0/24".to_owned(), "2001:db8:64::/48".to_owned()])?;
    let by = |prefix: &str| -> Result<()> {
        let mut ways = Default::default();
        let waited = wait_until(WAIT, &format!("{prefix} by an IPv6 nexthop"), || {
            ways = rig.ways(prefix).unwrap_or_default();
            ways.contains("fe80 up0") || ways.contains("2001:db8:1::1 up0")
        });
        waited.map(drop).map_err(|error| error.context(format!("it is by {ways:?}")))
    };
    by("10.64.0.0/24")?;
    by("2001:db8:64::/48")?;
    if rig.into == 254 {
        ensure!(ping(&rig.node, None, "10.64.0.1".parse()?)?, "no answer to IPv4 over an IPv6 nexthop");
        ensure!(ping(&rig.node, None, "2001:db8:64::1".parse()?)?, "no answer over IPv6");
    }
    Ok(())
}

fn thousands_come_and_go(install: &FrrInstall) -> Result<()> {
    let rig = Rig::start(install, Sessions::V4)?;
    let all = prefixes(5000);
    rig.speakers[0].announce(PEER_AS, &all)?;
    rig.wait_count(4, 5000)?;
    rig.speakers[1].announce(PEER_AS, &all[..2500])?;
    rig.wait_ways(&all[0], &["192.0.1.1 up0", "192.0.2.1 up1"])?;
    rig.speakers[0].withdraw(PEER_AS, &all)?;
    rig.wait_count(4, 2500)?;
    rig.wait_ways(&all[2499], &["192.0.2.1 up1"])?;
    rig.wait_synchronized()?;
    rig.speakers[1].withdraw(PEER_AS, &all[..2500])?;
    rig.wait_count(4, 0).map(drop)
}

fn a_lost_session_takes_its_routes_only(install: &FrrInstall) -> Result<()> {
    let mut rig = Rig::start(install, Sessions::V4)?;
    let all = prefixes(3);
    rig.speakers[0].announce(PEER_AS, &all[..2])?;
    rig.speakers[1].announce(PEER_AS, &all[1..])?;
    rig.wait_ways(&all[0], &["192.0.1.1 up0"])?;
    rig.wait_ways(&all[1], &["192.0.1.1 up0", "192.0.2.1 up1"])?;
    rig.wait_ways(&all[2], &["192.0.2.1 up1"])?;
    rig.speakers[0].kill(Daemon::Bgpd)?;
    rig.wait_ways(&all[0], &[])?;
    rig.wait_ways(&all[1], &["192.0.2.1 up1"])?;
    rig.wait_ways(&all[2], &["192.0.2.1 up1"])?;
    rig.speakers[0].restart(Daemon::Bgpd)?;
    rig.speakers[0].announce(PEER_AS, &all[..2])?;
    rig.wait_ways(&all[0], &["192.0.1.1 up0"])?;
    rig.wait_ways(&all[1], &["192.0.1.1 up0", "192.0.2.1 up1"])
}

fn a_link_that_fails_and_returns(install: &FrrInstall) -> Result<()> {
    let rig = Rig::start(install, Sessions::V4)?;
    let prefix = ["10.64.0.0/24".to_owned()];
    for speaker in &rig.speakers {
        speaker.announce(PEER_AS, &prefix)?;
    }
    rig.wait_ways(&prefix[0], &["192.0.1.1 up0", "192.0.2.1 up1"])?;
    rig.node.run("ip link set up0 down")?;
    rig.wait_ways(&prefix[0], &["192.0.2.1 up1"])?;
    rig.node.run("ip link set up0 up")?;
    rig.wait_ways(&prefix[0], &["192.0.1.1 up0", "192.0.2.1 up1"])
}

fn default_routes_of_a_hostile_peer_stay_out(install: &FrrInstall) -> Result<()> {
    let rig = Rig::start(install, Sessions::V4)?;
    let hostile = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.64.0.0/24"].map(str::to_owned);
    rig.speakers[0].announce(PEER_AS, &hostile)?;
    rig.wait_ways("10.64.0.0/24", &["192.0.1.1 up0"])?;
    for prefix in &hostile[..3] {
        wait_until(WAIT, &format!("{prefix} is rejected"), || {
            let expected = ("Rejected".to_owned(), "DefaultRouteRejected".to_owned());
            rig.rows(prefix).is_ok_and(|rows| rows.contains(&expected))
        })?;
    }
    ensure!(rig.routes(4)?.len() == 1, "{:?}", rig.routes(4)?);
    Ok(())
}

/// A peer that would have the node's own addresses and networks, its neighbours' and the API server's: what the node
/// needs stays with the kernel's own routes, the sessions stay, and all else is taken.
fn what_the_node_needs_stays_its_own(install: &FrrInstall) -> Result<()> {
    let setup = Setup { manifests: API_SERVER, ..Setup::default() };
    let rig = Rig::with(install, Sessions::V4, &setup)?;
    let main = || {
        rig.node.run("ip route show table main proto kernel; ip -6 route show table main proto kernel; ip route get 203.0.113.10")
    };
    rig.node.run("ip route add 203.0.113.0/24 via 192.0.2.1 proto static")?;
    let before = main()?;
    let harmless = ["10.64.0.0/24", "2001:db8:64::/48", "192.0.0.0/16"].map(str::to_owned);
    let hostile = [
        "192.0.1.2/32",
        "192.0.2.2/32",
        "192.0.1.1/32",
        "192.0.2.1/32",
        "203.0.113.10/32",
        "2001:db8:1::2/128",
        "2001:db8:2::2/128",
    ]
    .map(str::to_owned);
    rig.speakers[0].announce(PEER_AS, &hostile)?;
    rig.speakers[0].announce(PEER_AS, &harmless)?;
    for prefix in &harmless {
        let there = || {
            rig.ways(prefix)
                .is_ok_and(|ways| ways.iter().all(|way| way.ends_with(" up0")) && !ways.is_empty())
        };
        wait_until(WAIT, &format!("{prefix} by the peer"), there)?;
    }
    let rejected = |prefix: &str| {
        let reasons = rig.rows(prefix).unwrap_or_default();
        reasons.iter().any(|(state, reason)| state == "Rejected" && reason == "ProtectedPrefix")
    };
    for prefix in ["203.0.113.10/32", "192.0.2.1/32"] {
        wait_until(WAIT, &format!("{prefix} is rejected"), || rejected(prefix))
            .with_context(|| rig.agent.log())?;
    }
    // FRR keeps some to itself: the addresses of its own interfaces, a nexthop that would lead to itself.
    for prefix in &hostile {
        ensure!(rejected(prefix) || rig.rows(prefix)?.is_empty(), "{prefix}: {:?}", rig.rows(prefix)?);
        ensure!(rig.ways(prefix)?.is_empty(), "{prefix} is programmed");
    }
    // Without -R zebra writes main itself, and believes what it is told.
    if rig.into == 254 {
        ensure!(main()? == before, "before:\n{before}now:\n{}", main()?);
        ensure!(rig.frr.established()? >= 2, "a session was lost");
    }
    ensure!(rig.condition("GuardrailTripped")?.0 == "True");
    Ok(())
}

const API_SERVER: &str = "---
apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {name: default}
spec: {guardrails: {protectedPrefixes: [203.0.113.10/32]}}
";

with_each_frr!(
    announced_and_withdrawn,
    equal_paths_become_multipath,
    ipv4_goes_by_ipv6_nexthops,
    thousands_come_and_go,
    a_lost_session_takes_its_routes_only,
    a_link_that_fails_and_returns,
    default_routes_of_a_hostile_peer_stay_out,
    what_the_node_needs_stays_its_own,
);

with_frr_of!(
    sid, Sid: announced_and_withdrawn,
    equal_paths_become_multipath,
    ipv4_goes_by_ipv6_nexthops,
    a_link_that_fails_and_returns,
);
