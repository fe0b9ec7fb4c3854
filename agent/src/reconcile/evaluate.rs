//! What a single key should be, and the operation that makes it so.

use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::bodies::{Body, BodySlot, BodyTarget, NO_BODY};
use super::nexthops::{GroupSlot, Paths};
use super::{ADOPTED, CHANGED, DIRTY, Engine, Entry, FAILED, IN_FLIGHT, INSTALLED, Key, Ops, Pending, View};
use crate::model::ops::RouteOp;
use crate::model::{Family, RouteTarget, Special};
use crate::plan::{ImportPlan, Rejection};
use crate::rib::{Answer, HopSet, Learned, LearnedTarget, Resolved, Slot, canonical};

/// What should be at a key.
pub(super) enum Desired {
    /// A route with this body, from these imports.
    Route(BodySlot, SmallVec<[u16; 2]>),
    /// Nothing.
    Nothing,
    /// Whatever is there: FRR's last word on it is not known yet.
    Keep,
    /// Whatever is there, though it should be another route: all nexthop ids are in use.
    NoId,
}

/// What FRR's word comes to, for one key or one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This body.
    Body(BodySlot),
    /// Its nexthops are not known (yet).
    Unresolved,
    /// Nothing that may be programmed.
    Nothing,
    /// A group for which there is no id.
    NoId,
}

impl Outcome {
    pub(super) fn body(self) -> Option<BodySlot> {
        match self {
            Self::Body(body) => Some(body),
            Self::Unresolved | Self::Nothing | Self::NoId => None,
        }
    }
}

/// What one import gives a key.
pub(super) struct Offer {
    import: u16,
    learned: Learned,
}

impl Engine {
    /// Brings one entry to what it should be: the operation, if one is needed.
    pub(super) fn reconcile(&mut self, slot: Slot, ops: &mut Ops, now: Instant) {
        self.edit(slot, |entry| entry.flags &= !DIRTY);
        let Some((target, prefix, entry)) = self.rib.entry(slot) else { return };
        let key = (target, prefix);
        let mut taken = None;
        match self.desired(slot, key, &entry) {
            Desired::Keep if entry.is_held() => self.reinstall(slot, key, entry, ops),
            Desired::Keep => {}
            Desired::NoId => {
                if entry.is_held() {
                    self.reinstall(slot, key, entry, ops);
                }
                self.starve(slot, now);
            }
            Desired::Nothing => self.remove(slot, key, entry, ops),
            Desired::Route(body, imports) => {
                taken = sole(&imports);
                // Groups that this route needs come first.
                self.emit_nexthops(ops, now);
                if self.stays(&entry, body) {
                    let entry = self.confirm(slot, entry, body, &imports);
                    self.reinstall(slot, key, entry, ops);
                } else {
                    let contribution = self.count(&entry, &imports);
                    self.install(slot, key, Entry { contribution, ..entry }, body, ops);
                }
            }
        }
        self.judge(slot, key, taken);
        self.evaluated(slot, key);
        self.tidy(slot);
    }

    /// Whether what FRR announced is what stands in the kernel: then nothing is queued. The usual case of a replay.
    pub(super) fn stands(&mut self, slot: Slot) -> bool {
        const SETTLED: u8 = INSTALLED | IN_FLIGHT | DIRTY | FAILED;
        let Some((target, prefix, entry)) = self.rib.entry(slot) else { return false };
        // While nexthops change, what routes come to is not known.
        if entry.flags & SETTLED != INSTALLED || !self.changed_ids.is_empty() {
            return false;
        }
        let key = (target, prefix);
        match self.desired(slot, key, &entry) {
            Desired::Route(body, imports) if self.stays(&entry, body) => {
                self.confirm(slot, entry, body, &imports);
                self.judge(slot, key, sole(&imports));
                self.evaluated(slot, key);
                true
            }
            _ => false,
        }
    }

    /// The route that is held is the one that should be.
    fn confirm(&mut self, slot: Slot, entry: Entry, body: BodySlot, imports: &SmallVec<[u16; 2]>) -> Entry {
        self.note_alias(entry.body, body);
        let contribution = self.count(&entry, imports);
        let entry = Entry { contribution, flags: entry.flags & !ADOPTED, ..entry };
        self.set_entry(slot, entry);
        entry
    }

