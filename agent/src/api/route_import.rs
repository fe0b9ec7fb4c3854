//! `RouteImport`: which of FRR's routes go where.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::VRFRef;
use super::text::{Address, Cidr, InterfacePattern, Span, TableRef};
use super::vrf_attachment::is_empty_selector;

/// Which of FRR's routes are used, and where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "backtrail.dev",
    version = "v1alpha1",
    kind = "RouteImport",
    shortname = "ri",
    category = "backtrail",
    status = "RouteImportStatus",
    derive = "PartialEq",
    doc = "Which of FRR's routes are used, and where they go, on the nodes that match.",
    printcolumn(name = "From", type_ = "integer", json_path = ".spec.from.table"),
    printcolumn(name = "VRF", type_ = "string", json_path = ".spec.into.vrf.name"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.allowed.mode"),
    printcolumn(name = "Default", type_ = "string", json_path = ".spec.defaultRoute"),
    printcolumn(name = "Accepted", type_ = "integer", json_path = ".status.routes.accepted"),
    printcolumn(name = "Programmed", type_ = "integer", json_path = ".status.routes.programmed"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.action == 'Observe' || !has(self.into.table) || string(self.into.table) != 'Main' || self.from.table != 254").message("into Main from table 254 writes into the table that the routes come from: set action: Observe"),
    validation = Rule::new("self.action == 'Observe' || !has(self.into.table) || string(self.into.table) != string(self.from.table)").message("into.table equals from.table: set action: Observe"),
    validation = Rule::new("self.action == 'Observe' || !has(self.into.vrf) || self.into.vrf.table != self.from.table").message("into.vrf.table equals from.table: set action: Observe"),
    validation = Rule::new("self.defaultRoute != 'Reject' || !has(self.allowed.prefixes) || self.allowed.prefixes.all(p, !(p.prefix in ['0.0.0.0/0', '::/0']) || has(p.ge) || has(p.le))").message("allowed.prefixes holds the default route: set defaultRoute to Accept or Backup, or give the prefix ge or le")
)]
pub struct RouteImportSpec {
    /// Nodes on which it is in force; empty: all.
    #[serde(default, skip_serializing_if = "is_empty_selector")]
    pub node_selector: LabelSelector,
    /// Which of FRR's routes, as FPM labels them.
    pub from: ImportSource,
    /// Prefixes that may come in.
    pub allowed: Allowed,
    /// What happens to a learned default route (/0, and a pair of /1). DataplaneConfig's guardrails have the last word.
    #[serde(default)]
    pub default_route: DefaultRoute,
    /// Prefixes at most.
    #[serde(default = "RouteImportSpec::default_max_routes")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_routes: u64,
    /// What happens at maxRoutes. RejectNew: new prefixes are rejected until there is room. Freeze: no new prefix until the object is edited.
    #[serde(default)]
    pub on_limit: OnLimit,
    /// Where the routes go: a VRF, Main, or a table.
    pub into: ImportTarget,
    /// Program: write the routes. Observe: write nothing, check what zebra installs there.
    #[serde(default)]
    pub action: Action,
    /// Metric of the routes, in both families.
    #[serde(default = "RouteImportSpec::default_metric")]
    #[schemars(range(min = 1, max = 4_294_967_293_u64))]
    pub metric: u32,
    /// Source address that the node uses towards these routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_source: Option<Address>,
    /// How many nexthops are used. Without it: {mode: Ecmp, maxPaths: 16, hashPolicy: Unmanaged}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multipath: Option<Multipath>,
    /// What happens to the routes when FRR goes away. Without it: {policy: Retain, timeout: 120s}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_feed_loss: Option<OnFeedLoss>,
}

impl RouteImportSpec {
    fn default_max_routes() -> u64 {
        10_000
    }

    fn default_metric() -> u32 {
        20
    }
}

/// Which of FRR's routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportSource {
    /// The table that FPM labels the routes with: zebra's -R table (5000), a VRF's table, or 254 (main).
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    #[x_kube(validation = Rule::new("!(self in [253, 255])").message("tables 253 and 255 belong to the kernel: FRR has no routes there"))]
    pub table: u32,
    /// Only nexthops that leave by these interfaces (names or globs); a route left with none is not imported. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub interfaces: Vec<InterfacePattern>,
    /// Only routes of these protocols. Empty, or Any: all of them. Connected routes are never imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub protocols: Vec<RouteProtocol>,
}

/// Routing protocol, by the `rtm_protocol` that zebra gives its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum RouteProtocol {
    /// 186
    BGP,
    /// 188
    OSPF,
    /// 187
    ISIS,
    /// 196
    Static,
    /// 189, and 190 for RIPng
    RIP,
    /// All.
    Any,
}

/// Prefixes that may come in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == 'All' ? (!has(self.prefixes) || size(self.prefixes) == 0) : (has(self.prefixes) && size(self.prefixes) > 0)").message("prefixes must be given with mode Filtered, and only then"))]
pub struct Allowed {
    /// All: any prefix. Filtered: the prefixes listed.
    #[serde(default)]
    pub mode: AllowedMode,
    /// A route comes in when one of these matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub prefixes: Vec<PrefixSelector>,
}

/// Whether a filter applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum AllowedMode {
    /// What is listed.
    #[default]
    Filtered,
    /// Any prefix.
    All,
}

