//! The lab: requests come in by `vred`, the default route leads out by `vdef`.
//!
//! ```text
//! client --- router ---(rdef vdef: default route)--- node (services on lo)
//!                  \---(rred vred: requests)--------/
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail::intent::types::{GatewaySource, Intent, ObjectRef, PolicyProtocol, ReturnPathInterface};
use backtrail::kernel::observe;
use backtrail::model::{Family, Link, Neighbour};
use backtrail::plan::steering::{SteeringInput, SteeringPlan, steering};
use backtrail::steering::{Steering, SteeringOptions, SteeringReport, features};
use backtrail_ebpf_common::OBJECT;
use backtrail_ebpf_common::maps::Counters;
use backtrail_lab::{End, Lab, Namespace, Sniffer, TcpEcho, UdpEcho, ping, tcp_exchange, udp_exchange};

/// Service addresses.
pub(crate) const VIP4: &str = "198.51.100.10";
/// Service addresses.
pub(crate) const VIP6: &str = "2001:db8:5::10";
/// The client.
pub(crate) const CLIENT4: &str = "203.0.113.2";
/// The client.
pub(crate) const CLIENT6: &str = "2001:db8:c::2";
/// The echo services' port.
pub(crate) const PORT: u16 = 7000;
/// How long an exchange may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The lab with the agent's half of steering.
pub(crate) struct Topology {
    pub(crate) client: Namespace,
    pub(crate) router: Namespace,
    pub(crate) node: Namespace,
    pub(crate) bpffs: PathBuf,
    pub(crate) steering: Option<Steering>,
    /// What the manifests ask for.
    pub(crate) asked: Vec<ReturnPathInterface>,
    /// Gateways by interface name.
    pub(crate) gateways: Vec<(&'static str, IpAddr)>,
    /// Tables by interface name.
    pub(crate) tables: Vec<(&'static str, u32)>,
    /// Tables with a default route.
    pub(crate) defaults: BTreeSet<(u32, Family)>,
    pub(crate) force_clsact: bool,
    wire: Sniffer,
    _servers: (Vec<TcpEcho>, Vec<UdpEcho>),
    pub(crate) lab: Lab,
}

/// Frames with a service's source address that reached the router by each of its two links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wires {
    pub(crate) default: usize,
    pub(crate) request: usize,
}

impl Topology {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, router, node) = (lab.namespace("cl")?, lab.namespace("ro")?, lab.namespace("no")?);
        connect(&lab, &client, &router, &node)?;
        router.forward()?;
        node.forward()?;
        client.run(
            "ip route add default via 203.0.113.1
             ip -6 route add default via 2001:db8:c::1",
        )?;
        router.run(&format!(
            "ip route add {VIP4} via 10.0.2.2
             ip -6 route add {VIP6} via fd00:2::2"
        ))?;
        node.run(&format!(
            "ip addr add {VIP4}/32 dev lo
             ip -6 addr add {VIP6}/128 dev lo nodad
             ip route add default via 10.0.1.1
             ip -6 route add default via fd00:1::1"
        ))?;
        let addresses: Vec<SocketAddr> = [VIP4, VIP6]
            .iter()
            .map(|address| Ok((address.parse::<IpAddr>()?, PORT).into()))
            .collect::<Result<_>>()?;
        let servers = (
            addresses.iter().map(|address| TcpEcho::start(&node, *address)).collect::<Result<_>>()?,
            addresses.iter().map(|address| UdpEcho::start(&node, *address)).collect::<Result<_>>()?,
        );
        Ok(Self {
            wire: Sniffer::start(&router)?,
            bpffs: lab.bpffs()?,
            client,
            router,
            node,
            steering: None,
            asked: vec![asked("vred")],
            gateways: vec![("vdef", "10.0.1.1".parse()?), ("vdef", "fd00:1::1".parse()?)],
            tables: Vec::new(),
            defaults: BTreeSet::from([(254, Family::Ipv4), (254, Family::Ipv6)]),
            force_clsact: false,
            _servers: servers,
            lab,
        })
    }

    /// The plan for what the node has now.
    pub(crate) fn plan(&self) -> Result<SteeringPlan> {
        let (links, neighbours) = self.observe()?;
        let index = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.ifindex);
        let mut gateways: BTreeMap<(u32, Family), BTreeSet<IpAddr>> = BTreeMap::new();
        for (name, address) in &self.gateways {
            if let Some(ifindex) = index(name) {
                gateways.entry((ifindex, Family::of_addr(address))).or_default().insert(*address);
            }
        }
        let tables = self.tables.iter().filter_map(|(name, table)| Some((index(name)?, *table)));
        Ok(steering(&SteeringInput {
            intent: &Intent { return_paths: self.asked.clone(), ..Intent::default() },
            links: &links,
            tables: &tables.collect(),
            gateways: &gateways,
            neighbours: &neighbours,
            carrying: &index("vdef").into_iter().collect(),
            defaults: &self.defaults,
            cluster: &BTreeSet::new(),
        }))
    }

    fn observe(&self) -> Result<(Vec<Link>, Vec<Neighbour>)> {
        self.node.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Ok((observe::links().await?, observe::neighbours().await?)) })
        })?
    }

    /// Opens steering, as an agent does at its start.
    pub(crate) fn open(&mut self) -> Result<()> {
        let options = SteeringOptions { force_clsact: self.force_clsact, flow_entries: 4096 };
        self.steering = Some(self.node.enter(|| Steering::open(&self.bpffs, OBJECT, options))??);
        Ok(())
    }

    /// Plans and applies; nothing may fail.
    pub(crate) fn apply(&mut self) -> Result<SteeringReport> {
        let mut plan = self.plan()?;
        plan.flows.max_entries = 4096;
        if self.steering.is_none() {
            self.open()?;
        }
        let steering = self.steering.as_mut().context("open")?;
        let report = self.node.enter(|| steering.apply(&plan))?;
        ensure!(report.problems.is_empty(), "{:?}", report.problems);
        Ok(report)
    }

    pub(crate) fn steering(&self) -> Result<&Steering> {
        self.steering.as_ref().context("steering is not open")
    }

    /// Counters of an interface.
    pub(crate) fn counters(&self, interface: &str) -> Result<Counters> {
        let ifindex = self.ifindex(interface)?;
        let counters = self.steering()?.counters()?;
        counters.get(&ifindex).copied().with_context(|| format!("no counters of {interface}"))
    }

    pub(crate) fn ifindex(&self, interface: &str) -> Result<u32> {
        let (links, _) = self.observe()?;
        let link = links.into_iter().find(|link| link.name == interface);
        Ok(link.with_context(|| format!("no interface {interface}"))?.ifindex)
    }

    /// Runs traffic and counts the services' frames on both wires.
    pub(crate) fn wires(&self, traffic: impl FnOnce() -> Result<()>) -> Result<Wires> {
        self.wire.clear();
        traffic()?;
        let services: [IpAddr; 2] = [VIP4.parse()?, VIP6.parse()?];
        let count = |interface: &str| {
            self.wire.count(interface, |frame| {
                frame.direction == backtrail_lab::Direction::In && services.contains(&frame.source)
            })
        };
        // The sniffer reads the last frames a little later; where a steady flow runs it never falls silent.
        let mut wires = Wires { default: count("rdef"), request: count("rred") };
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(100));
            let before =
                std::mem::replace(&mut wires, Wires { default: count("rdef"), request: count("rred") });
            if wires == before {
                break;
            }
        }
        Ok(wires)
    }

    pub(crate) fn tcp(&self, service: &str) -> Result<()> {
        tcp_exchange(&self.client, None, (service.parse::<IpAddr>()?, PORT).into(), PATIENCE).map(drop)
    }

    pub(crate) fn udp(&self, service: &str) -> Result<()> {
        udp_exchange(&self.client, None, (service.parse::<IpAddr>()?, PORT).into(), PATIENCE).map(drop)
    }

    pub(crate) fn ping(&self, service: &str) -> Result<()> {
        ensure!(ping(&self.client, None, service.parse()?)?, "no echo reply from {service}");
        Ok(())
    }

    /// Asserts that each protocol's replies leave by the request's wire, and by it alone.
    pub(crate) fn assert_steered(&self) -> Result<()> {
        for (name, exchange) in self.each_protocol() {
            let wires = self.wires(exchange).with_context(|| name.to_owned())?;
            ensure!(wires.default == 0 && wires.request > 0, "{name}: {wires:?}");
        }
        Ok(())
    }

    /// One exchange of each protocol in both families, not yet made.
    #[expect(clippy::type_complexity, reason = "a list of names and closures")]
    pub(crate) fn each_protocol(&self) -> Vec<(&'static str, Box<dyn FnOnce() -> Result<()> + '_>)> {
        vec![
            ("TCP IPv4", Box::new(|| self.tcp(VIP4))),
            ("TCP IPv6", Box::new(|| self.tcp(VIP6))),
            ("UDP IPv4", Box::new(|| self.udp(VIP4))),
            ("UDP IPv6", Box::new(|| self.udp(VIP6))),
            ("ICMP", Box::new(|| self.ping(VIP4))),
            ("ICMPv6", Box::new(|| self.ping(VIP6))),
        ]
    }
}

