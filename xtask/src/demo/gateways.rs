//! Problem 3: several gateways, active-active; losing one must not disturb the flows of the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Daemon, Direction, Flow, Sniffer, UdpEcho, interrupted, wait_until};

use super::manifests;
use super::screen::Screen;
use super::topology::{Demo, NODE, WAIT};

/// Hosts behind the gateways, one flow to each.
const FLOWS: u8 = 16;
/// Time from one packet of a flow to the next.
const INTERVAL: Duration = Duration::from_millis(5);

/// Flows by the host they go to, with the gateway's interface that they use.
struct Flows {
    flows: BTreeMap<IpAddr, Flow>,
    by: BTreeMap<IpAddr, &'static str>,
}

pub(crate) fn lose_one(demo: &mut Demo<'_>, screen: &Screen) -> Result<String> {
    let hosts: Vec<SocketAddr> =
        (1..=FLOWS).map(|n| format!("198.51.100.{n}:9000").parse()).collect::<Result<_, _>>()?;
    let _servers: Vec<UdpEcho> =
        hosts.iter().map(|host| UdpEcho::start(&demo.client, *host)).collect::<Result<_>>()?;
    screen.say("both gateways announce 198.51.100.0/24; the gateways' table is 10030");
    screen.say("without Backtrail: an operator's static multipath route");
    let route = "ip route add 198.51.100.0/24 table 10030 \
                 nexthop via 10.131.0.1 dev vlan131 nexthop via 10.132.0.1 dev vlan132";
    demo.by_hand(screen, route, "ip route flush table 10030")?;
    demo.by_hand(screen, "ip rule add to 198.51.100.0/24 lookup 10030 pref 2000", "ip rule del pref 2000")?;
    let flows = Flows::start(demo, &hosts)?;
    screen.say(&flows.shown());
    fail(demo)?;
    screen.say("gateway1 fails");
    let expected = flows.count("vlan131");
    let dead = |flows: &Flows| flows.stalled(Duration::from_millis(500)).len();
    wait_until(WAIT, "the flows of gateway1 are dead", || dead(&flows) == expected)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(dead(&flows) == expected, "the flows of gateway1 found another way by themselves");
    screen.say(&format!("{expected} of {FLOWS} flows are dead, and stay so"));
    drop(flows);
    demo.undo()?;
    recover(demo)?;

    demo.with_backtrail(screen, &manifests::gateways(demo.table))?;
    wait_until(WAIT, "table 10030 leads to both gateways", || nexthops(demo) == 2)?;
    screen.command(&demo.node, "ip route show table 10030 proto 201")?;
    screen.command(&demo.node, "ip nexthop show | grep 'proto 201'")?;
    let flows = Flows::start(demo, &hosts)?;
    screen.say(&flows.shown());
    fail(demo)?;
    screen.say("gateway1 fails");
    wait_until(WAIT, "table 10030 leads to one gateway", || nexthops(demo) == 1)?;
    let all_work = || flows.stalled(Duration::from_millis(200)).is_empty();
    wait_until(WAIT, "all flows work again", all_work)?;
    screen.command(&demo.node, "ip route show table 10030 proto 201")?;
    let (mut kept, mut longest) = (0, 0);
    for (host, (interface, lost)) in flows.stop() {
        if interface == "vlan132" {
            ensure!(lost == 0, "the flow to {host} by gateway2 lost {lost} packets");
            kept += 1;
        } else {
            longest = longest.max(lost);
        }
    }
    screen.say(&format!(
        "{kept} flows by gateway2 lost no packet; the {} of gateway1 moved, out for {} ms at most",
        usize::from(FLOWS) - kept,
        longest * u64::try_from(INTERVAL.as_millis())?
    ));
    recover(demo)?;
    wait_until(WAIT, "both gateways are used again", || nexthops(demo) == 2)?;
    screen.say("gateway1 is back, and used again");
    Ok(format!("{kept} flows of the other gateway lost 0 packets, the rest moved"))
}

