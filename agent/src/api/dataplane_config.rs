//! `DataplaneConfig`: what the agent owns, and the ceiling that no other object lifts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::{Address, Cidr, ListenAddress, Span};

/// Settings of the agent on every node, and the ceiling of all other objects. One object, named `default`; without it all defaults apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "backtrail.dev",
    version = "v1alpha1",
    kind = "DataplaneConfig",
    shortname = "dpc",
    category = "backtrail",
    status = "DataplaneConfigStatus",
    derive = "PartialEq",
    doc = "What Backtrail owns on each node, and the ceiling that no other object lifts. One per cluster, named default.",
    validation = Rule::new("self.metadata.name == 'default'").message("the only DataplaneConfig is named default"),
    printcolumn(name = "FPM", type_ = "string", json_path = ".spec.fpm.listen"),
    printcolumn(name = "Default-Route", type_ = "string", json_path = ".spec.guardrails.defaultRoute"),
    printcolumn(name = "Max-Routes", type_ = "integer", json_path = ".spec.guardrails.maxRoutesPerNode"),
    printcolumn(name = "Accepted", type_ = "string", json_path = r#".status.conditions[?(@.type=="Accepted")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneConfigSpec {
    /// The FPM listener that zebra connects to.
    #[serde(default)]
    pub fpm: Fpm,
    /// Numbers that Backtrail uses in the kernel. What carries them is Backtrail's; nothing else is ever touched.
    #[serde(default)]
    pub ownership: Ownership,
    /// Limits that no other object lifts.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Whether changes are written, and how a change of the configuration is tried.
    #[serde(default)]
    pub apply: Apply,
}

/// Annotation that freezes all writing on every node until it is removed: `true`, or the reason in words. `false` is as if it were not there.
pub const PAUSED: &str = "backtrail.dev/paused";

/// Whether changes are written, and how a change of the configuration is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Apply {
    /// Enforce writes what is decided; DryRun learns, computes and shows, and writes nothing to the kernel.
    #[serde(default)]
    pub mode: ApplyMode,
    /// What must be reachable after each change of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub probes: Vec<Probe>,
    /// When a probe fails, put the former configuration in force again; the new one is not tried before it is edited.
    #[serde(default = "Apply::default_rollback")]
    pub rollback_on_probe_failure: bool,
}

impl Apply {
    fn default_rollback() -> bool {
        true
    }
}

impl Default for Apply {
    fn default() -> Self {
        Self {
            mode: ApplyMode::default(),
            probes: Vec::new(),
            rollback_on_probe_failure: Self::default_rollback(),
        }
    }
}

/// Whether changes are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApplyMode {
    /// They are.
    #[default]
    Enforce,
    /// They are computed and shown.
    DryRun,
}

/// Something that each node must reach after a change. Sent from the node itself, to this address alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'APIServer' ? !has(self.address) : has(self.address)").message("TCP and ICMP need an address; APIServer has its own"),
    validation = Rule::new("self.type == 'TCP' ? has(self.port) : !has(self.port)").message("TCP needs a port, the others have none")
)]
pub struct Probe {
    /// What is tried.
    #[serde(rename = "type")]
    pub kind: ProbeKind,
    /// Whom to reach (TCP, ICMP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// It must have succeeded once within this time.
    #[serde(default = "Probe::default_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('5m')").message("must be 1s to 5m"))]
    pub timeout: Span,
}

impl Probe {
    fn default_timeout() -> Span {
        Span::from_secs(10)
    }
}

/// What a probe tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbeKind {
    /// A TCP connection to the Kubernetes API server, at the address that Kubernetes gave the agent's pod.
    APIServer,
    /// A TCP connection.
    TCP,
    /// An echo request.
    ICMP,
}

/// The FPM listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fpm {
    /// Where the agent listens for zebra's FPM connection. Peers that are not loopback are refused unless this address is not loopback.
    #[serde(default = "Fpm::default_listen")]
    pub listen: ListenAddress,
    /// Answer zebra with RTM_F_OFFLOAD when the kernel has acknowledged a route, so that BGP advertises only what forwards (`bgp suppress-fib-pending`).
    #[serde(default)]
    pub offload_ack: bool,
}

impl Fpm {
    fn default_listen() -> ListenAddress {
        ListenAddress(std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 2620)))
    }
}

impl Default for Fpm {
    fn default() -> Self {
        Self { listen: Self::default_listen(), offload_ack: false }
    }
}