    fn set_entry(&mut self, slot: Slot, entry: Entry) {
        self.edit(slot, |place| *place = entry);
    }

    /// Puts back a route that the kernel lost, if its way out exists.
    fn reinstall(&mut self, slot: Slot, key: Key, entry: Entry, ops: &mut Ops) {
        if entry.flags & INSTALLED == 0 {
            self.install(slot, key, entry, entry.body, ops);
        } else {
            self.forgive(slot);
        }
    }

    /// Puts a body in, in the place of what `entry` holds; its contribution is counted already.
    fn install(&mut self, slot: Slot, key: Key, entry: Entry, body: BodySlot, ops: &mut Ops) {
        let installed = entry.flags & INSTALLED != 0;
        let old = entry.is_held().then_some(entry.body);
        if !self.has_way_out(body) {
            self.waiting.insert(body);
            if installed {
                // What stands there is no longer FRR's word. Once it is gone, the key comes back and waits.
                self.remove(slot, key, Entry { flags: entry.flags | DIRTY, ..entry }, ops);
            } else if old != Some(body) {
                self.bodies.reference(body);
                old.into_iter().for_each(|old| self.bodies.release(old));
                self.set_entry(slot, Entry { body, flags: entry.flags & (FAILED | CHANGED), ..entry });
            }
            return;
        }
        let Some(route) = self.bodies.route(self.route_key(key), body, &self.nexthops, self.protocol) else {
            return;
        };
        let op = if installed { RouteOp::ReplaceRoute(route) } else { RouteOp::AddRoute(route) };
        self.bodies.reference(body);
        ops.push(op, Pending::Route { slot, old, installed });
        // What is put back as it was FRR has still not confirmed.
        let kept = if old == Some(body) { FAILED | ADOPTED } else { FAILED };
        let flags = INSTALLED | IN_FLIGHT | CHANGED | (entry.flags & kept);
        self.set_entry(slot, Entry { body, flags, ..entry });
    }

    pub(super) fn has_way_out(&self, body: BodySlot) -> bool {
        match self.bodies.get(body).map(|body| &body.target) {
            Some(BodyTarget::Group(group)) => self.nexthops.is_present(*group),
            Some(_) => true,
            None => false,
        }
    }

    fn remove(&mut self, slot: Slot, key: Key, entry: Entry, ops: &mut Ops) {
        self.forgive(slot);
        if !entry.is_held() {
            return;
        }
        if entry.flags & INSTALLED == 0 {
            self.vacate(slot);
            return;
        }
        let Some(route) = self.bodies.route(self.route_key(key), entry.body, &self.nexthops, self.protocol)
        else {
            return;
        };
        ops.push(RouteOp::DelRoute(route), Pending::Delete(slot));
        let flags = (entry.flags & !FAILED) | IN_FLIGHT | CHANGED;
        self.set_entry(slot, Entry { flags, ..entry });
    }

    /// Nothing is held here any more.
    pub(super) fn vacate(&mut self, slot: Slot) {
        let Some((_, _, entry)) = self.rib.entry(slot).filter(|(.., entry)| entry.is_held()) else { return };
        self.bodies.release(entry.body);
        self.uncount(entry.contribution);
        let flags = entry.flags & (DIRTY | FAILED | CHANGED);
        self.set_entry(slot, Entry { body: NO_BODY, contribution: 0, flags });
    }

    // ===== what should be =====

    fn desired(&mut self, slot: Slot, key: Key, entry: &Entry) -> Desired {
        let route_key = self.route_key(key);
        if let Some(fixed) = self.plan.static_routes.get(&route_key) {
            let route = &fixed.route;
            let target = match &route.target {
                RouteTarget::Inline(hops) => BodyTarget::Inline(hops.clone()),
                RouteTarget::Special(kind) => BodyTarget::Special(*kind),
                RouteTarget::Nexthop(id) => BodyTarget::Foreign(*id),
            };
            let (preferred_source, mtu, scope_link) = (route.preferred_source, route.mtu, route.scope_link);
            let body = Body { target, preferred_source, mtu, scope_link };
            return Desired::Route(self.bodies.intern(&body, &mut self.nexthops), SmallVec::new());
        }
        let (offers, doubt) = self.offers(slot, key, entry);
        let adopted = entry.flags & ADOPTED != 0;
        let now = self.group_of(entry.body);
        match self.combine(key, &offers, now) {
            (Outcome::Body(body), imports) => Desired::Route(body, imports),
            // FRR may announce the nexthop yet (fpm.md rule 5): what was programmed stays.
            (Outcome::Unresolved, _) => Desired::Keep,
            (Outcome::NoId, _) => Desired::NoId,
            (Outcome::Nothing, _) if adopted && doubt => Desired::Keep,
            (Outcome::Nothing, _) => Desired::Nothing,
        }
    }

