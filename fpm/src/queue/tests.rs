use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::types::Protocol;
use crate::update::{RawMessage, Route, RouteDel};

const EPOCH: Epoch = Epoch(1);

/// An unbounded table of what a zebra has said.
#[derive(Debug, Default, PartialEq)]
struct Model {
    routes: BTreeMap<u8, Update>,
}

impl Model {
    fn apply(&mut self, update: &Update) {
        match update {
            Update::Route(Route { key, .. }) => drop(self.routes.insert(last_byte(key), update.clone())),
            Update::RouteDel(RouteDel { key, .. }) => drop(self.routes.remove(&last_byte(key))),
            other => panic!("not made here: {other:?}"),
        }
    }
}

fn last_byte(key: &RouteKey) -> u8 {
    match key.dst.addr() {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => panic!("not made here"),
    }
}

fn key(n: u8) -> RouteKey {
    RouteKey::new(TableId::MAIN, Ipv4Net::from(std::net::Ipv4Addr::new(192, 0, 2, n)).into())
}

fn frame() -> impl Strategy<Value = Vec<Update>> {
    let add = |(n, id)| Update::Route(Route::by_nexthop(key(n), Protocol::BGP, NexthopId(id)));
    let del = |n| Update::RouteDel(RouteDel { key: key(n), protocol: None, metric: None });
    prop_oneof![
        vec((0..20u8, 0..5u32).prop_map(add), 1..4),
        vec((0..20u8).prop_map(del), 1..3),
        (0..20u8, 0..5u32).prop_map(move |(n, id)| vec![del(n), add((n, id))]),
    ]
}

proptest! {
    /// Whatever the threshold and whenever the consumer takes, it has what zebra said up to a frame's end.
    #[test]
    fn the_consumer_has_what_was_said(
        coalesce_from in 0..40usize,
        steps in vec((frame(), any::<bool>()), 1..80),
    ) {
        let mut queue = Queue::new(coalesce_from);
        let (mut said, mut taken) = (Model::default(), Model::default());
        for (mut frame, take) in steps {
            frame.iter().for_each(|update| said.apply(update));
            queue.push_updates(EPOCH, None, &mut frame);
            prop_assert!(frame.is_empty());
            prop_assert!(queue.pending_updates() <= coalesce_from.max(20));
            if take {
                let Some(Event::Updates { updates, .. }) = queue.pop() else { panic!("nothing to take") };
                updates.iter().for_each(|update| taken.apply(update));
                prop_assert_eq!(&taken, &said);
                prop_assert_eq!((queue.pending_bytes(), queue.len()), (0, 0));
            }
        }
    }
}

#[test]
fn events_stay_between_the_updates_that_they_came_between() {
    let mut queue = Queue::new(0);
    let add = |id| Update::Route(Route::by_nexthop(key(1), Protocol::BGP, NexthopId(id)));
    queue.push_updates(EPOCH, None, &mut vec![add(1)]);
    queue.push(Event::ReplayComplete { epoch: EPOCH, pid: None });
    queue.push_updates(EPOCH, Some(7), &mut vec![add(2)]);
    queue.push_updates(EPOCH, None, &mut vec![add(3)]);
    queue.push_updates(Epoch(2), None, &mut vec![add(4)]);
    let updates = |epoch, pid, id| Event::Updates { epoch, updates: vec![add(id)], pid };
    assert_eq!(queue.pop(), Some(updates(EPOCH, None, 1)));
    assert_eq!(queue.pop(), Some(Event::ReplayComplete { epoch: EPOCH, pid: None }));
    assert_eq!(queue.pop(), Some(updates(EPOCH, Some(7), 3)));
    assert_eq!(queue.pop(), Some(updates(Epoch(2), None, 4)));
    assert_eq!(queue.pop(), None);
    assert_eq!(queue.coalesced, 1);
}

#[test]
fn raw_messages_are_kept_up_to_a_bound() {
    let mut queue = Queue::new(0);
    let raw = || Update::Raw(Box::new(RawMessage { nlmsg_type: Some(99), body: vec![0; 1000].into() }));
    for _ in 0..3 * MAX_RAW {
        queue.push_updates(EPOCH, None, &mut vec![raw()]);
    }
    assert_eq!((queue.pending_updates(), queue.coalesced), (MAX_RAW, 2 * MAX_RAW as u64));
    assert!(queue.pending_bytes() < MAX_RAW * 1300);
}

/// What a waiting route costs: the bound in the server's documentation stands on it.
#[test]
fn updates_are_small() {
    assert!(size_of::<Update>() <= 136, "{}", size_of::<Update>());
    assert!(size_of::<(Key, usize)>() <= 64, "{}", size_of::<(Key, usize)>());
}
