//! Merges `RouteImport`s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::claims::{Asker, Identities, Report, Who, dataplane_config, owners, settle};
use super::types::{
    Allowed, Config, DefaultRoute, DefaultRouteGuard, FeedLoss, HashPolicy, Import, Intent, OnLimit,
    PrefixMatch, Target,
};
use crate::api::{
    Action, AllowedMode, FeedLossPolicy, MultipathMode, PrefixSelector, RouteImportSpec, RouteProtocol,
};
use crate::model::TABLE_MAIN;
use crate::status::reason;

type Asking<'a> = Asker<'a, RouteImportSpec>;

/// What makes two imports one: source table, source interfaces, target table, metric.
type Key = (u32, BTreeSet<String>, u32, u32);

/// Nexthops at most where no object says.
const MAX_PATHS: u16 = 16;
/// How long routes outlive FRR where no object says.
const RETAIN: Duration = Duration::from_secs(120);

/// The imports of this node, by source table, target table and source interfaces.
pub(super) fn merge(
    asking: &[Asking<'_>],
    config: &Config,
    identities: &Identities,
    previous: Option<&Intent>,
    report: &mut Report,
) -> Vec<Import> {
    let mut by_key: BTreeMap<Key, Vec<&Asking<'_>>> = BTreeMap::new();
    for one in asking {
        let Some(table) = admit(one, identities, report) else { continue };
        let interfaces = one.spec.from.interfaces.iter().map(|i| i.0.clone()).collect();
        by_key.entry((one.spec.from.table, interfaces, table, one.spec.metric)).or_default().push(one);
    }
    let mut imports: Vec<_> = by_key
        .into_iter()
        .map(|(key, members)| {
            report.accept(members.iter().map(|m| &m.object));
            merge_one(key, &members, config, identities, previous, report)
        })
        .collect();
    imports.sort_by(|a, b| {
        (a.from_table, a.into.table, &a.from_interfaces, a.metric).cmp(&(
            b.from_table,
            b.into.table,
            &b.from_interfaces,
            b.metric,
        ))
    });
    imports
}

/// The table that an object's routes go into.
fn admit(one: &Asking<'_>, identities: &Identities, report: &mut Report) -> Option<u32> {
    let into = &one.spec.into;
    let Some(vrf) = &into.vrf else { return into.table.map(crate::api::TableRef::number) };
    match identities.check(&vrf.name, vrf.table) {
        Ok(()) => Some(vrf.table),
        Err(mismatch) => {
            report.conflict(
                &one.object,
                "into.vrf".into(),
                mismatch.reason,
                &mismatch.winner,
                mismatch.message,
            );
            None
        }
    }
}

fn merge_one(
    (from_table, from_interfaces, table, metric): Key,
    members: &[&Asking<'_>],
    config: &Config,
    identities: &Identities,
    previous: Option<&Intent>,
    report: &mut Report,
) -> Import {
    let old = previous.into_iter().flat_map(|p| &p.imports).find(|i| {
        i.from_table == from_table
            && i.from_interfaces == from_interfaces
            && i.into.table == table
            && i.metric == metric
    });
    let specs = || members.iter().map(|m| m.spec);
    let multipaths = || specs().filter_map(|s| s.multipath.as_ref());
    let single = old.map(|i| if i.max_paths == 1 { MultipathMode::Single } else { MultipathMode::Ecmp });
    let mode =
        install(members, "multipath.mode", single.as_ref(), |s| Some(s.multipath.as_ref()?.mode), report);
    let old_resilient = old.and_then(|i| i.resilient.as_ref());
    let resilient = install(
        members,
        "multipath.resilient",
        old_resilient,
        |s| s.multipath.as_ref()?.resilient.clone(),
        report,
    );
    let old_source = old.and_then(|i| i.preferred_source.as_ref());
    let preferred_source =
        install(members, "preferredSource", old_source, |s| s.preferred_source.as_ref().map(|a| a.0), report);
    let max_paths = match mode {
        Some(MultipathMode::Single) => 1,
        _ => multipaths().map(|m| m.max_paths).max().unwrap_or(MAX_PATHS),
    };
    Import {
        owners: owners(&members.iter().map(|m| m.who()).collect::<Vec<_>>()),
        from_table,
        from_interfaces,
        protocols: protocols(specs()),
        allowed: allowed(specs()),
        default_route: default_route(members, table, config, report),
        max_routes: specs().map(|s| s.max_routes).max().unwrap_or(0).min(config.max_routes_per_node),
        on_limit: specs().map(|s| s.on_limit).max().unwrap_or(OnLimit::RejectNew),
        into: Target { table, vrf: identities.name_of(table).map(str::to_owned) },
        program: specs().any(|s| s.action == Action::Program),
        metric,
        preferred_source,
        max_paths,
        resilient,
        on_feed_loss: feed_loss(specs()),
    }
}

/// A setting that must be equal where it is set.
fn install<V: PartialEq + std::fmt::Debug>(
    members: &[&Asking<'_>],
    item: &str,
    old: Option<&V>,
    of: impl Fn(&RouteImportSpec) -> Option<V>,
    report: &mut Report,
) -> Option<V> {
    let claims = members.iter().filter_map(|m| Some((m.who(), of(m.spec)?))).collect();
    let settled = settle(claims, old)?;
    for (loser, value) in &settled.losers {
        let winner = settled.winner.object;
        let message = format!(
            "{item} is {:?} in {winner}, and {value:?} here, for the same routes into the same table: use one value",
            settled.value
        );
        report.conflict(loser.object, item.to_owned(), reason::INSTALL_MISMATCH, winner, message);
    }
    Some(settled.value)
}

/// `rtm_protocol` numbers (FRR zebra/rt_netlink.h); empty means any.
fn protocols<'a>(specs: impl Iterator<Item = &'a RouteImportSpec>) -> BTreeSet<u8> {
    let mut union = BTreeSet::new();
    for spec in specs {
        let asked = &spec.from.protocols;
        if asked.is_empty() || asked.contains(&RouteProtocol::Any) {
            return BTreeSet::new();
        }
        union.extend(asked.iter().flat_map(|protocol| numbers(*protocol)));
    }
    union
}

fn numbers(protocol: RouteProtocol) -> &'static [u8] {
    match protocol {
        RouteProtocol::BGP => &[186],
        RouteProtocol::ISIS => &[187],
        RouteProtocol::OSPF => &[188],
        RouteProtocol::RIP => &[189, 190],
        RouteProtocol::Static => &[196],
        RouteProtocol::Any => &[],
    }
}

fn allowed<'a>(specs: impl Iterator<Item = &'a RouteImportSpec>) -> Allowed {
    let mut prefixes = BTreeSet::new();
    for spec in specs {
        if spec.allowed.mode == AllowedMode::All {
            return Allowed::All;
        }
        prefixes.extend(spec.allowed.prefixes.iter().map(prefix_match));
    }
    Allowed::Prefixes(prefixes.into_iter().collect())
}

