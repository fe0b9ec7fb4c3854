//! Golden manifests: the good, and each kind of bad.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::types::{Config, Conflict, Intent};
use super::{Loaded, build, load, load_text};

mod cluster;
mod files;
mod merge;
mod order;
mod rules;
mod stays;

/// The intent of a node without labels, from manifests in text.
fn intent(text: &str) -> Intent {
    let loaded = load_text(Path::new("test.yaml"), text);
    assert_eq!(loaded.errors, [], "the manifests must be valid");
    build(&loaded, &BTreeMap::new(), None)
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: backtrail.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// Objects `a`, `b`, … of one kind.
fn objects(kind: &str, specs: &[&str]) -> String {
    specs.iter().zip(["a", "b", "c", "d"]).map(|(spec, name)| document(kind, name, spec)).collect()
}

/// `loser item reason winner` of every conflict.
fn conflicts(intent: &Intent) -> Vec<String> {
    let both_named =
        |c: &Conflict| c.message.contains(&c.winner.to_string()) || c.winner.kind == "DataplaneConfig";
    assert!(intent.conflicts.iter().all(both_named), "{:?}", intent.conflicts);
    intent.conflicts.iter().map(|c| format!("{} {} {} {}", c.object, c.item, c.reason, c.winner)).collect()
}

fn tp(matches: &str, vrf: &str, rest: &str) -> String {
    format!("rules: [{{name: r, match: {{{matches}}}, action: {{vrf: {{{vrf}}}{rest}}}}}]")
}

const RED: &str = "name: red, table: 10001";
const BLUE: &str = "name: blue, table: 10002";

fn vrfs(specs: &[&str]) -> Intent {
    intent(&objects("VRFAttachment", specs))
}

#[test]
fn defaults_of_the_crd_are_those_of_the_agent() {
    assert_eq!(
        super::config::resolve(Some(&crate::api::DataplaneConfig::new(
            "default",
            crate::api::DataplaneConfigSpec::default()
        ))),
        Config::default()
    );
}

#[test]
fn examples_are_valid_and_without_conflict() {
    let labels = BTreeMap::from([("rack".to_owned(), "a".to_owned())]);
    for (folder, kinds) in [("", 4), ("mirror", 3), ("careful", 1)] {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(folder);
        let loaded: Loaded = load(&examples).unwrap();
        assert_eq!(loaded.errors, []);
        let files: BTreeSet<_> = loaded.manifests.iter().map(|m| &m.source.file).collect();
        assert_eq!(files.len(), kinds);
        let intent = build(&loaded, &labels, None);
        assert_eq!(intent.conflicts, []);
        assert!(intent.objects.iter().all(|o| o.accepted && o.reason == "Valid"), "{:?}", intent.objects);
    }
}