    /// The imports that give this key something; and whether one of them may not have had its say yet.
    fn offers(&mut self, slot: Slot, key: Key, entry: &Entry) -> (SmallVec<[Offer; 2]>, bool) {
        let (table, metric) = self.targets.get(usize::from(key.0)).copied().unwrap_or_default();
        let counted = self.contribution(entry.contribution);
        let current = self.rib.generation();
        let mut offers: SmallVec<[Offer; 2]> = SmallVec::new();
        let (mut doubt, mut hit_limit) = (false, SmallVec::<[(u16, Slot); 2]>::new());
        for (index, import) in self.plan.imports_into(table, metric) {
            if !import.writes_to(table, metric, &key.1) || (import.waits && !entry.is_held()) {
                continue;
            }
            let held = self.held.get(usize::from(index)).copied().unwrap_or(false);
            let Some((at, learned)) = self.rib.learned_from(slot, import.import.from_table) else {
                doubt |= held;
                continue;
            };
            if learned.generation != current && !held {
                continue;
            }
            if self.plan.accepts(import, &key.1, learned.protocol, self.announced(import)).is_err() {
                continue;
            }
            if !counted.contains(&index) && self.is_full(index, import) {
                hit_limit.push((index, at));
                // While an earlier agent's routes are confirmed, those in the kernel go before new ones.
                continue;
            }
            offers.push(Offer { import: index, learned });
        }
        for (index, at) in hit_limit {
            self.turn_away(index, at);
        }
        (offers, doubt)
    }

    fn announced<'a>(&'a self, import: &'a ImportPlan) -> impl Fn(&ipnet::IpNet) -> bool + 'a {
        |other| self.rib.get(import.import.from_table, other).is_some()
    }

    pub(super) fn is_full(&self, index: u16, import: &ImportPlan) -> bool {
        self.room_for(index, import) == 0
    }

    /// Unites what the imports offer.
    fn combine(
        &mut self,
        key: Key,
        offers: &[Offer],
        now: Option<GroupSlot>,
    ) -> (Outcome, SmallVec<[u16; 2]>) {
        if let [offer] = offers
            && let LearnedTarget::Nexthop(id) = offer.learned.target
        {
            return (self.by_view(key, offer, id, now), SmallVec::from_slice(&[offer.import]));
        }
        let (mut hops, mut special, mut unresolved) = (HopSet::new(), None, false);
        let (mut source, mut mtu, mut inline, mut resilient) = (None, None, false, None);
        let mut imports = SmallVec::new();
        for offer in offers {
            self.note_direct(&offer.learned);
            let Some(import) = self.plan.imports.get(usize::from(offer.import)) else { continue };
            match self.rib.resolve(&offer.learned, Family::of(&key.1)) {
                Resolved::Hops(found) => hops.extend(import.hops(&found)),
                Resolved::Special(kind) => special = special.max(Some(kind)),
                Resolved::Unresolved(_) => {
                    unresolved = true;
                    continue;
                }
            }
            let detail = match offer.learned.target {
                LearnedTarget::Detail(slot) => self.rib.detail(slot),
                _ => None,
            };
            source = source.or(import.source(&key.1)).or(detail.and_then(|d| d.preferred_source));
            mtu = mtu.or(detail.and_then(|d| d.mtu));
            inline |= import.inline(&key.1);
            resilient = resilient.or(import.resilience());
            imports.push(offer.import);
        }
        let target = match self.target(&Paths { hops: canonical(hops), resilient }, special, inline, now) {
            Ok(target) => target,
            Err(Outcome::Nothing) if unresolved => return (Outcome::Unresolved, imports),
            Err(outcome) => return (outcome, imports),
        };
        if let BodyTarget::Group(group) = target {
            self.shared_groups.insert(group);
        }
        let body = Body { target, preferred_source: source, mtu, scope_link: false };
        (Outcome::Body(self.bodies.intern(&body, &mut self.nexthops)), imports)
    }

