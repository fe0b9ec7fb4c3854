//! Which object is behind a rule, and which field of which object keeps a route out.

use ipnet::IpNet;

use crate::intent::types::{AutoProtect, DefaultRoute, Import, Intent, PolicyRule};
use crate::model::{Rule, RuleAction, TABLE_MAIN};
use crate::plan::{Links, port_selectors};
use crate::status::reason;

/// Who asks for a rule of ours; `None` where nobody does (any more), or it is not ours.
#[must_use]
pub fn rule_owner(rule: &Rule, intent: &Intent) -> Option<String> {
    if rule.protocol != intent.config.route_protocol {
        return None;
    }
    let table = if let RuleAction::Lookup(table) = rule.action { Some(table) } else { None };
    let interface = rule.iif.as_ref().or(rule.oif.as_ref());
    for vrf in &intent.vrfs {
        let listed = vrf.interfaces.iter().find(|it| interface == Some(&it.name) && table == Some(vrf.table));
        if let Some(listed) = listed.filter(|_| rule.destination.is_none() && rule.source.is_none()) {
            return listed.owners.first().or(vrf.owners.first()).map(ToString::to_string);
        }
    }
    let policy = intent.rules.iter().find(|policy| asks_for(policy, rule, table));
    if let Some(policy) = policy {
        return policy.owners.first().map(ToString::to_string);
    }
    let exception = |prefix: &IpNet| rule.destination == Some(*prefix) && table == Some(TABLE_MAIN);
    let excepting = intent.vrfs.iter().find(|vrf| vrf.exceptions.iter().any(exception));
    let steered = intent
        .return_paths
        .iter()
        .find(|path| rule.source.is_some_and(|source| path.virtual_ips.contains(&source)));
    let owners = excepting.map(|vrf| &vrf.owners).or(steered.map(|path| &path.owners));
    owners.and_then(|owners| owners.first()).map(ToString::to_string)
}

/// Whether a rule is one that a policy is multiplied out to. The landing place of a `goto` selects nothing.
fn asks_for(policy: &PolicyRule, rule: &Rule, table: Option<u32>) -> bool {
    let prefix = |list: &[IpNet], has: Option<IpNet>| match has {
        Some(has) => list.contains(&has),
        None => list.is_empty(),
    };
    let iif = match rule.iif.as_deref() {
        None | Some("lo") => policy.ingress_interfaces.is_empty(),
        Some(name) => policy.ingress_interfaces.iter().any(|it| it == name),
    };
    let wanted = policy.destination_ports.first().map(|range| port_selectors(*range));
    let (selected, below) = wanted.unwrap_or_default();
    let ports = match rule.action {
        RuleAction::Goto(_) if below.is_some() => [selected, below].contains(&rule.destination_ports),
        _ => selected == rule.destination_ports,
    };
    let selects = rule.destination.is_some() || rule.source.is_some() || rule.iif.is_some();
    selects
        && iif
        && ports
        && table.is_none_or(|table| table == policy.table)
        && policy.protocol.is_some() == rule.ip_protocol.is_some()
        && prefix(&policy.destinations, rule.destination)
        && prefix(&policy.sources, rule.source)
}

/// The field that keeps a learned route of `table` out, for a reason of `docs/cli.md`; `None` where no field does.
#[must_use]
pub fn cause(why: &str, prefix: &IpNet, table: u32, intent: &Intent, links: &Links) -> Option<String> {
    let imports: Vec<&Import> = intent.imports.iter().filter(|import| import.from_table == table).collect();
    let names = |imports: &[&Import]| {
        let owners = imports.iter().filter_map(|import| import.owners.first());
        owners.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let of_imports = |field: &str| Some(format!("{field} of {}", names(&imports)));
    let config = &intent.config;
    match why {
        reason::NO_IMPORT => Some(format!("no RouteImport has from.table {table}")),
        reason::NOT_ALLOWED => of_imports("allowed"),
        reason::PROTOCOL_NOT_SELECTED => of_imports("from.protocols"),
        reason::INTERFACE_NOT_SELECTED => of_imports("from.interfaces"),
        reason::MAX_ROUTES => of_imports("maxRoutes"),
        reason::MAX_ROUTES_PER_NODE => Some(format!(
            "guardrails.maxRoutesPerNode ({}) of DataplaneConfig/default",
            config.max_routes_per_node
        )),
        reason::DEFAULT_ROUTE_REJECTED => {
            let guard = intent.conflicts.iter().find(|conflict| conflict.item == "defaultRoute");
            let asked = imports.iter().any(|import| import.default_route != DefaultRoute::Reject);
            match guard.filter(|_| !asked) {
                Some(conflict) => Some(format!(
                    "guardrails.defaultRoute ({:?}) of {}, against {}",
                    config.default_route, conflict.winner, conflict.object
                )),
                None => of_imports("defaultRoute (Reject)"),
            }
        }
        reason::PROTECTED_PREFIX => {
            let listed = config.protected_prefixes.iter().find(|it| it.contains(prefix));
            let held = links.values().find(|link| {
                let own = |net: IpNet| IpNet::from(net.addr()) == *prefix;
                link.addresses.iter().any(|address| own(address.net))
            });
            let known = config.auto_protect.contains(&AutoProtect::NodeAddresses);
            match (listed, held.filter(|_| known)) {
                (Some(listed), _) => {
                    Some(format!("guardrails.protectedPrefixes ({listed}) of DataplaneConfig/default"))
                }
                (None, Some(link)) => Some(format!(
                    "guardrails.autoProtect (NodeAddresses: it is the address of {}) of DataplaneConfig/default",
                    link.name
                )),
                (None, None) => Some("guardrails.autoProtect of DataplaneConfig/default".to_owned()),
            }
        }
        reason::TABLE_OWNED_BY_ZEBRA => of_imports("into (zebra writes that table itself)"),
        _ => None,
    }
}
