//! Files and folders: one bad document does not stop the others, and what was good stays.

use std::fs;
use std::path::Path;

use super::super::{Loaded, Object};
use super::{BTreeMap, build, load, load_text};

const PATH: &str = "apiVersion: backtrail.dev/v1alpha1\nkind: ReturnPath\nmetadata: {name: NAME}\nspec: {interfaces: [{name: eth1}]}\n";

fn named(name: &str) -> String {
    PATH.replace("NAME", name)
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.manifests.iter().map(|m| m.object.object_ref().name).collect()
}

#[test]
fn a_bad_document_costs_itself_alone() {
    let text = format!("# comment\n---\n{}---\nkind: [\n---\n{}---\n\n", named("a"), named("b"));
    let loaded = load_text(Path::new("f.yaml"), &text);
    assert_eq!(names(&loaded), ["a", "b"]);
    let [error] = loaded.errors.as_slice() else { panic!("{:?}", loaded.errors) };
    assert!(error.to_string().starts_with("f.yaml: document 2 (line 7): is not valid YAML: "), "{error}");
    assert!(error.to_string().contains("line 8"), "lines count from the top of the file: {error}");
}

#[test]
fn what_is_not_ours_is_refused_or_skipped() {
    let error = |text: &str| {
        let loaded = load_text(Path::new("f.yaml"), text);
        loaded
            .errors
            .iter()
            .map(|e| format!("{}: {}", e.field.clone().unwrap_or_default(), e.message))
            .collect::<Vec<_>>()
    };
    let old = named("a").replace("v1alpha1", "v1");
    assert_eq!(error(&old), ["apiVersion: \"backtrail.dev/v1\": write backtrail.dev/v1alpha1"]);
    let kinds = "write DataplaneConfig, VRFAttachment, RouteImport, TrafficPolicy or ReturnPath";
    assert_eq!(
        error(&named("a").replace("ReturnPath", "ReturnPth")),
        [format!("kind: unknown kind ReturnPth: {kinds}")]
    );
    assert_eq!(error(&named("a").replace("kind: ReturnPath\n", "")), [format!("kind: is missing: {kinds}")]);
    assert_eq!(error("just text"), ["apiVersion: \"\": write backtrail.dev/v1alpha1"]);
    let own = named("a").replace("ReturnPath", "NodeRoutingState");
    assert_eq!(error(&own), ["kind: NodeRoutingState is written by the agent alone: remove it"]);
    assert_eq!(
        error(&named("a").replace("{name: a}", "{name: a, namespace: x}")),
        ["metadata.namespace: all kinds are cluster-scoped: remove it"]
    );
    assert_eq!(
        error(&named("a").replace("metadata: {name: a}\n", "")),
        ["metadata: is missing: write metadata: {name: ...}"]
    );
    assert_eq!(error(&named("a").replace("spec: {interfaces: [{name: eth1}]}\n", "")), ["spec: is missing"]);
    assert_eq!(
        error(&format!("{}specs: 1\n", named("a"))),
        ["specs: unknown field; a manifest has apiVersion, kind, metadata and spec"]
    );
    let foreign =
        load_text(Path::new("f.yaml"), "apiVersion: frrk8s.metallb.io/v1beta1\nkind: FRRConfiguration\n");
    assert_eq!((foreign.errors.len(), foreign.skipped.len()), (0, 1));
}

#[test]
fn the_first_of_two_namesakes_counts() {
    let loaded = load_text(Path::new("f.yaml"), &format!("{}---\n{}", named("a"), named("a")));
    assert_eq!(names(&loaded), ["a"]);
    let expected = "f.yaml: document 2 (line 5): ReturnPath/a: metadata.name: ReturnPath/a is already in f.yaml: document 1 (line 1): rename or remove one of the two";
    assert_eq!(loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}

#[test]
fn a_folder_is_read_by_name_and_hidden_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in
        [("b.yaml", named("b")), ("a.yml", named("a")), (".c.yaml", named("c")), ("d.txt", named("d"))]
    {
        fs::write(dir.path().join(file), text).unwrap();
    }
    fs::write(dir.path().join("e.json"), serde_json::json!({"apiVersion": "backtrail.dev/v1alpha1", "kind": "DataplaneConfig", "metadata": {"name": "default"}, "spec": {}}).to_string()).unwrap();
    let loaded = load(dir.path()).unwrap();
    assert_eq!(loaded.errors, []);
    assert_eq!(names(&loaded), ["a", "b", "default"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = load(Path::new("/nonexistent/backtrail")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/backtrail: cannot be read: "), "{error}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(dir.path().join("b.yaml"), named("b")).unwrap();
    let loaded = load(dir.path()).unwrap();
    assert_eq!((names(&loaded), loaded.errors.len()), (vec!["b".to_owned()], 1));
}

#[test]
fn the_last_good_version_of_a_bad_object_is_kept() {
    let file = Path::new("f.yaml");
    let before = load_text(file, &format!("{}---\n{}---\n{}", named("a"), named("b"), named("gone")));
    let mut now = load_text(file, &format!("{}---\n{}", named("a").replace("eth1", "a/b"), named("b")));
    now.retain_good(&before);
    assert_eq!(names(&now), ["b", "a"], "what was removed is gone, what is bad is kept");
    let intent = build(&now, &BTreeMap::new(), None);
    assert_eq!(intent.return_paths.len(), 1);
    assert_eq!(intent.return_paths[0].owners.len(), 2);
    let [a, b] = intent.objects.as_slice() else { panic!("{:?}", intent.objects) };
    assert_eq!((a.accepted, a.reason.as_str(), b.reason.as_str()), (false, "Invalid", "Valid"));
    assert!(a.message.ends_with("; the last good version stays in force"), "{}", a.message);
}

#[test]
fn a_file_that_became_unreadable_keeps_all_that_it_held() {
    let file = Path::new("f.yaml");
    let before = load_text(file, &format!("{}---\n{}", named("a"), named("b")));
    let mut now = load_text(file, &format!("{}---\n{{", named("a")));
    now.retain_good(&before);
    assert_eq!(names(&now), ["a", "b"]);
    let intent = build(&now, &BTreeMap::new(), None);
    let reasons: Vec<_> = intent.objects.iter().map(|o| (o.object.to_string(), o.reason.clone())).collect();
    assert!(reasons.contains(&("Manifest/f.yaml#2".into(), "Unreadable".into())), "{reasons:?}");
}

#[test]
fn what_was_loaded_can_be_stored() {
    let loaded = load_text(Path::new("f.yaml"), &named("a"));
    let stored = serde_json::to_string(&loaded).unwrap();
    assert_eq!(serde_json::from_str::<Loaded>(&stored).unwrap(), loaded);
    assert!(matches!(loaded.manifests[0].object, Object::ReturnPath(_)));
}
