//! Writes a status by server-side apply, also where the CRD is older than this agent.
//!
//! An API server refuses to apply an object with a field that its schema does not have, and with it all that is known. So
//! such fields are told once and left out, until the CRD has them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::api::API_VERSION;

/// Refusals that one write lives with: each names one field or several.
const MAX_REFUSALS: usize = 20;
/// How the API server says it (structured-merge-diff, `typed/validate.go`), after the path of the field.
const NOT_DECLARED: &str = ": field not declared in schema";

/// A path in an object, such as `.status.vrfs[].table`: `None` stands for every item of a list.
type Path = Vec<Option<String>>;

/// Writes statuses in the name of one field manager.
#[derive(Debug)]
pub(super) struct Applier {
    manager: String,
    /// Fields that CRDs lack, by kind, and since when they are left out.
    missing: BTreeMap<String, (Instant, BTreeSet<Path>)>,
    /// They are tried again after so long.
    again: Duration,
    /// Kinds whose CRD was told to be older.
    told: BTreeSet<String>,
}

impl Applier {
    pub(super) fn new(manager: impl Into<String>, again: Duration) -> Self {
        Self { manager: manager.into(), missing: BTreeMap::new(), again, told: BTreeSet::new() }
    }

    pub(super) fn params(&self) -> PatchParams {
        PatchParams::apply(&self.manager).force()
    }

    /// Writes the status of an object; returns the object.
    ///
    /// # Errors
    /// Those of the API server, but for fields that it does not know.
    pub(super) async fn apply(
        &mut self,
        api: &Api<DynamicObject>,
        kind: &str,
        name: &str,
        status: &Value,
        now: Instant,
    ) -> kube::Result<DynamicObject> {
        self.missing.retain(|_, (since, _)| now.saturating_duration_since(*since) < self.again);
        let mut body = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name},
            "status": status,
        });
        for path in self.missing.get(kind).into_iter().flat_map(|(_, paths)| paths) {
            remove(&mut body, path);
        }
        let mut refusals = 0;
        loop {
            let refused = match api.patch_status(name, &self.params(), &Patch::Apply(&body)).await {
                Err(kube::Error::Api(refused)) => refused,
                result => return result,
            };
            let unknown = undeclared(&refused.message);
            refusals += 1;
            if unknown.is_empty() || refusals > MAX_REFUSALS {
                return Err(kube::Error::Api(refused));
            }
            unknown.iter().for_each(|path| remove(&mut body, path));
            if self.told.insert(kind.to_owned()) {
                tracing::warn!(
                    kind,
                    "the CRD is older than this agent: what it does not know is left out, as {}; install deploy/crds of this \
                     version",
                    unknown.iter().map(text).collect::<Vec<_>>().join(", ")
                );
            }
            self.missing.entry(kind.to_owned()).or_insert((now, BTreeSet::new())).1.extend(unknown);
        }
    }
}

/// Paths of fields that an API server refuses because its schema lacks them.
fn undeclared(message: &str) -> BTreeSet<Path> {
    let before = message.split(NOT_DECLARED).collect::<Vec<_>>();
    let named = before.iter().take(before.len().saturating_sub(1));
    named.filter_map(|text| parse(text.rsplit(char::is_whitespace).next()?)).collect()
}

/// `.status.interfaces[name="eth0.100"].mtu`
fn parse(text: &str) -> Option<Path> {
    let (mut path, mut rest) = (Path::new(), text);
    while !rest.is_empty() {
        if let Some(field) = rest.strip_prefix('.') {
            let end = field.find(['.', '[']).unwrap_or(field.len());
            let (name, more) = field.split_at(end);
            path.push(Some(name.to_owned()));
            rest = more;
        } else {
            // A key may hold brackets of its own only within quotes.
            let mut quoted = false;
            let end = rest.strip_prefix('[')?.find(|c| {
                quoted ^= c == '"';
                c == ']' && !quoted
            })?;
            path.push(None);
            rest = rest.get(end + 2..)?;
        }
    }
    path.last()?.is_some().then_some(path)
}

fn text(path: &Path) -> String {
    path.iter().map(|step| step.as_ref().map_or_else(|| "[]".to_owned(), |name| format!(".{name}"))).collect()
}

/// Takes a field out, of every item of the lists on its way.
fn remove(value: &mut Value, path: &[Option<String>]) {
    match (path, value) {
        ([Some(name)], Value::Object(fields)) => drop(fields.remove(name)),
        ([Some(name), rest @ ..], Value::Object(fields)) => {
            if let Some(value) = fields.get_mut(name) {
                remove(value, rest);
            }
        }
        ([None, rest @ ..], Value::Array(items)) => items.iter_mut().for_each(|item| remove(item, rest)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_does_not_know_is_found_and_taken_out() {
        let one = "failed to create typed patch object (/red; backtrail.dev/v1alpha1, Kind=VRFAttachment): .status.matchedNodes: \
                   field not declared in schema";
        let many = "failed to create typed patch object (/w1; backtrail.dev/v1alpha1, Kind=NodeRoutingState): errors:\n  \
                    .status.fibDrift: field not declared in schema\n  \
                    .status.vrfs[name=\"a].b\"].table: field not declared in schema";
        let found = |message: &str| undeclared(message).iter().map(text).collect::<Vec<_>>();
        assert_eq!(found(one), [".status.matchedNodes"]);
        assert_eq!(found(many), [".status.fibDrift", ".status.vrfs[].table"]);
        for other in ["by the proxy", "", NOT_DECLARED, "].x: field not declared in schema"] {
            assert_eq!(undeclared(other), BTreeSet::new(), "{other}");
        }
        let mut body = json!({"status": {"fibDrift": 1, "vrfs": [{"name": "a", "table": 1}, {"name": "b", "table": 2}]}});
        for path in undeclared(many) {
            remove(&mut body, &path);
        }
        assert_eq!(body, json!({"status": {"vrfs": [{"name": "a"}, {"name": "b"}]}}));
    }
}
