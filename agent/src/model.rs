//! Kernel objects as the kernel sees them: one vocabulary for what is desired and what is observed.
//!
//! Nothing here does I/O. `plan` produces these values, `kernel` encodes and decodes them, `reconcile`
//! compares them. All numbers are host byte order; the netlink edge converts.

pub mod devices;
pub mod ops;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The kernel's main routing table (`RT_TABLE_MAIN`, include/uapi/linux/rtnetlink.h).
pub const TABLE_MAIN: u32 = 254;
/// RT_TABLE_LOCAL: the addresses of the node, the kernel's own.
pub const TABLE_LOCAL: u32 = 255;

/// Address family of a rule or a nexthop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// AF_INET
    Ipv4,
    /// AF_INET6
    Ipv6,
}

impl Family {
    /// Both families, in the order in which we program them.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

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
    pub fn of_addr(addr: &IpAddr) -> Self {
        if addr.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// Its folder below `/proc/sys/net`.
    #[must_use]
    pub fn sysctl(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// The value in netlink headers: 2 or 10.
    #[must_use]
    pub fn af(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }
}

/// Name of an `rtm_protocol`, as iproute2 knows it (etc/iproute2/rt_protos), with its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> String {
    let name = match protocol {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        16 => "dhcp",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        _ => return protocol.to_string(),
    };
    format!("{name} ({protocol})")
}

/// What the kernel keys a route by (TOS is always 0 here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteKey {
    /// Routing table, 1 to 2^32-1.
    pub table: u32,
    /// Destination prefix, host bits zero.
    pub prefix: IpNet,
    /// Metric (`RTA_PRIORITY`). For IPv6 the kernel reads 0 back as 1024: always write it explicitly.
    pub metric: u32,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} table {} metric {}", self.prefix, self.table, self.metric)
    }
}

/// Routes that end a lookup instead of forwarding (`rtm_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Special {
    /// RTN_BLACKHOLE (6): dropped silently.
    Blackhole,
    /// RTN_UNREACHABLE (7): ICMP host unreachable.
    Unreachable,
    /// RTN_PROHIBIT (8): ICMP administratively prohibited.
    Prohibit,
    /// RTN_THROW (9): the lookup goes on with the next rule.
    Throw,
}

/// One way out: what a nexthop object (or an inline nexthop of a route) holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// Gateway; `None` means directly on the link. May be IPv6 for an IPv4 route (RFC 8950).
    pub gateway: Option<IpAddr>,
    /// Egress interface.
    pub ifindex: u32,
    /// `RTNH_F_ONLINK`: the kernel does not check the gateway against its tables.
    pub onlink: bool,
    /// Family of the nexthop object when there is no gateway (an object has one family).
    pub family: Family,
}

/// A nexthop object id (`NHA_ID`), unique in the network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NexthopId(pub u32);

/// Member of a nexthop group. The kernel holds `weight - 1` in 8 bits (16 from 6.12 on).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// The member's object id.
    pub id: NexthopId,
    /// 1 to 256 (65536 from kernel 6.12 on).
    pub weight: u16,
}

/// How a resilient group spreads flows (Linux 5.13): over buckets that stay with their nexthop while it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resilience {
    /// Buckets (`NHA_RES_GROUP_BUCKETS`): never changed while the group lives.
    pub buckets: u16,
    /// A bucket may move to another nexthop when idle for so long (`NHA_RES_GROUP_IDLE_TIMER`), in hundredths of a
    /// second: `clock_t`.
    pub idle_timer: u32,
}

/// What a nexthop object holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NexthopBody {
    /// A single nexthop.
    Single(Hop),
    /// A group of single nexthops, flows spread by hash thresholds.
    Group(Vec<Member>),
    /// A resilient group of single nexthops. Its type is for life.
    Resilient(Vec<Member>, Resilience),
    /// A blackhole; or anything else that Backtrail never makes (foreign objects in a dump).
    Other,
}

impl NexthopBody {
    /// The members, of a group of either type.
    #[must_use]
    pub fn members(&self) -> Option<&[Member]> {
        match self {
            Self::Group(members) | Self::Resilient(members, _) => Some(members),
            Self::Single(_) | Self::Other => None,
        }
    }
}

