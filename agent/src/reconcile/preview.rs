//! What another plan would change, without changing anything.

use ipnet::IpNet;

use super::bodies::{Body, BodySlot, BodyTarget};
use super::{ADOPTED, Engine, INSTALLED};
use crate::api::ChangeCounts;
use crate::intent::types::ObjectRef;
use crate::model::{Family, Hop, RouteKey, RouteTarget, Special};
use crate::plan::{ImportPlan, Plan, StaticRoute};
use crate::rib::{HopSet, Learned, Resolved, canonical};
use crate::status::rows::{Change, PlanRow};

/// Where a route leads, in a form that compares.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    hops: HopSet,
    special: Option<Special>,
}

/// What a plan wants at a key.
enum Wish<'a> {
    Route(Content, Option<&'a ObjectRef>),
    Nothing,
    /// Whatever is there: FRR's last word on it is not known yet.
    Keep,
}

/// A route that would change: what it is, what it would be, and who asks for that.
struct Difference<'a> {
    key: RouteKey,
    before: Option<Content>,
    after: Option<(Content, Option<&'a ObjectRef>)>,
}

impl Difference<'_> {
    fn change(&self) -> Change {
        match (&self.before, &self.after) {
            (None, _) => Change::Add,
            (_, None) => Change::Delete,
            _ => Change::Replace,
        }
    }
}

/// Routes that imports have taken while differences are looked for: what the limits count.
struct Taken {
    each: Vec<u64>,
    all: u64,
}

impl Taken {
    /// Whether there is room for one more; if so it is taken.
    fn one(&mut self, index: u16, import: &ImportPlan, plan: &Plan) -> bool {
        let Some(taken) = self.each.get_mut(usize::from(index)) else { return false };
        let room = *taken < import.import.max_routes && self.all < plan.max_routes_per_node;
        *taken += u64::from(room);
        self.all += u64::from(room);
        room
    }
}

impl Engine {
    /// The changes of routes that `plan` would bring, sorted by key. `name` tells the names of interfaces.
    #[must_use]
    pub fn preview(&self, plan: &Plan, name: impl Fn(u32) -> Option<String>) -> Vec<PlanRow> {
        let mut rows = Vec::new();
        self.differences(plan, |difference| {
            let row = PlanRow {
                change: difference.change(),
                kind: "route".to_owned(),
                object: difference.key.to_string(),
                before: difference.before.as_ref().map(|content| words(content, &name)),
                after: difference.after.as_ref().map(|(content, _)| words(content, &name)),
                owner: difference.after.and_then(|(_, owner)| owner).map(ToString::to_string),
            };
            rows.push((difference.key, row));
        });
        rows.sort_by_key(|(key, _)| *key);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// How many routes the plan in force would change.
    #[must_use]
    pub fn would_change(&self) -> ChangeCounts {
        let mut counts = ChangeCounts::default();
        self.differences(&self.plan, |difference| match difference.change() {
            Change::Add => counts.add += 1,
            Change::Replace => counts.replace += 1,
            Change::Delete => counts.delete += 1,
        });
        counts
    }

    fn differences<'a>(&self, plan: &'a Plan, mut visit: impl FnMut(Difference<'a>)) {
        let held: &[bool] = if plan.judges_like(&self.plan) { &self.held } else { &[] };
        let mut taken = Taken { each: vec![0; plan.imports.len()], all: 0 };
        // What is in the kernel comes first, and so keeps its place under `maxRoutes`.
        for (_, key, entry) in self.held() {
            let key = self.route_key(key);
            let installed = entry.flags & INSTALLED != 0;
            let before =
                installed.then(|| self.bodies.get(entry.body)).flatten().map(|body| self.content(body));
            match self.wish(plan, held, key, entry.flags & ADOPTED != 0, &mut taken) {
                Wish::Route(content, _) if before.as_ref() == Some(&content) => {}
                Wish::Route(content, _) if installed && self.comes_to(entry.body, &content) => {}
                Wish::Route(content, _) if before.is_none() && !self.can_be_made(&content) => {}
                Wish::Route(content, owner) => {
                    visit(Difference { key, before, after: Some((content, owner)) });
                }
                Wish::Nothing if before.is_some() => visit(Difference { key, before, after: None }),
                Wish::Nothing | Wish::Keep => {}
            }
        }
        let mut add = |key: RouteKey| {
            if let Wish::Route(content, owner) = self.wish(plan, held, key, false, &mut taken)
                && self.can_be_made(&content)
            {
                visit(Difference { key, before: None, after: Some((content, owner)) });
            }
        };
        let known = |key: &RouteKey| self.held_at(key.table, key.metric, &key.prefix).is_some();
        for (_, table, prefix, _) in self.rib.iter() {
            for (index, import) in plan.imports_from(table) {
                let (table, metric) = import.target(&prefix);
                let key = RouteKey { table, prefix, metric };
                // Of several imports that lead to one key the first one stands for all.
                let first = self.sources(plan, key).next().is_some_and(|(first, ..)| first == index);
                if first && !known(&key) && !plan.static_routes.contains_key(&key) {
                    add(key);
                }
            }
        }
        plan.static_routes.keys().filter(|key| !known(key)).for_each(|key| add(*key));
    }

    /// Whether a route with this body stays for one with this content, as things are.
    fn comes_to(&self, body: BodySlot, content: &Content) -> bool {
        self.group_of(body).is_some_and(|group| self.nexthops.comes_to(group, &content.hops))
    }

    /// Whether any of its ways out exists now.
    fn can_be_made(&self, content: &Content) -> bool {
        content.hops.is_empty() || content.hops.iter().any(|(hop, _)| self.nexthops.is_usable(hop.ifindex))
    }

    fn content(&self, body: &Body) -> Content {
        let hops = match &body.target {
            BodyTarget::Group(group) => {
                self.nexthops.set(*group).map(|paths| paths.hops.clone()).unwrap_or_default()
            }
            BodyTarget::Inline(hops) => hops.iter().map(|(hop, w)| (*hop, u32::from(*w))).collect(),
            BodyTarget::Special(kind) => return Content { hops: HopSet::new(), special: Some(*kind) },
            BodyTarget::Foreign(_) => HopSet::new(),
        };
        Content { hops, special: None }
    }

    /// The imports of `plan` that may give a key something, with what FRR announced to them.
    fn sources<'a>(
        &self,
        plan: &'a Plan,
        key: RouteKey,
    ) -> impl Iterator<Item = (u16, &'a ImportPlan, Learned)> {
        plan.imports_into(key.table, key.metric).filter_map(move |(index, import)| {
            let waits = import.waits && self.held_at(key.table, key.metric, &key.prefix).is_none();
            let programs = import.writes_to(key.table, key.metric, &key.prefix) && !waits;
            let learned = self.rib.get(import.import.from_table, &key.prefix).filter(|_| programs)?;
            Some((index, import, learned))
        })
    }

