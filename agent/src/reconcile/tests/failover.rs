//! Paths that die and come back: few messages, whatever the number of routes.

use zebra_fpm::Update;

use crate::intent::types::Import;
use crate::model::{Hop, Member, NeighbourState, NexthopBody, NexthopId, NexthopObject};

use super::{Bench, Engine, group, hop, import, route};

const ROUTES: usize = 1000;

fn prefix(number: usize) -> String {
    format!("100.{}.{}.0/24", 64 + number / 256, number % 256)
}

/// All routes by FRR's nexthop id.
fn all_by(id: u32) -> Vec<Update> {
    (0..ROUTES).map(|number| route(&prefix(number), id)).collect()
}

/// Two gateways on two links, a group of both, many routes by it.
fn loaded() -> Bench {
    loaded_by(import(5000, 254))
}

fn loaded_by(import: Import) -> Bench {
    let mut bench = Bench::new(vec![import]);
    bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 1)])]);
    bench.say(&all_by(20));
    bench.replayed();
    bench
}

#[test]
fn a_silent_gateway_leaves_with_one_message_and_returns_with_one() {
    let mut bench = loaded();
    let before = bench.fib(254);
    assert_eq!(bench.operations(|bench| bench.set_neighbour("10.0.1.1", 2, true)), 1);
    assert_eq!(bench.via(&prefix(7)), ["10.0.2.1"]);
    assert_eq!(bench.operations(|bench| bench.set_neighbour("10.0.1.1", 2, true)), 0, "no news");
    assert_eq!(bench.operations(|bench| bench.set_neighbour("10.0.1.1", 2, false)), 1);
    assert_eq!(bench.fib(254), before);
}

#[test]
fn a_comparison_under_way_does_not_delay_it() {
    let mut bench = loaded();
    let differences = bench.audit_while(Some(true), |bench| {
        assert_eq!(bench.operations(|bench| bench.set_neighbour("10.0.1.1", 2, true)), 1);
        assert_eq!(bench.via(&prefix(7)), ["10.0.2.1"]);
    });
    assert_eq!((differences, bench.operations(Bench::settle)), (0, 0));
}

/// The dump shows what has died since: it is not believed in that, before its objects are taken over and after.
#[test]
fn what_dies_while_it_is_dumped_is_known_to_be_dead() {
    for (late, first) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut bench = loaded();
        // Routes by the group of both paths, by a path alone, and with its gateway in the route itself.
        bench.intent.imports[0].default_route = crate::intent::types::DefaultRoute::Accept;
        bench.replan();
        bench.say(&[route("100.127.0.0/24", 11), route("0.0.0.0/0", 11)]);
        let before = bench.fib(254);
        if first {
            let synced = bench.engine.feed().synced_pid();
            bench.engine = Engine::new(&bench.intent.config, bench.now, synced);
            bench.replan();
        }
        bench.audit_while(Some(late), |bench| {
            bench.kernel.set_link(2, false);
            bench.see_link(2, false);
        });
        bench.settle();
        assert_eq!(bench.via(&prefix(7)), ["10.0.2.1"]);
        assert!(bench.via("100.127.0.0/24").is_empty() && bench.via("0.0.0.0/0").is_empty());
        bench.set_link(2, true);
        // The default route is tried again.
        bench.wait(61);
        assert_eq!(bench.fib(254), before, "late: {late}, the first comparison: {first}");
    }
}

#[test]
fn the_last_gateways_stay_when_none_answers() {
    let mut bench = loaded();
    bench.set_neighbour("10.0.1.1", 2, true);
    bench.set_neighbour("10.0.2.1", 3, true);
    assert_eq!(bench.via(&prefix(7)), ["10.0.1.1", "10.0.2.1"]);
    bench.set_neighbour("10.0.2.1", 3, false);
    assert_eq!(bench.via(&prefix(7)), ["10.0.2.1"]);
}

#[test]
fn routes_that_frr_moves_to_what_is_left_are_not_rewritten() {
    let lose_gateway: fn(&mut Bench) = |bench| bench.set_neighbour("10.0.1.1", 2, true);
    let lose_link: fn(&mut Bench) = |bench| bench.set_link(2, false);
    for lose in [lose_gateway, lose_link] {
        let mut bench = loaded();
        // A route that has had only that path all the time: its group is another one with the same content.
        bench.say(&[route("100.127.0.0/24", 12)]);
        lose(&mut bench);
        let operations = bench.operations(|bench| {
            // FRR numbers anew, route by route.
            bench.say(&[hop(32, "10.0.2.1", 3)]);
            all_by(32).chunks(100).for_each(|some| bench.say(some));
        });
        assert!(operations <= 2, "at most an object that nobody needs: {operations} operations");
        assert_eq!(bench.via(&prefix(7)), ["10.0.2.1"]);
    }
}

