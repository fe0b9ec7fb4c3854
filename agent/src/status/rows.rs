//! Rows of the lists that commands print. Their JSON is a contract: fields are added, never renamed.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A route, learned or programmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// The table it is (or would be) programmed into; for a route that no import takes, the table it was learned in.
    pub table: u32,
    /// Name of the VRF of that table, where it has one.
    pub vrf: Option<String>,
    /// Destination.
    pub prefix: IpNet,
    /// What became of it.
    pub state: RouteState,
    /// Why: one of the reasons in `docs/cli.md`.
    pub reason: String,
    /// The object that asks for it: `RouteImport/billing`.
    pub owner: Option<String>,
    /// Where it leads; empty for a blackhole and its kind.
    pub nexthops: Vec<NexthopRow>,
    /// Metric in the kernel.
    pub metric: u32,
    /// `rtm_protocol` that zebra gave it (186 is BGP); 201 for what the agent adds by itself.
    pub protocol: u8,
}

/// What became of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteState {
    /// The kernel acknowledged it.
    Programmed,
    /// Wanted, not yet acknowledged, or waiting for a nexthop or an interface.
    Pending,
    /// Programmed, but FRR no longer confirms it: kept as `onFeedLoss` says.
    Stale,
    /// `action: Observe`: compared with the kernel, not written.
    Observed,
    /// The kernel refused it, or somebody else's route is in its place.
    Failed,
    /// The intent does not take it.
    Rejected,
}

impl RouteState {
    /// All, as listed in `docs/cli.md`.
    pub const ALL: [Self; 6] =
        [Self::Programmed, Self::Pending, Self::Stale, Self::Observed, Self::Failed, Self::Rejected];
}

impl std::fmt::Display for RouteState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One way out of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NexthopRow {
    /// Gateway; omitted when the destination is on the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Interface name, or `ifN` for an index that names no interface now.
    pub dev: String,
    /// 1 to 65536.
    pub weight: u32,
}

/// An entry of the flow table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRow {
    /// `TCP`, `UDP`, `SCTP`, `ICMP` or `ICMPv6`.
    pub proto: String,
    /// Client address and port (for echo: the identifier).
    pub client: SocketAddr,
    /// Service address and port (for echo: 0).
    pub service: SocketAddr,
    /// The interface its requests come in on, or the node's flow goes out by.
    pub interface: String,
    /// Seconds since its last packet.
    pub age_seconds: u64,
    /// Replies that were redirected (in `Shadow`: would have been).
    pub steered_packets: u64,
    /// Gateway that replies go to; `None`: the client is on the link, or the path is not resolved yet.
    pub gateway: Option<IpAddr>,
    /// Who opened it.
    pub origin: FlowOrigin,
}

/// Who opened a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowOrigin {
    /// The client: replies are steered.
    Client,
    /// The node, or a pod behind it: never steered.
    Node,
}

/// Something that happened to a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow {
    /// When the agent heard of it (RFC 3339).
    pub time: String,
    /// What happened.
    pub event: EventKind,
    /// `TCP`, `UDP`, `SCTP`, `ICMP` or `ICMPv6`; omitted, as client and service, for a packet without a tuple.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// Client address and port (for echo: the identifier).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// Service address and port (for echo: 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<SocketAddr>,
    /// The interface that the packet was seen on.
    pub interface: String,
    /// The interface that the flow's replies belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replies_by: Option<String>,
    /// For [`EventKind::Unparsable`]: the counter that says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// It was learned.
    Learned,
    /// Its first packet was steered.
    Steered,
    /// A packet of it found its path down.
    PathDown,
    /// A packet has no tuple.
    Unparsable,
}

impl EventKind {
    /// All, as listed in `docs/cli.md`.
    pub const ALL: [Self; 4] = [Self::Learned, Self::Steered, Self::PathDown, Self::Unparsable];
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Learned => "Learned",
            Self::Steered => "Steered",
            Self::PathDown => "PathDown",
            Self::Unparsable => "Unparsable",
        })
    }
}

/// One change that the agent would make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanRow {
    /// What happens to the object.
    pub change: Change,
    /// `route`, `nexthop`, `rule`, `link`, `neighbour`, `sysctl` or `program`.
    pub kind: String,
    /// The object as `ip` would print it, without its content: `10.0.0.0/8 table 10001 metric 20`.
    pub object: String,
    /// Its content now; `None` when it is not there.
    pub before: Option<String>,
    /// Its content afterwards; `None` when it goes.
    pub after: Option<String>,
    /// The object that asks for it, where one does.
    pub owner: Option<String>,
}

/// What happens to a kernel object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It is made.
    Add,
    /// Its content changes in place.
    Replace,
    /// It goes.
    Delete,
}
