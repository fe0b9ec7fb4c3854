//! `NodeRoutingState`: what a node really does. Written by its agent alone; counts and bounded samples, never a full table.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Entries at most in `conflicts`, in `rejected` and in the samples of `fibDrift`.
pub const MAX_SAMPLES: usize = 20;
/// Entries at most in `objects`.
pub const MAX_OBJECTS: usize = 256;

/// What a node really does, written by its agent alone. It has no spec.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "backtrail.dev",
    version = "v1alpha1",
    kind = "NodeRoutingState",
    shortname = "nrs",
    category = "backtrail",
    status = "NodeRoutingStateStatus",
    derive = "PartialEq",
    no_spec,
    doc = "What a node really does: written by its agent alone. Its name is the node's.",
    printcolumn(name = "FPM", type_ = "string", json_path = ".status.fpm.state"),
    printcolumn(name = "Sync", type_ = "boolean", json_path = ".status.fpm.initialSyncComplete"),
    printcolumn(name = "Routes", type_ = "integer", json_path = ".status.routes.programmed"),
    printcolumn(name = "VRFs", type_ = "string", json_path = ".status.vrfs[*].name"),
    printcolumn(name = "Steering", type_ = "string", json_path = ".status.returnPath.mode"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Drift",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="FIBConsistent")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.agent.version", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NodeRoutingStateSpec {}

/// What a node really does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeRoutingStateStatus {
    /// The agent that wrote this.
    pub agent: AgentInfo,
    /// Whether what is decided is written.
    pub apply: ApplyStatus,
    /// Hash of the merged intent: nodes with the same hash are asked to do the same.
    pub config_hash: String,
    /// The session with FRR.
    pub fpm: FpmStatus,
    /// Routes of all imports.
    pub routes: RouteCounts,
    /// VRFs of this node.
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub vrfs: Vec<VrfStatus>,
    /// Route imports of this node.
    #[schemars(length(max = 256))]
    pub imports: Vec<ImportStatus>,
    /// Steering of replies.
    pub return_path: ReturnPathState,
    /// Manifests that were read for this node, and what became of them; those that are not in force first.
    #[schemars(length(max = 256))]
    pub objects: Vec<ObjectStatus>,
    /// Items that were left out because two objects disagree.
    #[schemars(length(max = 20))]
    pub conflicts: Vec<ConflictStatus>,
    /// Samples of routes that were learned and not programmed, with the reason. The counts are in `routes.rejected`.
    #[schemars(length(max = 20))]
    pub rejected: Vec<RejectedRoute>,
    /// Differences between what should be in the kernel and what is there.
    pub fib_drift: FibDrift,
    /// Conditions: Ready, Enforced, FPMConnected, Synchronized, Programmed, DataplaneAttached, GuardrailTripped, FIBConsistent, ForeignInterference, Degraded.
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Whether what is decided is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ApplyStatus {
    /// Whether it is.
    pub mode: ApplyState,
    /// What keeps it from being written: `backtrail pause`, `backtrail.dev/paused` or `apply.mode`; empty for nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why, in the words of whoever paused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When `backtrail pause` was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What would change if it were written: routes, rules, devices, sysctls and programs. `backtrail plan` lists them.
    /// Counted while nothing is written. Nexthop objects follow the routes, and are not counted beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_change: Option<ChangeCounts>,
}

/// Whether what is decided is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApplyState {
    /// It is.
    #[default]
    Enforce,
    /// `apply.mode: DryRun`: it is computed and shown.
    DryRun,
    /// `backtrail pause`, or the annotation `backtrail.dev/paused`.
    Paused,
}

/// Changes of kernel objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ChangeCounts {
    /// To be made.
    pub add: u64,
    /// To be changed in place.
    pub replace: u64,
    /// To be removed.
    pub delete: u64,
}

impl ChangeCounts {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.add + self.replace + self.delete
    }
}

/// The agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentInfo {
    /// Version of Backtrail.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// When this agent process started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the agent last wrote this object: at least every eleven minutes. Older: the agent does not run, or cannot reach the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Time>,
    /// Release of the kernel.
    pub kernel: String,
    /// What this kernel offers, such as `tcx` and `resilientNHG`.
    pub features: BTreeMap<String, bool>,
}

