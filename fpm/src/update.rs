//! The typed model: one [`Update`] for each message, whatever the encoding it came in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use crate::types::{
    Family, IfIndex, LOST_GATEWAY, Label, Metric, Mtu, NexthopId, Protocol, QpbProtocol, RouteKey, RouteKind,
    TableId, VrfId,
};

/// One message of zebra's. Later ones override earlier ones of the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Add a route, or replace whatever is known for its key.
    Route(Route),
    /// Remove the route of this key. Nothing else in the message identifies it.
    RouteDel(RouteDel),
    /// Add a nexthop object, or replace the one of its id in place: routes that use it follow.
    Nexthop(NexthopObject),
    /// Remove a nexthop object; routes may still point to it.
    NexthopDel {
        /// Its id.
        id: NexthopId,
        /// As on the wire: zebra sends 0.
        protocol: Protocol,
    },
    /// Add a neighbour or forwarding-database entry (EVPN).
    Neighbor(Box<Neighbor>),
    /// Remove one.
    NeighborDel(Box<Neighbor>),
    /// Add or replace an MPLS label-switched path.
    Lsp(Box<Lsp>),
    /// Remove one.
    LspDel(Box<Lsp>),
    /// A valid message that this crate has no type for, kept as it came.
    Raw(Box<RawMessage>),
}

/// A route to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it replaces and is deleted by.
    pub key: RouteKey,
    /// Who made it.
    pub protocol: Protocol,
    /// The number on the wire where the message was protobuf.
    pub qpb_protocol: Option<QpbProtocol>,
    /// What it does.
    pub kind: RouteKind,
    /// `rtm_scope`: always 0 from zebra; 253 (link) for connected routes in the kernel's dumps.
    pub scope: u8,
    /// `rtm_flags` (`RTM_F_*`, and `RTNH_F_*` of a single nexthop).
    pub flags: u32,
    /// Metric; `None` where the message has none.
    pub metric: Option<Metric>,
    /// Path MTU.
    pub mtu: Option<Mtu>,
    /// `RTA_PREFSRC`: source address for packets that the node sends by this route.
    pub preferred_source: Option<IpAddr>,
    /// `RTA_FLOW`: the realm; FRR built with `--enable-realms` carries a route tag of 1 to 255 here.
    pub realm: Option<u32>,
    /// Where it leads.
    pub target: Target,
}

impl Route {
    /// A unicast route as zebra sends it, by nexthop id (metric 20, which `dplane_fpm_nl` sends always).
    #[must_use]
    pub fn by_nexthop(key: RouteKey, protocol: Protocol, id: NexthopId) -> Self {
        Self::new(key, protocol, RouteKind::Unicast, Target::Nexthop(id))
    }

    /// A route as zebra sends it, with metric 20.
    #[must_use]
    pub fn new(key: RouteKey, protocol: Protocol, kind: RouteKind, target: Target) -> Self {
        Self {
            key,
            protocol,
            qpb_protocol: None,
            kind,
            scope: 0,
            flags: 0,
            metric: Some(Metric(20)),
            mtu: None,
            preferred_source: None,
            realm: None,
            target,
        }
    }
}

/// A route to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteDel {
    /// Which one.
    pub key: RouteKey,
    /// Protocol of the route that was; the old module sends 0, protobuf nothing.
    pub protocol: Option<Protocol>,
    /// Metric as on the wire.
    pub metric: Option<Metric>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: blackhole kinds, and routes of the kernel without a device.
    None,
    /// By nexthop object. It may not be known yet, or never: zebra >= 10.2 does not announce the objects of
    /// connected and kernel routes.
    Nexthop(NexthopId),
    /// By nexthops within the route. Empty when zebra sent an empty `RTA_MULTIPATH`: such a route has no way out.
    Nexthops(Box<[Nexthop]>),
}

impl Target {
    /// The nexthops within the route; empty for the other kinds of target.
    #[must_use]
    pub fn nexthops(&self) -> &[Nexthop] {
        match self {
            Self::Nexthops(nexthops) => nexthops,
            Self::None | Self::Nexthop(_) => &[],
        }
    }
}

/// One way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nexthop {
    /// Gateway; `None` means directly on the link. May be IPv6 for an IPv4 route (RFC 8950) and the other way round.
    pub gateway: Option<IpAddr>,
    /// Egress interface.
    pub ifindex: Option<IfIndex>,
    /// Share of the flows, 1 to 256: `rtnh_hops` + 1, and 1 where there is only one nexthop. The old module writes
    /// `rtnh_hops` without subtracting 1, so that its weights arrive one too high.
    pub weight: u32,
    /// `RTNH_F_ONLINK`: take the gateway as being on the link without checking.
    pub onlink: bool,
    /// What to wrap packets in.
    pub encap: Option<Box<Encap>>,
}

