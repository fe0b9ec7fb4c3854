//! The control socket: what the other commands ask a running agent.
//!
//! One JSON value a line, requests and responses in turn, on a Unix socket that only its owner may open.
//! The server knows nothing of the daemon: it hands each [`Request`] with the means to answer it over a bounded
//! channel to whoever owns the state, so that answers are consistent and nothing is shared or locked.
//! Lists come in pages of at most [`MAX_PAGE`] rows, so that no answer is larger than [`MAX_RESPONSE`].

mod client;
mod endpoint;
mod server;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::api::{ApplyStatus, NodeRoutingStateStatus};
use crate::explain::{Explanation, Target};

pub use crate::status::rows::{
    Change, EventKind, EventRow, FlowOrigin, FlowRow, NexthopRow, PlanRow, RouteRow, RouteState,
};
pub use client::Client;
pub use endpoint::Endpoint;
pub use server::{Call, serve};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "backtrail.sock";

/// Name of the lock file in the run directory; the agent holds it (flock) as long as it lives.
pub const LOCK: &str = "backtrail.lock";

/// Rows that a page may have.
pub const MAX_PAGE: u32 = 2048;

/// Bytes that a request may have.
pub const MAX_REQUEST: u64 = 64 * 1024;

/// Bytes that a response may have: a page of routes with 64 nexthops each fits.
pub const MAX_RESPONSE: u64 = 16 * 1024 * 1024;

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// The node's status: `NodeRoutingState.status`.
    Status,
    /// A page of the learned and programmed routes.
    #[serde(rename_all = "camelCase")]
    Routes {
        /// Only routes of this VRF.
        vrf: Option<String>,
        /// Only this prefix and what lies inside it.
        prefix: Option<IpNet>,
        /// Where the page begins.
        page: PageRequest,
    },
    /// A page of the flow table.
    Flows {
        /// Where the page begins.
        page: PageRequest,
    },
    /// What happened to flows since; answered when something has, after a few seconds in any case.
    Events {
        /// [`EventPage::next`] of the answer before; `None`: from now on.
        after: Option<EventCursor>,
    },
    /// What the agent would change now; nothing is changed.
    Plan {
        /// Manifests to plan with instead of those in force; an absolute path that the agent reads.
        config: Option<PathBuf>,
    },
    /// Which way a packet takes, and why.
    Explain {
        /// The packet, or the prefix.
        target: Target,
        /// The interface that a flow's first packet comes in by.
        iif: Option<String>,
    },
    /// Write nothing any more, over restarts too.
    Pause {
        /// Why, for whoever looks at the status.
        reason: Option<String>,
    },
    /// Take the pause back.
    Resume,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// 0, or [`Page::next`] of the page before. Its meaning is the agent's own.
    pub cursor: u64,
    /// Rows wanted, at most [`MAX_PAGE`]; the agent may send fewer.
    pub limit: u32,
}

/// A part of a list. A row that changes between two pages may be missed or seen twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Rows of the whole list that fit the question.
    pub total: u64,
    /// Cursor of the next page; `None` after the last.
    pub next: Option<u64>,
}

/// How much a follower knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCursor {
    /// Events told since the agent started.
    pub event: u64,
    /// Events that the programs kept to themselves: too many in a second.
    pub suppressed: u64,
}

/// What happened since a cursor, at most [`MAX_PAGE`] events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// The events, the oldest first.
    pub events: Vec<EventRow>,
    /// Events in between that are not told: more than the programs may report, or more than the agent keeps.
    pub lost: u64,
    /// To be asked with next.
    pub next: EventCursor,
}

/// What the agent answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<NodeRoutingStateStatus>),
    /// To [`Request::Routes`].
    Routes(Page<RouteRow>),
    /// To [`Request::Flows`].
    Flows(Page<FlowRow>),
    /// To [`Request::Events`].
    Events(EventPage),
    /// To [`Request::Plan`]: every change, in the order in which the agent would make it; cut at [`MAX_PAGE`] rows
    /// (`total` counts all, `next` is always `None`).
    Plan(Page<PlanRow>),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Request::Pause`], when nothing is under way any more, and to [`Request::Resume`].
    Apply(ApplyStatus),
    /// The request cannot be answered; for a person: what is wrong and what to do.
    Error(String),
}

/// Why a client got no answer, or the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no agent answers at {path}: start `backtrail agent`, or give its --run-dir")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        source: std::io::Error,
    },
    /// Another agent holds the lock.
    #[error("another agent (pid {pid}) owns {path}: stop it first, or give this one its own --run-dir")]
    AlreadyRunning {
        /// The lock file.
        path: PathBuf,
        /// What the lock file says; `?` when it says nothing.
        pid: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// A verb: `create`, `lock`, `bind`, `read from`.
        action: &'static str,
        /// The file, directory or socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The other side does not speak this protocol: most likely another version of Backtrail.
    #[error("the agent's answer is not understood ({0}): are agent and command of the same version?")]
    Protocol(String),
    /// The agent answered that it cannot.
    #[error("{0}")]
    Refused(String),
}
