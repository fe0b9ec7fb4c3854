//! Merges `VRFAttachment`s.

use std::collections::BTreeMap;

use super::claims::{Asker, Identities, Report, Who, owners, settle};
use super::types::{Config, Intent, RpFilter, StaticGateway, Vlan, Vrf, VrfInterface, VrfMode};
use crate::api::{AttachedInterface, Gateway, Isolation, VRFAttachmentSpec};
use crate::status::reason;

type Attachment<'a> = Asker<'a, VRFAttachmentSpec>;

/// The VRFs of this node, by name.
pub(super) fn merge(
    attachments: &[Attachment<'_>],
    config: &Config,
    identities: &Identities,
    previous: Option<&Intent>,
    report: &mut Report,
) -> Vec<Vrf> {
    let mut by_name: BTreeMap<&str, Vec<&Attachment<'_>>> = BTreeMap::new();
    for attachment in attachments {
        if admit(attachment, config, identities, report) {
            by_name.entry(&attachment.spec.vrf.name).or_default().push(attachment);
        }
    }
    let by_name: BTreeMap<_, _> = by_name
        .into_iter()
        .map(|(name, members)| (name, settle_mode(members, old_vrf(previous, name), report)))
        .collect();
    let mut interfaces = merge_interfaces(&by_name, previous, report);
    let mut vrfs = Vec::new();
    for (name, members) in &by_name {
        let mode = members.iter().map(|m| m.spec.vrf.mode).max().unwrap_or_default();
        report.accept(members.iter().map(|m| &m.object));
        let Some(first) = members.first() else { continue };
        let mut exceptions: Vec<_> =
            members.iter().flat_map(|m| &m.spec.cluster_exceptions.extra_cidrs).map(|c| c.0).collect();
        exceptions.sort();
        exceptions.dedup();
        vrfs.push(Vrf {
            name: (*name).to_owned(),
            table: first.spec.vrf.table,
            mode,
            strict: members.iter().all(|m| m.spec.isolation == Isolation::Strict),
            interfaces: interfaces.remove(name).unwrap_or_default(),
            gateways: merge_gateways(members, old_vrf(previous, name), report),
            exceptions,
            auto_exceptions: members.iter().any(|m| m.spec.cluster_exceptions.auto_detect),
            rp_filter: members
                .iter()
                .map(|m| m.spec.sysctls.rp_filter)
                .min_by_key(|f| strictness(*f))
                .unwrap_or(RpFilter::Auto),
            owners: owners(&members.iter().map(|m| m.who()).collect::<Vec<_>>()),
        });
    }
    vrfs
}

fn old_vrf<'p>(previous: Option<&'p Intent>, name: &str) -> Option<&'p Vrf> {
    previous.and_then(|p| p.vrfs.iter().find(|v| v.name == name))
}

/// The filter that lets more through wins; `Unmanaged` only where nobody asks for anything else.
fn strictness(filter: RpFilter) -> u8 {
    match filter {
        RpFilter::Auto => 0,
        RpFilter::Loose => 1,
        RpFilter::Strict => 2,
        RpFilter::Unmanaged => 3,
    }
}

fn admit(attachment: &Attachment<'_>, config: &Config, identities: &Identities, report: &mut Report) -> bool {
    let vrf = &attachment.spec.vrf;
    let (first, last) = config.tables;
    if vrf.mode != VrfMode::Adopt && !(first..=last).contains(&vrf.table) {
        let message = format!(
            "spec.vrf.table: {} is not in DataplaneConfig's spec.ownership.tables ({first} to {last}): choose one of those, or widen the range",
            vrf.table
        );
        report.refuse(&attachment.object, reason::TABLE_OUTSIDE_OWNERSHIP, message);
        return false;
    }
    match identities.check(&vrf.name, vrf.table) {
        Ok(()) => true,
        Err(mismatch) => {
            report.conflict(
                &attachment.object,
                "vrf".into(),
                mismatch.reason,
                &mismatch.winner,
                mismatch.message,
            );
            false
        }
    }
}

/// `TableOnly` and a device exclude each other; `Create` and `Adopt` do not.
fn settle_mode<'m, 'a>(
    members: Vec<&'m Attachment<'a>>,
    old: Option<&Vrf>,
    report: &mut Report,
) -> Vec<&'m Attachment<'a>> {
    let device = |mode: VrfMode| mode != VrfMode::TableOnly;
    let claims = members.iter().map(|m| (m.who(), device(m.spec.vrf.mode))).collect();
    let Some(settled) = settle(claims, old.map(|v| device(v.mode)).as_ref()) else { return members };
    for (loser, _) in &settled.losers {
        let message = format!(
            "mode TableOnly and a VRF device exclude each other for one VRF; {} decides: use the same mode",
            settled.winner.object
        );
        report.conflict(
            loser.object,
            "vrf.mode".into(),
            reason::MODE_MISMATCH,
            settled.winner.object,
            message,
        );
    }
    let value = settled.value;
    members.iter().copied().filter(|m| device(m.spec.vrf.mode) == value).collect()
}

type Members<'m, 'a> = BTreeMap<&'m str, Vec<&'m Attachment<'a>>>;

