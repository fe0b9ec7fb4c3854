//! Full comparisons with the kernel: when the next one is due, and that one which fails is repeated.

use std::time::{Duration, Instant};

use super::AUDIT_EVERY;
use super::backoff::Backoff;
use crate::kernel::KernelError;

/// What failed is tried again after so long, then after twice as long, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

#[derive(Debug)]
pub(super) struct Comparison {
    next: Instant,
    backoff: Backoff,
    failure: Option<String>,
    /// Links and neighbours could not be read.
    pub(super) blind: bool,
}

impl Comparison {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, backoff: Backoff::new(RETRY.0, RETRY.1), failure: None, blind: false }
    }

    /// When to ask for the next one, if nothing else does before.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// Whether one may begin: none that fails follows another at once.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        self.backoff.is_due(now)
    }

    /// One has been asked for, or has ended.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.next = now + AUDIT_EVERY;
    }

    pub(super) fn failed(&mut self, error: &KernelError, now: Instant) {
        let delay = self.backoff.failed(now);
        self.next = now + delay;
        self.failure = Some(error.to_string());
        tracing::error!(%error, "cannot compare with the kernel; tried again in {} s", delay.as_secs());
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        if self.blind {
            return;
        }
        self.postpone(now);
        self.backoff.succeeded();
        self.failure = None;
    }

    /// Why it is not known what the kernel holds.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> KernelError {
        KernelError::Interrupted { object: "dump links".to_owned(), attempts: 10 }
    }

    #[test]
    fn what_fails_is_tried_again_ever_less_often_until_it_succeeds() {
        let start = Instant::now();
        let mut comparison = Comparison::new(start);
        assert!(comparison.may_begin(start) && comparison.failure().is_none());
        let (mut now, mut delays) = (start, Vec::new());
        for _ in 0..8 {
            comparison.postpone(now);
            comparison.failed(&error(), now);
            assert!(!comparison.may_begin(now) && comparison.failure().is_some());
            delays.push((comparison.due() - now).as_secs());
            now = comparison.due();
            assert!(comparison.may_begin(now), "it may when it is due");
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        comparison.succeeded(now);
        assert_eq!((comparison.due(), comparison.failure()), (now + AUDIT_EVERY, None));
    }

    #[test]
    fn routes_alone_make_no_comparison_whole() {
        let start = Instant::now();
        let mut comparison = Comparison::new(start);
        comparison.blind = true;
        comparison.failed(&error(), start);
        comparison.succeeded(start);
        assert!(comparison.failure().is_some() && comparison.due() == start + RETRY.0);
    }
}
