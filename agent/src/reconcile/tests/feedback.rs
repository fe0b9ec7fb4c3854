//! What zebra is told: once for each announcement, after the kernel's word, and again when the outcome changes.

use zebra_fpm::netlink::Offload::{self, Done, Failed};
use zebra_fpm::{
    Encap, IfIndex, Label, Nexthop, Protocol, Route, RouteKey as FpmKey, RouteKind, TableId, Target, Update,
};

use super::{Bench, PID, group, hop, import, net, route, two_paths, withdraw};
use crate::intent::types::{Allowed, Import, PrefixMatch};

fn answering(imports: Vec<Import>) -> Bench {
    let mut bench = Bench::new(imports);
    bench.answer();
    bench
}

impl Bench {
    /// What was told since this was last asked: (prefix, outcome), sorted.
    fn heard(&mut self) -> Vec<(String, Offload)> {
        let mut told: Vec<_> =
            self.told.drain(..).map(|(route, outcome)| (route.key.dst.to_string(), outcome)).collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    }

    /// `fpm.offloadAck`
    pub(super) fn answer(&mut self) {
        self.answering = true;
        self.engine.want_feedback(true);
    }

    fn review(&mut self) {
        self.engine.review_feedback();
        self.listen();
    }
}

fn told(outcomes: &[(&str, Offload)]) -> Vec<(String, Offload)> {
    outcomes.iter().map(|(prefix, outcome)| ((*prefix).to_owned(), *outcome)).collect()
}

const A: &str = "100.64.1.0/24";
const B: &str = "100.64.2.0/24";
const C: &str = "100.64.3.0/24";

#[test]
fn every_announcement_is_answered_the_unchanged_ones_too() {
    let mut bench = answering(vec![import(5000, 254)]);
    two_paths(&mut bench);
    assert_eq!(bench.heard(), told(&[(A, Done), (B, Done), (C, Done)]));
    let operations = bench.operations(|bench| bench.say(&[route(A, 20), route(B, 20)]));
    assert_eq!((operations, bench.heard()), (0, told(&[(A, Done), (B, Done)])));
    bench.say(&[withdraw(A)]);
    assert_eq!(bench.heard(), []);
}

#[test]
fn a_new_session_and_a_new_agent_answer_everything_again() {
    let mut bench = answering(vec![import(5000, 254)]);
    two_paths(&mut bench);
    bench.heard();
    bench.engine.fpm_disconnected(bench.now);
    bench.connect(PID);
    bench.settle();
    assert_eq!(bench.heard(), [], "the new session has announced nothing");
    two_paths(&mut bench);
    assert_eq!(bench.heard().len(), 3);
    bench.restart();
    bench.connect(PID);
    two_paths(&mut bench);
    assert_eq!(bench.heard(), told(&[(A, Done), (B, Done), (C, Done)]));
}

#[test]
fn a_refusal_is_told_and_taken_back_when_the_kernel_gives_in() {
    let mut bench = answering(vec![import(5000, 254)]);
    bench.kernel.add_foreign(254, net(A), 20);
    bench.kernel.refuse.insert(net(B));
    two_paths(&mut bench);
    assert_eq!(bench.heard(), told(&[(A, Failed), (B, Failed), (C, Done)]));
    bench.kernel.delete(254, net(A), 20);
    bench.wait(2);
    assert_eq!(bench.heard(), told(&[(A, Done)]), "what fails again is not told again");
    bench.kernel.refuse.clear();
    bench.wait(120);
    assert_eq!(bench.heard(), told(&[(B, Done)]));
    bench.kernel.refuse.insert(net(A));
    bench.say(&[route(A, 11)]);
    assert_eq!(bench.heard(), told(&[(A, Failed)]), "the announcement in force is not in the kernel");
}

#[test]
fn a_route_that_somebody_replaced_has_failed() {
    let mut bench = answering(vec![import(5000, 254)]);
    two_paths(&mut bench);
    bench.heard();
    bench.kernel.add_foreign(254, net(A), 20);
    let foreign = bench.kernel.routes.values().find(|route| route.protocol == 4).unwrap().clone();
    bench.engine.foreign_appeared(&foreign);
    bench.settle();
    assert_eq!(bench.heard(), told(&[(A, Failed)]));
    let elsewhere = crate::model::RouteKey { metric: 21, ..foreign.key };
    bench.engine.foreign_appeared(&crate::model::KernelRoute { key: elsewhere, ..foreign });
    assert!(!bench.engine.audit_wanted());
}

