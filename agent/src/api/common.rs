//! Parts that several kinds share.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Identity of a VRF. Every object that names a VRF names its table too: so each object stands by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VRFRef {
    /// Name of the VRF, at most 15 characters; `default` is reserved.
    #[schemars(length(min = 1, max = 15))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$')")
            .message("must begin with a letter and hold at most 15 letters, digits, '_', '.' and '-'"),
        validation = Rule::new("self != 'default'").message("'default' is reserved: routes for main go into: {table: Main}")
    )]
    pub name: String,
    /// Kernel routing table of the VRF. 0 and 253 to 255 belong to the kernel.
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    #[x_kube(validation = Rule::new("!(self in [253, 254, 255])").message("tables 253 to 255 belong to the kernel: choose one of DataplaneConfig's spec.ownership.tables (10000 to 10999)"))]
    pub table: u32,
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.to) || self.from <= self.to").message("from must not be greater than to"))]
pub struct PortRange {
    /// First port.
    #[schemars(range(min = 1, max = 65535))]
    pub from: u16,
    /// Last port, inclusive; without it the range is one port.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u16>,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP.
    TCP,
    /// UDP.
    UDP,
    /// SCTP.
    SCTP,
    /// ICMP echo for IPv4, ICMPv6 echo for IPv6.
    ICMP,
}

/// A node on which an object is not in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FailedNode {
    /// Name of the node.
    pub node: String,
    /// Reason, one word.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}
