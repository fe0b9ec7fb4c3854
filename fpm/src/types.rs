//! Numbers with a meaning: what zebra's messages count, name and key by.
//!
//! All are host byte order.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv6Net};
use serde::{Serialize, Serializer};

/// A kernel routing table (`rtm_table`, or `RTA_TABLE` where present; `include/uapi/linux/rtnetlink.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TableId(pub u32);

impl TableId {
    /// `RT_TABLE_UNSPEC`: the message does not name a table. FRR's old `fpm` module does so in deletes,
    /// protobuf always (there [`RouteKey::vrf`] is set instead).
    pub const UNSPEC: Self = Self(0);
    /// `RT_TABLE_MAIN`.
    pub const MAIN: Self = Self(254);
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            253 => f.write_str("default"),
            254 => f.write_str("main"),
            255 => f.write_str("local"),
            id => write!(f, "{id}"),
        }
    }
}

/// zebra's VRF id, the only thing that FRR's protobuf encoding says about where a route belongs:
/// 0 for the default VRF, else the ifindex of the VRF device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VrfId(pub u32);

/// Index of a network interface in zebra's network namespace; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct IfIndex(pub u32);

impl IfIndex {
    /// The wire's value, where 0 means "none".
    #[must_use]
    pub fn from_wire(index: u32) -> Option<Self> {
        (index != 0).then_some(Self(index))
    }
}

/// Id of a nexthop object (`NHA_ID`, `RTA_NH_ID`). zebra's ids die with the connection: it reuses them with
/// another meaning after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NexthopId(pub u32);

/// A route's metric (`RTA_PRIORITY`, or the protobuf `metric` read as unsigned).
///
/// `dplane_fpm_nl` sends 20 for every route; only the old module sends the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Metric(pub u32);

/// Path MTU of a route (`RTAX_MTU`), bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Mtu(pub u32);

/// Who made a route: `rtm_protocol` (`include/uapi/linux/rtnetlink.h`; zebra's mapping is `zebra2proto` in
/// FRR's `zebra/rt_netlink.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Not stated, as in deletes of nexthops.
    pub const UNSPEC: Self = Self(0);
    /// Kernel, connected and local routes: zebra sends the same number for all of them.
    pub const KERNEL: Self = Self(2);
    /// Set by hand (`ip route`).
    pub const BOOT: Self = Self(3);
    /// An administrator's, not zebra's static routes.
    pub const ADMIN_STATIC: Self = Self(4);
    /// zebra itself: nexthop groups, imported tables, anything without a number of its own.
    pub const ZEBRA: Self = Self(11);
    /// Babel.
    pub const BABEL: Self = Self(42);
    /// BGP.
    pub const BGP: Self = Self(186);
    /// IS-IS.
    pub const ISIS: Self = Self(187);
    /// OSPFv2 and OSPFv3 (told apart by the family).
    pub const OSPF: Self = Self(188);
    /// RIP.
    pub const RIP: Self = Self(189);
    /// RIPng.
    pub const RIPNG: Self = Self(190);
    /// NHRP.
    pub const NHRP: Self = Self(191);
    /// EIGRP.
    pub const EIGRP: Self = Self(192);
    /// LDP.
    pub const LDP: Self = Self(193);
    /// FRR's test daemon sharpd.
    pub const SHARP: Self = Self(194);
    /// Policy-based routing.
    pub const PBR: Self = Self(195);
    /// FRR's static routes (staticd).
    pub const STATIC: Self = Self(196);
    /// OpenFabric.
    pub const OPENFABRIC: Self = Self(197);
    /// SR-TE.
    pub const SRTE: Self = Self(198);

    /// The name that FRR and iproute2 use, where there is one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::KERNEL => "kernel",
            Self::BOOT => "boot",
            Self::ADMIN_STATIC => "admin-static",
            Self::ZEBRA => "zebra",
            Self::BABEL => "babel",
            Self::BGP => "bgp",
            Self::ISIS => "isis",
            Self::OSPF => "ospf",
            Self::RIP => "rip",
            Self::RIPNG => "ripng",
            Self::NHRP => "nhrp",
            Self::EIGRP => "eigrp",
            Self::LDP => "ldp",
            Self::SHARP => "sharp",
            Self::PBR => "pbr",
            Self::STATIC => "static",
            Self::OPENFABRIC => "openfabric",
            Self::SRTE => "srte",
            _ => return None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// `Protocol` of FRR's qpb.proto, which unlike [`Protocol`] tells connected from kernel routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct QpbProtocol(pub u8);

