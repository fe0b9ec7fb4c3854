//! Bounds: of routes, and of the time for which the beginning of a burst waits for its end.

use super::super::queue::{BURST, BURST_QUIET, BURST_WAIT};
use super::super::room::REMEMBERED;
use super::*;
use crate::model::ops::RouteOp;

#[test]
fn the_limit_rejects_new_prefixes_until_there_is_room() {
    let mut spec = import(5000, 254);
    spec.max_routes = 2;
    let mut bench = Bench::new(vec![spec]);
    bench.say(&[hop(11, "10.0.1.1", 2)]);
    for i in 1..=4 {
        bench.say(&[route(&format!("100.64.{i}.0/24"), 11)]);
    }
    assert_eq!(bench.fib(254).len(), 2);
    assert_eq!(bench.engine.counts().imports[0].programmed, 2);
    assert_eq!(bench.engine.counts().rejected.get(reason::MAX_ROUTES), Some(&2));
    bench.replan();
    bench.settle();
    assert_eq!(bench.via("100.64.1.0/24"), ["10.0.1.1"], "a new plan does not shuffle who is in");
    bench.say(&[withdraw("100.64.1.0/24")]);
    assert_eq!(bench.fib(254).len(), 2, "one of the others took the room");
}

#[test]
fn a_restart_neither_exceeds_the_limit_nor_shuffles_who_is_in() {
    let mut spec = import(5000, 254);
    spec.max_routes = 2;
    let mut bench = Bench::new(vec![spec]);
    let announce = |order: &[u8]| {
        let routes = order.iter().map(|i| route(&format!("100.64.{i}.0/24"), 11));
        [hop(11, "10.0.1.1", 2)].into_iter().chain(routes).collect::<Vec<_>>()
    };
    bench.say(&announce(&[1, 2]));
    bench.say(&announce(&[3, 4]));
    bench.replayed();
    let before = bench.fib(254);
    let operations = bench.operations(|bench| {
        bench.restart();
        bench.connect(PID);
        // The others come first this time.
        bench.say(&announce(&[4, 3]));
        assert_eq!(bench.fib(254).len(), 2, "what is not confirmed yet keeps its room");
        bench.say(&announce(&[2, 1]));
        bench.replayed();
    });
    assert_eq!((operations, bench.fib(254)), (0, before));
    // One of them is not announced any more: its room is free once the replay is whole.
    bench.restart();
    bench.connect(PID);
    bench.say(&announce(&[4, 3, 2]));
    bench.replayed();
    assert_eq!(bench.fib(254).len(), 2);
    assert!(bench.via("100.64.1.0/24").is_empty() && !bench.via("100.64.2.0/24").is_empty());
    // A lower limit holds for what an earlier agent left too.
    bench.intent.imports[0].max_routes = 1;
    bench.restart();
    bench.connect(PID);
    bench.say(&announce(&[4, 3, 2]));
    bench.replayed();
    assert_eq!(bench.fib(254).len(), 1);
}

#[test]
fn what_waits_is_counted_and_the_limit_with_it() {
    let mut limited = import(5000, 254);
    limited.max_routes = 3;
    let mut bench = Bench::new(vec![limited]);
    two_paths(&mut bench);
    let before = bench.engine.would_change();
    assert_eq!(before.total(), 0, "{before:?}");
    // Nobody asks for batches: what FRR says is learned and not written.
    let updates = [withdraw("100.64.1.0/24"), route("100.64.7.0/24", 11), route("100.64.8.0/24", 11)];
    bench.engine.fpm_updates(&updates, bench.now);
    let waiting = bench.engine.would_change();
    assert_eq!((waiting.add, waiting.replace, waiting.delete), (1, 0, 1), "room for one");
    bench.settle();
    assert_eq!(bench.engine.would_change().total(), 0);
    assert_eq!(bench.fib(254).len(), 3);
    bench.links.get_mut(&2).unwrap().up = false;
    bench.kernel.set_link(2, false);
    bench.replan();
    assert_eq!(bench.engine.would_change().total(), 0, "what has no way out cannot be made");
}

/// So many routes from `first` on, by the group 20.
fn burst(first: usize, count: usize) -> Vec<Update> {
    let prefix = |i: usize| format!("100.{}.{}.0/24", 64 + i / 256, i % 256);
    (first..first + count).map(|i| route(&prefix(i), 20)).collect()
}

/// FRR says so much, and all is written that need not wait.
fn tell(bench: &mut Bench, updates: &[Update]) {
    bench.engine.fpm_updates(updates, bench.now);
    bench.engine.fpm_taken(bench.now);
    while let Some(batch) = bench.engine.next_batch(bench.now) {
        bench.apply(batch);
    }
}

/// Two paths in the group 20.
fn with_group() -> Bench {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 1)])]);
    bench
}

