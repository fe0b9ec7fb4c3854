//! Problems 1, 2 and 4; the third is in `gateways`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Direction, Frame, Sniffer, TcpEcho, ping, tcp_exchange, wait_until};

use super::screen::Screen;
use super::topology::{BILLING, Demo, NODE, WAIT};
use super::{gateways, manifests};

/// Shows a problem and its solution; returns what it proved, in one line.
pub(crate) type Problem = fn(&mut Demo<'_>, &Screen) -> Result<String>;

/// In the order of the design.
pub(crate) const ALL: [(&str, Problem); 4] = [
    ("dynamic routing", dynamic_routing),
    ("traffic segregation", segregation),
    ("multiple gateways", gateways::lose_one),
    ("asymmetric return path", return_path),
];

/// How long an exchange that is expected to fail is waited for.
const SHORT: Duration = Duration::from_secs(2);

fn dynamic_routing(demo: &mut Demo<'_>, screen: &Screen) -> Result<String> {
    let services = ["172.16.10.1:80".parse()?, "172.16.20.1:80".parse()?];
    let _servers = [TcpEcho::start(&demo.client, services[0])?, TcpEcho::start(&demo.client, services[1])?];
    screen.say("BGP has learned that 172.16.10.0/24 is behind vlan100 and 172.16.20.0/24 behind vlan120:");
    let learned = demo.node_frr.vtysh(&["show bgp ipv4 unicast"])?;
    let services_learned: Vec<&str> = learned.lines().filter(|line| line.contains("172.16.")).collect();
    screen.output(&services_learned.join("\n"));
    let (table, into) = if demo.divert() { ("main", "Main") } else { ("10010", "10010") };
    if !demo.divert() {
        screen.say(&format!("the node's service address {NODE} uses the gateway's table 10010 alone:"));
        let rule = format!("ip rule add from {NODE}");
        demo.by_hand(screen, &format!("{rule} lookup 10010 pref 2000"), "ip rule del pref 2000")?;
        demo.by_hand(screen, &format!("{rule} unreachable pref 2001"), "ip rule del pref 2001")?;
    }
    screen.say("without Backtrail: the routes are not in the table that forwards");
    screen.command(&demo.node, &format!("ip route show table {table} root 172.16.0.0/16"))?;
    for service in services {
        ensure!(!reaches(demo, service)?, "{service} is reached without Backtrail");
    }
    screen.say("neither TCP nor ping reaches a service");

    demo.with_backtrail(screen, &manifests::dynamic_routing(demo.table, into))?;
    let slowest = wait_until(WAIT, "both services answer TCP and ping", || {
        services.iter().all(|service| reaches(demo, *service).unwrap_or(false))
    })?;
    screen.say(&format!("TCP and ping reach both services ({} ms after ready)", slowest.as_millis()));
    screen.command(&demo.node, &format!("ip route show table {table} proto 201"))?;
    for (service, interface) in [("172.16.10.1", "vlan100"), ("172.16.20.1", "vlan120")] {
        let way = screen.command(&demo.node, &format!("ip route get {service} from {NODE}"))?;
        ensure!(way.contains(interface), "{service} does not go by {interface}: {way}");
    }

    screen.say("the fabric withdraws 172.16.20.0/24, and announces it again");
    let prefix = ["172.16.20.0/24".to_owned()];
    let shown = |demo: &Demo<'_>| {
        let text = demo.node.run(&format!("ip route show table {table} proto 201"));
        text.is_ok_and(|text| text.contains("172.16.20.0/24"))
    };
    demo.fabric_frr.withdraw(65000, &prefix)?;
    let gone = wait_until(WAIT, "the withdrawn route leaves the kernel", || !shown(demo))?;
    demo.fabric_frr.announce(65000, &prefix)?;
    let back = wait_until(WAIT, "the announced route is in the kernel", || shown(demo))?;
    screen.say(&format!("gone after {} ms, back after {} ms", gone.as_millis(), back.as_millis()));
    Ok("the node reaches both services, each by the interface that BGP says".to_owned())
}

fn reaches(demo: &Demo<'_>, service: SocketAddr) -> Result<bool> {
    let source: IpAddr = NODE.parse()?;
    let tcp = tcp_exchange(&demo.node, Some((source, 0).into()), service, Duration::from_secs(1));
    Ok(tcp.is_ok() && ping(&demo.node, Some(source), service.ip())?)
}

