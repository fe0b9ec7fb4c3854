//! Which nodes could there be: label sets under which selectors of manifests match together.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::load::Loaded;

type Labels = BTreeMap<String, String>;

/// Selectors of which every pair is tried; with more of them each is tried alone.
const MAX_PAIRED: usize = 48;

/// Label sets that matter when no node is known: no labels, what each selector asks for, and what each two
/// selectors ask for together where one node can have both. Two objects can only disagree on such a node.
#[must_use]
pub fn label_sets(loaded: &Loaded) -> Vec<Labels> {
    let selectors = loaded.manifests.iter().filter_map(|m| m.object.node_selector());
    let asked: BTreeSet<Labels> = selectors.map(labels_of).collect();
    let mut sets = asked.clone();
    sets.insert(Labels::new());
    if asked.len() <= MAX_PAIRED {
        for (a, b) in asked.iter().flat_map(|a| asked.iter().map(move |b| (a, b))) {
            if a.iter().all(|(key, value)| b.get(key).is_none_or(|other| other == value)) {
                sets.insert(a.iter().chain(b).map(|(k, v)| (k.clone(), v.clone())).collect());
            }
        }
    }
    sets.into_iter().collect()
}

/// The fewest labels that a selector is content with.
fn labels_of(selector: &LabelSelector) -> Labels {
    let mut labels: Labels = selector.match_labels.clone().unwrap_or_default();
    for expression in selector.match_expressions.iter().flatten() {
        let value = expression.values.iter().flatten().next();
        match (expression.operator.as_str(), value) {
            ("In", Some(value)) => labels.insert(expression.key.clone(), value.clone()),
            ("Exists", _) => labels.insert(expression.key.clone(), String::new()),
            _ => None,
        };
    }
    labels
}
