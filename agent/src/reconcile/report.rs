//! What the engine can tell: counts and rows for `status` and `routes`. Reads only.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::bodies::BodyTarget;
use super::tally::{Class, Verdict};
use super::{Engine, FAILED, IN_FLIGHT, INSTALLED, Key};
use crate::model::{Family, Hop, RouteKey, Special};
use crate::plan::Rejection;
use crate::rib::{Learned, Resolved, Slot};
use crate::status::reason as route;
use crate::status::rows::RouteState;

/// Sums over all routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Routes that FRR announced (protocol 2 aside).
    pub learned: u64,
    /// Announcements of this session that were not learned, for the limit was reached.
    pub refused: u64,
    /// Learned routes that at least one import takes.
    pub accepted: u64,
    /// Learned routes that no import takes, by reason; those of tables that no import names are `NoImport`.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Routes of ours in the kernel.
    pub programmed: u64,
    /// Wanted, and refused by the kernel.
    pub failed: u64,
    /// In the kernel, not announced again since the feed was lost.
    pub stale: u64,
    /// Wanted, waiting for a usable link or for the programmer.
    pub pending: u64,
    /// At most 20 rejected routes: (prefix, reason).
    pub samples: Vec<(IpNet, &'static str)>,
    /// By import, in the order of the plan.
    pub imports: Vec<ImportCounts>,
    /// By kernel table.
    pub tables: BTreeMap<u32, TableCounts>,
}

/// Counts of one import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportCounts {
    /// Learned routes of its FPM table.
    pub received: u64,
    /// Of those, taken.
    pub accepted: u64,
    /// Of those, not taken, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Routes from it that the kernel holds; those of several imports count for each.
    pub programmed: u64,
    /// That the kernel refuses.
    pub failed: u64,
    /// Held, though FRR has not confirmed them.
    pub stale: u64,
}

/// Counts of one kernel table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Routes of ours that should be there.
    pub desired: u64,
    /// That are.
    pub programmed: u64,
    /// That the kernel refused.
    pub failed: u64,
}

/// One route, learned or of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// Kernel table, or for a rejected route the FPM table.
    pub table: u32,
    /// Metric in the kernel.
    pub metric: Option<u32>,
    /// Destination.
    pub prefix: IpNet,
    /// What became of it.
    pub state: RouteState,
    /// Why.
    pub reason: &'static str,
    /// The object that it comes from.
    pub owner: Option<String>,
    /// `rtm_protocol` that FRR gave it.
    pub protocol: Option<u8>,
    /// Nexthops with weights.
    pub nexthops: Vec<(Hop, u32)>,
    /// For routes that end the lookup.
    pub special: Option<Special>,
}

/// A route in a list: of ours where it has a metric, else learned and not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ListedRoute {
    table: u32,
    prefix: IpNet,
    metric: Option<u32>,
}

/// The routes of an answer, sorted by table and prefix.
#[derive(Debug, Clone, Default)]
pub struct RouteList(Vec<ListedRoute>);

impl RouteList {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Rejected routes in a sample.
const MAX_SAMPLES: usize = 20;

impl Engine {
    /// The sums. They cost nothing that grows with the number of routes, but while FRR has routes to confirm.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (learned, refused) = (self.rib.len() as u64, self.rib.refused());
        let mut counts = Counts { learned, refused, ..Counts::default() };
        counts.imports = vec![ImportCounts::default(); self.plan.imports.len()];
        self.count_judgements(&mut counts);
        for (class, number) in self.tallies.iter() {
            self.count_class(class, number, &mut counts);
        }
        if !self.feed.is_synchronized() {
            self.count_stale(&mut counts);
        }
        let rejected = counts.rejected.iter().filter(|(why, _)| **why != route::NO_IMPORT);
        counts.samples = self.rejected_samples(rejected.map(|(_, number)| number).sum());
        counts
    }

