//! Entries that wait to be evaluated, in the order that the kernel takes best.
//!
//! FRR announces ascending prefixes. The kernel's trie inserts those at half of its rate, and deletes them up to 40 times
//! slower than scattered ones: neighbours make the same nodes grow and shrink again and again. It deletes fastest in the
//! order in which it inserted, memory then being freed as it was taken. So the order is scattered, and always the same.
//!
//! What is known of a burst is its beginning, a corner of the address space. Were that written whole, the corner would be full
//! and the rest empty, or the other way round, which costs the trie as much (`update_suffix` looks for the next short prefix
//! from the low end on). So while a burst grows only a part of it is written, evenly thinned.

use std::time::{Duration, Instant};

use crate::rib::Slot;

/// So many waiting entries are a burst, of which more will come.
pub(super) const BURST: usize = 2048;
/// A burst that says nothing for so long is over: the reader of the socket delivers many times in this time.
pub(super) const BURST_QUIET: Duration = Duration::from_millis(10);
/// Most entries of a burst wait no longer than this for the others.
pub(super) const BURST_WAIT: Duration = Duration::from_secs(1);

/// A burst of updates, which is worth being waited for.
#[derive(Debug, Default)]
pub(super) struct Burst {
    began: Option<Instant>,
    fed: Option<Instant>,
}

impl Burst {
    /// Updates were learned, and now `waiting` entries wait.
    pub(super) fn fed(&mut self, waiting: usize, now: Instant) {
        if waiting >= BURST || self.began.is_some() {
            self.began.get_or_insert(now);
            self.fed = Some(now);
        }
    }

    /// Nothing waits any more.
    pub(super) fn over(&mut self) {
        *self = Self::default();
    }

    /// Whether there is more to be expected.
    pub(super) fn is_growing(&mut self, now: Instant) -> bool {
        let growing = self.until().is_some_and(|until| now < until);
        if !growing {
            self.fed = None;
        }
        growing
    }

    /// Until when there is more to be expected.
    pub(super) fn until(&self) -> Option<Instant> {
        Some((self.began? + BURST_WAIT).min(self.fed? + BURST_QUIET))
    }
}

/// See the module. Each slot is in it once at most.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What the kernel holds goes first: it keeps its place under `maxRoutes`, and what is withdrawn makes room.
    held: Sweep,
    new: Sweep,
}

impl Queue {
    pub(super) fn push(&mut self, slot: Slot, held: bool) {
        if held { self.held.push(slot.index()) } else { self.new.push(slot.index()) }
    }

