//! The maps: names, keys and values.
//!
//! All types are `repr(C)` without hidden padding, so that keys compare as bytes. Numbers are in host byte order,
//! addresses are byte arrays in network order (`bpftool map dump` then prints both as people write them).

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
/// Entries of `rp_ifaces`, a power of two.
pub const IFACES: u32 = 1024;
/// Positions that are tried for one interface.
pub const IFACE_PROBES: u32 = 4;
/// Entries of `rp_flows` and `rp_flows6` unless the loader says otherwise.
pub const FLOWS: u32 = 262_144;

/// Entries of `rp_openers` and `rp_openers6` beside flow tables of so many entries: a quarter.
///
/// A flow stays there until it is confirmed. So openers that nobody follows up, as those of a flood from forged addresses,
/// make room for each other and never cost a flow in use.
#[inline(always)]
#[must_use]
pub const fn openers(flows: u32) -> u32 {
    if flows < 4 * 1024 { 1024 } else { flows / 4 }
}

/// Entries of `rp_recent`, a power of two: a mebibyte.
pub const RECENT: u32 = 1 << 17;
/// Gates for which an opener counts as recent.
pub const RECENT_GATES: u16 = 32;

/// When openers were last seen, four by four: a packet that is in no flow table is looked for among the openers only where
/// there was one. What the gate says is never wrong for long: after 18 hours an old one looks new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Recent {
    /// Gates.
    pub gates: [u16; 4],
}

/// Which gate is that of a flow: of `rp_recent` the entry, and in that the place. By the last four bytes of the client's address.
#[inline(always)]
#[must_use]
pub const fn recent_index((client, client_port, service_port): (u32, u16, u16)) -> (u32, usize) {
    let ports = (client_port as u32) << 16 | service_port as u32;
    // Knuth's multiplier: the high bits are the good ones.
    let hash = (client ^ ports.rotate_left(7)).wrapping_mul(0x9e37_79b1);
    (hash >> (32 - RECENT.trailing_zeros()), (hash >> 13 & 3) as usize)
}

/// Where `ifindex` is in `rp_ifaces`: at the first of the positions for `probe` 0 to [`IFACE_PROBES`] - 1 whose
/// [`Iface::ifindex`] is `ifindex`. The agent inserts at the first free one (`ifindex` 0), and frees by writing
/// zeros. An array, because its lookup is inlined by the JIT where a hash costs a call for every packet.
#[inline(always)]
#[must_use]
pub const fn iface_index(ifindex: u32, probe: u32) -> u32 {
    ifindex.wrapping_add(probe) & (IFACES - 1)
}

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

/// One direction-free name for a flow: who asked (`client`) and whom (`service`), IPv4.
///
/// The node's own flows are held with the remote end as the client. ICMP echo uses its id as the port of the
/// side that sent the request, and 0 for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowKey4 {
    /// Network order.
    pub client: [u8; 4],
    /// Network order.
    pub service: [u8; 4],
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
    /// IP protocol number (6, 17, 132, 1).
    pub proto: u32,
    /// [`Iface::zone`] of the interface it was seen on.
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

/// As [`FlowKey4`], for IPv6 (`proto` 58 for echo). Its table is keyed by its [`digest`](Self::digest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowKey6 {
    /// Network order.
    pub client: [u8; 16],
    /// Network order.
    pub service: [u8; 16],
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
    /// IP protocol number (6, 17, 132, 58).
    pub proto: u32,
    /// [`Iface::zone`] of the interface it was seen on.
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

/// Words of [`Globals::secret`].
pub const SECRET: usize = 8;

/// Key of the IPv6 table: a flow with its addresses condensed, half as long as [`FlowKey6`], for the kernel's hash costs a
/// third of a lookup for every twelve bytes. Two flows with one digest are told apart by the addresses in [`Flow6`]: the
/// later one takes the place of the other, never its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct FlowDigest6 {
    /// The universal hash NH (RFC 4418, 5.2) of client and service: with a secret that nobody knows, two pairs of addresses
    /// agree with a chance of 2^-32 at most, whoever chooses them.
    pub addresses: u64,
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
    /// IP protocol number (6, 17, 132, 58).
    pub proto: u32,
    /// [`Iface::zone`] of the interface it was seen on.
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

