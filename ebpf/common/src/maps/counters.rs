//! What the programs tell: events and counters.

/// Bytes of `rp_events`.
pub const EVENT_BYTES: u32 = 256 * 1024;

/// Something that happened to a flow, as a sample: at most [`Globals::events`](super::Globals::events) for each CPU and
/// gate.
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
    assert!(size_of::<Event>() == 52);
    assert!(size_of::<EventBudget>() == 16);
    assert!(size_of::<Counters>() == 256);
};
