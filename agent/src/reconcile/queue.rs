//! Entries that wait to be evaluated, in the order that the kernel takes best: none.
//!
//! FRR announces ascending prefixes. The kernel's trie inserts those at two thirds of its rate, and deletes them up to 40
//! times slower than in random order.

use crate::rib::Slot;

/// See the module. Each slot is in it once at most: the entry's flag says so.
#[derive(Debug)]
pub(super) struct Queue {
    /// What the kernel holds goes first: it keeps its place under `maxRoutes`, and what is withdrawn makes room.
    held: Vec<Slot>,
    new: Vec<Slot>,
    /// xorshift64*
    random: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { held: Vec::new(), new: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 }
    }
}

impl Queue {
    /// Empty buffers that are longer than this are given back.
    const SPARE: usize = 8192;

    pub(super) fn push(&mut self, slot: Slot, held: bool) {
        if held { self.held.push(slot) } else { self.new.push(slot) }
    }

    pub(super) fn pop(&mut self) -> Option<Slot> {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let draw = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        let slots = if self.held.is_empty() { &mut self.new } else { &mut self.held };
        if slots.is_empty() {
            return None;
        }
        let index = (draw * slots.len() as u64) >> 32;
        let slot = slots.swap_remove(usize::try_from(index).unwrap_or_default());
        if slots.is_empty() {
            slots.shrink_to(Self::SPARE);
        }
        Some(slot)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len() + self.new.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.new.is_empty()
    }
}
