//! From the plan to the bytes of the maps. Pure: what survives a restart (slots of interfaces, positions in
//! `rp_ifaces`, ids of paths) is in [`Numbers`], which is read back from the pinned maps.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use backtrail_ebpf_common::maps::{self, Globals, Iface, MacKey, Path, PortPrefix, Prefix4, Prefix6};
use ipnet::IpNet;

use crate::intent::types::PolicyProtocol;
use crate::model::Family;
use crate::plan::steering::{Learn, PathKey, PathKind, SteeredInterface, SteeringPlan};

/// Bits of the group before the data of a trie's key.
const GROUP_BITS: u32 = 32;
/// Bytes of an Ethernet header.
const ETHERNET: u16 = 14;

/// A trie's key: prefix length with the group's 32 bits, and data.
pub(super) type TrieKey<K> = (u32, K);

/// What the maps shall hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// By position.
    pub(super) ifaces: BTreeMap<u32, Iface>,
    /// By id.
    pub(super) paths: BTreeMap<u32, Path>,
    pub(super) macs: BTreeMap<MacKey, u32>,
    pub(super) vips4: BTreeMap<TrieKey<Prefix4>, u32>,
    pub(super) vips6: BTreeMap<TrieKey<Prefix6>, u32>,
    pub(super) never4: BTreeMap<TrieKey<Prefix4>, u32>,
    pub(super) never6: BTreeMap<TrieKey<Prefix6>, u32>,
    pub(super) ports: BTreeMap<TrieKey<PortPrefix>, u32>,
    /// Slots that were given out now: their counters begin at zero.
    pub(super) new_slots: BTreeSet<u32>,
    /// Interfaces and paths that found no room.
    pub(super) full: Vec<(String, u32)>,
}

/// The numbers that are given out, and keep their meaning while anything in the kernel names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Position in `rp_ifaces` and slot, by ifindex.
    ifaces: BTreeMap<u32, (u32, u32)>,
    /// Id, by path.
    paths: BTreeMap<PathKey, u32>,
    /// Paths that no plan names any more, though flows may.
    retired: BTreeMap<u32, Path>,
}

