//! Manifests to intent: read, validate, merge; every conflict named.
//!
//! [`load`] reads and validates each object by itself, against the very CRD that a cluster would use.
//! [`build`] is pure: it picks the objects of this node and merges them. Objects only add, the more
//! permissive wins, `DataplaneConfig` caps the result, and a conflict costs only the item in conflict.

mod claims;
mod cluster;
mod config;
mod import;
mod load;
mod manifest;
mod nodes;
mod policy;
mod return_path;
mod schema;
#[cfg(test)]
mod tests;
pub mod types;
mod vrf;

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt as _};

use crate::api::VRF;
use crate::status::reason;
use claims::{Asker, Identities, Report, dataplane_config};
pub use cluster::{Change, ClusterObjects, KINDS};
pub use load::{Loaded, MAX_FILE_BYTES, load, load_text};
pub use manifest::{LoadError, Manifest, Object, Source};
pub use nodes::label_sets;
use types::{Config, Intent, ObjectRef, ObjectState, VrfMode};

/// The objects that are for this node, by kind.
#[derive(Default)]
struct Asking<'a> {
    config: Option<&'a crate::api::DataplaneConfig>,
    attachments: Vec<Asker<'a, crate::api::VRFAttachmentSpec>>,
    imports: Vec<Asker<'a, crate::api::RouteImportSpec>>,
    policies: Vec<Asker<'a, crate::api::TrafficPolicySpec>>,
    return_paths: Vec<Asker<'a, crate::api::ReturnPathSpec>>,
}

/// What all manifests together ask of this node.
///
/// `previous` is what is in force now: where two objects disagree, the one whose value is in force wins;
/// else the older one, else the one with the lower name. The outcome does not depend on the order of `loaded`.
#[must_use]
pub fn build(loaded: &Loaded, node_labels: &BTreeMap<String, String>, previous: Option<&Intent>) -> Intent {
    let mut report = Report::default();
    let asking = select(loaded, node_labels, &mut report);
    let config = config::resolve(asking.config);
    let identities = asking.identities(&config, previous);
    let vrfs = vrf::merge(&asking.attachments, &config, &identities, previous, &mut report);
    let imports = import::merge(&asking.imports, &config, &identities, previous, &mut report);
    let hash_policy = import::hash_policy(&asking.imports, previous, &mut report);
    let rules = policy::merge(&asking.policies, &vrfs, &identities, previous, &mut report);
    let return_paths = return_path::merge(&asking.return_paths, previous, &mut report);
    let steering = return_path::settings(&asking.return_paths, &config);
    report.conflicts.sort_by(|a, b| {
        (&a.object, &a.item, &a.reason, &a.message).cmp(&(&b.object, &b.item, &b.reason, &b.message))
    });
    report.conflicts.dedup();
    let objects = states(loaded, &asking, &report);
    let conflicts = report.conflicts;
    Intent { config, vrfs, imports, rules, return_paths, steering, hash_policy, conflicts, objects }
}

/// Hash of what is asked for: equal on nodes that are asked to do the same. Stable over restarts and versions
/// that know the same fields (FNV-1a, 64 bits, over the intent as JSON).
#[must_use]
pub fn config_hash(intent: &Intent) -> String {
    let Intent { config, vrfs, imports, rules, return_paths, steering, hash_policy, .. } = intent;
    let asked = (config, vrfs, imports, rules, return_paths, steering, hash_policy);
    // Plain data without maps of non-string keys always has a JSON form.
    let text = serde_json::to_vec(&asked).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn select<'a>(loaded: &'a Loaded, labels: &BTreeMap<String, String>, report: &mut Report) -> Asking<'a> {
    let mut asking = Asking::default();
    for manifest in &loaded.manifests {
        let object = manifest.object.object_ref();
        let selector = manifest.object.node_selector().cloned().unwrap_or_default();
        match Selector::try_from(selector) {
            Ok(selector) if selector.matches(labels) => asking.add(&manifest.object, object),
            Ok(_) => {}
            Err(error) => report.refuse(&object, reason::INVALID, format!("spec.nodeSelector: {error}")),
        }
    }
    asking
}

impl<'a> Asking<'a> {
    fn add(&mut self, object: &'a Object, name: ObjectRef) {
        let created = object.created();
        match object {
            Object::DataplaneConfig(o) => self.config = Some(o),
            Object::VRFAttachment(o) => self.attachments.push(Asker { object: name, created, spec: &o.spec }),
            Object::RouteImport(o) => self.imports.push(Asker { object: name, created, spec: &o.spec }),
            Object::TrafficPolicy(o) => self.policies.push(Asker { object: name, created, spec: &o.spec }),
            Object::ReturnPath(o) => self.return_paths.push(Asker { object: name, created, spec: &o.spec }),
        }
    }