/// A prefix-list entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.ge) || !has(self.le) || self.ge <= self.le").message("ge must not be greater than le"),
    validation = Rule::new("!has(self.ge) || !isCIDR(self.prefix) || cidr(self.prefix).prefixLength() <= self.ge").message("ge must not be shorter than the prefix"),
    validation = Rule::new("!has(self.le) || !isCIDR(self.prefix) || cidr(self.prefix).prefixLength() <= self.le").message("le must not be shorter than the prefix"),
    validation = Rule::new("!isCIDR(self.prefix) || cidr(self.prefix).ip().family() == 6 || ((!has(self.ge) || self.ge <= 32) && (!has(self.le) || self.le <= 32))").message("ge and le of an IPv4 prefix are at most 32")
)]
pub struct PrefixSelector {
    /// The route's prefix equals it or lies inside it.
    pub prefix: Cidr,
    /// Shortest prefix length that matches. Without ge and le: the prefix alone.
    #[schemars(range(min = 0, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ge: Option<u8>,
    /// Longest prefix length that matches. With ge alone: host routes too.
    #[schemars(range(min = 0, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub le: Option<u8>,
}

/// What happens to a learned default route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DefaultRoute {
    /// Not imported.
    #[default]
    Reject,
    /// Imported at a metric behind all others (4294967294).
    Backup,
    /// Imported like any route.
    Accept,
}

/// What happens at `maxRoutes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum OnLimit {
    /// No new prefix any more until the object is edited.
    Freeze,
    /// New prefixes are rejected until there is room again.
    #[default]
    RejectNew,
}

/// Where routes go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.vrf) != has(self.table)").message("give vrf or table, one of the two"),
    validation = Rule::new("!has(self.table) || string(self.table) == 'Main' || (string(self.table).matches('^[1-9][0-9]{0,9}$') && int(string(self.table)) <= 4294967295)").message("table must be Main or a number from 1 to 4294967295"),
    validation = Rule::new("!has(self.table) || !(string(self.table) in ['0', '253', '254', '255'])").message("tables 0 and 253 to 255 belong to the kernel: for main write table: Main")
)]
pub struct ImportTarget {
    /// A VRF, by name and table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vrf: Option<VRFRef>,
    /// Main, or a table by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableRef>,
}

/// Whether routes are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Verify only.
    Observe,
    /// Write.
    #[default]
    Program,
}

/// How many nexthops are used, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Multipath {
    /// Ecmp: all nexthops of the best route. Single: the first one.
    #[serde(default)]
    pub mode: MultipathMode,
    /// Nexthops at most.
    #[serde(default = "Multipath::default_max_paths")]
    #[schemars(range(min = 1, max = 256))]
    pub max_paths: u16,
    /// What the kernel hashes to choose a nexthop (net.ipv4 and net.ipv6 fib_multipath_hash_policy; one for the whole node). Unmanaged: hands off.
    #[serde(default)]
    pub hash_policy: HashPolicy,
    /// Resilient nexthop groups: flows keep their nexthop when another one comes or goes (Linux 5.13).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resilient: Option<Resilient>,
}

impl Multipath {
    fn default_max_paths() -> u16 {
        16
    }
}

impl Default for Multipath {
    fn default() -> Self {
        Self {
            mode: MultipathMode::default(),
            max_paths: Self::default_max_paths(),
            hash_policy: HashPolicy::default(),
            resilient: None,
        }
    }
}

/// One nexthop or several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MultipathMode {
    /// All of them.
    #[default]
    Ecmp,
    /// The first one.
    Single,
}

/// `fib_multipath_hash_policy` (Documentation/networking/ip-sysctl.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HashPolicy {
    /// Hands off.
    #[default]
    Unmanaged,
    /// 0: addresses.
    L3,
    /// 1: addresses, protocol and ports.
    L4,
    /// 2: addresses of the inner packet of a tunnel.
    Inner,
}

/// Resilient nexthop group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resilient {
    /// Buckets of the group.
    #[serde(default = "Resilient::default_buckets")]
    #[schemars(range(min = 2, max = 65535))]
    pub buckets: u16,
    /// A bucket without traffic for so long may move to another nexthop.
    #[serde(default = "Resilient::default_idle_timer")]
    pub idle_timer: Span,
}

impl Resilient {
    fn default_buckets() -> u16 {
        128
    }

    fn default_idle_timer() -> Span {
        Span::from_secs(120)
    }
}

/// What happens when FRR goes away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OnFeedLoss {
    /// Retain: routes stay until the timeout. Withdraw: routes go at the disconnect.
    #[serde(default)]
    pub policy: FeedLossPolicy,
    /// How long Retain keeps the routes after the disconnect; 0s: for ever.
    #[serde(default = "OnFeedLoss::default_timeout")]
    pub timeout: Span,
}

impl OnFeedLoss {
    fn default_timeout() -> Span {
        Span::from_secs(120)
    }
}

impl Default for OnFeedLoss {
    fn default() -> Self {
        Self { policy: FeedLossPolicy::default(), timeout: Self::default_timeout() }
    }
}

/// `onFeedLoss.policy`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum FeedLossPolicy {
    /// Routes go at the disconnect.
    Withdraw,
    /// Routes stay until the timeout.
    #[default]
    Retain,
}

/// What became of a `RouteImport` on the nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteImportStatus {
    /// Generation that the status speaks about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that the selector matches.
    pub matched_nodes: u32,
    /// Nodes on which all accepted routes are in the kernel.
    pub programmed_nodes: u32,
    /// Routes, over all nodes.
    pub routes: ImportTotals,
    /// Conditions: Accepted, Conflicted, Programmed, LimitReached, Ready.
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Routes of an import, over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImportTotals {
    /// Learned from FRR.
    pub received: u64,
    /// Let in by the filters.
    pub accepted: u64,
    /// Kept out, by filter, guardrail or limit.
    pub rejected: u64,
    /// In the kernel.
    pub programmed: u64,
}
