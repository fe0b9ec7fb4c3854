//! `VRFAttachment`: a VRF and the interfaces that belong to it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::FailedNode;
use super::text::{Address, Cidr, InterfaceAddress, InterfaceName};

/// A VRF and the interfaces and VLANs that belong to it, on the nodes that match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "backtrail.dev",
    version = "v1alpha1",
    kind = "VRFAttachment",
    plural = "vrfattachments",
    shortname = "vrfa",
    category = "backtrail",
    status = "VRFAttachmentStatus",
    derive = "PartialEq",
    doc = "A VRF and the interfaces and VLANs that belong to it, on the nodes that match.",
    printcolumn(name = "VRF", type_ = "string", json_path = ".spec.vrf.name"),
    printcolumn(name = "Table", type_ = "integer", json_path = ".spec.vrf.table"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.vrf.mode"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.matchedNodes"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyNodes"),
    printcolumn(
        name = "Conflict",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Conflicted")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.gateways) || !has(self.interfaces) || self.gateways.all(g, self.interfaces.exists(i, i.name == g.interface))").message("gateways: interface must be one of the interfaces of this object"))]
pub struct VRFAttachmentSpec {
    /// Nodes on which it is in force; empty: all.
    #[serde(default, skip_serializing_if = "is_empty_selector")]
    pub node_selector: LabelSelector,
    /// The VRF. Name and table cannot change in place: delete the object and create another.
    pub vrf: VRF,
    /// Interfaces that belong to the VRF. Traffic that comes in by them, and sockets bound to them, use its table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub interfaces: Vec<AttachedInterface>,
    /// Static gateways of last resort: used for what nothing was learned for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["address".into(), "interface".into()]))]
    pub gateways: Vec<Gateway>,
    /// What happens to destinations that the VRF's table does not know: Strict refuses them, FallbackToMain looks them up in main.
    #[serde(default)]
    pub isolation: Isolation,
    /// Destinations inside the cluster, looked up in main before the rules of this VRF.
    #[serde(default)]
    pub cluster_exceptions: ClusterExceptions,
    /// Kernel settings of the VRF's interfaces.
    #[serde(default)]
    pub sysctls: Sysctls,
}

/// Whether a selector selects all nodes.
pub(super) fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A VRF with the way it exists on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(oldSelf.mode == 'Adopt' && self.mode == 'Create')").message("mode cannot change from Adopt to Create: delete the object and create another"))]
pub struct VRF {
    /// Name of the VRF, at most 15 characters; `default` is reserved. Immutable.
    #[schemars(length(min = 1, max = 15))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$')")
            .message("must begin with a letter and hold at most 15 letters, digits, '_', '.' and '-'"),
        validation = Rule::new("self != 'default'").message("'default' is reserved: routes for main go into: {table: Main}"),
        validation = Rule::new("self == oldSelf").message("is immutable: delete the object and create another")
    )]
    pub name: String,
    /// Kernel routing table of the VRF. 0 and 253 to 255 belong to the kernel. Immutable.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    #[x_kube(
        validation = Rule::new("!(self in [253, 254, 255])").message("tables 253 to 255 belong to the kernel: choose one of DataplaneConfig's spec.ownership.tables (10000 to 10999)"),
        validation = Rule::new("self == oldSelf").message("is immutable: delete the object and create another")
    )]
    pub table: u32,
    /// TableOnly: policy rules and a table, no VRF device. Create: Backtrail makes the VRF device. Adopt: somebody else made it, and Backtrail never deletes it.
    #[serde(default)]
    pub mode: VRFMode,
}

/// How a VRF exists on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum VRFMode {
    /// Rules and a table, no device.
    #[default]
    TableOnly,
    /// Somebody else made the device.
    Adopt,
    /// Backtrail makes the device.
    Create,
}

/// An interface of the VRF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'VLAN' ? has(self.vlan) : !has(self.vlan)").message("vlan must be set with type VLAN, and only then"),
    validation = Rule::new("!has(self.vlan) || self.vlan.parent != self.name").message("vlan.parent must be another interface")
)]
pub struct AttachedInterface {
    /// Name of the interface.
    pub name: InterfaceName,
    /// Existing: the interface is made by the host's own tools. VLAN: Backtrail makes it if it is not there.
    #[serde(rename = "type", default)]
    pub kind: InterfaceType,
    /// The VLAN sub-interface to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VLAN>,
    /// Addresses to add; none: addresses are left to the host's own tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Vec<InterfaceAddress>,
    /// Keep addresses (IPv6 too) and connected routes when the interface moves into the VRF device.
    #[serde(default = "yes")]
    pub preserve_addresses: bool,
}

fn yes() -> bool {
    true
}

/// Who makes an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum InterfaceType {
    /// The host's own tools.
    #[default]
    Existing,
    /// Backtrail makes a VLAN sub-interface.
    VLAN,
}

/// A VLAN sub-interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VLAN {
    /// The interface below it.
    pub parent: InterfaceName,
    /// VLAN id.
    #[schemars(range(min = 1, max = 4094))]
    pub id: u16,
    /// MTU in bytes; without it, as the parent.
    #[schemars(range(min = 68, max = 65535))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A static gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Address of the gateway.
    pub address: Address,
    /// Interface that leads to it, one of this object's.
    pub interface: InterfaceName,
    /// Share of the traffic, relative to the other gateways.
    #[serde(default = "Gateway::default_weight")]
    #[schemars(range(min = 1, max = 256))]
    pub weight: u16,
}

impl Gateway {
    fn default_weight() -> u16 {
        1
    }
}

/// What happens to destinations that the VRF does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Isolation {
    /// An unreachable default ends the table.
    #[default]
    Strict,
    /// The lookup goes on in main.
    FallbackToMain,
}

/// Destinations that are looked up in main before the rules of the VRF.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterExceptions {
    /// Add the pod and service networks that the node knows. The node's own addresses need no exception.
    #[serde(default = "yes")]
    pub auto_detect: bool,
    /// Further destinations.
    #[serde(default, rename = "extraCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub extra_cidrs: Vec<Cidr>,
}

impl Default for ClusterExceptions {
    fn default() -> Self {
        Self { auto_detect: true, extra_cidrs: Vec::new() }
    }
}

/// Kernel settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sysctls {
    /// Reverse-path filter of the interfaces. Auto: loose, or off where no default route exists. What it was is recorded and restored.
    #[serde(default)]
    pub rp_filter: RpFilter,
}

/// Reverse-path filter (Documentation/networking/ip-sysctl.rst, `rp_filter`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RpFilter {
    /// Loose (2), or 0 where no default route exists; recorded and restored.
    #[default]
    Auto,
    /// 2
    Loose,
    /// 1
    Strict,
    /// Hands off.
    Unmanaged,
}

/// What became of a `VRFAttachment` on the nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VRFAttachmentStatus {
    /// Generation that the status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that the selector matches.
    pub matched_nodes: u32,
    /// Nodes on which all of it is in force.
    pub ready_nodes: u32,
    /// Nodes on which it is not, 10 at most.
    #[schemars(length(max = 10))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub failed_nodes: Vec<FailedNode>,
    /// Conditions: Accepted, Conflicted, Programmed, Ready.
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
