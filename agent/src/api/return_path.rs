//! `ReturnPath`: replies leave by the way the request came.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{PortRange, Protocol};
use super::text::{AddressV4, AddressV6, Cidr, InterfacePattern, Span};
use super::vrf_attachment::is_empty_selector;

/// Interfaces whose requests are remembered, so that replies leave by the way the request came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "backtrail.dev",
    version = "v1alpha1",
    kind = "ReturnPath",
    shortname = "rp",
    category = "backtrail",
    status = "ReturnPathStatus",
    derive = "PartialEq",
    doc = "Interfaces whose requests are remembered, so that replies leave by the way the request came.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.matchedNodes"),
    printcolumn(name = "Attached", type_ = "integer", json_path = ".status.attachedNodes"),
    printcolumn(name = "Flows", type_ = "integer", json_path = ".status.flows"),
    printcolumn(name = "Steered", type_ = "integer", json_path = ".status.steeredPackets"),
    printcolumn(
        name = "Would-Steer",
        type_ = "integer",
        json_path = ".status.wouldSteerPackets",
        priority = 1
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ReturnPathSpec {
    /// Nodes on which it is in force; empty: all.
    #[serde(default, skip_serializing_if = "is_empty_selector")]
    pub node_selector: LabelSelector,
    /// Interfaces whose requests are remembered.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub interfaces: Vec<SteeredInterface>,
    /// Flows that are remembered; empty: every new inbound flow.
    #[serde(rename = "match", default)]
    pub selector: FlowMatch,
    /// Interfaces that replies could wrongly leave by (names or globs). Empty: the interfaces above, and every up interface that carries a route beyond its connected ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub egress_interfaces: Vec<InterfacePattern>,
    /// TCRedirect: steer replies. Shadow: count what would be steered, change nothing.
    #[serde(default)]
    pub mode: SteeringMode,
    /// The table of remembered flows, one for the node.
    #[serde(default)]
    pub flow_table: FlowTable,
    /// What happens to replies when the gateway or the interface of their path is down. FollowFIB: they go by the routing table. Drop: they are dropped.
    #[serde(default)]
    pub on_path_down: OnPathDown,
    /// Reverse-path filter of the interfaces. Auto: loose, or off where no default route exists; recorded and restored. Unmanaged: hands off.
    #[serde(default)]
    pub rp_filter: SteeringRpFilter,
}

/// An interface whose requests are remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.source != 'Static' || !self.name.matches('[*?]')").message("gateway.source Static needs an exact interface name, not a glob"))]
pub struct SteeredInterface {
    /// Name of the interface, or a glob such as bond0.*; an exact name wins over a glob.
    pub name: InterfacePattern,
    /// The gateway that replies are handed to.
    #[serde(default)]
    pub gateway: SteeringGateway,
}

/// The gateway that replies are handed to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.source == 'Static') == (has(self.ipv4) || has(self.ipv6))").message("ipv4 or ipv6 must be given with source Static, and only then"))]
pub struct SteeringGateway {
    /// Auto: the route to the client through the interface's table, else the router that delivered the request. FromRoute: the route only. FromSourceMAC: the router that delivered the request only. Static: the addresses given.
    #[serde(default)]
    pub source: GatewaySourceKind,
    /// IPv4 gateway, with source Static. Without it IPv4 stays on Auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<AddressV4>,
    /// IPv6 gateway, with source Static. Without it IPv6 stays on Auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<AddressV6>,
}

/// Where the gateway comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum GatewaySourceKind {
    /// Route, else the request's router.
    #[default]
    Auto,
    /// Route only.
    FromRoute,
    /// The request's router only.
    FromSourceMAC,
    /// The addresses given.
    Static,
}

/// Flows that are remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowMatch {
    /// Service addresses that requests go to; empty: any.
    #[serde(default, rename = "virtualIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub virtual_ips: Vec<Cidr>,
    /// Protocols; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub protocols: Vec<Protocol>,
    /// Clients that are never remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub except_sources: Vec<Cidr>,
    /// Service ports that are never remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub except_ports: Vec<PortRange>,
}

/// Whether replies are steered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum SteeringMode {
    /// Count only.
    Shadow,
    /// Steer.
    #[default]
    TCRedirect,
}

/// The table of remembered flows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowTable {
    /// Flows at most; DataplaneConfig's guardrails cap it. When it is full the least recently used flow is forgotten.
    #[serde(default = "FlowTable::default_max_entries")]
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub max_entries: u32,
    /// A TCP flow may be forgotten after so long without a packet.
    #[serde(default = "FlowTable::default_tcp_idle")]
    #[x_kube(validation = Rule::new("!self.matches('^(0+(ms|s|m|h))+$')").message("must be longer than 0s"))]
    pub tcp_idle: Span,
    /// The same for all other flows.
    #[serde(default = "FlowTable::default_udp_idle")]
    #[x_kube(validation = Rule::new("!self.matches('^(0+(ms|s|m|h))+$')").message("must be longer than 0s"))]
    pub udp_idle: Span,
}

impl FlowTable {
    fn default_max_entries() -> u32 {
        262_144
    }

    fn default_tcp_idle() -> Span {
        Span::from_secs(3600)
    }

    fn default_udp_idle() -> Span {
        Span::from_secs(120)
    }
}

impl Default for FlowTable {
    fn default() -> Self {
        Self {
            max_entries: Self::default_max_entries(),
            tcp_idle: Self::default_tcp_idle(),
            udp_idle: Self::default_udp_idle(),
        }
    }
}

/// What happens when a path is down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum OnPathDown {
    /// Replies are dropped.
    Drop,
    /// Replies go by the routing table.
    #[default]
    FollowFIB,
}

/// Whether rp_filter is managed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum SteeringRpFilter {
    /// Loose, or off where no default route exists.
    #[default]
    Auto,
    /// Hands off.
    Unmanaged,
}

/// What became of a `ReturnPath` on the nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReturnPathStatus {
    /// Generation that the status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that the selector matches.
    pub matched_nodes: u32,
    /// Nodes on which the programs are attached to all interfaces.
    pub attached_nodes: u32,
    /// Flows remembered, over all nodes.
    pub flows: u64,
    /// Packets steered, over all nodes.
    pub steered_packets: u64,
    /// Packets that Shadow would have steered, over all nodes.
    pub would_steer_packets: u64,
    /// Conditions: Accepted, Conflicted, Attached, Ready.
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