impl Numbers {
    /// Reads them back from what the pinned maps hold.
    pub(super) fn adopt(ifaces: &BTreeMap<u32, Iface>, paths: &BTreeMap<u32, Path>) -> Self {
        let used = ifaces.iter().filter(|(_, iface)| iface.ifindex != 0);
        let mut numbers = Self {
            ifaces: used.map(|(position, iface)| (iface.ifindex, (*position, iface.slot))).collect(),
            ..Self::default()
        };
        for (id, path) in paths {
            let Some(key) = path_key(path) else { continue };
            match numbers.paths.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(*id)),
                Entry::Occupied(_) => drop(numbers.retired.insert(*id, *path)),
            }
        }
        numbers
    }

    /// The plan as map contents. `current` is what `rp_paths` holds now.
    pub(super) fn lay_out(&mut self, plan: &SteeringPlan, current: &BTreeMap<u32, Path>) -> Layout {
        let mut layout = Layout::default();
        self.ifaces.retain(|ifindex, _| plan.interfaces.contains_key(ifindex));
        self.retire(plan, current);
        for (ifindex, interface) in &plan.interfaces {
            if self.place(*ifindex, &mut layout).is_none() {
                layout.full.push((format!("interface {}", interface.name), maps::SLOTS - 1));
            }
        }
        self.lay_out_paths(plan, &mut layout);
        for (key, path) in &plan.macs {
            if let Some(id) = self.paths.get(path) {
                let family = family_number(key.family);
                layout.macs.insert(MacKey { ifindex: key.ifindex, mac: key.mac, family }, *id);
            }
        }
        for (ifindex, interface) in &plan.interfaces {
            if let Some(&(position, slot)) = self.ifaces.get(ifindex) {
                layout.ifaces.insert(position, self.iface(*ifindex, slot, interface));
                if let Some(learn) = &interface.learn {
                    layout.add_lists(slot, learn);
                }
            }
        }
        for prefix in &plan.never {
            layout.add_never(0, prefix, maps::NEVER_PROTECTED);
        }
        layout
    }

    /// Position and slot of an interface.
    fn place(&mut self, ifindex: u32, layout: &mut Layout) -> Option<(u32, u32)> {
        if let Some(numbers) = self.ifaces.get(&ifindex) {
            return Some(*numbers);
        }
        let taken = |position: &u32| self.ifaces.values().any(|(other, _)| other == position);
        let used: BTreeSet<u32> = self.ifaces.values().map(|(_, slot)| *slot).collect();
        let mut positions = (0..maps::IFACE_PROBES).map(|probe| maps::iface_index(ifindex, probe));
        let position = positions.find(|position| !taken(position))?;
        let slot = (1..maps::SLOTS).find(|slot| !used.contains(slot))?;
        layout.new_slots.insert(slot);
        self.ifaces.insert(ifindex, (position, slot));
        Some((position, slot))
    }

    /// Moves paths that the plan does not name to the retired ones, and back.
    fn retire(&mut self, plan: &SteeringPlan, current: &BTreeMap<u32, Path>) {
        let gone: Vec<PathKey> =
            self.paths.keys().filter(|key| !plan.paths.contains_key(key)).copied().collect();
        for key in gone {
            if let Some(id) = self.paths.remove(&key)
                && let Some(path) = current.get(&id)
            {
                self.retired.insert(id, *path);
            }
        }
        let back: Vec<(PathKey, u32)> = self
            .retired
            .iter()
            .filter_map(|(id, path)| Some((path_key(path)?, *id)))
            .filter(|(key, _)| plan.paths.contains_key(key))
            .collect();
        for (key, id) in back {
            if let Entry::Vacant(entry) = self.paths.entry(key) {
                entry.insert(id);
                self.retired.remove(&id);
            }
        }
    }

    fn lay_out_paths(&mut self, plan: &SteeringPlan, layout: &mut Layout) {
        for (key, planned) in &plan.paths {
            let Some(id) = self.path_id(*key) else {
                layout.full.push((format!("the way back by ifindex {}", key.ifindex), maps::PATHS - 1));
                continue;
            };
            let slot = self.ifaces.get(&key.ifindex).map_or(0, |(_, slot)| *slot);
            layout.paths.insert(id, path(*key, planned, slot));
        }
        for (id, old) in &mut self.retired {
            *old = retired(old, plan, self.ifaces.get(&old.ifindex).map_or(0, |(_, slot)| *slot));
            layout.paths.insert(*id, *old);
        }
    }

    fn path_id(&mut self, key: PathKey) -> Option<u32> {
        if let Some(id) = self.paths.get(&key) {
            return Some(*id);
        }
        let used: BTreeSet<u32> = self.paths.values().chain(self.retired.keys()).copied().collect();
        let id = (maps::PATH_NODE + 1..maps::PATHS).find(|id| !used.contains(id))?;
        self.paths.insert(key, id);
        Some(id)
    }

    fn iface(&self, ifindex: u32, slot: u32, interface: &SteeredInterface) -> Iface {
        let id = |key: &PathKey| self.paths.get(key).copied().unwrap_or(maps::PATH_NODE);
        let learn = interface.learn.as_ref();
        let mut flags = 0;
        if let Some(learn) = learn {
            flags |= maps::IFACE_LEARN;
            flags |= if learn.virtual_ips.is_empty() { 0 } else { maps::IFACE_HAS_VIPS };
            let excepts = !learn.except_sources.is_empty() || !learn.except_ports.is_empty();
            flags |= if excepts { maps::IFACE_HAS_EXCEPT } else { 0 };
        }
        flags |= if interface.uplink { maps::IFACE_TRANSIT } else { 0 };
        // Devices on top of this one may live in another namespace, unseen: the MAC tells.
        let own_mac = interface.ethernet && !interface.sink && interface.mac.is_some();
        flags |= if own_mac { maps::IFACE_CHECK_MAC } else { 0 };
        flags |= if interface.tagged { maps::IFACE_TAGGED } else { 0 };
        Iface {
            ifindex,
            slot,
            flags,
            zone: interface.zone,
            protocols: learn.map_or(0, |learn| protocols(&learn.protocols)),
            path4: learn.map_or(maps::PATH_NODE, |learn| id(&learn.default_ipv4)),
            path6: learn.map_or(maps::PATH_NODE, |learn| id(&learn.default_ipv6)),
            mac: interface.mac.unwrap_or_default(),
            l2_length: if interface.ethernet { ETHERNET } else { 0 },
        }
    }

    /// Ids that only old flows may hold.
    pub(super) fn retired(&self) -> impl Iterator<Item = u32> {
        self.retired.keys().copied()
    }

    /// Gives an id back: no flow holds it any more.
    pub(super) fn free(&mut self, id: u32) {
        self.retired.remove(&id);
    }
}

