//! Checks a manifest against the CRD of its kind: what an API server would refuse is refused here, and
//! unknown fields too, which an API server would prune.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde_json::{Map, Value};

use super::cluster::prune;
use crate::api;

/// A field that breaks its schema or a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FieldError {
    /// Path within the manifest: `spec.interfaces[0].name`.
    pub(super) field: String,
    /// What is wrong, and what would be right.
    pub(super) message: String,
}

impl FieldError {
    fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into() }
    }
}

/// The CRDs of all kinds, ready to check manifests.
pub(super) struct Checker {
    /// Rules are compiled for the first manifest of a kind: most nodes have few kinds, and all rules take a MiB.
    kinds: BTreeMap<String, (Value, OnceCell<CompiledSchema>)>,
    rules: Validator,
}

/// What `metadata` may hold in a file; names and labels decide, the rest is what `kubectl get -o yaml` writes.
const METADATA: [&str; 11] = [
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "labels",
    "managedFields",
    "name",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

impl Checker {
    /// Collects the schemas of all CRDs.
    pub(super) fn new() -> Self {
        let kinds = api::crds()
            .into_iter()
            .filter_map(|crd| {
                let schema = crd.spec.versions.into_iter().next()?.schema?.open_api_v3_schema?;
                let schema = serde_json::to_value(schema).ok()?;
                Some((crd.spec.names.kind, (schema, OnceCell::new())))
            })
            .collect();
        Self { kinds, rules: Validator::new() }
    }

    /// Removes the fields of `spec` that this version does not know, and names them: a newer CRD may have more.
    pub(super) fn prune(&self, kind: &str, manifest: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        if let (Some((schema, _)), Some(spec)) = (self.kinds.get(kind), manifest.get_mut("spec")) {
            prune(&schema["properties"]["spec"], spec, "spec", &mut unknown);
        }
        unknown
    }

    /// The manifest with its defaults filled in and nulls dropped, or all that is wrong with it.
    pub(super) fn check(&self, kind: &str, manifest: &Value) -> Result<Value, Vec<FieldError>> {
        let Some((schema, compiled)) = self.kinds.get(kind) else {
            return Err(vec![FieldError::new("kind", format!("unknown kind {kind}"))]);
        };
        let mut manifest = manifest.clone();
        drop_nulls(&mut manifest);
        let mut errors = Vec::new();
        check_metadata(manifest.get("metadata"), &mut errors);
        for part in ["spec", "status"] {
            if let Some(value) = manifest.get(part) {
                walk(&schema["properties"][part], value, part, &mut errors);
            }
        }
        check_root(schema, &manifest, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let compiled = compiled.get_or_init(|| compile_schema(schema));
        match self.rules.validate_compiled(compiled, &manifest, None) {
            Ok(()) => Ok(apply_defaults(schema, &manifest)),
            Err(broken) => Err(broken
                .into_vec()
                .into_iter()
                .map(|e| {
                    FieldError::new(
                        if e.field_path.is_empty() { "metadata.name" } else { &e.field_path },
                        e.message,
                    )
                })
                .collect()),
        }
    }
}

fn check_root(schema: &Value, manifest: &Value, errors: &mut Vec<FieldError>) {
    for field in manifest.as_object().into_iter().flat_map(Map::keys) {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&field.as_str()) {
            errors.push(FieldError::new(
                field,
                "unknown field; a manifest has apiVersion, kind, metadata and spec",
            ));
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for field in required.filter(|field| manifest.get(field).is_none()) {
        errors.push(FieldError::new(field, "is missing"));
    }
}

fn check_metadata(metadata: Option<&Value>, errors: &mut Vec<FieldError>) {
    let Some(metadata) = metadata.and_then(Value::as_object) else {
        errors.push(FieldError::new("metadata", "is missing: write metadata: {name: ...}"));
        return;
    };
    for field in metadata.keys() {
        if field == "namespace" {
            errors.push(FieldError::new("metadata.namespace", "all kinds are cluster-scoped: remove it"));
        } else if !METADATA.contains(&field.as_str()) {
            errors.push(FieldError::new(&format!("metadata.{field}"), "unknown field: remove it"));
        }
    }
    let label = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(inner) && part.ends_with(inner) && part.chars().all(|c| inner(c) || c == '-')
    };
    match metadata.get("name").and_then(Value::as_str) {
        None => {
            let message = match metadata.get("name") {
                Some(value) => format!("must be {}", string_not(value)),
                None => "is missing".to_owned(),
            };
            errors.push(FieldError::new("metadata.name", message));
        }
        Some(name) if name.len() > 253 || !name.split('.').all(label) => errors.push(FieldError::new(
            "metadata.name",
            "must hold at most 253 lower-case letters, digits, '-' and '.', and begin and end with a letter or digit",
        )),
        Some(_) => {}
    }
}

/// Null means absent, as an API server reads it.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn walk(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_string() && !value.is_u64() {
            errors.push(FieldError::new(path, "must be a word or a whole number"));
        }
        return;
    }
    match (schema["type"].as_str().unwrap_or_default(), value) {
        ("object", Value::Object(fields)) => walk_object(schema, fields, path, errors),
        ("array", Value::Array(items)) => walk_array(schema, items, path, errors),
        ("string", Value::String(text)) => walk_string(schema, text, path, errors),
        ("integer", Value::Number(n)) if n.is_i64() || n.is_u64() => walk_integer(schema, n, path, errors),
        ("boolean", Value::Bool(_)) => {}
        ("string", other) => errors.push(FieldError::new(path, format!("must be {}", string_not(other)))),
        (expected, _) => errors.push(FieldError::new(path, format!("must be {}", article(expected)))),
    }
}

