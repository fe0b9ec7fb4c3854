//! Policy rules on the wire: `struct fib_rule_hdr` and its attributes (include/uapi/linux/fib_rules.h).
//!
//! rtnetlink's builders have neither protocol nor ports nor goto: attributes are pushed by hand.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::Nla as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{
    RuleAction as WireAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange,
};

use crate::model::{Family, Rule, RuleAction};

/// FRA_SPORT_MASK and FRA_DPORT_MASK (Linux 6.15): all ones beside every single port.
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;

/// The message's address family.
pub(super) fn family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// The message that adds or deletes `rule`.
pub(super) fn encode(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.family);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(rule.protocol.into()));
    if let Some(source) = &rule.source {
        message.header.src_len = source.prefix_len();
        attributes.push(RuleAttribute::Source(source.network()));
    }
    if let Some(destination) = &rule.destination {
        message.header.dst_len = destination.prefix_len();
        attributes.push(RuleAttribute::Destination(destination.network()));
    }
    attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.oif.clone().map(RuleAttribute::Oifname));
    attributes.extend(rule.ip_protocol.map(|protocol| RuleAttribute::IpProtocol(i32::from(protocol).into())));
    attributes.extend(
        rule.destination_ports
            .map(|(start, end)| RuleAttribute::DestinationPortRange(RulePortRange { start, end })),
    );
    message.header.action = match rule.action {
        RuleAction::Lookup(table) => {
            attributes.push(RuleAttribute::Table(table));
            WireAction::ToTable
        }
        RuleAction::L3mdev => {
            attributes.push(RuleAttribute::L3MDev(true));
            WireAction::ToTable
        }
        RuleAction::Goto(priority) => {
            attributes.push(RuleAttribute::Goto(priority));
            WireAction::Goto
        }
        RuleAction::Nop => WireAction::Nop,
        RuleAction::Unreachable => WireAction::Unreachable,
        RuleAction::Blackhole => WireAction::Blackhole,
        RuleAction::Prohibit => WireAction::Prohibit,
        RuleAction::Other(action) => action.into(),
    };
    message
}

/// A rule of a dump or a notification. Rules with selectors that [`Rule`] does not hold come out with
/// [`RuleAction::Other`], so that they are never taken for a rule of ours.
pub(super) fn decode(message: &RuleMessage) -> Option<Rule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let mut rule = Rule::all(family, 0, RuleAction::Nop, 0);
    let mut table = u32::from(message.header.table);
    let mut target = 0;
    let mut l3mdev = false;
    let mut foreign = message.header.tos != 0 || message.header.flags.contains(RuleFlags::Invert);
    let prefix = |addr: IpAddr, len| IpNet::new(addr, len).ok().map(|net| net.trunc());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::Source(addr) => rule.source = prefix(*addr, message.header.src_len),
            RuleAttribute::Destination(addr) => rule.destination = prefix(*addr, message.header.dst_len),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
            RuleAttribute::IpProtocol(protocol) => {
                rule.ip_protocol = u8::try_from(i32::from(*protocol)).ok();
            }
            RuleAttribute::DestinationPortRange(range) => {
                rule.destination_ports = Some((range.start, range.end));
            }
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Goto(priority) => target = *priority,
            RuleAttribute::L3MDev(on) => l3mdev = *on,
            other => foreign |= selects(other),
        }
    }
    rule.action = match message.header.action {
        action if foreign => RuleAction::Other(action.into()),
        WireAction::ToTable if l3mdev => RuleAction::L3mdev,
        WireAction::ToTable => RuleAction::Lookup(table),
        WireAction::Goto => RuleAction::Goto(target),
        WireAction::Nop => RuleAction::Nop,
        WireAction::Unreachable => RuleAction::Unreachable,
        WireAction::Blackhole => RuleAction::Blackhole,
        WireAction::Prohibit => RuleAction::Prohibit,
        action => RuleAction::Other(action.into()),
    };
    Some(rule)
}

/// Whether an attribute that [`Rule`] does not hold changes what the rule matches or does. The kernel dumps some
/// that say nothing.
fn selects(attribute: &RuleAttribute) -> bool {
    match attribute {
        RuleAttribute::SuppressPrefixLen(len) => *len != u32::MAX,
        RuleAttribute::SuppressIfGroup(group) => *group != u32::MAX,
        RuleAttribute::TunId(id) => *id != 0,
        RuleAttribute::Other(nla) => match nla.kind() {
            FRA_SPORT_MASK | FRA_DPORT_MASK => {
                let mut mask = vec![0; nla.value_len()];
                nla.emit_value(&mut mask);
                mask.iter().any(|byte| *byte != u8::MAX)
            }
            _ => nla.value_len() > 0,
        },
        _ => true,
    }
}

/// Whether the kernel, asked to delete `asked`, would take `rule` for it: what the request leaves out matches
/// anything (net/core/fib_rules.c, `rule_find`).
pub(super) fn deletes(asked: &Rule, rule: &Rule) -> bool {
    fn matches<T: PartialEq>(asked: &Option<T>, has: &Option<T>) -> bool {
        asked.is_none() || asked == has
    }
    let same_action = match (asked.action, rule.action) {
        (RuleAction::Goto(_), RuleAction::Goto(_)) | (_, RuleAction::Other(_)) => true,
        (asked, has) => asked == has,
    };
    asked.family == rule.family
        && asked.priority == rule.priority
        && asked.protocol == rule.protocol
        && same_action
        && matches(&asked.source, &rule.source)
        && matches(&asked.destination, &rule.destination)
        && matches(&asked.iif, &rule.iif)
        && matches(&asked.oif, &rule.oif)
        && matches(&asked.ip_protocol, &rule.ip_protocol)
        && matches(&asked.destination_ports, &rule.destination_ports)
}