    fn target(
        &mut self,
        paths: &Paths,
        special: Option<Special>,
        inline: bool,
        now: Option<GroupSlot>,
    ) -> Result<BodyTarget, Outcome> {
        if paths.hops.is_empty() {
            return special.map(BodyTarget::Special).ok_or(Outcome::Nothing);
        }
        if inline {
            let weight = |weight: u32| u16::try_from(weight).unwrap_or(u16::MAX);
            return Ok(BodyTarget::Inline(paths.hops.iter().map(|(hop, w)| (*hop, weight(*w))).collect()));
        }
        self.nexthops.intern(paths, now).map(BodyTarget::Group).ok_or(Outcome::NoId)
    }

    fn note_direct(&mut self, learned: &Learned) {
        match learned.target {
            LearnedTarget::Nexthop(id) => {
                self.direct_ids.insert(id);
            }
            LearnedTarget::Detail(slot) => {
                if let Some(crate::rib::DetailNexthops::Id(id)) =
                    self.rib.detail(slot).map(|detail| &detail.nexthops)
                {
                    self.direct_ids.insert(*id);
                }
            }
            LearnedTarget::Special(_) => {}
        }
    }

    /// The common case: one import, one FRR nexthop id. Thousands of routes share the answer.
    fn by_view(&mut self, key: Key, offer: &Offer, id: u32, now: Option<GroupSlot>) -> Outcome {
        let Some(import) = self.plan.imports.get(usize::from(offer.import)) else { return Outcome::Nothing };
        let inline = import.inline(&key.1);
        let v6 = key.1.addr().is_ipv6();
        let view = View { import: offer.import, generation: offer.learned.generation, id, v6 };
        if !inline && let Some(outcome) = self.views.get(&view) {
            return *outcome;
        }
        let preferred_source = import.source(&key.1);
        let (hops, special, resolved) = match self.rib.resolve(&offer.learned, Family::of(&key.1)) {
            Resolved::Hops(hops) => (import.hops(&hops), None, true),
            Resolved::Special(kind) => (HopSet::new(), Some(kind), true),
            Resolved::Unresolved(_) => (HopSet::new(), None, false),
        };
        let outcome = match self.target(&Paths { hops, resilient: import.resilience() }, special, inline, now)
        {
            Ok(target) => {
                let body = Body { preferred_source, ..Body::plain(target) };
                Outcome::Body(self.bodies.intern(&body, &mut self.nexthops))
            }
            Err(Outcome::Nothing) if !resolved => Outcome::Unresolved,
            Err(outcome) => outcome,
        };
        if inline {
            self.direct_ids.insert(id);
        } else {
            // Ids come free without a word of FRR.
            if outcome != Outcome::NoId {
                self.views.insert(view, outcome);
            }
            let known = self.views_of.entry(id).or_default();
            if !known.contains(&view) {
                known.push(view);
            }
        }
        outcome
    }

    // ===== nexthop objects =====

    /// FRR's nexthop objects changed. Where all users of a group move together, the group is changed in place: one
    /// message, however many routes. Otherwise the routes concerned are looked at again.
    pub(super) fn nexthops_changed(&mut self, now: Instant) {
        let ids = std::mem::take(&mut self.changed_ids);
        let mut revisit: FxHashSet<u32> =
            ids.iter().copied().filter(|id| self.direct_ids.contains(id)).collect();
        let mut moves: FxHashMap<Option<BodySlot>, Vec<(View, Option<Paths>)>> = FxHashMap::default();
        for id in &ids {
            for view in self.views_of.get(id).into_iter().flatten() {
                let Some(outcome) = self.views.get(view) else {
                    revisit.insert(*id);
                    continue;
                };
                let old = outcome.body();
                let new = self.view_set(*view);
                let old_set = old.and_then(|body| self.group_set(body));
                if new.as_ref() != old_set {
                    moves.entry(old).or_default().push((*view, new));
                }
            }
        }
        for (old, views) in moves {
            if let Some(old) = old
                && self.move_together(old, &views)
            {
                continue;
            }
            for (view, _) in views {
                self.views.remove(&view);
                revisit.insert(view.id);
            }
        }
        if !revisit.is_empty() {
            self.revisit(&revisit, now);
        }
    }

