//! Encoders and decoders.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{Emitable as _, NetlinkMessage, NetlinkPayload, ParseableParametrized as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};
use proptest::prelude::*;

use super::super::error::Cause;
use super::super::wire::{
    Attrs, Encoder, HEADER, Message, Messages, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, RTM_DELROUTE,
    RTM_NEWROUTE,
};
use super::super::{nexthop, route, rules};
use super::{kernel_route, nexthop_object, rule};
use crate::model::{
    Family, Hop, KernelRoute, Member, NexthopBody, NexthopId, NexthopObject, RouteKey, RouteTarget, Special,
};

fn encoded(write: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::default();
    write(&mut encoder);
    encoder.bytes().to_vec()
}

fn encoded_route(route: &KernelRoute) -> Vec<u8> {
    encoded(|enc| route::encode(enc, (RTM_NEWROUTE, NLM_F_REQUEST, 9), route).expect("encodable"))
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

fn by_id(metric: u32) -> KernelRoute {
    KernelRoute {
        key: RouteKey { table: 10_000, prefix: "192.0.2.0/24".parse().expect("prefix"), metric },
        target: RouteTarget::Nexthop(NexthopId(4_200_000_000)),
        preferred_source: None,
        mtu: None,
        protocol: 201,
        scope_link: false,
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_route_by_id_is_60_bytes() {
    let expected = hex("3c000000 1800 0100 09000000 00000000
         02 18 00 00 00 c9 00 01 00000000
         0800 0100 c0000200
         0800 0f00 10270000
         0800 0600 14000000
         0800 1e00 00ea56fa");
    assert_eq!(encoded_route(&by_id(20)), expected);
}

#[test]
fn a_delete_names_protocol_metric_table_and_nexthop() {
    let bytes = encoded(|enc| route::encode(enc, (RTM_DELROUTE, 1, 1), &by_id(20)).expect("encodable"));
    assert_eq!(route::decode(&bytes[HEADER..]), Some(by_id(20)));
    assert_eq!(bytes[HEADER + 6], 255, "RT_SCOPE_NOWHERE matches any scope");
}

#[test]
fn ipv6_metric_0_is_written_as_1024() {
    let mut route = by_id(0);
    assert_eq!(route::decode(&encoded_route(&route)[HEADER..]).expect("route").key.metric, 0);
    route.key.prefix = "2001:db8::/32".parse().expect("prefix");
    assert_eq!(route::decode(&encoded_route(&route)[HEADER..]).expect("route").key.metric, 1024);
}

#[test]
fn what_cannot_be_written_leaves_no_bytes() {
    let mut encoder = Encoder::default();
    let hop = Hop { gateway: None, ifindex: 1, onlink: false, family: Family::Ipv4 };
    let mut route = by_id(1);
    for hops in [vec![], vec![(hop, 1); 9000]] {
        route.target = RouteTarget::Inline(hops);
        route::encode(&mut encoder, (RTM_NEWROUTE, 1, 1), &route).expect_err("not encodable");
        assert!(encoder.bytes().is_empty());
    }
    let other = NexthopObject { id: NexthopId(1), protocol: 201, body: NexthopBody::Other };
    nexthop::encode(&mut encoder, 1, 1, &other).expect_err("not encodable");
    assert!(encoder.bytes().is_empty());
}

#[test]
fn the_acknowledgement_is_asked_of_the_last_whole_message() {
    let mut encoder = Encoder::default();
    route::encode(&mut encoder, (RTM_NEWROUTE, 1, 1), &by_id(1)).expect("encodable");
    route::encode(&mut encoder, (RTM_NEWROUTE, 1, 2), &by_id(2)).expect("encodable");
    let mut broken = by_id(3);
    broken.target = RouteTarget::Inline(Vec::new());
    route::encode(&mut encoder, (RTM_NEWROUTE, 1, 3), &broken).expect_err("not encodable");
    encoder.acknowledge_last();
    let flags: Vec<_> = Messages(encoder.bytes()).map(|message| (message.seq, message.flags)).collect();
    assert_eq!(flags, [(1, NLM_F_REQUEST), (2, NLM_F_REQUEST | NLM_F_ACK)]);
}

#[test]
fn the_kernels_words_come_with_the_error() {
    let mut payload = (-17i32).to_ne_bytes().to_vec();
    payload.extend([0; HEADER]);
    let words = encoded(|enc| enc.attr(1, b"Nexthop id does not exist\0"));
    let capped = [payload.clone(), words.clone()].concat();
    fn message(payload: &[u8], flags: u16) -> Message<'_> {
        Message { kind: NLMSG_ERROR, flags, seq: 1, port: 0, payload }
    }
    assert_eq!(message(&capped, 0x300).verdict(), (17, Some("Nexthop id does not exist")));
    assert_eq!(message(&payload, 0x100).verdict(), (17, None));
    // Without CAP_ACK the request itself comes between: here one of 20 bytes.
    payload[4..8].copy_from_slice(&20u32.to_ne_bytes());
    let whole = [payload, vec![0; 4], words].concat();
    assert_eq!(message(&whole, 0x200).verdict(), (17, Some("Nexthop id does not exist")));
}

#[test]
fn an_error_says_cause_and_way_out() {
    let text = |errno, text| Cause { errno, text }.to_string();
    assert_eq!(
        text(libc::EPERM, None),
        "Operation not permitted (EPERM); needs CAP_NET_ADMIN in this network namespace"
    );
    assert!(text(libc::ENETUNREACH, Some("Nexthop has invalid gateway")).contains(
        "the kernel says \"Nexthop has invalid gateway\"; no connected route leads to the gateway"
    ));
}

/// What `netlink-packet-route` reads out of a message.
fn parsed(bytes: &[u8]) -> RouteMessage {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).expect("decodable");
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => route,
        other => panic!("no route: {other:?}"),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(addr) => ip(addr),
        RouteAttribute::Via(RouteVia::Inet(addr)) => Some(IpAddr::V4(*addr)),
        RouteAttribute::Via(RouteVia::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })
}

/// Translates the library's reading into our vocabulary, independently of our decoder.
fn translated(message: &RouteMessage) -> KernelRoute {
    let header = &message.header;
    let v4 = u8::from(header.address_family) == Family::Ipv4.af();
    let family = if v4 { Family::Ipv4 } else { Family::Ipv6 };
    let hop = |gateway: Option<IpAddr>, ifindex, onlink| Hop {
        gateway,
        ifindex,
        onlink,
        family: gateway.map_or(family, |gateway| Family::of_addr(&gateway)),
    };
    let any: IpAddr = if v4 { "0.0.0.0" } else { "::" }.parse().expect("address");
    let mut route = KernelRoute {
        key: RouteKey { table: header.table.into(), prefix: IpNet::new(any, 0).expect("prefix"), metric: 0 },
        target: match header.kind {
            RouteType::BlackHole => RouteTarget::Special(Special::Blackhole),
            RouteType::Unreachable => RouteTarget::Special(Special::Unreachable),
            RouteType::Prohibit => RouteTarget::Special(Special::Prohibit),
            _ => RouteTarget::Inline(Vec::new()),
        },
        preferred_source: None,
        mtu: None,
        protocol: header.protocol.into(),
        scope_link: u8::from(header.scope) == 253,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => {
                let addr = ip(addr).expect("an address");
                route.key.prefix = IpNet::new(addr, header.destination_prefix_length).expect("prefix");
            }
            RouteAttribute::Table(table) => route.key.table = *table,
            RouteAttribute::Priority(metric) => route.key.metric = *metric,
            RouteAttribute::PrefSource(addr) => route.preferred_source = ip(addr),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::NhId(id) => route.target = RouteTarget::Nexthop(NexthopId(*id)),
            RouteAttribute::Oif(ifindex) => {
                let onlink = header.flags.bits() & 4 != 0;
                let hop = hop(gateway(&message.attributes), *ifindex, onlink);
                route.target = RouteTarget::Inline(vec![(hop, 1)]);
            }
            RouteAttribute::MultiPath(hops) => {
                let each = |path: &RouteNextHop| {
                    let hop =
                        hop(gateway(&path.attributes), path.interface_index, path.flags.bits() & 4 != 0);
                    (hop, u16::from(path.hops) + 1)
                };
                route.target = RouteTarget::Inline(hops.iter().map(each).collect());
            }
            _ => {}
        }
    }
    route
}

