//! The merged intent of this node: what all manifests together ask for, validated and without conflicts.
//!
//! Names of interfaces stay names (or globs): which of them exist is for `plan` to see.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use zebra_fpm::session::Retention;

pub use crate::api::{
    AutoProtect, Band, DefaultRoute, DefaultRouteGuard, HashPolicy, OnLimit, Protocol as PolicyProtocol,
    Resilient, RpFilter, VRFMode as VrfMode,
};

/// A manifest, named as users know it: `RouteImport/billing`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// `VRFAttachment`, `RouteImport`, `TrafficPolicy`, `ReturnPath` or `DataplaneConfig`.
    pub kind: String,
    /// `metadata.name`
    pub name: String,
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Everything this node is asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Intent {
    /// `DataplaneConfig/default`, or its defaults.
    pub config: Config,
    /// By name.
    pub vrfs: Vec<Vrf>,
    /// By (source table, target table, source interfaces).
    pub imports: Vec<Import>,
    /// In the order of their priorities within each band.
    pub rules: Vec<PolicyRule>,
    /// By interface name or glob: exact names first, then globs.
    pub return_paths: Vec<ReturnPathInterface>,
    /// Size, idle times and egress set of the steering programs.
    pub steering: SteeringSettings,
    /// `fib_multipath_hash_policy` of the node, where an import asks for one.
    pub hash_policy: HashPolicy,
    /// Items that were left out, and why.
    pub conflicts: Vec<Conflict>,
    /// Every manifest that was read for this node, with what became of it.
    pub objects: Vec<ObjectState>,
}

/// What became of one manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectState {
    /// The manifest.
    pub object: ObjectRef,
    /// Whether any of it is in force on this node (false: invalid, or guardrail, or all items in conflict).
    pub accepted: bool,
    /// Condition reason: `Valid`, `Invalid`, `GuardrailForbids`, ...
    pub reason: String,
    /// For a person; empty when valid.
    pub message: String,
    /// `metadata.generation` of what was read, where there is one (not in files).
    pub generation: Option<i64>,
}

/// An item that was left out because it disagrees with another object. Costs only the item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The object that lost.
    pub object: ObjectRef,
    /// Path of the item within it: `interfaces[bond0.100]`.
    pub item: String,
    /// Reason of the condition, such as `InterfaceInOtherVRF`.
    pub reason: String,
    /// The object that won.
    pub winner: ObjectRef,
    /// For a person: what disagrees and what to change.
    pub message: String,
}

/// `DataplaneConfig`, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where FPM listens: `127.0.0.1:2620`.
    pub fpm_listen: std::net::SocketAddr,
    /// Answer zebra with RTM_F_OFFLOAD after the kernel's acknowledgement.
    pub offload_ack: bool,
    /// `rtm_protocol` of all that is ours: 201.
    pub route_protocol: u8,
    /// Tables that `Create` and `TableOnly` may use, inclusive: 10000-10999.
    pub tables: (u32, u32),
    /// The rule band, inclusive: 1100-1189.
    pub rule_priorities: (u32, u32),
    /// Nexthop object ids, inclusive: 4200000000-4200065535.
    pub nexthop_ids: (u32, u32),
    /// Ceiling for default routes.
    pub default_route: DefaultRouteGuard,
    /// Never imported, never steered.
    pub protected_prefixes: Vec<IpNet>,
    /// What the node adds to the protected prefixes by itself.
    pub auto_protect: BTreeSet<AutoProtect>,
    /// Sum over all imports.
    pub max_routes_per_node: u64,
    /// Ceiling of the flow table.
    pub max_flow_entries: u32,
    /// The annotation `backtrail.dev/paused`: nothing is written. Its reason, which may be empty.
    pub paused: Option<String>,
    /// `apply.mode: DryRun`: nothing is written.
    pub dry_run: bool,
    /// What must be reachable after a change.
    pub probes: Vec<Probe>,
    /// A change after which a probe fails is taken back.
    pub rollback: bool,
}

/// `apply.probes[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What must answer.
    pub target: ProbeTarget,
    /// It must have answered once within this time.
    pub timeout: Duration,
}

/// What a probe must reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ProbeTarget {
    /// The Kubernetes API server, as the pod's environment names it.
    ApiServer,
    /// A TCP service.
    Tcp(std::net::SocketAddr),
    /// A host that answers echo requests.
    Icmp(std::net::IpAddr),
}

