//! The maps: names, keys and values.
//!
//! All types are `repr(C)` without hidden padding, so that keys compare as bytes. Numbers are in host byte order,
//! addresses are byte arrays in network order (`bpftool map dump` then prints both as people write them).

mod counters;
mod flow;
mod iface;
mod key;
mod path;
mod recent;

pub use self::counters::{
    Counters, EVENT_BYTES, EVENT_LEARNED, EVENT_PATH_DOWN, EVENT_STEERED, EVENT_UNPARSABLE, Event,
    EventBudget,
};
pub use self::flow::{
    FLOW_ADOPTED, FLOW_GATEWAY, FLOW_TRANSIT, Flow, Flow6, Fragment, FragmentKey, NEXTHOP_MAC, NEXTHOP_NONE,
    NEXTHOP_V4, NEXTHOP_V6, Nexthop, PATH_NODE,
};
pub use self::iface::{
    IFACE_CHECK_MAC, IFACE_HAS_EXCEPT, IFACE_HAS_VIPS, IFACE_LEARN, IFACE_PROBES, IFACE_TAGGED,
    IFACE_TRANSIT, IFACES, Iface, MacKey, NEVER_EXCEPTED, NEVER_PROTECTED, PROTO_ALL, PROTO_ICMP, PROTO_SCTP,
    PROTO_TCP, PROTO_UDP, PortPrefix, Prefix4, Prefix6, iface_index,
};
pub(crate) use self::key::words;
pub use self::key::{FlowDigest6, FlowKey4, FlowKey6, SECRET, condense};
pub use self::path::{
    PATH_AUTO, PATH_DOWN, PATH_FLAG_DROP, PATH_FLAG_SHADOW, PATH_GATEWAY, PATH_MAC, PATH_ROUTE, PATH_UP, Path,
};
pub use self::recent::{RECENT, RECENT_GATES, Recent, openers, recent_index};

/// Version of everything in this module, held by `rp_schema[0]`. Pinned maps of another version are not reused.
pub const SCHEMA: u32 = 2;

/// Names of the maps, which are also the names of their pins.
pub mod names {
    /// LRU hash [`FlowKey4`](super::FlowKey4) → [`Flow`](super::Flow).
    pub const FLOWS: &str = "rp_flows";
    /// LRU hash [`FlowDigest6`](super::FlowDigest6) → [`Flow6`](super::Flow6).
    pub const FLOWS6: &str = "rp_flows6";
    /// As `rp_flows`, for flows that a client has opened and not yet confirmed: see [`openers`](super::openers).
    pub const OPENERS: &str = "rp_openers";
    /// As `rp_flows6`, for flows that a client has opened and not yet confirmed.
    pub const OPENERS6: &str = "rp_openers6";
    /// Array of [`PATHS`](super::PATHS) [`Path`](super::Path), indexed by path id.
    pub const PATHS: &str = "rp_paths";
    /// Per-CPU array of [`SLOTS`](super::SLOTS) [`Counters`](super::Counters), indexed by interface slot.
    pub const COUNTERS: &str = "rp_counters";
    /// Array of [`IFACES`](super::IFACES) [`Iface`](super::Iface): see [`iface_index`](super::iface_index).
    pub const IFACES: &str = "rp_ifaces";
    /// Hash [`MacKey`](super::MacKey) → path id (`u32`).
    pub const MACS: &str = "rp_macs";
    /// LPM trie, data [`Prefix4`](super::Prefix4): service addresses → 1 (`u32`).
    pub const VIPS: &str = "rp_vips";
    /// LPM trie, data [`Prefix6`](super::Prefix6): service addresses → 1 (`u32`).
    pub const VIPS6: &str = "rp_vips6";
    /// LPM trie, data [`Prefix4`](super::Prefix4): clients that are never learned → `NEVER_*` (`u32`).
    pub const NEVER: &str = "rp_never";
    /// LPM trie, data [`Prefix6`](super::Prefix6): clients that are never learned → `NEVER_*` (`u32`).
    pub const NEVER6: &str = "rp_never6";
    /// LPM trie, data [`PortPrefix`](super::PortPrefix): service ports that are never learned → 1 (`u32`).
    pub const PORTS: &str = "rp_ports";
    /// Array of [`RECENT`](super::RECENT) [`Recent`](super::Recent); the programs' own.
    pub const RECENT: &str = "rp_recent";
    /// LRU hash [`FragmentKey`](super::FragmentKey) → [`Fragment`](super::Fragment); the programs' own.
    pub const FRAGMENTS: &str = "rp_fragments";
    /// Ring buffer of [`EVENT_BYTES`](super::EVENT_BYTES): [`Event`](super::Event).
    pub const EVENTS: &str = "rp_events";
    /// Per-CPU array of one [`EventBudget`](super::EventBudget).
    pub const EVENT_BUDGET: &str = "rp_event_budget";
    /// Array of one [`Globals`](super::Globals).
    pub const GLOBALS: &str = "rp_globals";
    /// Array of one `u32`: [`SCHEMA`](super::SCHEMA), written by the loader.
    pub const SCHEMA: &str = "rp_schema";