impl Layout {
    fn add_lists(&mut self, slot: u32, learn: &Learn) {
        for prefix in &learn.virtual_ips {
            match trie_key(slot, prefix) {
                (Some(key), _) => self.vips4.insert(key, 1),
                (_, key) => key.and_then(|key| self.vips6.insert(key, 1)),
            };
        }
        for prefix in &learn.except_sources {
            self.add_never(slot, prefix, maps::NEVER_EXCEPTED);
        }
        for (first, last) in &learn.except_ports {
            for (port, length) in port_prefixes(*first, *last) {
                let data = PortPrefix { group: slot, port: port.to_be_bytes(), reserved: [0; 2] };
                self.ports.insert((GROUP_BITS + length, data), 1);
            }
        }
    }

    fn add_never(&mut self, group: u32, prefix: &IpNet, why: u32) {
        match trie_key(group, prefix) {
            (Some(key), _) => self.never4.insert(key, why),
            (_, key) => key.and_then(|key| self.never6.insert(key, why)),
        };
    }
}

/// A prefix as a key of the IPv4 or of the IPv6 trie.
fn trie_key(group: u32, prefix: &IpNet) -> (Option<TrieKey<Prefix4>>, Option<TrieKey<Prefix6>>) {
    let length = GROUP_BITS + u32::from(prefix.prefix_len());
    match prefix.network() {
        IpAddr::V4(v4) => (Some((length, Prefix4 { group, address: v4.octets() })), None),
        IpAddr::V6(v6) => (None, Some((length, Prefix6 { group, address: v6.octets() }))),
    }
}

/// The fewest prefixes that cover a range of ports: (first port, bits).
fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    let mut prefixes = Vec::new();
    while next < end {
        let aligned = next.trailing_zeros().min(u16::BITS);
        let fitting = (end - next).ilog2();
        let bits = aligned.min(fitting);
        // `next` is below 2^16 here.
        prefixes.push((u16::try_from(next).unwrap_or(u16::MAX), u16::BITS - bits));
        next += 1 << bits;
    }
    prefixes
}

fn protocols(protocols: &BTreeSet<PolicyProtocol>) -> u32 {
    let bit = |protocol: &PolicyProtocol| match protocol {
        PolicyProtocol::TCP => maps::PROTO_TCP,
        PolicyProtocol::UDP => maps::PROTO_UDP,
        PolicyProtocol::SCTP => maps::PROTO_SCTP,
        PolicyProtocol::ICMP => maps::PROTO_ICMP,
    };
    protocols.iter().map(bit).fold(0, |all, bit| all | bit)
}

fn family_number(family: Family) -> u16 {
    match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    }
}

/// An address in sixteen bytes, IPv4 in the first four, and its family.
fn address_bytes(address: Option<IpAddr>) -> ([u8; 16], u32) {
    match address {
        None => ([0; 16], 0),
        Some(IpAddr::V6(v6)) => (v6.octets(), 6),
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4)
        }
    }
}

