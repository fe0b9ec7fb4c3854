//! What others did to ours: noted with its author, for logs and status.

use std::collections::VecDeque;
use std::fmt::Display;

use crate::metrics::{Cause, Metrics};

/// Notes that are kept.
const MAX_NOTES: usize = 20;

/// `PID_MAX_LIMIT` (include/linux/threads.h): higher ports are those of a process's further sockets, drawn by the kernel.
const MAX_PID: u32 = 4_194_304;

/// Who did it, as far as a notification tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// A netlink port: mostly the id of a process, 0 the kernel itself.
    Port(u32),
    /// Somebody who marks his routes with this `rtm_protocol`.
    Protocol(u8),
    /// A comparison found it; nobody was seen.
    Unseen,
}

impl Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(0) => write!(f, "by the kernel"),
            Self::Port(port) => match process(*port) {
                Some(name) => write!(f, "by {name} (process {port})"),
                None if *port > MAX_PID => write!(f, "by an unknown process (netlink port {port})"),
                None => write!(f, "by a process that has ended (netlink port {port})"),
            },
            Self::Protocol(protocol) => {
                write!(f, "by a route of protocol {}", crate::model::protocol_name(*protocol))
            }
            Self::Unseen => write!(f, "without a notification"),
        }
    }
}

/// The name of a running process. Programs take their process id as the port of their first socket.
fn process(port: u32) -> Option<String> {
    let comm = std::fs::read_to_string(format!("/proc/{port}/comm")).ok()?;
    Some(comm.trim_end().to_owned())
}

/// The latest notes, newest first.
#[derive(Debug, Default)]
pub(super) struct DriftLog {
    notes: VecDeque<String>,
}

impl DriftLog {
    /// Notes, logs and counts what was done to an object of ours: `deleted`, `replaced`.
    pub(super) fn note(
        &mut self,
        metrics: &Metrics,
        cause: &'static str,
        what: impl Display,
        author: Author,
    ) {
        metrics.reconcile.drift_mended.get_or_create(&Cause { cause }).inc();
        self.keep(cause, what, author);
    }

    /// Notes and logs what is counted where it is mended.
    pub(super) fn keep(&mut self, cause: &'static str, what: impl Display, author: Author) {
        let note = format!("{what} {author}");
        tracing::warn!(cause, "drift: {note}");
        self.notes.push_front(format!("{} {note}", jiff::Timestamp::now()));
        self.notes.truncate(MAX_NOTES);
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.iter().cloned().collect()
    }
}
