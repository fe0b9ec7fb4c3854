//! Which interfaces get programs.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::paths::default_path;
use super::{
    Learn, MAX_INTERFACES, SINK_NAME, SteeredInterface, SteeringCondition, SteeringInput, SteeringPlan,
};
use crate::intent::types::{ObjectRef, ReturnPathInterface};
use crate::model::{Family, Link, TABLE_MAIN};
use crate::status::reason;

/// ARPHRD_ETHER
const ARPHRD_ETHER: u16 = 1;
/// ARPHRD_LOOPBACK: its frames have an Ethernet header too.
const ARPHRD_LOOPBACK: u16 = 772;

/// A link that a `ReturnPath` lists.
pub(super) struct Listed<'a> {
    pub(super) link: &'a Link,
    pub(super) asked: Cow<'a, ReturnPathInterface>,
}

/// The links that are listed, by ifindex. An exact name wins over globs; those that match one link are joined, with the
/// gateway source of the first.
pub(super) fn listed<'a>(
    input: &SteeringInput<'a>,
    conditions: &mut Vec<SteeringCondition>,
) -> Vec<Listed<'a>> {
    let mut found: BTreeMap<u32, Listed<'a>> = BTreeMap::new();
    let (globs, names): (Vec<_>, Vec<_>) =
        input.intent.return_paths.iter().partition(|asked| is_glob(&asked.name));
    for asked in names {
        let Some(link) = input.links.iter().find(|link| link.name == asked.name) else {
            conditions.push(not_found(&asked.owners, &asked.name));
            continue;
        };
        if let Some(cause) = unlistable(link, input.links) {
            conditions.push(condition(&asked.owners, &asked.name, reason::UNSUPPORTED, cause));
        } else {
            found.insert(link.ifindex, Listed { link, asked: Cow::Borrowed(asked) });
        }
    }
    let exact: BTreeSet<u32> = found.keys().copied().collect();
    for asked in globs {
        let mut matched = false;
        for link in input.links.iter().filter(|link| glob_match::glob_match(&asked.name, &link.name)) {
            if unlistable(link, input.links).is_some() {
                continue;
            }
            matched = true;
            match found.entry(link.ifindex) {
                Entry::Vacant(entry) => {
                    entry.insert(Listed { link, asked: Cow::Borrowed(asked) });
                }
                Entry::Occupied(_) if exact.contains(&link.ifindex) => {}
                Entry::Occupied(mut entry) => conditions.extend(entry.get_mut().join(asked)),
            }
        }
        if !matched {
            conditions.push(condition(
                &asked.owners,
                &asked.name,
                reason::INTERFACE_NOT_FOUND,
                "no interface matches this pattern yet; it takes effect when one appears".to_owned(),
            ));
        }
    }
    let mut listed: Vec<_> = found.into_values().collect();
    for left_out in listed.split_off(listed.len().min(MAX_INTERFACES)) {
        let message =
            format!("more than {MAX_INTERFACES} interfaces are listed; list fewer or narrow the pattern");
        conditions.push(condition(&left_out.asked.owners, &left_out.link.name, reason::UNSUPPORTED, message));
    }
    listed
}

impl<'a> Listed<'a> {
    /// Adds what another pattern asks for this link; says so where the two want different gateways.
    fn join(&mut self, other: &'a ReturnPathInterface) -> Option<SteeringCondition> {
        let mismatch = (self.asked.gateway != other.gateway).then(|| {
            let message = format!(
                "{} matches {} and {}, with different gateway sources: that of {} is used",
                self.link.name, self.asked.name, other.name, self.asked.name
            );
            condition(&other.owners, &other.name, reason::GATEWAY_MISMATCH, message)
        });
        self.asked = Cow::Owned(self.asked.joined(other));
        mismatch
    }
}

/// Adds the listed interfaces and those that a reply could wrongly leave by.
pub(super) fn plan(input: &SteeringInput<'_>, listed: &[Listed<'_>], plan: &mut SteeringPlan) {
    for Listed { link, asked } in listed {
        let interface =
            SteeredInterface { learn: Some(learn(input, link, asked)), ..steered(input, link, true) };
        plan.interfaces.insert(link.ifindex, interface);
    }
    if let Some(sink) = input.links.iter().find(|link| link.name == SINK_NAME) {
        plan.interfaces.insert(sink.ifindex, steered(input, sink, false));
    }
    let mut others = egress(input, listed, &mut plan.conditions);
    // Uplinks first: should not all of them fit, those towards pods are the ones that no reply needs.
    others.sort_by_key(|link| (!uplink(input, link), link.ifindex));
    let mut left_out = 0;
    for link in others {
        if plan.interfaces.len() < MAX_INTERFACES {
            plan.interfaces.entry(link.ifindex).or_insert_with(|| steered(input, link, uplink(input, link)));
        } else if !plan.interfaces.contains_key(&link.ifindex) {
            left_out += 1;
        }
    }
    if left_out > 0 {
        let message = format!(
            "{left_out} interfaces carry routes but have no program, for {MAX_INTERFACES} is the limit: name those \
             that replies could wrongly leave by"
        );
        plan.conditions.push(SteeringCondition {
            owners: owners(listed),
            item: "egressInterfaces".to_owned(),
            reason: reason::UNSUPPORTED,
            message,
        });
    }
}