impl FlowKey4 {
    /// The words of [`recent_index`].
    #[inline(always)]
    #[must_use]
    pub const fn recent(&self) -> (u32, u16, u16) {
        (u32::from_ne_bytes(self.client), self.client_port, self.service_port)
    }
}

impl FlowKey6 {
    /// The words of [`recent_index`].
    #[inline(always)]
    #[must_use]
    pub const fn recent(&self) -> (u32, u16, u16) {
        (words(&self.client)[3], self.client_port, self.service_port)
    }

    /// Where this flow is in the IPv6 table.
    #[inline(always)]
    #[must_use]
    pub const fn digest(&self, secret: &[u32; SECRET]) -> FlowDigest6 {
        FlowDigest6 {
            addresses: condense(&self.client, &self.service, secret),
            client_port: self.client_port,
            service_port: self.service_port,
            proto: self.proto,
            zone: self.zone,
            reserved: 0,
        }
    }
}

/// [`FlowDigest6::addresses`]
#[inline(always)]
#[must_use]
pub const fn condense(client: &[u8; 16], service: &[u8; 16], secret: &[u32; SECRET]) -> u64 {
    let (c, s) = (words(client), words(service));
    product(c[0], secret[0], c[1], secret[1])
        .wrapping_add(product(c[2], secret[2], c[3], secret[3]))
        .wrapping_add(product(s[0], secret[4], s[1], secret[5]))
        .wrapping_add(product(s[2], secret[6], s[3], secret[7]))
}

/// One term of NH.
#[inline(always)]
const fn product(a: u32, secret_a: u32, b: u32, secret_b: u32) -> u64 {
    (a.wrapping_add(secret_a) as u64) * (b.wrapping_add(secret_b) as u64)
}

/// An address in words, each as it lies in memory.
#[inline(always)]
pub(crate) const fn words(a: &[u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// What is remembered of an IPv6 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow6 {
    /// Network order.
    pub client: [u8; 16],
    /// Network order.
    pub service: [u8; 16],
    /// The rest.
    pub flow: Flow,
}

impl Flow6 {
    /// Whether it is the flow between these, and not another one of the same digest.
    #[inline(always)]
    #[must_use]
    pub const fn is_between(&self, client: &[u8; 16], service: &[u8; 16]) -> bool {
        differs(&self.client, client) | differs(&self.service, service) == 0
    }
}

/// Zero for equal addresses. Without a call, for BPF has no `memcmp`.
#[inline(always)]
const fn differs(a: &[u8; 16], b: &[u8; 16]) -> u32 {
    let (a, b) = (words(a), words(b));
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])
}

/// What is remembered of a flow. One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow {
    /// Index into `rp_paths`; [`PATH_NODE`]: never steered.
    pub path: u32,
    /// The interface of the last request. 0 for [`PATH_NODE`].
    pub ifindex: u32,
    /// [`ticks`] when it was learned.
    pub born: u32,
    /// [`ticks`] of the last request; written once a gate.
    pub seen: u32,
    /// [`ticks`] of the last reply; written once a gate.
    pub replied: u32,
    /// The programs' own: gate of `seen`.
    pub request_gate: u16,
    /// The programs' own: gate of `replied`.
    pub reply_gate: u16,
    /// What the last FIB lookup gave.
    pub nexthop: Nexthop,
    /// Source MAC of the last request that was looked at (once a gate); zeros without L2 header.
    pub mac: [u8; 6],
    /// `FLOW_*`
    pub flags: u16,
    /// Packets steered, approximate when several CPUs send at once.
    pub steered: u64,
}