proptest! {
    #[test]
    fn routes_read_back_as_written(route in kernel_route()) {
        let bytes = encoded_route(&route);
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(translated(&parsed(&bytes)), route.clone());
        prop_assert_eq!(route::decode(&bytes[HEADER..]), Some(route));
    }

    #[test]
    fn nexthop_objects_read_back_as_written(object in nexthop_object()) {
        let bytes = encoded(|enc| nexthop::encode(enc, 1, 1, &object).expect("encodable"));
        let message = Messages(&bytes).next().expect("one message");
        prop_assert_eq!(message.kind, 104);
        prop_assert_eq!(nexthop::decode(message.payload), Some(object));
    }

    #[test]
    fn rules_read_back_as_written(rule in rule()) {
        let message = rules::encode(&rule);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let read = RouteNetlinkMessage::parse_with_param(&bytes, 32).expect("decodable");
        let RouteNetlinkMessage::NewRule(read) = read else { panic!("no rule: {read:?}") };
        prop_assert_eq!(rules::decode(&read), Some(rule));
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = route::decode(&bytes);
        let _ = nexthop::decode(&bytes);
        prop_assert!(Attrs(&bytes).count() <= bytes.len() / 4);
        for message in Messages(&bytes) {
            prop_assert!(message.verdict().1.is_none_or(|text| !text.is_empty()));
        }
    }
}

#[test]
#[cfg(target_endian = "little")]
fn a_group_holds_weights_less_one() {
    let members = vec![Member { id: NexthopId(1), weight: 1 }, Member { id: NexthopId(2), weight: 300 }];
    let object = NexthopObject { id: NexthopId(10), protocol: 201, body: NexthopBody::Group(members) };
    let expected = hex("34000000 6800 0100 01000000 00000000
         00 00 c9 00 00000000
         0800 0100 0a000000
         1400 0200 01000000 00 00 0000 02000000 2b 01 0000");
    assert_eq!(encoded(|enc| nexthop::encode(enc, 1, 1, &object).expect("encodable")), expected);
}

#[test]
fn a_delete_request_matches_what_it_leaves_out() {
    let all = crate::model::Rule::all(Family::Ipv4, 1100, crate::model::RuleAction::Lookup(10_000), 201);
    let narrow = crate::model::Rule { iif: Some("eth1".to_owned()), ..all.clone() };
    assert!(rules::deletes(&all, &narrow), "the wide one would hit the narrow one");
    assert!(!rules::deletes(&narrow, &all));
    assert!(!rules::deletes(&all, &crate::model::Rule { protocol: 0, ..all.clone() }));
}
