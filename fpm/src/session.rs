//! When zebra has told all it knows, and when what it no longer tells may go: pure state machines, with the time
//! passed in.
//!
//! zebra sends its whole table on connect, without a mark at the end. Its walk pauses for up to one second while
//! its buffer is full; a pause of more than that, three seconds by default, is taken for the end.

use std::time::{Duration, Instant};

/// How long zebra must be quiet for its replay to count as complete.
pub const DEFAULT_QUIET: Duration = Duration::from_secs(3);

/// Finds the end of the replay of one connection.
///
/// ```
/// use std::time::{Duration, Instant};
/// use zebra_fpm::session::{DEFAULT_QUIET, Replay};
///
/// let start = Instant::now();
/// let mut replay = Replay::new(DEFAULT_QUIET);
/// assert_eq!(replay.deadline(), None, "a silent connection has replayed nothing");
/// replay.frame(start);
/// replay.bytes(start + Duration::from_secs(2));
/// assert!(!replay.tick(start + Duration::from_secs(4)), "quiet for two seconds only");
/// assert!(replay.tick(start + Duration::from_secs(5)));
/// assert!(!replay.tick(start + Duration::from_secs(9)), "told once");
/// ```
#[derive(Debug, Clone)]
pub struct Replay {
    quiet: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No valid frame yet.
    Silent,
    /// The time of the last bytes.
    Replaying(Instant),
    Complete,
}

impl Replay {
    /// At the start of a connection.
    #[must_use]
    pub fn new(quiet: Duration) -> Self {
        Self { quiet, state: State::Silent }
    }

    /// Bytes arrived, be they a whole frame or not.
    pub fn bytes(&mut self, now: Instant) {
        if let State::Replaying(last) = &mut self.state {
            *last = now;
        }
    }

    /// A valid frame arrived.
    pub fn frame(&mut self, now: Instant) {
        if self.state != State::Complete {
            self.state = State::Replaying(now);
        }
    }

    /// Time passed: tells, once, that the replay is complete.
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> bool {
        let complete = self.deadline().is_some_and(|deadline| now >= deadline);
        if complete {
            self.state = State::Complete;
        }
        complete
    }

    /// When to call [`Self::tick`], if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Replaying(last) => last.checked_add(self.quiet),
            State::Silent | State::Complete => None,
        }
    }

    /// Whether the replay is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }
}

/// Decides when to sweep: to drop what no session has announced since the last one began.
///
/// zebra sends no deletes in a replay, so routes of an ended session are kept until it is known that they are gone:
///
/// - the same `nlmsg_pid` as before means that only the connection was lost: sweep when the replay is complete;
/// - another one means that zebra has been restarted, and BGP may still be converging after its
///   replay: sweep when the retention time has passed since the session ended;
/// - without a new session, sweep everything then.
///
/// ```
/// use std::time::{Duration, Instant};
/// use zebra_fpm::session::Retention;
///
/// let lost = Instant::now();
/// let mut retention = Retention::new(Some(Duration::from_secs(300)));
/// assert!(!retention.replay_complete(Some(7)), "nothing is stale in the first session");
/// retention.disconnected(lost);
/// assert!(retention.replay_complete(Some(7)), "the same zebra");
/// retention.disconnected(lost);
/// assert!(!retention.replay_complete(Some(8)), "another zebra");
/// assert!(!retention.tick(lost + Duration::from_secs(299)));
/// assert!(retention.tick(lost + Duration::from_secs(300)));
/// ```
#[derive(Debug, Clone)]
pub struct Retention {
    retain: Option<Duration>,
    pid: Option<u32>,
    /// When the last session ended, while its routes are stale.
    lost: Option<Instant>,
}

impl Retention {
    /// Keeps stale routes for so long; `None` keeps them until a zebra has replayed.
    #[must_use]
    pub fn new(retain: Option<Duration>) -> Self {
        Self { retain, pid: None, lost: None }
    }

    /// The session ended.
    pub fn disconnected(&mut self, now: Instant) {
        self.lost = Some(now);
    }

    /// The replay of the session with this `nlmsg_pid` is complete: tells whether to sweep.
    #[must_use]
    pub fn replay_complete(&mut self, pid: Option<u32>) -> bool {
        let same_zebra = pid.is_some() && self.pid == pid;
        self.pid = pid;
        let sweep = self.lost.is_some() && (same_zebra || self.retain.is_none());
        if sweep {
            self.lost = None;
        }
        sweep
    }

    /// Time passed: tells whether to sweep.
    #[must_use]
    pub fn tick(&mut self, now: Instant) -> bool {
        let sweep = self.deadline().is_some_and(|deadline| now >= deadline);
        if sweep {
            self.lost = None;
        }
        sweep
    }

    /// When to call [`Self::tick`], if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.lost?.checked_add(self.retain?)
    }
}

#[cfg(test)]
mod tests;
