//! What another plan would change, without changing anything.

use std::collections::BTreeMap;

use super::bodies::{Body, BodyTarget};
use super::{Engine, INSTALLED};
use crate::model::{Family, Hop, RouteKey, RouteTarget, Special};
use crate::plan::Plan;
use crate::rib::{HopSet, Resolved, canonical};
use crate::status::rows::{Change, PlanRow};

/// Where a route leads, in words and in a form that compares.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    hops: Vec<(Hop, u32)>,
    special: Option<Special>,
}

impl Engine {
    /// The changes of routes that `plan` would bring, sorted by key. `name` tells the names of interfaces.
    #[must_use]
    pub fn preview(&self, plan: &Plan, name: impl Fn(u32) -> Option<String>) -> Vec<PlanRow> {
        let desired = self.desired_by(plan);
        let current = self.current();
        let mut rows = Vec::new();
        for (key, (content, owner)) in &desired {
            let before = current.get(key);
            if before == Some(content) {
                continue;
            }
            rows.push(PlanRow {
                change: if before.is_some() { Change::Replace } else { Change::Add },
                kind: "route".to_owned(),
                object: key.to_string(),
                before: before.map(|content| words(content, &name)),
                after: Some(words(content, &name)),
                owner: Some(owner.clone()),
            });
        }
        for (key, content) in current.iter().filter(|(key, _)| !desired.contains_key(key)) {
            rows.push(PlanRow {
                change: Change::Delete,
                kind: "route".to_owned(),
                object: key.to_string(),
                before: Some(words(content, &name)),
                after: None,
                owner: None,
            });
        }
        rows
    }

    fn current(&self) -> BTreeMap<RouteKey, Content> {
        let installed = self.entries.iter().filter(|(_, _, entry)| entry.flags & INSTALLED != 0);
        let content = |body: &Body| match &body.target {
            BodyTarget::Group(group) => Content {
                hops: self.nexthops.set(*group).map_or(Vec::new(), |set| set.to_vec()),
                special: None,
            },
            BodyTarget::Inline(hops) => {
                Content { hops: hops.iter().map(|(hop, w)| (*hop, u32::from(*w))).collect(), special: None }
            }
            BodyTarget::Special(kind) => Content { hops: Vec::new(), special: Some(*kind) },
            BodyTarget::Foreign(_) => Content { hops: Vec::new(), special: None },
        };
        installed
            .filter_map(|(target, prefix, entry)| {
                Some((self.route_key((target, prefix)), content(self.bodies.get(entry.body)?)))
            })
            .collect()
    }

    fn desired_by(&self, plan: &Plan) -> BTreeMap<RouteKey, (Content, String)> {
        let mut desired = BTreeMap::new();
        for (table, prefix, learned) in self.rib.iter() {
            for (_, import) in plan.imports_from(table) {
                let announced = |other: &ipnet::IpNet| self.rib.get(table, other).is_some();
                let taken = import.import.program
                    && import.blocked.is_none()
                    && plan.accepts(import, &prefix, learned.protocol, announced).is_ok();
                if !taken {
                    continue;
                }
                let (hops, special) = match self.rib.resolve(learned, Family::of(&prefix)) {
                    Resolved::Hops(hops) => (import.hops(&hops), None),
                    Resolved::Special(kind) => (HopSet::new(), Some(kind)),
                    Resolved::Unresolved(_) => continue,
                };
                if hops.is_empty() && special.is_none() {
                    continue;
                }
                let (table, metric) = import.target(&prefix);
                let owner = import.import.owners.first().map(ToString::to_string).unwrap_or_default();
                let (content, _) = desired
                    .entry(RouteKey { table, prefix, metric })
                    .or_insert_with(|| (Content { hops: Vec::new(), special }, owner));
                content.hops.extend(hops);
                content.hops = canonical(content.hops.iter().copied().collect()).to_vec();
            }
        }
        for (key, fixed) in &plan.static_routes {
            let content = match &fixed.route.target {
                RouteTarget::Inline(hops) => Content {
                    hops: hops.iter().map(|(hop, w)| (*hop, u32::from(*w))).collect(),
                    special: None,
                },
                RouteTarget::Special(kind) => Content { hops: Vec::new(), special: Some(*kind) },
                RouteTarget::Nexthop(_) => continue,
            };
            desired.insert(*key, (content, fixed.owner.to_string()));
        }
        desired
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
