use super::*;
use crate::api::{ImportStatus, MapStatus, NodeRoutingStateStatus, RouteCounts, SteeredInterfaceStatus};

fn entry(name: &str, reason: &str, accepted: bool, generation: i64) -> ObjectStatus {
    ObjectStatus {
        kind: "VRFAttachment".into(),
        name: name.into(),
        accepted,
        reason: reason.into(),
        message: if reason == reason::VALID { String::new() } else { format!("why {reason}") },
        generation: Some(generation),
    }
}

fn state(name: &str, status: NodeRoutingStateStatus) -> NodeRoutingState {
    let mut state = NodeRoutingState::new(name, crate::api::NodeRoutingStateSpec {});
    state.status = Some(status);
    state
}

fn objects(kind: &str, spec: Value) -> BTreeMap<ObjectRef, Raw> {
    let raw = Raw { name: "red".into(), generation: 2, spec, status: json!({}) };
    BTreeMap::from([(ObjectRef { kind: kind.into(), name: "red".into() }, raw)])
}

fn reports(states: Vec<(&str, NodeRoutingStateStatus)>) -> Reports {
    let mut reports = Reports::default();
    reports.begin();
    for (name, status) in states {
        reports.put(&state(name, status), Instant::now());
    }
    reports.end();
    assert!(reports.is_whole());
    reports
}

fn judge(reports: &Reports, objects: &BTreeMap<ObjectRef, Raw>) -> Value {
    reports.judge(objects, Now::read(), Duration::from_secs(1500)).remove(0).1
}

fn with_objects(objects: Vec<ObjectStatus>) -> NodeRoutingStateStatus {
    NodeRoutingStateStatus { objects, ..Default::default() }
}

/// `type=status reason` of all conditions.
fn conditions(status: &Value) -> Vec<String> {
    let all: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> =
        serde_json::from_value(status["conditions"].clone()).unwrap();
    all.iter().map(|it| format!("{}={} {}", it.type_, it.status, it.reason)).collect()
}

#[test]
fn all_nodes_have_it_in_force() {
    let node = || with_objects(vec![entry("red", "Valid", true, 2), entry("blue", "Valid", true, 1)]);
    let reports = reports(vec![("w1", node()), ("w2", node())]);
    let status = judge(&reports, &objects("VRFAttachment", json!({})));
    assert_eq!((&status["matchedNodes"], &status["readyNodes"]), (&json!(2), &json!(2)));
    assert_eq!(status["observedGeneration"], 2);
    let expected = [
        "Accepted=True Valid",
        "Conflicted=False AllWell",
        "Programmed=True AllNodes",
        "Ready=True AllNodes",
    ];
    assert_eq!(conditions(&status), expected);
    assert_eq!(reports.shared.len(), 1, "nodes that say the same share it");
}

#[test]
fn nobody_has_said_anything_yet() {
    let status = judge(&reports(vec![]), &objects("VRFAttachment", json!({})));
    assert_eq!(status["matchedNodes"], 0);
    assert!(status.get("observedGeneration").is_none());
    assert!(conditions(&status).contains(&"Ready=Unknown NoMatchingNode".to_owned()), "{status}");
}

#[test]
fn a_node_that_is_behind_or_lacks_something_is_named() {
    let reports = reports(vec![
        ("w1", with_objects(vec![entry("red", "Valid", true, 2)])),
        ("w2", with_objects(vec![entry("red", "InterfaceNotFound", true, 2)])),
        ("w3", with_objects(vec![entry("red", "Valid", true, 1)])),
        ("w4", with_objects(vec![entry("red", "Invalid", false, 2)])),
    ]);
    let status = judge(&reports, &objects("VRFAttachment", json!({})));
    assert_eq!((&status["matchedNodes"], &status["readyNodes"]), (&json!(4), &json!(1)));
    assert!(status.get("observedGeneration").is_none(), "one of them has not seen it");
    let failed: Vec<_> =
        status["failedNodes"].as_array().unwrap().iter().map(|it| it["node"].clone()).collect();
    assert_eq!(failed, ["w2", "w4"]);
    let said = conditions(&status);
    assert_eq!(said[0], "Accepted=False Invalid");
    assert_eq!(said[2], "Programmed=False InterfaceNotFound");
    assert_eq!(said[3], "Ready=False Invalid");
    assert!(status["conditions"][2]["message"].as_str().unwrap().starts_with("w2: why InterfaceNotFound"));
}

