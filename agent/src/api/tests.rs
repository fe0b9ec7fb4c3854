use super::*;

#[test]
fn every_kind_is_cluster_scoped_with_status_and_short_name() {
    let short: Vec<_> = crds()
        .iter()
        .map(|crd| {
            assert_eq!(crd.spec.scope, "Cluster");
            assert_eq!(crd.spec.group, GROUP);
            assert_eq!(crd.spec.names.categories.as_deref(), Some(&["backtrail".to_owned()][..]));
            for version in &crd.spec.versions {
                assert!(version.subresources.as_ref().is_some_and(|s| s.status.is_some()));
            }
            crd.spec.names.short_names.clone().unwrap_or_default().join(",")
        })
        .collect();
    assert_eq!(short, ["dpc", "vrfa", "ri", "tp", "rp", "nrs"]);
}

#[test]
fn deploy_holds_the_current_crds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    for (name, text) in crd_yaml().unwrap() {
        let there = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(there == text, "deploy/crds/{name} is not what agent/src/api says: run `cargo xtask crds`");
    }
}

#[test]
fn every_field_is_described() {
    fn walk(path: &str, schema: &serde_json::Value, bare: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().unwrap_or_default().is_empty() {
                bare.push(path.clone());
            }
            walk(&path, field, bare);
            walk(&path, &field["items"], bare);
        }
    }
    let mut bare = Vec::new();
    for crd in crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        walk(kind, &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut bare);
    }
    assert_eq!(bare, [] as [String; 0]);
}

#[test]
fn every_list_of_a_spec_is_bounded() {
    fn walk(path: &str, schema: &serde_json::Value, open: &mut Vec<String>) {
        if schema["type"] == "array" && !schema["maxItems"].is_u64() && !path.contains("nodeSelector") {
            open.push(path.to_owned());
        }
        walk_fields(path, schema, open);
        if schema["items"].is_object() {
            walk(&format!("{path}[]"), &schema["items"], open);
        }
    }
    fn walk_fields(path: &str, schema: &serde_json::Value, open: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field, open);
        }
    }
    let mut open = Vec::new();
    for crd in crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        walk(kind, &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut open);
    }
    assert_eq!(open, [] as [String; 0]);
}

#[test]
fn every_rule_compiles_on_the_client() {
    fn walk(path: &str, schema: &kube::core::cel::CompiledSchema) {
        assert!(!schema.has_errors(), "{path}: {:?}", schema.compilation_errors());
        for (name, field) in &schema.properties {
            walk(&format!("{path}.{name}"), field);
        }
        if let Some(items) = &schema.items {
            walk(&format!("{path}[]"), items);
        }
    }
    for crd in crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk("", &kube::core::cel::compile_schema(schema));
    }
}