#[test]
fn while_a_burst_grows_a_part_of_it_is_written() {
    let mut bench = with_group();
    bench.say(&burst(0, 10));
    assert_eq!(bench.fib(254).len(), 10, "a few routes wait for nothing");
    tell(&mut bench, &burst(10, BURST));
    let written = bench.fib(254).len() - 10;
    assert!((BURST / 16..BURST / 4).contains(&written), "{written} of {BURST}");
    assert_eq!(bench.engine.deadline(), Some(bench.now + BURST_QUIET), "it wakes when nothing follows");
    // A path that dies does not wait.
    let gateway = "10.0.1.1".parse().unwrap();
    bench.engine.neighbour_changed(2, gateway, Some(NeighbourState::Failed), bench.now);
    let batch = bench.engine.next_batch(bench.now).expect("the group");
    assert!(matches!(batch.ops[..], [RouteOp::ReplaceNexthop(_)]));
    bench.apply(batch);
    bench.now += BURST_QUIET;
    bench.settle();
    assert_eq!(bench.fib(254).len(), 10 + BURST);
    assert!(bench.engine.deadline().is_none_or(|at| at > bench.now), "it does not wake for what is over");
}

#[test]
fn a_burst_in_no_order_waits_for_nothing() {
    let mut bench = with_group();
    let mut updates = burst(0, BURST);
    updates.sort_by_key(|update| match update {
        Update::Route(route) => route.key.dst.to_string().bytes().rev().collect::<Vec<u8>>(),
        _ => Vec::new(),
    });
    tell(&mut bench, &updates);
    assert_eq!(bench.fib(254).len(), BURST);
}

#[test]
fn what_takes_long_to_learn_does_not_end_a_burst() {
    let mut bench = with_group();
    bench.engine.fpm_updates(&burst(0, BURST), bench.now);
    bench.now += BURST_QUIET * 2;
    bench.engine.fpm_taken(bench.now);
    while let Some(batch) = bench.engine.next_batch(bench.now) {
        bench.apply(batch);
    }
    assert!(bench.fib(254).len() < BURST / 2, "more is expected");
    bench.now += BURST_QUIET;
    bench.settle();
    assert_eq!(bench.fib(254).len(), BURST);
}

#[test]
fn a_burst_without_end_is_written_all_the_same() {
    let mut bench = with_group();
    let (began, mut fed) = (bench.now, 0);
    while bench.now - began < BURST_WAIT {
        let more = if fed == 0 { BURST } else { 10 };
        tell(&mut bench, &burst(fed, more));
        fed += more;
        assert!(bench.fib(254).len() < fed);
        bench.now += BURST_QUIET / 2;
    }
    bench.say(&burst(fed, 10));
    assert_eq!(bench.fib(254).len(), fed + 10);
}

/// A node whose range holds so few nexthop ids, four gateways, and a group of the first two.
fn with_ids(count: u32) -> Bench {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.intent.config.nexthop_ids = (4_200_000_000, 4_200_000_000 + count - 1);
    bench.restart();
    bench.connect(PID);
    bench.say(&[
        hop(11, "10.0.1.1", 2),
        hop(12, "10.0.1.2", 2),
        hop(13, "10.0.2.1", 3),
        hop(14, "10.0.2.2", 3),
    ]);
    bench.say(&[group(20, &[(11, 1), (12, 1)])]);
    bench
}

fn starving(bench: &Bench) -> bool {
    bench.engine.refused(9).iter().any(|text| text.contains("ownership.nexthopIDs"))
}

#[test]
fn a_route_that_moves_to_what_has_no_id_stays_until_one_is_free() {
    for ids in [4, 5] {
        // A gateway by itself takes two: its object, and the group. The fifth alone is of no use.
        let mut bench = with_ids(ids);
        bench.say(&[route("10.1.0.0/24", 11), route("10.3.0.0/24", 13), route("10.5.0.0/24", 11)]);
        bench.replayed();
        bench.say(&[route("10.1.0.0/24", 14)]);
        assert_eq!(bench.via("10.1.0.0/24"), ["10.0.1.1"], "with {ids} ids");
        assert_eq!((bench.engine.counts().failed, starving(&bench)), (1, true));
        assert_eq!(bench.kernel.nexthops.len(), 4, "nothing is made by halves");
        bench.say(&[withdraw("10.3.0.0/24")]);
        assert_eq!(bench.via("10.1.0.0/24"), ["10.0.2.2"], "without waiting for time or FRR");
        assert_eq!((bench.engine.counts().failed, starving(&bench)), (0, false));
    }
}