fn segregation(demo: &mut Demo<'_>, screen: &Screen) -> Result<String> {
    let targets: Vec<SocketAddr> =
        (0..16).map(|n| format!("10.20.{n}.1:443").parse()).collect::<Result<_, _>>()?;
    let _servers: Vec<TcpEcho> =
        targets.iter().map(|target| TcpEcho::start(&demo.client, *target)).collect::<Result<_>>()?;
    screen.say(&format!("BGP has {BILLING} billing prefixes in 10.20.0.0/16; they must use vlan120 alone"));
    let sniffer = Sniffer::start(&demo.node)?;
    let interfaces = |sniffer: &Sniffer| {
        let count = |name| sniffer.count(name, billing_opener);
        [("mgmt0", count("mgmt0")), ("vlan100", count("vlan100")), ("vlan120", count("vlan120"))]
    };
    screen.say("without Backtrail: connections to 16 billing hosts");
    for target in &targets {
        // Whether it is answered does not matter here: the way out does.
        tcp_exchange(&demo.node, None, *target, SHORT).ok();
    }
    let seen = interfaces(&sniffer);
    screen.say(&format!("connections left by {}", shown(&seen)));
    ensure!(seen[0].1 + seen[1].1 > 0, "nothing leaked without Backtrail");

    demo.with_backtrail(screen, &manifests::segregation(demo.table))?;
    wait_until(WAIT, "the billing routes are in table 10020", || {
        let routes = demo.node.run("ip route show table 10020 proto 201");
        routes.is_ok_and(|text| text.matches("10.20.").count() >= BILLING)
    })?;
    sniffer.clear();
    for target in &targets {
        tcp_exchange(&demo.node, None, *target, SHORT).context("with Backtrail")?;
    }
    ensure!(ping(&demo.node, None, "10.20.1.1".parse()?)?, "10.20.1.1 does not answer ping");
    wait_until(SHORT, "16 openers on vlan120", || interfaces(&sniffer)[2].1 >= 16)?;
    let seen = interfaces(&sniffer);
    screen.say(&format!("all 16 work, connections left by {}", shown(&seen)));
    ensure!(seen[0].1 + seen[1].1 == 0, "not all by vlan120: {}", shown(&seen));
    screen.command(&demo.node, "ip rule show")?;
    screen.command(&demo.node, "ip route show table 10020")?;

    screen.say("vlan120 goes down: the traffic must stop, not leak");
    sniffer.clear();
    demo.node.run("ip link set vlan120 down")?;
    let refused = tcp_exchange(&demo.node, None, targets[0], SHORT);
    let leaked = interfaces(&sniffer);
    demo.node.run("ip link set vlan120 up")?;
    ensure!(refused.is_err() && leaked.iter().all(|(_, count)| *count == 0), "leaked by {}", shown(&leaked));
    screen.say("nothing left the node; vlan120 comes back");
    wait_until(WAIT, "billing works again", || tcp_exchange(&demo.node, None, targets[0], SHORT).is_ok())?;
    Ok("16 of 16 connections by vlan120; none anywhere else, not even while it was down".to_owned())
}

fn billing_opener(frame: &Frame) -> bool {
    frame.direction == Direction::Out
        && frame.tcp_flags & 0x12 == 0x02
        && matches!(frame.destination, IpAddr::V4(address) if address.octets().starts_with(&[10, 20]))
}

fn shown(counts: &[(&str, usize)]) -> String {
    counts.iter().map(|(name, count)| format!("{name}: {count}")).collect::<Vec<_>>().join(", ")
}

fn return_path(demo: &mut Demo<'_>, screen: &Screen) -> Result<String> {
    let services: [(SocketAddr, &str); 2] =
        [("198.18.0.10:80".parse()?, "vlan100"), ("198.18.0.20:80".parse()?, "vlan120")];
    let _servers = [TcpEcho::start(&demo.node, services[0].0)?, TcpEcho::start(&demo.node, services[1].0)?];
    screen.say("the client 203.0.113.10 calls 198.18.0.10 (by vlan100) and 198.18.0.20 (by vlan120)");
    screen.say("the node has no route to the client but its default route:");
    screen.command(&demo.node, "ip route get 203.0.113.10")?;
    let sniffer = Sniffer::start(&demo.node)?;
    let replies = |service: SocketAddr, interface: &str| {
        sniffer.count(interface, |frame| {
            frame.direction == Direction::Out
                && frame.tcp_flags & 0x12 == 0x12
                && (frame.source, frame.source_port) == (service.ip(), service.port())
        })
    };
    for (service, interface) in services {
        let answered = tcp_exchange(&demo.client, None, service, SHORT).is_ok()
            || ping(&demo.client, None, service.ip())?;
        ensure!(!answered, "{service} answers without Backtrail");
        ensure!(replies(service, "mgmt0") > 0, "no reply of {service} was seen on mgmt0");
        screen.say(&format!(
            "without Backtrail: requests to {service} come in by {interface}, {} replies left by mgmt0 and were dropped",
            replies(service, "mgmt0")
        ));
    }

    demo.with_backtrail(screen, &manifests::return_path())?;
    sniffer.clear();
    for (service, interface) in services {
        tcp_exchange(&demo.client, None, service, Duration::from_secs(10)).context("with Backtrail")?;
        ensure!(ping(&demo.client, None, service.ip())?, "{} does not answer ping", service.ip());
        wait_until(SHORT, "the reply is seen", || replies(service, interface) > 0)?;
        let count = replies(service, "mgmt0");
        ensure!(count == 0, "{count} replies of {service} crossed mgmt0");
        screen.say(&format!("{service}: TCP and ping work, the replies leave by {interface}"));
    }
    let agent = demo.agent.as_ref().context("no agent")?;
    screen.say("what the agent remembers, and the programs in the kernel:");
    screen.output(&agent.command(&["flows"])?.1);
    // Not every distribution has bpftool for the kernel that runs.
    if demo.node.run("bpftool version").is_ok() {
        screen.command(&demo.node, "bpftool prog show | grep 'name rp_'")?;
        let flows = agent.bpffs().join("rp_flows");
        screen.command(&demo.node, &format!("bpftool map dump pinned {}", flows.display()))?;
    }
    Ok("TCP and ping work by both interfaces, every reply left by the way its request came".to_owned())
}
