//! The plan of return-path steering: which interfaces get programs, and what their maps hold.
//!
//! A pure function of the intent and of what was seen on the node. The BPF edge ([`crate::steering`]) applies
//! [`SteeringPlan::interfaces`], `paths`, `macs`, `never` and `flows`; the netlink edge applies `sink`, `rules`,
//! `routes`, `managed_neighbours` and `sysctls`. Numbers that must survive a restart (slots of interfaces, ids of
//! paths) are not here: the BPF edge keeps them, for it alone knows what the pinned maps hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::intent::types::{Intent, ObjectRef, PolicyProtocol};
use crate::model::{Family, KernelRoute, Link, Neighbour, Rule};

mod interfaces;
mod paths;
mod sink;
#[cfg(test)]
mod tests;

pub use crate::model::devices::SINK_NAME;

/// Interfaces with programs at most: each has a slot of counters (`backtrail_ebpf_common::maps::SLOTS`).
pub const MAX_INTERFACES: usize = 250;

/// Candidate gateways at most for one interface and family; the lowest addresses are kept.
pub const MAX_GATEWAYS: usize = 64;

/// What the plan is made of.
#[derive(Debug, Clone, Copy)]
pub struct SteeringInput<'a> {
    /// The merged manifests: `return_paths`, `steering` and `config` are read.
    pub intent: &'a Intent,
    /// Every link of the namespace.
    pub links: &'a [Link],
    /// Routing table of an interface, by ifindex: that of the VRF that lists it. Absent: main.
    pub tables: &'a BTreeMap<u32, u32>,
    /// Gateways that routes of a family name on an interface, in any kernel table or FPM nexthop. By (ifindex, family
    /// of the routes): an IPv4 route may name an IPv6 gateway (RFC 8950).
    pub gateways: &'a BTreeMap<(u32, Family), BTreeSet<IpAddr>>,
    /// The kernel's neighbour entries.
    pub neighbours: &'a [Neighbour],
    /// Interfaces that carry a route beyond their connected ones.
    pub carrying: &'a BTreeSet<u32>,
    /// Tables that hold a default route (/0 with a nexthop), the sink's own not counted.
    pub defaults: &'a BTreeSet<(u32, Family)>,
    /// Clients in these are never learned: the Pod, Service and node CIDRs, and the other nodes, as far as known.
    pub cluster: &'a BTreeSet<IpNet>,
}

/// What steering shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringPlan {
    /// Interfaces with an egress program, by ifindex; those with [`SteeredInterface::learn`] have an ingress program too.
    pub interfaces: BTreeMap<u32, SteeredInterface>,
    /// Ways back to clients.
    pub paths: BTreeMap<PathKey, Path>,
    /// Gateways by the source MAC of what they deliver.
    pub macs: BTreeMap<MacKey, PathKey>,
    /// Neighbours of listed interfaces that do not answer, by (ifindex, address): paths of earlier plans that flows
    /// still hold lead to them too.
    pub failed: BTreeSet<(u32, IpAddr)>,
    /// Clients in these prefixes are never learned, whatever the interface.
    pub never: BTreeSet<IpNet>,
    /// The flow table.
    pub flows: FlowTable,
    /// Whether the device [`SINK_NAME`] is wanted.
    pub sink: bool,
    /// Rules that lead replies of service addresses to the sink.
    pub rules: Vec<Rule>,
    /// Routes that lead to the sink.
    pub routes: Vec<KernelRoute>,
    /// Gateways that the kernel shall keep resolved (NTF_EXT_MANAGED, Linux 5.16), by (ifindex, address).
    pub managed_neighbours: BTreeSet<(u32, IpAddr)>,
    /// Sysctls as paths below `/proc/sys` (an interface's name may hold a dot) and their values.
    pub sysctls: BTreeMap<String, String>,
    /// What was asked for and cannot be.
    pub conditions: Vec<SteeringCondition>,
}

/// Something asked for that is not in force, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SteeringCondition {
    /// The objects that ask for it.
    pub owners: Vec<ObjectRef>,
    /// The item: `interfaces[bond0.100]`.
    pub item: String,
    /// Reason, such as `InterfaceNotFound`.
    pub reason: &'static str,
    /// For a person: the cause and the fix.
    pub message: String,
}

/// An interface with an egress program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteeredInterface {
    /// Its name.
    pub name: String,
    /// Flows of different zones never meet: the table of the VRF device that the interface belongs to, else 0.
    /// An interface of a `TableOnly` VRF is in zone 0: the replies of local sockets to its clients leave by main.
    pub zone: u32,
    /// Table in which the way back to a client is looked up.
    pub table: u32,
    /// Hardware address: frames to or from another one belong to a device stacked on this one.
    pub mac: Option<[u8; 6]>,
    /// Whether frames start with an Ethernet header (no: tun, WireGuard, ppp).
    pub ethernet: bool,
    /// Whether VLAN tags in its frames are its own: a VLAN device without header reordering.
    pub tagged: bool,
    /// Leads away from the node: a request that leaves by it with its tuple unchanged is transit.
    pub uplink: bool,
    /// The device [`SINK_NAME`]: what needs no steering there follows the FIB.
    pub sink: bool,
    /// What is remembered of the requests that arrive; `None`: no ingress program.
    pub learn: Option<Learn>,
}

