//! What the agent would own: who else is in its rule band, its tables, its nexthop ids.

use std::collections::BTreeMap;

use super::{Check, Finding, Severity, some_of};
use crate::intent::types::Config;
use crate::kernel::dump::{self, RouteFilter};
use crate::kernel::{KernelError, observe};
use crate::model::{NexthopObject, Rule};

/// RTPROT_KERNEL: the kernel's own rules (local, main, default, l3mdev).
const KERNEL: u8 = 2;

pub(super) async fn check(owned: &Config) -> Vec<Finding> {
    let mut findings = match observe::rules().await {
        Ok(rules) => vec![band(&rules, owned), before(&rules, owned)],
        Err(error) => vec![unreadable(Check::RuleBand, &error)],
    };
    findings.push(match foreign_tables(owned) {
        Ok(tables) => table_range(&tables, owned),
        Err(error) => unreadable(Check::TableRange, &error),
    });
    findings.push(match dump::dump_nexthops(None) {
        Ok(objects) => nexthop_ids(&objects, owned),
        Err(error) => unreadable(Check::NexthopIds, &error),
    });
    findings
}

fn unreadable(check: Check, error: &KernelError) -> Finding {
    let why = "without this nothing can be programmed";
    Finding::bad(Severity::Error, check, error.to_string(), why, "run as root on Linux 5.3 or newer")
}

fn within<T: PartialOrd>(value: &T, (first, last): &(T, T)) -> bool {
    value >= first && value <= last
}

fn described(rules: &[&Rule]) -> String {
    some_of(&rules.iter().map(|rule| format!("[{rule}]")).collect::<Vec<_>>())
}

pub(super) fn band(rules: &[Rule], owned: &Config) -> Finding {
    const CHECK: Check = Check::RuleBand;
    let (first, last) = owned.rule_priorities;
    let foreign: Vec<&Rule> = rules
        .iter()
        .filter(|rule| {
            within(&rule.priority, &owned.rule_priorities) && rule.protocol != owned.route_protocol
        })
        .collect();
    if foreign.is_empty() {
        return Finding::ok(CHECK, format!("priorities {first}-{last} hold no foreign rule"));
    }
    Finding::bad(
        Severity::Error,
        CHECK,
        format!("{} foreign rules in {first}-{last}: {}", foreign.len(), described(&foreign)),
        "they decide between our rules, so policy is not what the manifests say",
        "move them to other priorities, or give Backtrail another band (DataplaneConfig ownership.rulePriorities)",
    )
}

pub(super) fn before(rules: &[Rule], owned: &Config) -> Finding {
    const CHECK: Check = Check::RulesBeforeBand;
    let earlier: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.priority < owned.rule_priorities.0 && rule.protocol != KERNEL)
        .collect();
    if earlier.is_empty() {
        return Finding::ok(
            CHECK,
            format!("no foreign rule comes before priority {}", owned.rule_priorities.0),
        );
    }
    Finding::bad(
        Severity::Note,
        CHECK,
        format!("{} foreign rules come before ours: {}", earlier.len(), described(&earlier)),
        "what they match never reaches a rule of Backtrail",
        "see that they match no traffic that a manifest speaks of",
    )
}

/// Routes that are not ours in tables of our range: by table and protocol.
fn foreign_tables(owned: &Config) -> Result<BTreeMap<(u32, u8), u64>, KernelError> {
    let mut tables = BTreeMap::new();
    dump::dump_routes(RouteFilter::default(), &mut |route| {
        if within(&route.key.table, &owned.tables) && route.protocol != owned.route_protocol {
            *tables.entry((route.key.table, route.protocol)).or_default() += 1;
        }
    })?;
    Ok(tables)
}

pub(super) fn table_range(tables: &BTreeMap<(u32, u8), u64>, owned: &Config) -> Finding {
    const CHECK: Check = Check::TableRange;
    let (first, last) = owned.tables;
    if tables.is_empty() {
        return Finding::ok(CHECK, format!("tables {first}-{last} hold no foreign route"));
    }
    let held: Vec<String> = tables
        .iter()
        .map(|((table, protocol), routes)| format!("table {table}: {routes} of protocol {protocol}"))
        .collect();
    Finding::bad(
        Severity::Warning,
        CHECK,
        format!("foreign routes in {first}-{last}: {}", some_of(&held)),
        "a foreign route keeps its prefix: ours for the same prefix is not programmed (ForeignRoute)",
        "remove them, or give Backtrail another range (DataplaneConfig ownership.tables)",
    )
}

pub(super) fn nexthop_ids(objects: &[NexthopObject], owned: &Config) -> Finding {
    const CHECK: Check = Check::NexthopIds;
    let (first, last) = owned.nexthop_ids;
    let foreign: Vec<String> = objects
        .iter()
        .filter(|object| within(&object.id.0, &owned.nexthop_ids) && object.protocol != owned.route_protocol)
        .map(|object| format!("{} of protocol {}", object.id.0, object.protocol))
        .collect();
    if foreign.is_empty() {
        return Finding::ok(CHECK, format!("ids {first}-{last} hold no foreign nexthop object"));
    }
    Finding::bad(
        Severity::Warning,
        CHECK,
        format!("foreign nexthop objects in {first}-{last}: {}", some_of(&foreign)),
        "their ids cannot be ours",
        "give Backtrail another range (DataplaneConfig ownership.nexthopIDs)",
    )
}
