//! Merges `ReturnPath`s.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::claims::{Asker, Report, Who, owners, settle};
use super::types::{Config, GatewaySource, Intent, PolicyProtocol, ReturnPathInterface, SteeringSettings};
use crate::api::{
    GatewaySourceKind, InterfacePattern, OnPathDown, PortRange, ReturnPathSpec, SteeringGateway,
    SteeringMode, SteeringRpFilter,
};
use crate::status::reason;

type Asking<'a> = Asker<'a, ReturnPathSpec>;

/// The interfaces whose requests are remembered: exact names first, then globs.
pub(super) fn merge(
    asking: &[Asking<'_>],
    previous: Option<&Intent>,
    report: &mut Report,
) -> Vec<ReturnPathInterface> {
    let mut claims: BTreeMap<(bool, &InterfacePattern), Vec<(&Asking<'_>, GatewaySource)>> = BTreeMap::new();
    for one in asking {
        for interface in &one.spec.interfaces {
            let key = (interface.name.is_glob(), &interface.name);
            claims.entry(key).or_default().push((one, gateway(&interface.gateway)));
        }
    }
    let mut merged = Vec::new();
    for ((_, name), claims) in claims {
        let old = previous.into_iter().flat_map(|p| &p.return_paths).find(|r| r.name == name.0);
        let sources = claims.iter().map(|(one, gateway)| (one.who(), *gateway)).collect();
        let Some(settled) = settle(sources, old.map(|r| r.gateway).as_ref()) else { continue };
        for (loser, gateway) in &settled.losers {
            let winner = settled.winner.object;
            let message = format!(
                "{name} has the gateway {} in {winner}, and {} here: use the same gateway source and addresses",
                describe(settled.value),
                describe(*gateway)
            );
            let item = format!("interfaces[{name}]");
            report.conflict(loser.object, item, reason::GATEWAY_MISMATCH, winner, message);
        }
        let members: Vec<_> =
            claims.iter().filter(|(_, g)| *g == settled.value).map(|(one, _)| *one).collect();
        report.accept(members.iter().map(|m| &m.object));
        merged.push(interface(name, settled.value, &members));
    }
    merged
}

fn gateway(gateway: &SteeringGateway) -> GatewaySource {
    match gateway.source {
        GatewaySourceKind::Auto => GatewaySource::Auto,
        GatewaySourceKind::FromRoute => GatewaySource::FromRoute,
        GatewaySourceKind::FromSourceMAC => GatewaySource::FromSourceMAC,
        GatewaySourceKind::Static => GatewaySource::Static {
            ipv4: gateway.ipv4.as_ref().map(|a| a.0),
            ipv6: gateway.ipv6.as_ref().map(|a| a.0),
        },
    }
}

fn describe(gateway: GatewaySource) -> String {
    match gateway {
        GatewaySource::Static { ipv4, ipv6 } => {
            let addresses = [ipv4.map(|a| a.to_string()), ipv6.map(|a| a.to_string())];
            format!("Static {}", addresses.into_iter().flatten().collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

fn interface(
    name: &InterfacePattern,
    gateway: GatewaySource,
    members: &[&Asking<'_>],
) -> ReturnPathInterface {
    let specs = || members.iter().map(|m| m.spec);
    let who: Vec<Who<'_>> = members.iter().map(|m| m.who()).collect();
    ReturnPathInterface {
        name: name.0.clone(),
        gateway,
        virtual_ips: virtual_ips(specs()),
        protocols: protocols(specs()),
        except_sources: except_sources(specs()),
        except_ports: except_ports(specs()),
        enforce: specs().any(|s| s.mode == SteeringMode::TCRedirect),
        drop_on_path_down: specs().all(|s| s.on_path_down == OnPathDown::Drop),
        manage_rp_filter: specs().any(|s| s.rp_filter == SteeringRpFilter::Auto),
        owners: owners(&who),
    }
}

/// Union; empty means any and wins.
fn virtual_ips<'a>(specs: impl Iterator<Item = &'a ReturnPathSpec>) -> Vec<IpNet> {
    let mut union = BTreeSet::new();
    for spec in specs {
        if spec.selector.virtual_ips.is_empty() {
            return Vec::new();
        }
        union.extend(spec.selector.virtual_ips.iter().map(|c| c.0));
    }
    union.into_iter().collect()
}

fn protocols<'a>(specs: impl Iterator<Item = &'a ReturnPathSpec>) -> BTreeSet<PolicyProtocol> {
    use PolicyProtocol::{ICMP, SCTP, TCP, UDP};
    let all = [TCP, UDP, SCTP, ICMP];
    specs
        .flat_map(
            |s| if s.selector.protocols.is_empty() { all.to_vec() } else { s.selector.protocols.clone() },
        )
        .collect()
}

fn except_sources<'a>(specs: impl Iterator<Item = &'a ReturnPathSpec>) -> Vec<IpNet> {
    common_sources(specs.map(|s| s.selector.except_sources.iter().map(|c| c.0).collect()))
}

/// A client is excepted when every object excepts it: no object takes away what another adds.
fn common_sources(lists: impl Iterator<Item = Vec<IpNet>>) -> Vec<IpNet> {
    let common = lists.map(|list| IpNet::aggregate(&list)).reduce(|a, b| {
        let inside = |x: &[IpNet], y: &[IpNet]| -> Vec<IpNet> {
            x.iter().filter(|p| y.iter().any(|q| q.contains(*p))).copied().collect()
        };
        let mut common = inside(&a, &b);
        common.extend(inside(&b, &a));
        common
    });
    let mut common = IpNet::aggregate(&common.unwrap_or_default());
    common.sort();
    common
}

fn except_ports<'a>(specs: impl Iterator<Item = &'a ReturnPathSpec>) -> Vec<(u16, u16)> {
    let range = |p: &PortRange| (p.from, p.to.unwrap_or(p.from));
    common_ports(specs.map(|s| s.selector.except_ports.iter().map(range).collect()))
}

/// As for sources: ports that every object excepts.
fn common_ports(lists: impl Iterator<Item = Vec<(u16, u16)>>) -> Vec<(u16, u16)> {
    let common = lists.reduce(|a, b| {
        let pairs = a.iter().flat_map(|x| b.iter().map(move |y| (x.0.max(y.0), x.1.min(y.1))));
        pairs.filter(|(from, to)| from <= to).collect()
    });
    let mut ranges = common.unwrap_or_default();
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (from, to) in ranges {
        match joined.last_mut() {
            Some(last) if u32::from(from) <= u32::from(last.1) + 1 => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

impl ReturnPathInterface {
    /// Joins what another pattern asks for the same interface, by the rules that hold for one name: the more permissive
    /// wins. The gateway source stays this one's.
    #[must_use]
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let either = |one: &[IpNet], two: &[IpNet]| {
            if one.is_empty() || two.is_empty() {
                return Vec::new();
            }
            let union: BTreeSet<IpNet> = one.iter().chain(two).copied().collect();
            union.into_iter().collect()
        };
        let owners: BTreeSet<_> = self.owners.iter().chain(&other.owners).cloned().collect();
        Self {
            name: self.name.clone(),
            gateway: self.gateway,
            virtual_ips: either(&self.virtual_ips, &other.virtual_ips),
            protocols: self.protocols.union(&other.protocols).copied().collect(),
            except_sources: common_sources(
                [&self.except_sources, &other.except_sources].into_iter().cloned(),
            ),
            except_ports: common_ports([&self.except_ports, &other.except_ports].into_iter().cloned()),
            enforce: self.enforce || other.enforce,
            drop_on_path_down: self.drop_on_path_down && other.drop_on_path_down,
            manage_rp_filter: self.manage_rp_filter || other.manage_rp_filter,
            owners: owners.into_iter().collect(),
        }
    }
}

/// What holds for all steering on the node: the largest of each, capped by the guardrail.
pub(super) fn settings(asking: &[Asking<'_>], config: &Config) -> SteeringSettings {
    let defaults = SteeringSettings::default();
    let specs = || asking.iter().map(|a| a.spec);
    let entries = specs().map(|s| s.flow_table.max_entries).max().unwrap_or(defaults.max_entries);
    SteeringSettings {
        egress_interfaces: specs().flat_map(|s| &s.egress_interfaces).map(|i| i.0.clone()).collect(),
        max_entries: entries.min(config.max_flow_entries),
        tcp_idle: specs().map(|s| s.flow_table.tcp_idle.0).max().unwrap_or(defaults.tcp_idle),
        udp_idle: specs().map(|s| s.flow_table.udp_idle.0).max().unwrap_or(defaults.udp_idle),
    }
}