/// A nexthop resolved in the FIB, valid within one gate and one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Nexthop {
    /// [`Globals::generation`], read before the lookup.
    pub generation: u32,
    /// The programs' own: gate of the lookup.
    pub gate: u16,
    /// `NEXTHOP_*`
    pub kind: u16,
    /// Gateway (IPv4 in the first four bytes); of `NEXTHOP_V4` or `NEXTHOP_V6` only.
    pub address: [u8; 16],
}

/// [`Flow::path`] of what the node or a pod opened, and of transit: never steered.
pub const PATH_NODE: u32 = 0;

/// [`Flow::flags`]: TCP taken up in mid-flow.
pub const FLOW_ADOPTED: u16 = 1;
/// [`Flow::flags`]: learned here, but it leaves the node by an uplink, untranslated.
pub const FLOW_TRANSIT: u16 = 2;
/// [`Flow::flags`]: the request's MAC is that of the path's gateway: a reply by the right interface goes to it, too.
pub const FLOW_GATEWAY: u16 = 4;

/// [`Nexthop::kind`]: no route to the client, or nothing looked up yet.
pub const NEXTHOP_NONE: u16 = 0;
/// [`Nexthop::kind`]: an IPv4 neighbour (also the client itself, on-link).
pub const NEXTHOP_V4: u16 = 4;
/// [`Nexthop::kind`]: an IPv6 neighbour (also for IPv4 flows, RFC 8950).
pub const NEXTHOP_V6: u16 = 6;
/// [`Nexthop::kind`]: the MAC that the request came from.
pub const NEXTHOP_MAC: u16 = 1;

/// A way that requests come in by and replies leave by.
///
/// `ifindex`, `kind`, `family` and the gateway of an id that flows may hold never change (an array write can be
/// read half-done): another gateway is another id. `state`, `mtu`, `flags` change in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Path {
    /// 0: the id is free.
    pub ifindex: u32,
    /// [`Iface::slot`] of the interface: its counters.
    pub slot: u32,
    /// `PATH_*` kinds.
    pub kind: u32,
    /// 4 or 6: of the flows. 0 with `PATH_MAC`: any.
    pub family: u32,
    /// 4 or 6: of `gateway`; 0: no gateway.
    pub gateway_family: u32,
    /// Network order, IPv4 in the first four bytes. `PATH_GATEWAY`: the gateway. `PATH_AUTO`: the only candidate,
    /// for clients that no route of `table` covers.
    pub gateway: [u8; 16],
    /// Bytes of the largest IP packet; 0: not checked.
    pub mtu: u32,
    /// `PATH_UP` or `PATH_DOWN`.
    pub state: u32,
    /// Table of the interface, for `PATH_AUTO` and `PATH_ROUTE`: 254 for main.
    pub table: u32,
    /// [`Iface::zone`] of the interface.
    pub zone: u32,
    /// `PATH_FLAG_*`
    pub flags: u32,
    /// The interface's own MAC: source of frames to `NEXTHOP_MAC`. Zeros without L2 header.
    pub mac: [u8; 6],
    /// L2 header of the interface: 14, or 0.
    pub l2_length: u16,
}

/// [`Path::kind`]: this gateway.
pub const PATH_GATEWAY: u32 = 1;
/// [`Path::kind`]: the route to the client in `table` by this interface, else `gateway`, else the request's MAC; the MAC
/// also while the route's neighbour is not resolved.
pub const PATH_AUTO: u32 = 2;
/// [`Path::kind`]: the route to the client in `table` by this interface, else not steered.
pub const PATH_ROUTE: u32 = 3;
/// [`Path::kind`]: the request's MAC.
pub const PATH_MAC: u32 = 4;

/// [`Path::state`]: usable.
pub const PATH_UP: u32 = 1;
/// [`Path::state`]: gateway or interface failed.
pub const PATH_DOWN: u32 = 0;

/// [`Path::flags`]: mode `Shadow`.
pub const PATH_FLAG_SHADOW: u32 = 1;
/// [`Path::flags`]: `onPathDown: Drop`.
pub const PATH_FLAG_DROP: u32 = 2;