impl Nexthop {
    /// A plain nexthop of weight 1.
    #[must_use]
    pub fn new(gateway: Option<IpAddr>, ifindex: Option<IfIndex>) -> Self {
        Self { gateway, ifindex, weight: 1, onlink: false, encap: None }
    }

    /// Whether the gateway is what FRR makes of an IPv6 gateway that it could not encode, so that packets sent
    /// to it are lost: 169.254.0.1 (netlink without nexthop groups, up to 10.5), or its first four bytes
    /// taken for an IPv4 address (protobuf: `fe80::` arrives as 254.128.0.0, `fd00::/8` in 253.0.0.0/8).
    #[must_use]
    pub fn gateway_is_lost_ipv6(&self) -> bool {
        match self.gateway {
            Some(IpAddr::V4(gateway)) => gateway == LOST_GATEWAY || gateway.octets()[0] >= 240,
            _ => false,
        }
    }
}

/// What a nexthop wraps packets in (`RTA_ENCAP_TYPE`, `include/uapi/linux/lwtunnel.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encap {
    /// `LWTUNNEL_ENCAP_MPLS` (1): labels to push, outermost first.
    Mpls(Labels),
    /// `LWTUNNEL_ENCAP_SEG6` (5): an SRv6 segment routing header.
    Seg6 {
        /// `SEG6_IPTUN_MODE_*`: 0 inline, 1 encap, 2 l2encap, 3 encap.red, 4 l2encap.red.
        mode: u32,
        /// Segments in the order of travel (the header holds them reversed).
        segments: Box<[Ipv6Addr]>,
        /// `SEG6_IPTUNNEL_SRC`: outer source address (FRR >= 10.8).
        source: Option<Ipv6Addr>,
    },
    /// `LWTUNNEL_ENCAP_SEG6_LOCAL` (7): an SRv6 local SID.
    Seg6Local(Seg6Local),
    /// FRR's own number 100: VXLAN network identifier of EVPN type 5 routes (FRR up to 9.0).
    Vxlan {
        /// Network identifier, 24 bits.
        vni: u32,
    },
    /// `LWTUNNEL_ENCAP_IP` (2).
    Ip {
        /// Tunnel key: the VNI of a VXLAN device in external mode.
        id: Option<u64>,
        /// Outer destination.
        dst: Option<Ipv4Addr>,
        /// Outer source.
        src: Option<Ipv4Addr>,
    },
    /// `LWTUNNEL_ENCAP_IP6` (4).
    Ip6 {
        /// Tunnel key.
        id: Option<u64>,
        /// Outer destination.
        dst: Option<Ipv6Addr>,
        /// Outer source.
        src: Option<Ipv6Addr>,
    },
    /// Any other, with the content of `RTA_ENCAP` as it came.
    Other {
        /// `RTA_ENCAP_TYPE`.
        encap_type: u16,
        /// Content of `RTA_ENCAP`.
        data: Box<[u8]>,
    },
}

/// A label stack, outermost first.
pub type Labels = SmallVec<[Label; 4]>;

/// What to do with packets to an SRv6 local SID (`SEG6_LOCAL_*`, `include/uapi/linux/seg6_local.h`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seg6Local {
    /// The endpoint behavior.
    pub action: Seg6LocalAction,
    /// Table for End.T and End.DT6.
    pub table: Option<TableId>,
    /// Table of the VRF for End.DT4, End.DT46.
    pub vrf_table: Option<TableId>,
    /// The VRF to look up in, where the message was protobuf.
    pub vrf: Option<VrfId>,
    /// IPv4 nexthop for End.DX4.
    pub nh4: Option<Ipv4Addr>,
    /// IPv6 nexthop for End.X, End.DX6.
    pub nh6: Option<Ipv6Addr>,
    /// Egress interface.
    pub oif: Option<IfIndex>,
    /// Incoming interface.
    pub iif: Option<IfIndex>,
    /// Variants of the behavior.
    pub flavors: Option<Flavors>,
}

/// An endpoint behavior (RFC 8986), by the kernel's number `SEG6_LOCAL_ACTION_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Seg6LocalAction(pub u32);

impl Seg6LocalAction {
    /// End
    pub const END: Self = Self(1);
    /// End.X: to a neighbour
    pub const END_X: Self = Self(2);
    /// End.T: lookup in a table
    pub const END_T: Self = Self(3);
    /// End.DX6: decapsulate, to a neighbour
    pub const END_DX6: Self = Self(5);
    /// End.DX4
    pub const END_DX4: Self = Self(6);
    /// End.DT6: decapsulate, lookup in a table
    pub const END_DT6: Self = Self(7);
    /// End.DT4
    pub const END_DT4: Self = Self(8);
    /// End.DT46
    pub const END_DT46: Self = Self(16);
}

