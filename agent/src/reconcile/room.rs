//! Routes that imports turn away at their limit, and take in when there is room again.
//!
//! For each import some of them are remembered, as far as [`REMEMBERED`] goes. The others are known by their judgement, which
//! stands with the learned route anyway: all routes are looked through for them, once for so many that leave the memory.

use std::collections::BTreeSet;
use std::time::Instant;

use super::tally::Verdict;
use super::{Engine, Slot};
use crate::intent::types::OnLimit;
use crate::plan::{ImportPlan, Rejection};

/// Routes at most that are remembered for one import: 4 bytes each, and their share of the tree.
pub(super) const REMEMBERED: usize = 4096;

/// What an import has turned away.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The limit that was reached first.
    pub(super) why: Rejection,
    some: BTreeSet<Slot>,
    /// From which slot on there are more; `None`: these are all.
    rest: Option<u32>,
}

impl Engine {
    /// An import has no room for a learned route.
    pub(super) fn turn_away(&mut self, index: u16, at: Slot) {
        let Some(import) = self.plan.imports.get(usize::from(index)).map(|plan| &plan.import) else { return };
        let full = self.accepted.get(usize::from(index)).is_some_and(|n| *n >= import.max_routes);
        let own = full || import.on_limit == OnLimit::Freeze;
        let why = if own { Rejection::Limit } else { Rejection::NodeLimit };
        let waiting =
            self.limited.entry(index).or_insert_with(|| Waiting { why, some: BTreeSet::new(), rest: None });
        if waiting.some.len() < REMEMBERED {
            waiting.some.insert(at);
        } else {
            waiting.rest = Some(0);
        }
        if import.on_limit == OnLimit::Freeze {
            self.frozen.insert(index);
        }
    }

    /// How many more routes an import may take.
    pub(super) fn room_for(&self, index: u16, import: &ImportPlan) -> u64 {
        if self.frozen.contains(&index) {
            return 0;
        }
        let accepted = self.accepted.get(usize::from(index)).copied().unwrap_or(0);
        let on_node = self.plan.max_routes_per_node.saturating_sub(self.accepted.iter().sum());
        on_node.min(import.import.max_routes.saturating_sub(accepted))
    }

    /// Has as many of what was turned away evaluated as there is room for.
    pub(super) fn use_room(&mut self, now: Instant) {
        self.has_room = false;
        let limited: Vec<u16> = self.limited.keys().copied().collect();
        for index in limited {
            self.admit(index, now);
        }
    }

    fn admit(&mut self, index: u16, now: Instant) {
        let Some(import) = self.plan.imports.get(usize::from(index)) else { return };
        let room = usize::try_from(self.room_for(index, import)).unwrap_or(usize::MAX);
        if room == 0 {
            return;
        }
        // Some of these may have gone, or need no room: then others may come in.
        self.has_room = true;
        let Some(mut waiting) = self.limited.remove(&index) else { return };
        if let (true, Some(first)) = (waiting.some.is_empty(), waiting.rest) {
            (waiting.some, waiting.rest) = self.turned_away(index, import, first);
        }
        let mut keys = Vec::new();
        while keys.len() < room
            && let Some(at) = waiting.some.pop_first()
        {
            let learned = self.rib.at(at).filter(|(table, ..)| *table == import.import.from_table);
            keys.extend(learned.map(|(_, prefix, _)| (at, import.target(&prefix))));
        }
        for (at, target) in keys {
            self.mark_beside(at, target, now);
        }
        if !waiting.some.is_empty() || waiting.rest.is_some() {
            self.limited.insert(index, waiting);
        }
    }

    /// Learned routes from a slot on that an import has turned away; and where there may be more.
    fn turned_away(&self, index: u16, import: &ImportPlan, first: u32) -> (BTreeSet<Slot>, Option<u32>) {
        let from = import.import.from_table;
        let position = self.plan.imports_from(from).position(|(other, _)| other == index);
        let limits = [Rejection::Limit, Rejection::NodeLimit].map(|why| Verdict::Rejected(why.as_str()));
        let wanted: Vec<bool> = (0..self.rib.labels().len())
            .map(|label| {
                let judgement = u16::try_from(label).ok().and_then(|label| self.judgements.get(label));
                let judgement = judgement.filter(|judgement| judgement.table == from);
                let verdict = judgement.zip(position).and_then(|(it, position)| it.verdicts.get(position));
                verdict.is_some_and(|verdict| limits.contains(verdict))
            })
            .collect();
        let is_wanted = |slot: &Slot| wanted.get(usize::from(self.rib.label(*slot))).is_some_and(|it| *it);
        let slots = self.rib.iter().map(|(slot, ..)| slot).filter(|slot| slot.index() >= first);
        let some: BTreeSet<Slot> = slots.filter(is_wanted).take(REMEMBERED).collect();
        let last = some.last().filter(|_| some.len() == REMEMBERED);
        let rest = last.map(|last| last.index() + 1);
        (some, rest)
    }
}
