//! `DataplaneConfig`, or its defaults.

use super::types::Config;
use crate::api::{DataplaneConfigSpec, NumberRange};

/// The settings of this node.
pub(super) fn resolve(spec: Option<&DataplaneConfigSpec>) -> Config {
    let Some(spec) = spec else { return Config::default() };
    let DataplaneConfigSpec { fpm, ownership, guardrails } = spec;
    let range = |range: NumberRange| (range.from, range.to);
    let mut protected_prefixes: Vec<_> = guardrails.protected_prefixes.iter().map(|c| c.0).collect();
    protected_prefixes.sort();
    protected_prefixes.dedup();
    Config {
        fpm_listen: fpm.listen.0,
        offload_ack: fpm.offload_ack,
        route_protocol: ownership.route_protocol,
        tables: range(ownership.tables),
        rule_priorities: range(ownership.rule_priorities),
        nexthop_ids: range(ownership.nexthop_ids),
        default_route: guardrails.default_route,
        protected_prefixes,
        auto_protect: guardrails.auto_protect.iter().copied().collect(),
        max_routes_per_node: guardrails.max_routes_per_node,
        max_flow_entries: guardrails.max_flow_entries_per_node,
    }
}
