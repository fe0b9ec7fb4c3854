use serde_json::json;

use super::*;
use crate::api::{API_VERSION, NodeRoutingState, NodeRoutingStateStatus, ObjectStatus};

/// A hub that has heard of everything: one object, and one node that has it in force.
fn hub() -> Hub {
    let mut hub = Hub::new(Pace::default());
    hub.answered.extend(KINDS.iter().map(|(kind, _)| *kind).chain(["Node"]));
    let import = json!({
        "apiVersion": API_VERSION,
        "kind": "RouteImport",
        "metadata": {"name": "red", "generation": 1},
        "spec": {"from": {"table": 5000}, "into": {"table": 10_000}, "allowed": {"mode": "All"}},
    });
    hub.take(Message::Object("RouteImport", Change::Put(import)));
    let entry = ObjectStatus {
        kind: "RouteImport".into(),
        name: "red".into(),
        accepted: true,
        reason: reason::VALID.into(),
        message: String::new(),
        generation: Some(1),
    };
    let mut state = NodeRoutingState::new("w1", Default::default());
    state.status = Some(NodeRoutingStateStatus { objects: vec![entry], ..Default::default() });
    for change in [StateChange::Begin, StateChange::Put(Box::new(state)), StateChange::End] {
        hub.take(Message::State(change));
    }
    hub
}

/// What is written in so many seconds when it is looked every two; `keeps`: what the API server keeps of a status.
fn written(seconds: u64, keeps: impl Fn(Value) -> Option<Value>) -> usize {
    let (mut hub, begin) = (hub(), Instant::now());
    let (writes, mut queue) = mpsc::channel(16);
    let mut count = 0;
    for second in (0..seconds).step_by(2) {
        hub.sum_up(&writes, begin + Duration::from_secs(second));
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