#[test]
fn the_return_of_a_path_is_for_those_who_want_it() {
    let mut bench = loaded();
    bench.set_neighbour("10.0.1.1", 2, true);
    bench.say(&[hop(32, "10.0.2.1", 3)]);
    bench.say(&all_by(32)[..ROUTES - 3]);
    // Three routes still want both paths, the others one: only the three move.
    let operations = bench.operations(|bench| bench.set_neighbour("10.0.1.1", 2, false));
    assert_eq!(bench.via(&prefix(0)), ["10.0.2.1"]);
    assert_eq!(bench.via(&prefix(ROUTES - 1)), ["10.0.1.1", "10.0.2.1"]);
    assert!(operations <= 6, "three routes, their group, a nexthop object: {operations} operations");
    bench.say(&all_by(20));
    assert_eq!(bench.via(&prefix(0)), ["10.0.1.1", "10.0.2.1"]);
}

#[test]
fn lodgers_in_the_minority_part_when_the_path_returns() {
    let mut bench = loaded();
    bench.set_link(2, false);
    bench.say(&[hop(32, "10.0.2.1", 3)]);
    bench.say(&all_by(32)[..3]);
    bench.set_link(2, true);
    assert_eq!(bench.via(&prefix(0)), ["10.0.2.1"]);
    assert_eq!(bench.via(&prefix(3)), ["10.0.1.1", "10.0.2.1"]);
    let fib = bench.fib(254);
    bench.restart();
    assert_eq!(bench.fib(254), fib);
}

#[test]
fn a_replacement_that_the_kernel_refuses_costs_no_route() {
    let mut bench = loaded();
    let before = bench.fib(254).len();
    // The other path's object went a moment ago, and nobody has said so yet.
    let object = bench.kernel.hop_via("10.0.2.1");
    bench.kernel.delete_nexthop(object);
    bench.set_neighbour("10.0.1.1", 2, true);
    assert_eq!(bench.fib(254).len(), before);
    bench.engine.nexthop_vanished(object, bench.now);
    bench.settle();
    assert_eq!(bench.via(&prefix(7)), ["10.0.2.1"]);
}

#[test]
fn links_that_swap_before_the_group_changes_cost_no_route() {
    // Whether the loss is heard of before or after the kernel's answer.
    for late in [true, false] {
        let mut bench = loaded();
        bench.set_link(3, false);
        let before = bench.fib(254);
        bench.kernel.set_link(3, true);
        bench.see_link(3, true);
        bench.overtaken(
            |kernel| kernel.set_link(2, false),
            |bench| {
                if !late {
                    bench.see_link(2, false);
                }
            },
        );
        assert!(bench.kernel.routes.is_empty(), "the group died with its only member");
        bench.see_link(2, false);
        bench.settle();
        assert_eq!(
            (bench.fib(254).len(), bench.via(&prefix(7))),
            (before.len(), vec!["10.0.2.1".to_owned()])
        );
        assert_eq!(bench.engine.counts().failed, 0);
        assert!(bench.engine.refused(1).is_empty(), "{:?}", bench.engine.refused(1));
        bench.set_link(2, true);
        assert_eq!(bench.via(&prefix(7)), ["10.0.1.1", "10.0.2.1"]);
    }
}

/// Somebody deletes the group while its replacement is on its way: it is made anew, and so are the routes.
#[test]
fn a_group_that_is_gone_when_its_replacement_arrives_is_made_anew() {
    for resilient in
        [None, Some(crate::api::Resilient { buckets: 64, idle_timer: crate::api::Span::from_secs(30) })]
    {
        let mut bench = loaded_by(Import { resilient, ..import(5000, 254) });
        let before = bench.fib(254);
        let is_group = |id: &&NexthopId| !matches!(bench.kernel.nexthops[*id].body, NexthopBody::Single(_));
        let group = *bench.kernel.nexthops.keys().find(is_group).unwrap();
        bench.engine.neighbour_changed(
            2,
            "10.0.1.1".parse().unwrap(),
            Some(NeighbourState::Failed),
            bench.now,
        );
        bench.overtaken(|kernel| kernel.delete_nexthop(group), |_| ());
        bench.settle();
        assert_eq!(
            (bench.fib(254).len(), bench.via(&prefix(7))),
            (before.len(), vec!["10.0.2.1".to_owned()])
        );
        // The deletion is heard of after all: nothing is believed to be lost again.
        bench.engine.nexthop_vanished(group, bench.now);
        bench.settle();
        bench.set_neighbour("10.0.1.1", 2, false);
        assert_eq!(bench.fib(254), before);
    }
}

