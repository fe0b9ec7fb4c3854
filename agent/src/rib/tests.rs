use proptest::prelude::*;
use zebra_fpm::{GroupMember, IfIndex, Nexthop, NexthopBody, NexthopGroup, NexthopId, NexthopObject, VrfId};

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
    let mut rib = Rib::<()>::default();
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
    let mut rib = Rib::<()>::default();
    rib.apply(&route("10.0.0.0/24", Target::Nexthops(Box::default())));
    assert_eq!(resolved(&rib, "10.0.0.0/24"), Resolved::Unresolved(Unresolved::Empty));
}

#[test]
fn a_group_resolves_as_far_as_its_members_are_known() {
    let mut rib = Rib::<()>::default();
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
    let mut rib = Rib::<()>::default();
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
fn tables_of_a_zebra_before_are_not_announced() {
    let announce = |table: u32| {
        let key = RouteKey::new(TableId(table), net("10.0.0.0/24"));
        Update::Route(Route::new(key, Protocol::BGP, RouteKind::Blackhole, Target::None))
    };
    let tables = |rib: &Rib| {
        let mut known: Vec<u32> = rib.tables().keys().copied().collect();
        known.sort_unstable();
        (known, rib.announced_tables().iter().copied().collect::<Vec<_>>())
    };
    let mut rib = Rib::<()>::default();
    rib.apply(&announce(254));
    assert_eq!(tables(&rib), (vec![254], vec![254]));
    rib.new_generation();
    assert_eq!(tables(&rib), (vec![254], vec![]), "it is held, and nobody announces it");
    rib.apply(&announce(5000));
    assert_eq!(tables(&rib), (vec![254, 5000], vec![5000]));
    rib.apply(&announce(254));
    assert_eq!(rib.announced_tables().len(), 2, "what is announced again counts again");
}

#[test]
fn protobuf_and_the_old_module_mean_main_where_they_name_no_table() {
    let mut rib = Rib::<()>::default();
    let mut key = RouteKey::new(TableId::UNSPEC, net("10.0.0.0/24"));
    key.vrf = Some(VrfId(0));
    rib.apply(&Update::Route(Route::new(key, Protocol::BGP, RouteKind::Blackhole, Target::None)));
    assert!(rib.get(254, &net("10.0.0.0/24")).is_some());
}

#[test]
fn details_that_no_route_has_are_forgotten() {
    let mut rib = Rib::<()>::default();
    for i in 0..5000u32 {
        let hop = Nexthop::new(Some(IpAddr::from([192, 0, (i >> 8) as u8, i as u8])), Some(IfIndex(4)));
        rib.apply(&route("10.0.0.0/24", Target::Nexthops(Box::new([hop]))));
    }
    assert!(rib.details.len() <= 1100, "{} details for one route", rib.details.len());
    assert!(matches!(resolved(&rib, "10.0.0.0/24"), Resolved::Hops(_)));
}

#[test]
fn a_prefix_that_is_new_beyond_the_limit_is_refused() {
    let mut rib = Rib::<()>::default();
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
    assert!(matches!(rib.apply(&announce(0, 2)), Change::Route(_)));
    rib.apply(&Update::RouteDel(zebra_fpm::RouteDel {
        key: RouteKey::new(TableId(254), net("100.64.0.0/32")),
        protocol: None,
        metric: None,
    }));
    assert!(matches!(rib.apply(&announce(MIN_LIMIT, 1)), Change::Route(_)));
    assert_eq!((rib.len(), rib.refused()), (MIN_LIMIT, 1));
    rib.new_generation();
    assert_eq!(rib.refused(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Learn(u32, IpNet, u32),
    Withdraw(u32, IpNet),
    Enter(u16, IpNet, u32),
    Drop(u16, IpNet),
    Settle(usize),
}

/// Few prefixes, so that they meet; IPv6 ones whose first word is that of an IPv4 one.
fn some_prefix() -> impl Strategy<Value = IpNet> {
    (0..6u32, prop_oneof![Just(8u8), Just(24), Just(32)], any::<bool>()).prop_map(|(addr, len, v6)| {
        let addr = addr << 24 | addr;
        if v6 {
            ipnet::Ipv6Net::new((u128::from(addr) << 96).into(), len).unwrap().trunc().into()
        } else {
            ipnet::Ipv4Net::new(addr.into(), len).unwrap().trunc().into()
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let scope = 0..3u16;
    prop_oneof![
        (0..3u32, some_prefix(), any::<u32>()).prop_map(|(table, net, id)| Step::Learn(table, net, id)),
        (0..3u32, some_prefix()).prop_map(|(table, net)| Step::Withdraw(table, net)),
        (scope.clone(), some_prefix(), any::<u32>()).prop_map(|(to, net, value)| Step::Enter(to, net, value)),
        (scope, some_prefix()).prop_map(|(to, net)| Step::Drop(to, net)),
        (0..8usize).prop_map(Step::Settle),
    ]
}

/// Single ones, and prefixes that ascend.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ascending = prop::collection::btree_set(some_prefix(), 2..12);
    let run = (0..3u32, ascending, any::<u32>()).prop_map(|(table, prefixes, id)| {
        prefixes.into_iter().map(|net| Step::Learn(table, net, id)).collect::<Vec<_>>()
    });
    let some = prop_oneof![4 => step().prop_map(|step| vec![step]), 1 => run];
    prop::collection::vec(some, 0..100).prop_map(|some| some.concat())
}

proptest! {
    /// Routes and entries share records, and nothing of that shows.
    #[test]
    fn a_store_is_two_maps(steps in steps()) {
        let mut store: Store<u32> = Store::default();
        let (mut routes, mut entries) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
        let learned = |id| Learned {
            target: LearnedTarget::Nexthop(id),
            protocol: 186,
            generation: Generation(1),
            answer: Answer::Owed,
        };
        for step in steps {
            match step {
                Step::Learn(table, net, id) => {
                    let (slot, old) = store.learn(table, &net, learned(id)).unwrap();
                    prop_assert_eq!(old, routes.insert((table, net), learned(id)));
                    prop_assert_eq!(store.at(slot), Some((table, net, learned(id))));
                    for to in 0..3 {
                        prop_assert_eq!(store.find_beside(slot, to), store.find_entry(to, &net));
                    }
                }
                Step::Withdraw(table, net) => {
                    let slot = store.find(table, &net);
                    prop_assert_eq!(slot.is_some(), routes.remove(&(table, net)).is_some());
                    slot.into_iter().for_each(|slot| store.forget(slot));
                }
                Step::Enter(to, net, value) => {
                    // Beside a learned route where there is one.
                    let near = (0..3).find_map(|table| store.find(table, &net));
                    let slot = match near {
                        Some(slot) => store.entry_beside(slot, to),
                        None => store.entry_at(to, &net),
                    };
                    *store.entry_mut(slot.unwrap()).unwrap().1 = value;
                    entries.insert((to, net), value);
                    for table in 0..3 {
                        let found = store.learned_from(slot.unwrap(), table).map(|(_, learned)| *learned);
                        prop_assert_eq!(found, routes.get(&(table, net)).copied());
                    }
                }
                Step::Drop(to, net) => {
                    let slot = store.find_entry(to, &net);
                    prop_assert_eq!(slot.is_some(), entries.remove(&(to, net)).is_some());
                    slot.into_iter().for_each(|slot| store.drop_entry(slot));
                }
                Step::Settle(records) => store.settle(records),
            }
            for (table, net) in routes.keys() {
                prop_assert!(store.find(*table, net).is_some());
            }
        }
        let found: std::collections::BTreeMap<_, _> = store.iter().map(|(_, t, net, l)| ((t, net), *l)).collect();
        prop_assert_eq!((store.len(), found), (routes.len(), routes));
        let found: std::collections::BTreeMap<_, _> = store.entries().map(|(_, to, net, e)| ((to, net), *e)).collect();
        prop_assert_eq!(found, entries);
    }
}

#[test]
fn what_ascends_is_put_into_the_index_later() {
    let mut store: Store<()> = Store::default();
    let learned = Learned {
        target: LearnedTarget::Nexthop(1),
        protocol: 186,
        generation: Generation(1),
        answer: Answer::Owed,
    };
    let nets: Vec<IpNet> =
        (0..100u32).map(|n| ipnet::Ipv4Net::new((n << 8).into(), 24).unwrap().into()).collect();
    for net in &nets {
        store.learn(254, net, learned).unwrap();
    }
    assert_eq!(store.indexed(), 0);
    store.settle(30);
    assert_eq!(store.indexed(), 30);
    assert!(nets.iter().rev().all(|net| store.find(254, net).is_some()));
    // The end of all that is in the index is not the end of all.
    for net in &nets[..30] {
        let slot = store.find(254, net).unwrap();
        store.forget(slot);
    }
    assert_eq!((store.indexed(), store.len()), (0, 70));
    assert!(nets[30..].iter().all(|net| store.find(254, net).is_some()));
    // What takes a place within goes into the index, and one that does not follow ends it.
    for net in &nets[..30] {
        store.learn(254, net, learned).unwrap();
    }
    assert_eq!(store.indexed(), 30);
    store.learn(254, &net("0.0.0.0/0"), learned).unwrap();
    assert_eq!((store.indexed(), store.len()), (100, 101));
    for net in nets.iter().chain([&net("0.0.0.0/0")]) {
        let slot = store.find(254, net).unwrap();
        store.forget(slot);
    }
    assert_eq!((store.indexed(), store.len()), (0, 0));
}