impl QpbProtocol {
    /// The `rtm_protocol` that zebra's netlink encoding would carry.
    #[must_use]
    pub fn to_rtm(self) -> Protocol {
        match self.0 {
            1..=3 => Protocol::KERNEL,
            4 => Protocol::STATIC,
            5 => Protocol::RIP,
            6 => Protocol::RIPNG,
            7 => Protocol::OSPF,
            8 => Protocol::ISIS,
            9 => Protocol::BGP,
            _ => Protocol::ZEBRA,
        }
    }
}

/// What a route does with a packet (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `RTN_UNICAST` (1): forwards by the route's [`Target`](crate::Target).
    Unicast,
    /// `RTN_BLACKHOLE` (6): drops silently.
    Blackhole,
    /// `RTN_UNREACHABLE` (7): answers ICMP host unreachable.
    Unreachable,
    /// `RTN_PROHIBIT` (8): answers ICMP administratively prohibited.
    Prohibit,
    /// Any other `rtm_type`: never from zebra, but found in the kernel's own dumps.
    Other(u8),
}

impl RouteKind {
    /// From `rtm_type`.
    #[must_use]
    pub fn from_wire(rtm_type: u8) -> Self {
        match rtm_type {
            1 => Self::Unicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            other => Self::Other(other),
        }
    }

    /// To `rtm_type`.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Other(other) => other,
        }
    }

    /// Whether a route of this kind forwards, that is has nexthops at all.
    #[must_use]
    pub fn forwards(self) -> bool {
        !matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unicast => "unicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Other(0) => "unspec",
            Self::Other(2) => "local",
            Self::Other(3) => "broadcast",
            Self::Other(4) => "anycast",
            Self::Other(5) => "multicast",
            Self::Other(9) => "throw",
            Self::Other(10) => "nat",
            Self::Other(other) => return write!(f, "type-{other}"),
        })
    }
}

impl Serialize for RouteKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Address family (`AF_*`, `include/linux/socket.h`) as rtnetlink headers carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `AF_UNSPEC` (0): groups and deletes of nexthop objects.
    Unspec,
    /// `AF_INET` (2)
    Ipv4,
    /// `AF_BRIDGE` (7): forwarding database entries.
    Bridge,
    /// `AF_INET6` (10)
    Ipv6,
    /// `AF_MPLS` (28)
    Mpls,
    /// Any other.
    Other(u8),
}

impl Family {
    /// From the wire.
    #[must_use]
    pub fn from_wire(family: u8) -> Self {
        match family {
            0 => Self::Unspec,
            2 => Self::Ipv4,
            7 => Self::Bridge,
            10 => Self::Ipv6,
            28 => Self::Mpls,
            other => Self::Other(other),
        }
    }

    /// To the wire.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Unspec => 0,
            Self::Ipv4 => 2,
            Self::Bridge => 7,
            Self::Ipv6 => 10,
            Self::Mpls => 28,
            Self::Other(other) => other,
        }
    }

    /// The family of a prefix.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// The family of an address.
    #[must_use]
    pub fn of_addr(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspec => "unspec",
            Self::Ipv4 => "ipv4",
            Self::Bridge => "bridge",
            Self::Ipv6 => "ipv6",
            Self::Mpls => "mpls",
            Self::Other(other) => return write!(f, "family-{other}"),
        })
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An MPLS label, 20 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Label(pub u32);

/// What zebra keys a route by: two messages with one key are about the same route, whatever protocol, metric or
/// nexthops they carry. The family is that of `dst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    /// Routing table; [`TableId::UNSPEC`] where the wire names none.
    pub table: TableId,
    /// The VRF, for protobuf messages only (they carry no table).
    pub vrf: Option<VrfId>,
    /// Destination prefix, host bits zero.
    pub dst: IpNet,
    /// Source prefix of a source-specific IPv6 route, host bits zero.
    pub src: Option<Ipv6Net>,
}

impl RouteKey {
    /// The key of an ordinary route in a table.
    #[must_use]
    pub fn new(table: TableId, dst: IpNet) -> Self {
        Self { table, vrf: None, dst: dst.trunc(), src: None }
    }

    /// The family of the route.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(&self.dst)
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dst.prefix_len() == 0 {
            f.write_str("default")?;
        } else if self.dst.prefix_len() == self.dst.max_prefix_len() {
            write!(f, "{}", self.dst.addr())?;
        } else {
            write!(f, "{}", self.dst)?;
        }
        if let Some(src) = self.src {
            write!(f, " from {src}")?;
        }
        match self.vrf {
            Some(VrfId(0)) => Ok(()),
            Some(VrfId(vrf)) => write!(f, " vrf {vrf}"),
            None if self.table == TableId::MAIN => Ok(()),
            None => write!(f, " table {}", self.table),
        }
    }
}

/// What FRR up to 10.5 sends as the gateway of an IPv4 route over an IPv6 nexthop without nexthop groups.
pub(crate) const LOST_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