/// What the programs know about an interface that they are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Iface {
    /// 0: the position is free.
    pub ifindex: u32,
    /// 1 to [`SLOTS`] - 1: its counters, and its group in the tries.
    pub slot: u32,
    /// `IFACE_*`
    pub flags: u32,
    /// VRF table, or 0 outside of VRFs: flows of different zones never meet.
    pub zone: u32,
    /// `PROTO_*`: what is learned here.
    pub protocols: u32,
    /// Path id of IPv4 requests whose MAC is not in `rp_macs`; 0: none, do not learn.
    pub path4: u32,
    /// The same for IPv6.
    pub path6: u32,
    /// Its MAC, for `IFACE_CHECK_MAC`.
    pub mac: [u8; 6],
    /// L2 header: 14 (Ethernet), or 0 (tun, WireGuard, ppp).
    pub l2_length: u16,
}

/// [`Iface::flags`]: listed in a `ReturnPath`: requests are learned here.
pub const IFACE_LEARN: u32 = 1;
/// [`Iface::flags`]: has `match.virtualIPs`: only these destinations are learned (group = slot).
pub const IFACE_HAS_VIPS: u32 = 2;
/// [`Iface::flags`]: has `match.exceptSources` or `match.exceptPorts` (group = slot).
pub const IFACE_HAS_EXCEPT: u32 = 4;
/// [`Iface::flags`]: an uplink: a request learned elsewhere that leaves here with the same tuple is transit.
pub const IFACE_TRANSIT: u32 = 8;
/// [`Iface::flags`]: macvlan devices sit on it: at egress only frames from `mac` are its own.
pub const IFACE_CHECK_MAC: u32 = 16;

/// [`Iface::flags`]: VLAN frames here are the device's own (a VLAN device without header reordering); elsewhere they
/// belong to an upper device.
pub const IFACE_TAGGED: u32 = 32;

/// [`Iface::protocols`]
pub const PROTO_TCP: u32 = 1;
/// [`Iface::protocols`]
pub const PROTO_UDP: u32 = 2;
/// [`Iface::protocols`]
pub const PROTO_SCTP: u32 = 4;
/// [`Iface::protocols`]: echo, IPv4 and IPv6.
pub const PROTO_ICMP: u32 = 8;
/// [`Iface::protocols`]: the default.
pub const PROTO_ALL: u32 = 15;

/// A neighbour entry of a candidate gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct MacKey {
    /// Interface.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: [u8; 6],
    /// 4 or 6: of the flows.
    pub family: u16,
}

/// Data of an LPM key; the prefix length is 32 + that of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Prefix4 {
    /// 0: every interface; else [`Iface::slot`].
    pub group: u32,
    /// Network order.
    pub address: [u8; 4],
}

/// Data of an LPM key; the prefix length is 32 + that of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Prefix6 {
    /// 0: every interface; else [`Iface::slot`].
    pub group: u32,
    /// Network order.
    pub address: [u8; 16],
}

/// Data of an LPM key; the prefix length is 32 + that of the port (48 for a single port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortPrefix {
    /// 0: every interface; else [`Iface::slot`].
    pub group: u32,
    /// Network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value in `rp_never`: node, Pod or Service network, or a protected prefix.
pub const NEVER_PROTECTED: u32 = 1;
/// Value in `rp_never`: `match.exceptSources`.
pub const NEVER_EXCEPTED: u32 = 2;