    fn count_judgements(&self, counts: &mut Counts) {
        for (table, routes) in self.rib.tables() {
            let mut imports = self.plan.imports_from(*table).peekable();
            if imports.peek().is_none() {
                *counts.rejected.entry(route::NO_IMPORT).or_default() += routes;
            }
            for (index, _) in imports {
                if let Some(import) = counts.imports.get_mut(usize::from(index)) {
                    import.received += routes;
                }
            }
        }
        for (label, number) in (0..).zip(self.rib.labels()) {
            let Some(judgement) = self.judgements.get(label).filter(|_| *number > 0) else { continue };
            let number = *number as u64;
            for ((index, _), verdict) in self.plan.imports_from(judgement.table).zip(&judgement.verdicts) {
                let Some(import) = counts.imports.get_mut(usize::from(index)) else { continue };
                match verdict {
                    Verdict::Taken => import.accepted += number,
                    Verdict::Rejected(why) => *import.rejected.entry(why).or_default() += number,
                    Verdict::Open => {}
                }
            }
            match judgement.rejection() {
                Some(why) => *counts.rejected.entry(why).or_default() += number,
                None if judgement.verdicts.contains(&Verdict::Taken) => counts.accepted += number,
                None => {}
            }
        }
    }

    fn count_class(&self, class: &Class, number: u64, counts: &mut Counts) {
        let (table, _) = self.targets.get(usize::from(class.target)).copied().unwrap_or_default();
        let table = counts.tables.entry(table).or_default();
        let if_so = |so: bool| if so { number } else { 0 };
        let (failed, programmed) = (if_so(class.failed), if_so(class.programmed));
        table.desired += number;
        table.failed += failed;
        table.programmed += programmed;
        counts.failed += failed;
        counts.programmed += programmed;
        counts.pending += if_so(class.held && !class.programmed);
        for index in self.contribution(class.contribution) {
            if let Some(import) = counts.imports.get_mut(usize::from(*index)) {
                import.programmed += programmed;
                import.failed += failed;
            }
        }
    }

    fn count_stale(&self, counts: &mut Counts) {
        for (slot, key, entry) in self.held() {
            let programmed = entry.flags & (INSTALLED | IN_FLIGHT) == INSTALLED;
            if !programmed || !self.is_stale(slot, key) {
                continue;
            }
            counts.stale += 1;
            for index in self.contribution(entry.contribution) {
                if let Some(import) = counts.imports.get_mut(usize::from(*index)) {
                    import.stale += 1;
                }
            }
        }
    }

    /// Some of the routes that no import of their table takes.
    fn rejected_samples(&self, rejected: u64) -> Vec<(IpNet, &'static str)> {
        let sample = |slot: Slot| {
            let (_, prefix, _) = self.rib.at(slot)?;
            Some((prefix, self.judgements.get(self.rib.label(slot))?.rejection()?))
        };
        let mut samples: Vec<(IpNet, &'static str)> =
            self.samples.iter().filter_map(|slot| sample(*slot)).collect();
        samples.sort_unstable();
        samples.dedup();
        samples.truncate(MAX_SAMPLES);
        if (samples.len() as u64) < rejected.min(MAX_SAMPLES as u64) {
            // Those that are remembered have come in, or gone.
            samples = self.rib.iter().filter_map(|(slot, ..)| sample(slot)).take(MAX_SAMPLES).collect();
        }
        samples
    }

    /// What the kernel refused and never held.
    fn refused_keys(&self) -> impl Iterator<Item = RouteKey> + '_ {
        let failed = self.failures.keys().filter_map(|slot| self.rib.entry(*slot));
        let never = failed.filter(|(.., entry)| !entry.is_held());
        never.map(|(target, prefix, _)| self.route_key((target, prefix)))
    }

