//! What all routes of the node, whoever made them, tell steering: gateways, interfaces that lead away, defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::ControlFlow;

use ipnet::IpNet;
use rustc_hash::FxHashSet;

use crate::kernel::KernelError;
use crate::kernel::dump::{RouteFilter, dump_nexthops, visit_routes_behind};
use crate::kernel::gate::Gate;
use crate::model::{Family, Hop, KernelRoute, NexthopBody, NexthopId, RouteTarget};

/// Interfaces and gateways at most that a survey lists; more do not fit the programs' maps anyway.
const MAX_GATEWAYS: usize = 4096;

/// The result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) gateways: BTreeMap<(u32, Family), BTreeSet<IpAddr>>,
    pub(super) carrying: BTreeSet<u32>,
    pub(super) defaults: BTreeSet<(u32, Family)>,
    /// Prefixes of the tables that `Observe` imports compare with.
    pub(super) observed: BTreeMap<u32, FxHashSet<IpNet>>,
}

/// Dumps and sums up. Blocking; about a second for a million routes.
///
/// `own` is our protocol and `sink` our own device: neither our default to the sink nor its routes count.
///
/// # Errors
/// When the kernel refuses a dump.
pub(super) fn survey(observe: &BTreeSet<u32>, sink: Option<u32>, gate: &Gate) -> Result<Survey, KernelError> {
    let objects: BTreeMap<NexthopId, NexthopBody> =
        dump_nexthops(None)?.into_iter().map(|object| (object.id, object.body)).collect();
    let mut survey = Survey::default();
    for table in observe {
        survey.observed.insert(*table, FxHashSet::default());
    }
    // Thousands of routes share an object: each is looked at once for each family.
    let mut seen: FxHashSet<(NexthopId, Family)> = FxHashSet::default();
    visit_routes_behind(gate, RouteFilter::default(), &mut |route| {
        if let Some(prefixes) = survey.observed.get_mut(&route.key.table) {
            prefixes.insert(route.key.prefix);
        }
        let default = route.key.prefix.prefix_len() == 0;
        if let RouteTarget::Nexthop(id) = route.target
            && !default
            && !seen.insert((id, Family::of(&route.key.prefix)))
        {
            return ControlFlow::Continue(());
        }
        note(&mut survey, &route, &objects, sink);
        ControlFlow::Continue(())
    })?;
    Ok(survey)
}

fn note(
    survey: &mut Survey,
    route: &KernelRoute,
    objects: &BTreeMap<NexthopId, NexthopBody>,
    sink: Option<u32>,
) {
    let family = Family::of(&route.key.prefix);
    let mut leads = false;
    let mut hop = |hop: &Hop| {
        if Some(hop.ifindex) == sink {
            return;
        }
        leads = true;
        if let Some(gateway) = hop.gateway {
            survey.carrying.insert(hop.ifindex);
            if survey.gateways.len() < MAX_GATEWAYS {
                survey.gateways.entry((hop.ifindex, family)).or_default().insert(gateway);
            }
        } else if route.key.prefix.prefix_len() == 0 {
            // A default without a gateway: a point-to-point link that leads away.
            survey.carrying.insert(hop.ifindex);
        }
    };
    match &route.target {
        RouteTarget::Inline(hops) => hops.iter().for_each(|(it, _)| hop(it)),
        RouteTarget::Nexthop(id) => match objects.get(id) {
            Some(NexthopBody::Single(single)) => hop(single),
            Some(NexthopBody::Group(members) | NexthopBody::Resilient(members, _)) => {
                for member in members {
                    if let Some(NexthopBody::Single(single)) = objects.get(&member.id) {
                        hop(single);
                    }
                }
            }
            _ => {}
        },
        RouteTarget::Special(_) => {}
    }
    if leads && route.key.prefix.prefix_len() == 0 {
        survey.defaults.insert((route.key.table, family));
    }
}
