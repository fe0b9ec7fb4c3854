//! The wire formats, checked against bytes written by hand and against `netlink-packet-route`; the sysctl recorder.

mod sysctl;
mod wire;

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::model::{
    Family, Hop, KernelRoute, Member, NexthopBody, NexthopId, NexthopObject, Resilience, RouteKey,
    RouteTarget, Rule, RuleAction, Special,
};

/// A prefix of a family, host bits zero.
fn prefix(family: Family) -> BoxedStrategy<IpNet> {
    match family {
        Family::Ipv4 => (any::<[u8; 4]>(), 0..=32u8)
            .prop_map(|(octets, len)| IpNet::new(IpAddr::from(octets), len).expect("length").trunc())
            .boxed(),
        Family::Ipv6 => (any::<[u8; 16]>(), 0..=128u8)
            .prop_map(|(octets, len)| IpNet::new(IpAddr::from(octets), len).expect("length").trunc())
            .boxed(),
    }
}

fn address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::Ipv4 => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        Family::Ipv6 => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    }
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

/// A way out for a route of `route`: its gateway may be of the other family when the route is IPv4 (RFC 8950).
fn hop(route: Family) -> impl Strategy<Value = Hop> {
    let gateway = match route {
        Family::Ipv4 => prop_oneof![address(Family::Ipv4), address(Family::Ipv6)].boxed(),
        Family::Ipv6 => address(Family::Ipv6),
    };
    (proptest::option::of(gateway), 1..=u32::from(u16::MAX), any::<bool>()).prop_map(
        move |(gateway, ifindex, onlink)| Hop {
            gateway,
            ifindex,
            onlink,
            family: gateway.map_or(route, |gateway| Family::of_addr(&gateway)),
        },
    )
}

fn target(family: Family) -> impl Strategy<Value = RouteTarget> {
    prop_oneof![
        (1..=u32::MAX).prop_map(|id| RouteTarget::Nexthop(NexthopId(id))),
        hop(family).prop_map(|hop| RouteTarget::Inline(vec![(hop, 1)])),
        proptest::collection::vec((hop(family), 1..=256u16), 2..5).prop_map(RouteTarget::Inline),
        prop_oneof![Just(Special::Blackhole), Just(Special::Unreachable), Just(Special::Prohibit)]
            .prop_map(RouteTarget::Special),
    ]
}

fn kernel_route() -> impl Strategy<Value = KernelRoute> {
    family().prop_flat_map(|family| {
        (
            (prefix(family), 1..=u32::MAX, 1..=u32::MAX, target(family)),
            (proptest::option::of(address(family)), proptest::option::of(1..=u32::MAX)),
            (any::<u8>(), any::<bool>()),
        )
            .prop_map(
                |((prefix, table, metric, target), (preferred_source, mtu), (protocol, scope_link))| {
                    let key = RouteKey { table, prefix, metric };
                    KernelRoute { key, target, preferred_source, mtu, protocol, scope_link }
                },
            )
    })
}

fn nexthop_object() -> impl Strategy<Value = NexthopObject> {
    let single = family().prop_flat_map(|family| {
        // An object has one family: its gateway's.
        (hop(family), Just(family)).prop_filter("one family", |(hop, family)| hop.family == *family)
    });
    let member = (1..=u32::MAX, 1..=u16::MAX).prop_map(|(id, weight)| Member { id: NexthopId(id), weight });
    let body = prop_oneof![
        single.prop_map(|(hop, _)| NexthopBody::Single(hop)),
        proptest::collection::vec(member.clone(), 1..5).prop_map(NexthopBody::Group),
        (proptest::collection::vec(member, 1..5), 1..=u16::MAX, any::<u32>()).prop_map(
            |(members, buckets, idle_timer)| {
                NexthopBody::Resilient(members, Resilience { buckets, idle_timer })
            }
        ),
    ];
    (1..=u32::MAX, any::<u8>(), body).prop_map(|(id, protocol, body)| NexthopObject {
        id: NexthopId(id),
        protocol,
        body,
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        (1..=u32::MAX).prop_map(RuleAction::Lookup),
        (1..=u32::MAX).prop_map(RuleAction::Goto),
        Just(RuleAction::Nop),
        Just(RuleAction::Unreachable),
    ];
    family().prop_flat_map(move |family| {
        let some_prefix =
            || proptest::option::of(prefix(family).prop_filter("not all", |net| net.prefix_len() > 0));
        let name = || proptest::option::of("[a-z][a-z0-9.]{0,14}");
        let ports = (1..=u16::MAX, 0..100u16).prop_map(|(first, more)| (first, first.saturating_add(more)));
        (
            (1..=u32::MAX, some_prefix(), some_prefix(), name(), name()),
            (proptest::option::of(1..=255u8), proptest::option::of(ports), action.clone(), any::<u8>()),
        )
            .prop_map(
                move |(
                    (priority, source, destination, iif, oif),
                    (ip_protocol, destination_ports, action, protocol),
                )| {
                    Rule {
                        family,
                        priority,
                        source,
                        destination,
                        iif,
                        oif,
                        ip_protocol,
                        destination_ports,
                        action,
                        protocol,
                    }
                },
            )
    })
}
