//! Objects as an API server has them: each is decoded by itself, so that a bad one costs nothing but itself.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::load::{Loaded, object_of};
use super::manifest::{LoadError, Manifest, Source};
use super::schema::Checker;
use super::types::ObjectRef;

/// Kinds that say what is wanted, with their plural.
pub const KINDS: [(&str, &str); 5] = [
    ("DataplaneConfig", "dataplaneconfigs"),
    ("VRFAttachment", "vrfattachments"),
    ("RouteImport", "routeimports"),
    ("TrafficPolicy", "trafficpolicies"),
    ("ReturnPath", "returnpaths"),
];
/// Parts of `metadata` that matter here; the others change without a change of what is wanted.
const METADATA: [&str; 6] = ["annotations", "creationTimestamp", "generation", "labels", "name", "uid"];
/// Written by `kubectl apply`: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A list begins: what it does not name is gone.
    Begin,
    /// An object of the list.
    Item(Value),
    /// The list is whole.
    End,
    /// An object was created or changed.
    Put(Value),
    /// An object was deleted.
    Delete(String),
}

/// All objects that say what is wanted.
pub struct ClusterObjects {
    checker: Checker,
    hashing: RandomState,
    kinds: BTreeMap<&'static str, Kind>,
}

#[derive(Default)]
struct Kind {
    /// Whether it was ever listed as a whole.
    listed: bool,
    objects: BTreeMap<String, Entry>,
    /// What a running list has named so far.
    listing: BTreeMap<String, Entry>,
}

/// Equal where the node is asked to do the same.
#[derive(Debug, Clone)]
struct Entry {
    /// Of what was decoded. Most events tell of a status, which is nobody's wish, and decoding costs far more than this.
    hash: u64,
    decoded: Result<Manifest, Vec<LoadError>>,
    /// Fields that this version does not know.
    unknown: Vec<String>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.decoded == other.decoded && self.unknown == other.unknown
    }
}

impl Default for ClusterObjects {
    fn default() -> Self {
        let kinds = KINDS.iter().map(|(kind, _)| (*kind, Kind::default())).collect();
        Self { checker: Checker::new(), hashing: RandomState::new(), kinds }
    }
}

impl ClusterObjects {
    /// Takes what a watch tells about a kind. Tells whether anything changed that this node could be asked to do.
    pub fn apply(&mut self, kind: &str, change: Change) -> bool {
        let Some(state) = self.kinds.get_mut(kind) else { return false };
        match change {
            Change::Begin => {
                state.listing.clear();
                false
            }
            Change::Item(value) => {
                let (name, value, hash) = wanted(&self.hashing, kind, value);
                let known = state.objects.get(&name).filter(|old| old.hash == hash).cloned();
                let entry = known.unwrap_or_else(|| decode(&self.checker, kind, &name, value, hash));
                state.listing.insert(name, entry);
                false
            }
            Change::End => {
                let listed = std::mem::take(&mut state.listing);
                let changed = !state.listed || state.objects != listed;
                state.listed = true;
                state.objects = listed;
                changed
            }
            Change::Put(value) => {
                let (name, value, hash) = wanted(&self.hashing, kind, value);
                let old = state.objects.get(&name);
                if old.is_some_and(|old| old.hash == hash) {
                    return false;
                }
                let entry = decode(&self.checker, kind, &name, value, hash);
                let changed = old != Some(&entry);
                state.objects.insert(name, entry);
                changed
            }
            Change::Delete(name) => state.objects.remove(&name).is_some(),
        }
    }

    /// Whether a kind was listed as a whole.
    #[must_use]
    pub fn is_listed(&self, kind: &str) -> bool {
        self.kinds.get(kind).is_some_and(|state| state.listed)
    }

    /// Everything, in the form in which files are loaded.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        let mut loaded = Loaded::default();
        for (kind, state) in &self.kinds {
            if !state.listed {
                loaded.unknown_kinds.insert((*kind).to_owned());
            }
            for (name, entry) in &state.objects {
                match &entry.decoded {
                    Ok(manifest) => loaded.manifests.push(manifest.clone()),
                    Err(errors) => loaded.errors.extend(errors.iter().cloned()),
                }
                if !entry.unknown.is_empty() {
                    let object = ObjectRef { kind: (*kind).to_owned(), name: name.clone() };
                    loaded.unknown_fields.insert(object, entry.unknown.clone());
                }
            }
        }
        loaded
    }
}

/// What an object asks for, with its name and its hash.
fn wanted(hashing: &RandomState, kind: &str, mut value: Value) -> (String, Value, u64) {
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
        // Items of a list have neither.
        object.insert("kind".into(), kind.into());
        object.insert("apiVersion".into(), crate::api::API_VERSION.into());
    }
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| METADATA.contains(&field.as_str()));
        metadata.get_mut("annotations").and_then(Value::as_object_mut).map(|all| all.remove(LAST_APPLIED));
    }
    let hash = hashing.hash_one(&value);
    (name, value, hash)
}

fn decode(checker: &Checker, kind: &str, name: &str, mut value: Value, hash: u64) -> Entry {
    let unknown = checker.prune(kind, &mut value);
    let source = Source { file: PathBuf::from("API server"), document: 0, line: 0 };
    let decoded = match object_of(crate::api::API_VERSION, kind, &value, checker) {
        Ok(object) => Ok(Manifest { source, object, retained: false }),
        Err(errors) => {
            let object = ObjectRef { kind: kind.to_owned(), name: name.to_owned() };
            let error = |(field, message)| LoadError {
                source_file: source.clone(),
                object: Some(object.clone()),
                field: Some(field),
                message,
            };
            Err(errors.into_iter().map(error).collect())
        }
    };
    Entry { hash, decoded, unknown }
}

/// Removes the fields that a schema does not know, and names them.
pub(super) fn prune(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let known = schema["properties"].as_object();
            let others = schema.get("additionalProperties").filter(|it| it.is_object());
            // A schema that lists nothing takes everything.
            if known.is_none() && others.is_none() {
                return;
            }
            let schema_of =
                |name: &str| known.and_then(|known: &Map<String, Value>| known.get(name)).or(others);
            fields.retain(|name, field| {
                let path = format!("{path}.{name}");
                match schema_of(name) {
                    Some(schema) => prune(schema, field, &path, unknown),
                    None => unknown.push(path),
                }
                schema_of(name).is_some()
            });
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