/// The gateway forwards no more and its BGP session ends; its link stays up.
fn fail(demo: &mut Demo<'_>) -> Result<()> {
    demo.gateway1.sysctl("net.ipv4.ip_forward", "0")?;
    demo.gateway_frr[0].kill(Daemon::Bgpd)
}

fn recover(demo: &mut Demo<'_>) -> Result<()> {
    demo.gateway1.sysctl("net.ipv4.ip_forward", "1")?;
    demo.gateway_frr[0].restart(Daemon::Bgpd)?;
    // Without that the node waits longer after each failure.
    demo.node_frr.vtysh(&["clear bgp 10.131.0.1"])?;
    demo.node_frr.wait_established(4, WAIT)
}

/// Gateways that the route to the outside has, through a group of any depth.
fn nexthops(demo: &Demo<'_>) -> usize {
    let ways = (1..=FLOWS).filter_map(|n| demo.node.run(&format!("ip route get 198.51.100.{n}")).ok());
    let ways: Vec<String> = ways.collect();
    ["dev vlan131", "dev vlan132"].iter().filter(|dev| ways.iter().any(|way| way.contains(*dev))).count()
}

impl Flows {
    /// Starts the flows, waits until all work, and sees which gateway each uses.
    fn start(demo: &Demo<'_>, hosts: &[SocketAddr]) -> Result<Self> {
        let sniffer = Sniffer::start(&demo.node)?;
        let source = SocketAddr::new(NODE.parse()?, 0);
        let mut flows = BTreeMap::new();
        for host in hosts {
            flows.insert(host.ip(), Flow::start(&demo.node, source, *host, INTERVAL)?);
        }
        wait_until(WAIT, "all flows work", || flows.values().all(|flow| flow.report().received > 20))?;
        let mut by = BTreeMap::new();
        for host in flows.keys() {
            let uses = |interface: &&str| {
                sniffer
                    .count(interface, |frame| frame.direction == Direction::Out && frame.destination == *host)
                    > 0
            };
            let interface = ["vlan131", "vlan132"].into_iter().find(uses);
            by.insert(*host, interface.with_context(|| format!("the flow to {host} uses no gateway"))?);
        }
        let started = Self { flows, by };
        ensure!(started.count("vlan131") > 0 && started.count("vlan132") > 0, "all flows use one gateway");
        Ok(started)
    }

    /// How many started by the gateway on this interface.
    fn count(&self, interface: &str) -> usize {
        self.by.values().filter(|used| **used == interface).count()
    }

    fn shown(&self) -> String {
        let (first, second) = (self.count("vlan131"), self.count("vlan132"));
        format!("{FLOWS} flows: {first} by gateway1, {second} by gateway2")
    }

    /// Hosts that have sent nothing back for `time`.
    fn stalled(&self, time: Duration) -> Vec<IpAddr> {
        let received = || -> Vec<u64> { self.flows.values().map(|flow| flow.report().received).collect() };
        let before = received();
        if !interrupted() {
            std::thread::sleep(time);
        }
        let pairs = before.into_iter().zip(received()).zip(self.flows.keys());
        pairs.filter(|((before, after), _)| before == after).map(|(_, host)| *host).collect()
    }

    /// Ends the flows: what each one used at the start, and how many packets it lost.
    fn stop(self) -> Vec<(IpAddr, (&'static str, u64))> {
        let Self { flows, by } = self;
        // At once: each waits for its last echoes.
        let ended: Vec<(IpAddr, u64)> = std::thread::scope(|scope| {
            let stop = |(host, flow): (IpAddr, Flow)| (host, scope.spawn(|| flow.stop().lost));
            let threads: Vec<_> = flows.into_iter().map(stop).collect();
            threads.into_iter().filter_map(|(host, thread)| Some((host, thread.join().ok()?))).collect()
        });
        ended.into_iter().filter_map(|(host, lost)| by.get(&host).map(|by| (host, (*by, lost)))).collect()
    }
}