/// Interfaces of each VRF: an interface belongs to one VRF.
fn merge_interfaces<'m>(
    by_name: &Members<'m, '_>,
    previous: Option<&Intent>,
    report: &mut Report,
) -> BTreeMap<&'m str, Vec<VrfInterface>> {
    let mut claims: BTreeMap<&str, Vec<(Who<'_>, &str, &AttachedInterface)>> = BTreeMap::new();
    for (vrf, members) in by_name {
        for member in members {
            for interface in &member.spec.interfaces {
                claims.entry(&interface.name.0).or_default().push((member.who(), vrf, interface));
            }
        }
    }
    let mut merged: BTreeMap<&str, Vec<VrfInterface>> = BTreeMap::new();
    for (name, claims) in claims {
        let old = previous
            .into_iter()
            .flat_map(|p| &p.vrfs)
            .find_map(|vrf| vrf.interfaces.iter().find(|i| i.name == name).map(|i| (vrf.name.as_str(), i)));
        let vrf_claims = claims.iter().map(|(who, vrf, _)| (*who, *vrf)).collect();
        let Some(settled) = settle(vrf_claims, old.map(|(vrf, _)| vrf).as_ref()) else { continue };
        let item = format!("interfaces[{name}]");
        for (loser, vrf) in &settled.losers {
            let winner = settled.winner.object;
            let message = format!(
                "{name} belongs to VRF {} in {winner}, and to {vrf} here: remove it from one",
                settled.value
            );
            report.conflict(loser.object, item.clone(), reason::INTERFACE_IN_OTHER_VRF, winner, message);
        }
        let members: Vec<_> =
            claims.iter().filter(|(_, vrf, _)| *vrf == settled.value).map(|(who, _, i)| (*who, *i)).collect();
        let Some((key, _)) = by_name.get_key_value(settled.value) else { continue };
        merged.entry(*key).or_default().push(merge_interface(name, &members, old.map(|(_, i)| i), report));
    }
    merged
}

fn merge_interface(
    name: &str,
    claims: &[(Who<'_>, &AttachedInterface)],
    old: Option<&VrfInterface>,
    report: &mut Report,
) -> VrfInterface {
    let item = format!("interfaces[{name}]");
    let old_vlan = old.and_then(|i| i.vlan.as_ref());
    let vlans = claims
        .iter()
        .filter_map(|(who, i)| i.vlan.as_ref().map(|v| (*who, (v.parent.0.as_str(), v.id))))
        .collect();
    let vlan = settle(vlans, old_vlan.map(|v| (v.parent.as_str(), v.id)).as_ref());
    let mut lost = Vec::new();
    for (loser, (parent, id)) in vlan.iter().flat_map(|s| &s.losers) {
        let Some(settled) = &vlan else { continue };
        let winner = settled.winner.object;
        let message = format!(
            "{name} is VLAN {} on {} in {winner}, and VLAN {id} on {parent} here: use another name",
            settled.value.1, settled.value.0
        );
        report.conflict(loser.object, item.clone(), reason::VLAN_MISMATCH, winner, message);
        lost.push(*loser);
    }
    let claims: Vec<_> = claims.iter().filter(|(who, _)| !lost.contains(who)).collect();
    let mtus = claims.iter().filter_map(|(who, i)| Some((*who, i.vlan.as_ref()?.mtu?))).collect();
    let mtu = settle(mtus, old_vlan.and_then(|v| v.mtu).as_ref());
    for (loser, other) in mtu.iter().flat_map(|s| &s.losers) {
        let Some(settled) = &mtu else { continue };
        let winner = settled.winner.object;
        let message =
            format!("{name} has MTU {} bytes in {winner}, and {other} bytes here: use one", settled.value);
        report.conflict(loser.object, format!("{item}.vlan.mtu"), reason::MTU_MISMATCH, winner, message);
    }
    let mut addresses: Vec<_> = claims.iter().flat_map(|(_, i)| &i.addresses).map(|a| a.0).collect();
    addresses.sort();
    addresses.dedup();
    VrfInterface {
        name: name.to_owned(),
        vlan: vlan.map(|s| Vlan { parent: s.value.0.to_owned(), id: s.value.1, mtu: mtu.map(|m| m.value) }),
        addresses,
        preserve_addresses: claims.iter().any(|(_, i)| i.preserve_addresses),
        owners: owners(&claims.iter().map(|(who, _)| *who).collect::<Vec<_>>()),
    }
}

fn merge_gateways(members: &[&Attachment<'_>], old: Option<&Vrf>, report: &mut Report) -> Vec<StaticGateway> {
    let mut claims: BTreeMap<_, Vec<(Who<'_>, u16)>> = BTreeMap::new();
    for member in members {
        for Gateway { address, interface, weight } in &member.spec.gateways {
            claims.entry((address.0, &interface.0)).or_default().push((member.who(), *weight));
        }
    }
    let mut gateways = Vec::new();
    for ((address, interface), claims) in claims {
        let programmed = old
            .into_iter()
            .flat_map(|v| &v.gateways)
            .find(|g| g.address == address && g.interface == *interface);
        let Some(settled) = settle(claims, programmed.map(|g| g.weight).as_ref()) else { continue };
        for (loser, weight) in &settled.losers {
            let winner = settled.winner.object;
            let message = format!(
                "gateway {address} on {interface} has weight {} in {winner}, and {weight} here: use one weight",
                settled.value
            );
            let item = format!("gateways[{address},{interface}]");
            report.conflict(loser.object, item, reason::GATEWAY_WEIGHT_MISMATCH, winner, message);
        }
        gateways.push(StaticGateway { address, interface: interface.clone(), weight: settled.value });
    }
    gateways
}
