//! Words for what is learned.

use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::Slot;
use crate::model::{Hop, Special};

/// A nexthop with its weight, 1 to 65536.
pub type WeightedHop = (Hop, u32);

/// The nexthops of a route, in a canonical order.
pub type HopSet = SmallVec<[WeightedHop; 2]>;

/// Counts FPM connections of this process; wraps after 65536 reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Generation(pub u16);

/// Where a learned route leads: small enough to keep one for each of a million routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LearnedTarget {
    /// By FRR's nexthop id, of the route's generation.
    Nexthop(u32),
    /// By a detailed entry (inline nexthops, MTU, preferred source): index into the interned ones.
    Detail(u32),
    /// Ends the lookup.
    Special(Special),
}

/// What zebra was told about a route (`fpm.offloadAck`). Kept with the route, where a byte is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Answer {
    /// Nothing: it was announced, and nothing came of that yet.
    #[default]
    Owed,
    /// Nothing: it was looked at since, but its programming waits for something.
    Pending,
    /// `RTM_F_OFFLOAD`
    Done,
    /// `RTM_F_OFFLOAD_FAILED`
    Failed,
}

/// A learned route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// Where it leads.
    pub target: LearnedTarget,
    /// `rtm_protocol`
    pub protocol: u8,
    /// When it was last announced.
    pub generation: Generation,
    /// What zebra was told about this announcement.
    pub answer: Answer,
}

/// The rare attributes of a route, and nexthops that came within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Detail {
    /// Inline nexthops, or an id.
    pub nexthops: DetailNexthops,
    /// `RTAX_MTU`, bytes.
    pub mtu: Option<u32>,
    /// `RTA_PREFSRC`
    pub preferred_source: Option<IpAddr>,
}

/// How a [`Detail`] names its nexthops.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DetailNexthops {
    /// By FRR's id.
    Id(u32),
    /// Inline.
    Inline(HopSet),
    /// With an encapsulation (MPLS, SRv6, VXLAN) that Backtrail does not program.
    Encapsulated,
}

/// A resolved target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// These nexthops; never empty.
    Hops(HopSet),
    /// Ends the lookup.
    Special(Special),
    /// Cannot be programmed (yet): why.
    Unresolved(Unresolved),
}

/// Why a learned route has no usable nexthops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unresolved {
    /// FRR never announced this nexthop id.
    NexthopUnknown(u32),
    /// The route or group lists no nexthop.
    Empty,
    /// An encapsulation that is not programmed.
    Encapsulated,
}

/// What an update changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This route came or changed.
    Route(Slot),
    /// This route was withdrawn.
    Gone {
        /// FPM table.
        table: u32,
        /// Destination.
        prefix: IpNet,
        /// Its record, where that has an entry.
        slot: Option<Slot>,
    },
    /// This nexthop object of the current generation changed; routes by it and by groups with it are affected.
    Nexthop(u32),
    /// A route that is not kept: with a source prefix, of a type that forwards to nowhere, or beyond the limit.
    Ignored,
    /// Nothing that concerns us.
    None,
}

/// Updates that were understood but are not routes to program, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Connected and kernel routes (protocol 2): FRR is not a reliable source for them (fpm.md rule 8).
    pub kernel: u64,
    /// IPv6 routes with a source prefix.
    pub source_specific: u64,
    /// Route types that we do not program (local, multicast, ...).
    pub other_type: u64,
    /// MPLS label entries, neighbours, unknown messages.
    pub other_message: u64,
}
