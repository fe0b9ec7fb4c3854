//! Random feeds, links and foreign edits: converges to the model, the next pass is a no-op, foreign objects survive.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::model::NexthopObject;
use crate::rib::Answer;

use crate::api::{Resilient, Span};
use crate::intent::types::Import;

use super::{Bench, group, hop, import, net, route, withdraw};

#[derive(Debug, Clone)]
enum Event {
    Announce(u8, u8),
    Withdraw(u8),
    Hop(u8, u8),
    Group(u8, Vec<u8>),
    Link(bool, bool),
    /// Both links change before the operations for the first one arrive; the second is heard of after the answer, or before.
    Swap(bool, bool, bool),
    /// A link goes while the kernel is dumped: before or after the objects are taken over.
    LossInAudit(bool, bool),
    Neighbour(u8, bool),
    Reconnect,
    Restart,
    DeleteRoute(u8),
    DeleteNexthop(u8),
    /// Somebody gives an object of ours the content of another one; with our mark or his, heard of or not.
    ReplaceNexthop(u8, u8, bool, bool),
    Replan,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..12u8, 0..6u8).prop_map(|(prefix, id)| Event::Announce(prefix, id)),
        4 => (0..12u8).prop_map(Event::Withdraw),
        3 => (0..3u8, 0..4u8).prop_map(|(id, gateway)| Event::Hop(id, gateway)),
        3 => (3..6u8, prop::collection::vec(0..3u8, 1..4)).prop_map(|(id, members)| Event::Group(id, members)),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(link, up)| Event::Link(link, up)),
        2 => any::<(bool, bool, bool)>().prop_map(|(one, other, late)| Event::Swap(one, other, late)),
        2 => any::<(bool, bool)>().prop_map(|(link, late)| Event::LossInAudit(link, late)),
        3 => (0..4u8, any::<bool>()).prop_map(|(gateway, silent)| Event::Neighbour(gateway, silent)),
        1 => Just(Event::Reconnect),
        1 => Just(Event::Restart),
        2 => any::<u8>().prop_map(Event::DeleteRoute),
        2 => any::<u8>().prop_map(Event::DeleteNexthop),
        2 => any::<(u8, u8, bool, bool)>()
            .prop_map(|(pick, like, ours, heard)| Event::ReplaceNexthop(pick, like, ours, heard)),
        1 => Just(Event::Replan),
    ]
}

/// What FRR believes: enough to replay it and to say what should forward.
#[derive(Debug, Default, Clone)]
struct Model {
    routes: BTreeMap<u8, u8>,
    hops: BTreeMap<u8, u8>,
    groups: BTreeMap<u8, Vec<u8>>,
    down: [bool; 2],
    silent: [bool; 4],
}

fn prefix(number: u8) -> String {
    format!("100.64.{number}.0/24")
}

/// Gateways 0 and 1 are on the first link, 2 and 3 on the second.
fn gateway(number: u8) -> (String, u32) {
    let ifindex = 2 + u32::from(number / 2);
    (format!("10.0.{ifindex}.{}", 1 + number % 2), ifindex)
}

impl Model {
    fn gateways(&self, id: u8) -> Vec<u8> {
        let members = self.groups.get(&id).cloned().unwrap_or_else(|| vec![id]);
        let mut gateways: Vec<u8> =
            members.iter().filter_map(|member| self.hops.get(member).copied()).collect();
        gateways.retain(|gateway| !self.down[usize::from(gateway / 2)]);
        gateways.sort_unstable();
        gateways.dedup();
        // While none answers all stay: traffic finds out which one is back.
        if gateways.iter().any(|gateway| !self.silent[usize::from(*gateway)]) {
            gateways.retain(|gateway| !self.silent[usize::from(*gateway)]);
        }
        gateways
    }

    /// Whether FRR has announced at least one of its nexthops.
    fn resolves(&self, id: u8) -> bool {
        let members = self.groups.get(&id).cloned().unwrap_or_else(|| vec![id]);
        members.iter().any(|member| self.hops.contains_key(member))
    }
}

