//! Others that meddle with rules and static routes of ours, and what an agent of another configuration left.

use anyhow::{Result, ensure};
use backtrail_lab::Monitor;

use crate::rig::{Rig, manifests};

const DESTINATIONS: [&str; 3] = ["10.1.0.0/16", "10.2.0.0/16", "2001:db8:1::/48"];

/// Sorted: rules of one priority never overlap, and stand in the order in which they came.
fn rules(rig: &Rig) -> Result<String> {
    rig.node.run("(ip rule; ip -6 rule) | sort")
}

fn has_all(rig: &Rig) -> bool {
    rules(rig).is_ok_and(|text| DESTINATIONS.iter().all(|net| text.contains(&format!("to {net} "))))
}

/// As systemd-networkd and its kin do when they restart.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn flushed_rules_are_put_back_counted_and_their_remover_named() -> Result<()> {
    let rig = Rig::start("flush", manifests("false", "{}", &DESTINATIONS))?;
    rig.wait("the rules are there", has_all)?;
    let before = rules(&rig)?;
    let ours = before.matches("proto 201").count() as u64;
    for (number, flush) in ["ip rule flush proto 201; ip -6 rule flush proto 201", "ip rule flush proto 201"]
        .into_iter()
        .enumerate()
    {
        let mended = || {
            Ok::<_, anyhow::Error>(rig.agent.json(&["status"])?["fibDrift"]["mended"].as_u64().unwrap_or(0))
        };
        let at = mended()?;
        rig.node.run(flush)?;
        rig.wait("all are back", |rig| rules(rig).is_ok_and(|now| now == before))?;
        rig.wait("the drift is counted", |_| mended().is_ok_and(|now| now > at))?;
        if number == 0 {
            let counted = rig.agent.metric("backtrail_reconcile_drift_mended_total{cause=\"rule\"}")?;
            ensure!(counted >= ours, "{counted} of {ours}");
        }
    }
    rig.wait_reason("ForeignInterference", "RuleDeleted")?;
    let status = rig.agent.json(&["status"])?;
    let notes = status["fibDrift"]["recent"].to_string();
    ensure!(notes.contains("to 10.1.0.0/16") && notes.contains(" deleted by "), "{notes}");
    ensure!(rig.agent.log().contains("drift: rule "), "{}", rig.agent.log());

    // Two tools that both want the band's rules: one write of ours for each loss, and nobody else's is touched.
    let monitor = Monitor::start(&rig.node)?;
    for _ in 0..20 {
        rig.node.run("ip rule del to 10.1.0.0/16 proto 201; ip rule add to 10.77.0.0/16 lookup 77 pref 1500; ip rule del pref 1500")?;
        rig.wait("it is back", |rig| rules(rig).is_ok_and(|now| now == before))?;
    }
    let lines = monitor.lines()?;
    let added =
        lines.iter().filter(|line| !line.contains("Deleted") && line.contains("to 10.1.0.0/16")).count();
    ensure!(added == 20, "{added} writes after 20 losses: {lines:?}");
    Ok(())
}