    /// The next one; while a burst is `growing`, of those that need not wait for its end.
    pub(super) fn pop(&mut self, growing: bool) -> Option<Slot> {
        let sweep = if self.held.len > 0 { &mut self.held } else { &mut self.new };
        sweep.pop(growing).map(Slot::at_index)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len + self.new.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Slots that are next to each other and stay so: their records share cache lines, and the kernel minds so few neighbours
/// little.
const RUN: u32 = 2;
/// One of so many entries of a burst is written before it is whole. The kernel could take more in the time, but what it
/// takes in a corner costs it twice as much.
const THINNED: usize = 8;
/// Runs of the smallest sweep; of others, larger powers of two.
const MIN_RUNS: u32 = 256;
const BITS: u32 = u64::BITS;

/// A set of slots that is gone through round and round: a bit for each, run by run, in strides of the golden section. However
/// many runs have been passed, they lie evenly among all.
#[derive(Debug, Default)]
struct Sweep {
    words: Vec<u64>,
    /// Bit of the slot that was taken last.
    at: u32,
    len: usize,
}

impl Sweep {
    fn runs(&self) -> u32 {
        u32::try_from(self.words.len()).unwrap_or(u32::MAX).saturating_mul(BITS / RUN)
    }

    /// From one run to the next in a sweep of so many; odd, therefore it comes by all.
    fn stride(runs: u32) -> u32 {
        // 2^32 over the golden ratio.
        u32::try_from((u64::from(runs) * 0x9e37_79b9) >> 32).unwrap_or(1) | 1
    }

    /// The number that undoes a multiplication by `stride` in 32 bits, and so below any power of two: Newton's method, each
    /// step of which doubles the three bits that are right at first.
    fn inverse(stride: u32) -> u32 {
        (0..4)
            .fold(stride, |inverse, _| inverse.wrapping_mul(2u32.wrapping_sub(stride.wrapping_mul(inverse))))
    }

    fn push(&mut self, slot: u32) {
        let run = slot / RUN;
        if run >= self.runs() {
            self.grow(run);
        }
        let place = run.wrapping_mul(Self::inverse(Self::stride(self.runs()))) & (self.runs() - 1);
        let bit = place * RUN + slot % RUN;
        if let Some(word) = self.words.get_mut((bit / BITS) as usize) {
            let mask = 1 << (bit % BITS);
            self.len += usize::from(*word & mask == 0);
            *word |= mask;
        }
    }

    /// Makes room for a run.
    fn grow(&mut self, run: u32) {
        let mut waiting = Vec::with_capacity(self.len);
        waiting.extend(std::iter::from_fn(|| self.pop(false)));
        let runs = (run + 1).next_power_of_two().max(MIN_RUNS);
        *self = Self { words: vec![0; (runs / (BITS / RUN)) as usize], at: 0, len: 0 };
        waiting.into_iter().for_each(|slot| self.push(slot));
    }

    /// The next one; `thinned`: of the places at the beginning, which are as evenly spread as all.
    fn pop(&mut self, thinned: bool) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let end = if thinned { self.words.len() / THINNED } else { self.words.len() };
        let first = Some((self.at / BITS) as usize).filter(|first| *first < end).unwrap_or_default();
        // The word where the last one was, from there on; the others; what is before it in that word.
        let ahead = self.words.get(first)? & (u64::MAX << (self.at % BITS));
        let word = if ahead != 0 {
            first
        } else {
            let is_set = |index: &usize| self.words.get(*index).is_some_and(|word| *word != 0);
            (first + 1..end).chain(0..=first).find(is_set)?
        };
        let bits = self.words.get_mut(word)?;
        let bit = if ahead != 0 { ahead } else { *bits }.trailing_zeros();
        *bits &= !(1 << bit);
        self.len -= 1;
        self.at = u32::try_from(word).ok()? * BITS + bit;
        let run = (self.at / RUN).wrapping_mul(Self::stride(self.runs())) & (self.runs() - 1);
        Some(run * RUN + self.at % RUN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn drain(sweep: &mut Sweep) -> Vec<u32> {
        std::iter::from_fn(|| sweep.pop(false)).collect()
    }

    proptest! {
        #[test]
        fn each_slot_comes_out_once(steps in prop::collection::vec((0..200_000_u32, any::<bool>()), 1..400)) {
            let (mut sweep, mut expected) = (Sweep::default(), BTreeSet::new());
            for (slot, pop) in steps {
                sweep.push(slot);
                expected.insert(slot);
                prop_assert_eq!(sweep.len, expected.len());
                if pop {
                    let slot = sweep.pop(false).expect("not empty");
                    prop_assert!(expected.remove(&slot));
                }
            }
            let rest = drain(&mut sweep);
            prop_assert_eq!(rest.len(), expected.len());
            prop_assert_eq!(rest.into_iter().collect::<BTreeSet<_>>(), expected);
            prop_assert_eq!(sweep.len, 0);
        }
    }

    #[test]
    fn the_order_is_scattered_and_always_the_same() {
        let mut sweep = Sweep::default();
        (0..100_000).for_each(|slot| sweep.push(slot));
        let first = drain(&mut sweep);
        (0..100_000).rev().for_each(|slot| sweep.push(slot));
        let again = drain(&mut sweep);
        let start = again.iter().position(|slot| *slot == first[0]).expect("all are there");
        assert_eq!([&again[start..], &again[..start]].concat(), first);
        // A part of them is as evenly spread as all.
        (0..100_000).for_each(|slot| sweep.push(slot));
        let thinned: Vec<u32> = std::iter::from_fn(|| sweep.pop(true)).collect();
        for tenth in 0..10 {
            let count = thinned.iter().filter(|slot| **slot / 10_000 == tenth).count();
            assert!((1150..=1350).contains(&count), "{count} of 10,000");
        }
        assert_eq!(sweep.len + thinned.len(), 100_000);
        // Wherever one looks, any thousand of them come from everywhere.
        for some in first.chunks_exact(1000) {
            let tenths: BTreeSet<u32> = some.iter().map(|slot| slot / 10_000).collect();
            assert_eq!(tenths.len(), 10);
        }
    }
}