/// The session with FRR.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FpmStatus {
    /// State of the session.
    pub state: FpmState,
    /// Address that FPM listens on.
    pub listen: String,
    /// Counts sessions since the agent started; 0: none yet.
    pub epoch: u64,
    /// Address of zebra's end of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// When the last message came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message: Option<Time>,
    /// Whether the replay of this session has ended (FPM has no marker: the session was quiet, or the timeout passed).
    pub initial_sync_complete: bool,
    /// Routes that zebra has announced and not withdrawn.
    pub routes: u64,
    /// Nexthop objects and groups that zebra has announced and not withdrawn.
    pub nexthops: u64,
    /// Sessions that were closed because of a bad frame, since the agent started.
    pub malformed: u64,
}

/// State of the session with FRR.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FpmState {
    /// The agent does not listen: see the condition FPMConnected.
    #[default]
    NotListening,
    /// It listens, and zebra has never connected.
    NeverConnected,
    /// A session is up.
    Connected,
    /// The session was lost.
    Lost,
}

/// Numbers of routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteCounts {
    /// Learned from FRR.
    pub learned: u64,
    /// Let in by filters, guardrails and limits.
    pub accepted: u64,
    /// Kept out, by reason, such as `Filtered`, `DefaultRouteRejected`, `ProtectedPrefix` and `MaxRoutes`.
    pub rejected: BTreeMap<String, u64>,
    /// In the kernel, acknowledged.
    pub programmed: u64,
    /// Refused by the kernel, or waiting for a link.
    pub failed: u64,
    /// Kept though FRR no longer confirms them.
    pub stale: u64,
    /// Changes that wait for the kernel, or for being looked at: during a long load, how much is still to go.
    pub pending: u64,
}

/// A VRF of this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VrfStatus {
    /// Name.
    pub name: String,
    /// Kernel routing table.
    pub table: u32,
    /// TableOnly, Adopt or Create.
    pub mode: String,
    /// Strict or FallbackToMain.
    pub isolation: String,
    /// Index of the VRF device, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_index: Option<u32>,
    /// Its interfaces.
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub interfaces: Vec<VrfInterfaceStatus>,
    /// Its static gateways.
    #[schemars(length(max = 64))]
    pub gateways: Vec<VrfGatewayStatus>,
    /// Its routes.
    pub routes: RouteCounts,
    /// Objects that ask for it.
    #[schemars(length(max = 64))]
    pub sources: Vec<String>,
    /// Conditions: Ready, FIBConsistent.
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// An interface of a VRF.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VrfInterfaceStatus {
    /// Name.
    pub name: String,
    /// Up, Down (no carrier, or not set up) or Missing.
    pub state: String,
    /// Index, where it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// MTU in bytes, where it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A static gateway of a VRF.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VrfGatewayStatus {
    /// Address.
    pub address: String,
    /// Interface that leads to it.
    pub interface: String,
    /// Whether its neighbour entry is valid.
    pub reachable: bool,
}

/// A route import of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportStatus {
    /// Objects that ask for it.
    #[schemars(length(max = 64))]
    pub owners: Vec<String>,
    /// FPM table that the routes come from.
    pub from: u32,
    /// Interfaces that its nexthops are limited to; empty: any.
    #[schemars(length(max = 64))]
    pub interfaces: Vec<String>,
    /// Kernel table that the routes go into.
    pub into: u32,
    /// Name of the VRF, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vrf: Option<String>,
    /// Program or Observe.
    pub action: String,
    /// Its routes.
    pub routes: RouteCounts,
}

/// Steering of replies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReturnPathState {
    /// Off, Shadow, TCRedirect, or Mixed where interfaces differ.
    pub mode: SteeringState,
    /// Interfaces with programs.
    #[schemars(length(max = 256))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub interfaces: Vec<SteeredInterfaceStatus>,
    /// Maps of the programs.
    #[schemars(length(max = 32))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub maps: Vec<MapStatus>,
}

/// Mode over all interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SteeringState {
    /// No ReturnPath is in force.
    #[default]
    Off,
    /// Counts only.
    Shadow,
    /// Steers.
    TCRedirect,
    /// Interfaces differ.
    Mixed,
}

