//! Entries that wait to be evaluated, in the order that the kernel takes best.
//!
//! FRR announces ascending prefixes. In that order the kernel's trie inserts at half of its rate, and deletes up to 40 times
//! slower: neighbours make the same nodes grow and shrink again and again. Scattered ones have the nodes grow everywhere at
//! once, but each comes to other memory than the one before. So it is every eighth prefix, ascending, then those half way
//! between them, and so on: eight passes, a seventh faster than scattered. The kernel deletes fastest in the order in which it
//! inserted, memory then being freed as it was taken: the order is always the same. Only of the last pass, which empties the
//! trie again, runs of 64 are scattered: ascending, its deletes cost twice those of the passes before it.
//!
//! What is known of a burst is its beginning, a corner of the address space. Were that written whole, the corner would be full
//! and the rest empty, which costs the trie as much (`resize`, and `update_suffix`, which looks for the next short prefix from
//! the low end on). So while a burst grows only the first pass follows it, of what goes the first two.

use std::time::{Duration, Instant};

use crate::rib::Slot;

/// So many waiting entries are a burst, of which more will come.
pub(super) const BURST: usize = 2048;
/// A burst that says nothing for so long is over: the reader of the socket delivers many times in this time.
pub(super) const BURST_QUIET: Duration = Duration::from_millis(10);
/// Most entries of a burst wait no longer than this for the others.
pub(super) const BURST_WAIT: Duration = Duration::from_secs(1);

/// Where what is new in a burst lies, of which more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    Not,
    /// From the low end of the address space on.
    Upwards,
    /// In no order: there is no corner to be spared.
    Everywhere,
}

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

    /// The next one; while a burst `grows`, of those that need not wait for its end. What goes may go in two passes: a
    /// corner that thins out costs less than one that fills.
    pub(super) fn pop(&mut self, grows: Growth) -> Option<Slot> {
        let held = self.held.len > 0;
        let passes = match grows {
            Growth::Not => PASSES.len(),
            Growth::Upwards | Growth::Everywhere if held => 2,
            Growth::Upwards => 1,
            Growth::Everywhere => PASSES.len(),
        };
        if held { self.held.pop(passes) } else { self.new.pop(passes) }.map(Slot::at_index)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len + self.new.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Passes, and the first slot of each: what is written lies evenly after each of them. A power of two.
const PASSES: [u32; 8] = [0, 4, 2, 6, 1, 5, 3, 7];
const EACH: u32 = 8;
/// Slots of a pass of the smallest sweep; of others, larger powers of two.
const MIN_LEN: u32 = u64::BITS;
const BITS: u32 = u64::BITS;

/// A set of slots that is gone through round and round, pass by pass: a bit for each, in this order. Words of the last pass
/// lie where their number, its bits reversed, says.
#[derive(Debug, Default)]
struct Sweep {
    words: Vec<u64>,
    /// Bit of the slot that was taken last.
    at: u32,
    len: usize,
}

impl Sweep {
    /// Slots of a pass.
    fn pass(&self) -> u32 {
        u32::try_from(self.words.len()).unwrap_or(u32::MAX).saturating_mul(BITS / EACH)
    }

    /// The bit of a slot, and the other way round: reversing bits is undone by doing it again.
    fn bit(&self, slot: u32) -> u32 {
        let pass = PASSES[(slot % EACH) as usize];
        pass * self.pass() + self.scatter(pass, slot / EACH)
    }

    fn slot(&self, bit: u32) -> u32 {
        let pass = bit / self.pass();
        self.scatter(pass, bit % self.pass()) * EACH + PASSES[(pass % EACH) as usize]
    }

    fn scatter(&self, pass: u32, at: u32) -> u32 {
        let words = self.pass() / BITS;
        if pass + 1 < EACH || words <= 1 {
            return at;
        }
        let word = (at / BITS).reverse_bits() >> (words.leading_zeros() + 1);
        word * BITS + at % BITS
    }

    fn push(&mut self, slot: u32) {
        if slot / EACH >= self.pass() {
            self.grow(slot);
        }
        let bit = self.bit(slot);
        if let Some(word) = self.words.get_mut((bit / BITS) as usize) {
            let mask = 1 << (bit % BITS);
            self.len += usize::from(*word & mask == 0);
            *word |= mask;
        }
    }

    /// Makes room for a slot: each pass is longer then.
    fn grow(&mut self, slot: u32) {
        let after = (slot / EACH + 1).next_power_of_two().max(MIN_LEN);
        let words = vec![0; (after / BITS * EACH) as usize];
        let before = Self { words: std::mem::replace(&mut self.words, words), ..*self };
        for (index, word) in before.words.iter().enumerate().filter(|(_, word)| **word != 0) {
            let first = u32::try_from(index).unwrap_or_default() * BITS;
            let to = self.bit(before.slot(first)) / BITS;
            if let Some(new) = self.words.get_mut(to as usize) {
                *new = *word;
            }
        }
        if !before.words.is_empty() {
            self.at = self.bit(before.slot(self.at));
        }
    }

    /// The next one of the first `passes`.
    fn pop(&mut self, passes: usize) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let end = self.words.len() / PASSES.len() * passes;
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
        Some(self.slot(self.at))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn drain(sweep: &mut Sweep) -> Vec<u32> {
        std::iter::from_fn(|| sweep.pop(8)).collect()
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
                    let slot = sweep.pop(8).expect("not empty");
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
    fn eight_passes_lie_evenly_and_all_but_the_last_ascend() {
        let mut sweep = Sweep::default();
        (0..100_000).for_each(|slot| sweep.push(slot));
        // What comes first while more is expected is the first pass.
        let growing: Vec<u32> = std::iter::from_fn(|| sweep.pop(1)).collect();
        assert_eq!(growing, (0..100_000).step_by(8).collect::<Vec<_>>());
        let rest = drain(&mut sweep);
        let order = [growing, rest].concat();
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        for (pass, gap) in order.chunks(12_500).zip([8, 4, 4, 2, 2, 2, 2, 1]) {
            assert_eq!(pass.is_sorted(), gap > 1, "{pass:?}");
            taken.extend(pass);
            assert_eq!(taken.iter().zip(taken.iter().skip(1)).map(|(a, b)| *b - *a).max(), Some(gap));
        }
        assert_eq!(taken.len(), 100_000);
        // Of the last one, each quarter reaches from end to end.
        for quarter in order[87_500..].chunks(3125) {
            let part = |slot: &u32| slot / 12_500;
            assert_eq!(quarter.iter().map(part).collect::<BTreeSet<_>>().len(), 8);
        }
        // Always the same, however they came.
        (0..100_000).rev().for_each(|slot| sweep.push(slot));
        let again = drain(&mut sweep);
        let start = again.iter().position(|slot| *slot == order[0]).expect("all are there");
        assert_eq!([&again[start..], &again[..start]].concat(), order);
    }
}
