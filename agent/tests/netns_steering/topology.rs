//! The lab, with the agent's half of steering in the test's own process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Deref;
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
use backtrail_lab::ways::TwoWays;
pub(crate) use backtrail_lab::ways::{CLIENT4, CLIENT6, ECHO_PORT as PORT, VIP4, VIP6, Wires};

/// How long an exchange may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The lab with the agent's half of steering.
pub(crate) struct Topology {
    pub(crate) net: TwoWays,
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
}

impl Deref for Topology {
    type Target = TwoWays;

    fn deref(&self) -> &TwoWays {
        &self.net
    }
}

impl Topology {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let net = TwoWays::new(name)?;
        Ok(Self {
            bpffs: net.lab.bpffs()?,
            net,
            steering: None,
            asked: vec![asked("vred")],
            gateways: vec![("vdef", "10.0.1.1".parse()?), ("vdef", "fd00:1::1".parse()?)],
            tables: Vec::new(),
            defaults: BTreeSet::from([(254, Family::Ipv4), (254, Family::Ipv6)]),
            force_clsact: false,
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
        let report = self.net.node.enter(|| steering.apply(&plan))?;
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
