//! How often the API server is written to and asked. Pure.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

/// How often what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The daemon is asked for the status this often.
    pub look: Duration,
    /// Shortest time between two writes of one object.
    pub gap: Duration,
    /// Without a change the status is written this often.
    pub heartbeat: Duration,
    /// Shortest time between two writes of an object's sums when only numbers changed.
    pub numbers: Duration,
    /// Who sums up is looked at this often.
    pub lead: Duration,
    /// An agent that has not written for so long is silent.
    pub silent: Duration,
    /// An edit that no status answers for so long, and up to twice as long, raises the question who sums up.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(2),
            gap: Duration::from_secs(10),
            heartbeat: Duration::from_secs(605),
            numbers: Duration::from_secs(60),
            lead: Duration::from_secs(300),
            silent: Duration::from_secs(1500),
            patience: Duration::from_secs(90),
        }
    }
}

/// Now, by the clock that only goes forward, and by the one that people read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) time: jiff::Timestamp,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), time: jiff::Timestamp::now() }
    }
}

/// A time and up to a tenth more: so that thousands of agents do not write at once.
pub(super) fn jitter(time: Duration) -> Duration {
    // Every RandomState has keys of its own.
    let random = RandomState::new().hash_one(0u8) & 0xffff;
    time + time.mul_f64(0.1 * random as f64 / 65_536.0)
}

/// Events that writing the status of objects may cause, a second: every agent hears of every write.
const EVENTS_PER_SECOND: f64 = 5000.0;
/// What was not used is saved up, for so long.
const SAVED: Duration = Duration::from_secs(10);

/// How much may be written of what every node follows: the more nodes, the fewer writes.
#[derive(Debug)]
pub(super) struct Budget {
    /// Events; less than none after a write that went beyond.
    left: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: EVENTS_PER_SECOND * SAVED.as_secs_f64(), at: now }
    }

    /// Takes one write that so many nodes hear of; tells whether it may be made.
    pub(super) fn take(&mut self, now: Instant, nodes: u32) -> bool {
        let most = EVENTS_PER_SECOND * SAVED.as_secs_f64();
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * EVENTS_PER_SECOND).min(most);
        self.at = now;
        let may = self.left > 0.0;
        if may {
            self.left -= f64::from(nodes);
        }
        may
    }
}

/// When a value may be written: not twice within the gap, not without a change, and as a heartbeat.
#[derive(Debug)]
pub(super) struct Pacer<T> {
    written: Option<T>,
    /// Not before.
    next: Instant,
    /// At the latest.
    heartbeat: Instant,
    failures: u32,
}

impl<T: PartialEq> Pacer<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self { written: None, next: now, heartbeat: now, failures: 0 }
    }

    pub(super) fn due(&self, now: Instant, value: &T) -> bool {
        now >= self.next && (now >= self.heartbeat || self.written.as_ref() != Some(value))
    }

    pub(super) fn done(&mut self, now: Instant, value: T, pace: &Pace) {
        self.written = Some(value);
        self.failures = 0;
        self.next = now + jitter(pace.gap);
        self.heartbeat = now + jitter(pace.heartbeat);
    }

    /// It is tried again after the gap, then after twice the gap, up to 32 times the gap.
    pub(super) fn failed(&mut self, now: Instant, pace: &Pace) {
        self.next = now + jitter(pace.gap * (1 << self.failures.min(5)));
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes in `time` when the value is looked at every two seconds.
    fn writes(time: Duration, value_at: impl Fn(u64) -> u64, works: bool) -> usize {
        let (begin, pace) = (Instant::now(), Pace::default());
        let mut pacer = Pacer::new(begin);
        let mut count = 0;
        for second in (0..time.as_secs()).step_by(2) {
            let now = begin + Duration::from_secs(second);
            let value = value_at(second);
            if pacer.due(now, &value) {
                count += 1;
                if works { pacer.done(now, value, &pace) } else { pacer.failed(now, &pace) }
            }
        }
        count
    }

    #[test]
    fn one_write_in_ten_quiet_minutes() {
        let hour = Duration::from_secs(3600);
        let count = writes(hour, |_| 1, true);
        assert!((5..=6).contains(&count), "{count} in an hour");
        assert_eq!(writes(Duration::from_secs(600), |_| 1, true), 1);
    }

    #[test]
    fn one_write_in_ten_seconds_of_churn() {
        let count = writes(Duration::from_secs(600), |second| second, true);
        assert!((45..=60).contains(&count), "{count} in ten minutes");
    }

    #[test]
    fn what_fails_is_tried_ever_more_rarely() {
        let count = writes(Duration::from_secs(600), |second| second, false);
        assert!((5..=7).contains(&count), "{count} in ten minutes");
    }

    #[test]
    fn the_more_nodes_the_fewer_writes() {
        // 200 objects whose sums are another every 2 s.
        let writes = |nodes: u32, seconds: u64| {
            let begin = Instant::now();
            let mut budget = Budget::new(begin);
            let looks = (0..seconds).step_by(2).map(|second| begin + Duration::from_secs(second));
            let takes = looks.map(|now| (0..200).filter(|_| budget.take(now, nodes)).count());
            takes.sum::<usize>()
        };
        assert_eq!(writes(20, 2), 200, "few nodes do not notice it");
        assert_eq!(writes(5000, 2), 10, "what was saved up answers an edit at once");
        let count = writes(5000, 600);
        assert!((600..=620).contains(&count), "5,000 events a second: {count} writes in ten minutes");
        let count = writes(500, 600);
        assert!((6000..=6200).contains(&count), "{count} writes in ten minutes");
    }

    #[test]
    fn jitter_is_up_to_a_tenth() {
        let time = Duration::from_secs(100);
        let all: Vec<_> = (0..50).map(|_| jitter(time)).collect();
        assert!(all.iter().all(|it| (time..time + time / 10).contains(it)), "{all:?}");
        assert!(all.iter().any(|it| it != &all[0]));
    }
}
