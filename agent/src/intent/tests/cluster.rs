//! Objects as an API server has them.

use serde_json::{Value, json};

use super::super::{Change, ClusterObjects, build};
use super::*;

fn import(name: &str, rest: &Value) -> Value {
    let mut spec = json!({
        "from": {"table": 5000},
        "allowed": {"mode": "All"},
        "into": {"vrf": {"name": "red", "table": 10001}},
    });
    spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    let metadata = json!({"name": name, "generation": 3, "resourceVersion": "17", "managedFields": []});
    json!({"metadata": metadata, "spec": spec, "status": {"matchedNodes": 4}})
}

fn listed(objects: &[Value]) -> ClusterObjects {
    let mut cluster = ClusterObjects::default();
    for (kind, _) in super::super::KINDS {
        cluster.apply(kind, Change::Begin);
        if kind == "RouteImport" {
            for object in objects {
                cluster.apply(kind, Change::Item(object.clone()));
            }
        }
        assert!(cluster.apply(kind, Change::End), "the first list is news, though empty");
    }
    cluster
}

fn intent_of(cluster: &ClusterObjects) -> Intent {
    build(&cluster.loaded(), &BTreeMap::new(), None)
}

#[test]
fn a_bad_object_costs_nothing_but_itself() {
    let cluster = listed(&[import("good", &json!({})), import("bad", &json!({"maxRoutes": "many"}))]);
    let intent = intent_of(&cluster);
    assert_eq!(intent.imports.len(), 1);
    let states: Vec<_> = intent
        .objects
        .iter()
        .map(|o| (o.object.name.as_str(), o.accepted, o.reason.as_str(), o.generation))
        .collect();
    assert_eq!(states, [("bad", false, "Invalid", None), ("good", true, "Valid", Some(3))]);
    assert!(intent.objects[0].message.contains("API server: RouteImport/bad: spec.maxRoutes"), "{intent:?}");
}

#[test]
fn an_object_that_turns_bad_stays_at_its_last_good_version() {
    let mut cluster = listed(&[import("a", &json!({"maxRoutes": 7}))]);
    let before = cluster.loaded();
    assert!(cluster.apply("RouteImport", Change::Put(import("a", &json!({"maxRoutes": -1})))));
    let mut now = cluster.loaded();
    now.retain_good(&before);
    let intent = build(&now, &BTreeMap::new(), None);
    assert_eq!(intent.imports[0].max_routes, 7);
    assert!(!intent.objects[0].accepted);
    assert!(intent.objects[0].message.ends_with("the last good version stays in force"), "{intent:?}");
}

#[test]
fn what_a_newer_crd_adds_is_named_and_left_aside() {
    let cluster = listed(&[import("a", &json!({"colour": "red", "from": {"table": 5000, "daemon": "x"}}))]);
    let intent = intent_of(&cluster);
    assert_eq!(intent.imports.len(), 1);
    let state = &intent.objects[0];
    assert_eq!((state.accepted, state.reason.as_str()), (true, "Unsupported"));
    assert!(state.message.contains("does not know spec.colour, spec.from.daemon"), "{}", state.message);
}

#[test]
fn a_change_of_status_or_of_resource_version_is_none() {
    let mut cluster = listed(&[import("a", &json!({}))]);
    let mut same = import("a", &json!({}));
    same["status"] = json!({"matchedNodes": 5});
    same["metadata"]["resourceVersion"] = json!("18");
    assert!(!cluster.apply("RouteImport", Change::Put(same)));
    assert!(cluster.apply("RouteImport", Change::Put(import("a", &json!({"maxRoutes": 5})))));
}

#[test]
fn a_list_replaces_what_was_there_when_it_is_whole() {
    let mut cluster = listed(&[import("a", &json!({})), import("b", &json!({}))]);
    assert!(!cluster.apply("RouteImport", Change::Begin));
    assert!(!cluster.apply("RouteImport", Change::Item(import("b", &json!({})))));
    assert_eq!(cluster.loaded().manifests.len(), 2, "half a list changes nothing");
    assert!(cluster.apply("RouteImport", Change::End));
    assert_eq!(cluster.loaded().manifests.len(), 1);
    assert!(cluster.apply("RouteImport", Change::Delete("b".into())));
    assert!(!cluster.apply("RouteImport", Change::Delete("b".into())));
    assert!(!cluster.apply("Unknown", Change::Begin));
}

#[test]
fn a_kind_that_cannot_be_read_keeps_what_was_in_force_of_it() {
    let before = listed(&[import("a", &json!({}))]).loaded();
    let mut cluster = ClusterObjects::default();
    cluster.apply("ReturnPath", Change::Begin);
    cluster.apply("ReturnPath", Change::End);
    assert!(cluster.is_listed("ReturnPath") && !cluster.is_listed("RouteImport"));
    let mut now = cluster.loaded();
    now.retain_good(&before);
    assert_eq!(build(&now, &BTreeMap::new(), None).imports.len(), 1);
}
