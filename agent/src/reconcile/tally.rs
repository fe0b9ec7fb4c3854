//! What the status counts, kept as it changes: a status over a million routes looks at none of them.
//!
//! Entries are counted by [`Class`], learned routes by what the imports of their table said of them when they were last evaluated
//! ([`Judgements`]); the RIB keeps the number of the judgement with the route.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{Engine, Entry, FAILED, IN_FLIGHT, INSTALLED, Key, TargetId};
use crate::plan::Rejection;
use crate::rib::Slot;

/// What an entry counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Class {
    pub(super) target: TargetId,
    pub(super) contribution: u16,
    /// There is a route, in the kernel or waiting.
    pub(super) held: bool,
    pub(super) programmed: bool,
    pub(super) failed: bool,
}

impl Class {
    /// `None` for an entry that only waits to be evaluated.
    pub(super) fn of(target: TargetId, entry: &Entry) -> Option<Self> {
        let (held, failed) = (entry.is_held(), entry.flags & FAILED != 0);
        let programmed = held && entry.flags & (INSTALLED | IN_FLIGHT) == INSTALLED;
        let contribution = entry.contribution;
        (held || failed).then_some(Self { target, contribution, held, programmed, failed })
    }
}

/// Entries by class.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tallies(FxHashMap<Class, u64>);

impl Tallies {
    pub(super) fn add(&mut self, class: Class) {
        *self.0.entry(class).or_default() += 1;
    }

    fn remove(&mut self, class: Class) {
        if let Some(count) = self.0.get_mut(&class) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&class);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Class, u64)> {
        self.0.iter().map(|(class, count)| (class, *count))
    }
}

/// What an import said of a learned route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    /// Nothing yet.
    Open,
    Taken,
    /// For a reason of routes.
    Rejected(&'static str),
}

/// What the imports of a table said of a route, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Judgement {
    pub(super) table: u32,
    pub(super) verdicts: SmallVec<[Verdict; 2]>,
}

impl Judgement {
    /// Why no import takes the route: the last one's reason. `None`: one does, or has not been asked.
    pub(super) fn rejection(&self) -> Option<&'static str> {
        let mut reason = None;
        for verdict in &self.verdicts {
            match verdict {
                Verdict::Rejected(why) => reason = Some(*why),
                Verdict::Taken | Verdict::Open => return None,
            }
        }
        reason
    }
}

/// All judgements that there are, numbered; 0 is that of routes that were not evaluated yet.
#[derive(Debug, Default)]
pub(super) struct Judgements {
    list: Vec<Judgement>,
    index: FxHashMap<Judgement, u16>,
}

impl Judgements {
    pub(super) fn get(&self, label: u16) -> Option<&Judgement> {
        self.list.get(usize::from(label).checked_sub(1)?)
    }

    fn intern(&mut self, judgement: Judgement) -> u16 {
        if let Some(label) = self.index.get(&judgement) {
            return *label;
        }
        let Ok(label) = u16::try_from(self.list.len() + 1) else { return 0 };
        self.list.push(judgement.clone());
        self.index.insert(judgement, label);
        label
    }
}

impl Engine {
    /// Changes an entry, and what is counted of it.
    pub(super) fn edit<T>(&mut self, slot: Slot, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let (target, entry) = self.rib.entry_mut(slot)?;
        let before = Class::of(target, entry);
        let result = change(entry);
        let after = Class::of(target, entry);
        if before != after {
            before.into_iter().for_each(|class| self.tallies.remove(class));
            after.into_iter().for_each(|class| self.tallies.add(class));
        }
        Some(result)
    }

    /// All contributions are void, and all judgements.
    pub(super) fn recount(&mut self) {
        self.tallies = Tallies::default();
        let tallies = &mut self.tallies;
        self.rib.for_each_entry(|target, entry| {
            entry.contribution = 0;
            Class::of(target, entry).into_iter().for_each(|class| tallies.add(class));
        });
        self.judgements = Judgements::default();
        self.rib.clear_labels();
    }

    /// Notes what the imports of a key say of the routes that they learned; `taken` is known to take its own.
    pub(super) fn judge(&mut self, slot: Slot, (target, prefix): Key, taken: Option<u16>) {
        let Some(&(table, metric)) = self.targets.get(usize::from(target)) else { return };
        let imports = self.plan.imports_into(table, metric);
        let said: SmallVec<[(u16, u32, Slot, Verdict); 2]> = imports
            .filter(|(_, import)| import.target(&prefix) == (table, metric))
            .filter_map(|(index, import)| {
                let from = import.import.from_table;
                let (at, _) = self.rib.learned_from(slot, from)?;
                let rejected =
                    |index| self.rejection(import, index, at).map(Rejection::as_str).or(import.blocked);
                let why = if taken == Some(index) { None } else { rejected(index) };
                Some((index, from, at, why.map_or(Verdict::Taken, Verdict::Rejected)))
            })
            .collect();
        for (index, from, at, verdict) in said {
            self.set_verdict(at, from, index, verdict);
        }
    }

    fn set_verdict(&mut self, at: Slot, table: u32, index: u16, verdict: Verdict) {
        let Some(position) = self.plan.imports_from(table).position(|(other, _)| other == index) else {
            return;
        };
        let now = self.judgements.get(self.rib.label(at));
        if now.is_some_and(|now| now.table == table && now.verdicts.get(position) == Some(&verdict)) {
            return;
        }
        let imports = self.plan.imports_from(table).count();
        let unknown = || Judgement { table, verdicts: SmallVec::from_elem(Verdict::Open, imports) };
        let mut judgement = now.cloned().filter(|now| now.table == table).unwrap_or_else(unknown);
        if let Some(place) = judgement.verdicts.get_mut(position) {
            *place = verdict;
        }
        if judgement.rejection().is_some() {
            self.samples.push_back(at);
            if self.samples.len() > Self::SAMPLES {
                self.samples.pop_front();
            }
        }
        let label = self.judgements.intern(judgement);
        self.rib.set_label(at, label);
    }

    /// Rejected routes that are remembered for the status: more than it shows, for some come in after all.
    const SAMPLES: usize = 64;
}
