//! What the programs know about an interface, and what is learned on it.

/// Entries of `rp_ifaces`, a power of two.
pub const IFACES: u32 = 1024;
/// Positions that are tried for one interface.
pub const IFACE_PROBES: u32 = 4;

/// Where `ifindex` is in `rp_ifaces`: at the first of the positions for `probe` 0 to [`IFACE_PROBES`] - 1 whose
/// [`Iface::ifindex`] is `ifindex`. The agent inserts at the first free one (`ifindex` 0), and frees by writing
/// zeros. An array, because its lookup is inlined by the JIT where a hash costs a call for every packet.
#[inline(always)]
#[must_use]
pub const fn iface_index(ifindex: u32, probe: u32) -> u32 {
    ifindex.wrapping_add(probe) & (IFACES - 1)
}

/// What the programs know about an interface that they are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Iface {
    /// 0: the position is free.
    pub ifindex: u32,
    /// 1 to [`SLOTS`](super::SLOTS) - 1: its counters, and its group in the tries.
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

const _: () = {
    assert!(size_of::<Iface>() == 36);
    assert!(size_of::<MacKey>() == 12);
    assert!(size_of::<Prefix4>() == 8);
    assert!(size_of::<Prefix6>() == 20);
    assert!(size_of::<PortPrefix>() == 8);
};