/// A nexthop object (Linux 5.3 or newer).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NexthopObject {
    /// Its id.
    pub id: NexthopId,
    /// `nh_protocol`: who made it.
    pub protocol: u8,
    /// Content.
    pub body: NexthopBody,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RouteTarget {
    /// By nexthop object or group.
    Nexthop(NexthopId),
    /// Nexthops within the route, with weights (1 to 256): used for default routes in main and for foreign routes.
    Inline(Vec<(Hop, u16)>),
    /// No nexthop at all.
    Special(Special),
}

/// A route of one of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KernelRoute {
    /// Its key.
    pub key: RouteKey,
    /// Where it leads.
    pub target: RouteTarget,
    /// `RTA_PREFSRC`.
    pub preferred_source: Option<IpAddr>,
    /// `RTAX_MTU`, bytes.
    pub mtu: Option<u32>,
    /// `rtm_protocol`: who made it.
    pub protocol: u8,
    /// RT_SCOPE_LINK (253) for connected routes, RT_SCOPE_UNIVERSE (0) else. IPv6 always reads back 0.
    pub scope_link: bool,
}

/// What a rule does when its selectors match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    /// FR_ACT_TO_TBL
    Lookup(u32),
    /// FR_ACT_TO_TBL with FRA_L3MDEV: the table of the packet's VRF device.
    L3mdev,
    /// FR_ACT_GOTO: the priority to go on at.
    Goto(u32),
    /// FR_ACT_NOP: a landing place for goto.
    Nop,
    /// FR_ACT_UNREACHABLE
    Unreachable,
    /// FR_ACT_BLACKHOLE; never ours.
    Blackhole,
    /// FR_ACT_PROHIBIT; never ours.
    Prohibit,
    /// Anything that Backtrail never makes (foreign rules in a dump): another action, or selectors that [`Rule`]
    /// does not hold (marks, `not`, TOS, ...). The raw `action`.
    Other(u8),
}

/// A policy rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// IPv4 and IPv6 rules are separate lists.
    pub family: Family,
    /// Lower first.
    pub priority: u32,
    /// Source prefix (host bits zero), `None` for all.
    pub source: Option<IpNet>,
    /// Destination prefix (host bits zero), `None` for all.
    pub destination: Option<IpNet>,
    /// `iif NAME`; `lo` means locally generated.
    pub iif: Option<String>,
    /// `oif NAME`: sockets bound to the device.
    pub oif: Option<String>,
    /// IP protocol number (`ipproto`, Linux 4.17).
    pub ip_protocol: Option<u8>,
    /// Inclusive range of destination ports (`dport`, Linux 4.17).
    pub destination_ports: Option<(u16, u16)>,
    /// What it does.
    pub action: RuleAction,
    /// `FRA_PROTOCOL`: who made it.
    pub protocol: u8,
}

impl Rule {
    /// A rule without selectors.
    #[must_use]
    pub fn all(family: Family, priority: u32, action: RuleAction, protocol: u8) -> Self {
        Self {
            family,
            priority,
            source: None,
            destination: None,
            iif: None,
            oif: None,
            ip_protocol: None,
            destination_ports: None,
            action,
            protocol,
        }
    }

    /// The rule by which the kernel finds the tables of VRF devices, as it makes it itself (drivers/net/vrf.c,
    /// `vrf_add_fib_rules`).
    #[must_use]
    pub fn l3mdev(family: Family) -> Self {
        // RTPROT_KERNEL: networkd removes rules of any other protocol.
        Self::all(family, 1000, RuleAction::L3mdev, 2)
    }
}

