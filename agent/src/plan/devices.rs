//! VRF and VLAN devices, their members, and the sysctls that VRFs need.

use super::{Links, NodeFacts, Plan, Problem};
use crate::intent::types::{Intent, RpFilter, Vrf, VrfInterface, VrfMode};
use crate::model::devices::{Interface, VlanDevice, VrfDevice, may_leave, ours};
use crate::model::{Family, Link, TABLE_MAIN};
use crate::status::reason;

/// Plans the devices of all VRFs that are in force.
pub(super) fn compile(plan: &mut Plan, intent: &Intent, links: &Links, facts: &NodeFacts) {
    for vrf in plan.vrfs_in_force(intent) {
        let Some(owner) = vrf.owners.first() else { continue };
        let device =
            (vrf.mode != VrfMode::TableOnly).then(|| VrfDevice { name: vrf.name.clone(), table: vrf.table });
        if device.is_some() {
            if let Err((reason, message)) = device_conflict(vrf, links) {
                plan.problems.push(Problem { object: owner.clone(), reason, message });
                continue;
            }
            device_sysctls(plan, vrf, links, facts);
        }
        let devices = match vrf.mode {
            VrfMode::Create => Some(&mut plan.devices.vrfs),
            VrfMode::Adopt => Some(&mut plan.devices.adopted),
            VrfMode::TableOnly => None,
        };
        devices.map(|devices| devices.insert(vrf.name.clone(), vrf.table));
        for interface in &vrf.interfaces {
            let owner = interface.owners.first().unwrap_or(owner);
            let planned = Interface {
                vlan: interface.vlan.as_ref().map(|vlan| VlanDevice {
                    parent: vlan.parent.clone(),
                    id: vlan.id,
                    mtu: vlan.mtu,
                }),
                adopted: vrf.mode == VrfMode::Adopt,
                addresses: interface.addresses.iter().copied().collect(),
                vrf: device.clone(),
                preserve: interface.preserve_addresses,
            };
            match interface_conflict(interface, &planned, links, facts) {
                Ok(link) => {
                    interface_sysctls(plan, vrf, link, &planned, facts);
                    plan.devices.interfaces.insert(interface.name.clone(), planned);
                }
                Err((reason, message)) => {
                    if reason == reason::INTERFACE_NOT_FOUND {
                        plan.devices.interfaces.insert(interface.name.clone(), planned);
                    }
                    plan.problems.push(Problem { object: owner.clone(), reason, message });
                }
            }
        }
    }
}

type Conflict = (&'static str, String);

/// Why the VRF device cannot be made or adopted.
fn device_conflict(vrf: &Vrf, links: &Links) -> Result<(), Conflict> {
    let Vrf { name, table, .. } = vrf;
    let present = links.values().find(|link| link.name == *name);
    let other =
        links.values().find(|link| link.vrf_table == Some(*table) && link.name != *name && !ours(link));
    match (present, vrf.mode) {
        (Some(link), _) if link.kind != "vrf" => {
            let kind = if link.kind.is_empty() { "physical" } else { &link.kind };
            Err((
                reason::DEVICE_MISMATCH,
                format!("the name {name} belongs to a device of kind {kind}: rename that, or the VRF"),
            ))
        }
        (Some(link), mode) if link.vrf_table != Some(*table) && !(mode == VrfMode::Create && ours(link)) => {
            let has = link.vrf_table.unwrap_or_default();
            Err((
                reason::VRF_TABLE_MISMATCH,
                format!(
                    "VRF device {name} has table {has}, and VRF {name} is to have {table}: use table {has}, or another name"
                ),
            ))
        }
        (None, _) if other.is_some() => {
            let device = other.map(|link| link.name.as_str()).unwrap_or_default();
            Err((
                reason::TABLE_REUSED,
                format!(
                    "VRF device {device} has table {table} already, which VRF {name} asks for: use that name, or another table"
                ),
            ))
        }
        (None, VrfMode::Adopt) => Err((
            reason::INTERFACE_NOT_FOUND,
            format!(
                "VRF device {name} does not exist (yet): Adopt waits until somebody makes it; with Create, Backtrail does"
            ),
        )),
        _ => Ok(()),
    }
}

/// The link of an interface, or why nothing can be done with it.
fn interface_conflict<'a>(
    interface: &VrfInterface,
    planned: &Interface,
    links: &'a Links,
    facts: &NodeFacts,
) -> Result<&'a Link, Conflict> {
    let name = &interface.name;
    let Some(link) = links.values().find(|link| link.name == *name) else {
        return Err((reason::INTERFACE_NOT_FOUND, not_found(name, planned)));
    };
    if let Some(vlan) = planned.vlan.as_ref().filter(|_| !ours(link)) {
        let parent = link.lower.and_then(|lower| links.get(&lower)).map(|parent| parent.name.as_str());
        if link.vlan != Some(vlan.id) || parent.is_some_and(|parent| parent != vlan.parent) {
            let is = match (link.vlan, parent) {
                (Some(id), Some(parent)) => format!("VLAN {id} on {parent}"),
                _ => "no such VLAN device".to_owned(),
            };
            let message = format!(
                "{name} is to be VLAN {} on {}, and somebody else's {name} is {is}: use another name",
                vlan.id, vlan.parent
            );
            return Err((reason::DEVICE_MISMATCH, message));
        }
    }
    let master = link.master.and_then(|master| links.get(&master));
    let movable = |master: &Link| {
        may_leave(link, master, facts.moved.get(&link.ifindex))
            || planned.vrf.as_ref().is_some_and(|vrf| vrf.name == master.name)
    };
    match master.filter(|master| planned.vrf.is_some() && !movable(master)) {
        Some(master) => Err((
            reason::INTERFACE_HAS_CONTROLLER,
            format!(
                "{name} is a member of {} ({}), which somebody else made: take it out there (`ip link set {name} nomaster`), or list {} instead",
                master.name, master.kind, master.name
            ),
        )),
        None => Ok(link),
    }
}