    /// What the imports of a learned route's table say of it now: its reason, where none takes it.
    pub(super) fn verdict(&self, slot: Slot, table: u32) -> Option<&'static str> {
        let mut verdict = Some(route::NO_IMPORT);
        for (index, import) in self.plan.imports_from(table) {
            let reason = self.rejection(import, index, slot).map(Rejection::as_str).or(import.blocked);
            verdict = if verdict.is_none() { None } else { reason };
        }
        verdict
    }

    /// Whether FRR has not announced the route since it was lost. Static routes are never stale.
    fn is_stale(&self, slot: Slot, key: Key) -> bool {
        if self.feed.is_synchronized() || self.plan.static_routes.contains_key(&self.route_key(key)) {
            return false;
        }
        let RouteKey { table, metric, .. } = self.route_key(key);
        let current = self.rib.generation();
        let fresh = |(_, learned): (Slot, Learned)| learned.generation == current;
        !self
            .plan
            .imports_into(table, metric)
            .any(|(_, import)| self.rib.learned_from(slot, import.import.from_table).is_some_and(fresh))
    }

    /// What `routes` lists: what is ours in the kernel's tables, and what was learned and is not taken, in a stable order.
    /// `wanted` selects by table and prefix. Taken once for all pages of an answer.
    pub fn list_routes(&self, wanted: impl Fn(u32, &IpNet) -> bool) -> RouteList {
        let mut keys = Vec::new();
        let ours = self.held().map(|(_, key, _)| self.route_key(key)).chain(self.refused_keys());
        for key in ours {
            if wanted(key.table, &key.prefix) {
                keys.push(ListedRoute { table: key.table, prefix: key.prefix, metric: Some(key.metric) });
            }
        }
        for (slot, table, prefix, _) in self.rib.iter() {
            if wanted(table, &prefix) && !self.is_taken(slot, table) {
                keys.push(ListedRoute { table, prefix, metric: None });
            }
        }
        keys.sort_unstable();
        RouteList(keys)
    }

    /// Rows of a list from `skip` on, at most `limit`; and where the next page begins. Routes that went meanwhile are
    /// left out.
    #[must_use]
    pub fn route_rows(&self, list: &RouteList, skip: usize, limit: usize) -> (Vec<RouteView>, Option<usize>) {
        let page = list.0.get(skip..).unwrap_or_default();
        let page = page.get(..limit).unwrap_or(page);
        let next = skip + page.len();
        let rows = page.iter().filter_map(|route| match route.metric {
            Some(metric) => self.own_row(RouteKey { table: route.table, prefix: route.prefix, metric }),
            None => self.learned_row(route.table, route.prefix),
        });
        (rows.collect(), (next < list.0.len() && !page.is_empty()).then_some(next))
    }

    /// What covers a prefix, or is it: of ours and learned, most specific first. Costs a look for each length and table.
    #[must_use]
    pub fn routes_covering(&self, prefix: &IpNet) -> Vec<RouteView> {
        let mut rows = Vec::new();
        for length in (0..=prefix.prefix_len()).rev() {
            let Ok(covering) = IpNet::new(prefix.network(), length).map(|net| net.trunc()) else { continue };
            for &(table, metric) in &self.targets {
                let key = RouteKey { table, prefix: covering, metric };
                rows.extend(self.known(&key).then(|| self.own_row(key)).flatten());
            }
            for table in self.rib.tables().keys() {
                let Some(slot) = self.rib.find(*table, &covering) else { continue };
                if !self.is_taken(slot, *table) {
                    rows.extend(self.learned_row(*table, covering));
                }
            }
        }
        rows
    }

    /// Whether an import takes a learned route.
    fn is_taken(&self, slot: Slot, table: u32) -> bool {
        self.plan.imports_from(table).any(|(index, import)| {
            import.import.program && import.blocked.is_none() && self.rejection(import, index, slot).is_none()
        })
    }

    /// Whether a key holds a route of ours, or should.
    fn known(&self, key: &RouteKey) -> bool {
        let target = self.target_index.get(&(key.table, key.metric));
        let slot = target.and_then(|target| self.rib.find_entry(*target, &key.prefix));
        let entry = slot.and_then(|slot| self.rib.entry(slot));
        entry.is_some_and(|(.., entry)| entry.is_held() || entry.flags & FAILED != 0)
    }

    fn own_row(&self, key: RouteKey) -> Option<RouteView> {
        let target = *self.target_index.get(&(key.table, key.metric))?;
        let slot = self.rib.find_entry(target, &key.prefix);
        let failure = slot.and_then(|slot| self.failures.get(&slot));
        let held = self.held_at(key.table, key.metric, &key.prefix);
        let entry = held.map(|(_, entry)| entry);
        let (mut nexthops, mut special) = (Vec::new(), None);
        match entry.and_then(|entry| self.bodies.get(entry.body)).map(|body| &body.target) {
            Some(BodyTarget::Group(group)) => {
                nexthops = self.nexthops.set(*group).map_or(vec![], |paths| paths.hops.to_vec());
            }
            Some(BodyTarget::Inline(hops)) => {
                nexthops = hops.iter().map(|(hop, w)| (*hop, u32::from(*w))).collect();
            }
            Some(BodyTarget::Special(kind)) => special = Some(*kind),
            Some(BodyTarget::Foreign(_)) | None => {}
        }
        let installed = entry.is_some_and(|entry| entry.flags & INSTALLED != 0);
        let (state, reason) = match (failure, entry) {
            (Some(failure), _) if failure.errno == libc::EEXIST => (RouteState::Failed, route::FOREIGN_ROUTE),
            (Some(_), _) => (RouteState::Failed, route::KERNEL_REJECTED),
            (None, Some(_))
                if installed && slot.is_some_and(|slot| self.is_stale(slot, (target, key.prefix))) =>
            {
                (RouteState::Stale, route::FEED_LOST)
            }
            (None, _) if installed => (RouteState::Programmed, self.purpose(&key)),
            (None, _) => (RouteState::Pending, route::NO_USABLE_LINK),
        };
        let import = entry.and_then(|entry| self.contribution(entry.contribution).first().copied());
        let import = import
            .and_then(|index| self.plan.imports.get(usize::from(index)))
            .or_else(|| self.plan.imports_into(key.table, key.metric).next().map(|(_, import)| import))
            .map(|import| &import.import);
        let fixed = self.plan.static_routes.get(&key);
        let learned = import.and_then(|import| self.rib.get(import.from_table, &key.prefix));
        let owner = match fixed {
            Some(fixed) => Some(fixed.owner.to_string()),
            None => import.and_then(|import| import.owners.first()).map(ToString::to_string),
        };
        Some(RouteView {
            table: key.table,
            metric: Some(key.metric),
            prefix: key.prefix,
            state,
            reason,
            owner,
            protocol: learned.filter(|_| fixed.is_none()).map(|learned| learned.protocol),
            nexthops,
            special,
        })
    }

    fn purpose(&self, key: &RouteKey) -> &'static str {
        self.plan.static_routes.get(key).map_or(route::IMPORTED, |fixed| fixed.purpose)
    }

    fn learned_row(&self, table: u32, prefix: IpNet) -> Option<RouteView> {
        let slot = self.rib.find(table, &prefix)?;
        let (_, _, learned) = self.rib.at(slot)?;
        let verdict = self.verdict(slot, table);
        let import = self.plan.imports_from(table).next();
        let (nexthops, special) = match self.rib.resolve(&learned, Family::of(&prefix)) {
            Resolved::Hops(hops) => (hops.to_vec(), None),
            Resolved::Special(kind) => (Vec::new(), Some(kind)),
            Resolved::Unresolved(_) => (Vec::new(), None),
        };
        Some(RouteView {
            table,
            metric: None,
            prefix,
            state: if verdict.is_none() { RouteState::Observed } else { RouteState::Rejected },
            reason: verdict.unwrap_or(route::OBSERVE_ONLY),
            owner: import.and_then(|(_, import)| import.import.owners.first().map(ToString::to_string)),
            protocol: Some(learned.protocol),
            nexthops,
            special,
        })
    }

    /// What the kernel refuses, in its words, at most `limit`: nexthop objects first, for routes fail in their wake.
    #[must_use]
    pub fn refused(&self, limit: usize) -> Vec<String> {
        let mut routes: Vec<(RouteKey, &str)> = self
            .failures
            .iter()
            .filter_map(|(slot, failure)| {
                let (target, prefix, _) = self.rib.entry(*slot)?;
                Some((self.route_key((target, prefix)), failure.text.as_str()))
            })
            .collect();
        routes.sort_unstable();
        let routes = routes.into_iter().map(|(key, text)| format!("{key}: {text}"));
        self.nexthop_failures.values().cloned().chain(routes).take(limit).collect()
    }

    /// How many learned routes an observed import expects in its table and `present` does not have; at most `limit`
    /// of them by name.
    pub fn observed_missing(
        &self,
        import: u16,
        present: impl Fn(&IpNet) -> bool,
        limit: usize,
    ) -> (u64, Vec<IpNet>) {
        let Some(plan) = self.plan.imports.get(usize::from(import)) else { return (0, Vec::new()) };
        let (mut missing, mut sample) = (0, Vec::new());
        for (slot, table, prefix, _) in self.rib.iter() {
            let expected = table == plan.import.from_table && self.rejection(plan, import, slot).is_none();
            if expected && !present(&prefix) {
                missing += 1;
                if sample.len() < limit {
                    sample.push(prefix);
                }
            }
        }
        (missing, sample)
    }
}
