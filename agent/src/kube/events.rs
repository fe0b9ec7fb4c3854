//! Events: what a person should read with `kubectl describe`. Only transitions are told, never states.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::Value;

use crate::api::API_VERSION;
use crate::intent::types::ObjectRef;
use crate::status::reason::{self, condition};

/// Events at most for one write.
const MAX_EVENTS: usize = 5;
/// Conditions that are told: (type, the status that is good).
const TOLD: [(&str, &str); 9] = [
    (condition::READY, "True"),
    (condition::ACCEPTED, "True"),
    (condition::CONFLICTED, "False"),
    (condition::FPM_CONNECTED, "True"),
    (condition::DATAPLANE_ATTACHED, "True"),
    (condition::ATTACHED, "True"),
    (condition::GUARDRAIL_TRIPPED, "False"),
    (condition::FOREIGN_INTERFERENCE, "False"),
    (condition::LIMIT_REACHED, "False"),
];
/// Reasons of something that passes by itself.
const PASSING: [&str; 3] = [reason::PENDING, reason::STARTING, reason::NO_MATCHING_NODE];

/// Tells transitions of conditions as Events.
pub(super) struct Herald {
    recorder: Recorder,
}

impl Herald {
    pub(super) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "backtrail".to_owned(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// What changed on a node.
    pub(super) async fn node_changed(
        &self,
        name: &str,
        uid: Option<String>,
        old: &[Condition],
        new: &[Condition],
    ) {
        self.tell("NodeRoutingState", name, uid, transitions(old, new)).await;
    }

    /// What changed of an object, by its status before and after.
    pub(super) async fn object_changed(
        &self,
        object: &ObjectRef,
        uid: Option<String>,
        old: &Value,
        new: &Value,
    ) {
        let conditions = |status: &Value| -> Vec<Condition> {
            serde_json::from_value(status["conditions"].clone()).unwrap_or_default()
        };
        self.tell(&object.kind, &object.name, uid, transitions(&conditions(old), &conditions(new))).await;
    }

    async fn tell(&self, kind: &str, name: &str, uid: Option<String>, events: Vec<Event>) {
        let regarding = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            uid,
            ..Default::default()
        };
        for event in events {
            // Without Events the conditions still say it.
            if let Err(error) = self.recorder.publish(&event, &regarding).await {
                tracing::debug!(%error, kind, name, "an Event could not be written");
                return;
            }
        }
    }
}

/// Conditions that turned, or that are bad for another reason than before.
fn transitions(old: &[Condition], new: &[Condition]) -> Vec<Event> {
    let before = |kind: &str| old.iter().find(|it| it.type_ == kind);
    let event = |it: &Condition| {
        let (_, good) = TOLD.iter().find(|(kind, _)| *kind == it.type_)?;
        let was = before(&it.type_)?;
        let bad = it.status != *good;
        let turned = was.status != it.status || (bad && was.reason != it.reason);
        if !turned || PASSING.contains(&it.reason.as_str()) {
            return None;
        }
        let note =
            if it.message.is_empty() { format!("{} is {}", it.type_, it.status) } else { it.message.clone() };
        Some(Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: it.reason.clone(),
            note: Some(note),
            action: it.type_.clone(),
            secondary: None,
        })
    };
    new.iter().filter_map(event).take(MAX_EVENTS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ConditionSet;

    fn set(values: &[(&str, bool, &str)]) -> Vec<Condition> {
        let mut set = ConditionSet::default();
        for (kind, holds, reason) in values {
            set.set(jiff::Timestamp::now(), kind, *holds, reason, "");
        }
        set.as_slice().to_vec()
    }

    #[test]
    fn only_transitions_are_told() {
        let good = set(&[("Ready", true, "AllWell"), ("Conflicted", false, "AllWell")]);
        let bad = set(&[("Ready", false, "Partial"), ("Conflicted", true, "VLANMismatch")]);
        assert!(transitions(&good, &good).is_empty());
        assert!(transitions(&[], &bad).is_empty(), "a first state is no transition");
        let told: Vec<_> = transitions(&good, &bad).into_iter().map(|it| (it.action, it.reason)).collect();
        let expected = [("Ready", "Partial"), ("Conflicted", "VLANMismatch")];
        assert_eq!(told, expected.map(|(action, reason)| (action.to_owned(), reason.to_owned())));
        assert!(transitions(&good, &set(&[("Ready", false, "Starting")])).is_empty());
        assert_eq!(transitions(&bad, &good).len(), 2);
    }
}
