//! What a packet costs end to end: a node answers, over TCP or to many flows, and its replies would leave by the wrong interface.
//!
//! ```text
//! client --- router ---(rdef udef: default route)--- node (service on lo)
//!                  \---(rred ured: requests)--------/
//! ```
//!
//! Offloads are off, so that each packet goes through the whole stack. Each way to do it has a lab of its own, of
//! which one is busy at a time. Clients of many flows have addresses of 100.64.0.0/10, half of them straight, half astray.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Agent, AgentOptions, End, Lab, Namespace};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::flows::{Exchange, Measured};
use crate::report::Report;

const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const PORT: u16 = 7000;
/// Of the service for many flows, over UDP.
const ECHO_PORT: u16 = 7001;
/// The node's only route to this client is the default route: replies would leave wrongly.
const ASTRAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The node has a route to this client by the right interface.
const STRAIGHT: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 2);
/// Payload of a packet: Ethernet's MTU without IPv4 and TCP headers and the timestamp option.
const PAYLOAD: f64 = 1448.0;
/// Of one measurement, after the warm-up.
const WINDOW: Duration = Duration::from_millis(700);
const WARM_UP: Duration = Duration::from_millis(200);

/// Ways to lead replies back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Nothing,
    Mark,
    Backtrail,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Nothing, Self::Mark, Self::Backtrail];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Mark => "conntrack mark",
            Self::Backtrail => "Backtrail",
        }
    }
}

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Straight,
    Astray,
}

impl Client {
    pub(crate) const ALL: [Self; 2] = [Self::Straight, Self::Astray];

    fn address(self) -> Ipv4Addr {
        match self {
            Self::Straight => STRAIGHT,
            Self::Astray => ASTRAY,
        }
    }

    /// The first of a million addresses.
    fn first(self) -> Ipv4Addr {
        match self {
            Self::Straight => Ipv4Addr::new(100, 96, 0, 0),
            Self::Astray => Ipv4Addr::new(100, 64, 0, 0),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Straight => "reply already right",
            Self::Astray => "reply would go astray",
        }
    }
}

/// A node with its router and its client.
pub(crate) struct Topology {
    way: Way,
    client: Namespace,
    node: Namespace,
    exchange: Exchange,
    _router: Namespace,
    _agent: Option<Agent>,
}

impl Topology {
    pub(crate) fn new(lab: &Lab, way: Way, agent: &Path) -> Result<Self> {
        let name = |what: &str| format!("{}-{what}", way.name().replace(' ', ""));
        let (client, router) = (lab.namespace(&name("client"))?, lab.namespace(&name("router"))?);
        let node = lab.namespace(&name("node"))?;
        lay_out(lab, &client, &router, &node)?;
        let agent = match way {
            Way::Nothing => None,
            Way::Mark => {
                node.run(MARK)?;
                None
            }
            Way::Backtrail => {
                let options = AgentOptions { manifests: MANIFEST.to_owned(), ..AgentOptions::default() };
                Some(Agent::start(lab, &node, agent, options)?)
            }
        };
        serve(&node)?;
        let exchange = Exchange::new(&client, &node, SocketAddrV4::new(SERVICE, ECHO_PORT))?;
        let topology = Self { way, client, node, exchange, _router: router, _agent: agent };
        topology.check()?;
        Ok(topology)
    }

    /// Replies leave where this way promises.
    fn check(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let before = self.node.counters("ured")?.tx_packets;
            let result = self.transfer(Client::Astray);
            let steered = self.node.counters("ured")?.tx_packets - before > 1000;
            match result {
                Ok(_) if steered == (self.way != Way::Nothing) => return Ok(()),
                // The agent attaches its programs once it has looked around.
                _ if began.elapsed() < Duration::from_secs(20) => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                result => {
                    result?;
                    anyhow::bail!("{}: replies do not leave where they should", self.way.name());
                }
            }
        }
    }

    /// Opens so many flows of a client.
    pub(crate) fn open(&self, client: Client, flows: u32) -> Result<()> {
        self.exchange.open(client.first(), flows)
    }

    /// Nanoseconds for one packet of the service's replies.
    pub(crate) fn transfer(&self, client: Client) -> Result<f64> {
        self.client.enter(|| {
            let mut stream = dial(client.address())?;
            let mut buffer = vec![0; 256 << 10];
            let mut receive = |window: Duration| {
                let (began, mut bytes) = (Instant::now(), 0);
                while began.elapsed() < window {
                    let read = stream.read(&mut buffer).context("the service sends nothing")?;
                    ensure!(read > 0, "the service closed the connection");
                    bytes += read;
                }
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let packets = bytes as f64 / PAYLOAD;
                Ok(began.elapsed().as_secs_f64() * 1e9 / packets)
            };
            receive(WARM_UP)?;
            receive(WINDOW)
        })?
    }
}

