//! What zebra is told about its routes (`fpm.offloadAck`): `RTM_F_OFFLOAD` once the kernel has acknowledged one,
//! `RTM_F_OFFLOAD_FAILED` when it does not forward.
//!
//! Every announcement is owed an answer, that of an unchanged route too: to zebra each is a new route, and
//! `bgp suppress-fib-pending` advertises no prefix without one. What was answered stands with the learned route
//! ([`Answer`]); another answer follows when the outcome changes. An announcement of an older session is owed none.
//!
//! | The route | Answer |
//! |---|---|
//! | is in the kernel for every import that takes it | offloaded |
//! | is refused by the kernel for one of them, or is of a kind that is never programmed | failed |
//! | is taken by no import, from a table that forwards nothing by itself (`zebra -R`) | failed |
//! | is taken by no import, and zebra's own copy forwards (main, VRF devices, tables without an import) | offloaded |
//! | waits for its nexthops, a link, the kernel, or the first replay's end | none yet |

use ipnet::IpNet;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use zebra_fpm::Route;
use zebra_fpm::netlink::Offload;

use super::{DIRTY, Engine, FAILED, IN_FLIGHT, INSTALLED, Key};
use crate::model::Family;
use crate::rib::{Answer, Learned, Resolved, Slot, Unresolved};

/// Answers of one review at most: what does not fit waits for the next one.
const MAX_REVIEWED: usize = 1 << 18;

/// Answers on their way.
#[derive(Debug, Default)]
pub(super) struct Answers {
    wanted: bool,
    /// (table, prefix, answer)
    out: Vec<(u32, IpNet, Answer)>,
    /// For routes that the RIB does not keep.
    ignored: Vec<(Route, Offload)>,
    /// Routes that several imports take: answered when all of them have been evaluated.
    united: FxHashSet<(u32, IpNet)>,
    /// All answers have to be looked at again.
    pub(super) review: bool,
}

impl Engine {
    /// Whether zebra waits for answers.
    pub fn want_feedback(&mut self, wanted: bool) {
        if wanted == self.answers.wanted {
            return;
        }
        self.answers = Answers { wanted, review: wanted, ..Answers::default() };
    }

    /// Hands over the answers since the last time, all for routes of the current session, as they were announced. Where
    /// `send` takes no more (`false`), a later review gives the rest again.
    pub fn drain_feedback(&mut self, mut send: impl FnMut(&Route, Offload) -> bool) {
        let mut taken = true;
        for (table, prefix, answer) in std::mem::take(&mut self.answers.out) {
            // Announced again meanwhile, or withdrawn: nothing is owed for what was.
            let learned = self.rib.get(table, &prefix).filter(|learned| learned.answer == answer);
            let Some(learned) = learned else { continue };
            let outcome = if answer == Answer::Done { Offload::Done } else { Offload::Failed };
            taken = taken && send(&self.rib.announced(table, &prefix, &learned), outcome);
            if !taken && let Some(slot) = self.rib.find(table, &prefix) {
                self.rib.set_answer(slot, Answer::Pending);
                self.answers.review = true;
            }
        }
        for (route, outcome) in std::mem::take(&mut self.answers.ignored) {
            // These are not kept, so none can be given again.
            taken = taken && send(&route, outcome);
        }
    }

    /// Gives the answers that no event gives: after another plan, or when zebra did not take them.
    pub fn review_feedback(&mut self) {
        if !self.answers.wanted || !self.answers.review || !self.queue.is_empty() {
            return;
        }
        let current = self.rib.generation();
        let changed: Vec<Slot> = self
            .rib
            .iter()
            .filter(|(.., learned)| learned.generation == current)
            .filter(|(slot, table, prefix, learned)| {
                let outcome = self.outcome(*slot, *table, prefix, learned);
                outcome.is_some_and(|outcome| learned.answer != outcome.into())
            })
            .map(|(slot, ..)| slot)
            .take(MAX_REVIEWED)
            .collect();
        self.answers.review = changed.len() == MAX_REVIEWED;
        changed.into_iter().for_each(|slot| self.answer(slot));
    }

    /// A key has been evaluated.
    pub(super) fn evaluated(&mut self, slot: Slot, key: Key) {
        self.settled(slot, key, true);
    }

