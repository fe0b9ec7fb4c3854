use serde_json::json;

use super::*;
use crate::api::{API_VERSION, NodeRoutingState, NodeRoutingStateStatus, ObjectStatus};

/// A hub that has heard of everything: one object, and one node that has it in force.
fn hub() -> Hub {
    hub_of(&["red".to_owned()], 1)
}

/// The same with more objects, and nodes that have them all in force.
fn hub_of(objects: &[String], nodes: u32) -> Hub {
    let mut hub = Hub::new(Pace::default());
    hub.answered.extend(KINDS.iter().map(|(kind, _)| *kind).chain(["Node"]));
    let mut entries = Vec::new();
    for name in objects {
        let import = json!({
            "apiVersion": API_VERSION,
            "kind": "RouteImport",
            "metadata": {"name": name, "generation": 1},
            "spec": {"from": {"table": 5000}, "into": {"table": 10_000}, "allowed": {"mode": "All"}},
        });
        hub.take(Message::Object("RouteImport", Change::Put(import)));
        entries.push(ObjectStatus {
            kind: "RouteImport".into(),
            name: name.clone(),
            accepted: true,
            reason: reason::VALID.into(),
            message: String::new(),
            generation: Some(1),
        });
    }
    hub.take(Message::State(StateChange::Begin));
    for node in 1..=nodes {
        let mut state = NodeRoutingState::new(&format!("w{node}"), Default::default());
        state.status = Some(NodeRoutingStateStatus { objects: entries.clone(), ..Default::default() });
        hub.take(Message::State(StateChange::Put(Box::new(state))));
    }
    hub.take(Message::State(StateChange::End));
    hub
}

fn after(begin: Now, seconds: u64) -> Now {
    let passed = Duration::from_secs(seconds);
    Now { instant: begin.instant + passed, time: begin.time + passed }
}

/// What is written in so many seconds when it is looked every two; `keeps`: what the API server keeps of a status.
fn written(seconds: u64, keeps: impl Fn(Value) -> Option<Value>) -> usize {
    let (mut hub, begin) = (hub(), Now::read());
    let (writes, mut queue) = mpsc::channel(16);
    let mut count = 0;
    for second in (0..seconds).step_by(2) {
        hub.sum_up(&writes, after(begin, second));
        while let Ok(write) = queue.try_recv() {
            count += 1;
            let raw = hub.raw.get_mut(&write.object).expect("it is there");
            raw.status = keeps(write.status).unwrap_or_else(|| raw.status.clone());
        }
    }
    count
}

#[test]
fn a_status_that_stays_is_written_once() {
    assert_eq!(written(600, Some), 1);
}

#[test]
fn a_status_that_does_not_stay_is_written_ever_more_rarely() {
    // A write that fails, and a CRD that lacks a field.
    let refused = written(3600, |_| None);
    let pruned = written(3600, |mut status| {
        status.as_object_mut()?.remove("matchedNodes");
        Some(status)
    });
    for count in [refused, pruned] {
        assert!((10..=20).contains(&count), "{count} writes in an hour");
    }
}

#[test]
fn where_not_all_can_be_written_each_has_its_turn() {
    let objects: Vec<String> = (0..30).map(|n| format!("import-{n:02}")).collect();
    let (mut hub, begin) = (hub_of(&objects, 5000), Now::read());
    let (writes, mut queue) = mpsc::channel(64);
    let mut seen: Vec<BTreeSet<String>> = Vec::new();
    // None of them stays: those that were written first are due again before the last.
    for second in (0..=30).step_by(2) {
        hub.sum_up(&writes, after(begin, second));
        let now = std::iter::from_fn(|| queue.try_recv().ok()).map(|write| write.object.name);
        seen.push(now.collect());
    }
    assert_eq!(seen[0].len(), 10, "what was saved up: {seen:?}");
    assert!(seen[1..].iter().all(|now| now.len() <= 2), "5,000 events a second: {seen:?}");
    let all: BTreeSet<_> = seen.into_iter().flatten().collect();
    assert_eq!(all.len(), 30, "{all:?}");
}

#[test]
fn an_edit_is_owed_a_status() {
    let mut hub = hub();
    let mut put = |generation: u64, flows: u64| {
        let metadata = json!({"name": "red", "generation": generation});
        let object = json!({"metadata": metadata, "spec": {}, "status": {"flows": flows}});
        hub.take(Message::Object("ReturnPath", Change::Put(object)));
        hub.owed.take()
    };
    assert_eq!(put(1, 0), Some(true), "a new object");
    assert_eq!(put(1, 0), None, "the same again");
    assert_eq!(put(1, 1), Some(false), "its status");
    assert_eq!(put(2, 1), Some(true), "an edit");
    assert_eq!(put(2, 2), Some(false), "its status");
}