/// As the recipe is published: requests mark their connection, replies take the mark over, a rule leads them.
const MARK: &str = "nft -f - <<'END'
table ip recipe {
  chain prerouting {
    type filter hook prerouting priority mangle
    iifname ured ct state new ct mark set 0x64
    ct direction reply meta mark set ct mark
  }
  chain output {
    type route hook output priority mangle
    ct direction reply meta mark set ct mark
  }
}
END
ip route add default via 10.0.2.1 dev ured table 100
ip rule add fwmark 0x64 lookup 100 pref 1000
sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3600 net.netfilter.nf_conntrack_udp_timeout_stream=3600";

/// As many flows as are measured are below nine tenths of the table.
const MANIFEST: &str = "apiVersion: backtrail.dev/v1alpha1
kind: DataplaneConfig
metadata: {name: default}
spec:
  guardrails: {maxFlowEntriesPerNode: 4194304}
---
apiVersion: backtrail.dev/v1alpha1
kind: ReturnPath
metadata: {name: bench}
spec:
  flowTable: {maxEntries: 4194304}
  interfaces:
  - {name: ured, gateway: {source: Static, ipv4: 10.0.2.1}}
  mode: TCRedirect
";

fn lay_out(lab: &Lab, client: &Namespace, router: &Namespace, node: &Namespace) -> Result<()> {
    let both = ["203.0.113.2/24", "203.0.114.2/24"];
    let routers = ["203.0.113.1/24", "203.0.114.1/24"];
    lab.connect(&End::new(client, "eth0", &both), &End::new(router, "clients", &routers))?;
    for (theirs, ours, net) in [("rdef", "udef", "10.0.1"), ("rred", "ured", "10.0.2")] {
        let (a, b) = (format!("{net}.1/24"), format!("{net}.2/24"));
        lab.connect(&End::new(router, theirs, &[&a]), &End::new(node, ours, &[&b]))?;
    }
    router.forward()?;
    node.forward()?;
    client.run(
        "ip link set eth0 gso_max_segs 1
         ip route add 198.51.100.0/24 via 203.0.113.1
         ip route add local 100.64.0.0/10 dev lo",
    )?;
    router.run(
        "for dev in clients rdef rred; do ip link set $dev gso_max_segs 1; done
         ip route add 198.51.100.10/32 via 10.0.2.2
         ip route add 100.64.0.0/10 via 203.0.113.2",
    )?;
    node.run(
        "for dev in udef ured; do ip link set $dev gso_max_segs 1; done
         ip addr add 198.51.100.10/32 dev lo
         ip route add default via 10.0.1.1
         ip route add 203.0.114.0/24 via 10.0.2.1
         ip route add 100.96.0.0/11 via 10.0.2.1",
    )?;
    Ok(())
}

/// Serves zeros for as long as this program runs: the thread ends with it.
fn serve(node: &Namespace) -> Result<()> {
    let listener = node.enter(|| TcpListener::bind((SERVICE, PORT)))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || send(stream));
        }
    });
    Ok(())
}

fn send(mut stream: TcpStream) {
    let zeros = vec![0; 64 << 10];
    while stream.write_all(&zeros).is_ok() {}
}

/// Connects from a given address.
fn dial(source: Ipv4Addr) -> Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let to_sockaddr = |address: Ipv4Addr, port| {
        let [a, b, c, d] = address.octets();
        SockaddrIn::new(a, b, c, d, port)
    };
    let stream = {
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &to_sockaddr(source, 0))?;
        let target: SocketAddr = (SERVICE, PORT).into();
        connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &to_sockaddr(SERVICE, PORT))
            .with_context(|| format!("no connection from {source} to {target}"))?;
        TcpStream::from(fd)
    };
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// Costs of all ways for all clients, taken in turns.
#[derive(Debug, Default)]
pub(crate) struct Costs {
    /// By client, then by way: nanoseconds for one packet, one value for each turn.
    of: [[Vec<f64>; 3]; 2],
}

impl Costs {
    /// One turn.
    pub(crate) fn turn(
        &mut self,
        topologies: &[Topology; 3],
        backwards: bool,
        report: &mut Report,
    ) -> Result<()> {
        for (client, costs) in Client::ALL.into_iter().zip(&mut self.of) {
            let mut turn: Vec<_> = topologies.iter().zip(costs).collect();
            if backwards {
                turn.reverse();
            }
            for (topology, costs) in turn {
                let cost = topology.transfer(client)?;
                let name = format!("end to end, {}: {}", client.name(), topology.way.name());
                report.add(name, "ns/packet", cost);
                costs.push(cost);
            }
        }
        Ok(())
    }

    /// What Backtrail adds over nothing, less `share` of what the mark adds: mean and half the 95 % interval, ns.
    pub(crate) fn excess(&self, client: Client, share: f64) -> (f64, f64) {
        excess(&self.of[client as usize], share)
    }

