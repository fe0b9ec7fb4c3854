//! Which way a packet takes, and which object made it so: rule → table → route → nexthop → program.
//!
//! Pure: a function of rules, the routes that cover the addresses, links, intent and steering plan. What it finds is
//! held against the kernel's own answer ([`check`]); where the two differ the explanation says so, and does not guess.

mod check;
mod owner;
mod program;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::check::{KernelAnswer, check};
pub use self::owner::{cause, rule_owner};
pub use self::program::{Known, Redirect, egress, ingress};
pub use self::walk::{End, Walk, walk};
use crate::intent::types::Intent;
use crate::model::{Family, KernelRoute, NexthopBody, NexthopId, RouteKey, Rule};
use crate::plan::Links;
use crate::status::rows::RouteRow;

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// A packet of this node to an address.
    Address(IpAddr),
    /// What becomes of a prefix; its way is that of its first address.
    Prefix(IpNet),
    /// A flow, in both directions.
    Flow(Flow),
}

/// A flow as its first packet has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number: 1, 6, 17, 58 or 132.
    pub protocol: u8,
    /// Where it comes from. For echo requests the port is their id.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
}

/// Names of protocols in a [`Target`].
const PROTOCOLS: [(&str, u8); 5] = [("tcp", 6), ("udp", 17), ("sctp", 132), ("icmp", 1), ("icmpv6", 58)];

/// Why a target is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither an address, nor a prefix, nor a flow: write 10.0.0.1, 10.0.0.0/8, or \
     `tcp 203.0.113.9:40000 198.51.100.10:443` (IPv6 as [2001:db8::1]:443)"
)]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TargetError(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            [word] => word
                .parse()
                .map(Self::Address)
                .or_else(|_| word.parse().map(|prefix: IpNet| Self::Prefix(prefix.trunc())))
                .map_err(|_| wrong()),
            [protocol, source, destination] => {
                let known = PROTOCOLS.iter().find(|(name, _)| protocol.eq_ignore_ascii_case(name));
                let (_, protocol) = known.ok_or_else(wrong)?;
                let echo = matches!(protocol, 1 | 58);
                let end = |word: &str| match word.parse::<IpAddr>() {
                    Ok(address) if echo => Ok(SocketAddr::new(address, 0)),
                    _ => word.parse::<SocketAddr>(),
                };
                let flow = Flow {
                    protocol: *protocol,
                    source: end(source).map_err(|_| wrong())?,
                    destination: end(destination).map_err(|_| wrong())?,
                };
                let one_family = flow.source.is_ipv4() == flow.destination.is_ipv4();
                one_family.then_some(Self::Flow(flow)).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Flow(Flow { protocol, source, destination }) => {
                let name = PROTOCOLS.iter().find(|(_, number)| number == protocol);
                write!(f, "{} {source} {destination}", name.map_or("?", |(name, _)| name))
            }
        }
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// A packet, as rules and tables look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// `None`: not chosen yet, as for a socket that is not bound.
    pub source: Option<IpAddr>,
    /// Where to.
    pub destination: IpAddr,
    /// IP protocol, source port, destination port.
    pub flow: Option<(u8, u16, u16)>,
    /// The interface that it comes in by; `None`: this node sends it.
    pub iif: Option<u32>,
}

impl Packet {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of_addr(&self.destination)
    }
}

/// What the way of a packet depends on.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// All rules, in the kernel's order.
    pub rules: &'a [Rule],
    /// By table: at least the routes that cover the addresses in question.
    pub routes: &'a BTreeMap<u32, Vec<KernelRoute>>,
    /// Nexthop objects.
    pub nexthops: &'a BTreeMap<NexthopId, NexthopBody>,
    /// Interfaces.
    pub links: &'a Links,
    /// What the manifests ask for.
    pub intent: &'a Intent,
    /// Objects behind our routes.
    pub owners: &'a BTreeMap<RouteKey, String>,
}

impl World<'_> {
    /// The name of an interface, or `ifN`.
    #[must_use]
    pub fn name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("if{ifindex}"), |link| link.name.clone())
    }

    /// The interface that has the address, in the table of its VRF device or, with `None`, in any.
    #[must_use]
    pub fn holder(&self, address: IpAddr) -> Option<u32> {
        let loopback = address.is_loopback();
        let holds = |link: &&crate::model::Link| {
            link.addresses.iter().any(|it| {
                it.net.addr() == address
                    || (loopback && it.net.addr().is_loopback() && it.net.contains(&address))
            })
        };
        self.links.values().find(holds).map(|link| link.ifindex)
    }
}

/// The answer to [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked.
    pub target: Target,
    /// Whether the kernel answers as explained, in every direction.
    pub consistent: bool,
    /// The way there and, for a flow, the way back.
    pub directions: Vec<Direction>,
    /// What Backtrail learned or programmed that covers the target, most specific first.
    pub routes: Vec<RouteFact>,
}

/// A route that covers the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteFact {
    /// As `backtrail routes` shows it.
    #[serde(flatten)]
    pub route: RouteRow,
    /// Why it is not programmed: the field of the object that decides; omitted where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Direction {
    /// `forward` or `reply`.
    pub direction: Way,
    /// Source address and port; omitted where the kernel chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Destination address and port.
    pub destination: String,
    /// The interface that it comes in by; omitted for what this node sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// How that interface is known: `given`, `flowTable` or `assumed` (the route back leads there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iif_from: Option<IifFrom>,
    /// What decides, in the order in which it is looked at.
    pub steps: Vec<Step>,
    /// What becomes of the packet in the end, in words.
    pub verdict: String,
    /// What the kernel answered.
    pub kernel: KernelAnswer,
    /// Whether it answered as explained.
    pub agrees: bool,
    /// How it differs; omitted where it agrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
}

/// Which direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// As asked.
    Forward,
    /// The answers to it.
    Reply,
}

/// How the arrival interface is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IifFrom {
    /// The question names it.
    Given,
    /// The flow table remembers it.
    FlowTable,
    /// The route back to the source leads there.
    Assumed,
}

/// Something that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What it is.
    pub kind: StepKind,
    /// As `ip` prints it; for a program its interface and direction.
    pub object: String,
    /// What it does with the packet.
    pub outcome: String,
    /// The manifest behind it: `RouteImport/billing`; omitted for what is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Who made what is not ours: the name, or number, of its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<String>,
}

/// Kinds of [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// A policy rule that matches.
    Rule,
    /// The route that decides.
    Route,
    /// One of its nexthops.
    Nexthop,
    /// The packet is for this node.
    Local,
    /// What a tc program does with it.
    Program,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// Who made a kernel object, by its protocol number (include/uapi/linux/rtnetlink.h, `RTPROT_*`; FRR `zebra/rt_netlink.h`).
#[must_use]
pub fn protocol_name(protocol: u8) -> String {
    let name = match protocol {
        0 => "unspec",
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        14 => "xorp",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        99 => "openr",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        190 => "ripng",
        191 => "nhrp",
        192 => "eigrp",
        196 => "frr-static",
        other => return other.to_string(),
    };
    name.to_owned()
}
