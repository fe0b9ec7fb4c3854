//! Ways that replies leave by.

/// A way that requests come in by and replies leave by.
///
/// `ifindex`, `kind`, `family` and the gateway of an id that flows may hold never change (an array write can be
/// read half-done): another gateway is another id. `state`, `mtu`, `flags` change in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Path {
    /// 0: the id is free.
    pub ifindex: u32,
    /// [`Iface::slot`](super::Iface::slot) of the interface: its counters.
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
    /// [`Iface::zone`](super::Iface::zone) of the interface.
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

const _: () = {
    assert!(size_of::<Path>() == 64);
};
