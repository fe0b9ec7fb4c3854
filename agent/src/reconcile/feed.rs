//! How long to believe FRR's last word: the state of the FPM feed and the holds that follow from it.
//!
//! FPM has no end-of-replay marker and no deletes in a replay (fpm.md rule 6). So what is not announced again is
//! *held*: kept in the kernel until the replay is known to be whole, or until `onFeedLoss` says that waiting is over.
//!
//! ```text
//!            connected            replay complete, same zebra
//!   Lost ───────────────▶ Replay ──────────────────────────────▶ Synchronized
//!    ▲  ◀─────────────────  │  another zebra: at the timeout        │
//!    └──────────────────────┴───────────── disconnected ────────────┘
//! ```

use std::time::{Duration, Instant};

use crate::intent::types::FeedLoss;

/// Grace for a new zebra under `timeout: 0s`: it replays its RIB before BGP has converged.
const GRACE: Duration = Duration::from_secs(120);
/// At the agent's own start even `Withdraw` waits for FRR to connect: zebra retries every 3 s.
const START_GRACE: Duration = Duration::from_secs(30);

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// No FPM connection; since when.
    Lost(Instant),
    /// Connected since; the replay is not known to be whole.
    Replay(Instant),
    /// The replay is whole.
    Complete(Instant),
}

/// The feed, as far as it decides what is kept.
#[derive(Debug, Clone)]
pub struct Feed {
    state: FeedState,
    /// `nlmsg_pid` of the zebra whose state we hold whole.
    synced_pid: Option<u32>,
    /// `nlmsg_pid` of this connection.
    pid: Option<u32>,
    /// When we last stopped holding a whole, live copy.
    lost_at: Option<Instant>,
    ever_connected: bool,
}

impl Feed {
    /// A feed at the agent's start; `synced_pid` is what an earlier agent left on disk.
    #[must_use]
    pub fn new(now: Instant, synced_pid: Option<u32>) -> Self {
        Self { state: FeedState::Lost(now), synced_pid, pid: None, lost_at: Some(now), ever_connected: false }
    }

    /// Where the session stands.
    #[must_use]
    pub fn state(&self) -> FeedState {
        self.state
    }

    /// The zebra whose routes we hold whole, for the next agent.
    #[must_use]
    pub fn synced_pid(&self) -> Option<u32> {
        self.synced_pid
    }

    /// A connection came.
    pub fn connected(&mut self, now: Instant) {
        self.lost_at.get_or_insert(now);
        self.state = FeedState::Replay(now);
        self.pid = None;
        self.ever_connected = true;
    }

    /// A message named zebra's netlink port.
    pub fn seen_pid(&mut self, pid: u32) {
        self.pid.get_or_insert(pid);
    }

    /// The replay went quiet.
    pub fn replay_complete(&mut self, now: Instant) {
        if let FeedState::Replay(_) = self.state {
            self.state = FeedState::Complete(now);
        }
    }

    /// The connection went.
    pub fn disconnected(&mut self, now: Instant) {
        self.lost_at.get_or_insert(now);
        self.state = FeedState::Lost(now);
    }

    /// All imports were swept: what we hold is this zebra's whole state.
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

    /// When routes that were not announced again stop being kept; `None`: not by time.
    #[must_use]
    pub fn hold_until(&self, policy: FeedLoss) -> Option<Instant> {
        let lost_at = self.lost_at?;
        let same_zebra = self.pid.is_some() && self.pid == self.synced_pid;
        if let FeedState::Complete(at) = self.state
            && same_zebra
        {
            return Some(at);
        }
        match policy {
            FeedLoss::Withdraw if self.ever_connected => Some(lost_at),
            FeedLoss::Withdraw => Some(lost_at + START_GRACE),
            FeedLoss::Retain(Some(timeout)) => Some(lost_at + timeout),
            FeedLoss::Retain(None) => match self.state {
                FeedState::Complete(at) => Some(at + GRACE),
                _ => None,
            },
        }
    }
}
