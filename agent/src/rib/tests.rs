use proptest::prelude::*;
use zebra_fpm::{GroupMember, IfIndex, Nexthop, NexthopGroup, NexthopId, VrfId};

use super::*;

fn net(prefix: &str) -> IpNet {
    prefix.parse().unwrap()
}

fn single(id: u32, gateway: &str, ifindex: u32) -> Update {
    let body = NexthopBody::Single(Nexthop::new(Some(gateway.parse().unwrap()), Some(IfIndex(ifindex))));
    Update::Nexthop(NexthopObject {
        id: NexthopId(id),
        protocol: Protocol::ZEBRA,
        family: zebra_fpm::Family::Ipv4,
        body,
    })
}

fn group(id: u32, members: &[u32]) -> Update {
    let members = members.iter().map(|id| GroupMember { id: NexthopId(*id), weight: 1 }).collect();
    let body = NexthopBody::Group(NexthopGroup { members, resilient: None });
    Update::Nexthop(NexthopObject {
        id: NexthopId(id),
        protocol: Protocol::ZEBRA,
        family: zebra_fpm::Family::Unspec,
        body,
    })
}

fn route(prefix: &str, target: Target) -> Update {
    Update::Route(Route::new(
        RouteKey::new(TableId(254), net(prefix)),
        Protocol::BGP,
        RouteKind::Unicast,
        target,
    ))
}

fn resolved(rib: &Rib, prefix: &str) -> Resolved {
    let learned = rib.get(254, &net(prefix)).unwrap();
    rib.resolve(&learned, Family::Ipv4)
}

#[test]
fn connected_and_kernel_routes_are_not_learned() {
    let mut rib = Rib::default();
    let mut kernel =
        Route::by_nexthop(RouteKey::new(TableId(254), net("10.0.0.0/24")), Protocol::KERNEL, NexthopId(1));
    assert_eq!(rib.apply(&Update::Route(kernel.clone())), Change::None);
    assert_eq!((rib.len(), rib.ignored().kernel, rib.tables().len()), (0, 1, 0));
    kernel.protocol = Protocol::STATIC;
    rib.apply(&Update::Route(kernel));
    assert_eq!((rib.len(), rib.tables().get(&254)), (1, Some(&1)));
}

#[test]
fn an_empty_multipath_has_no_way_out() {
    let mut rib = Rib::default();
    rib.apply(&route("10.0.0.0/24", Target::Nexthops(Box::default())));
    assert_eq!(resolved(&rib, "10.0.0.0/24"), Resolved::Unresolved(Unresolved::Empty));
}

#[test]
fn a_group_resolves_as_far_as_its_members_are_known() {
    let mut rib = Rib::default();
    rib.apply(&group(9, &[1, 2]));
    rib.apply(&route("10.0.0.0/24", Target::Nexthop(NexthopId(9))));
    assert_eq!(resolved(&rib, "10.0.0.0/24"), Resolved::Unresolved(Unresolved::NexthopUnknown(2)));
    rib.apply(&single(2, "192.0.2.2", 5));
    assert!(matches!(resolved(&rib, "10.0.0.0/24"), Resolved::Hops(hops) if hops.len() == 1));
    rib.apply(&single(1, "192.0.2.1", 4));
    assert!(matches!(resolved(&rib, "10.0.0.0/24"), Resolved::Hops(hops) if hops.len() == 2));
    assert_eq!(rib.groups_of(1).collect::<Vec<_>>(), [9]);
    rib.apply(&group(9, &[2]));
    assert_eq!(rib.groups_of(1).count(), 0);
}