    /// The kernel has answered to an operation on an entry.
    pub(super) fn acknowledged(&mut self, slot: Slot) {
        if let Some((target, prefix, _)) = self.rib.entry(slot).filter(|_| self.answers.wanted) {
            self.settled(slot, (target, prefix), false);
        }
    }

    fn settled(&mut self, slot: Slot, (target, prefix): Key, evaluated: bool) {
        if !self.answers.wanted {
            return;
        }
        let Some(&(table, metric)) = self.targets.get(usize::from(target)) else { return };
        let sources: SmallVec<[u32; 2]> =
            self.plan.imports_into(table, metric).map(|(_, import)| import.import.from_table).collect();
        for from in sources {
            if self.plan.imports_from(from).nth(1).is_some() {
                self.answers.united.insert((from, prefix));
                continue;
            }
            let Some((at, learned)) = self.rib.learned_from(slot, from) else { continue };
            // What the kernel acknowledges may be the announcement before this one.
            if evaluated || learned.answer != Answer::Owed {
                self.answer(at);
            }
        }
    }

    /// Answers for the routes of several imports, once no key waits to be evaluated. Keys that an announcement marks
    /// together are evaluated together.
    pub(super) fn answer_united(&mut self) {
        if !self.queue.is_empty() {
            return;
        }
        for (table, prefix) in std::mem::take(&mut self.answers.united) {
            if let Some(slot) = self.rib.find(table, &prefix) {
                self.answer(slot);
            }
        }
    }

    /// Answers for one route, if there is something new to say.
    pub(super) fn answer(&mut self, slot: Slot) {
        if !self.answers.wanted {
            return;
        }
        let Some((table, prefix, learned)) = self.rib.at(slot) else { return };
        if learned.generation != self.rib.generation() {
            return;
        }
        let outcome = self.outcome(slot, table, &prefix, &learned);
        let answer = match (outcome, learned.answer) {
            (Some(outcome), _) => Answer::from(outcome),
            (None, Answer::Owed) => Answer::Pending,
            (None, told) => told,
        };
        if answer == learned.answer {
            return;
        }
        self.rib.set_answer(slot, answer);
        if outcome.is_some() {
            self.answers.out.push((table, prefix, answer));
        }
    }

    /// Answers for a route that the RIB does not take.
    pub(super) fn answer_ignored(&mut self, route: &Route) {
        if self.answers.wanted {
            let outcome = self.not_imported(route.key.table.0);
            self.answers.ignored.push((route.clone(), outcome));
        }
    }

    /// What zebra should know about a route; `None` while that is open.
    fn outcome(&self, slot: Slot, table: u32, prefix: &IpNet, learned: &Learned) -> Option<Offload> {
        match self.rib.resolve(learned, Family::of(prefix)) {
            Resolved::Unresolved(Unresolved::NexthopUnknown(_)) => return None,
            // What stands in the kernel, if anything, is the announcement before it.
            Resolved::Unresolved(_) => return Some(self.not_imported(table)),
            Resolved::Hops(_) | Resolved::Special(_) => {}
        }
        let (mut outcome, mut waits) = (None, false);
        for (index, import) in self.plan.imports_from(table).filter(|(_, import)| import.import.program) {
            let target = self.target_index.get(&import.target(prefix));
            waits |= import.waits;
            let entry = target.and_then(|target| self.rib.find_beside(slot, *target));
            let Some((_, _, entry)) = entry.and_then(|slot| self.rib.entry(slot)) else { continue };
            if entry.flags & (DIRTY | IN_FLIGHT) != 0 {
                return None;
            }
            if entry.flags & FAILED != 0 {
                return Some(Offload::Failed);
            }
            if entry.is_held() && self.contribution(entry.contribution).contains(&index) {
                if entry.flags & INSTALLED == 0 {
                    return None;
                }
                outcome = Some(Offload::Done);
            }
        }
        match outcome {
            None if waits => None,
            outcome => Some(outcome.unwrap_or_else(|| self.not_imported(table))),
        }
    }

    /// What to say of routes of a table that no import takes.
    fn not_imported(&self, table: u32) -> Offload {
        let diverted = self.plan.imports_from(table).any(|(_, import)| import.diverted);
        if diverted { Offload::Failed } else { Offload::Done }
    }
}

impl From<Offload> for Answer {
    fn from(outcome: Offload) -> Self {
        match outcome {
            Offload::Done => Self::Done,
            Offload::Failed => Self::Failed,
        }
    }
}