/// What an ingress program remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learn {
    /// False: `Shadow`, replies are counted and left alone.
    pub enforce: bool,
    /// True: a reply whose path is down is dropped; false: it follows the FIB.
    pub drop_on_path_down: bool,
    /// Protocols.
    pub protocols: BTreeSet<PolicyProtocol>,
    /// Service addresses; empty: any.
    pub virtual_ips: BTreeSet<IpNet>,
    /// Clients that are not learned here.
    pub except_sources: BTreeSet<IpNet>,
    /// Service ports that are not learned here, inclusive ranges.
    pub except_ports: BTreeSet<(u16, u16)>,
    /// Path of IPv4 requests that no gateway of [`SteeringPlan::macs`] delivered.
    pub default_ipv4: PathKey,
    /// The same for IPv6.
    pub default_ipv6: PathKey,
}

/// What makes a path the same path, across changes of state and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PathKey {
    /// Interface that the request came by.
    pub ifindex: u32,
    /// Family of the packets.
    pub family: Family,
    /// How the next hop is found.
    pub kind: PathKind,
}

/// How the next hop of a path is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum PathKind {
    /// This gateway.
    Gateway(IpAddr),
    /// The route to the client through the interface's table; else this one, the only candidate; else, without
    /// any candidate, the MAC that delivered the request.
    Auto(Option<IpAddr>),
    /// The route to the client through the interface's table, or none.
    Route,
    /// The MAC that delivered the request.
    SourceMac,
}

/// A way back to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// False: the interface or the gateway is down.
    pub up: bool,
    /// What becomes of a reply while it is down.
    pub drop_when_down: bool,
    /// False: counted only.
    pub enforce: bool,
    /// Zone of its interface.
    pub zone: u32,
    /// Table for [`PathKind::Auto`] and [`PathKind::Route`].
    pub table: u32,
    /// MTU of its interface, bytes.
    pub mtu: u32,
    /// Whether its interface has an Ethernet header.
    pub ethernet: bool,
    /// The interface's own MAC, source of frames to [`PathKind::SourceMac`].
    pub mac: Option<[u8; 6]>,
}

/// A gateway's hardware address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacKey {
    /// Interface.
    pub ifindex: u32,
    /// Family of the packets.
    pub family: Family,
    /// Source MAC of the request.
    pub mac: [u8; 6],
}

/// The flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowTable {
    /// Entries for each family.
    pub max_entries: u32,
    /// Idle time after which a TCP flow is forgotten.
    pub tcp_idle: Duration,
    /// The same for all else.
    pub udp_idle: Duration,
}

impl Default for FlowTable {
    fn default() -> Self {
        let settings = crate::intent::types::SteeringSettings::default();
        Self { max_entries: settings.max_entries, tcp_idle: settings.tcp_idle, udp_idle: settings.udp_idle }
    }
}

/// Plans steering. Without a `ReturnPath` the plan is empty: no program, no rule, no device.
#[must_use]
pub fn steering(input: &SteeringInput<'_>) -> SteeringPlan {
    let settings = &input.intent.steering;
    let mut plan = SteeringPlan {
        flows: FlowTable {
            max_entries: settings.max_entries.min(input.intent.config.max_flow_entries),
            tcp_idle: settings.tcp_idle,
            udp_idle: settings.udp_idle,
        },
        ..SteeringPlan::default()
    };
    let listed = interfaces::listed(input, &mut plan.conditions);
    if listed.is_empty() {
        return plan;
    }
    plan.never = never(input);
    interfaces::plan(input, &listed, &mut plan);
    paths::plan(input, &listed, &mut plan);
    sink::plan(input, &listed, &mut plan);
    plan
}

/// Prefixes whose clients are never learned.
fn never(input: &SteeringInput<'_>) -> BTreeSet<IpNet> {
    use crate::intent::types::AutoProtect;
    let config = &input.intent.config;
    let mut never: BTreeSet<IpNet> = config.protected_prefixes.iter().map(IpNet::trunc).collect();
    never.extend(input.cluster.iter().map(IpNet::trunc));
    if config.auto_protect.contains(&AutoProtect::NodeAddresses) {
        let own = input.links.iter().flat_map(|link| &link.addresses);
        never.extend(own.map(|address| IpNet::from(address.net.addr())));
    }
    never
}
