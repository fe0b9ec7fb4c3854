//! What is in force stays, who wins, who is meant, and when nothing has changed.

use super::super::config_hash;
use super::super::types::Intent;
use super::*;

/// The intent of a changed set of manifests while `previous` is in force.
fn after(previous: &Intent, text: &str) -> Intent {
    build(&load_text(Path::new("t.yaml"), text), &BTreeMap::new(), Some(previous))
}

#[test]
fn what_is_programmed_stays() {
    let b = |rest: &str| document("VRFAttachment", "b", &format!("vrf: {{name: red, table: 10002}}{rest}"));
    let before = intent(&b(", interfaces: [{name: eth1}]"));
    let now = after(
        &before,
        &format!(
            "{}{}",
            b(", interfaces: [{name: eth1}]"),
            document("VRFAttachment", "a", "vrf: {name: red, table: 10001}")
        ),
    );
    assert_eq!(conflicts(&now), ["VRFAttachment/a vrf VRFTableMismatch VRFAttachment/b"]);
    assert_eq!(now.vrfs, before.vrfs);
    let blue = document("VRFAttachment", "a", "vrf: {name: blue, table: 10003}, interfaces: [{name: eth1}]");
    let now = after(&before, &format!("{}{blue}", b(", interfaces: [{name: eth1}]")));
    assert_eq!(conflicts(&now), ["VRFAttachment/a interfaces[eth1] InterfaceInOtherVRF VRFAttachment/b"]);
    let rule = |vrf: &str| tp("destinations: [10.0.0.0/8]", vrf, "");
    let before = intent(&document("TrafficPolicy", "b", &rule(RED)));
    let now = after(
        &before,
        &format!(
            "{}{}",
            document("TrafficPolicy", "b", &rule(RED)),
            document("TrafficPolicy", "a", &rule(BLUE))
        ),
    );
    assert_eq!(conflicts(&now), ["TrafficPolicy/a rules[r] RuleActionMismatch TrafficPolicy/b"]);
    let path = |source: &str| format!("interfaces: [{{name: eth1, gateway: {{source: {source}}}}}]");
    let before = intent(&document("ReturnPath", "b", &path("FromRoute")));
    let now = after(
        &before,
        &format!(
            "{}{}",
            document("ReturnPath", "b", &path("FromRoute")),
            document("ReturnPath", "a", &path("Auto"))
        ),
    );
    assert_eq!(conflicts(&now), ["ReturnPath/a interfaces[eth1] GatewayMismatch ReturnPath/b"]);
}

#[test]
fn the_older_object_wins_before_the_lower_name() {
    let dated = |name: &str, created: &str, table: u32| {
        document("VRFAttachment", name, &format!("vrf: {{name: red, table: {table}}}")).replace(
            &format!("{{name: {name}}}"),
            &format!("{{name: {name}, creationTimestamp: '{created}'}}"),
        )
    };
    let merged = intent(&format!(
        "{}{}",
        dated("a", "2026-02-02T00:00:00Z", 10001),
        dated("b", "2026-01-01T00:00:00Z", 10002)
    ));
    assert_eq!(conflicts(&merged), ["VRFAttachment/a vrf VRFTableMismatch VRFAttachment/b"]);
}

#[test]
fn selectors_choose_by_labels() {
    let text = document(
        "VRFAttachment",
        "a",
        "nodeSelector: {matchLabels: {rack: a}, matchExpressions: [{key: old, operator: DoesNotExist}]}, vrf: {name: red, table: 10001}",
    );
    let loaded = load_text(Path::new("t.yaml"), &text);
    let on = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let intent = build(&loaded, &labels, None);
        assert_eq!(intent.vrfs.len(), intent.objects.len());
        intent.vrfs.len()
    };
    assert_eq!(
        (on(&[]), on(&[("rack", "a")]), on(&[("rack", "b")]), on(&[("rack", "a"), ("old", "")])),
        (0, 1, 0, 0)
    );
    let error = load_text(Path::new("t.yaml"), &text.replace("DoesNotExist", "Sometimes")).errors.remove(0);
    assert_eq!(error.field.as_deref(), Some("spec.nodeSelector"), "{error}");
}

#[test]
fn hash_tells_intents_apart_and_nothing_else() {
    let a = vrfs(&["vrf: {name: red, table: 10001}"]);
    let same = vrfs(&["vrf: {name: red, table: 10001}, isolation: Strict"]);
    let other = vrfs(&["vrf: {name: red, table: 10002}"]);
    assert_eq!(config_hash(&a), config_hash(&same));
    assert_ne!(config_hash(&a), config_hash(&other));
    assert_eq!(config_hash(&Intent::default()).len(), 16);
    let noted = Intent {
        conflicts: vrfs(&["vrf: {name: red, table: 10001}", "vrf: {name: blue, table: 10001}"]).conflicts,
        ..a.clone()
    };
    assert_eq!(config_hash(&a), config_hash(&noted), "conflicts are no part of what is asked for");
}