    /// All objects of this node.
    fn objects(&self) -> impl Iterator<Item = ObjectRef> {
        let config = self.config.iter().map(|_| dataplane_config());
        let attachments = self.attachments.iter().map(|a| a.object.clone());
        let imports = self.imports.iter().map(|a| a.object.clone());
        let policies = self.policies.iter().map(|a| a.object.clone());
        let return_paths = self.return_paths.iter().map(|a| a.object.clone());
        config.chain(attachments).chain(imports).chain(policies).chain(return_paths)
    }

    /// Everybody who says that a VRF has a table.
    fn identities(&self, config: &Config, previous: Option<&Intent>) -> Identities {
        let usable = |vrf: &VRF| {
            vrf.mode == VrfMode::Adopt || (config.tables.0..=config.tables.1).contains(&vrf.table)
        };
        let attachments = self
            .attachments
            .iter()
            .filter(|a| usable(&a.spec.vrf))
            .map(|a| (a.who(), a.spec.vrf.name.as_str(), a.spec.vrf.table));
        let imports = self
            .imports
            .iter()
            .filter_map(|a| a.spec.into.vrf.as_ref().map(|vrf| (a.who(), vrf.name.as_str(), vrf.table)));
        let policies = self.policies.iter().flat_map(|a| {
            let vrfs = a.spec.rules.iter().map(|rule| &rule.action.vrf);
            vrfs.map(|vrf| (a.who(), vrf.name.as_str(), vrf.table))
        });
        Identities::settle(attachments.chain(imports).chain(policies), previous)
    }
}

/// What became of each object of this node, and of what could not be read.
fn states(loaded: &Loaded, asking: &Asking<'_>, report: &Report) -> Vec<ObjectState> {
    let mut states: BTreeMap<ObjectRef, ObjectState> = BTreeMap::new();
    let generation =
        |manifest: &Manifest| Some((manifest.object.object_ref(), manifest.object.metadata().generation?));
    let generations: BTreeMap<_, _> =
        loaded.manifests.iter().filter(|manifest| !manifest.retained).filter_map(generation).collect();
    for object in asking.objects().chain(report.refused.keys().cloned()) {
        let refused = report.refused.get(&object).map(Vec::as_slice).unwrap_or_default();
        let mut lost = report.conflicts.iter().filter(|c| c.object == object);
        let accepted = object == dataplane_config() || report.in_force.contains(&object);
        let (reason, message) = match (refused.first(), lost.next()) {
            (Some((reason, _)), _) => {
                let messages: Vec<_> = refused.iter().map(|(_, message)| message.as_str()).collect();
                (*reason, messages.join("; "))
            }
            (None, Some(conflict)) if !accepted => (conflict.reason.as_str(), conflict.message.clone()),
            _ => match loaded.unknown_fields.get(&object) {
                Some(fields) => (reason::UNSUPPORTED, unknown_fields(fields)),
                None => (reason::VALID, String::new()),
            },
        };
        let generation = generations.get(&object).copied();
        states.insert(
            object.clone(),
            ObjectState { object, accepted, reason: reason.to_owned(), message, generation },
        );
    }
    for error in &loaded.errors {
        let (object, reason) = match &error.object {
            Some(object) => (object.clone(), reason::INVALID),
            None => (unreadable(&error.source_file), reason::UNREADABLE),
        };
        let retained = loaded.manifests.iter().any(|m| m.retained && m.object.object_ref() == object);
        let kept = if retained { "; the last good version stays in force" } else { "" };
        let message = format!("{error}{kept}");
        let state = states.entry(object.clone()).or_insert_with(|| ObjectState {
            object,
            accepted: false,
            reason: String::new(),
            message: String::new(),
            generation: None,
        });
        // An object with several errors names the first one; `validate` names all.
        if state.reason != reason {
            (state.accepted, state.reason, state.message) = (false, reason.to_owned(), message);
        }
    }
    states.into_values().collect()
}

fn unknown_fields(fields: &[String]) -> String {
    let shown: Vec<_> = fields.iter().take(5).map(String::as_str).collect();
    let more = if fields.len() > shown.len() {
        format!(" and {} more", fields.len() - shown.len())
    } else {
        String::new()
    };
    format!(
        "this agent ({}) does not know {}{more}: the rest is in force",
        env!("CARGO_PKG_VERSION"),
        shown.join(", ")
    )
}

fn unreadable(source: &Source) -> ObjectRef {
    let name =
        source.file.file_name().map_or_else(|| source.file.to_string_lossy(), |name| name.to_string_lossy());
    let document = if source.document > 0 { format!("#{}", source.document) } else { String::new() };
    ObjectRef { kind: "Manifest".into(), name: format!("{name}{document}") }
}