fn not_found(name: &str, planned: &Interface) -> String {
    match &planned.vlan {
        None => {
            format!("interface {name} does not exist on this node (yet): it is used as soon as it appears")
        }
        Some(_) if planned.adopted => format!(
            "VLAN interface {name} does not exist (yet): Adopt waits until somebody makes it; with Create, Backtrail does"
        ),
        Some(vlan) => {
            format!("VLAN interface {name} could not be made (yet): does its parent {} exist?", vlan.parent)
        }
    }
}

fn set(plan: &mut Plan, key: String, value: &str) {
    plan.sysctls.insert(key, value.to_owned());
}

/// What a VRF device needs: services that are bound to no device accept its packets, and it forwards where the node
/// does (the kernel asks the VRF device, not its member; Documentation/networking/vrf.rst).
fn device_sysctls(plan: &mut Plan, vrf: &Vrf, links: &Links, facts: &NodeFacts) {
    let Some(device) = links.values().find(|link| link.name == vrf.name) else { return };
    for protocol in ["tcp", "udp"] {
        set(plan, format!("net/ipv4/{protocol}_l3mdev_accept"), "1");
    }
    forward(plan, device, facts);
}

fn forward(plan: &mut Plan, link: &Link, facts: &NodeFacts) {
    for family in Family::ALL.into_iter().filter(|family| facts.forwarding.contains(family)) {
        set(plan, format!("net/{}/conf/{}/forwarding", family.sysctl(), link.name), "1");
    }
}

/// What an interface of a VRF needs. The kernel takes the larger of `all` and the interface's own rp_filter.
fn interface_sysctls(plan: &mut Plan, vrf: &Vrf, link: &Link, planned: &Interface, facts: &NodeFacts) {
    let name = &link.name;
    if planned.vrf.is_some() && planned.preserve {
        set(plan, format!("net/ipv6/conf/{name}/keep_addr_on_down"), "1");
    }
    // Else the kernel takes the host's addresses of a network away with the one of ours that was there before them.
    if planned.addresses.iter().any(|net| net.addr().is_ipv4()) && !ours(link) {
        set(plan, format!("net/ipv4/conf/{name}/promote_secondaries"), "1");
    }
    if ours(link) || planned.vrf.is_some() {
        forward(plan, link, facts);
    }
    // The check knows VRF devices, but no `iif` rules: for a table without a device it looks into main.
    let table = if planned.vrf.is_some() { vrf.table } else { TABLE_MAIN };
    let filter = match vrf.rp_filter {
        RpFilter::Auto if facts.defaults.contains(&(table, Family::Ipv4)) => "2",
        RpFilter::Auto => "0",
        RpFilter::Loose => "2",
        RpFilter::Strict => "1",
        RpFilter::Unmanaged => return,
    };
    set(plan, format!("net/ipv4/conf/{name}/rp_filter"), filter);
    // Where marks choose routes, the check must look as the packet's own lookup does.
    set(plan, format!("net/ipv4/conf/{name}/src_valid_mark"), "1");
}