/// The carrier of a static gateway's interface drops: its default route goes, and is what it was when it returns.
/// An edit that would move what is in force is held back whole, for as long as the foreign rule stands.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_is_in_force_outlives_an_edit_beside_a_foreign_rule() -> Result<()> {
    let rig = Rig::start("beside", manifests("false", "{}", &["10.1.0.0/16"]))?;
    rig.wait("the rule is there", |rig| rig.has_rule("10.1.0.0/16"))?;
    let before = rules(&rig)?;
    rig.node.run("ip rule add pref 1180 to 203.0.113.0/24 lookup main proto static")?;
    // The longer destination takes the place of the shorter one.
    rig.agent.write_manifests(&manifests("false", "{}", &["10.1.9.0/24", "10.1.0.0/16"]))?;
    rig.wait_reason("Programmed", "BandOccupied")?;
    let now = rules(&rig)?;
    ensure!(before.lines().all(|line| now.contains(line)) && !rig.has_rule("10.1.9.0/24"), "{now}");
    rig.node.run("ip rule del pref 1180")?;
    rig.wait("the edit is in force", |rig| rig.has_rule("10.1.9.0/24"))?;
    ensure!(rig.has_rule("10.1.0.0/16"), "{}", rules(&rig)?);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_sysctl_that_somebody_changes_is_set_again_and_told() -> Result<()> {
    const FILTER: &str = "/proc/sys/net/ipv4/conf/wan/rp_filter";
    let prepare = format!("echo 1 > {FILTER}");
    let rig = Rig::prepared("sysctl", manifests("false", "{}", &DESTINATIONS), &prepare)?;
    // Without a default route in main even a loose filter would drop what comes by the VRF's gateway.
    let off = |rig: &Rig| rig.node.run(&format!("cat {FILTER}")).is_ok_and(|value| value.trim() == "0");
    rig.wait("the filter is off", off)?;
    rig.node.run(&prepare)?;
    rig.wait("it is again", off)?;
    rig.wait_reason("ForeignInterference", "SysctlChanged")?;
    ensure!(rig.agent.metric("backtrail_reconcile_drift_mended_total{cause=\"sysctl\"}")? == 1);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_static_gateway_follows_its_carrier() -> Result<()> {
    let rig = Rig::start("carrier", manifests("false", "{}", &DESTINATIONS))?;
    let table = || rig.node.run("ip route show table 10001; ip -6 route show table 10001");
    rig.wait("the gateway is there", |_| table().is_ok_and(|text| text.contains("default via 192.0.2.1")))?;
    rig.wait_reason("Ready", "AllWell")?;
    let before = table()?;
    for _ in 0..3 {
        rig.peer.run("ip link set eth0 down")?;
        rig.wait("it goes with the carrier", |_| table().is_ok_and(|text| !text.contains("192.0.2.1")))?;
        ensure!(
            table()?.contains("unreachable default"),
            "traffic of the VRF does not leave by main: {}",
            table()?
        );
        rig.peer.run("ip link set eth0 up")?;
        rig.wait("all is as before", |_| table().is_ok_and(|now| now == before))?;
    }
    let log = rig.agent.log();
    ensure!(log.contains("usable again after "), "the time without is told: {log}");
    rig.wait_reason("Ready", "AllWell")
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn of_several_static_gateways_those_that_answer_are_used() -> Result<()> {
    let two = manifests("false", "{}", &["10.1.0.0/16"])
        .replace("gateways: [", "gateways: [{address: 192.0.2.77, interface: wan}, ");
    let rig = Rig::start("gateways", two)?;
    let uses = |rig: &Rig, dead: bool| {
        let table = rig.node.run("ip route show table 10001 default").unwrap_or_default();
        table.contains("via 192.0.2.1 ") && table.contains("via 192.0.2.77 ") == dead
    };
    rig.wait("the one that does not answer is left out", |rig| uses(rig, false))?;
    rig.peer.run("ip addr add 192.0.2.77/24 dev eth0")?;
    rig.wait("it answers and is used", |rig| uses(rig, true))?;
    rig.peer.run("ip addr del 192.0.2.77/24 dev eth0")?;
    rig.wait("it is left out again", |rig| uses(rig, false))
}

/// Killed, and started with other tables, rules and objects: the former ones go, and what others put beside them stays.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_an_older_configuration_left_goes_and_nothing_else() -> Result<()> {
    let mut rig = Rig::start("leftovers", manifests("false", "{}", &DESTINATIONS))?;
    rig.wait("the rules are there", has_all)?;
    rig.node.run(
        "ip route add 172.16.0.0/16 via 192.0.2.1 table 10001 proto static metric 7
         ip rule add to 172.17.0.0/16 lookup 10001 pref 900 proto static
         ip nexthop add id 7 via 192.0.2.1 dev wan proto static
         ip route add 172.18.0.0/16 nhid 7 table 10001",
    )?;
    let others = foreign(&rig)?;
    ensure!(others.lines().count() == 4, "{others}");
    rig.agent.kill()?;
    let newer = manifests("false", "{}", &["10.3.0.0/16"])
        .replace("name: red, table: 10001", "name: blue, table: 10002");
    rig.agent.write_manifests(&newer)?;
    // The record of what is ours is lost too: the kernel's marks suffice.
    rig.agent.forget()?;
    rig.agent.run()?;
    rig.wait("only what is asked for now", |rig| {
        let text = rules(rig).unwrap_or_default() + &rig.ours().unwrap_or_default();
        text.contains("10.3.0.0/16")
            && DESTINATIONS.iter().all(|net| !text.contains(net))
            && !text.lines().any(|line| line.contains("proto 201") && line.contains("10001"))
    })?;
    ensure!(foreign(&rig)? == others, "before:\n{others}now:\n{}", foreign(&rig)?);
    rig.wait_reason("Ready", "AllWell")
}

/// What others have in the tables and bands of ours.
fn foreign(rig: &Rig) -> Result<String> {
    rig.node.run(
        "ip route show table 10001 proto static; ip route show table 10001 proto boot; ip rule show pref 900
         ip nexthop show id 7",
    )
}

/// The kernel takes all addresses of a network away with the first one, unless `promote_secondaries` is set.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_address_of_the_host_outlives_the_manifests_one() -> Result<()> {
    let plain = manifests("false", "{}", &["10.20.0.0/16"]);
    let listed = plain.replace("{name: wan}", "{name: wan, addresses: [198.51.100.2/24]}");
    let prepare = "echo 0 > /proc/sys/net/ipv4/conf/all/promote_secondaries
        echo 0 > /proc/sys/net/ipv4/conf/wan/promote_secondaries";
    let mut rig = Rig::prepared("secondary", listed.clone(), prepare)?;
    let shows =
        |rig: &Rig, net: &str| rig.node.run("ip -o -4 addr show wan").is_ok_and(|text| text.contains(net));
    let promotes = |rig: &Rig| rig.node.read_sysctl("net.ipv4.conf.wan.promote_secondaries");
    rig.wait("the manifest's address", |rig| shows(rig, "198.51.100.2/24"))?;
    rig.node.run("ip addr add 198.51.100.3/24 dev wan label wan:host valid_lft 9000 preferred_lft 9000")?;
    rig.agent.write_manifests(&plain)?;
    rig.wait("it is gone", |rig| !shows(rig, "198.51.100.2/24"))?;
    rig.wait("the sysctl is as before", |rig| promotes(rig).is_ok_and(|value| value == "0"))?;
    ensure!(shows(&rig, "198.51.100.3/24") && shows(&rig, "wan:host"), "the host's went with it");

    rig.node.run("ip addr del 198.51.100.3/24 dev wan")?;
    rig.agent.write_manifests(&listed)?;
    rig.wait("the manifest's address again", |rig| shows(rig, "198.51.100.2/24"))?;
    rig.node.run("ip addr add 198.51.100.3/24 dev wan")?;
    rig.agent.stop()?;
    rig.agent.cleanup()?;
    ensure!(shows(&rig, "198.51.100.3/24") && !shows(&rig, "198.51.100.2/24"), "after cleanup");
    ensure!(promotes(&rig)? == "0", "promote_secondaries is still set");
    Ok(())
}

