use super::*;

fn message(kind: message::Type) -> fpm::Message {
    fpm::Message { r#type: Some(kind.into()), ..fpm::Message::default() }
}

fn prefix_key(length: u32, bytes: &[u8]) -> Option<fpm::RouteKey> {
    Some(fpm::RouteKey { prefix: Some(qpb::L3Prefix { length: Some(length), bytes: Some(bytes.to_vec()) }) })
}

fn add(length: u32, bytes: &[u8]) -> fpm::AddRoute {
    fpm::AddRoute {
        vrf_id: Some(3),
        address_family: Some(qpb::AddressFamily::Ipv4.into()),
        key: prefix_key(length, bytes),
        route_type: Some(RouteType::Normal.into()),
        protocol: Some(qpb::Protocol::Bgp.into()),
        metric: Some(-1),
        ..fpm::AddRoute::default()
    }
}

fn decode_add(add: fpm::AddRoute) -> Result<Update, ProtobufError> {
    decode(&fpm::Message { add_route: Some(add), ..message(message::Type::AddRoute) }.encode_to_vec())
}

fn address(bytes: [u8; 16]) -> Option<qpb::Ipv6Address> {
    Some(qpb::Ipv6Address { bytes: Some(bytes.to_vec()) })
}

#[test]
fn a_route_says_its_vrf_and_an_unsigned_metric() {
    let Update::Route(route) = decode_add(add(15, &[198, 18])).unwrap() else { panic!("not a route") };
    assert_eq!(route.key.to_string(), "198.18.0.0/15 vrf 3");
    assert_eq!((route.metric, route.protocol), (Some(Metric(u32::MAX)), Protocol::BGP));
    assert_eq!(route.target, Target::Nexthops(Box::new([])), "without nexthops there is no way out");
}

#[test]
fn damaged_routes_are_errors() {
    assert_eq!(decode_add(add(33, &[1; 4])), Err(ProtobufError::PrefixLength(33)));
    assert_eq!(decode_add(add(300, &[1; 4])), Err(ProtobufError::PrefixLength(300)));
    assert_eq!(decode_add(add(24, &[1; 2])), Err(ProtobufError::AddressSize { len: 2, expected: 3 }));
    assert_eq!(decode_add(add(24, &[1; 5])), Err(ProtobufError::AddressSize { len: 5, expected: 3 }));
    let without = |change: fn(&mut fpm::AddRoute)| {
        let mut add = add(24, &[1; 3]);
        change(&mut add);
        decode_add(add)
    };
    assert_eq!(without(|add| add.vrf_id = None), Err(ProtobufError::Missing("vrf_id")));
    assert_eq!(without(|add| add.key = None), Err(ProtobufError::Missing("key.prefix")));
    assert_eq!(without(|add| add.address_family = None), Err(ProtobufError::Missing("address_family")));
    assert_eq!(without(|add| add.protocol = None), Err(ProtobufError::Missing("protocol")));
    assert_eq!(
        decode(&message(message::Type::AddRoute).encode_to_vec()),
        Err(ProtobufError::Missing("add_route"))
    );
    assert!(matches!(decode(&[0xff; 7]), Err(ProtobufError::Wire(_))));
}

#[test]
fn unknown_messages_are_kept() {
    let payload = [0x08, 0x63];
    let raw = RawMessage { nlmsg_type: None, body: payload.into() };
    assert_eq!(decode(&payload), Ok(Update::Raw(Box::new(raw))));
}

#[test]
fn a_vpn_sid_encapsulates() {
    let sid = [0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let hop = fpm::Nexthop {
        if_id: Some(qpb::IfIdentifier { index: Some(2), name: None }),
        address: Some(qpb::L3Address { v4: Some(qpb::Ipv4Address { value: Some(0x0a00_0102) }), v6: None }),
    };
    let add = fpm::AddRoute { srv6_vpn_sid: address(sid), nexthops: vec![hop], ..add(24, &[192, 0, 2]) };
    let update = decode_add(add).unwrap();
    assert_eq!(
        update.to_string(),
        "192.0.2.0/24 vrf 3 encap seg6 mode encap segs 1 [ fc00::1 ] via 10.0.1.2 dev if2 proto bgp metric 4294967295"
    );
}

#[test]
fn local_sids_are_routes_to_themselves() {
    let sid = [0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let with = |behavior, kind| {
        let format = fpm::SRv6SidFormat {
            locator_block_length: Some(32),
            locator_node_length: Some(16),
            function_length: Some(16),
            argument_length: Some(0),
        };
        let local = fpm::SRv6LocalSid { sid: address(sid), sid_format: Some(format), behavior };
        decode(&fpm::Message { srv6_localsid: Some(local), ..message(kind) }.encode_to_vec())
    };
    let lookup = Some(Behavior::Udt4(fpm::SRv6Lookup { vrf_id: Some(9) }));
    assert_eq!(
        with(lookup, message::Type::AddSrv6Localsid).unwrap().to_string(),
        "fc00::2 encap seg6local action End.DT4 vrf 9 flavors next-csid lblen 32 nflen 32 proto zebra"
    );
    let neighbour = fpm::Nexthop {
        if_id: Some(qpb::IfIdentifier { index: Some(4), name: None }),
        address: Some(qpb::L3Address { v4: None, v6: address([0xfe; 16]) }),
    };
    let cross = Some(Behavior::EndX(fpm::SRv6CrossConnect { nexthop: Some(neighbour) }));
    let Update::Route(route) = with(cross, message::Type::AddSrv6Localsid).unwrap() else {
        panic!("not a route")
    };
    let [hop] = route.target.nexthops() else { panic!("{route:?}") };
    let Some(Encap::Seg6Local(local)) = hop.encap.as_deref() else { panic!("{hop:?}") };
    assert_eq!((local.action, local.oif), (Seg6LocalAction::END_X, Some(IfIndex(4))));
    assert_eq!(local.nh6, Some(Ipv6Addr::from([0xfe; 16])));
    assert!(
        matches!(with(None, message::Type::DeleteSrv6Localsid), Ok(Update::RouteDel(del)) if del.key == route.key)
    );
    let missing = with(None, message::Type::AddSrv6Localsid);
    assert_eq!(missing, Err(ProtobufError::Missing("srv6_localsid.behavior")));
}
