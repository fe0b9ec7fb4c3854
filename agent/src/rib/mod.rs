//! What FRR taught us: routes and nexthop objects as they came over FPM, by generation of the feed.
//!
//! Pure state. Beside each prefix there is room for an entry of the user's (`E`), so that what is learned and what became of
//! it are found together. A new FPM connection starts a new *generation*: what the older ones taught is stale, but kept
//! with the nexthop objects that it refers to, for FRR reuses nexthop ids after a restart (fpm.md 2.4).
//! Nexthop ids are resolved when asked for, never when they arrive: groups come before their members, and some
//! ids are never announced (fpm.md rule 5).

mod epoch;
mod store;
#[cfg(test)]
mod tests;
mod types;

use std::collections::VecDeque;
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use zebra_fpm::{
    IfIndex, Mtu, NexthopBody, NexthopId, Protocol, Route, RouteKey, RouteKind, TableId, Target, Update,
};

pub use self::epoch::canonical;
use self::epoch::{Epoch, weighted};
use self::store::Store;
pub use self::store::{Scope, Slot};
pub use self::types::{
    Answer, Change, Detail, DetailNexthops, Generation, HopSet, Ignored, Learned, LearnedTarget, Resolved,
    Unresolved, WeightedHop,
};
use crate::model::{Family, Special};

/// Generations kept besides the current one; older nexthop objects are forgotten, their routes kept as they are
/// programmed.
const MAX_GENERATIONS: usize = 8;

/// Learned routes at least that are kept, whatever the guardrails say.
const MIN_LIMIT: usize = 100_000;

/// The learned state.
pub struct Rib<E = ()> {
    store: Store<E>,
    epochs: VecDeque<Epoch>,
    details: Vec<Detail>,
    detail_index: FxHashMap<Detail, u32>,
    /// Routes that are not proto 2, per FPM table: the tables that FRR writes.
    per_table: FxHashMap<u32, u64>,
    /// FPM tables of which the current generation has announced a route.
    announced: FxHashSet<u32>,
    /// Routes of the current generation by each nexthop id.
    users: FxHashMap<u32, u64>,
    /// Routes that were not announced in the current generation.
    stale: usize,
    ignored: Ignored,
    /// Routes at most: see [`Rib::set_limit`].
    limit: usize,
    /// Announcements of the current generation that found no room.
    refused: u64,
}

impl<E> Default for Rib<E> {
    fn default() -> Self {
        Self {
            store: Store::default(),
            epochs: VecDeque::from([Epoch::new(Generation(0))]),
            details: Vec::new(),
            detail_index: FxHashMap::default(),
            per_table: FxHashMap::default(),
            announced: FxHashSet::default(),
            users: FxHashMap::default(),
            stale: 0,
            ignored: Ignored::default(),
            // Until the first plan says more.
            limit: usize::MAX,
            refused: 0,
        }
    }
}

/// Records that it pays to prepare together: the latency of their memory is waited for once.
pub const AT_ONCE: usize = 32;