fn play(bench: &mut Bench, model: &mut Model, event: &Event) {
    match event {
        Event::Announce(to, id) => {
            // An unresolved announcement leaves the former route, which a model of FRR alone cannot know.
            if model.resolves(*id) {
                model.routes.insert(*to, *id);
                bench.say(&[route(&prefix(*to), u32::from(*id) + 10)]);
            }
        }
        Event::Withdraw(to) => {
            model.routes.remove(to);
            bench.say(&[withdraw(&prefix(*to))]);
        }
        Event::Hop(id, to) => {
            model.hops.insert(*id, *to);
            let (via, ifindex) = gateway(*to);
            bench.say(&[hop(u32::from(*id) + 10, &via, ifindex)]);
        }
        Event::Group(id, members) => {
            let known: Vec<u8> =
                members.iter().copied().filter(|member| model.hops.contains_key(member)).collect();
            if !known.is_empty() {
                let list: Vec<(u32, u32)> = known.iter().map(|member| (u32::from(*member) + 10, 1)).collect();
                model.groups.insert(*id, known);
                bench.say(&[group(u32::from(*id) + 10, &list)]);
            }
        }
        Event::Link(second, up) => {
            model.down[usize::from(*second)] = !up;
            bench.set_link(if *second { 3 } else { 2 }, *up);
        }
        Event::Swap(one, other, late) => {
            model.down = [!one, !other];
            bench.kernel.set_link(2, *one);
            bench.see_link(2, *one);
            bench.overtaken(
                |kernel| kernel.set_link(3, *other),
                |bench| {
                    if !late {
                        bench.see_link(3, *other);
                    }
                },
            );
            bench.set_link(3, *other);
        }
        Event::LossInAudit(second, late) => {
            model.down[usize::from(*second)] = true;
            let link = if *second { 3 } else { 2 };
            bench.audit_while(Some(*late), |bench| {
                bench.kernel.set_link(link, false);
                bench.see_link(link, false);
            });
            bench.settle();
        }
        Event::Neighbour(number, silent) => {
            model.silent[usize::from(*number)] = *silent;
            let (via, ifindex) = gateway(*number);
            bench.set_neighbour(&via, ifindex, *silent);
        }
        Event::Reconnect => {
            bench.engine.fpm_disconnected(bench.now);
            replay(bench, model);
        }
        Event::Restart => {
            bench.restart();
            for number in (0..4u8).filter(|number| model.silent[usize::from(*number)]) {
                let (via, ifindex) = gateway(number);
                bench.set_neighbour(&via, ifindex, true);
            }
            replay(bench, model);
        }
        Event::DeleteRoute(pick) => {
            let ours: Vec<_> = bench.kernel.dump().1;
            if let Some(victim) = ours.get(usize::from(*pick) % ours.len().max(1)) {
                let gone = bench.kernel.delete(victim.key.table, victim.key.prefix, victim.key.metric);
                bench.engine.route_vanished(&gone, bench.now);
                bench.settle();
            }
        }
        Event::DeleteNexthop(pick) => {
            let ours: Vec<_> = bench.kernel.dump().0;
            if let Some(victim) = ours.get(usize::from(*pick) % ours.len().max(1)) {
                bench.kernel.delete_nexthop(victim.id);
                bench.engine.nexthop_vanished(victim.id, bench.now);
                bench.settle();
            }
        }
        Event::ReplaceNexthop(pick, like, ours, heard) => {
            let objects: Vec<_> = bench.kernel.dump().0;
            let at = |pick: &u8| objects.get(usize::from(*pick) % objects.len().max(1)).cloned();
            if let (Some(victim), Some(like)) = (at(pick), at(like)) {
                let protocol = if *ours { victim.protocol } else { 4 };
                bench.alter(NexthopObject { id: victim.id, protocol, body: like.body }, *heard);
                if !heard {
                    bench.engine.want_audit();
                    bench.settle();
                }
            }
        }
        Event::Replan => {
            bench.replan();
            bench.settle();
        }
    }
}

fn replay(bench: &mut Bench, model: &Model) {
    bench.connect(super::PID);
    let mut updates = Vec::new();
    updates.extend(model.groups.iter().map(|(id, members)| {
        let list: Vec<(u32, u32)> = members.iter().map(|member| (u32::from(*member) + 10, 1)).collect();
        group(u32::from(*id) + 10, &list)
    }));
    for (id, to) in &model.hops {
        let (via, ifindex) = gateway(*to);
        updates.push(hop(u32::from(*id) + 10, &via, ifindex));
    }
    updates.extend(model.routes.iter().map(|(to, id)| route(&prefix(*to), u32::from(*id) + 10)));
    bench.say(&updates);
    bench.replayed();
}

fn check(bench: &mut Bench, model: &Model) {
    let mut expected: BTreeMap<IpNet, Vec<String>> = BTreeMap::new();
    for (to, id) in &model.routes {
        let gateways = model.gateways(*id);
        if !gateways.is_empty() {
            let mut vias: Vec<String> = gateways.iter().map(|number| gateway(*number).0).collect();
            vias.sort();
            expected.insert(net(&prefix(*to)), vias);
        }
    }
    let fib = bench.fib(254);
    let found: BTreeMap<IpNet, Vec<String>> = fib
        .into_iter()
        .map(|(prefix, hops)| (prefix, hops.into_iter().map(|(via, _)| via).collect()))
        .collect();
    assert_eq!(found, expected, "the kernel forwards as FRR says");
    for prefix in found.keys() {
        let answer = bench.engine.rib().get(5000, prefix).map(|learned| learned.answer);
        assert_eq!(answer, Some(Answer::Done), "zebra knows that {prefix} forwards");
    }
    assert!(bench.kernel.has_foreign(254, net("100.64.200.0/24"), 20), "foreign objects survive");
    let operations = bench.operations(|bench| {
        bench.audit();
        bench.settle();
        bench.replan();
        bench.settle();
    });
    assert_eq!(operations, 0, "the next pass is a no-op");
    assert_eq!(bench.engine.would_change().total(), 0, "and the preview says so");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn converges_and_then_rests(events in prop::collection::vec(event(), 1..60), resilient in any::<bool>()) {
        let resilient = resilient.then(|| Resilient { buckets: 32, idle_timer: Span::from_secs(9) });
        let mut bench = Bench::new(vec![Import { resilient, ..import(5000, 254) }]);
        bench.kernel.add_foreign(254, net("100.64.200.0/24"), 20);
        bench.replayed();
        bench.answer();
        let mut model = Model::default();
        for event in &events {
            play(&mut bench, &mut model, event);
        }
        bench.wait(61);
        check(&mut bench, &model);
    }
}
