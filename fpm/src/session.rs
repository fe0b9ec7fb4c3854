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

/// For how long a consumer keeps what FRR has not announced again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Not beyond the end of the session.
    Withdraw,
    /// For so long after the session ended.
    For(Duration),
    /// For ever; but what a restarted zebra replays counts as its word after [`GRACE`].
    Forever,
}

/// Time that [`Retention::Forever`] gives a restarted zebra after its replay: it replays before BGP has converged.
pub const GRACE: Duration = Duration::from_secs(120);
/// Time that [`Retention::Withdraw`] gives zebra to connect at the consumer's own start: it tries every 3 s.
pub const START_GRACE: Duration = Duration::from_secs(30);

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// No session; since when.
    Lost(Instant),
    /// A session since; its replay is not known to be whole.
    Replay(Instant),
    /// The replay is whole; since when.
    Complete(Instant),
}

/// Decides when to sweep: to drop what the session has not announced.
///
/// zebra sends no deletes in a replay, so what it no longer announces is *held* until it is known to be gone:
///
/// - the same `nlmsg_pid` as before means that only the connection was lost: until the replay is complete;
/// - another one means that zebra has been restarted, and BGP may still be converging after its replay: until the
///   [`Retention`] has passed since the session was lost;
/// - without a new session likewise.
///
/// ```text
///            connected            replay complete, same zebra
///   Lost ───────────────▶ Replay ──────────────────────────────▶ synchronized
///    ▲  ◀─────────────────  │  another zebra: after the retention   │
///    └──────────────────────┴───────────── disconnected ────────────┘
/// ```
///
/// The inputs are the [server's events](crate::server::Event) and the time. Several retentions may apply to parts of the
/// table: [`Self::hold_until`] answers for each, and the consumer calls [`Self::synchronized`] when it has swept all.
///
/// ```
/// use std::time::{Duration, Instant};
/// use zebra_fpm::session::{Feed, Retention};
///
/// let start = Instant::now();
/// let later = |seconds| start + Duration::from_secs(seconds);
/// let retention = Retention::For(Duration::from_secs(300));
///
/// // A consumer that knows nothing of zebra 7, whose first replay ends at second 5.
/// let mut feed = Feed::new(start, None);
/// feed.connected(start);
/// feed.seen_pid(7);
/// feed.replay_complete(later(5));
/// feed.synchronized(); // nothing is stale in the first session
///
/// feed.disconnected(later(10));
/// assert_eq!(feed.hold_until(retention), Some(later(310)));
/// feed.connected(later(13));
/// feed.seen_pid(7);
/// feed.replay_complete(later(20));
/// assert_eq!(feed.hold_until(retention), Some(later(20)), "the same zebra: sweep now");
/// feed.synchronized();
/// assert_eq!(feed.hold_until(retention), None, "nothing is held");
///
/// feed.disconnected(later(30));
/// feed.connected(later(40));
/// feed.seen_pid(8);
/// feed.replay_complete(later(50));
/// assert_eq!(feed.hold_until(retention), Some(later(330)), "another zebra: BGP may still converge");
/// ```
#[derive(Debug, Clone)]
pub struct Feed {
    state: FeedState,
    /// `nlmsg_pid` of the zebra whose state is held whole.
    synced_pid: Option<u32>,
    /// `nlmsg_pid` of this session.
    pid: Option<u32>,
    /// When the consumer last stopped holding a whole, live copy.
    lost_at: Option<Instant>,
    ever_connected: bool,
}

impl Feed {
    /// At the consumer's start; `synced_pid` is the zebra whose state an earlier consumer held whole, if it left that.
    #[must_use]
    pub fn new(now: Instant, synced_pid: Option<u32>) -> Self {
        Self { state: FeedState::Lost(now), synced_pid, pid: None, lost_at: Some(now), ever_connected: false }
    }

    /// Where the session stands.
    #[must_use]
    pub fn state(&self) -> FeedState {
        self.state
    }

    /// The zebra whose routes are held whole, for the next consumer.
    #[must_use]
    pub fn synced_pid(&self) -> Option<u32> {
        self.synced_pid
    }

    /// A session began.
    pub fn connected(&mut self, now: Instant) {
        self.lost_at.get_or_insert(now);
        self.state = FeedState::Replay(now);
        self.pid = None;
        self.ever_connected = true;
    }

    /// A message named zebra's netlink port (`nlmsg_pid`). Protobuf has none: then zebra counts as restarted.
    pub fn seen_pid(&mut self, pid: u32) {
        self.pid.get_or_insert(pid);
    }

    /// The replay went quiet.
    pub fn replay_complete(&mut self, now: Instant) {
        if let FeedState::Replay(_) = self.state {
            self.state = FeedState::Complete(now);
        }
    }

    /// The session ended.
    pub fn disconnected(&mut self, now: Instant) {
        self.lost_at.get_or_insert(now);
        self.state = FeedState::Lost(now);
    }

    /// All was swept: what the consumer holds is this zebra's whole state.
    pub fn synchronized(&mut self) {
        if !matches!(self.state, FeedState::Lost(_)) {
            self.synced_pid = self.pid;
            self.lost_at = None;
        }
    }

    /// Whether nothing is held for lack of a whole replay.
    #[must_use]
    pub fn is_synchronized(&self) -> bool {
        self.lost_at.is_none()
    }

    /// When what was not announced again is to be swept; `None`: not by time.
    #[must_use]
    pub fn hold_until(&self, retention: Retention) -> Option<Instant> {
        let lost_at = self.lost_at?;
        let same_zebra = self.pid.is_some() && self.pid == self.synced_pid;
        if let FeedState::Complete(at) = self.state
            && same_zebra
        {
            return Some(at);
        }
        match retention {
            Retention::Withdraw if self.ever_connected => Some(lost_at),
            Retention::Withdraw => lost_at.checked_add(START_GRACE),
            Retention::For(timeout) => lost_at.checked_add(timeout),
            Retention::Forever => match self.state {
                FeedState::Complete(at) => at.checked_add(GRACE),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