impl fmt::Display for Seg6LocalAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::END => "End",
            Self::END_X => "End.X",
            Self::END_T => "End.T",
            Self::END_DX6 => "End.DX6",
            Self::END_DX4 => "End.DX4",
            Self::END_DT6 => "End.DT6",
            Self::END_DT4 => "End.DT4",
            Self::END_DT46 => "End.DT46",
            Self(4) => "End.DX2",
            Self(9) => "End.B6",
            Self(10) => "End.B6.Encaps",
            Self(11) => "End.BM",
            Self(12) => "End.S",
            Self(13) => "End.AS",
            Self(14) => "End.AM",
            Self(15) => "End.BPF",
            Self(other) => return write!(f, "action-{other}"),
        })
    }
}

/// Variants of an endpoint behavior (`SEG6_LOCAL_FLV_*`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flavors {
    /// Bits: [`Self::PSP`] and so on.
    pub operations: u32,
    /// Length of the locator's block, bits.
    pub block_bits: Option<u8>,
    /// Length of the locator's node and function together, bits.
    pub node_function_bits: Option<u8>,
}

impl Flavors {
    /// Penultimate segment pop.
    pub const PSP: u32 = 1 << 1;
    /// Ultimate segment pop.
    pub const USP: u32 = 1 << 2;
    /// Ultimate segment decapsulation.
    pub const USD: u32 = 1 << 3;
    /// Compressed segments (RFC 9800).
    pub const NEXT_CSID: u32 = 1 << 4;
}

/// A nexthop object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NexthopObject {
    /// Its id.
    pub id: NexthopId,
    /// Who made it: 11 (zebra) for the groups of zebra's own.
    pub protocol: Protocol,
    /// `nh_family`: unspecified for groups.
    pub family: Family,
    /// What it holds.
    pub body: NexthopBody,
}

/// What a nexthop object holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NexthopBody {
    /// A single nexthop; its weight is 1.
    Single(Nexthop),
    /// A group of single nexthops, which may be announced later. May have one member only.
    Group(NexthopGroup),
    /// `NHA_BLACKHOLE`: for blackhole and reject alike; the route's kind tells them apart.
    Blackhole,
}

/// A nexthop group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NexthopGroup {
    /// Its members.
    pub members: SmallVec<[GroupMember; 4]>,
    /// Set for resilient groups (FRR >= 8.5).
    pub resilient: Option<Resilient>,
}

/// Member of a nexthop group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupMember {
    /// The member's id.
    pub id: NexthopId,
    /// Share of the flows, 1 to 65536 (more than 256 only from FRR >= 10.5 with `--nexthop-weight-16-bit`).
    pub weight: u32,
}

/// How a resilient group spreads flows (`NHA_RES_GROUP`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resilient {
    /// Number of buckets.
    pub buckets: Option<u16>,
    /// Timer as on the wire: FRR writes milliseconds where the kernel reads `clock_t`.
    pub idle_timer: Option<u32>,
    /// As `idle_timer`.
    pub unbalanced_timer: Option<u32>,
}

/// A neighbour or forwarding-database entry (`struct ndmsg`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// [`Family::Bridge`] for EVPN MACs.
    pub family: Family,
    /// The interface: a VXLAN device for EVPN MACs.
    pub ifindex: Option<IfIndex>,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    /// `ndm_type`.
    pub kind: u8,
    /// `NDA_LLADDR`, at most 32 bytes.
    pub lladdr: Option<SmallVec<[u8; 8]>>,
    /// `NDA_DST`: the VTEP for EVPN MACs.
    pub dst: Option<IpAddr>,
    /// `NDA_VLAN`.
    pub vlan: Option<u16>,
    /// `NDA_VNI`.
    pub vni: Option<u32>,
    /// `NDA_MASTER`.
    pub master: Option<IfIndex>,
    /// `NDA_NH_ID`.
    pub nexthop: Option<NexthopId>,
    /// `NDA_PROTOCOL`.
    pub protocol: Option<Protocol>,
}

/// An MPLS label-switched path: an `AF_MPLS` route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lsp {
    /// The label of arriving packets.
    pub label: Label,
    /// Who made it.
    pub protocol: Protocol,
    /// As on the wire: main.
    pub table: TableId,
    /// `rtm_type`.
    pub kind: RouteKind,
    /// Where it leads; empty in deletes.
    pub nexthops: Box<[LspNexthop]>,
}

/// One way out of a label-switched path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LspNexthop {
    /// Gateway, interface, weight.
    pub nexthop: Nexthop,
    /// Labels to put in place of the one that matched, outermost first; empty pops.
    pub labels: Labels,
}

/// A message that this crate has no type for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// Netlink message type, or `None` for a protobuf message.
    pub nlmsg_type: Option<u16>,
    /// What follows the netlink header; the whole payload of a protobuf message.
    pub body: Box<[u8]>,
}
