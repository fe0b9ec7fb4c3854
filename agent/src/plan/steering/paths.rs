//! The ways back: one default path for each listed interface and family, one for each candidate gateway.

use std::net::IpAddr;

use super::interfaces::{Listed, condition, ethernet, zone};
use super::{MAX_GATEWAYS, MacKey, Path, PathKey, PathKind, SteeringInput, SteeringPlan};
use crate::intent::types::GatewaySource;
use crate::model::{Family, Neighbour, NeighbourState, TABLE_MAIN};
use crate::status::reason;

/// The path of requests that no known gateway delivered.
pub(super) fn default_path(
    input: &SteeringInput<'_>,
    ifindex: u32,
    family: Family,
    source: GatewaySource,
) -> PathKey {
    let kind = match (source, family) {
        (GatewaySource::Static { ipv4: Some(gateway), .. }, Family::Ipv4) => {
            PathKind::Gateway(gateway.into())
        }
        (GatewaySource::Static { ipv6: Some(gateway), .. }, Family::Ipv6) => {
            PathKind::Gateway(gateway.into())
        }
        (GatewaySource::Auto | GatewaySource::Static { .. }, _) => automatic(input, ifindex, family),
        (GatewaySource::FromRoute, _) => PathKind::Route,
        (GatewaySource::FromSourceMAC, _) => PathKind::SourceMac,
    };
    PathKey { ifindex, family, kind }
}

/// With several candidates and the MAC of none of them, nothing but a route can tell which one to take.
fn automatic(input: &SteeringInput<'_>, ifindex: u32, family: Family) -> PathKind {
    let candidates = input.gateways.get(&(ifindex, family));
    let mut candidates = candidates.into_iter().flatten().copied();
    match (candidates.next(), candidates.next()) {
        (only, None) => PathKind::Auto(only),
        _ => PathKind::Route,
    }
}

/// Adds paths, the MACs that lead to them, and the neighbours that the kernel shall keep resolved.
pub(super) fn plan(input: &SteeringInput<'_>, listed: &[Listed<'_>], plan: &mut SteeringPlan) {
    let failed = input.neighbours.iter().filter(|entry| entry.state == NeighbourState::Failed);
    let failed =
        failed.filter(|entry| plan.interfaces.get(&entry.ifindex).is_some_and(|on| on.learn.is_some()));
    plan.failed = failed.map(|entry| (entry.ifindex, entry.address)).collect();
    for listed in listed {
        for family in Family::ALL {
            plan_family(input, listed, family, plan);
        }
    }
}

fn plan_family(input: &SteeringInput<'_>, listed: &Listed<'_>, family: Family, plan: &mut SteeringPlan) {
    let Listed { link, asked } = listed;
    let default = default_path(input, link.ifindex, family, asked.gateway);
    let gateways = match (asked.gateway, default.kind) {
        (_, PathKind::Gateway(prescribed)) => vec![prescribed],
        (GatewaySource::Auto | GatewaySource::Static { .. }, _) => candidates(input, listed, family, plan),
        _ => Vec::new(),
    };
    let template = Path {
        up: link.usable(),
        drop_when_down: asked.drop_on_path_down,
        enforce: asked.enforce,
        zone: zone(input, link),
        table: input.tables.get(&link.ifindex).copied().unwrap_or(TABLE_MAIN),
        mtu: link.mtu,
        ethernet: ethernet(link),
        mac: link.mac,
    };
    let failed = |plan: &SteeringPlan, gateway| plan.failed.contains(&(link.ifindex, gateway));
    // Clients on the link itself are few, and the routing table leads to them, too.
    let only = if let PathKind::Auto(only) = default.kind { only } else { None };
    let dead = only.is_some_and(|gateway| failed(plan, gateway));
    plan.paths.insert(default, Path { up: template.up && !dead, ..template });
    for gateway in gateways {
        let key = PathKey { kind: PathKind::Gateway(gateway), ..default };
        let neighbour = neighbour(input, link.ifindex, gateway);
        plan.paths.insert(key, Path { up: template.up && !failed(plan, gateway), ..template });
        // With one gateway prescribed there is nothing to choose by MAC.
        if let (false, Some(mac)) = (key == default, neighbour.and_then(|entry| entry.mac)) {
            plan.macs.entry(MacKey { ifindex: link.ifindex, family, mac }).or_insert(key);
        }
        if asked.enforce && link.up && !link.noarp {
            plan.managed_neighbours.insert((link.ifindex, gateway));
        }
    }
}

/// The gateways that routes of this family name on the interface, lowest addresses first.
fn candidates(
    input: &SteeringInput<'_>,
    listed: &Listed<'_>,
    family: Family,
    plan: &mut SteeringPlan,
) -> Vec<IpAddr> {
    let Some(all) = input.gateways.get(&(listed.link.ifindex, family)) else { return Vec::new() };
    if all.len() > MAX_GATEWAYS {
        let count = all.len();
        let message =
            format!("routes name {count} gateways on it; the {MAX_GATEWAYS} lowest addresses are used");
        plan.conditions.push(condition(
            &listed.asked.owners,
            &listed.link.name,
            reason::UNSUPPORTED,
            message,
        ));
    }
    all.iter().copied().take(MAX_GATEWAYS).collect()
}

fn neighbour<'a>(input: &SteeringInput<'a>, ifindex: u32, address: IpAddr) -> Option<&'a Neighbour> {
    input.neighbours.iter().find(|entry| entry.ifindex == ifindex && entry.address == address)
}