    fn wish<'a>(
        &self,
        plan: &'a Plan,
        held: &[bool],
        key: RouteKey,
        adopted: bool,
        taken: &mut Taken,
    ) -> Wish<'a> {
        if let Some(fixed) = plan.static_routes.get(&key) {
            return fixed_content(fixed)
                .map_or(Wish::Keep, |content| Wish::Route(content, Some(&fixed.owner)));
        }
        let is_held = |index: u16| held.get(usize::from(index)).copied().unwrap_or(false);
        let (mut hops, mut special, mut owner, mut unresolved) = (HopSet::new(), None, None, false);
        for (index, import, learned) in self.sources(plan, key) {
            let announced = |other: &IpNet| self.rib.get(import.import.from_table, other).is_some();
            let current = learned.generation == self.rib.generation() || is_held(index);
            let accepted = plan.accepts(import, &key.prefix, learned.protocol, announced).is_ok();
            if !current || !accepted || !taken.one(index, import, plan) {
                continue;
            }
            match self.rib.resolve(&learned, Family::of(&key.prefix)) {
                Resolved::Hops(found) => hops.extend(import.hops(&found)),
                Resolved::Special(kind) => special = special.max(Some(kind)),
                Resolved::Unresolved(_) => unresolved = true,
            }
            owner = owner.or(import.import.owners.first());
        }
        if !hops.is_empty() {
            return Wish::Route(Content { hops: canonical(hops), special: None }, owner);
        }
        let doubt = || {
            let mut imports = plan.imports_into(key.table, key.metric);
            imports
                .any(|(index, import)| is_held(index) && import.writes_to(key.table, key.metric, &key.prefix))
        };
        match special {
            Some(_) => Wish::Route(Content { hops, special }, owner),
            None if unresolved || (adopted && doubt()) => Wish::Keep,
            None => Wish::Nothing,
        }
    }
}

fn fixed_content(fixed: &StaticRoute) -> Option<Content> {
    match &fixed.route.target {
        RouteTarget::Inline(hops) => {
            let hops = hops.iter().map(|(hop, w)| (*hop, u32::from(*w))).collect();
            Some(Content { hops, special: None })
        }
        RouteTarget::Special(kind) => Some(Content { hops: HopSet::new(), special: Some(*kind) }),
        RouteTarget::Nexthop(_) => None,
    }
}

fn words(content: &Content, name: impl Fn(u32) -> Option<String>) -> String {
    if let Some(kind) = content.special {
        return format!("{kind:?}").to_lowercase();
    }
    let hop = |(hop, weight): &(Hop, u32)| {
        let dev = name(hop.ifindex).unwrap_or_else(|| format!("if{}", hop.ifindex));
        let via = hop.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
        let weight = if *weight > 1 { format!(" weight {weight}") } else { String::new() };
        format!("{via}dev {dev}{weight}")
    };
    content.hops.iter().map(hop).collect::<Vec<_>>().join(" ")
}
