//! Messages put together by hand, field by field as the kernel's headers lay them out: what no capture holds.

use std::net::IpAddr;

use super::*;
use crate::types::{Family, IfIndex, Label, Metric, Mtu, NexthopId, Protocol, RouteKey, RouteKind, TableId};
use crate::update::{
    Encap, Flavors, GroupMember, Nexthop, NexthopBody, NexthopGroup, Resilient, Route, Seg6Local,
    Seg6LocalAction, Target, Update,
};

thread_local! {
    /// Attributes that were looked at, with the ends of lists.
    pub(super) static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const NEWNEIGH: u16 = 28;
const NEWNEXTHOP: u16 = 104;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0xaa);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

fn rtmsg(family: u8, dst_len: u8, table: u8, kind: u8, flags: u32) -> Vec<u8> {
    let mut bytes = vec![family, dst_len, 0, 0, table, 186, 0, kind];
    bytes.extend(flags.to_ne_bytes());
    bytes
}

fn route_of(parts: &[Vec<u8>]) -> Route {
    match decode_message(NEWROUTE, &parts.concat()).unwrap() {
        Update::Route(route) => route,
        other => panic!("{other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn dst4() -> Vec<u8> {
    attribute(1, &[192, 0, 2, 0])
}

#[test]
fn tables_over_255_are_in_an_attribute() {
    let route = route_of(&[rtmsg(2, 24, 0, 6, 0), dst4(), number(15, 70_000), number(6, 20)]);
    assert_eq!(route.key, RouteKey::new(TableId(70_000), "192.0.2.0/24".parse().unwrap()));
    assert_eq!(
        (route.kind, route.target, route.metric),
        (RouteKind::Blackhole, Target::None, Some(Metric(20)))
    );
}

#[test]
fn a_single_nexthop_with_everything() {
    let mut via = 10u16.to_ne_bytes().to_vec();
    via.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    let metrics = [number(4, 3), number(2, 1400)].concat();
    let route = route_of(&[
        rtmsg(2, 24, 254, 1, 4),
        dst4(),
        attribute(8 | 0x8000, &metrics),
        number(11, 77),
        attribute(18, &via),
        number(4, 3),
        attribute(7, &[192, 0, 2, 1]),
    ]);
    let hop = Nexthop { onlink: true, ..Nexthop::new(Some(ip("fe80::9")), Some(IfIndex(3))) };
    assert_eq!(route.target, Target::Nexthops(Box::new([hop])));
    assert_eq!((route.mtu, route.realm, route.flags), (Some(Mtu(1400)), Some(77), 0));
    assert_eq!(route.preferred_source, Some(ip("192.0.2.1")));
    assert_eq!(
        Update::Route(route).to_string(),
        "192.0.2.0/24 via inet6 fe80::9 dev if3 onlink proto bgp src 192.0.2.1 realm 77 mtu 1400"
    );
}

#[test]
fn multipath_with_weights_labels_and_none_at_all() {
    let entry = |hops: u8, attributes: Vec<u8>| {
        let mut bytes = u16::try_from(8 + attributes.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend([0, hops]);
        bytes.extend(2u32.to_ne_bytes());
        bytes.extend(attributes);
        bytes
    };
    // Labels 100 and 200, bottom of stack on the second.
    let stack = attribute(1, &[0x00, 0x06, 0x40, 0x00, 0x00, 0x0c, 0x81, 0x00]);
    let push = [attribute(21, &1u16.to_ne_bytes()), attribute(22 | 0x8000, &stack)].concat();
    let hops = [entry(255, attribute(5, &[10, 0, 1, 2])), entry(0, push)].concat();
    let route = route_of(&[rtmsg(2, 24, 254, 1, 0), dst4(), attribute(9 | 0x8000, &hops)]);
    let first = Nexthop { weight: 256, ..Nexthop::new(Some(ip("10.0.1.2")), Some(IfIndex(2))) };
    let labels = Encap::Mpls([Label(100), Label(200)].into_iter().collect());
    let second = Nexthop { encap: Some(Box::new(labels)), ..Nexthop::new(None, Some(IfIndex(2))) };
    assert_eq!(route.target, Target::Nexthops(Box::new([first, second])));

    let empty = route_of(&[rtmsg(2, 24, 254, 1, 0), dst4(), attribute(9 | 0x8000, &[])]);
    assert_eq!(empty.target, Target::Nexthops(Box::new([])), "no way out, and no crash");
}

#[test]
fn the_kernels_own_dumps_decode() {
    // `ip route show`: the default route by nexthop object, with the object's content beside the id.
    let route = route_of(&[
        rtmsg(2, 0, 254, 1, 0),
        number(15, 254),
        number(30, 7),
        attribute(5, &[10, 0, 1, 2]),
        number(4, 2),
        attribute(12, &[0; 32]),
    ]);
    assert_eq!(route.key.dst.to_string(), "0.0.0.0/0");
    assert_eq!(route.target, Target::Nexthop(NexthopId(7)));
    assert_eq!(route.to_string(), "default nhid 7 proto bgp");
}

#[test]
fn a_label_switched_path() {
    let mut via = 2u16.to_ne_bytes().to_vec();
    via.extend([10, 0, 1, 2]);
    let body = [
        rtmsg(28, 20, 254, 1, 0),
        attribute(1, &[0x00, 0x3e, 0x81, 0x00]),
        attribute(19, &[0x00, 0x7d, 0x01, 0x00]),
        attribute(18, &via),
        number(4, 2),
    ]
    .concat();
    let update = decode_message(NEWROUTE, &body).unwrap();
    assert_eq!(update.to_string(), "lsp 1000 proto bgp as to 2000 via inet 10.0.1.2 dev if2");
    assert!(
        matches!(decode_message(DELROUTE, &body[..20]), Ok(Update::LspDel(lsp)) if lsp.label == Label(1000))
    );
    let unlabelled = decode_message(NEWROUTE, &rtmsg(28, 20, 254, 1, 0));
    assert!(matches!(unlabelled, Err(DecodeError::Invalid { what: Invalid::LspWithoutLabel, .. })));
}

fn nexthop_of(family: u8, attributes: &[Vec<u8>]) -> NexthopBody {
    let body = [&[vec![family, 0, 11, 0, 0, 0, 0, 0]], attributes].concat().concat();
    match decode_message(NEWNEXTHOP, &body).unwrap() {
        Update::Nexthop(object) => {
            assert_eq!((object.id, object.protocol), (NexthopId(5), Protocol::ZEBRA));
            assert_eq!(object.family, Family::from_wire(family));
            object.body
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn groups_have_weights_of_16_bits_and_may_be_resilient() {
    let mut members = 1u32.to_ne_bytes().to_vec();
    members.extend([0xff, 0x01, 0, 0]);
    members.extend(2u32.to_ne_bytes());
    members.extend([0, 0, 0, 0]);
    let buckets = [attribute(1, &32u16.to_ne_bytes()), number(2, 60_000), number(3, 0)].concat();
    let group = [
        number(1, 5),
        attribute(2, &members),
        attribute(12 | 0x8000, &buckets),
        attribute(3, &1u16.to_ne_bytes()),
    ];
    let expected = NexthopGroup {
        members: [(1, 512), (2, 1)]
            .map(|(id, weight)| GroupMember { id: NexthopId(id), weight })
            .into_iter()
            .collect(),
        resilient: Some(Resilient { buckets: Some(32), idle_timer: Some(60_000), unbalanced_timer: Some(0) }),
    };
    assert_eq!(nexthop_of(0, &group), NexthopBody::Group(expected));
    assert_eq!(nexthop_of(2, &[number(1, 5), attribute(4, &[])]), NexthopBody::Blackhole);
}

fn encap_of(encap_type: u16, content: &[u8]) -> Encap {
    let attributes =
        [number(1, 5), number(5, 2), attribute(7, &encap_type.to_ne_bytes()), attribute(8 | 0x8000, content)];
    match nexthop_of(10, &attributes) {
        NexthopBody::Single(hop) => *hop.encap.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn encapsulations() {
    assert_eq!(encap_of(100, &number(0, 5000)), Encap::Vxlan { vni: 5000 });
    let ip_tunnel = [attribute(1, &5000u64.to_be_bytes()), attribute(2, &[192, 0, 2, 9])].concat();
    let expected = Encap::Ip { id: Some(5000), dst: Some("192.0.2.9".parse().unwrap()), src: None };
    assert_eq!(encap_of(2, &ip_tunnel), expected);
    let flavors = [number(1, 0x12), attribute(2, &[32]), attribute(3, &[16])].concat();
    let local = [number(1, 8), number(9, 1001), attribute(11 | 0x8000, &flavors)].concat();
    let operations = Flavors::PSP | Flavors::NEXT_CSID;
    let expected = Seg6Local {
        action: Seg6LocalAction::END_DT4,
        vrf_table: Some(TableId(1001)),
        flavors: Some(Flavors { operations, block_bits: Some(32), node_function_bits: Some(16) }),
        ..Seg6Local::default()
    };
    assert_eq!(encap_of(7, &local), Encap::Seg6Local(expected));
    assert_eq!(encap_of(9, &[1, 2, 3]), Encap::Other { encap_type: 9, data: Box::new([1, 2, 3]) });
}

#[test]
fn evpn_macs() {
    let mut body = vec![7, 0, 0, 0, 9, 0, 0, 0, 0x40, 0, 0x16, 0];
    body[4..8].copy_from_slice(&9u32.to_ne_bytes());
    body.extend(attribute(12, &[186]));
    body.extend(attribute(2, &[2, 0, 0, 0, 0, 1]));
    body.extend(attribute(1, &[192, 0, 2, 9]));
    body.extend(attribute(5, &100u16.to_ne_bytes()));
    let update = decode_message(NEWNEIGH, &body).unwrap();
    assert_eq!(
        update.to_string(),
        "neighbor bridge lladdr 02:00:00:00:00:01 dev if9 vlan 100 dst 192.0.2.9 proto bgp"
    );
}

#[test]
fn what_is_unknown_is_kept_raw_or_counted() {
    let multicast = rtmsg(129, 32, 254, 5, 0);
    assert!(matches!(decode_message(NEWROUTE, &multicast), Ok(Update::Raw(raw)) if *raw.body == *multicast));
    let mut payload = Vec::new();
    let body = [rtmsg(2, 24, 254, 1, 0), dst4(), number(30, 1), number(99, 1)].concat();
    payload.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
    payload.extend(NEWROUTE.to_ne_bytes());
    payload.extend([0; 6]);
    payload.extend(77u32.to_ne_bytes());
    payload.extend(body);
    let summary = decode(&payload, drop).unwrap();
    assert_eq!(summary, Summary { pid: Some(77), messages: 1, raw_messages: 0, unknown_attributes: 1 });
}

#[test]
fn errors_name_what_is_wrong() {
    let cases: [(u16, Vec<u8>, &str); 10] = [
        (NEWROUTE, vec![2; 11], "body of 11 bytes, at least 12 needed"),
        (NEWROUTE, [rtmsg(2, 33, 254, 1, 0), dst4()].concat(), "prefix length 33"),
        (NEWROUTE, rtmsg(2, 24, 254, 1, 0), "prefix of length 24 without an address"),
        (NEWROUTE, [rtmsg(10, 24, 254, 1, 0), dst4()].concat(), "without an address of its family"),
        (NEWROUTE, [rtmsg(2, 24, 254, 1, 0), vec![9, 0, 1, 0, 1, 2, 3, 4]].concat(), "8 bytes are left"),
        (NEWROUTE, [rtmsg(2, 24, 254, 1, 0), vec![3, 0, 1, 0]].concat(), "attribute 1: length 3"),
        (NEWROUTE, [rtmsg(2, 24, 254, 1, 0), dst4(), attribute(5, &[1; 5])].concat(), "4 or 16 expected"),
        (
            NEWROUTE,
            [rtmsg(2, 24, 254, 1, 0), dst4(), attribute(9, &[9, 0, 0, 0, 0, 0, 0, 0])].concat(),
            "multipath",
        ),
        (NEWNEXTHOP, vec![0; 8], "without an id"),
        (NEWNEXTHOP, [vec![0; 8], number(1, 5), attribute(2, &[0; 9])].concat(), "a multiple of 8 expected"),
    ];
    for (nlmsg_type, body, expected) in cases {
        let error = decode_message(nlmsg_type, &body).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let in_payload = decode(&[20, 0, 0, 0, 24, 0, 0, 0], drop).unwrap_err();
    assert_eq!(in_payload, DecodeError::MessageLength { at: 0, len: 16, available: 8 });
}

#[test]
fn feedback_works_where_zebra_reads_it() {
    for (major, minor, works) in
        [(8, 4, false), (8, 5, true), (10, 2, true), (10, 3, false), (10, 4, true), (11, 0, true)]
    {
        assert_eq!(feedback_support(major, minor).is_ok(), works, "{major}.{minor}");
    }
}

/// How many attributes a message makes the decoder look at.
fn steps_of(nlmsg_type: u16, body: &[u8]) -> usize {
    STEPS.with(|steps| steps.set(0));
    // Whatever it is: what counts is the work.
    let _ = decode_message(nlmsg_type, body);
    STEPS.with(std::cell::Cell::get)
}

/// Each attribute is looked at once, at its level: counted, for a clock would tell of the machine.
#[test]
fn the_work_is_linear_in_the_length() {
    type Make = fn(usize) -> (u16, Vec<u8>);
    let messages: [Make; 5] = [
        |n| (NEWROUTE, [rtmsg(2, 0, 254, 1, 0), number(6, 20).repeat(n)].concat()),
        |n| {
            (
                NEWROUTE,
                [
                    rtmsg(10, 0, 254, 1, 0),
                    attribute(9, &[&[16, 0, 0, 0, 2, 0, 0, 0][..], &number(5, 1)].concat().repeat(n)),
                ]
                .concat(),
            )
        },
        |n| {
            (
                NEWROUTE,
                [rtmsg(2, 0, 254, 1, 0), attribute(21, &[7, 0]), attribute(22, &number(3, 9).repeat(n))]
                    .concat(),
            )
        },
        |n| {
            (
                NEWNEXTHOP,
                [
                    vec![0; 8],
                    number(1, 1),
                    attribute(2, &[7; 8].repeat(n)),
                    attribute(12, &number(2, 1).repeat(n)),
                ]
                .concat(),
            )
        },
        |n| (NEWNEIGH, [vec![7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], number(9, 1).repeat(n)].concat()),
    ];
    for (at, make) in messages.into_iter().enumerate() {
        for count in [500, 2000] {
            let (nlmsg_type, body) = make(count);
            let steps = steps_of(nlmsg_type, &body);
            assert!(
                steps >= count && steps <= 2 * count + 20,
                "message {at}: {steps} steps for {count} parts"
            );
        }
    }
}
