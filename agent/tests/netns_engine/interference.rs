//! Others that meddle with what is ours.

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::feeder::{announce, in_table, withdraw};
use backtrail_lab::{Monitor, wait_until};
use nix::sys::signal::Signal;

use crate::rig::{BOTH, Rig, UP, WAIT, prefixes};

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
    rig.feeder()?.send([announce("10.200.0.0/24".parse::<ipnet::Ipv4Net>()?, UP[0])])?;
    rig.wait_fib("the single path", |fib| fib.len() == ROUTES as usize + 1)?;
    let before = rig.fib()?;
    for meddle in [
        "ip route flush proto 201",
        "ip route del 10.64.7.0/24",
        // All groups, then all objects: with each go its routes, and only the object's end is notified.
        "ip nexthop show groups | while read -r _ id _; do ip nexthop del id \"$id\"; done",
        "ip nexthop flush proto 201",
        "ip nexthop show | grep -v group | while read -r _ id _; do ip nexthop del id \"$id\"; done",
        // Another content under our mark, and under his: then the object is his.
        "ip nexthop show | grep 'via 198.18.0.1 ' | while read -r _ id _; do ip nexthop replace id \"$id\" via 198.18.1.66 dev up1 proto 201; done",
        "ip nexthop show | grep 'via 198.18.0.1 ' | while read -r _ id _; do ip nexthop replace id \"$id\" via 198.18.1.66 dev up1 proto static; done",
    ] {
        let mended = rig.number("/fibDrift/mended")?;
        rig.node.run(meddle)?;
        rig.wait_fib(meddle, |fib| *fib == before)?;
        wait_until(WAIT, "the drift is counted", || {
            rig.number("/fibDrift/mended").is_ok_and(|n| n > mended)
        })?;
    }
    // Each is counted by what it was, and the latest are named with their author.
    for cause in ["route", "nexthop"] {
        let sample = format!("backtrail_reconcile_drift_mended_total{{cause=\"{cause}\"}}");
        ensure!(rig.agent.metric(&sample)? > 0, "{sample}");
    }
    rig.node.run("ip route del 10.64.7.0/24")?;
    let told = |rig: &Rig| {
        let status = rig.agent.json(&["status"]).unwrap_or_default();
        let notes = status["fibDrift"]["recent"].as_array().cloned().unwrap_or_default();
        notes.first().and_then(|note| note.as_str()).unwrap_or_default().to_owned()
    };
    wait_until(WAIT, "the latest note", || told(&rig).contains("10.64.7.0/24"))
        .with_context(|| format!("{}\n{}", told(&rig), rig.explain()))?;
    ensure!(told(&rig).contains(" deleted by "), "{}", told(&rig));
    ensure!(rig.agent.log().contains("drift: route 10.64.7.0/24 table 254"), "{}", rig.agent.log());
    rig.wait_fib("all as before", |fib| *fib == before)?;
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
    // FRR believes in it and the kernel does not have it: that is a condition, not only a note.
    rig.wait_condition("Programmed", "False", "KernelRejected")?;
    rig.wait_condition("Ready", "False", "Partial")?;
    rig.node.run("ip route del 10.64.9.0/24 proto static")?;
    rig.wait_fib("all as before", |fib| *fib == before)?;
    rig.wait_synchronized()
}

/// Two others take turns with the place of one of our routes, and we are no third: it is told, tried ever less often, and
/// put back when they are done.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn where_two_others_fight_nobody_else_joins_in() -> Result<()> {
    let rig = loaded()?;
    let before = rig.fib()?;
    let monitor = Monitor::start(&rig.node)?;
    let refused = "backtrail_reconcile_operations_total{op=\"add\",kind=\"route\",result=\"error\"}";
    for round in 0..60 {
        let (way, protocol) = if round % 2 == 0 { ("198.18.1.1", "static") } else { ("198.18.0.1", "99") };
        rig.node
            .run(&format!("ip route replace 10.64.9.0/24 via {way} metric 20 proto {protocol}; sleep 0.1"))?;
    }
    rig.wait_condition("Programmed", "False", "KernelRejected")?;
    // Of the six seconds: after one, two and four at most, and once more for each replacement seen in between.
    ensure!(monitor.ours()?.is_empty(), "written: {:?}", monitor.ours()?);
    let tried = rig.agent.metric(refused)?;
    ensure!((1..=12).contains(&tried), "tried {tried} times");
    rig.node.run("ip route del 10.64.9.0/24 proto 99")?;
    rig.wait_fib("all as before", |fib| *fib == before)?;
    // One deletes what we put back, for a while: one write for each deletion, and no more.
    for _ in 0..30 {
        rig.node.run("ip route del 10.64.9.0/24 proto 201 || true")?;
        rig.wait_fib("all as before", |fib| *fib == before)?;
    }
    let writes = monitor.ours()?.into_iter().filter(|line| !line.contains("Deleted")).count();
    ensure!(writes <= 31, "{writes} writes after 31 losses");
    rig.wait_synchronized()
}

