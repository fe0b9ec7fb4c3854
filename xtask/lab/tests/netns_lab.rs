//! The lab itself, on the real kernel.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use backtrail_lab::{
    Direction, End, Flow, Lab, Monitor, Namespace, Sniffer, TcpEcho, UdpEcho, ping, tcp_exchange,
    udp_exchange, wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

fn pair() -> Result<(Lab, Namespace, Namespace)> {
    let lab = Lab::new("lab")?;
    let (client, server) = (lab.namespace("client")?, lab.namespace("server")?);
    lab.connect(
        &End::new(&client, "c0", &["192.0.2.1/24", "2001:db8::1/64"]),
        &End::new(&server, "s0", &["192.0.2.2/24", "2001:db8::2/64"]).mac("02:00:00:00:00:22"),
    )?;
    Ok((lab, client, server))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn traffic_crosses_a_pair_and_is_seen() -> Result<()> {
    let (_lab, client, server) = pair()?;
    let sniffer = Sniffer::start(&server)?;
    for target in ["192.0.2.2:7000", "[2001:db8::2]:7000"] {
        let target: SocketAddr = target.parse()?;
        let (tcp, udp) = (TcpEcho::start(&server, target)?, UdpEcho::start(&server, target)?);
        tcp_exchange(&client, None, target, 5 * SECOND)?;
        udp_exchange(&client, None, target, 5 * SECOND)?;
        ensure!(ping(&client, None, target.ip())?);
        for protocol in [6, 17] {
            for (direction, port) in [(Direction::In, false), (Direction::Out, true)] {
                wait_until(5 * SECOND, &format!("protocol {protocol} {direction:?}"), || {
                    sniffer.count("s0", |frame| {
                        let ports = (frame.source_port, frame.destination_port);
                        frame.direction == direction
                            && frame.protocol == protocol
                            && (if port { ports.0 } else { ports.1 }) == 7000
                            && frame.source.is_ipv4() == target.is_ipv4()
                    }) > 0
                })?;
            }
        }
        drop((tcp, udp));
        ensure!(tcp_exchange(&client, None, target, SECOND).is_err(), "the stopped server still answers");
    }
    ensure!(client.counters("c0")?.tx_packets > 0);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn exchanges_start_from_the_given_source() -> Result<()> {
    let (_lab, client, server) = pair()?;
    client.run("ip addr add 198.51.100.1/32 dev lo")?;
    server.run("ip route add 198.51.100.1 via 192.0.2.1")?;
    let target = "192.0.2.2:7001".parse()?;
    let _tcp = TcpEcho::start(&server, target)?;
    let sniffer = Sniffer::start(&server)?;
    tcp_exchange(&client, Some("198.51.100.1:5555".parse()?), target, 5 * SECOND)?;
    wait_until(5 * SECOND, "the source port", || sniffer.count("s0", |frame| frame.source_port == 5555) > 0)?;
    ensure!(ping(&client, Some("198.51.100.1".parse()?), "192.0.2.2".parse()?)?);
    ensure!(!ping(&client, None, "203.0.113.9".parse()?)?, "an answer from nowhere");
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_flow_counts_its_losses() -> Result<()> {
    let (_lab, client, server) = pair()?;
    let target = "192.0.2.2:7002".parse()?;
    let _echo = UdpEcho::start(&server, target)?;
    let flow = Flow::start(&client, "192.0.2.1:0".parse()?, target, Duration::from_millis(2))?;
    wait_until(5 * SECOND, "100 echoes", || flow.report().received >= 100)?;
    ensure!(flow.report().lost == 0, "lost without a reason: {:?}", flow.report());
    server.run("ip link set s0 down")?;
    wait_until(10 * SECOND, "losses", || flow.report().lost > 10)?;
    let report = flow.stop();
    ensure!(report.lost > 10 && report.received >= 100 && report.sent >= report.received + report.lost);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_monitor_sees_changes_of_protocol_201_only_as_ours() -> Result<()> {
    let (_lab, client, _server) = pair()?;
    let monitor = Monitor::start(&client)?;
    client.run("ip route add 203.0.113.0/24 via 192.0.2.2 proto 99")?;
    ensure!(monitor.ours()?.is_empty());
    client.run(
        "ip route add 203.0.114.0/24 via 192.0.2.2 proto 201; ip rule add pref 1100 lookup 10001 proto 201",
    )?;
    let ours = monitor.ours()?;
    ensure!(ours.len() == 2, "{ours:?} of {:?}", monitor.lines()?);
    Ok(())
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn nothing_is_left_behind() -> Result<()> {
    let (lab, client, server) = pair()?;
    let dir = lab.dir().to_owned();
    let bpffs = lab.bpffs()?;
    ensure!(std::fs::read_to_string("/proc/self/mountinfo")?.is_empty() || bpffs.exists());
    let mut sleeper = client.spawn(Command::new("sleep").arg("1000"))?;
    let pid = sleeper.pid();
    ensure!(sleeper.alive());
    drop((sleeper, client, server, lab));
    ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} lives");
    ensure!(!dir.exists(), "{} is there", dir.display());
    ensure!(std::fs::read_dir("/run/netns")?.next().is_none(), "a namespace is left");
    Ok(())
}