impl std::fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ApiServer => f.write_str("APIServer"),
            Self::Tcp(address) => write!(f, "TCP {address}"),
            Self::Icmp(address) => write!(f, "ICMP {address}"),
        }
    }
}

impl Config {
    /// Whether it forbids all writing.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.dry_run || self.paused.is_some()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fpm_listen: std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 2620)),
            offload_ack: false,
            route_protocol: 201,
            tables: (10000, 10999),
            rule_priorities: (1100, 1189),
            nexthop_ids: (4_200_000_000, 4_200_065_535),
            default_route: DefaultRouteGuard::Forbid,
            protected_prefixes: Vec::new(),
            auto_protect: AutoProtect::ALL.into_iter().collect(),
            max_routes_per_node: 200_000,
            max_flow_entries: 1_048_576,
            paused: None,
            dry_run: false,
            probes: Vec::new(),
            rollback: true,
        }
    }
}

/// A VRF with the interfaces that belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vrf {
    /// Name.
    pub name: String,
    /// Its table.
    pub table: u32,
    /// Mode.
    pub mode: VrfMode,
    /// True: an unreachable default ends the table. False (`FallbackToMain`): the lookup goes on in main.
    pub strict: bool,
    /// Its interfaces, by name.
    pub interfaces: Vec<VrfInterface>,
    /// Gateways of last resort: used where nothing was learned.
    pub gateways: Vec<StaticGateway>,
    /// Destinations that are looked up in main before this VRF's rules.
    pub exceptions: Vec<IpNet>,
    /// Pod and service networks that the node knows are such exceptions too.
    pub auto_exceptions: bool,
    /// Whether rp_filter of its interfaces is ours to set.
    pub rp_filter: RpFilter,
    /// Objects that ask for it.
    pub owners: Vec<ObjectRef>,
}

/// An interface of a VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VrfInterface {
    /// Name, exact.
    pub name: String,
    /// Make this VLAN sub-interface if it is not there.
    pub vlan: Option<Vlan>,
    /// Addresses to add; empty: left to the host's tools.
    pub addresses: Vec<IpNet>,
    /// Migrate addresses and routes when the interface changes its controller.
    pub preserve_addresses: bool,
    /// Objects that ask for it.
    pub owners: Vec<ObjectRef>,
}

/// A VLAN sub-interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vlan {
    /// Name of the lower device.
    pub parent: String,
    /// 1 to 4094.
    pub id: u16,
    /// Bytes; `None`: as the parent.
    pub mtu: Option<u32>,
}

/// `vrf.gateways[]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaticGateway {
    /// Address.
    pub address: std::net::IpAddr,
    /// Interface name.
    pub interface: String,
    /// 1 to 256.
    pub weight: u16,
}

/// A merged route import: one (source, target) pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Objects that ask for it, the first one gives it its name.
    pub owners: Vec<ObjectRef>,
    /// FPM table.
    pub from_table: u32,
    /// Nexthops by other interfaces are dropped; empty: any. Names or globs.
    pub from_interfaces: BTreeSet<String>,
    /// `rtm_protocol` numbers; empty: any. 2 (kernel, connected) is never imported.
    pub protocols: BTreeSet<u8>,
    /// Prefixes that may come in.
    pub allowed: Allowed,
    /// After the guardrail's cap.
    pub default_route: DefaultRoute,
    /// Prefixes at most.
    pub max_routes: u64,
    /// What happens at `max_routes`.
    pub on_limit: OnLimit,
    /// Where the routes go.
    pub into: Target,
    /// False: `Observe`, verify only.
    pub program: bool,
    /// Metric of the routes.
    pub metric: u32,
    /// `preferredSource`
    pub preferred_source: Option<std::net::IpAddr>,
    /// At most this many nexthops: 1 for `Single`.
    pub max_paths: u16,
    /// Resilient nexthop groups, where asked for.
    pub resilient: Option<Resilient>,
    /// What happens when FRR goes away.
    pub on_feed_loss: FeedLoss,
}

/// Where an import's routes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Kernel table (254 for main).
    pub table: u32,
    /// Name of the VRF, where one was named.
    pub vrf: Option<String>,
}

