//! What is remembered of a flow, and of a fragmented packet.

use super::key::words;

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
    /// [`ticks`](super::ticks) when it was learned.
    pub born: u32,
    /// [`ticks`](super::ticks) of the last request; written once a gate.
    pub seen: u32,
    /// [`ticks`](super::ticks) of the last reply; written once a gate.
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
    /// [`Globals::generation`](super::Globals::generation), read before the lookup.
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
    /// [`Iface::zone`](super::Iface::zone)
    pub zone: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the first fragment said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fragment {
    /// [`ticks`](super::ticks)
    pub at: u32,
    /// Host order.
    pub source_port: u16,
    /// Host order.
    pub destination_port: u16,
}

const _: () = {
    assert!(size_of::<Flow6>() == 96);
    assert!(size_of::<Nexthop>() == 24);
    assert!(size_of::<Flow>() == 64);
    assert!(size_of::<FragmentKey>() == 48);
    assert!(size_of::<Fragment>() == 8);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maps::{FlowKey6, SECRET};

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
