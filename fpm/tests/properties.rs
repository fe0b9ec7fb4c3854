//! Properties that hold for any input.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use zebra_fpm::frame::{Encoding, FrameDecoder, write_frame};
use zebra_fpm::netlink::{self, Attributes, decode_message, encode};
use zebra_fpm::{
    Decoder, Encap, Family, Flavors, GroupMember, IfIndex, Label, Lsp, LspNexthop, Metric, Mtu, Neighbor,
    Nexthop, NexthopBody, NexthopGroup, NexthopId, NexthopObject, Protocol, RawMessage, Resilient, Route,
    RouteDel, RouteKey, RouteKind, Seg6Local, Seg6LocalAction, StreamError, TableId, Target, Update,
    protobuf,
};

const PID: u32 = 7;

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<Ipv4Addr>(), 0..=32u8).prop_map(|(ip, len)| IpNet::V4(Ipv4Net::new_assert(ip, len).trunc())),
        prefix6().prop_map(IpNet::V6),
    ]
}

fn prefix6() -> impl Strategy<Value = Ipv6Net> {
    (any::<Ipv6Addr>(), 0..=128u8).prop_map(|(ip, len)| Ipv6Net::new_assert(ip, len).trunc())
}

fn key() -> impl Strategy<Value = RouteKey> {
    let source = prefix6().prop_filter("length 0 means none", |source| source.prefix_len() > 0);
    (1..100_000u32, prefix(), option::of(source)).prop_map(|(table, dst, src)| {
        let src = src.filter(|_| matches!(dst, IpNet::V6(_)));
        RouteKey { table: TableId(table), vrf: None, dst, src }
    })
}

fn ifindex() -> impl Strategy<Value = Option<IfIndex>> {
    option::of((1..5000u32).prop_map(IfIndex))
}

fn labels() -> impl Strategy<Value = zebra_fpm::Labels> {
    vec((0..1u32 << 20).prop_map(Label), 1..6).prop_map(Into::into)
}

fn seg6_local() -> BoxedStrategy<Encap> {
    let flavors = (1..32u32, option::of(any::<u8>()), option::of(any::<u8>())).prop_map(
        |(operations, block_bits, node_function_bits)| Flavors { operations, block_bits, node_function_bits },
    );
    let tables = (option::of(any::<u32>().prop_map(TableId)), option::of(any::<u32>().prop_map(TableId)));
    let nexthops = (option::of(any::<Ipv4Addr>()), option::of(any::<Ipv6Addr>()));
    (1..17u32, tables, nexthops, ifindex(), ifindex(), option::of(flavors))
        .prop_map(|(action, (table, vrf_table), (nh4, nh6), oif, iif, flavors)| {
            let action = Seg6LocalAction(action);
            Encap::Seg6Local(Seg6Local { action, table, vrf_table, vrf: None, nh4, nh6, oif, iif, flavors })
        })
        .boxed()
}

fn encap() -> BoxedStrategy<Encap> {
    prop_oneof![
        labels().prop_map(Encap::Mpls),
        (0..5u32, vec(any::<Ipv6Addr>(), 1..5), option::of(any::<Ipv6Addr>()))
            .prop_map(|(mode, segments, source)| Encap::Seg6 { mode, segments: segments.into(), source }),
        seg6_local(),
        (0..1u32 << 24).prop_map(|vni| Encap::Vxlan { vni }),
        (option::of(any::<u64>()), option::of(any::<Ipv4Addr>()), option::of(any::<Ipv4Addr>()))
            .prop_map(|(id, dst, src)| Encap::Ip { id, dst, src }),
        (option::of(any::<u64>()), option::of(any::<Ipv6Addr>()), option::of(any::<Ipv6Addr>()))
            .prop_map(|(id, dst, src)| Encap::Ip6 { id, dst, src }),
        (200..300u16, vec(any::<u8>(), 0..20))
            .prop_map(|(encap_type, data)| Encap::Other { encap_type, data: data.into() }),
    ]
    .boxed()
}

fn nexthop(weights: std::ops::RangeInclusive<u32>) -> BoxedStrategy<Nexthop> {
    (option::of(any::<IpAddr>()), (1..5000u32), weights, any::<bool>(), option::weighted(0.3, encap()))
        .prop_map(|(gateway, index, weight, onlink, encap)| Nexthop {
            gateway,
            ifindex: Some(IfIndex(index)),
            weight,
            onlink,
            encap: encap.map(Box::new),
        })
        .boxed()
}