/// The reverse of [`address_bytes`].
pub(super) fn address(bytes: [u8; 16], family: u32) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(IpAddr::from([a, b, c, d])),
        6 => Some(IpAddr::from(bytes)),
        _ => None,
    }
}

fn path(key: PathKey, planned: &crate::plan::steering::Path, slot: u32) -> Path {
    let (kind, gateway) = match key.kind {
        PathKind::Gateway(gateway) => (maps::PATH_GATEWAY, Some(gateway)),
        PathKind::Auto(only) => (maps::PATH_AUTO, only),
        PathKind::Route => (maps::PATH_ROUTE, None),
        PathKind::SourceMac => (maps::PATH_MAC, None),
    };
    let (gateway, gateway_family) = address_bytes(gateway);
    let shadow = if planned.enforce { 0 } else { maps::PATH_FLAG_SHADOW };
    let drop = if planned.drop_when_down { maps::PATH_FLAG_DROP } else { 0 };
    Path {
        ifindex: key.ifindex,
        slot,
        kind,
        family: u32::from(family_number(key.family)),
        gateway_family,
        gateway,
        mtu: planned.mtu,
        state: if planned.up { maps::PATH_UP } else { maps::PATH_DOWN },
        table: planned.table,
        zone: planned.zone,
        flags: shadow | drop,
        mac: planned.mac.unwrap_or_default(),
        l2_length: if planned.ethernet { ETHERNET } else { 0 },
    }
}

/// The path that an entry of `rp_paths` is; `None` where the id is free.
pub(super) fn path_key(path: &Path) -> Option<PathKey> {
    let gateway = address(path.gateway, path.gateway_family);
    let kind = match path.kind {
        maps::PATH_GATEWAY => PathKind::Gateway(gateway?),
        maps::PATH_AUTO => PathKind::Auto(gateway),
        maps::PATH_ROUTE => PathKind::Route,
        maps::PATH_MAC => PathKind::SourceMac,
        _ => return None,
    };
    let family = if path.family == 6 { Family::Ipv6 } else { Family::Ipv4 };
    (path.ifindex != 0).then_some(PathKey { ifindex: path.ifindex, family, kind })
}

/// A path that only old flows hold: it stays as it is while its interface is listed, and follows the interface's
/// mode and state; without the interface it is down, and replies follow the FIB.
fn retired(old: &Path, plan: &SteeringPlan, slot: u32) -> Path {
    let learn = plan.interfaces.get(&old.ifindex).and_then(|interface| interface.learn.as_ref());
    let default = learn.map(|learn| if old.family == 6 { learn.default_ipv6 } else { learn.default_ipv4 });
    let Some((key, now)) =
        default.zip(path_key(old)).and_then(|(default, key)| Some((key, plan.paths.get(&default)?)))
    else {
        return Path { state: maps::PATH_DOWN, flags: 0, slot, ..*old };
    };
    let failed = match key.kind {
        PathKind::Gateway(to) | PathKind::Auto(Some(to)) => plan.failed.contains(&(key.ifindex, to)),
        _ => false,
    };
    let interface_up = plan.paths.iter().any(|(other, path)| other.ifindex == key.ifindex && path.up);
    path(key, &crate::plan::steering::Path { up: interface_up && !failed, ..*now }, slot)
}

/// Settings of all interfaces; what the plan does not say stays as it was.
pub(super) fn globals(plan: &SteeringPlan, features: u32, before: &Globals) -> Globals {
    // One tick more: a flow is never forgotten early.
    let ticks = |idle: std::time::Duration| {
        maps::ticks(u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX)).saturating_add(1)
    };
    Globals {
        features,
        tcp_idle: ticks(plan.flows.tcp_idle),
        udp_idle: ticks(plan.flows.udp_idle),
        ..*before
    }
}

#[cfg(test)]
mod tests;
