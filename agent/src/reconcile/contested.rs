//! Objects that somebody else alters: put right at once, and ever less often where somebody insists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::nexthops::NexthopOp;
use super::{RETRY_MAX, RETRY_MIN};

/// When altered objects are put right.
#[derive(Debug, Default)]
pub(super) struct Contested {
    /// When each was put right last, or will be, and how long it is left alone after that. After twice that time it is
    /// as if nothing had been.
    last: BTreeMap<NexthopOp, (Instant, Duration)>,
    due: BTreeSet<(Instant, NexthopOp)>,
}

impl Contested {
    /// Somebody altered an object.
    pub(super) fn altered(&mut self, op: NexthopOp, now: Instant) {
        let next = match self.last.get(&op) {
            // It waits already.
            Some((at, _)) if *at > now => return,
            Some((at, rest)) if now < *at + *rest * 2 => (now.max(*at + *rest), (*rest * 2).min(RETRY_MAX)),
            _ => (now, RETRY_MIN),
        };
        self.last.insert(op, next);
        self.due.insert((next.0, op));
    }

    /// When the next one is put right.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One whose time has come.
    pub(super) fn pop(&mut self, now: Instant) -> Option<NexthopOp> {
        self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first().map(|(_, op)| op)
    }

    /// Forgets what was left alone for long enough.
    pub(super) fn forget(&mut self, now: Instant) {
        self.last.retain(|_, (at, rest)| now < *at + *rest * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_insists_is_answered_ever_less_often() {
        let (mut contested, op, start) = (Contested::default(), NexthopOp::Hop(1), Instant::now());
        let second = Duration::from_secs(1);
        let mended: Vec<u64> = (0..200)
            .filter(|at| {
                let now = start + second * u32::try_from(*at).unwrap();
                contested.altered(op, now);
                contested.forget(now);
                contested.pop(now).is_some()
            })
            .collect();
        assert_eq!(mended, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        let later = start + second * 1000;
        assert_eq!(std::iter::from_fn(|| contested.pop(later)).count(), 1);
        contested.altered(op, later);
        assert_eq!(contested.deadline(), Some(later), "at once again");
    }
}