fn kind_and_target() -> BoxedStrategy<(RouteKind, Target)> {
    prop_oneof![
        prop_oneof![Just(RouteKind::Blackhole), Just(RouteKind::Unreachable), Just(RouteKind::Prohibit)]
            .prop_map(|kind| (kind, Target::None)),
        any::<u32>().prop_map(|id| (RouteKind::Unicast, Target::Nexthop(NexthopId(id)))),
        vec(nexthop(1..=256), 0..5).prop_map(|hops| (RouteKind::Unicast, Target::Nexthops(hops.into()))),
    ]
    .boxed()
}

fn route() -> BoxedStrategy<Update> {
    let extras = (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<IpAddr>()),
        option::of(1..256u32),
    );
    (key(), any::<u8>(), kind_and_target(), extras)
        .prop_map(|(key, protocol, (kind, target), (metric, mtu, preferred_source, realm))| {
            Update::Route(Route {
                metric: metric.map(Metric),
                mtu: mtu.map(Mtu),
                preferred_source,
                realm,
                ..Route::new(key, Protocol(protocol), kind, target)
            })
        })
        .boxed()
}

fn nexthop_object() -> BoxedStrategy<Update> {
    let member =
        (any::<u32>(), 1..=65536u32).prop_map(|(id, weight)| GroupMember { id: NexthopId(id), weight });
    let resilient = (option::of(any::<u16>()), option::of(any::<u32>()), option::of(any::<u32>())).prop_map(
        |(buckets, idle_timer, unbalanced_timer)| Resilient { buckets, idle_timer, unbalanced_timer },
    );
    let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    let body = prop_oneof![
        (family.clone(), nexthop(1..=1)).prop_map(|(family, hop)| (family, NexthopBody::Single(hop))),
        family.prop_map(|family| (family, NexthopBody::Blackhole)),
        (vec(member, 1..8), option::of(resilient)).prop_map(|(members, resilient)| {
            (Family::Unspec, NexthopBody::Group(NexthopGroup { members: members.into(), resilient }))
        }),
    ];
    (any::<u32>(), any::<u8>(), body)
        .prop_map(|(id, protocol, (family, body))| {
            Update::Nexthop(NexthopObject { id: NexthopId(id), protocol: Protocol(protocol), family, body })
        })
        .boxed()
}

fn neighbor() -> BoxedStrategy<Neighbor> {
    let head = (ifindex(), any::<u16>(), any::<u8>(), any::<u8>());
    let tail = (
        option::of(any::<u16>()),
        option::of(any::<u32>()),
        ifindex(),
        option::of(any::<u32>()),
        option::of(any::<u8>()),
    );
    (head, option::of(any::<[u8; 6]>()), option::of(any::<IpAddr>()), tail)
        .prop_map(|((ifindex, state, flags, kind), lladdr, dst, (vlan, vni, master, nexthop, protocol))| {
            Neighbor {
                family: Family::Bridge,
                ifindex,
                state,
                flags,
                kind,
                lladdr: lladdr.map(|lladdr| lladdr.as_slice().into()),
                dst,
                vlan,
                vni,
                master,
                nexthop: nexthop.map(NexthopId),
                protocol: protocol.map(Protocol),
            }
        })
        .boxed()
}

fn lsp() -> BoxedStrategy<Lsp> {
    let hop = (nexthop(1..=256), option::of(labels()))
        .prop_map(|(nexthop, labels)| LspNexthop { nexthop, labels: labels.unwrap_or_default() });
    (0..1u32 << 20, any::<u8>(), vec(hop, 0..4))
        .prop_map(|(label, protocol, nexthops)| Lsp {
            label: Label(label),
            protocol: Protocol(protocol),
            table: TableId::MAIN,
            kind: RouteKind::Unicast,
            nexthops: nexthops.into(),
        })
        .boxed()
}