    /// Throughput of steered flows over that of flows that need nothing and get nothing, turn by turn.
    pub(crate) fn throughput(&self) -> impl Iterator<Item = f64> {
        let [[straight, ..], [.., steered]] = &self.of;
        straight.iter().zip(steered).map(|(straight, steered)| straight / steered)
    }
}

/// The same for a request and its answer, where there are many flows.
#[derive(Debug)]
pub(crate) struct Exchanges {
    flows: u32,
    /// By client, then by way: nanoseconds of CPU time, one value for each turn.
    of: [[Vec<f64>; 3]; 2],
}

impl Exchanges {
    pub(crate) fn new(flows: u32) -> Self {
        Self { flows, of: Default::default() }
    }

    /// One turn: `count` exchanges for each client and way, the `turn`th part of the flows.
    pub(crate) fn turn(
        &mut self,
        topologies: &[Topology; 3],
        turn: u32,
        count: u32,
        report: &mut Report,
    ) -> Result<()> {
        for (client, of) in Client::ALL.into_iter().zip(&mut self.of) {
            let mut ways: Vec<_> = topologies.iter().zip(of).collect();
            if turn % 2 == 1 {
                ways.reverse();
            }
            for (topology, values) in ways {
                let from = turn.wrapping_mul(count);
                let measured = topology.exchange.measure(client.first(), self.flows, from, count)?;
                // Whatever else the machine does is in the mean, not in this.
                values.push(measured.cpu);
                note(self.flows, client, topology.way, &measured, report);
            }
        }
        Ok(())
    }

    /// Prints what Backtrail pays beyond its share of what the conntrack mark adds.
    pub(crate) fn tell(&self) {
        for (client, share, of) in [(Client::Straight, 0.5, "half of "), (Client::Astray, 1.0, "")] {
            let (mean, half) = excess(&self.of[client as usize], share);
            println!(
                "{} flows, {}: {mean:.0} ns of CPU time beyond {of}what the mark adds, 95 % interval {:.0} to {:.0}",
                self.flows,
                client.name(),
                mean - half,
                mean + half
            );
        }
    }

    /// What steered flows cost with Backtrail, turn by turn.
    pub(crate) fn steered(&self) -> &[f64] {
        let [_, [.., steered]] = &self.of;
        steered
    }
}

fn note(flows: u32, client: Client, way: Way, measured: &Measured, report: &mut Report) {
    let name =
        |what: &str| format!("request and answer, {flows} flows, {}: {}{what}", client.name(), way.name());
    report.add(name(""), "ns", measured.mean);
    report.add(name(", CPU time"), "ns of CPU", measured.cpu);
    report.add(name(", p50"), "ns at most", measured.p50);
    report.add(name(", p99"), "ns at most", measured.p99);
    report.add(name(", rate"), "exchanges/s", 1e9 / measured.mean);
}

/// Room for the recipe's connections: a limit of the whole machine, put back at the end.
pub(crate) struct ConntrackRoom(Vec<(&'static str, String)>);

impl ConntrackRoom {
    pub(crate) fn make() -> Result<Self> {
        let mut before = Vec::new();
        for (path, wanted) in [
            ("/proc/sys/net/netfilter/nf_conntrack_max", 4_194_304_u32),
            ("/proc/sys/net/netfilter/nf_conntrack_buckets", 1_048_576),
        ] {
            let now = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
            if now.trim().parse::<u32>()? < wanted {
                std::fs::write(path, wanted.to_string()).with_context(|| path.to_owned())?;
                before.push((path, now));
            }
        }
        Ok(Self(before))
    }
}

impl Drop for ConntrackRoom {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            if let Err(error) = std::fs::write(path, value.trim()) {
                eprintln!("{path} is not put back to {}: {error}", value.trim());
            }
        }
    }
}

/// What the third way adds over the first, less `share` of what the second adds: mean and half the 95 % interval.
fn excess([nothing, mark, ours]: &[Vec<f64>; 3], share: f64) -> (f64, f64) {
    let turns = nothing.iter().zip(mark).zip(ours);
    let excess: Vec<f64> =
        turns.map(|((nothing, mark), ours)| (ours - nothing) - share * (mark - nothing)).collect();
    interval(&excess)
}

/// Mean, and half the 95 % interval of the mean.
#[expect(clippy::cast_precision_loss, reason = "a few values")]
fn interval(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    // Student's factor for 20 values; for fewer it would be somewhat more.
    (mean, 2.09 * (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_about_the_mean() {
        let (mean, half) = interval(&[1.0, 3.0, 1.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-9);
        assert!((half - 2.09 * (4.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_excess_is_what_exceeds_the_share() {
        let turns = |cost: f64| vec![cost; 3];
        let costs = Costs { of: [[turns(100.0), turns(140.0), turns(130.0)], Default::default()] };
        assert_eq!(costs.excess(Client::Straight, 0.5), (10.0, 0.0));
    }
}
