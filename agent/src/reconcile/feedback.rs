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
//! | waits for its nexthops, a link, or the kernel | none yet |

use ipnet::IpNet;
use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use zebra_fpm::Route;
use zebra_fpm::netlink::Offload;

use super::{Engine, IN_FLIGHT, INSTALLED, Key};
use crate::model::Family;
use crate::rib::{Answer, Learned, Resolved, Unresolved};

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
            if !taken {
                self.rib.set_answer(table, &prefix, Answer::Pending);
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
        let evaluated = self.queue.is_empty() && self.dirty.is_empty();
        if !self.answers.wanted || !self.answers.review || !evaluated {
            return;
        }
        let current = self.rib.generation();
        let changed: Vec<(u32, IpNet)> = self
            .rib
            .iter()
            .filter(|(_, _, learned)| learned.generation == current)
            .filter(|(table, prefix, learned)| {
                self.outcome(*table, prefix, learned).is_some_and(|outcome| learned.answer != outcome.into())
            })
            .map(|(table, prefix, _)| (table, prefix))
            .take(MAX_REVIEWED)
            .collect();
        self.answers.review = changed.len() == MAX_REVIEWED;
        for (table, prefix) in changed {
            self.answer(table, &prefix);
        }
    }

    /// A key has been evaluated.
    pub(super) fn evaluated(&mut self, key: Key) {
        self.settled(key, true);
    }

    /// The kernel has answered to an operation on a key.
    pub(super) fn acknowledged(&mut self, key: Key) {
        self.settled(key, false);
    }

    fn settled(&mut self, (target, prefix): Key, evaluated: bool) {
        if !self.answers.wanted {
            return;
        }
        let Some(&(table, metric)) = self.targets.get(target as usize) else { return };
        let sources: SmallVec<[u32; 2]> =
            self.plan.imports_into(table, metric).map(|(_, import)| import.import.from_table).collect();
        for from in sources {
            if self.plan.imports_from(from).nth(1).is_some() {
                self.answers.united.insert((from, prefix));
                continue;
            }
            // What the kernel acknowledges may be the announcement before this one.
            let owed = self.rib.get(from, &prefix).is_some_and(|learned| learned.answer == Answer::Owed);
            if evaluated || !owed {
                self.answer(from, &prefix);
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
            self.answer(table, &prefix);
        }
    }

    /// Answers for one route, if there is something new to say.
    pub(super) fn answer(&mut self, table: u32, prefix: &IpNet) {
        if !self.answers.wanted {
            return;
        }
        let Some(learned) = self.rib.get(table, prefix) else { return };
        if learned.generation != self.rib.generation() {
            return;
        }
        let outcome = self.outcome(table, prefix, &learned);
        let answer = match (outcome, learned.answer) {
            (Some(outcome), _) => Answer::from(outcome),
            (None, Answer::Owed) => Answer::Pending,
            (None, told) => told,
        };
        if answer == learned.answer {
            return;
        }
        self.rib.set_answer(table, prefix, answer);
        if outcome.is_some() {
            self.answers.out.push((table, *prefix, answer));
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
    fn outcome(&self, table: u32, prefix: &IpNet, learned: &Learned) -> Option<Offload> {
        match self.rib.resolve(learned, Family::of(prefix)) {
            Resolved::Unresolved(Unresolved::NexthopUnknown(_)) => return None,
            // What stands in the kernel, if anything, is the announcement before it.
            Resolved::Unresolved(_) => return Some(self.not_imported(table)),
            Resolved::Hops(_) | Resolved::Special(_) => {}
        }
        let mut outcome = None;
        for (index, import) in self.plan.imports_from(table).filter(|(_, import)| import.import.program) {
            let Some(target) = self.target_index.get(&import.target(prefix)) else { continue };
            let key = (*target, *prefix);
            if self.dirty.contains(&key) {
                return None;
            }
            let entry = self.entries.get(*target, prefix);
            if entry.is_some_and(|entry| entry.flags & IN_FLIGHT != 0) {
                return None;
            }
            if self.failures.contains_key(&key) {
                return Some(Offload::Failed);
            }
            match entry.filter(|entry| self.contribution(entry.contribution).contains(&index)) {
                Some(entry) if entry.flags & INSTALLED != 0 => outcome = Some(Offload::Done),
                Some(_) => return None,
                None => {}
            }
        }
        Some(outcome.unwrap_or_else(|| self.not_imported(table)))
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