fn update() -> BoxedStrategy<Update> {
    prop_oneof![
        6 => route(),
        2 => (key(), any::<u8>(), option::of(any::<u32>())).prop_map(|(key, protocol, metric)| {
            Update::RouteDel(RouteDel { key, protocol: Some(Protocol(protocol)), metric: metric.map(Metric) })
        }),
        3 => nexthop_object(),
        1 => (any::<u32>(), any::<u8>())
            .prop_map(|(id, protocol)| Update::NexthopDel { id: NexthopId(id), protocol: Protocol(protocol) }),
        1 => neighbor().prop_map(|neighbor| Update::Neighbor(Box::new(neighbor))),
        1 => neighbor().prop_map(|neighbor| Update::NeighborDel(Box::new(neighbor))),
        1 => lsp().prop_map(|lsp| Update::Lsp(Box::new(lsp))),
        1 => lsp().prop_map(|lsp| Update::LspDel(Box::new(lsp))),
        1 => (200..300u16, vec(any::<u8>(), 0..40)).prop_map(|(nlmsg_type, body)| {
            Update::Raw(Box::new(RawMessage { nlmsg_type: Some(nlmsg_type), body: body.into() }))
        }),
    ].boxed()
}

fn frame(updates: &[Update]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(Encoding::Netlink, &mut out, |payload| {
        for update in updates {
            encode(update, PID, payload);
        }
    })
    .unwrap();
    out
}

/// What a stream means, given to the decoder in pieces of these sizes (the last for all that is left).
fn decode_in_pieces(mut stream: &[u8], sizes: &[usize]) -> (Vec<Update>, Result<(), StreamError>) {
    let mut decoder = Decoder::new();
    let mut updates = Vec::new();
    let mut sizes = sizes.iter().copied();
    loop {
        let size = sizes.next().unwrap_or(stream.len()).min(stream.len());
        let (piece, rest) = stream.split_at(size);
        decoder.frames().extend(piece);
        stream = rest;
        loop {
            match decoder.next_frame(&mut updates) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => return (updates, Err(error)),
            }
        }
        if stream.is_empty() {
            return (updates, decoder.finish());
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(updates in vec(update(), 1..6)) {
        let (decoded, end) = decode_in_pieces(&frame(&updates), &[]);
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(decoded, updates);
    }

    #[test]
    fn any_split_into_reads_means_the_same(
        frames in vec(vec(update(), 1..3), 1..8),
        damage in option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        sizes in vec(1..40usize, 0..60),
    ) {
        let mut stream: Vec<u8> = frames.iter().flat_map(|updates| frame(updates)).collect();
        if let Some((at, byte)) = damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        prop_assert_eq!(decode_in_pieces(&stream, &sizes), decode_in_pieces(&stream, &[]));
    }

    #[test]
    fn mutated_captures_never_panic(
        capture in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
    ) {
        let captures = captures();
        let mut stream = capture.get(&captures).clone();
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream.truncate(len.index(stream.len() + 1));
        let (updates, end) = decode_in_pieces(&stream, &[]);
        if let Err(error) = end {
            prop_assert!(error.offset() <= stream.len() as u64);
        }
        for update in &updates {
            let printed = update.to_string();
            prop_assert!(!printed.is_empty());
            let record = zebra_fpm::Record { encoding: Encoding::Netlink, update };
            prop_assert!(serde_json::to_value(record).is_ok_and(|value| has_no_null(&value)));
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic(bytes in vec(any::<u8>(), 0..200), nlmsg_type in any::<u16>()) {
        let _ = netlink::decode(&bytes, drop);
        let _ = protobuf::decode(&bytes);
        for known in [24, 25, 28, 29, 104, 105, nlmsg_type] {
            let _ = decode_message(known, &bytes);
        }
        prop_assert!(Attributes::new(&bytes).count() <= bytes.len() / 4 + 1);
        let mut frames = FrameDecoder::new();
        frames.extend(&bytes);
        while let Ok(Some(frame)) = frames.next_frame() {
            prop_assert!(frame.payload.len() <= bytes.len());
        }
    }
}

fn has_no_null(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => false,
        serde_json::Value::Array(items) => items.iter().all(has_no_null),
        serde_json::Value::Object(fields) => fields.values().all(has_no_null),
        _ => true,
    }
}

fn captures() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    [dir.clone(), dir.join("protobuf"), dir.join("oldmodule-netlink")]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| fs::read(path).unwrap())
        .filter(|bytes| !bytes.is_empty())
        .collect()
}