#[test]
fn nothing_is_said_before_the_nexthop_and_its_link_are_there() {
    let mut bench = answering(vec![import(5000, 254)]);
    bench.say(&[route(A, 11)]);
    assert_eq!(bench.heard(), []);
    bench.set_link(2, false);
    bench.say(&[hop(11, "10.0.1.1", 2)]);
    assert_eq!(bench.heard(), []);
    bench.set_link(2, true);
    assert_eq!(bench.heard(), told(&[(A, Done)]));
    bench.set_link(2, false);
    bench.set_link(2, true);
    assert_eq!(bench.heard(), [], "zebra sees links by itself");
}

#[test]
fn an_acknowledgement_of_the_announcement_before_is_no_answer() {
    let mut bench = answering(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2), hop(12, "10.0.2.1", 3)]);
    bench.engine.fpm_updates(&[route(A, 11)], bench.now);
    let first = bench.engine.next_batch(bench.now).unwrap();
    bench.engine.fpm_updates(&[route(A, 12)], bench.now);
    let done = bench.kernel.apply(first);
    bench.engine.batch_done(&done, bench.now);
    bench.listen();
    assert_eq!(bench.heard(), []);
    bench.kernel.refuse.insert(net(A));
    bench.settle();
    assert_eq!(bench.heard(), told(&[(A, Failed)]));
}

fn limited_to(prefix: &str, import: Import) -> Import {
    let only = PrefixMatch { prefix: net(prefix), ge: 24, le: 24 };
    Import { allowed: Allowed::Prefixes(vec![only]), ..import }
}

#[test]
fn what_no_import_takes_has_failed_where_zebra_was_diverted_and_forwards_elsewhere() {
    let of = |table: u32, prefix: &str| {
        let key = FpmKey::new(TableId(table), net(prefix));
        Update::Route(Route::by_nexthop(key, Protocol::BGP, zebra_fpm::NexthopId(11)))
    };
    let say = |bench: &mut Bench| {
        bench.say(&[hop(11, "10.0.1.1", 2), of(5000, A), of(5000, B), of(254, A), of(254, B), of(77, C)]);
        bench.heard()
    };
    let all = [limited_to(A, import(5000, 10_001)), limited_to(A, import(254, 10_050))];
    let mut bench = answering(all.to_vec());
    assert_eq!(say(&mut bench), told(&[(A, Done), (A, Done), (B, Failed), (B, Done), (C, Done)]));
    bench.intent.imports = vec![import(5000, 10_001)];
    bench.replan();
    bench.settle();
    assert_eq!(bench.heard(), told(&[(B, Done)]), "the import takes more");
    bench.intent.imports.clear();
    bench.replan();
    bench.settle();
    bench.review();
    assert_eq!(bench.heard(), [], "zebra forwards what nobody imports");
}

#[test]
fn an_observed_table_forwards_by_zebras_own_routes() {
    let mut bench = answering(vec![Import { program: false, ..import(5000, 254) }]);
    bench.engine.fpm_updates(&[hop(11, "10.0.1.1", 2), route(A, 11)], bench.now);
    while bench.engine.next_batch(bench.now).is_some() {}
    let mut told = Vec::new();
    bench.engine.drain_feedback(|_, outcome| {
        told.push(outcome);
        true
    });
    assert_eq!(told, [Done]);
}

#[test]
fn zebra_gets_back_what_it_sent() {
    let mut bench = answering(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2)]);
    let key = |prefix: &str| FpmKey::new(TableId(5000), net(prefix));
    let hops = [("10.0.1.1", 2), ("10.0.2.1", 3)]
        .map(|(via, dev)| Nexthop::new(Some(via.parse().unwrap()), Some(IfIndex(dev))));
    let inline = Target::Nexthops(Box::new(hops.clone().map(|hop| Nexthop { weight: 7, ..hop })));
    let by_id = Route::by_nexthop(key(A), Protocol::OSPF, zebra_fpm::NexthopId(11));
    let routes = [
        by_id.clone(),
        Route { key: key(B), preferred_source: Some("10.0.1.2".parse().unwrap()), ..by_id },
        Route {
            mtu: Some(zebra_fpm::Mtu(1400)),
            ..Route::new(key(C), Protocol::BGP, RouteKind::Unicast, inline)
        },
        Route::new(key("100.64.4.0/24"), Protocol::STATIC, RouteKind::Prohibit, Target::None),
    ];
    bench.say(&routes.clone().map(Update::Route));
    bench.told.sort_by_key(|(route, _)| route.key);
    assert_eq!(bench.told, routes.map(|route| (route, Done)));
}