#[test]
fn an_object_that_somebody_alters_is_mended_and_ever_less_often_where_he_insists() {
    let object = |bench: &Bench, group: bool| {
        let is = |it: &&NexthopObject| matches!(it.body, NexthopBody::Single(_)) != group;
        bench.kernel.nexthops.values().find(is).cloned().unwrap()
    };
    let elsewhere = |hop: Hop| Hop { gateway: Some("10.0.1.66".parse().unwrap()), ..hop };
    for (group, protocol) in [(false, 201), (false, 4), (true, 201)] {
        let mut bench = loaded();
        let before = bench.fib(254);
        let alter = |bench: &mut Bench, heard| {
            let NexthopObject { id, body, .. } = object(bench, group);
            let body = match body {
                NexthopBody::Single(hop) => NexthopBody::Single(elsewhere(hop)),
                NexthopBody::Group(members) => NexthopBody::Group(
                    members.into_iter().map(|member| Member { weight: 7, ..member }).collect(),
                ),
                other => other,
            };
            bench.alter(NexthopObject { id, protocol, body }, heard);
        };
        let operations = bench.operations(|bench| alter(bench, true));
        assert_eq!(bench.fib(254), before, "mended at once");
        assert!(operations <= 3, "no route is written: {operations} operations");
        assert_eq!(bench.engine.stats().drift, 1);
        if protocol == 201 {
            alter(&mut bench, true);
            assert_ne!(bench.fib(254), before, "left alone for a while");
            bench.wait(1);
            assert_eq!((bench.fib(254), bench.engine.stats().drift), (before.clone(), 2));
            // What nobody hears of a comparison finds.
            alter(&mut bench, false);
            bench.engine.want_audit();
            bench.settle();
            assert_eq!(bench.fib(254), before);
        }
        let rewritten = object(&bench, group);
        assert_eq!(bench.operations(|bench| bench.alter(rewritten, true)), 0, "as it should be");
    }
}

#[test]
fn gateways_of_several_paths_are_worth_watching() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2), route("100.64.0.0/24", 11)]);
    assert_eq!(bench.engine.watch_gateways().unwrap_or_default().len(), 0, "no way round a single path");
    bench.say(&[hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 1)]), route("100.64.0.0/24", 20)]);
    let watched = bench.engine.watch_gateways().expect("changed");
    assert_eq!(watched.into_iter().map(|(ifindex, _)| ifindex).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(bench.engine.watch_gateways(), None, "asked a moment ago");
}

#[test]
fn resilient_groups_are_of_their_own_type_for_life() {
    let mut spec = import(5000, 254);
    spec.resilient = Some(crate::api::Resilient { buckets: 64, idle_timer: crate::api::Span::from_secs(30) });
    let resilient = |bench: &Bench| {
        let groups = bench.kernel.nexthops.values().filter_map(|object| match &object.body {
            NexthopBody::Resilient(members, how) => Some((members.len(), how.buckets, how.idle_timer)),
            _ => None,
        });
        groups.collect::<Vec<_>>()
    };
    let mut bench = Bench::new(vec![spec]);
    bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 1)])]);
    bench.say(&all_by(20));
    bench.replayed();
    assert_eq!(resilient(&bench), [(2, 64, 3000)]);
    bench.set_neighbour("10.0.1.1", 2, true);
    assert_eq!(resilient(&bench), [(1, 64, 3000)], "flows of the other gateway stay where they are");
    bench.set_neighbour("10.0.1.1", 2, false);
    assert_eq!(
        bench.operations(|bench| {
            bench.restart();
            bench.connect(super::PID);
            bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3), group(20, &[(11, 1), (12, 1)])]);
            bench.say(&all_by(20));
            bench.replayed();
        }),
        0
    );
    // Without the wish the routes move to a group of the plain type.
    bench.intent.imports[0].resilient = None;
    bench.replan();
    bench.settle();
    assert_eq!(resilient(&bench), []);
    assert_eq!(bench.via(&prefix(7)), ["10.0.1.1", "10.0.2.1"]);
}