/// `allowed`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Allowed {
    /// Any prefix.
    All,
    /// Prefixes that one of these matches.
    Prefixes(Vec<PrefixMatch>),
}

/// A prefix-list entry: a route matches when it lies inside `prefix` and its length is in `ge..=le`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PrefixMatch {
    /// Covering prefix.
    pub prefix: IpNet,
    /// Shortest length (without `ge` and `le` in the manifest: the prefix's own).
    pub ge: u8,
    /// Longest length (with `ge` alone: 32 or 128).
    pub le: u8,
}

/// `onFeedLoss`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FeedLoss {
    /// Keep routes; `None`: for ever, else until so long after the disconnect.
    Retain(Option<Duration>),
    /// Withdraw at the disconnect.
    Withdraw,
}

impl From<FeedLoss> for Retention {
    fn from(policy: FeedLoss) -> Self {
        match policy {
            FeedLoss::Retain(Some(timeout)) => Self::For(timeout),
            FeedLoss::Retain(None) => Self::Forever,
            FeedLoss::Withdraw => Self::Withdraw,
        }
    }
}

/// One match of a `TrafficPolicy` rule: selectors already multiplied out to single prefixes of one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRule {
    /// Objects that ask for it.
    pub owners: Vec<ObjectRef>,
    /// `rules[].name`
    pub name: String,
    /// Band.
    pub band: Band,
    /// Destinations; empty: any.
    pub destinations: Vec<IpNet>,
    /// Sources; empty: any.
    pub sources: Vec<IpNet>,
    /// Ingress interface names; empty: any.
    pub ingress_interfaces: Vec<String>,
    /// IP protocol number, for `ICMP` 1 in IPv4 rules and 58 in IPv6 ones.
    pub protocol: Option<PolicyProtocol>,
    /// Inclusive ranges; empty: any.
    pub destination_ports: Vec<(u16, u16)>,
    /// Locally generated traffic too.
    pub host_traffic: bool,
    /// Table to look up.
    pub table: u32,
    /// Name of its VRF.
    pub vrf: String,
    /// `ifUnavailable: Drop`: an unreachable rule follows the lookup.
    pub drop_if_unavailable: bool,
}

/// A merged `ReturnPath` interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReturnPathInterface {
    /// Name or glob (`bond0.*`).
    pub name: String,
    /// Gateway source and addresses.
    pub gateway: GatewaySource,
    /// Service addresses; empty: any.
    pub virtual_ips: Vec<IpNet>,
    /// Protocols; never empty.
    pub protocols: BTreeSet<PolicyProtocol>,
    /// Clients that are never learned.
    pub except_sources: Vec<IpNet>,
    /// Service ports that are never learned, inclusive ranges.
    pub except_ports: Vec<(u16, u16)>,
    /// False: `Shadow`.
    pub enforce: bool,
    /// True: `onPathDown: Drop`.
    pub drop_on_path_down: bool,
    /// False: `rpFilter: Unmanaged`.
    pub manage_rp_filter: bool,
    /// Objects that ask for it.
    pub owners: Vec<ObjectRef>,
}

/// `gateway`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum GatewaySource {
    /// Route of the interface's table, else the router that delivered the request.
    Auto,
    /// Route of the interface's table only.
    FromRoute,
    /// The request's source MAC only.
    FromSourceMAC,
    /// These; a family without one stays on `Auto`.
    Static {
        /// IPv4 gateway.
        ipv4: Option<Ipv4Addr>,
        /// IPv6 gateway.
        ipv6: Option<Ipv6Addr>,
    },
}

/// What holds for all steering on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SteeringSettings {
    /// Names or globs of interfaces with an egress program; empty: chosen by the agent.
    pub egress_interfaces: BTreeSet<String>,
    /// Flow table size (largest asked for, capped by the guardrail).
    pub max_entries: u32,
    /// Idle time after which a TCP flow may be forgotten.
    pub tcp_idle: Duration,
    /// The same for all else.
    pub udp_idle: Duration,
}

impl Default for SteeringSettings {
    fn default() -> Self {
        Self {
            egress_interfaces: BTreeSet::new(),
            max_entries: 262_144,
            tcp_idle: Duration::from_secs(3600),
            udp_idle: Duration::from_secs(120),
        }
    }
}
