//! `backtrail validate` as a user sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn validate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backtrail")).arg("validate").args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
}

/// A file with manifests, and its folder that lives as long as the test.
fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("m.yaml");
    std::fs::write(&file, content).expect("a file");
    (folder, file.to_string_lossy().into_owned())
}

fn attachment(name: &str, selector: &str, table: u32) -> String {
    format!(
        "---\napiVersion: backtrail.dev/v1alpha1\nkind: VRFAttachment\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{matchLabels: {{{selector}}}}}\n  vrf: {{name: red, table: {table}}}\n"
    )
}

#[test]
fn examples_are_valid() {
    for folder in [examples(), examples().join("mirror")] {
        let output = validate(&[&folder.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("RouteImport/billing-routes"), "{}", text(&output.stdout));
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn errors_name_file_object_and_field() {
    let (_folder, path) = file(&format!("{}  isolaton: Strict\n", attachment("a", "", 10001)));
    let output = validate(&[&path]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "{path}: document 1 (line 1): VRFAttachment/a: spec.isolaton: unknown field; known here: clusterExceptions, gateways, interfaces, isolation, nodeSelector, sysctls, vrf"
    );
    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("Invalid"), "{}", text(&output.stdout));
}

#[test]
fn what_merging_refuses_is_an_error_too() {
    let (_folder, path) = file(&attachment("a", "", 9));
    let output = validate(&[&path, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(findings["valid"], false);
    assert_eq!(findings["errors"][0]["field"], "spec.vrf.table");
    assert_eq!(findings["errors"][0]["name"], "a");
    assert_eq!(findings["objects"][0]["state"], "Invalid");
}

#[test]
fn objects_conflict_where_one_node_can_match_both() {
    let both = |other: &str| {
        file(&format!("{}{}", attachment("a", "rack: a", 10001), attachment("b", other, 10002)))
    };
    let (_folder, path) = both("rack: b");
    assert_eq!(validate(&[&path]).status.code(), Some(0), "no node is in two racks");
    let (_folder, path) = both("zone: b");
    let output = validate(&[&path, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(findings["conflicts"][0]["reason"], "VRFTableMismatch");
    let line = "conflict: VRFAttachment/b: vrf: VRFTableMismatch with VRFAttachment/a: ";
    assert!(text(&output.stderr).contains(line), "{}", text(&output.stderr));
    assert_eq!(validate(&[&path, "--node-labels", "rack=a"]).status.code(), Some(0), "b is for other nodes");
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let output = validate(&["/nonexistent/manifests"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("/nonexistent/manifests: cannot be read"),
        "{}",
        text(&output.stderr)
    );
}