    fn group_set(&self, body: BodySlot) -> Option<&Paths> {
        self.nexthops.set(self.group_of(body)?)
    }

    pub(super) fn view_set(&self, view: View) -> Option<Paths> {
        let import = self.plan.imports.get(usize::from(view.import))?;
        let target = LearnedTarget::Nexthop(view.id);
        let learned = Learned { target, protocol: 0, generation: view.generation, answer: Answer::default() };
        let family = if view.v6 { Family::Ipv6 } else { Family::Ipv4 };
        match self.rib.resolve(&learned, family) {
            Resolved::Hops(hops) => {
                let hops = import.hops(&hops);
                (!hops.is_empty()).then(|| Paths { hops, resilient: import.resilience() })
            }
            _ => None,
        }
    }

    fn move_together(&mut self, old: BodySlot, moved: &[(View, Option<Paths>)]) -> bool {
        let Some(BodyTarget::Group(group)) = self.bodies.get(old).map(|body| body.target.clone()) else {
            return false;
        };
        let Some((_, Some(set))) = moved.first() else { return false };
        let same = moved.iter().all(|(_, other)| other.as_ref() == Some(set));
        let uses =
            |body: BodySlot| self.bodies.get(body).is_some_and(|b| b.target == BodyTarget::Group(group));
        let stays = |(view, outcome): (&View, &Outcome)| {
            outcome.body().is_some_and(uses) && !moved.iter().any(|(other, _)| other == view)
        };
        // Routes outside any view may share the group: detailed and united ones, and stale ones of an older feed.
        let shared = self.shared_groups.contains(&group)
            || self.aliased_groups.contains(&group)
            || !self.nexthops.lodgers(group).is_empty()
            || !self.feed.is_synchronized();
        if !same || shared || self.views.iter().any(stays) {
            return false;
        }
        self.nexthops.replace(group, set)
    }

    /// Marks the routes whose nexthops come from these ids.
    fn revisit(&mut self, ids: &FxHashSet<u32>, now: Instant) {
        let current = self.rib.generation();
        let mut users = Vec::new();
        for (slot, table, prefix, learned) in self.rib.iter() {
            let id = match learned.target {
                LearnedTarget::Nexthop(id) => Some(id),
                LearnedTarget::Detail(slot) => {
                    self.rib.detail(slot).and_then(|detail| match detail.nexthops {
                        crate::rib::DetailNexthops::Id(id) => Some(id),
                        _ => None,
                    })
                }
                LearnedTarget::Special(_) => None,
            };
            if learned.generation == current && id.is_some_and(|id| ids.contains(&id)) {
                users.extend(self.plan.imports_from(table).map(|(_, import)| (slot, import.target(&prefix))));
            }
        }
        for (slot, target) in users {
            self.mark_beside(slot, target, now);
        }
    }

    /// Why an import does not take a learned route; `None` if it does.
    #[must_use]
    pub fn rejection(&self, import: &ImportPlan, index: u16, slot: Slot) -> Option<Rejection> {
        let (_, prefix, learned) = self.rib.at(slot)?;
        let (prefix, learned) = (&prefix, &learned);
        if let Err(reason) = self.plan.accepts(import, prefix, learned.protocol, self.announced(import)) {
            return Some(reason);
        }
        match self.rib.resolve(learned, Family::of(prefix)) {
            Resolved::Unresolved(_) => return Some(Rejection::Unresolved),
            Resolved::Hops(hops) if import.hops(&hops).is_empty() => return Some(Rejection::Interface),
            _ => {}
        }
        if !import.import.program {
            return None;
        }
        let held = self.held_beside(slot, import.target(prefix));
        if import.waits && held.is_none() {
            return Some(Rejection::Replay);
        }
        let counted = held.is_some_and(|(_, entry)| self.contribution(entry.contribution).contains(&index));
        self.limited.get(&index).filter(|_| !counted).map(|waiting| waiting.why)
    }
}

/// The only import that a route comes from.
fn sole(imports: &SmallVec<[u16; 2]>) -> Option<u16> {
    match imports.as_slice() {
        [import] => Some(*import),
        _ => None,
    }
}