fn prefix_match(selector: &PrefixSelector) -> PrefixMatch {
    let prefix = selector.prefix.0;
    let ge = selector.ge.unwrap_or_else(|| prefix.prefix_len());
    let le = match (selector.ge, selector.le) {
        (_, Some(le)) => le,
        (Some(_), None) => prefix.max_prefix_len(),
        (None, None) => prefix.prefix_len(),
    };
    PrefixMatch { prefix, ge, le }
}

/// The most that is asked for, unless the guardrail forbids it.
fn default_route(members: &[&Asking<'_>], table: u32, config: &Config, report: &mut Report) -> DefaultRoute {
    let permitted = match config.default_route {
        DefaultRouteGuard::Forbid => false,
        DefaultRouteGuard::AllowInVRFs => table != TABLE_MAIN,
        DefaultRouteGuard::Allow => true,
    };
    if permitted {
        return members.iter().map(|m| m.spec.default_route).max().unwrap_or(DefaultRoute::Reject);
    }
    for member in members.iter().filter(|m| m.spec.default_route != DefaultRoute::Reject) {
        let wanted = if table == TABLE_MAIN { "Allow" } else { "AllowInVRFs or Allow" };
        let message = format!(
            "default routes stay out: DataplaneConfig's spec.guardrails.defaultRoute is {:?}; it takes {wanted} to let them in",
            config.default_route
        );
        let tripped = reason::condition::GUARDRAIL_TRIPPED;
        report.conflict(&member.object, "defaultRoute".into(), tripped, &dataplane_config(), message);
    }
    DefaultRoute::Reject
}

/// `Retain` wins, with the longest timeout; 0s is for ever.
fn feed_loss<'a>(specs: impl Iterator<Item = &'a RouteImportSpec>) -> FeedLoss {
    let mut asked = specs.filter_map(|s| s.on_feed_loss.as_ref()).peekable();
    if asked.peek().is_none() {
        return FeedLoss::Retain(Some(RETAIN));
    }
    let timeouts: Vec<_> =
        asked.filter(|f| f.policy == FeedLossPolicy::Retain).map(|f| f.timeout.0).collect();
    match timeouts.iter().max() {
        None => FeedLoss::Withdraw,
        Some(_) if timeouts.contains(&Duration::ZERO) => FeedLoss::Retain(None),
        Some(longest) => FeedLoss::Retain(Some(*longest)),
    }
}

/// One hash policy for the node.
pub(super) fn hash_policy(
    asking: &[Asking<'_>],
    previous: Option<&Intent>,
    report: &mut Report,
) -> HashPolicy {
    let claims: Vec<(Who<'_>, HashPolicy)> = asking
        .iter()
        .filter_map(|a| Some((a.who(), a.spec.multipath.as_ref()?.hash_policy)))
        .filter(|(_, policy)| *policy != HashPolicy::Unmanaged)
        .collect();
    let Some(settled) = settle(claims, previous.map(|p| p.hash_policy).as_ref()) else {
        return HashPolicy::Unmanaged;
    };
    for (loser, policy) in &settled.losers {
        let winner = settled.winner.object;
        let message = format!(
            "the node has one hash policy: {:?} in {winner}, and {policy:?} here: use one, or Unmanaged",
            settled.value
        );
        report.conflict(
            loser.object,
            "multipath.hashPolicy".into(),
            reason::HASH_POLICY_MISMATCH,
            winner,
            message,
        );
    }
    settled.value
}