/// Writes the record of an agent that changed `wan`.
fn record(rig: &Rig, changed: &serde_json::Value) -> Result<()> {
    let index = rig.node.run("ip -o link show wan | cut -d: -f1")?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let record = serde_json::json!({ "boot": boot, "interfaces": { index.trim(): changed } });
    let path = rig.agent.run_dir().with_file_name("state").join("devices.json");
    Ok(std::fs::write(path, record.to_string())?)
}

/// Where the operator puts an interface, it stays, whatever an agent of before did with it.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_interface_in_a_bridge_of_the_operator_stays_there() -> Result<()> {
    let mut rig = Rig::start("bridged", manifests("false", "{}", &["10.20.0.0/16"]))?;
    rig.wait("a rule", |rig| rig.has_rule("10.20.0.0/16"))?;
    rig.agent.stop()?;
    // As an agent records it on a kernel with VRF devices, which this one may not be.
    let member = serde_json::json!({
        "name": "wan", "member": true, "tables": [10001], "routes": [], "added": [],
    });
    record(&rig, &member)?;
    rig.node.run("ip link add br0 type bridge; ip link set wan master br0")?;
    let cleaned = rig.agent.cleanup()?;
    ensure!(cleaned.contains("released 0 interfaces"), "{cleaned}");
    ensure!(rig.node.run("ip -o link show master br0")?.contains("wan"), "wan was taken from br0");
    Ok(())
}