    /// All of them.
    pub const ALL: [&str; 19] = [
        FLOWS,
        FLOWS6,
        OPENERS,
        OPENERS6,
        RECENT,
        PATHS,
        COUNTERS,
        IFACES,
        MACS,
        VIPS,
        VIPS6,
        NEVER,
        NEVER6,
        PORTS,
        FRAGMENTS,
        EVENTS,
        EVENT_BUDGET,
        GLOBALS,
        SCHEMA,
    ];
}

/// Names of the programs (`SchedClassifier`).
pub mod programs {
    /// tc ingress of listed interfaces: learns.
    pub const INGRESS: &str = "rp_ingress";
    /// tc egress of every interface that a reply could leave by: steers.
    pub const EGRESS: &str = "rp_egress";
    /// tc egress of the sink device: steers, follows the FIB, or drops.
    pub const SINK: &str = "rp_sink";
}

/// Entries of `rp_paths`. Id 0 means "opened by the node" and is never a path.
pub const PATHS: u32 = 4096;
/// Entries of `rp_counters`. Slot 0 belongs to no interface: it is the group "all interfaces" of the tries.
pub const SLOTS: u32 = 256;
/// Entries of `rp_flows` and `rp_flows6` unless the loader says otherwise.
pub const FLOWS: u32 = 262_144;

/// Name of the programs' global (`u32`, 8 unless the loader overrides it) that makes a gate of jiffies: see [`gate_shift`].
pub const GATE_SHIFT: &str = "GATE_SHIFT";

/// The shift by which jiffies become gates, periods of about a second (0.85 to 1.28 s) within which a flow's record is
/// written at most once. Jiffies are one load for a program, any clock is a call that costs half a lookup. `hz` is
/// 1,000,000,000 over the resolution of `CLOCK_MONOTONIC_COARSE`.
#[must_use]
pub const fn gate_shift(hz: u32) -> u32 {
    match hz {
        0..150 => 7,
        150..400 => 8,
        _ => 10,
    }
}

/// The unit of all times in the maps, from the coarse monotonic clock in nanoseconds: 2^30 ns (1.07 s) each.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "2^32 ticks are 146 years")]
pub const fn ticks(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// Settings of all interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Globals {
    /// Bumped after the kernel acknowledged a change of routes or neighbours: cached nexthops are void.
    pub generation: u32,
    /// `FEATURE_*` of this kernel.
    pub features: u32,
    /// [`ticks`] after which a TCP or SCTP flow is as good as unknown; 0: never.
    pub tcp_idle: u32,
    /// The same for UDP and ICMP.
    pub udp_idle: u32,
    /// Events that each CPU may report in a gate; 0: nobody listens.
    pub events: u32,
    /// Random, drawn once for the IPv6 table.
    pub secret: [u32; SECRET],
}

/// [`Globals::features`]: `bpf_fib_lookup` knows `BPF_FIB_LOOKUP_TBID` (6.5, and some 6.1). Without it the lookup
/// follows the rules, where an `oif IF lookup T` rule leads to the interface's table.
pub const FEATURE_TBID: u32 = 1;

const _: () = {
    assert!(size_of::<Globals>() == 52);
};