/// What belongs to Backtrail in the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ownership {
    /// Protocol number of routes, rules and nexthop objects (`ip route show proto 201`). zebra sweeps routes that carry its own numbers: those are refused.
    #[serde(default = "Ownership::default_protocol")]
    #[schemars(range(min = 5, max = 255))]
    #[x_kube(validation = Rule::new("!(self in [11, 16, 42, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198])").message("this number belongs to zebra or another routing daemon: use 201"))]
    pub route_protocol: u8,
    /// Tables that VRFAttachments of mode Create and TableOnly may use, inclusive.
    #[serde(default = "Ownership::default_tables")]
    #[x_kube(validation = Rule::new("self.from >= 256 || self.to <= 252").message("the range must not hold the kernel's tables 253 to 255"))]
    pub tables: NumberRange,
    /// Priorities of policy rules, inclusive, after l3mdev (1000): a tenth of them for exceptions, four for Early, three for Normal, two for Late.
    #[serde(default = "Ownership::default_rule_priorities")]
    #[x_kube(
        validation = Rule::new("self.from > 1000 && self.to < 32766").message("the band lies between l3mdev's rule (1000) and the lookup of main (32766)"),
        validation = Rule::new("self.to - self.from >= 9").message("the band needs at least 10 priorities")
    )]
    pub rule_priorities: NumberRange,
    /// Ids of nexthop objects and groups, inclusive.
    #[serde(default = "Ownership::default_nexthop_ids", rename = "nexthopIDs")]
    pub nexthop_ids: NumberRange,
}

impl Ownership {
    fn default_protocol() -> u8 {
        201
    }

    fn default_tables() -> NumberRange {
        NumberRange { from: 10000, to: 10999 }
    }

    fn default_rule_priorities() -> NumberRange {
        NumberRange { from: 1100, to: 1189 }
    }

    fn default_nexthop_ids() -> NumberRange {
        NumberRange { from: 4_200_000_000, to: 4_200_065_535 }
    }
}

impl Default for Ownership {
    fn default() -> Self {
        Self {
            route_protocol: Self::default_protocol(),
            tables: Self::default_tables(),
            rule_priorities: Self::default_rule_priorities(),
            nexthop_ids: Self::default_nexthop_ids(),
        }
    }
}

/// An inclusive range of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.from <= self.to").message("from must not be greater than to"))]
pub struct NumberRange {
    /// First number.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub from: u32,
    /// Last number, inclusive.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub to: u32,
}

/// Limits that no other object lifts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Guardrails {
    /// Where learned default routes (/0, and a pair of /1) may be programmed. Forbid beats every RouteImport.
    #[serde(default)]
    pub default_route: DefaultRouteGuard,
    /// Prefixes that are never imported and never steered. A route is rejected when its prefix equals one of these or lies inside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub protected_prefixes: Vec<Cidr>,
    /// What each node adds to the protected prefixes by itself, as far as it knows it.
    #[serde(default = "Guardrails::default_auto_protect")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub auto_protect: Vec<AutoProtect>,
    /// Routes on one node at most, over all RouteImports.
    #[serde(default = "Guardrails::default_max_routes")]
    #[schemars(range(min = 0, max = 100_000_000))]
    pub max_routes_per_node: u64,
    /// Entries of the flow table on one node at most.
    #[serde(default = "Guardrails::default_max_flows")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_flow_entries_per_node: u32,
}

impl Guardrails {
    fn default_auto_protect() -> Vec<AutoProtect> {
        AutoProtect::ALL.to_vec()
    }

    fn default_max_routes() -> u64 {
        200_000
    }

    fn default_max_flows() -> u32 {
        1_048_576
    }
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            default_route: DefaultRouteGuard::default(),
            protected_prefixes: Vec::new(),
            auto_protect: Self::default_auto_protect(),
            max_routes_per_node: Self::default_max_routes(),
            max_flow_entries_per_node: Self::default_max_flows(),
        }
    }
}

/// Where learned default routes may be programmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DefaultRouteGuard {
    /// No default route is ever imported.
    #[default]
    Forbid,
    /// Into VRF tables only.
    AllowInVRFs,
    /// Into main too.
    Allow,
}

/// Prefixes that a node knows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum AutoProtect {
    /// The addresses of the Kubernetes API server.
    APIServer,
    /// The pod networks.
    PodCIDRs,
    /// The service networks.
    ServiceCIDRs,
    /// The node's own addresses, as host prefixes.
    NodeAddresses,
    /// The addresses of the BGP peers.
    BGPPeers,
}

impl AutoProtect {
    /// All of them, the default.
    pub const ALL: [Self; 5] =
        [Self::APIServer, Self::PodCIDRs, Self::ServiceCIDRs, Self::NodeAddresses, Self::BGPPeers];
}

/// What became of the settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DataplaneConfigStatus {
    /// Generation that the conditions speak about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions: Accepted.
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
