//! VRF devices that the agent makes or adopts, on a kernel that has them.
//!
//! ```text
//! peer ---(p1 e1: addresses and routes of main)--- node
//!     \---(p2 e2, VLAN 120)-----------------------/
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Agent, AgentOptions, End, Lab, Namespace, TcpEcho, tcp_exchange, wait_until};

/// Emulated machines are slow.
const WAIT: Duration = Duration::from_secs(60);

struct Net {
    peer: Namespace,
    node: Namespace,
    lab: Lab,
}

/// A manifest of a VRF with `interfaces` in YAML.
fn attachment(vrf: &str, table: u32, mode: &str, interfaces: &str) -> String {
    format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: VRFAttachment
metadata: {{name: {vrf}}}
spec:
  vrf: {{name: {vrf}, table: {table}, mode: {mode}}}
  interfaces: [{interfaces}]
---
"
    )
}

const VLAN: &str = "{name: v.120, type: VLAN, vlan: {parent: e2, id: 120, mtu: 1400}, addresses: [\"192.0.2.10/24\", \"2001:db8:120::10/64\"]}";

impl Net {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (peer, node) = (lab.namespace("pe")?, lab.namespace("no")?);
        lab.connect(
            &End::new(&peer, "p1", &["10.0.1.1/24", "fd00:1::1/64"]),
            &End::new(&node, "e1", &["10.0.1.2/24", "fd00:1::2/64"]),
        )?;
        lab.connect(&End::new(&peer, "p2", &[]), &End::new(&node, "e2", &[]))?;
        peer.run(
            "ip link add link p2 name p2.120 type vlan id 120; ip link set p2.120 up
             ip addr add 192.0.2.1/24 dev p2.120; ip addr add 2001:db8:120::1/64 dev p2.120",
        )?;
        node.run(
            "ip addr add fe80::77/64 dev e1; ip addr add 10.0.1.3/32 dev e1 label e1:x
             ip route add 198.51.100.0/24 via 10.0.1.1 proto static; ip route add 203.0.113.0/24 via 10.0.1.1 metric 7
             ip -6 route add 2001:db8:9::/48 via fd00:1::1 proto static",
        )?;
        // What goes with a link that is down: lifetimes, other tables, all attributes, nexthop objects, and the VLAN on it.
        node.run(
            "ip -6 addr add 2001:db8:6::6/128 dev e1 valid_lft 3900 preferred_lft 2100
             ip route add 198.51.101.0/24 via 10.0.1.1 table 100 mtu 1400 advmss 1300 initcwnd 20 window 9000
             ip route add 198.51.102.0/24 dev e1 tos 0x10 table 100 proto kernel scope host
             ip -6 route add 2001:db8:101::/48 via fd00:1::1 table 100 pref high
             ip -6 route add 2001:db8:102::/48 dev e1 expires 3900
             ip route add 198.51.103.0/24 via 10.0.1.1 initcwnd 30
             ip nexthop add id 7 via 10.0.1.1 dev e1; ip nexthop add id 8 via 10.0.2.1 dev e2 onlink
             ip nexthop add id 9 group 7,3; ip nexthop add id 10 group 7/8,5
             ip route add 198.51.104.0/24 nhid 7; ip route add 198.51.105.0/24 nhid 9 table 100
             ip route add 198.51.106.0/24 nhid 10
             ip link add link e1 name e1.5 type vlan id 5; ip link set e1.5 up; ip addr add 10.0.5.2/24 dev e1.5
             ip -6 addr add 2001:db8:5::2/64 dev e1.5; ip route add 198.51.107.0/24 via 10.0.5.1
             ip route add 198.51.108.0/24 via 10.0.5.1 table 100; ip -6 route add 2001:db8:103::/48 via 2001:db8:5::1",
        )?;
        node.sysctl("net.ipv4.conf.e1.rp_filter", "1")?;
        let net = Self { peer, node, lab };
        // The kernel tells the operational state late (`net/core/link_watch.c`): a snapshot must not be before it.
        let is_up = |link: &str| net.shows(&format!("ip link show {link}"), &["state UP"]);
        wait_until(WAIT, "both interfaces are operational", || is_up("e1") && is_up("e2"))?;
        Ok(net)
    }

    fn agent(&self, manifests: &str) -> Result<Agent> {
        let options = AgentOptions { manifests: manifests.to_owned(), ..AgentOptions::default() };
        Agent::start(&self.lab, &self.node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)
    }

    fn until(&self, agent: &Agent, what: &str, ready: impl FnMut() -> bool) -> Result<()> {
        wait_until(WAIT, what, ready).map(drop).with_context(|| {
            let shown =
                self.node.run("ip -d addr; ip route show table all; ip -6 route show table all; ip rule");
            format!("{}\n{}", shown.unwrap_or_default(), agent.log())
        })
    }

    /// All that the agent may change on interfaces: it must be the same again in the end. The kernel keeps its own
    /// l3mdev rules for ever.
    fn snapshot(&self) -> Result<Vec<String>> {
        // iproute2 fails where a table does not exist.
        let text = self.node.run(
            "ip -o addr show; ip -o -d link show; ip route show table main; ip -6 route show table main
             ip route show table 100; ip -6 route show table 100; ip nexthop
             ip rule | grep -v l3mdev; ip -6 rule | grep -v l3mdev
             for table in 10001 10002; do ip route show table $table; ip -6 route show table $table; done 2>/dev/null || true
             for link in all default lo e1 e2; do grep -r . /proc/sys/net/ipv[46]/conf/$link || true; done 2>/dev/null
             grep . /proc/sys/net/ipv4/*_l3mdev_accept",
        )?;
        let mut lines: Vec<String> = text.lines().map(coarse).collect();
        lines.sort();
        Ok(lines)
    }

    /// Waits until everything is as it was.
    fn restored(&self, agent: &Agent, before: &[String]) -> Result<()> {
        let same = || self.snapshot().is_ok_and(|now| now == before);
        let waited = wait_until(WAIT, "everything is as before", same);
        waited.map(drop).with_context(|| {
            let now = self.snapshot().unwrap_or_default();
            let only = |of: &[String], other: &[String]| -> Vec<String> {
                of.iter().filter(|line| !other.contains(line)).cloned().collect()
            };
            format!("lost: {:#?}\nnew: {:#?}\n{}", only(before, &now), only(&now, before), agent.log())
        })
    }

    fn shows(&self, command: &str, words: &[&str]) -> bool {
        self.node.run(command).is_ok_and(|text| words.iter().all(|word| text.contains(word)))
    }

    /// Whether `interface` is a member of `vrf` and has all its addresses.
    fn is_member(&self, interface: &str, vrf: &str, addresses: &[&str]) -> bool {
        self.shows(&format!("ip addr show dev {interface} master {vrf} 2>&1 || true"), addresses)
    }

    fn peer_answers(&self, vrf: &str, address: &str) -> bool {
        self.shows(&format!("ping -c 1 -W 1 -I {vrf} {address} 2>&1 || true"), &[" 0% packet loss"])
    }
}

/// A line without what passes by itself: how much is left of a lifetime, and that a device was never down so far.
fn coarse(line: &str) -> String {
    let word = |word: &str| match word.strip_suffix("sec").map(str::parse::<u32>) {
        Some(Ok(_)) => "limited".to_owned(),
        _ => word.to_owned(),
    };
    let line = line.replace("state UNKNOWN", "state UP");
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

const E1: &[&str] = &["10.0.1.2/24", "10.0.1.3/32", "e1:x", "fd00:1::2/64", "fe80::77/64"];
const V120: &[&str] = &["192.0.2.10/24", "2001:db8:120::10/64", "mtu 1400"];

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn a_created_vrf_keeps_what_its_interfaces_had_and_leaves_no_trace() -> Result<()> {
    let net = Net::new("create")?;
    let before = net.snapshot()?;
    // What has nothing to do with the VRF.
    let kept = |line: &&String| line.contains("e1.5") || line.contains("valid_lft limited");
    let others = |net: &Net| -> Result<String> {
        let tables =
            net.node.run("ip route show table 100; ip -6 route show table 100; ip nexthop show id 10")?;
        let lines = net.snapshot()?.iter().filter(kept).map(|line| format!("{line}\n")).collect::<String>();
        Ok(tables + &lines)
    };
    let rest = others(&net)?;
    let mut agent = net.agent(&attachment("red", 10001, "Create", &format!("{{name: e1}}, {VLAN}")))?;
    net.until(&agent, "both members with their addresses", || {
        net.is_member("e1", "red", E1) && net.is_member("v.120", "red", V120)
    })?;
    net.until(&agent, "connected and moved routes, and the end", || {
        net.shows(
            "ip route show table 10001",
            &[
                "10.0.1.0/24 dev e1",
                "192.0.2.0/24 dev v.120",
                "198.51.100.0/24 via 10.0.1.1",
                "203.0.113.0/24 via 10.0.1.1 dev e1 proto 201 metric 7",
                "unreachable default",
            ],
        ) && net.shows(
            "ip -6 route show table 10001",
            &["fd00:1::/64 dev e1", "2001:db8:9::/48 via fd00:1::1", "unreachable default"],
        )
    })?;
    net.until(&agent, "other tables and the VLAN on e1", || others(&net).is_ok_and(|now| now == rest))
        .with_context(|| format!("{rest}now:\n{}", others(&net).unwrap_or_default()))?;
    ensure!(net.shows("ip rule", &["l3mdev-table"]) && net.shows("ip -6 rule", &["l3mdev-table"]));
    for address in ["10.0.1.1", "192.0.2.1", "fd00:1::1", "2001:db8:120::1"] {
        net.until(&agent, &format!("{address} answers in the VRF"), || net.peer_answers("red", address))?;
    }
    for (key, value) in [
        ("net.ipv4.conf.e1.rp_filter", "0"),
        ("net.ipv4.conf.e1.src_valid_mark", "1"),
        ("net.ipv6.conf.e1.keep_addr_on_down", "1"),
        ("net.ipv4.tcp_l3mdev_accept", "1"),
        ("net.ipv4.udp_l3mdev_accept", "1"),
    ] {
        net.until(&agent, key, || net.node.read_sysctl(key).is_ok_and(|now| now == value))?;
    }
    // What comes in by a member is looked up by the kernel's own l3mdev rule, in the VRF's table; so says the kernel.
    for (target, verdict) in [
        (["udp", "192.0.2.1:5", "198.51.100.7:6"], "leaves by e1 via 10.0.1.1"),
        (["udp", "[2001:db8:120::1]:5", "[2001:db8:9::1]:6"], "leaves by e1 via fd00:1::1"),
        (["udp", "192.0.2.1:5", "203.0.114.1:6"], "is refused: unreachable"),
        (["tcp", "192.0.2.1:5", "192.0.2.10:6"], "is delivered to this node"),
    ] {
        let said = agent.json(&[&["explain"], &target[..], &["--iif", "v.120"]].concat())?;
        let forward = &said["directions"][0];
        ensure!(forward["verdict"] == verdict, "{target:?}: {said:#}");
        // This node does not forward, which the kernel says and the answer names; what is delivered must agree.
        let mismatch = forward["mismatch"].as_str().unwrap_or_default();
        let forwards = mismatch.contains("does the interface that it comes in by forward");
        ensure!(forward["agrees"] == true || (forwards && target[0] == "udp"), "{target:?}: {said:#}");
        let steps = forward["steps"].to_string();
        ensure!(steps.contains("l3mdev") && steps.contains("table 10001"), "{target:?}: {said:#}");
    }
    let status = agent.json(&["status"])?;
    let vrf = &status["vrfs"][0];
    ensure!(vrf["mode"] == "Create" && vrf["deviceIndex"].is_u64(), "{vrf}");

    // What a killed agent leaves is what the next one finds: nothing changes.
    let shape = || -> Result<String> {
        let text = net
            .node
            .run("ip -o link; ip -o addr; ip route show table 10001; ip -6 route show table 10001")?;
        Ok(text.lines().map(|line| coarse(line) + "\n").collect())
    };
    let made = shape()?;
    agent.kill()?;
    agent.run()?;
    ensure!(shape()? == made, "a restart changes:\n{made}\n{}", shape()?);

    agent.stop()?;
    let said = agent.cleanup()?;
    ensure!(said.contains("2 devices") && said.contains("released 1 interfaces"), "{said}");
    net.restored(&agent, &before)
}

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn interfaces_and_vrfs_change_while_others_stay() -> Result<()> {
    let net = Net::new("moves")?;
    let before = net.snapshot()?;
    let blue = attachment("blue", 10002, "Create", VLAN);
    let mut agent = net.agent(&(attachment("red", 10001, "Create", "{name: e1}") + &blue))?;
    net.until(&agent, "two VRFs", || net.is_member("e1", "red", E1) && net.is_member("v.120", "blue", V120))?;
    let index = |name: &str| -> Result<String> {
        Ok(net
            .node
            .run(&format!("ip -o link show dev {name}"))?
            .split(':')
            .next()
            .unwrap_or_default()
            .to_owned())
    };
    let stays = (index("blue")?, index("v.120")?);

    agent.write_manifests(
        &(attachment("red", 10001, "Create", "")
            + &attachment("blue", 10002, "Create", &format!("{{name: e1}}, {VLAN}"))),
    )?;
    net.until(&agent, "e1 in blue", || net.is_member("e1", "blue", E1))?;
    net.until(&agent, "its routes too", || {
        net.shows("ip route show table 10002", &["10.0.1.0/24", "198.51.100.0/24 via 10.0.1.1"])
    })?;
    net.until(&agent, "no route of it left", || {
        net.node.run("ip route show table 10001").is_ok_and(|text| !text.contains("e1"))
    })?;

    // Renamed, with the same table; and another name with a new one.
    agent.write_manifests(&(attachment("rose", 10001, "Create", "{name: e1}") + &blue))?;
    net.until(&agent, "e1 in rose", || net.is_member("e1", "rose", E1))?;
    net.until(&agent, "red is gone", || !net.shows("ip -o link", &[" red:"]))?;
    agent.write_manifests(&(attachment("rose", 10003, "Create", "{name: e1}") + &blue))?;
    net.until(&agent, "rose has table 10003", || {
        net.is_member("e1", "rose", E1) && net.shows("ip -d link show rose", &["table 10003"])
    })?;
    net.until(&agent, "its routes are there", || {
        net.shows("ip route show table 10003", &["10.0.1.0/24", "198.51.100.0/24", "unreachable"])
    })?;
    ensure!(stays == (index("blue")?, index("v.120")?), "another VRF was made anew");

    // The objects go while the agent runs.
    agent.write_manifests("")?;
    net.restored(&agent, &before)?;
    agent.stop()?;
    agent.cleanup()?;
    net.restored(&agent, &before)
}

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn what_others_do_to_a_vrf_is_mended() -> Result<()> {
    let net = Net::new("mend")?;
    let mut manifest = attachment("red", 10001, "Create", &format!("{{name: e1}}, {VLAN}"));
    manifest = manifest.replace(
        "spec:\n",
        "spec:\n  gateways: [{address: 10.0.1.1, interface: e1}, {address: 192.0.2.1, interface: v.120}]\n",
    );
    let agent = net.agent(&manifest)?;
    // The kernel drops link-local and leased addresses with the link; only those of a move are ours to keep.
    let e1 = &E1[..4];
    let table = || {
        net.node.run(
            "ip route show table 10001 | sort; ip -6 route show table 10001 | grep -v -e fe80: -e ff00: -e 2001:db8:6: | sort",
        )
    };
    let whole = || {
        net.is_member("e1", "red", e1)
            && net.is_member("v.120", "red", V120)
            && net.shows(
                "ip route show table 10001",
                &[
                    "nexthop via 10.0.1.1 dev e1",
                    "nexthop via 192.0.2.1 dev v.120",
                    "192.0.2.0/24",
                    "198.51.100.0/24",
                    "unreachable",
                ],
            )
    };
    net.until(&agent, "all of it", whole)?;
    net.until(&agent, "IPv6 too", || {
        net.shows("ip -6 route show table 10001", &["2001:db8:9::/48", "2001:db8:120::/64"])
    })?;
    let full = table()?;
    for (what, harm, mend) in [
        ("a member is taken out", "ip link set e1 nomaster", ""),
        ("a VLAN is deleted", "ip link del v.120", ""),
        ("a link is down", "ip link set e1 down", "ip link set e1 up"),
        ("the VRF device is down", "ip link set red down", ""),
        ("the VRF device is deleted", "ip link del red", ""),
        ("the rules are flushed", "ip rule del pref 1000; ip -6 rule del pref 1000", ""),
    ] {
        net.node.run(harm)?;
        net.node.run(mend)?;
        net.until(&agent, what, || {
            whole()
                && table().is_ok_and(|now| now == full)
                && net.shows("ip rule", &["l3mdev"])
                && net.shows("ip -6 rule", &["l3mdev"])
        })?;
    }
    net.peer.run("ip link set p1 down")?;
    net.until(&agent, "routes follow the carrier", || {
        !net.shows("ip route show table 10001", &["nexthop via 10.0.1.1"])
            && net.shows("ip route show table 10001", &["default via 192.0.2.1"])
    })?;
    net.peer.run("ip link set p1 up")?;
    net.until(&agent, "carrier is back", || whole() && table().is_ok_and(|now| now == full))
}

#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn an_adopted_vrf_stays_somebody_elses() -> Result<()> {
    let net = Net::new("adopt")?;
    net.node.run("ip link add red type vrf table 77; ip link set red up; ip link add blue type vrf table 88; ip link set e2 master blue")?;
    let before = net.snapshot()?;
    let manifests =
        attachment("red", 77, "Adopt", "{name: e1}") + &attachment("blue", 89, "Adopt", "{name: v.9}");
    let mut agent = net.agent(&(manifests + &attachment("green", 10001, "Create", "{name: e2}")))?;
    net.until(&agent, "e1 is a member", || net.is_member("e1", "red", E1))?;
    net.until(&agent, "the table's end", || {
        net.shows("ip route show table 77", &["10.0.1.0/24", "unreachable default"])
    })?;
    let status = agent.json(&["status"])?.to_string();
    for words in [
        "VRF device blue has table 88, and VRF blue is to have 89",
        "e2 is a member of blue (vrf), which somebody else made",
    ] {
        ensure!(status.contains(words), "{words}: {status}");
    }
    ensure!(net.shows("ip -o link show e2", &["master blue"]), "e2 was taken from its VRF");
    agent.stop()?;
    agent.cleanup()?;
    net.restored(&agent, &before)
}

/// The device is made, and joined once the kernel has told of it: only then is there anything to probe.
#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn a_move_that_cuts_off_a_probe_is_taken_back() -> Result<()> {
    const CONFIG: &str = "apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {name: default}
spec: {apply: {probes: [{type: TCP, address: 10.0.1.1, port: 7000, timeout: 5s}]}}
---
";
    let net = Net::new("trial")?;
    let service = "10.0.1.1:7000".parse()?;
    let _service = TcpEcho::start(&net.peer, service)?;
    let former = CONFIG.to_owned() + &attachment("blue", 10002, "Create", VLAN);
    let agent = net.agent(&former)?;
    net.until(&agent, "the VRF of before", || net.is_member("v.120", "blue", V120))?;
    let reason = |wanted: &str| {
        let status = agent.json(&["status"]).unwrap_or_default();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|it| it["type"] == "Enforced" && it["reason"] == wanted)
    };
    let before = net.snapshot()?;
    // Without a route of the VRF's own there is no acknowledgement to wait for before the device is known.
    let red = attachment("red", 10001, "Create", "{name: e1}")
        .replace("spec:\n", "spec:\n  isolation: FallbackToMain\n");
    agent.write_manifests(&(former + &red))?;
    net.until(&agent, "it is taken back", || reason("RolledBack"))?;
    net.restored(&agent, &before)?;
    tcp_exchange(&net.node, None, service, WAIT).map(drop)
}

/// Killed while interfaces move, again and again; `cleanup` then finds on disk what the kernel has dropped.
#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn a_kill_while_interfaces_move_loses_nothing() -> Result<()> {
    let net = Net::new("killed")?;
    let before = net.snapshot()?;
    let red = attachment("red", 10001, "Create", &format!("{{name: e1}}, {VLAN}"));
    let mut agent = net.agent("")?;
    for round in 0..8u64 {
        agent.write_manifests(&red)?;
        if round % 2 == 1 {
            net.until(&agent, "a member", || net.is_member("e1", "red", &[]))?;
            agent.write_manifests("")?;
        }
        // Not a wait for something: the kill is to meet each step of the move.
        std::thread::sleep(Duration::from_millis(40 * round));
        agent.kill()?;
        agent.cleanup()?;
        net.restored(&agent, &before).with_context(|| format!("round {round}"))?;
        agent.write_manifests("")?;
        agent.run()?;
    }
    Ok(())
}

/// What `Create` made belongs to whoever adopts it: nothing moves, and `cleanup` leaves it.
#[test]
#[ignore = "needs VRF and 8021q: cargo xtask vm"]
fn what_create_made_is_handed_over_to_adopt() -> Result<()> {
    let net = Net::new("handover")?;
    let interfaces = format!("{{name: e1}}, {VLAN}");
    let mut agent = net.agent(&attachment("red", 10001, "Create", &interfaces))?;
    net.until(&agent, "both members", || {
        net.is_member("e1", "red", E1) && net.is_member("v.120", "red", V120)
    })?;
    let indices =
        || net.node.run("ip -o link show type vrf | cut -d: -f1; ip -o link show v.120 | cut -d: -f1");
    let made = indices()?;
    agent.write_manifests(&attachment("red", 10001, "Adopt", &interfaces))?;
    net.until(&agent, "no mark on either", || {
        net.node.run("ip -d link").is_ok_and(|text| !text.contains("alias backtrail"))
    })?;
    net.until(&agent, "all are members as before", || {
        net.is_member("e1", "red", E1) && net.is_member("v.120", "red", V120)
    })?;
    agent.stop()?;
    agent.cleanup()?;
    ensure!(indices()? == made, "devices of the adopter were touched");
    ensure!(!net.shows("ip link show master red", &["e1@"]), "e1 is not released");
    Ok(())
}
