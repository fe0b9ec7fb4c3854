//! When something that failed is tried again: later each time.

use std::time::{Duration, Instant};

/// Delays that double from `first` to `longest`, until something succeeds.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    delay: Duration,
    due: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, delay: first, due: None }
    }

    /// Whether it may be tried: nothing failed, or the delay since then is over.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// Notes a failure; how long to wait now.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let delay = self.delay;
        self.due = Some(now + delay);
        self.delay = (delay * 2).min(self.longest);
        delay
    }

    /// Notes a success.
    pub(super) fn succeeded(&mut self) {
        self.delay = self.first;
        self.due = None;
    }

    /// When it is due, where something failed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_longest_and_begin_anew_after_a_success() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(5 * second, 60 * second);
        assert!(backoff.is_due(start));
        let delays: Vec<u64> = (0..6).map(|_| backoff.failed(start).as_secs()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 60, 60]);
        assert!(!backoff.is_due(start + 59 * second) && backoff.is_due(start + 60 * second));
        backoff.succeeded();
        assert!(backoff.is_due(start) && backoff.due().is_none());
        assert_eq!(backoff.failed(start), 5 * second);
    }
}