/// The later fragments of one packet (RFC 791, RFC 8200), IPv4 addresses in the first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct FragmentKey {
    /// Network order.
    pub source: [u8; 16],
    /// Network order.
    pub destination: [u8; 16],
    /// Identification, as on the wire.
    pub id: u32,
    /// IP protocol number of the whole packet.
    pub proto: u16,
    /// 4 or 6.
    pub family: u16,
    /// [`Iface::zone`]
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the first fragment said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fragment {
    /// [`ticks`]
    pub at: u32,
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
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

/// Bytes of `rp_events`.
pub const EVENT_BYTES: u32 = 256 * 1024;

/// Something that happened to a flow, as a sample: at most [`Globals::events`] for each CPU and gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// `EVENT_*`
    pub kind: u16,
    /// 4 or 6; 0 without a tuple.
    pub family: u16,
    /// IP protocol number (6, 17, 132, 1, 58); for [`EVENT_UNPARSABLE`] an `Unparsed`.
    pub proto: u32,
    /// Interface that the packet was seen on.
    pub ifindex: u32,
    /// Interface that replies belong to; 0: none.
    pub path_ifindex: u32,
    /// Network order, IPv4 in the first four bytes.
    pub client: [u8; 16],
    /// Network order, IPv4 in the first four bytes.
    pub service: [u8; 16],
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub service_port: u16,
}

/// [`Event::kind`]: a flow was learned.
pub const EVENT_LEARNED: u16 = 1;
/// [`Event::kind`]: a flow's first packet was steered.
pub const EVENT_STEERED: u16 = 2;
/// [`Event::kind`]: a packet found its path down.
pub const EVENT_PATH_DOWN: u16 = 3;
/// [`Event::kind`]: a packet has no tuple.
pub const EVENT_UNPARSABLE: u16 = 4;

/// What a CPU may still report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventBudget {
    /// The gate that `sent` belongs to.
    pub gate: u32,
    /// Events of this gate.
    pub sent: u32,
    /// Events that were over the budget, or found the ring full.
    pub suppressed: u64,
}

/// [`Globals::features`]: `bpf_fib_lookup` knows `BPF_FIB_LOOKUP_TBID` (6.5, and some 6.1). Without it the lookup
/// follows the rules, where an `oif IF lookup T` rule leads to the interface's table.
pub const FEATURE_TBID: u32 = 1;

/// Per interface and CPU, packets unless it says flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Flows learned from an opener, on the interface where it arrived.
    pub learned: u64,
    /// Flows adopted in mid-flow (TCP), part of `learned`.
    pub adopted: u64,
    /// Flows that moved here from another interface or gateway.
    pub moved: u64,
    /// Flows recorded as opened by the node or by a pod.
    pub node_origin: u64,
    /// Flows found to be transit.
    pub transit: u64,
    /// Known flows whose replies left by the right interface unaided; counted once a gate for each flow.
    pub matched: u64,
    /// Packets redirected to this interface.
    pub steered: u64,
    /// Part of `steered` that went to the request's MAC, for want of a resolved gateway.
    pub steered_mac: u64,
    /// Packets that would have been redirected to this interface (`Shadow`).
    pub would_steer: u64,
    /// Packets that found this interface's path down and followed the FIB.
    pub path_down: u64,
    /// Packets dropped because this interface's path is down (`onPathDown: Drop`).
    pub dropped: u64,
    /// No nexthop by this interface: the packet followed the FIB.
    pub fib_misses: u64,
    /// Packets over the MTU of this interface's path, answered by fragmentation-needed or packet-too-big.
    pub mtu_exceeded: u64,
    /// Packets over the MTU that may be fragmented: left to the FIB.
    pub mtu_unfit: u64,
    /// Openers not learned: link-local, multicast, DHCP, BFD and the like.
    pub never: u64,
    /// Openers not learned: client in a node, Pod, Service or protected network.
    pub protected: u64,
    /// Openers not learned: `exceptSources`, `exceptPorts`.
    pub excepted: u64,
    /// Openers not learned: destination not in `virtualIPs`.
    pub other_service: u64,
    /// Mid-flow TCP that was not adopted.
    pub midflow: u64,
    /// Replies steered that are ICMP errors, part of `steered`.
    pub icmp_errors: u64,
    /// Later fragments whose first one was not seen.
    pub lost_fragments: u64,
    /// Unparsable: shorter than its headers say.
    pub truncated: u64,
    /// Unparsable: header fields that contradict each other.
    pub malformed: u64,
    /// Unparsable: more IPv6 extension headers or VLAN tags than are followed.
    pub too_deep: u64,
    /// Protocols that have no flows here.
    pub other_protocol: u64,
    /// Frames of an upper device (VLAN, macvlan).
    pub upper_device: u64,
    /// A flow could not be stored.
    pub full: u64,
    /// Sink: packets sent on by the FIB.
    pub sink_forwarded: u64,
    /// Sink: packets dropped, no route.
    pub sink_dropped: u64,
    /// Helpers that failed on the way to a redirect: the packet passed.
    pub failed: u64,
    /// Flows that their client has confirmed: it sent again after the node had answered.
    pub confirmed: u64,
    /// Zero.
    pub reserved: u64,
}