impl<E: Copy + Default> Rib<E> {
    /// The generation that updates belong to now.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.epochs.back().map_or(Generation(0), |epoch| epoch.generation)
    }

    /// Bounds what is kept, and so its memory: a prefix that is new when `limit` (but at least 100,000) routes are known
    /// is not learned, and forgotten until FRR announces it again. What is known stays, and can change.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = usize::try_from(limit).unwrap_or(usize::MAX).max(MIN_LIMIT);
    }

    /// The most routes that are kept.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many announcements of the current generation found no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Starts a new generation: everything learned so far is stale until it is announced again.
    pub fn new_generation(&mut self) -> Generation {
        let next = Generation(self.generation().0.wrapping_add(1));
        self.epochs.push_back(Epoch::new(next));
        self.users.clear();
        self.announced.clear();
        self.stale = self.len();
        self.refused = 0;
        if self.epochs.len() > MAX_GENERATIONS + 1 {
            self.epochs.pop_front();
        }
        next
    }

    /// Applies one update of the current generation.
    pub fn apply(&mut self, update: &Update) -> Change {
        match update {
            Update::Route(route) => self.apply_route(route),
            Update::RouteDel(gone) => {
                let table = table_of(&gone.key);
                let found = self.store.find(table, &gone.key.dst);
                if let Some(slot) = found {
                    self.forget(slot, table);
                }
                let slot = found.filter(|slot| self.store.entry(*slot).is_some());
                Change::Gone { table, prefix: gone.key.dst, slot }
            }
            Update::Nexthop(object) => {
                let is_news = self.epochs.back_mut().is_some_and(|epoch| epoch.insert(object));
                if is_news { Change::Nexthop(object.id.0) } else { Change::None }
            }
            Update::NexthopDel { id, .. } => {
                if !self.epochs.back_mut().is_some_and(|epoch| epoch.remove(id.0)) {
                    return Change::None;
                }
                self.users.retain(|_, users| *users > 0);
                Change::Nexthop(id.0)
            }
            _ => {
                self.ignored.other_message += 1;
                Change::None
            }
        }
    }

    fn apply_route(&mut self, route: &Route) -> Change {
        let (table, prefix) = (table_of(&route.key), route.key.dst);
        if route.protocol == Protocol::KERNEL {
            self.ignored.kernel += 1;
            return Change::None;
        }
        if route.key.src.is_some() {
            self.ignored.source_specific += 1;
            return Change::Ignored;
        }
        if self.len() >= self.limit && self.store.find(table, &prefix).is_none() {
            self.refused += 1;
            return Change::Ignored;
        }
        let target = match route.kind {
            RouteKind::Blackhole => LearnedTarget::Special(Special::Blackhole),
            RouteKind::Unreachable => LearnedTarget::Special(Special::Unreachable),
            RouteKind::Prohibit => LearnedTarget::Special(Special::Prohibit),
            RouteKind::Unicast => match (&route.target, route.mtu, route.preferred_source) {
                (Target::Nexthop(id), None, None) => LearnedTarget::Nexthop(id.0),
                _ => LearnedTarget::Detail(self.intern(route)),
            },
            RouteKind::Other(_) => {
                self.ignored.other_type += 1;
                return Change::Ignored;
            }
        };
        let generation = self.generation();
        let learned = Learned { target, protocol: route.protocol.0, generation, answer: Answer::Owed };
        let Some((slot, old)) = self.store.learn(table, &prefix, learned) else { return Change::None };
        match old {
            None => self.count(table, 1),
            Some(old) if old.generation == generation => {
                if old.target == target {
                    return Change::Route(slot);
                }
                self.use_nexthop(&old, -1);
            }
            Some(_) => self.stale -= 1,
        }
        self.announced.insert(table);
        self.use_nexthop(&learned, 1);
        Change::Route(slot)
    }

    fn forget(&mut self, slot: Slot, table: u32) {
        let Some(old) = self.store.learned(slot).copied() else { return };
        self.store.forget(slot);
        self.count(table, -1);
        self.use_nexthop(&old, -1);
        self.stale -= usize::from(old.generation != self.generation());
    }

    fn intern(&mut self, route: &Route) -> u32 {
        let family = Family::of(&route.key.dst);
        let nexthops = match &route.target {
            Target::Nexthop(id) => DetailNexthops::Id(id.0),
            Target::None => DetailNexthops::Inline(HopSet::new()),
            Target::Nexthops(list) if list.iter().any(|hop| hop.encap.is_some()) => {
                DetailNexthops::Encapsulated
            }
            Target::Nexthops(list) => DetailNexthops::Inline(canonical(
                list.iter().filter_map(|hop| weighted(hop, family)).collect(),
            )),
        };
        let detail =
            Detail { nexthops, mtu: route.mtu.map(|mtu| mtu.0), preferred_source: route.preferred_source };
        if let Some(index) = self.detail_index.get(&detail) {
            return *index;
        }
        if self.details.len() > 1024 && self.details.len() > 2 * self.len() {
            self.forget_unused_details();
        }
        let index = u32::try_from(self.details.len()).unwrap_or(u32::MAX);
        self.details.push(detail.clone());
        self.detail_index.insert(detail, index);
        index
    }

    /// Details have no reference counts: when far more exist than routes, renumber those in use.
    fn forget_unused_details(&mut self) {
        let old = std::mem::take(&mut self.details);
        self.detail_index.clear();
        let (details, index) = (&mut self.details, &mut self.detail_index);
        self.store.for_each_learned(|learned| {
            if let LearnedTarget::Detail(slot) = &mut learned.target
                && let Some(detail) = old.get(*slot as usize)
            {
                *slot = *index.entry(detail.clone()).or_insert_with(|| {
                    details.push(detail.clone());
                    u32::try_from(details.len() - 1).unwrap_or(u32::MAX)
                });
            }
        });
    }

    fn count(&mut self, table: u32, delta: i64) {
        let count = self.per_table.entry(table).or_default();
        *count = count.saturating_add_signed(delta);
        if *count == 0 {
            self.per_table.remove(&table);
        }
    }

    fn use_nexthop(&mut self, learned: &Learned, delta: i64) {
        if let LearnedTarget::Nexthop(id) = learned.target
            && learned.generation == self.generation()
        {
            let users = self.users.entry(id).or_default();
            *users = users.saturating_add_signed(delta);
        }
    }

    /// How many routes of the current generation name this nexthop id, and nothing besides it.
    #[must_use]
    pub fn users(&self, id: u32) -> u64 {
        self.users.get(&id).copied().unwrap_or(0)
    }

    /// Where the learned route for a prefix is.
    #[must_use]
    pub fn find(&self, table: u32, prefix: &IpNet) -> Option<Slot> {
        self.store.find(table, prefix)
    }

    /// The learned route for a prefix.
    #[must_use]
    pub fn get(&self, table: u32, prefix: &IpNet) -> Option<Learned> {
        self.store.learned(self.find(table, prefix)?).copied()
    }

    /// What was learned from `table` for the prefix of a record, and where that is.
    #[must_use]
    pub fn learned_from(&self, slot: Slot, table: u32) -> Option<(Slot, Learned)> {
        self.store.learned_from(slot, table).map(|(slot, learned)| (slot, *learned))
    }

    /// FPM table, prefix and route at a slot.
    #[must_use]
    pub fn at(&self, slot: Slot) -> Option<(u32, IpNet, Learned)> {
        self.store.at(slot)
    }

    /// The route as FRR announced it, with the nexthops that its message had.
    #[must_use]
    pub fn announced(&self, table: u32, prefix: &IpNet, learned: &Learned) -> Route {
        let key = RouteKey::new(TableId(table), *prefix);
        let protocol = Protocol(learned.protocol);
        let special = |kind| Route::new(key, protocol, kind, Target::None);
        match learned.target {
            LearnedTarget::Special(Special::Blackhole) => special(RouteKind::Blackhole),
            LearnedTarget::Special(Special::Unreachable) => special(RouteKind::Unreachable),
            // FRR announces none that only ends the lookup in one table.
            LearnedTarget::Special(Special::Prohibit | Special::Throw) => special(RouteKind::Prohibit),
            LearnedTarget::Nexthop(id) => Route::by_nexthop(key, protocol, NexthopId(id)),
            LearnedTarget::Detail(slot) => {
                let route = special(RouteKind::Unicast);
                let Some(detail) = self.detail(slot) else { return route };
                let target = match &detail.nexthops {
                    DetailNexthops::Id(id) => Target::Nexthop(NexthopId(*id)),
                    DetailNexthops::Inline(hops) => {
                        Target::Nexthops(hops.iter().map(announced_hop).collect())
                    }
                    DetailNexthops::Encapsulated => Target::None,
                };
                let (mtu, preferred_source) = (detail.mtu.map(Mtu), detail.preferred_source);
                Route { mtu, preferred_source, target, ..route }
            }
        }
    }

    /// Notes what zebra was told about a route.
    pub fn set_answer(&mut self, slot: Slot, answer: Answer) {
        if let Some(learned) = self.store.learned_mut(slot) {
            learned.answer = answer;
        }
    }

    /// The rare attributes of a route.
    #[must_use]
    pub fn detail(&self, index: u32) -> Option<&Detail> {
        self.details.get(index as usize)
    }

    /// Groups of the current generation that list `id` as a member.
    pub fn groups_of(&self, id: u32) -> impl Iterator<Item = u32> + '_ {
        self.epochs
            .back()
            .into_iter()
            .flat_map(move |epoch| epoch.groups_of.get(&id).into_iter().flatten().copied())
    }

    /// The nexthops of a learned route, without any policy.
    #[must_use]
    pub fn resolve(&self, learned: &Learned, family: Family) -> Resolved {
        match learned.target {
            LearnedTarget::Special(kind) => Resolved::Special(kind),
            LearnedTarget::Nexthop(id) => self.resolve_id(learned.generation, id, family),
            LearnedTarget::Detail(slot) => match self.detail(slot).map(|detail| &detail.nexthops) {
                Some(DetailNexthops::Id(id)) => self.resolve_id(learned.generation, *id, family),
                Some(DetailNexthops::Inline(hops)) if !hops.is_empty() => Resolved::Hops(hops.clone()),
                Some(DetailNexthops::Encapsulated) => Resolved::Unresolved(Unresolved::Encapsulated),
                _ => Resolved::Unresolved(Unresolved::Empty),
            },
        }
    }

    fn resolve_id(&self, generation: Generation, id: u32, family: Family) -> Resolved {
        let epoch = self.epochs.iter().rev().find(|epoch| epoch.generation == generation);
        let unknown = Resolved::Unresolved(Unresolved::NexthopUnknown(id));
        epoch.map_or(unknown, |epoch| epoch.resolve(id, family))
    }

    /// Prepares [`Self::apply`] for some updates: see [`AT_ONCE`].
    pub fn warm(&self, updates: &[Update]) {
        self.store.warm(updates.iter().filter_map(|update| match update {
            Update::Route(route) => Some(&route.key.dst),
            Update::RouteDel(gone) => Some(&gone.key.dst),
            _ => None,
        }));
    }

    /// Prepares looking up entries for some prefixes.
    pub fn warm_prefixes<'a>(&self, prefixes: impl Iterator<Item = &'a IpNet>) {
        self.store.warm(prefixes);
    }

    /// Prepares the change of some records.
    pub fn warm_records(&self, slots: impl Iterator<Item = Slot>) {
        self.store.warm_records(slots);
    }

    /// Prepares the end of some records.
    pub fn warm_removals(&self, slots: impl Iterator<Item = Slot>) {
        self.store.warm_removals(slots);
    }

    /// How many of the prefixes that were new last came in ascending order.
    #[must_use]
    pub fn ascending(&self) -> usize {
        self.store.ascending()
    }

    /// Does some of the work that learning put off, for so many records at most: what depends on it is only how fast prefixes are
    /// found.
    pub fn settle(&mut self, records: usize) {
        self.store.settle(records);
    }

    /// Forgets every route that was not announced in the current generation, and the older nexthop objects.
    pub fn sweep(&mut self) {
        let current = self.generation();
        if self.stale > 0 {
            let stale = self.iter().filter(|(_, _, _, learned)| learned.generation != current);
            let stale: Vec<(Slot, u32)> = stale.map(|(slot, table, _, _)| (slot, table)).collect();
            stale.into_iter().for_each(|(slot, table)| self.forget(slot, table));
        }
        while self.epochs.len() > 1 {
            self.epochs.pop_front();
        }
    }

    /// How many routes were not announced in the current generation.
    #[must_use]
    pub fn stale(&self) -> usize {
        self.stale
    }

    /// Every learned route, with its FPM table.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, u32, IpNet, &Learned)> + '_ {
        self.store.iter()
    }

    // ===== labels and entries of the user =====

    /// The user's label of a learned route; 0 until it has one.
    #[must_use]
    pub fn label(&self, slot: Slot) -> u16 {
        self.store.label(slot)
    }

    /// Labels a learned route. It stays so when it is announced again.
    pub fn set_label(&mut self, slot: Slot, label: u16) {
        self.store.set_label(slot, label);
    }

    /// Takes all labels away.
    pub fn clear_labels(&mut self) {
        self.store.clear_labels();
    }

    /// How many learned routes have each label.
    #[must_use]
    pub fn labels(&self) -> &[usize] {
        self.store.labels()
    }

    /// What a record's entry is for, its prefix, and the entry.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> Option<(Scope, IpNet, E)> {
        self.store.entry(slot)
    }

    /// The same, to change it.
    pub fn entry_mut(&mut self, slot: Slot) -> Option<(Scope, &mut E)> {
        self.store.entry_mut(slot)
    }

    /// The entry of a prefix for `target`.
    #[must_use]
    pub fn find_entry(&self, target: Scope, prefix: &IpNet) -> Option<Slot> {
        self.store.find_entry(target, prefix)
    }

    /// The same, of the prefix that a record is for.
    #[must_use]
    pub fn find_beside(&self, slot: Slot, target: Scope) -> Option<Slot> {
        self.store.find_beside(slot, target)
    }

    /// The entry of a prefix for `target`, made where there is none; `None` when there are too many records.
    pub fn entry_at(&mut self, target: Scope, prefix: &IpNet) -> Option<Slot> {
        self.store.entry_at(target, prefix)
    }

    /// The same, of the prefix that a record is for.
    pub fn entry_beside(&mut self, slot: Slot, target: Scope) -> Option<Slot> {
        self.store.entry_beside(slot, target)
    }

    /// Removes an entry.
    pub fn drop_entry(&mut self, slot: Slot) {
        self.store.drop_entry(slot);
    }

    /// Every entry, with what it is for.
    pub fn entries(&self) -> impl Iterator<Item = (Slot, Scope, IpNet, &E)> + '_ {
        self.store.entries()
    }

    /// Changes every entry, told what it is for.
    pub fn for_each_entry(&mut self, change: impl FnMut(Scope, &mut E)) {
        self.store.for_each_entry(change);
    }

    /// Tables that FRR itself writes: those that its routes carry, with their numbers of routes.
    #[must_use]
    pub fn tables(&self) -> &FxHashMap<u32, u64> {
        &self.per_table
    }

    /// Tables of which the current generation has announced a route: those of the zebra that is there now, without what
    /// is held of the one before it.
    #[must_use]
    pub fn announced_tables(&self) -> &FxHashSet<u32> {
        &self.announced
    }

    /// Number of learned routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Number of nexthop objects of the current generation.
    #[must_use]
    pub fn nexthop_count(&self) -> usize {
        self.epochs.back().map_or(0, |epoch| epoch.nexthops.len())
    }

    /// Whether nothing was learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was ignored, by reason, since the start.
    #[must_use]
    pub fn ignored(&self) -> Ignored {
        self.ignored
    }

    /// Gateways that the nexthop objects of all kept generations name: (interface, gateway).
    pub fn gateways(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        let objects =
            self.epochs.iter().flat_map(|epoch| epoch.nexthops.values()).filter_map(|body| match body {
                NexthopBody::Single(hop) => Some((hop.ifindex?.0, hop.gateway?)),
                _ => None,
            });
        let inline = self.details.iter().flat_map(|detail| match &detail.nexthops {
            DetailNexthops::Inline(hops) => hops.as_slice(),
            _ => &[],
        });
        objects.chain(inline.filter_map(|(hop, _)| Some((hop.ifindex, hop.gateway?))))
    }
}

/// The table of a route. Protobuf names a VRF instead, and the old module's deletes name nothing: zebra's default
/// VRF is main.
fn table_of(key: &RouteKey) -> u32 {
    if key.table == TableId::UNSPEC { TableId::MAIN.0 } else { key.table.0 }
}

fn announced_hop((hop, weight): &WeightedHop) -> zebra_fpm::Nexthop {
    let plain = zebra_fpm::Nexthop::new(hop.gateway, Some(IfIndex(hop.ifindex)));
    zebra_fpm::Nexthop { weight: *weight, onlink: hop.onlink, ..plain }
}
