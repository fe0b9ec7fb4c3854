//! Merges `TrafficPolicy`s.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::claims::{Asker, Identities, Report, Who, owners, settle};
use super::types::{Band, Intent, PolicyProtocol, PolicyRule, Vrf};
use crate::api::{IfUnavailable, TrafficMatch, TrafficPolicySpec, TrafficRule};
use crate::status::reason;

type Asking<'a> = Asker<'a, TrafficPolicySpec>;

/// Kernel rules that one rule of a manifest may stand for, per family.
const MAX_COMBINATIONS: usize = 4096;

/// What the kernel would match on: two rules with the same selectors are one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Selectors {
    band: Band,
    destination: Option<IpNet>,
    source: Option<IpNet>,
    ingress: Option<String>,
    protocol: Option<PolicyProtocol>,
    ports: Option<(u16, u16)>,
}

/// What happens: lookup table, its VRF, and whether the lookup is final.
type Verdict<'a> = (u32, &'a str, bool);

struct Claim<'a> {
    who: Who<'a>,
    rule: &'a TrafficRule,
    verdict: Verdict<'a>,
}

/// The rules of this node in their order: band, longest destination, longest source, name.
pub(super) fn merge(
    asking: &[Asking<'_>],
    vrfs: &[Vrf],
    identities: &Identities,
    previous: Option<&Intent>,
    report: &mut Report,
) -> Vec<PolicyRule> {
    let mut claims: BTreeMap<Selectors, Vec<Claim<'_>>> = BTreeMap::new();
    for policy in asking {
        for rule in &policy.spec.rules {
            let Some(verdict) = admit(policy, rule, vrfs, identities, report) else { continue };
            let unreached = unreached(policy, rule, vrfs, report);
            let reached = |it: &Selectors| it.ingress.as_ref().is_none_or(|name| !unreached.contains(name));
            for selectors in combinations(policy.spec.band, &rule.selector).into_iter().filter(reached) {
                claims.entry(selectors).or_default().push(Claim { who: policy.who(), rule, verdict });
            }
        }
    }
    let mut rules: Vec<_> = claims
        .into_iter()
        .filter_map(|(selectors, claims)| settle_rule(selectors, &claims, previous, report))
        .collect();
    rules.sort_by(|a, b| order(a).cmp(&order(b)));
    report.accept(rules.iter().flat_map(|r| &r.owners));
    rules
}

fn order(rule: &PolicyRule) -> impl Ord + '_ {
    let length = |nets: &[IpNet]| Reverse(nets.first().map_or(0, IpNet::prefix_len));
    let rest =
        (&rule.destinations, &rule.sources, &rule.ingress_interfaces, rule.protocol, &rule.destination_ports);
    (rule.band, length(&rule.destinations), length(&rule.sources), &rule.name, rest)
}

/// The verdict of a rule, unless its VRF forbids it.
fn admit<'a>(
    policy: &Asking<'_>,
    rule: &'a TrafficRule,
    vrfs: &[Vrf],
    identities: &Identities,
    report: &mut Report,
) -> Option<Verdict<'a>> {
    let item = format!("rules[{}]", rule.name);
    let vrf = &rule.action.vrf;
    if let Err(mismatch) = identities.check(&vrf.name, vrf.table) {
        report.conflict(&policy.object, item, mismatch.reason, &mismatch.winner, mismatch.message);
        return None;
    }
    let falls_back = rule.action.if_unavailable == IfUnavailable::Main;
    if let Some(strict) = vrfs.iter().find(|v| v.name == vrf.name && v.strict && falls_back)
        && let Some(winner) = strict.owners.first()
    {
        let message = format!(
            "ifUnavailable: Main would let traffic out of VRF {}, which is Strict by {winner}: use Drop, or isolation FallbackToMain",
            vrf.name
        );
        report.conflict(&policy.object, item, reason::ISOLATION_FORBIDS, winner, message);
        return None;
    }
    if combination_count(&rule.selector) > MAX_COMBINATIONS {
        let message = format!(
            "spec.rules[{}].match: its lists multiply to more than {MAX_COMBINATIONS} kernel rules: use shorter lists",
            rule.name
        );
        report.refuse(&policy.object, reason::BAND_FULL, message);
        return None;
    }
    Some((vrf.table, &vrf.name, !falls_back))
}