impl fmt::Display for Rule {
    /// As `ip rule` prints it: `1100: from 10.0.0.0/8 iif eth1 lookup 10000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: from {source}", self.priority)?,
            None => write!(f, "{}: from all", self.priority)?,
        }
        if let Some(destination) = &self.destination {
            write!(f, " to {destination}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(oif) = &self.oif {
            write!(f, " oif {oif}")?;
        }
        if let Some(protocol) = self.ip_protocol {
            write!(f, " ipproto {protocol}")?;
        }
        if let Some((first, last)) = self.destination_ports {
            write!(f, " dport {first}-{last}")?;
        }
        match self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}"),
            RuleAction::L3mdev => write!(f, " lookup [l3mdev-table]"),
            RuleAction::Goto(priority) => write!(f, " goto {priority}"),
            RuleAction::Nop => write!(f, " nop"),
            RuleAction::Unreachable => write!(f, " unreachable"),
            RuleAction::Blackhole => write!(f, " blackhole"),
            RuleAction::Prohibit => write!(f, " prohibit"),
            RuleAction::Other(action) => write!(f, " action {action}"),
        }
    }
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Address and prefix length as configured.
    pub net: IpNet,
    /// The far end of a point-to-point address, when it differs from `net`.
    pub peer: Option<IpAddr>,
    /// IFA_F_NOPREFIXROUTE: the kernel made no connected route for it.
    pub no_prefix_route: bool,
    /// IPv6 duplicate address detection not finished, or failed: not usable as a source yet.
    pub tentative: bool,
    /// `IFA_RT_PRIORITY`: metric of its connected route (0: the kernel's default).
    pub metric: u32,
}

impl Address {
    /// An address without anything special about it.
    #[must_use]
    pub fn plain(net: IpNet) -> Self {
        Self { net, peer: None, no_prefix_route: false, tentative: false, metric: 0 }
    }
}

/// A network interface of this namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in the namespace while the link lives.
    pub ifindex: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// IFLA_INFO_KIND: `vlan`, `vrf`, `veth`, `bond`, ...; empty for physical devices.
    pub kind: String,
    /// IFF_UP
    pub up: bool,
    /// IFF_LOWER_UP: carrier. A nexthop object cannot exist without it.
    pub carrier: bool,
    /// IFF_NOARP
    pub noarp: bool,
    /// ARPHRD type (1 Ethernet, 772 loopback, 65534 none).
    pub arphrd: u16,
    /// Bytes.
    pub mtu: u32,
    /// Hardware address where it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Index of the controller (bridge, bond, VRF).
    pub master: Option<u32>,
    /// Index of the lower device (VLAN, macvlan) in this namespace.
    pub lower: Option<u32>,
    /// VLAN id, for kind `vlan`.
    pub vlan: Option<u16>,
    /// A VLAN device without header reordering: its frames hold their tag, as the wire had it.
    pub keeps_tag: bool,
    /// Table of a VRF device (`IFLA_VRF_TABLE`).
    pub vrf_table: Option<u32>,
    /// IFLA_IFALIAS: Backtrail marks the devices that it made with [`devices::ALIAS`].
    pub alias: Option<String>,
    /// Its addresses, sorted.
    pub addresses: Vec<Address>,
}

impl Link {
    /// A physical Ethernet interface that works, of which nothing else is known.
    #[must_use]
    pub fn ethernet(ifindex: u32, name: impl Into<String>) -> Self {
        Self {
            ifindex,
            name: name.into(),
            kind: String::new(),
            up: true,
            carrier: true,
            noarp: false,
            arphrd: 1,
            mtu: 1500,
            mac: None,
            master: None,
            lower: None,
            vlan: None,
            keeps_tag: false,
            vrf_table: None,
            alias: None,
            addresses: Vec::new(),
        }
    }

    /// Whether nexthops can exist on it now.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.up && self.carrier
    }
}

/// State of a neighbour entry, reduced to what decides here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Has a MAC that the kernel uses (REACHABLE, STALE, DELAY, PROBE, PERMANENT, NOARP).
    Valid,
    /// Being resolved for the first time.
    Incomplete,
    /// Did not answer.
    Failed,
}

/// A neighbour (ARP, ND) entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Interface.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC, where known.
    pub mac: Option<[u8; 6]>,
    /// Its state.
    pub state: NeighbourState,
    /// NTF_EXT_MANAGED: the kernel keeps it resolved (Linux 5.16).
    pub managed: bool,
    /// `NDA_PROTOCOL`: who made it; 0 for those that traffic made.
    pub protocol: u8,
}