/// What to write where a string is wanted and this was read: YAML 1.1 has more booleans than people expect.
fn string_not(value: &Value) -> String {
    match value {
        Value::Bool(value) => format!(
            "a string, and was read as the boolean {value}: YAML takes y, n, yes, no, on, off, true and false for \
             booleans, so put it in quotes"
        ),
        Value::Number(number) => format!("a string, and was read as the number {number}: put it in quotes"),
        Value::Null => "a string".to_owned(),
        _ => "a string, not a list or an object".to_owned(),
    }
}

fn article(kind: &str) -> &'static str {
    match kind {
        "object" => "an object: field: value, or {field: value}",
        "array" => "a list: [a, b], or lines with '- '",
        "integer" => "a whole number",
        _ => "true or false",
    }
}

fn walk_object(schema: &Value, fields: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let known = schema["properties"].as_object();
    let others = schema.get("additionalProperties").filter(|s| s.is_object());
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match known.and_then(|known| known.get(name)).or(others) {
            Some(schema) => walk(schema, value, &path, errors),
            None => {
                let known: Vec<_> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                errors
                    .push(FieldError::new(&path, format!("unknown field; known here: {}", known.join(", "))));
            }
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            errors.push(FieldError::new(&format!("{path}.{name}"), "is missing"));
        }
    }
}

fn walk_array(schema: &Value, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let length = items.len() as u64;
    if schema["maxItems"].as_u64().is_some_and(|max| length > max) {
        errors.push(FieldError::new(
            path,
            format!("has {length} entries, at most {} are allowed", schema["maxItems"]),
        ));
        return;
    }
    if schema["minItems"].as_u64().is_some_and(|min| length < min) {
        errors.push(FieldError::new(
            path,
            format!("has {length} entries, at least {} is needed", schema["minItems"]),
        ));
    }
    let keys: Vec<_> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let unique = schema["x-kubernetes-list-type"] == "set" || !keys.is_empty();
    let identity = |item: &Value| {
        if keys.is_empty() { vec![item.clone()] } else { keys.iter().map(|k| item[k].clone()).collect() }
    };
    let mut seen = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let identity = identity(item);
        if unique && seen.contains(&identity) {
            let what = if keys.is_empty() { "entry".to_owned() } else { keys.join(" and ") };
            errors
                .push(FieldError::new(&path, format!("repeats the {what} of an earlier entry: remove one")));
        }
        seen.push(identity);
        walk(&schema["items"], item, &path, errors);
    }
}

fn walk_string(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(allowed) = schema["enum"].as_array() {
        let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
        if !allowed.contains(&text) {
            errors.push(FieldError::new(path, format!("{text} is not one of {}", allowed.join(", "))));
        }
        return;
    }
    let length = text.chars().count() as u64;
    if schema["maxLength"].as_u64().is_some_and(|max| length > max) {
        errors.push(FieldError::new(
            path,
            format!("{text} has {length} characters, at most {} are allowed", schema["maxLength"]),
        ));
    }
    if schema["minLength"].as_u64().is_some_and(|min| length < min) {
        errors.push(FieldError::new(
            path,
            format!("{text:?} is too short: at least {} characters", schema["minLength"]),
        ));
    }
}

fn walk_integer(schema: &Value, number: &serde_json::Number, path: &str, errors: &mut Vec<FieldError>) {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let (min, max) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) {
        let bound = |bound: Option<f64>| bound.map_or_else(|| "any".to_owned(), |b| format!("{b:.0}"));
        errors.push(FieldError::new(path, format!("{number} is not in {} to {}", bound(min), bound(max))));
    }
}