/// The ingress interfaces whose traffic never comes to this rule: a Strict VRF's rule stands before it, and its table has
/// an end.
fn unreached(policy: &Asking<'_>, rule: &TrafficRule, vrfs: &[Vrf], report: &mut Report) -> BTreeSet<String> {
    let mut unreached = BTreeSet::new();
    for interface in &rule.selector.ingress_interfaces {
        let holds = |vrf: &&Vrf| vrf.strict && vrf.interfaces.iter().any(|it| it.name == interface.0);
        let Some(home) = vrfs.iter().find(holds).filter(|vrf| vrf.name != rule.action.vrf.name) else {
            continue;
        };
        let Some(winner) = home.owners.first() else { continue };
        let message = format!(
            "what comes in by {interface} is decided by VRF {home}, which is Strict by {winner}, before this rule: take {interface} \
             off the list, or give {home} isolation FallbackToMain",
            interface = interface.0,
            home = home.name
        );
        let item = format!("rules[{}].ingressInterfaces[{}]", rule.name, interface.0);
        report.conflict(&policy.object, item, reason::ISOLATION_FORBIDS, winner, message);
        unreached.insert(interface.0.clone());
    }
    unreached
}

fn combination_count(selector: &TrafficMatch) -> usize {
    let lengths = [
        selector.destinations.len(),
        selector.sources.len(),
        selector.ingress_interfaces.len(),
        selector.destination_ports.len(),
    ];
    lengths.into_iter().map(|length| length.max(1)).product()
}

fn combinations(band: Band, selector: &TrafficMatch) -> Vec<Selectors> {
    fn options<T>(items: impl Iterator<Item = T>) -> Vec<Option<T>> {
        let some: Vec<_> = items.map(Some).collect();
        if some.is_empty() { vec![None] } else { some }
    }
    let destinations = options(selector.destinations.iter().map(|c| c.0));
    let sources = options(selector.sources.iter().map(|c| c.0));
    let interfaces = options(selector.ingress_interfaces.iter().map(|i| i.0.clone()));
    let ports = options(selector.destination_ports.iter().map(|p| (p.from, p.to.unwrap_or(p.from))));
    let mut all = Vec::new();
    for destination in &destinations {
        for source in &sources {
            if matches!((destination, source), (Some(d), Some(s)) if d.addr().is_ipv4() != s.addr().is_ipv4())
            {
                continue;
            }
            for ingress in &interfaces {
                all.extend(ports.iter().map(|ports| Selectors {
                    band,
                    destination: *destination,
                    source: *source,
                    ingress: ingress.clone(),
                    protocol: selector.protocol,
                    ports: *ports,
                }));
            }
        }
    }
    all
}

fn settle_rule(
    selectors: Selectors,
    claims: &[Claim<'_>],
    previous: Option<&Intent>,
    report: &mut Report,
) -> Option<PolicyRule> {
    let old = previous.into_iter().flat_map(|p| &p.rules).find(|rule| selectors_of(rule) == selectors);
    let programmed = old.map(|r| (r.table, r.vrf.as_str(), r.drop_if_unavailable));
    let settled = settle(claims.iter().map(|c| (c.who, c.verdict)).collect(), programmed.as_ref())?;
    let (table, vrf, drop_if_unavailable) = settled.value;
    let agreeing: Vec<_> = claims.iter().filter(|c| c.verdict == settled.value).collect();
    let name = agreeing.iter().map(|c| (c.who, &c.rule.name)).min().map(|(_, name)| name.clone())?;
    for claim in claims.iter().filter(|c| c.verdict != settled.value) {
        let winner = settled.winner.object;
        let message = format!(
            "traffic to {} goes to VRF {vrf} by {winner}, and to {} here, or another ifUnavailable: make the actions equal, or the matches different",
            selectors.destination.map_or_else(|| "any destination".to_owned(), |d| d.to_string()),
            claim.verdict.1
        );
        let item = format!("rules[{}]", claim.rule.name);
        report.conflict(claim.who.object, item, reason::RULE_ACTION_MISMATCH, winner, message);
    }
    Some(PolicyRule {
        owners: owners(&settled.backers),
        name,
        band: selectors.band,
        destinations: selectors.destination.into_iter().collect(),
        sources: selectors.source.into_iter().collect(),
        ingress_interfaces: selectors.ingress.into_iter().collect(),
        protocol: selectors.protocol,
        destination_ports: selectors.ports.into_iter().collect(),
        host_traffic: agreeing.iter().any(|c| c.rule.selector.host_traffic),
        table,
        vrf: vrf.to_owned(),
        drop_if_unavailable,
    })
}

fn selectors_of(rule: &PolicyRule) -> Selectors {
    Selectors {
        band: rule.band,
        destination: rule.destinations.first().copied(),
        source: rule.sources.first().copied(),
        ingress: rule.ingress_interfaces.first().cloned(),
        protocol: rule.protocol,
        ports: rule.destination_ports.first().copied(),
    }
}
