//! `TrafficPolicy`: which traffic uses which VRF.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{PortRange, Protocol, VRFRef};
use super::text::{Cidr, InterfaceName};
use super::vrf_attachment::is_empty_selector;

/// Which traffic uses which VRF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "backtrail.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    shortname = "tp",
    category = "backtrail",
    status = "TrafficPolicyStatus",
    derive = "PartialEq",
    doc = "Which traffic uses which VRF, on the nodes that match.",
    printcolumn(name = "Band", type_ = "string", json_path = ".spec.band"),
    printcolumn(name = "Rules", type_ = "string", json_path = ".spec.rules[*].name"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.matchedNodes"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// Nodes on which it is in force; empty: all.
    #[serde(default, skip_serializing_if = "is_empty_selector")]
    pub node_selector: LabelSelector,
    /// Which part of the rule band: Early rules are seen before Normal ones, and those before Late ones.
    #[serde(default)]
    pub band: Band,
    /// The rules. Within a band the longest destination comes first, then the longest source, then the name: never the order of creation.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<TrafficRule>,
}

/// Part of the rule band.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Band {
    /// Before the others.
    Early,
    /// In the middle.
    #[default]
    Normal,
    /// After the others.
    Late,
}

/// A rule: match and action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRule {
    /// Name of the rule within the object.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')").message("must hold lower-case letters, digits and '-' only"))]
    pub name: String,
    /// Traffic that the rule is for. All that is given must match.
    #[serde(rename = "match")]
    pub selector: TrafficMatch,
    /// What happens to it.
    pub action: TrafficAction,
}

/// Traffic that a rule is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.destinations) && size(self.destinations) > 0) || (has(self.sources) && size(self.sources) > 0) || (has(self.ingressInterfaces) && size(self.ingressInterfaces) > 0)").message("give at least one of destinations, sources and ingressInterfaces"),
    validation = Rule::new("!has(self.destinationPorts) || size(self.destinationPorts) == 0 || (has(self.protocol) && self.protocol in ['TCP', 'UDP', 'SCTP'])").message("destinationPorts need protocol TCP, UDP or SCTP"),
    validation = Rule::new("!has(self.destinations) || !has(self.sources) || size(self.destinations) == 0 || size(self.sources) == 0 || (self.destinations.exists(d, d.contains('.')) && self.sources.exists(s, s.contains('.'))) || (self.destinations.exists(d, !d.contains('.')) && self.sources.exists(s, !s.contains('.')))").message("destinations and sources have no address family in common: no packet matches")
)]
pub struct TrafficMatch {
    /// Destination prefixes; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub destinations: Vec<Cidr>,
    /// Source prefixes; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub sources: Vec<Cidr>,
    /// Interfaces that the traffic comes in by; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ingress_interfaces: Vec<InterfaceName>,
    /// Transport protocol; without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Destination ports; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub destination_ports: Vec<PortRange>,
    /// Traffic of the node itself too, not forwarded traffic alone.
    #[serde(default = "yes")]
    pub host_traffic: bool,
}

fn yes() -> bool {
    true
}

/// What happens to matching traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficAction {
    /// The VRF that routes it.
    pub vrf: VRFRef,
    /// What happens when the VRF has no usable route to the destination. Drop: unreachable. Main: main decides (not with a Strict VRF).
    #[serde(default)]
    pub if_unavailable: IfUnavailable,
}

/// `ifUnavailable`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum IfUnavailable {
    /// Unreachable.
    #[default]
    Drop,
    /// Main decides.
    Main,
}

/// What became of a `TrafficPolicy` on the nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicyStatus {
    /// Generation that the status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that the selector matches.
    pub matched_nodes: u32,
    /// Nodes on which all rules are in force.
    pub ready_nodes: u32,
    /// The rules.
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub rules: Vec<RuleStatus>,
    /// Conditions: Accepted, Conflicted, Programmed, Ready.
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What became of a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleStatus {
    /// Name of the rule.
    pub name: String,
    /// Nodes on which it is in force.
    pub programmed_nodes: u32,
    /// Why it is not on the others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
