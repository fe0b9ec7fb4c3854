//! `DataplaneConfig`, or its defaults.

use std::net::{IpAddr, SocketAddr};

use super::types::{Config, Probe, ProbeTarget};
use crate::api::{self, DataplaneConfig, DataplaneConfigSpec, NumberRange, PAUSED, ProbeKind};

/// The settings of this node.
pub(super) fn resolve(object: Option<&DataplaneConfig>) -> Config {
    let Some(object) = object else { return Config::default() };
    let DataplaneConfigSpec { fpm, ownership, guardrails, apply } = &object.spec;
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
        paused: object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(PAUSED))
            .and_then(|it| paused(it)),
        dry_run: apply.mode == api::ApplyMode::DryRun,
        probes: apply.probes.iter().map(probe).collect(),
        rollback: apply.rollback_on_probe_failure,
    }
}

/// The reason that the annotation gives, empty for a mere `true`; `None`: not paused.
fn paused(annotation: &str) -> Option<String> {
    match annotation.trim() {
        "false" => None,
        "true" => Some(String::new()),
        reason => Some(reason.to_owned()),
    }
}

/// The schema's rules see to it that address and port are there where they are needed.
fn probe(probe: &api::Probe) -> Probe {
    let address = probe.address.as_ref().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.0);
    let target = match probe.kind {
        ProbeKind::APIServer => ProbeTarget::ApiServer,
        ProbeKind::TCP => ProbeTarget::Tcp(SocketAddr::new(address, probe.port.unwrap_or_default())),
        ProbeKind::ICMP => ProbeTarget::Icmp(address),
    };
    Probe { target, timeout: probe.timeout.0 }
}