#[test]
fn what_cannot_be_programmed_has_failed() {
    let mut bench = answering(vec![import(5000, 254)]);
    let labelled = Nexthop {
        encap: Some(Box::new(Encap::Mpls(std::iter::once(Label(100)).collect()))),
        ..Nexthop::new(Some("10.0.1.1".parse().unwrap()), Some(IfIndex(2)))
    };
    let key = |prefix: &str| FpmKey::new(TableId(5000), net(prefix));
    let with = |prefix, kind, target| Update::Route(Route::new(key(prefix), Protocol::STATIC, kind, target));
    let from = FpmKey { src: Some("2001:db8:1::/48".parse().unwrap()), ..key("2001:db8::/48") };
    bench.say(&[
        with(A, RouteKind::Unicast, Target::Nexthops(Box::new([labelled]))),
        with(B, RouteKind::Unreachable, Target::None),
        with(C, RouteKind::Other(5), Target::None),
        Update::Route(Route::new(from, Protocol::BGP, RouteKind::Unicast, Target::None)),
        with("100.64.4.0/24", RouteKind::Unicast, Target::None),
        Update::Route(Route::by_nexthop(key("100.64.5.0/24"), Protocol::KERNEL, zebra_fpm::NexthopId(1))),
    ]);
    let kinds: Vec<_> = bench.told.iter().filter(|(r, _)| r.key.dst == net(B)).map(|(r, _)| r.kind).collect();
    assert_eq!(kinds, [RouteKind::Unreachable], "zebra finds its route by the type too");
    let source: Vec<_> = bench.told.iter().filter_map(|(route, _)| route.key.src).collect();
    assert_eq!(source, [from.src.unwrap()]);
    let expected =
        [(A, Failed), (B, Done), (C, Failed), ("100.64.4.0/24", Failed), ("2001:db8::/48", Failed)];
    assert_eq!(bench.heard(), told(&expected));
}

#[test]
fn several_imports_answer_together() {
    let mut bench = answering(vec![import(5000, 254), import(5000, 10_050)]);
    bench.say(&[hop(11, "10.0.1.1", 2), route(A, 11)]);
    assert_eq!(bench.heard(), told(&[(A, Done)]));
    bench.kernel.add_foreign(10_050, net(B), 20);
    bench.say(&[route(B, 11)]);
    assert_eq!(bench.heard(), told(&[(B, Failed)]), "one of two does not forward");
    bench.kernel.delete(10_050, net(B), 20);
    bench.wait(2);
    assert_eq!(bench.heard(), told(&[(B, Done)]));
}

#[test]
fn answers_that_zebra_did_not_take_come_again() {
    let mut bench = answering(vec![import(5000, 254)]);
    bench.say(&[hop(11, "10.0.1.1", 2)]);
    bench.engine.fpm_updates(&[route(A, 11), route(B, 11), route(C, 11)], bench.now);
    let batch = bench.engine.next_batch(bench.now).unwrap();
    let done = bench.kernel.apply(batch);
    bench.engine.batch_done(&done, bench.now);
    let mut room = 1;
    bench.engine.drain_feedback(|_, _| {
        room -= 1;
        room >= 0
    });
    bench.settle();
    assert_eq!(bench.heard(), []);
    bench.review();
    assert_eq!(bench.heard().len(), 2);
    bench.review();
    assert_eq!(bench.heard(), []);
}

#[test]
fn answers_begin_and_end_with_the_setting() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    assert_eq!(bench.heard(), []);
    bench.answer();
    bench.review();
    assert_eq!(bench.heard().len(), 3, "all that is known");
    bench.engine.want_feedback(false);
    bench.say(&[route(A, 20), group(20, &[(11, 1)])]);
    assert_eq!(bench.heard(), []);
}