/// An interface with programs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SteeredInterfaceStatus {
    /// Name.
    pub name: String,
    /// Index, where it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// Whether requests that come in by it are remembered (else it has an egress program alone).
    pub learns: bool,
    /// TCRedirect or Shadow, where it learns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Attached, or the reason why not.
    pub state: String,
    /// How programs are attached: tcx or clsact.
    pub hook: String,
    /// The programs.
    #[schemars(length(max = 4))]
    pub programs: Vec<ProgramStatus>,
    /// What the programs counted on this interface.
    pub counters: SteeringCounters,
    /// Gateways that replies are handed to.
    #[schemars(length(max = 32))]
    pub gateways: Vec<SteeringGatewayStatus>,
}

/// An attached program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgramStatus {
    /// ingress or egress.
    pub direction: String,
    /// Id of the program (`bpftool prog show id`).
    pub prog_id: u32,
    /// Id of its link, with tcx.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_id: Option<u32>,
    /// Place in the chain: first, or behind whom.
    pub position: String,
}

/// Counters of the programs on an interface, in packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SteeringCounters {
    /// Flows remembered.
    pub learned: u64,
    /// Replies that leave by the interface of their request anyway.
    pub matched: u64,
    /// Replies that were redirected.
    pub steered: u64,
    /// Replies that Shadow would have redirected.
    pub would_steer: u64,
    /// Replies whose path was down.
    pub path_down: u64,
    /// Packets of flows that are not remembered.
    pub unknown: u64,
    /// Packets of flows that the node opened.
    pub own: u64,
    /// Packets that must never be steered, such as link-local and neighbour discovery.
    pub exempt: u64,
    /// Packets that could not be parsed.
    pub unparsable: u64,
    /// Replies over the MTU of their path.
    pub too_big: u64,
    /// Replies that were dropped, by onPathDown: Drop or in the sink.
    pub dropped: u64,
    /// Flows that did not fit into the table.
    pub table_full: u64,
    /// Packets of upper devices that were left to the lower one.
    pub stacked: u64,
}

/// A gateway that replies are handed to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SteeringGatewayStatus {
    /// Address; empty where only the MAC is known.
    pub address: String,
    /// Its MAC, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Valid, Incomplete or Failed.
    pub state: String,
}

/// A map of the programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MapStatus {
    /// Name: rp_flows, rp_counters, rp_paths, ...
    pub name: String,
    /// Id (`bpftool map show id`).
    pub id: u32,
    /// Where it is pinned.
    pub pin_path: String,
    /// Entries in use, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Entries at most.
    pub max_entries: u32,
}

/// What became of a manifest on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectStatus {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Whether any of it is in force on this node.
    pub accepted: bool,
    /// Valid, Invalid, GuardrailForbids, ...
    pub reason: String,
    /// What is wrong and what to do; empty when valid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Generation of the object that this speaks about; none in files, and where the object cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// An item that was left out because two objects disagree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConflictStatus {
    /// Kind of the object that lost.
    pub kind: String,
    /// Name of the object that lost.
    pub name: String,
    /// The item within it, such as `interfaces[bond0.100]`.
    pub item: String,
    /// Reason, such as VLANMismatch.
    pub reason: String,
    /// The object that won, as `Kind/name`.
    pub winner: String,
    /// What disagrees and what to change.
    pub message: String,
}

/// A route that was learned and not programmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RejectedRoute {
    /// FPM table that it came from.
    pub table: u32,
    /// Its prefix.
    pub prefix: String,
    /// Why.
    pub reason: String,
    /// The import that rejected it, as `Kind/name`; empty where none takes routes from this table.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// Differences between what should be in the kernel and what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FibDrift {
    /// Ours, and not there.
    pub missing: u64,
    /// In our tables, and not ours.
    pub foreign: u64,
    /// Drift that was mended since the agent started.
    pub mended: u64,
    /// Samples.
    #[schemars(length(max = 20))]
    pub sample: Vec<String>,
    /// What others did to what is ours, and who, as far as it shows; the newest first.
    #[schemars(length(max = 20))]
    pub recent: Vec<String>,
}
