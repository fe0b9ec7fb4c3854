//! What does not work between the agent and the API server: in words that change only when the trouble does, so that
//! each is told once.

use kube::runtime::watcher;

use crate::status::reason;

/// What does not work, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Reason of the condition.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

impl Trouble {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What an error of a request for `what` means; `None`: it is part of the protocol.
    pub(super) fn of(what: &str, error: &kube::Error) -> Option<Self> {
        match error {
            kube::Error::Api(status) => Self::of_status(what, status.code, &status.message),
            other => Some(Self::new(
                reason::API_SERVER_AWAY,
                format!("the API server does not answer: {}", root(other)),
            )),
        }
    }

    fn of_status(what: &str, code: u16, message: &str) -> Option<Self> {
        match code {
            // Too old a resource version: the watcher lists anew.
            410 => None,
            401 | 403 => Some(Self::new(
                reason::FORBIDDEN,
                format!(
                    "{what}: the API server refuses ({code}): check the ClusterRole `backtrail` and its binding"
                ),
            )),
            404 => Some(Self::new(
                reason::KIND_MISSING,
                format!(
                    "{what}: the API server does not know this kind: install deploy/crds of this version"
                ),
            )),
            _ => {
                // Messages of timeouts and overload differ from one to the next; the code says it.
                let detail = if code >= 500 || code == 429 { "" } else { message };
                Some(Self::new(
                    reason::API_SERVER_AWAY,
                    format!("the API server answers {code} {detail}").trim_end().to_owned(),
                ))
            }
        }
    }

    /// The same for a watch.
    pub(super) fn of_watch(what: &str, error: &watcher::Error) -> Option<Self> {
        match error {
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
                Self::of(what, error)
            }
            watcher::Error::WatchError(status) => Self::of_status(what, status.code, &status.message),
            // A watch that ends is taken up again; if that fails, it is told then.
            watcher::Error::WatchFailed(_) => None,
            watcher::Error::NoResourceVersion => Some(Self::new(
                reason::API_SERVER_AWAY,
                format!("{what}: the API server gives no resource version"),
            )),
        }
    }
}

/// The innermost cause: `connection refused`, not the four layers around it.
fn root(error: &kube::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