/// More changes than the socket holds while the agent does not read: it compares everything.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn lost_notifications_cost_nothing_but_a_comparison() -> Result<()> {
    let mut rig = loaded()?;
    let before = rig.fib()?;
    rig.agent.process()?.signal(Signal::SIGSTOP)?;
    // Routes of others are filtered; neighbours are not, and each tells of itself. What is ours goes last, unheard.
    let told: String = (0..60_000_u32)
        .map(|n| {
            let (host, [_, _, high, low]) = (2 + n % 250, n.to_be_bytes());
            format!("neigh replace 198.18.1.{host} lladdr 02:00:00:00:{high:02x}:{low:02x} dev up1\n")
        })
        .collect();
    let batch = rig.lab.dir().join("neighbours");
    std::fs::write(&batch, told)?;
    rig.node.run(&format!("ip -batch {}", batch.display()))?;
    rig.node.run("ip route flush proto 201; ip nexthop flush proto 201")?;
    rig.agent.process()?.signal(Signal::SIGCONT)?;
    rig.wait_fib("all as before", |fib| *fib == before)?;
    let overruns = rig.agent.metric("backtrail_kernel_overruns_total")?;
    ensure!(overruns > 0, "no notification was lost: the test proves nothing");
    rig.node.run("ip neigh flush dev up1")?;
    rig.wait_synchronized()?;
    rig.ensure_clean()
}

/// What cannot be compared now is compared later, and until then a condition says so.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_comparison_that_fails_is_repeated() -> Result<()> {
    let mut rig = loaded()?;
    let before = rig.fib()?;
    let pid = rig.agent.process()?.pid();
    let mut open = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        open.insert(entry?.file_name().to_string_lossy().parse::<u32>()?);
    }
    let free = (0..).find(|number| !open.contains(number)).context("a free number")?;
    // Not one more file: no socket for a dump either.
    rig.node.run(&format!("prlimit --pid {pid} --nofile={free}:"))?;
    rig.node.run("ip route add 10.250.0.0/24 via 198.18.0.1 proto 201")?;
    // It is asked for again at once, and waits all the same.
    for delay in [1, 2, 4, 8, 16] {
        let told = format!("cannot compare with the kernel; tried again in {delay} s");
        wait_until(WAIT, &told, || rig.agent.log().contains(&told))?;
        rig.node.run("ip route change 10.250.0.0/24 via 198.18.1.1 proto 201 || true")?;
    }
    rig.node.run(&format!("prlimit --pid {pid} --nofile=1024:"))?;
    rig.wait_condition("FIBConsistent", "False", "ComparisonFailed")?;
    rig.wait_fib("the stray route is gone", |fib| *fib == before)?;
    rig.wait_condition("FIBConsistent", "True", "Consistent")?;
    let failures = rig.agent.log().matches("cannot compare with the kernel").count();
    ensure!(failures == 5, "{failures} attempts");
    rig.ensure_clean()
}

/// A VRF's table in which zebra has one route, that comes and goes: nothing of ours, whoever restarts.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_table_with_a_route_of_zebra_stays_its_own() -> Result<()> {
    const RED: u32 = 10_001;
    let zebras = "10.99.0.0/24".parse::<ipnet::Ipv4Net>()?;
    let mut rig = Rig::start("")?;
    rig.agent.write_manifests(
        "apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {name: red}
spec: {vrf: {name: red, table: 10001, mode: Adopt}}
---
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: into-red}
spec: {from: {table: 5000}, into: {vrf: {name: red, table: 10001}}, allowed: {mode: All}}
",
    )?;
    let planned = || rig.agent.json(&["status"]).is_ok_and(|it| it["imports"][0]["into"] == RED);
    wait_until(WAIT, "the import is in force", planned)?;
    let monitor = Monitor::start(&rig.node)?;
    let learned = |rig: &Rig, count: u64| {
        wait_until(WAIT, &format!("{count} learned"), || {
            rig.number("/routes/learned").is_ok_and(|n| n == count)
        })
    };
    // First of all, after a restart, and after one that nobody remembers anything of.
    for round in 0..3 {
        if round > 0 {
            rig.agent.kill()?;
            if round == 2 {
                rig.agent.forget()?;
            }
            rig.agent.run()?;
            rig.connect()?;
        }
        rig.feeder()?.send(prefixes(5).into_iter().map(|net| announce(net, UP[0])))?;
        rig.feeder()?.send([in_table(RED, announce(zebras, UP[0]))])?;
        rig.wait_condition("Programmed", "False", "TableOwnedByZebra")?;
        for _ in 0..3 {
            rig.feeder()?.send([in_table(RED, withdraw(zebras))])?;
            learned(&rig, 5)?;
            rig.feeder()?.send([in_table(RED, announce(zebras, UP[0]))])?;
            learned(&rig, 6)?;
        }
    }
    // Gone when the agent starts again: it is remembered.
    rig.agent.kill()?;
    rig.agent.run()?;
    rig.connect()?;
    rig.feeder()?.send(prefixes(5).into_iter().map(|net| announce(net, UP[0])))?;
    rig.wait_condition("Synchronized", "True", "InSync")?;
    rig.wait_condition("Programmed", "False", "TableOwnedByZebra")?;
    let written: Vec<String> = monitor.ours()?.into_iter().filter(|line| line.contains("10.64.")).collect();
    ensure!(written.is_empty(), "{written:?}");
    rig.ensure_clean()
}

/// An uplink goes to another namespace and comes back, with the number that FRR knows it by.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_in_another_namespace_and_back() -> Result<()> {
    let mut rig = loaded()?;
    let before = rig.fib()?;
    let index = "ip -o link show dev up1 | cut -d: -f1";
    let number = rig.node.run(index)?;
    rig.node.run(&format!("ip link set dev up1 netns {}", rig.peers[0].name()))?;
    rig.wait_ways(ROUTES as usize, &[0])?;
    rig.peers[0].run(&format!("ip link set dev up1 netns {}", rig.node.name()))?;
    rig.node.run("ip addr add 198.18.1.2/24 dev up1; ip link set dev up1 up")?;
    ensure!(rig.node.run(index)? == number, "another number: FRR would announce other nexthops");
    rig.wait_fib("all as before", |fib| *fib == before)?;
    rig.wait_synchronized()?;
    rig.ensure_clean()
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