/// The interfaces with an egress program beside the listed ones.
fn egress<'a>(
    input: &SteeringInput<'a>,
    listed: &[Listed<'_>],
    conditions: &mut Vec<SteeringCondition>,
) -> Vec<&'a Link> {
    let named = &input.intent.steering.egress_interfaces;
    let matches = |name: &String, link: &Link| {
        link.name == *name || is_glob(name) && glob_match::glob_match(name, &link.name)
    };
    for name in named {
        if !input.links.iter().any(|link| matches(name, link)) {
            let mut absent = not_found(&owners(listed), name);
            absent.item = format!("egressInterfaces[{name}]");
            conditions.push(absent);
        }
    }
    let wanted = |link: &&Link| {
        if named.is_empty() {
            link.up && input.carrying.contains(&link.ifindex)
        } else {
            named.iter().any(|name| matches(name, link))
        }
    };
    let links = input.links.iter();
    links.filter(wanted).filter(|link| unsuitable(link, input.links).is_none()).collect()
}

/// Whether routes lead to routers by this interface.
fn uplink(input: &SteeringInput<'_>, link: &Link) -> bool {
    let named =
        |family| input.gateways.get(&(link.ifindex, family)).is_some_and(|gateways| !gateways.is_empty());
    Family::ALL.into_iter().any(named)
}

/// All objects that list interfaces, without repetition.
pub(super) fn owners(listed: &[Listed<'_>]) -> Vec<ObjectRef> {
    let all: BTreeSet<_> = listed.iter().flat_map(|listed| &listed.asked.owners).cloned().collect();
    all.into_iter().collect()
}

pub(super) fn condition(
    owners: &[ObjectRef],
    name: &str,
    reason: &'static str,
    message: String,
) -> SteeringCondition {
    SteeringCondition { owners: owners.to_vec(), item: format!("interfaces[{name}]"), reason, message }
}

fn not_found(owners: &[ObjectRef], name: &str) -> SteeringCondition {
    let message = format!("interface {name} does not exist (yet); it takes effect when it appears");
    condition(owners, name, reason::INTERFACE_NOT_FOUND, message)
}

fn is_glob(name: &str) -> bool {
    name.contains(['*', '?', '[', '{'])
}

/// Why no program of ours would ever act on this link.
fn unsuitable(link: &Link, links: &[Link]) -> Option<String> {
    if link.name == SINK_NAME {
        return Some(format!("{SINK_NAME} is the agent's own device"));
    }
    if link.arphrd == ARPHRD_LOOPBACK {
        return Some("nothing from outside arrives on the loopback device".to_owned());
    }
    if link.kind == "vrf" {
        return Some("a VRF device sees its members' packets again: list the members".to_owned());
    }
    let master = master(link, links)?;
    (master.kind != "vrf").then(|| {
        let (kind, name) = (&master.kind, &master.name);
        format!("it is a member of {name} ({kind}), which terminates its frames: list {name}")
    })
}

/// Why requests cannot be learned on this link.
fn unlistable(link: &Link, links: &[Link]) -> Option<String> {
    unsuitable(link, links).or_else(|| {
        let name = &indistinct(link, links)?.name;
        Some(format!("it shares the MAC address of {name}, the device below it, which gets its requests too: list {name}"))
    })
}

/// The device below a link that sends with the same MAC (ipvlan, macvlan in passthru mode). A program there would take what is
/// steered to the link for its own misled replies, and send it up again, in a loop.
fn indistinct<'a>(link: &Link, links: &'a [Link]) -> Option<&'a Link> {
    let below = links.iter().find(|below| Some(below.ifindex) == link.lower)?;
    (matches!(link.kind.as_str(), "ipvlan" | "macvlan") && below.mac == link.mac).then_some(below)
}

fn master<'a>(link: &Link, links: &'a [Link]) -> Option<&'a Link> {
    links.iter().find(|candidate| Some(candidate.ifindex) == link.master)
}

fn steered(input: &SteeringInput<'_>, link: &Link, uplink: bool) -> SteeredInterface {
    SteeredInterface {
        name: link.name.clone(),
        zone: zone(input, link),
        table: input.tables.get(&link.ifindex).copied().unwrap_or(TABLE_MAIN),
        mac: link.mac,
        ethernet: ethernet(link),
        tagged: link.keeps_tag,
        uplink,
        sink: link.name == SINK_NAME,
        learn: None,
    }
}

/// The zone of a link: see [`SteeredInterface::zone`].
pub(super) fn zone(input: &SteeringInput<'_>, link: &Link) -> u32 {
    master(link, input.links).and_then(|master| master.vrf_table).unwrap_or(0)
}

pub(super) fn ethernet(link: &Link) -> bool {
    matches!(link.arphrd, ARPHRD_ETHER | ARPHRD_LOOPBACK)
}

fn learn(input: &SteeringInput<'_>, link: &Link, asked: &ReturnPathInterface) -> Learn {
    Learn {
        enforce: asked.enforce,
        drop_on_path_down: asked.drop_on_path_down,
        protocols: asked.protocols.clone(),
        virtual_ips: asked.virtual_ips.iter().map(ipnet::IpNet::trunc).collect(),
        except_sources: asked.except_sources.iter().map(ipnet::IpNet::trunc).collect(),
        except_ports: asked.except_ports.iter().copied().collect(),
        default_ipv4: default_path(input, link.ifindex, Family::Ipv4, asked.gateway),
        default_ipv6: default_path(input, link.ifindex, Family::Ipv6, asked.gateway),
    }
}