const _: () = {
    assert!(size_of::<FlowKey4>() == 24);
    assert!(size_of::<FlowKey6>() == 48);
    assert!(size_of::<FlowDigest6>() == 24);
    assert!(size_of::<Flow6>() == 96);
    assert!(size_of::<Event>() == 52);
    assert!(size_of::<EventBudget>() == 16);
    assert!(size_of::<Nexthop>() == 24);
    assert!(size_of::<Flow>() == 64);
    assert!(size_of::<Path>() == 64);
    assert!(size_of::<Iface>() == 36);
    assert!(size_of::<MacKey>() == 12);
    assert!(size_of::<Prefix4>() == 8);
    assert!(size_of::<Prefix6>() == 20);
    assert!(size_of::<PortPrefix>() == 8);
    assert!(size_of::<FragmentKey>() == 48);
    assert!(size_of::<Fragment>() == 8);
    assert!(size_of::<Recent>() == 8);
    assert!(size_of::<Globals>() == 52);
    assert!(size_of::<Counters>() == 256);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(client: [u8; 16], service: [u8; 16]) -> FlowKey6 {
        FlowKey6 { client, service, client_port: 1, service_port: 2, proto: 6, zone: 3, reserved: 0 }
    }

    proptest! {
        /// Whoever changes a single address, as an attacker may, hits another flow's digest by luck only.
        #[test]
        fn other_addresses_have_another_digest(
            client: [u8; 16],
            service: [u8; 16],
            at in 0..16_usize,
            flip in 1..=u8::MAX,
            secret: [u32; SECRET],
        ) {
            let mut other = client;
            other[at] ^= flip;
            let (one, two) = (key(client, service), key(other, service));
            prop_assert_ne!(one.digest(&secret), two.digest(&secret));
            let flow = Flow6 { client, service, flow: FLOW };
            prop_assert!(flow.is_between(&client, &service) && !flow.is_between(&other, &service));
            prop_assert!(client == service || !flow.is_between(&service, &client));
        }
    }

    const FLOW: Flow = Flow {
        path: 0,
        ifindex: 0,
        born: 0,
        seen: 0,
        replied: 0,
        request_gate: 0,
        reply_gate: 0,
        nexthop: Nexthop { generation: 0, gate: 0, kind: 0, address: [0; 16] },
        mac: [0; 6],
        flags: 0,
        steered: 0,
    };

    /// With a known secret anyone finds two flows of one digest: they are told apart, and neither gets the other's path.
    #[test]
    fn flows_of_one_digest_are_told_apart() {
        let secret = [0; SECRET];
        // A word times zero is zero, whatever it is.
        let (mut one, mut two) = ([0; 16], [0; 16]);
        (one[0], two[0]) = (1, 2);
        let (one, two) = (key(one, [9; 16]), key(two, [9; 16]));
        assert_eq!(one.digest(&secret), two.digest(&secret));
        let flow = Flow6 { client: one.client, service: one.service, flow: FLOW };
        assert!(flow.is_between(&one.client, &one.service) && !flow.is_between(&two.client, &two.service));
    }
}