/// Whether this kernel lacks TCX (Linux before 6.6); then says that `test` is skipped.
pub(crate) fn lacks_tcx(test: &str) -> bool {
    let lacks = !features().tcx;
    if lacks {
        println!("SKIPPED {test}: this kernel has no TCX");
    }
    lacks
}

/// A `ReturnPath` interface with all defaults.
pub(crate) fn asked(name: &str) -> ReturnPathInterface {
    use PolicyProtocol::{ICMP, SCTP, TCP, UDP};
    ReturnPathInterface {
        name: name.to_owned(),
        gateway: GatewaySource::Auto,
        virtual_ips: Vec::new(),
        protocols: BTreeSet::from([TCP, UDP, SCTP, ICMP]),
        except_sources: Vec::new(),
        except_ports: Vec::new(),
        enforce: true,
        drop_on_path_down: false,
        manage_rp_filter: true,
        owners: vec![ObjectRef { kind: "ReturnPath".to_owned(), name: "lb".to_owned() }],
    }
}

/// Joins the namespaces.
fn connect(lab: &Lab, client: &Namespace, router: &Namespace, node: &Namespace) -> Result<()> {
    lab.connect(
        &End::new(client, "c0", &["203.0.113.2/24", "2001:db8:c::2/64"]),
        &End::new(router, "r0", &["203.0.113.1/24", "2001:db8:c::1/64"]),
    )?;
    lab.connect(
        &End::new(router, "rdef", &["10.0.1.1/24", "fd00:1::1/64"]),
        &End::new(node, "vdef", &["10.0.1.2/24", "fd00:1::2/64"]),
    )?;
    connect_request(lab, router, node)
}

/// Joins router and node by the link that requests come in by.
pub(crate) fn connect_request(lab: &Lab, router: &Namespace, node: &Namespace) -> Result<()> {
    lab.connect(
        &End::new(router, "rred", &["10.0.2.1/24", "fd00:2::1/64"]),
        &End::new(node, "vred", &["10.0.2.2/24", "fd00:2::2/64"]),
    )
}