#[test]
fn thousands_of_failing_nodes_make_a_short_status() {
    let names: Vec<String> = (0..3000).map(|n| format!("node-{n:04}")).collect();
    let node = || with_objects(vec![entry("red", "InterfaceNotFound", true, 2)]);
    let reports = reports(names.iter().map(|name| (name.as_str(), node())).collect());
    let status = judge(&reports, &objects("VRFAttachment", json!({})));
    assert_eq!(status["failedNodes"].as_array().unwrap().len(), 10);
    assert!(status.to_string().len() < 4096, "{} bytes", status.to_string().len());
    let message = status["conditions"][2]["message"].as_str().unwrap();
    assert!(message.starts_with("node-0000, node-0001, node-0002 and 2997 more: "), "{message}");
}

#[test]
fn a_conflict_names_both() {
    let conflict = ConflictStatus {
        kind: "VRFAttachment".into(),
        name: "red".into(),
        item: "interfaces[eth1]".into(),
        reason: "InterfaceInOtherVRF".into(),
        winner: "VRFAttachment/blue".into(),
        message: "eth1 belongs to VRFAttachment/blue".into(),
    };
    let mut node = with_objects(vec![entry("red", "Valid", true, 2)]);
    node.conflicts = vec![conflict];
    let status = judge(&reports(vec![("w1", node)]), &objects("VRFAttachment", json!({})));
    let said = conditions(&status);
    assert_eq!(
        (said[1].as_str(), said[3].as_str()),
        ("Conflicted=True InterfaceInOtherVRF", "Ready=False InterfaceInOtherVRF")
    );
    assert_eq!(status["conditions"][3]["message"], "w1: eth1 belongs to VRFAttachment/blue");
}

#[test]
fn a_silent_agent_does_not_count_as_ready() {
    let reports = reports(vec![("w1", with_objects(vec![entry("red", "Valid", true, 2)]))]);
    let now = Now::read();
    let later = Now { instant: now.instant + Duration::from_secs(1501), ..now };
    let status =
        reports.judge(&objects("VRFAttachment", json!({})), later, Duration::from_secs(1500)).remove(0).1;
    assert_eq!((&status["matchedNodes"], &status["readyNodes"]), (&json!(1), &json!(0)));
    assert_eq!(status["failedNodes"][0]["reason"], "AgentSilent");
}

/// Clocks of nodes differ, and jump: what they say is shown, and nothing is judged by it.
#[test]
fn clocks_of_nodes_mean_nothing() {
    let at = |heartbeat: &str, conditions: &str| {
        let mut status = with_objects(vec![entry("red", "Valid", true, 2)]);
        status.agent.heartbeat = serde_json::from_value(json!(heartbeat)).unwrap();
        let set = json!([{"type": "Ready", "status": "True", "reason": "AllWell", "message": "", "lastTransitionTime": conditions}]);
        status.conditions = serde_json::from_value(set).unwrap();
        status
    };
    let (past, future) = ("1970-01-01T00:00:00Z", "2106-02-07T06:28:15Z");
    let reports = reports(vec![("w1", at(past, future)), ("w2", at(future, past))]);
    let mut objects = objects("VRFAttachment", json!({}));
    let first = judge(&reports, &objects);
    assert_eq!((&first["readyNodes"], &first["failedNodes"]), (&json!(2), &json!([])));
    // The clock of the one that sums up jumps, too: its own times of transition stay as they were.
    for raw in objects.values_mut() {
        raw.status = first.clone();
        for condition in raw.status["conditions"].as_array_mut().unwrap() {
            condition["lastTransitionTime"] = json!(future);
        }
    }
    let expected = objects.values().next().unwrap().status.clone();
    assert_eq!(judge(&reports, &objects), expected);
}

