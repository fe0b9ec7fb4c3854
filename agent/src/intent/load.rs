//! Reads manifests from a file or a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kube::core::Selector;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::manifest::{LoadError, Manifest, Object, Source};
use super::schema::Checker;
use super::types::ObjectRef;
use crate::api;

/// Longest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// What a file or a folder holds: one bad document does not stop the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// Valid manifests, in the order of files and documents.
    pub manifests: Vec<Manifest>,
    /// What cannot be used, and why.
    #[serde(skip)]
    pub errors: Vec<LoadError>,
    /// Objects of other groups, which are not ours to judge: where, and `apiVersion kind`.
    #[serde(skip)]
    pub skipped: Vec<(Source, String)>,
    /// Kinds about which nothing is known now: what was in force of them stays.
    #[serde(skip)]
    pub unknown_kinds: BTreeSet<String>,
    /// Fields that this version does not know and that are left aside (those of a newer CRD; in files they are errors).
    #[serde(skip)]
    pub unknown_fields: BTreeMap<ObjectRef, Vec<String>>,
}

/// Reads a file, or all `*.yaml`, `*.yml` and `*.json` files of a folder (not of its sub-folders).
///
/// # Errors
/// When `path` itself cannot be read. All else is in [`Loaded::errors`].
pub fn load(path: &Path) -> Result<Loaded, Box<LoadError>> {
    let files = files_of(path).map_err(|e| {
        Box::new(whole_file(path, format!("cannot be read: {e}; give a file or a folder with manifests")))
    })?;
    let checker = Checker::new();
    let mut loaded = Loaded::default();
    for file in &files {
        match read(file) {
            Ok(text) => read_documents(file, &text, &checker, &mut loaded),
            Err(message) => loaded.errors.push(whole_file(file, message)),
        }
    }
    refuse_duplicates(&mut loaded);
    Ok(loaded)
}

/// Reads manifests from text, as if it were in `file`.
#[must_use]
pub fn load_text(file: &Path, text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    read_documents(file, text, &Checker::new(), &mut loaded);
    refuse_duplicates(&mut loaded);
    loaded
}

impl Loaded {
    /// Keeps the last good version of every object that is bad now: invalid input never changes the kernel.
    ///
    /// A document whose object cannot be told, or a file that cannot be read, keeps all that the file held before and holds no more.
    pub fn retain_good(&mut self, previous: &Self) {
        let present: BTreeSet<ObjectRef> = self.manifests.iter().map(|m| m.object.object_ref()).collect();
        let bad: BTreeSet<&ObjectRef> = self.errors.iter().filter_map(|e| e.object.as_ref()).collect();
        let unreadable: BTreeSet<&PathBuf> =
            self.errors.iter().filter(|e| e.object.is_none()).map(|e| &e.source_file.file).collect();
        let kept = previous.manifests.iter().filter(|manifest| {
            let object = manifest.object.object_ref();
            !present.contains(&object)
                && (bad.contains(&object)
                    || unreadable.contains(&manifest.source.file)
                    || self.unknown_kinds.contains(&object.kind))
        });
        let kept: Vec<_> = kept.map(|m| Manifest { retained: true, ..m.clone() }).collect();
        self.manifests.extend(kept);
    }
}

fn whole_file(file: &Path, message: String) -> LoadError {
    let source_file = Source { file: file.to_owned(), document: 0, line: 0 };
    LoadError { source_file, object: None, field: None, message }
}

fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = file.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|e| ext == *e));
        if manifest && !hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, String> {
    let length = std::fs::metadata(file).map_err(|e| format!("cannot be read: {e}"))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("has {length} bytes, at most {MAX_FILE_BYTES} bytes are read: split it"));
    }
    std::fs::read_to_string(file).map_err(|e| format!("cannot be read: {e}"))
}