#[test]
fn what_is_refused_for_lack_of_ids_comes_when_some_are_free() {
    let mut bench = with_ids(4);
    bench.say(&[route("10.1.0.0/24", 11), route("10.2.0.0/24", 12)]);
    bench.say(&[route("10.4.0.0/24", 14), route("10.6.0.0/24", 20)]);
    bench.replayed();
    assert!(bench.via("10.4.0.0/24").is_empty() && bench.via("10.6.0.0/24").is_empty());
    let rows = bench.rows("10.4.0.0/24");
    assert_eq!((rows[0].state, bench.engine.counts().failed), (RouteState::Failed, 2));
    // An evaluation that needs no id says nothing of those that do.
    bench.say(&[route("10.7.0.0/24", 12)]);
    assert!(starving(&bench));
    bench.say(&[withdraw("10.1.0.0/24")]);
    bench.wait(61);
    assert_eq!(bench.fib(254).len() + usize::from(starving(&bench)), 4, "{:?}", bench.engine.refused(9));
    bench.say(&[withdraw("10.4.0.0/24"), withdraw("10.6.0.0/24")]);
    assert!(!starving(&bench));
}

/// The first `count` of 65,536 prefixes.
fn many(count: u16) -> Vec<Update> {
    let prefix = |number: u16| {
        let [high, low] = number.to_be_bytes();
        format!("100.{high}.{low}.0/24")
    };
    (0..count).map(|number| route(&prefix(number), 11)).collect()
}

fn withdraw_all(prefixes: &[IpNet]) -> Vec<Update> {
    prefixes.iter().map(|prefix| withdraw(&prefix.to_string())).collect()
}

/// FRR says so much, and nothing more for a while.
fn tell_all(bench: &mut Bench, updates: &[Update]) {
    tell(bench, updates);
    bench.now += BURST_QUIET;
    bench.settle();
}

#[test]
fn one_that_goes_has_one_of_the_others_looked_at() {
    let mut limited = import(5000, 254);
    limited.max_routes = 10;
    let mut bench = Bench::new(vec![limited]);
    tell_all(&mut bench, &[vec![hop(11, "10.0.1.1", 2)], many(6000)].concat());
    for _ in 0..5 {
        let gone = *bench.fib(254).keys().next().unwrap();
        bench.engine.fpm_updates(&withdraw_all(&[gone]), bench.now);
        let batch = bench.engine.next_batch(bench.now).expect("the withdrawal");
        assert_eq!(batch.ops.len(), 1);
        bench.apply(batch);
        assert_eq!(bench.engine.backlog(), 0);
        bench.engine.use_room(bench.now);
        assert_eq!(bench.engine.backlog(), 1, "of six thousand");
        bench.settle();
        assert_eq!(bench.fib(254).len(), 10);
        // It comes again, and is one of those that wait.
        bench.say(&[route(&gone.to_string(), 11)]);
        assert_eq!(bench.fib(254).len(), 10);
    }
}

#[test]
fn all_that_waits_comes_in_however_much_it_is() {
    let mut limited = import(5000, 254);
    limited.max_routes = 1500;
    let (learned, room) = (2 * REMEMBERED + 1500, 1500);
    let mut bench = Bench::new(vec![limited]);
    let updates = [vec![hop(11, "10.0.1.1", 2)], many(u16::try_from(learned).unwrap())].concat();
    tell_all(&mut bench, &updates);
    // Some of those that wait go without ever having been in.
    let waiting: Vec<IpNet> = bench.engine.rib().iter().map(|(_, _, prefix, _)| prefix).collect();
    let fib = bench.fib(254);
    let waiting: Vec<IpNet> = waiting.into_iter().filter(|prefix| !fib.contains_key(prefix)).collect();
    tell_all(&mut bench, &withdraw_all(&waiting[..2000]));
    tell_all(&mut bench, &withdraw_all(&waiting[5000..6000]));
    let mut left = learned - 3000;
    while left > 0 {
        let fib: Vec<IpNet> = bench.fib(254).keys().copied().collect();
        assert_eq!(fib.len(), left.min(room));
        tell_all(&mut bench, &withdraw_all(&fib));
        left -= fib.len();
    }
    assert!(bench.fib(254).is_empty());
}

#[test]
fn room_on_the_node_is_for_every_import() {
    let mut other = import(5001, 10500);
    other.max_routes = 2;
    let mut bench = Bench::new(vec![import(5000, 254), other]);
    bench.intent.config.max_routes_per_node = 4;
    bench.replan();
    bench.say(&[vec![hop(11, "10.0.1.1", 2)], many(3)].concat());
    for number in 1..4 {
        let key = FpmKey::new(TableId(5001), net(&format!("100.80.{number}.0/24")));
        bench.say(&[Update::Route(Route::by_nexthop(key, Protocol::BGP, FpmId(11)))]);
    }
    assert_eq!((bench.fib(254).len(), bench.fib(10500).len()), (3, 1));
    assert_eq!(bench.engine.counts().rejected.get(reason::MAX_ROUTES_PER_NODE), Some(&2));
    bench.say(&[withdraw("100.0.0.0/24")]);
    assert_eq!((bench.fib(254).len(), bench.fib(10500).len()), (2, 2));
    bench.say(&[withdraw("100.0.1.0/24"), withdraw("100.0.2.0/24")]);
    assert_eq!((bench.fib(254).len(), bench.fib(10500).len()), (0, 2), "its own limit holds");
}