/// An agent was killed between a move and the put-back; `cleanup` and the next agent find what was lost on disk.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_a_kill_kept_from_being_put_back_is_put_back_with_what_is_left_of_its_lifetime() -> Result<()> {
    let mut rig = Rig::start("taken", manifests("false", "{}", &["10.20.0.0/16"]))?;
    rig.wait("a rule", |rig| rig.has_rule("10.20.0.0/16"))?;
    let index: u32 = rig.node.run("ip -o link show wan | cut -d: -f1")?.trim().parse()?;
    let uptime: u64 =
        std::fs::read_to_string("/proc/uptime")?.split('.').next().unwrap_or_default().parse()?;
    let hex = |bytes: &[&[u8]]| bytes.concat().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lives =
        |seconds: u32| [[20, 0, 6, 0], seconds.to_ne_bytes(), seconds.to_ne_bytes(), [0; 4], [0; 4]].concat();
    let address = |last: u8, seconds: u32| {
        let octets = [0x20, 1, 0xd, 0xb8, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let head = [[10, 128, 0, 0], index.to_ne_bytes(), [20, 0, 1, 0]].concat();
        hex(&[&head, &octets, &lives(seconds)])
    };
    // 198.51.100.0/24 via 192.0.2.1 dev wan table 100 proto static initcwnd 20
    let attributes = [[8, 0, 5, 0], [192, 0, 2, 1], [8, 0, 4, 0], index.to_ne_bytes()].concat();
    let metrics = [[12, 0, 8, 0], [8, 0, 11, 0], 20u32.to_ne_bytes()].concat();
    let head = [[2, 24, 0, 0], [100, 4, 0, 1], [0; 4], [8, 0, 1, 0], [198, 51, 100, 0]].concat();
    let route = hex(&[&head, &attributes, &metrics]);
    // A machine may have been up for seconds only.
    let age = u32::try_from(uptime.min(1000))?;
    let long_ago = uptime - u64::from(age);
    let lost = serde_json::json!([
        { "kind": 20, "payload": address(1, age + 3900), "at": long_ago },
        { "kind": 20, "payload": address(2, age / 2), "at": long_ago },
        { "kind": 20, "payload": address(3, u32::MAX), "at": long_ago },
        { "kind": 24, "payload": route, "at": long_ago },
    ]);
    let shown =
        |rig: &Rig| rig.node.run("ip -6 -o addr show wan; ip route show table 100 2>/dev/null || true");
    let whole = |rig: &Rig| {
        shown(rig).is_ok_and(|text| {
            let lives = |address: &str, words: &str| {
                text.lines().any(|line| line.contains(address) && line.contains(words))
            };
            lives("2001:db8:77::1/128", "valid_lft 3")
                && lives("2001:db8:77::3/128", "valid_lft forever")
                && lives("198.51.100.0/24 via 192.0.2.1 dev wan proto static", "initcwnd 20")
                && !text.contains("2001:db8:77::2")
        })
    };
    for by_agent in [false, true] {
        rig.agent.kill()?;
        record(&rig, &serde_json::json!({ "name": "wan", "lost": lost }))?;
        if by_agent {
            rig.agent.run()?;
            rig.wait("the next agent puts it back", whole)?;
        } else {
            rig.agent.cleanup()?;
            ensure!(whole(&rig), "after cleanup: {}", shown(&rig)?);
            rig.node.run("ip route flush table 100; ip -6 addr flush dev wan to 2001:db8:77::/64")?;
            rig.agent.run()?;
        }
    }
    Ok(())
}