/// Splits a file at its document markers before parsing, so that a syntax error costs one document.
fn read_documents(file: &Path, text: &str, checker: &Checker, loaded: &mut Loaded) {
    let mut documents = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
        if marker {
            documents.push((index + 1, String::new()));
        }
        if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let has_content = |text: &str| {
        text.lines().any(|l| {
            let l = l.trim();
            !l.is_empty() && !l.starts_with('#') && l != "---" && l != "..."
        })
    };
    documents.retain(|(_, text)| has_content(text));
    for (number, (line, document)) in documents.into_iter().enumerate() {
        let source = Source { file: file.to_owned(), document: number + 1, line };
        read_document(source, &document, checker, loaded);
    }
}

fn read_document(source: Source, text: &str, checker: &Checker, loaded: &mut Loaded) {
    // Lines are counted from the top of the file, as editors do.
    let padded = format!("{}{text}", "\n".repeat(source.line - 1));
    let value = match serde_saphyr::from_str::<Value>(&padded) {
        Ok(value) => value,
        Err(error) => {
            let message = format!("is not valid YAML: {}", error.without_snippet());
            loaded.errors.push(LoadError { source_file: source, object: None, field: None, message });
            return;
        }
    };
    let text_of = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text_of("apiVersion"), text_of("kind"));
    let group = version.split('/').next().unwrap_or_default();
    if !version.is_empty() && !kind.is_empty() && group != api::GROUP {
        loaded.skipped.push((source, format!("{version} {kind}")));
        return;
    }
    let name = value.pointer("/metadata/name").and_then(Value::as_str);
    let object = name
        .filter(|_| !kind.is_empty())
        .map(|name| ObjectRef { kind: kind.to_owned(), name: name.to_owned() });
    match object_of(version, kind, &value, checker) {
        Ok(found) => loaded.manifests.push(Manifest { source, object: found, retained: false }),
        Err(errors) => loaded.errors.extend(errors.into_iter().map(|(field, message)| LoadError {
            source_file: source.clone(),
            object: object.clone(),
            field: Some(field),
            message,
        })),
    }
}

/// The object of a manifest, or all that is wrong with it: (field, what is wrong).
pub(super) fn object_of(
    version: &str,
    kind: &str,
    value: &Value,
    checker: &Checker,
) -> Result<Object, Vec<(String, String)>> {
    const KINDS: &str = "DataplaneConfig, VRFAttachment, RouteImport, TrafficPolicy or ReturnPath";
    let one = |field: &str, message: String| vec![(field.to_owned(), message)];
    if version != api::API_VERSION {
        return Err(one("apiVersion", format!("{version:?}: write {}", api::API_VERSION)));
    }
    match kind {
        "" => return Err(one("kind", format!("is missing: write {KINDS}"))),
        "NodeRoutingState" => {
            return Err(one("kind", "NodeRoutingState is written by the agent alone: remove it".into()));
        }
        "DataplaneConfig" | "VRFAttachment" | "RouteImport" | "TrafficPolicy" | "ReturnPath" => {}
        other => return Err(one("kind", format!("unknown kind {other}: write {KINDS}"))),
    }
    let value = checker
        .check(kind, value)
        .map_err(|errors| errors.into_iter().map(|e| (e.field, e.message)).collect::<Vec<_>>())?;
    let object = Object::from_value(value).map_err(|e| vec![("spec".to_owned(), e.to_string())])?;
    match Selector::try_from(object.node_selector().cloned().unwrap_or_default()) {
        Ok(_) => Ok(object),
        Err(e) => Err(one("spec.nodeSelector", e.to_string())),
    }
}

/// Two manifests of one kind and name would be one object in a cluster: the first one counts.
fn refuse_duplicates(loaded: &mut Loaded) {
    let mut seen: BTreeMap<ObjectRef, Source> = BTreeMap::new();
    let mut errors = Vec::new();
    loaded.manifests.retain(|manifest| {
        let object = manifest.object.object_ref();
        if let Some(first) = seen.get(&object) {
            errors.push(LoadError {
                source_file: manifest.source.clone(),
                message: format!("{object} is already in {first}: rename or remove one of the two"),
                object: Some(object),
                field: Some("metadata.name".to_owned()),
            });
            return false;
        }
        seen.insert(object, manifest.source.clone());
        true
    });
    loaded.errors.append(&mut errors);
}
