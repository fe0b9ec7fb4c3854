//! What the agent says about itself: conditions, and the words that states and reasons are made of.
//!
//! Pure: the daemon tells what it sees and when, and publishes the result where it changed.

pub mod reason;
pub mod rows;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message of a condition, bytes (the API server refuses more than 32,768; people read far less).
pub const MAX_MESSAGE: usize = 1024;

/// Conditions of one object, at most one of each type, in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConditionSet(Vec<Condition>);

/// `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl ConditionStatus {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl ConditionSet {
    /// Takes over conditions that were published before, so that their times of transition live on.
    #[must_use]
    pub fn new(conditions: Vec<Condition>) -> Self {
        Self(conditions)
    }

    /// Sets a condition and tells whether anything changed (if not, there is nothing to publish).
    ///
    /// `lastTransitionTime` moves only with the status, as the Kubernetes API convention has it. A message is cut
    /// at [`MAX_MESSAGE`].
    pub fn set(
        &mut self,
        now: Timestamp,
        kind: &str,
        status: impl Into<ConditionStatus>,
        reason: &str,
        message: &str,
    ) -> bool {
        let status = status.into().as_str();
        let message = cut(message);
        let Some(old) = self.0.iter_mut().find(|c| c.type_ == kind) else {
            self.0.push(Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: Time(now),
                observed_generation: None,
            });
            return true;
        };
        if old.status == status && old.reason == reason && old.message == message {
            return false;
        }
        if old.status != status {
            old.last_transition_time = Time(now);
        }
        status.clone_into(&mut old.status);
        reason.clone_into(&mut old.reason);
        message.clone_into(&mut old.message);
        true
    }

    /// Removes a condition that has become meaningless; tells whether it was there.
    pub fn clear(&mut self, kind: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|c| c.type_ != kind);
        self.0.len() != before
    }

    /// The condition of this type.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&Condition> {
        self.0.iter().find(|c| c.type_ == kind)
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Condition] {
        &self.0
    }
}

/// Cuts a message at [`MAX_MESSAGE`], never within a character.
fn cut(message: &str) -> &str {
    let end = message.floor_char_boundary(MAX_MESSAGE);
    message.get(..end).unwrap_or(message)
}