#[test]
fn nodes_that_a_new_list_does_not_name_are_gone() {
    let node = || with_objects(vec![entry("red", "Valid", true, 2)]);
    let mut reports = reports(vec![("w1", node()), ("w2", node())]);
    reports.begin();
    reports.put(&state("w2", node()), Instant::now());
    reports.end();
    reports.delete("w3");
    assert_eq!(judge(&reports, &objects("VRFAttachment", json!({})))["matchedNodes"], 1);
    reports.delete("w2");
    assert_eq!(reports.len(), 0);
}

#[test]
fn an_unchanged_verdict_is_an_unchanged_status() {
    let reports = reports(vec![("w1", with_objects(vec![entry("red", "Valid", true, 2)]))]);
    let mut objects = objects("VRFAttachment", json!({}));
    let first = judge(&reports, &objects);
    for raw in objects.values_mut() {
        raw.status = first.clone();
    }
    assert_eq!(judge(&reports, &objects), first, "times of transition live on");
}

#[test]
fn routes_flows_and_rules_are_summed_up() {
    let routes = RouteCounts {
        learned: 10,
        accepted: 7,
        programmed: 6,
        rejected: BTreeMap::from([(reason::MAX_ROUTES.to_owned(), 3)]),
        ..Default::default()
    };
    let mut node =
        with_objects(vec![ObjectStatus { kind: "RouteImport".into(), ..entry("red", "Valid", true, 2) }]);
    node.imports =
        vec![ImportStatus { owners: vec!["RouteImport/red".into()], routes, ..Default::default() }];
    let status =
        judge(&reports(vec![("w1", node.clone()), ("w2", node)]), &objects("RouteImport", json!({})));
    assert_eq!(status["routes"], json!({"received": 20, "accepted": 14, "rejected": 6, "programmed": 12}));
    assert!(conditions(&status).contains(&"LimitReached=True MaxRoutes".to_owned()));
    assert_eq!(without_numbers(&status)["routes"], Value::Null);

    let mut node =
        with_objects(vec![ObjectStatus { kind: "ReturnPath".into(), ..entry("red", "Valid", true, 2) }]);
    let mut interface = SteeredInterfaceStatus {
        name: "bond0.7".into(),
        learns: true,
        state: "Attached".into(),
        ..Default::default()
    };
    interface.counters.steered = 5;
    node.return_path.interfaces = vec![interface];
    node.return_path.maps =
        vec![MapStatus { name: "rp_flows4".into(), entries: Some(9), ..Default::default() }];
    let spec = json!({"interfaces": [{"name": "bond0.*"}]});
    let mut broken = node.clone();
    broken.return_path.interfaces[0].state = "AttachFailed".into();
    let status = judge(&reports(vec![("w1", node), ("w2", broken)]), &objects("ReturnPath", spec));
    assert_eq!(
        (&status["flows"], &status["steeredPackets"], &status["attachedNodes"]),
        (&json!(18), &json!(10), &json!(1))
    );
    assert!(conditions(&status).contains(&"Attached=False AttachFailed".to_owned()), "{status}");

    let mut node =
        with_objects(vec![ObjectStatus { kind: "TrafficPolicy".into(), ..entry("red", "Valid", true, 2) }]);
    node.conflicts = vec![ConflictStatus {
        kind: "TrafficPolicy".into(),
        name: "red".into(),
        item: "rules[b]".into(),
        reason: "RuleActionMismatch".into(),
        ..Default::default()
    }];
    let spec = json!({"rules": [{"name": "a"}, {"name": "b"}]});
    let status = judge(&reports(vec![("w1", node)]), &objects("TrafficPolicy", spec));
    let rules: Vec<_> =
        status["rules"].as_array().unwrap().iter().map(|it| it["programmedNodes"].clone()).collect();
    assert_eq!(rules, [1, 0]);
    assert_eq!(status["rules"][1]["reason"], "RuleActionMismatch");
}
