//! Numbers of the kernel's netlink headers that both directions need.

/// `struct nlmsghdr`.
pub(crate) const MESSAGE_HEADER_LEN: usize = 16;

pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_DELNEIGH: u16 = 29;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;

/// Flag of a nexthop, in `rtnh_flags`, `nh_flags` and for a single nexthop in `rtm_flags`.
pub(crate) const RTNH_F_ONLINK: u8 = 4;

/// `NEXTHOP_GRP_TYPE_RES`: value of `NHA_GROUP_TYPE`.
pub(crate) const GROUP_TYPE_RESILIENT: u16 = 1;

/// Attributes of routes.
pub(crate) mod rta {
    pub(crate) const DST: u16 = 1;
    pub(crate) const SRC: u16 = 2;
    pub(crate) const IIF: u16 = 3;
    pub(crate) const OIF: u16 = 4;
    pub(crate) const GATEWAY: u16 = 5;
    pub(crate) const PRIORITY: u16 = 6;
    pub(crate) const PREFSRC: u16 = 7;
    pub(crate) const METRICS: u16 = 8;
    pub(crate) const MULTIPATH: u16 = 9;
    pub(crate) const FLOW: u16 = 11;
    pub(crate) const CACHEINFO: u16 = 12;
    pub(crate) const TABLE: u16 = 15;
    pub(crate) const VIA: u16 = 18;
    pub(crate) const NEWDST: u16 = 19;
    pub(crate) const PREF: u16 = 20;
    pub(crate) const ENCAP_TYPE: u16 = 21;
    pub(crate) const ENCAP: u16 = 22;
    pub(crate) const EXPIRES: u16 = 23;
    pub(crate) const NH_ID: u16 = 30;
    /// Within `METRICS`.
    pub(crate) const RTAX_MTU: u16 = 2;
}

/// Attributes of nexthop objects.
pub(crate) mod nha {
    pub(crate) const ID: u16 = 1;
    pub(crate) const GROUP: u16 = 2;
    pub(crate) const GROUP_TYPE: u16 = 3;
    pub(crate) const BLACKHOLE: u16 = 4;
    pub(crate) const OIF: u16 = 5;
    pub(crate) const GATEWAY: u16 = 6;
    pub(crate) const ENCAP_TYPE: u16 = 7;
    pub(crate) const ENCAP: u16 = 8;
    pub(crate) const RES_GROUP: u16 = 12;
    pub(crate) const RES_GROUP_BUCKETS: u16 = 1;
    pub(crate) const RES_GROUP_IDLE_TIMER: u16 = 2;
    pub(crate) const RES_GROUP_UNBALANCED_TIMER: u16 = 3;
}

/// Attributes of neighbours.
pub(crate) mod nda {
    pub(crate) const DST: u16 = 1;
    pub(crate) const LLADDR: u16 = 2;
    pub(crate) const VLAN: u16 = 5;
    pub(crate) const VNI: u16 = 7;
    pub(crate) const MASTER: u16 = 9;
    pub(crate) const PROTOCOL: u16 = 12;
    pub(crate) const NH_ID: u16 = 13;
}

/// Lightweight tunnels: values of `RTA_ENCAP_TYPE` and attributes within `RTA_ENCAP`.
pub(crate) mod lwt {
    pub(crate) const MPLS: u16 = 1;
    pub(crate) const IP: u16 = 2;
    pub(crate) const IP6: u16 = 4;
    pub(crate) const SEG6: u16 = 5;
    pub(crate) const SEG6_LOCAL: u16 = 7;
    /// FRR's own.
    pub(crate) const VXLAN: u16 = 100;

    pub(crate) const MPLS_DST: u16 = 1;
    pub(crate) const VXLAN_VNI: u16 = 0;
    pub(crate) const IP_ID: u16 = 1;
    pub(crate) const IP_DST: u16 = 2;
    pub(crate) const IP_SRC: u16 = 3;
    pub(crate) const SEG6_SRH: u16 = 1;
    pub(crate) const SEG6_SRC: u16 = 2;
    pub(crate) const LOCAL_ACTION: u16 = 1;
    pub(crate) const LOCAL_TABLE: u16 = 3;
    pub(crate) const LOCAL_NH4: u16 = 4;
    pub(crate) const LOCAL_NH6: u16 = 5;
    pub(crate) const LOCAL_IIF: u16 = 6;
    pub(crate) const LOCAL_OIF: u16 = 7;
    pub(crate) const LOCAL_VRFTABLE: u16 = 9;
    pub(crate) const LOCAL_FLAVORS: u16 = 11;
    pub(crate) const FLV_OPERATION: u16 = 1;
    pub(crate) const FLV_BLOCK_BITS: u16 = 2;
    pub(crate) const FLV_NODE_FUNCTION_BITS: u16 = 3;
}