#[test]
fn ids_mean_what_they_meant_when_the_route_was_announced() {
    let mut rib = Rib::default();
    rib.apply(&single(1, "192.0.2.1", 4));
    rib.apply(&route("10.0.0.0/24", Target::Nexthop(NexthopId(1))));
    let before = resolved(&rib, "10.0.0.0/24");
    rib.new_generation();
    rib.apply(&single(1, "192.0.2.99", 5));
    assert_eq!(resolved(&rib, "10.0.0.0/24"), before);
    rib.apply(&route("10.0.1.0/24", Target::Nexthop(NexthopId(1))));
    assert_ne!(resolved(&rib, "10.0.1.0/24"), before);
    rib.sweep();
    assert!(rib.get(254, &net("10.0.0.0/24")).is_none());
    assert_eq!((rib.len(), rib.tables().get(&254)), (1, Some(&1)));
}

#[test]
fn protobuf_and_the_old_module_mean_main_where_they_name_no_table() {
    let mut rib = Rib::default();
    let mut key = RouteKey::new(TableId::UNSPEC, net("10.0.0.0/24"));
    key.vrf = Some(VrfId(0));
    rib.apply(&Update::Route(Route::new(key, Protocol::BGP, RouteKind::Blackhole, Target::None)));
    assert!(rib.get(254, &net("10.0.0.0/24")).is_some());
}

#[test]
fn details_that_no_route_has_are_forgotten() {
    let mut rib = Rib::default();
    for i in 0..5000u32 {
        let hop = Nexthop::new(Some(IpAddr::from([192, 0, (i >> 8) as u8, i as u8])), Some(IfIndex(4)));
        rib.apply(&route("10.0.0.0/24", Target::Nexthops(Box::new([hop]))));
    }
    assert!(rib.details.len() <= 1100, "{} details for one route", rib.details.len());
    assert!(matches!(resolved(&rib, "10.0.0.0/24"), Resolved::Hops(_)));
}

#[test]
fn a_prefix_that_is_new_beyond_the_limit_is_refused() {
    let mut rib = Rib::default();
    rib.set_limit(1);
    assert_eq!(rib.limit(), MIN_LIMIT);
    let announce = |number: usize, id: u32| {
        let number = u32::try_from(number).unwrap();
        let to = ipnet::Ipv4Net::new((0x6440_0000 + number).into(), 32).unwrap();
        route(&to.to_string(), Target::Nexthop(NexthopId(id)))
    };
    for number in 0..MIN_LIMIT {
        rib.apply(&announce(number, 1));
    }
    assert_eq!(rib.apply(&announce(MIN_LIMIT, 1)), Change::Ignored);
    assert_eq!((rib.len(), rib.refused()), (MIN_LIMIT, 1));
    // What is known may change and go, and what goes makes room.
    assert!(matches!(rib.apply(&announce(0, 2)), Change::Route { present: true, .. }));
    rib.apply(&Update::RouteDel(zebra_fpm::RouteDel {
        key: RouteKey::new(TableId(254), net("100.64.0.0/32")),
        protocol: None,
        metric: None,
    }));
    assert!(matches!(rib.apply(&announce(MIN_LIMIT, 1)), Change::Route { present: true, .. }));
    assert_eq!((rib.len(), rib.refused()), (MIN_LIMIT, 1));
    rib.new_generation();
    assert_eq!(rib.refused(), 0);
}

proptest! {
    #[test]
    fn a_prefix_map_is_a_map(entries in prop::collection::vec((0..4u32, any::<u32>(), 0..=32u8, any::<bool>()), 0..200)) {
        let mut map = PrefixMap::default();
        let mut model = std::collections::BTreeMap::new();
        for (scope, addr, len, v6) in entries {
            let prefix: IpNet = if v6 {
                ipnet::Ipv6Net::new((u128::from(addr) << 96).into(), len).unwrap().trunc().into()
            } else {
                ipnet::Ipv4Net::new(addr.into(), len).unwrap().trunc().into()
            };
            if addr % 3 == 0 {
                prop_assert_eq!(map.remove(scope, &prefix), model.remove(&(scope, prefix)));
            } else {
                prop_assert_eq!(map.insert(scope, &prefix, addr), model.insert((scope, prefix), addr));
            }
        }
        let found: std::collections::BTreeMap<_, _> = map.iter().map(|(s, p, v)| ((s, p), *v)).collect();
        prop_assert_eq!(found, model);
    }
}
