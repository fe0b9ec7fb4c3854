//! Devices against links made of maps: what manifests ask for comes about, what others made survives.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{link, net};
use crate::model::devices::{
    ALIAS, DeviceOp, DeviceRecord, Devices, Interface, SINK_NAME, Subject, VlanDevice, VrfDevice,
};
use crate::model::{Address, Link};
use crate::plan::Links;
use crate::reconcile::device_ops;

/// Controller, table and addresses.
type Shape = (Option<String>, Option<u32>, BTreeSet<String>);

/// The kernel's links with the habits that matter here, and the record.
#[derive(Debug, Clone, PartialEq)]
struct Node {
    links: Links,
    record: DeviceRecord,
    /// Operations that the kernel refused.
    refused: Vec<String>,
}

impl Node {
    /// Two NICs with an address each, and somebody else's VRF device.
    fn new() -> Self {
        let mut node = Self { links: Links::new(), record: DeviceRecord::new(), refused: Vec::new() };
        for (ifindex, address) in [(2, "192.0.2.1/24"), (3, "2001:db8::1/64")] {
            node.links
                .insert(ifindex, Link { addresses: vec![Address::plain(net(address))], ..link(ifindex) });
        }
        let theirs =
            Link { name: "theirs".to_owned(), kind: "vrf".to_owned(), vrf_table: Some(77), ..link(4) };
        node.links.insert(4, theirs);
        node
    }

    fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    fn add(&mut self, name: &str, kind: &str, change: impl FnOnce(&mut Link)) {
        if self.by_name(name).is_some() {
            self.refused.push(format!("{name} exists"));
            return;
        }
        let ifindex = self.links.keys().max().copied().unwrap_or(1) + 1;
        let mut new = Link {
            name: name.to_owned(),
            kind: kind.to_owned(),
            up: false,
            alias: Some(ALIAS.to_owned()),
            ..link(ifindex)
        };
        change(&mut new);
        self.links.insert(ifindex, new);
    }

    fn change(&mut self, link: &Subject, change: impl FnOnce(&mut Link)) {
        match self.links.get_mut(&link.ifindex) {
            Some(link) => change(link),
            None => self.refused.push(format!("{} is not there", link.name)),
        }
    }

    fn delete(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
        self.links.retain(|_, link| link.lower != Some(ifindex));
        for link in self.links.values_mut().filter(|link| link.master == Some(ifindex)) {
            link.master = None;
        }
    }

    fn apply(&mut self, op: &DeviceOp) {
        match op {
            DeviceOp::MakeVrf(VrfDevice { name, table }) => {
                // As with net.vrf.strict_mode.
                if self.links.values().any(|link| link.vrf_table == Some(*table)) {
                    self.refused.push(format!("table {table} has a device"));
                } else {
                    self.add(name, "vrf", |link| link.vrf_table = Some(*table));
                }
            }
            DeviceOp::MakeVlan(name, parent, VlanDevice { id, mtu, .. }) => {
                self.add(name, "vlan", |link| {
                    (link.vlan, link.lower, link.mtu) = (Some(*id), Some(*parent), mtu.unwrap_or(1500));
                });
            }
            DeviceOp::MakeSink => self.add(SINK_NAME, "dummy", |link| link.up = true),
            DeviceOp::HandOver(link) => self.change(link, |link| link.alias = None),
            DeviceOp::SetUp(link) => self.change(link, |link| link.up = true),
            DeviceOp::SetMtu(link, mtu) => self.change(link, |link| link.mtu = *mtu),
            DeviceOp::Join { link, vrf, table, foreign, .. } => {
                if *foreign {
                    let changed = self.record.entry(link.ifindex).or_default();
                    (changed.member, changed.tables) = (true, [*table].into());
                }
                self.change(link, |link| link.master = Some(*vrf));
            }
            DeviceOp::Leave(link) => self.change(link, |link| link.master = None),
            DeviceOp::Restore(link) | DeviceOp::Disown(link) => {
                let changed = self.record.entry(link.ifindex).or_default();
                changed.disown();
                if changed.added.is_empty() {
                    self.record.remove(&link.ifindex);
                }
            }
            DeviceOp::PutBack(link) => drop(self.record.remove(&link.ifindex)),
            DeviceOp::AddAddress { link, net, foreign } => {
                if *foreign {
                    self.record.entry(link.ifindex).or_default().added.insert(*net);
                }
                self.change(link, |link| link.addresses.push(Address::plain(*net)));
            }
            DeviceOp::RemoveAddress(link, net) => {
                let changed = self.record.entry(link.ifindex).or_default();
                changed.added.remove(net);
                if !changed.member && changed.added.is_empty() {
                    self.record.remove(&link.ifindex);
                }
                self.change(link, |link| link.addresses.retain(|address| address.net != *net));
            }
            DeviceOp::Delete(link) => self.delete(link.ifindex),
            DeviceOp::Forget(ifindex) => drop(self.record.remove(ifindex)),
        }
    }

    /// Passes until nothing is left to do; returns all operations.
    fn settle(&mut self, desired: &Devices) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..20 {
            let ops = device_ops(desired, &self.links, &self.record);
            if ops.is_empty() {
                return said;
            }
            for op in &ops {
                said.push(op.to_string());
                self.apply(op);
            }
        }
        panic!("does not come to rest: {said:?}\n{desired:?}\n{self:?}");
    }

    /// All but the indices of what is ours: those differ with each life.
    fn shape(&self) -> BTreeMap<String, Shape> {
        let name = |ifindex: u32| self.links.get(&ifindex).map(|link| link.name.clone());
        let of = |link: &Link| {
            let addresses = link.addresses.iter().map(|address| address.net.to_string()).collect();
            (link.name.clone(), (link.master.and_then(name), link.vrf_table, addresses))
        };
        self.links.values().map(of).collect()
    }
}

fn vrf(name: &str, table: u32) -> VrfDevice {
    VrfDevice { name: name.to_owned(), table }
}

fn member(of: Option<VrfDevice>) -> Interface {
    Interface { vrf: of, preserve: true, ..Interface::default() }
}

fn vlan(id: u16, of: Option<VrfDevice>) -> Interface {
    let vlan = VlanDevice { parent: "e2".to_owned(), id, mtu: Some(1400) };
    Interface { vlan: Some(vlan), addresses: [net("198.51.100.1/24")].into(), ..member(of) }
}

fn devices(vrfs: &[VrfDevice], interfaces: &[(&str, Interface)]) -> Devices {
    Devices {
        vrfs: vrfs.iter().map(|vrf| (vrf.name.clone(), vrf.table)).collect(),
        interfaces: interfaces.iter().map(|(name, it)| ((*name).to_owned(), it.clone())).collect(),
        ..Devices::default()
    }
}

#[test]
fn a_vrf_device_comes_before_its_members_and_a_member_before_it_is_up() {
    let red = vrf("red", 10001);
    let desired = devices(
        std::slice::from_ref(&red),
        &[("e2.7", vlan(7, Some(red.clone()))), ("e3", member(Some(red.clone())))],
    );
    let mut node = Node::new();
    let said = node.settle(&desired);
    let red = node.by_name("red").unwrap().ifindex;
    assert_eq!(
        said,
        [
            "make VRF device red with table 10001".to_owned(),
            "make VLAN device e2.7: 7 on e2".to_owned(),
            "set red up".to_owned(),
            format!("make e3 a member of VRF device {red}"),
            format!("make e2.7 a member of VRF device {red}"),
            "set e2.7 up".to_owned(),
            "add 198.51.100.1/24 to e2.7".to_owned(),
        ]
    );
    assert!(node.record[&3].member && !node.record.contains_key(&node.by_name("e2.7").unwrap().ifindex));
    assert_eq!(node.refused, Vec::<String>::new());
}

#[test]
fn a_renamed_vrf_lets_its_members_go_before_another_device_has_its_table() {
    let mut node = Node::new();
    node.settle(&devices(&[vrf("red", 10001)], &[("e3", member(Some(vrf("red", 10001))))]));
    let said = node.settle(&devices(&[vrf("blue", 10001)], &[("e3", member(Some(vrf("blue", 10001))))]));
    let blue = node.by_name("blue").unwrap().ifindex;
    let joins = format!("make e3 a member of VRF device {blue}");
    assert_eq!(
        said,
        [
            "take e3 out of its VRF device",
            "delete red",
            "make VRF device blue with table 10001",
            "set blue up",
            &joins
        ]
    );
    assert!(node.record[&3].member, "what it was before is remembered");
    assert_eq!(node.refused, Vec::<String>::new());
}

#[test]
fn an_interface_moves_between_vrfs_in_one_step_and_a_new_table_needs_a_new_device() {
    let (red, blue) = (vrf("red", 10001), vrf("blue", 10002));
    let both = [red.clone(), blue.clone()];
    let mut node = Node::new();
    node.settle(&devices(&both, &[("e3", member(Some(red)))]));
    let said = node.settle(&devices(&both, &[("e3", member(Some(blue.clone())))]));
    assert_eq!(said.len(), 1, "{said:?}");
    let said = node.settle(&devices(&[vrf("red", 10003), blue.clone()], &[("e3", member(Some(blue)))]));
    assert_eq!(
        said,
        ["delete red", "make VRF device red with table 10003", "set red up"],
        "others keep what they have"
    );
}

#[test]
fn an_adopted_device_gets_members_and_stays_when_they_leave() {
    let mut node = Node::new();
    let before = node.clone();
    node.settle(&devices(&[], &[("e3", member(Some(vrf("theirs", 77))))]));
    assert_eq!(node.links[&3].master, Some(4));
    // A device of that name with another table is not the one that was meant.
    let wrong = devices(&[], &[("e2", member(Some(vrf("theirs", 78))))]);
    assert_eq!(
        node.settle(&wrong),
        ["take e3 out of its VRF device", "put back the routes of e3"],
        "and e2 stays"
    );
    assert_eq!(node, before);
}

#[test]
fn what_was_made_is_handed_over_to_who_adopts_it_and_nothing_is_made_for_him() {
    let red = vrf("red", 10001);
    let members = [("e2.7", vlan(7, Some(red.clone()))), ("e3", member(Some(red.clone())))];
    let created = devices(std::slice::from_ref(&red), &members);
    let mut adopted = devices(&[], &members);
    adopted.adopted.insert(red.name, red.table);
    adopted.interfaces.values_mut().for_each(|interface| interface.adopted = true);
    let mut node = Node::new();
    assert_eq!(node.settle(&adopted), Vec::<String>::new(), "nobody has made them yet");
    node.settle(&created);
    let there = node.shape();
    assert_eq!(
        node.settle(&adopted),
        ["hand red over to whoever adopts it", "hand e2.7 over to whoever adopts it"]
    );
    assert_eq!(node.shape(), there);
    assert!(node.links.values().all(|link| link.alias.is_none()));
    assert_eq!(
        node.settle(&Devices::default()),
        ["take e3 out of its VRF device", "put back the routes of e3"],
        "the devices stay, and who was moved goes back"
    );
    // Another VLAN of that name is not what is adopted.
    node.settle(&devices(&[], &[("v", vlan(8, None))]));
    let other = Interface { adopted: true, ..vlan(9, None) };
    assert_eq!(node.settle(&devices(&[], &[("v", other)])), ["delete v"]);
}

/// A NIC of a VRF of ours is taken out by the operator and put into a device of his own.
#[test]
fn what_somebody_puts_elsewhere_stays_there() {
    let listed = devices(&[vrf("red", 10001)], &[("e3", member(Some(vrf("red", 10001))))]);
    let bridge = Link { name: "br0".to_owned(), kind: "bridge".to_owned(), ..link(5) };
    // The VRF device `theirs` is no bridge, and has a table that e3 was never in.
    for (master, desired) in [(5, &listed), (5, &Devices::default()), (4, &listed), (4, &Devices::default())]
    {
        let mut node = Node::new();
        node.links.insert(5, bridge.clone());
        node.settle(&listed);
        node.links.get_mut(&3).unwrap().master = Some(master);
        let said = node.settle(desired);
        assert_eq!(
            said.first().map(String::as_str),
            Some("leave e3 where somebody else has put it"),
            "{said:?}"
        );
        node.settle(&Devices::default());
        assert_eq!(node.links[&3].master, Some(master));
        assert!(node.record.is_empty());
    }
}

#[test]
fn a_member_that_an_earlier_version_recorded_leaves_whatever_vrf_it_is_in() {
    let mut node = Node::new();
    node.settle(&devices(&[], &[("e3", member(Some(vrf("theirs", 77))))]));
    node.record.get_mut(&3).unwrap().tables.clear();
    assert_eq!(
        node.settle(&Devices::default()),
        ["take e3 out of its VRF device", "put back the routes of e3"]
    );
}

#[test]
fn routes_are_put_back_when_the_carrier_is_back() {
    let mut node = Node::new();
    node.settle(&devices(&[vrf("red", 10001)], &[("e3", member(Some(vrf("red", 10001))))]));
    node.record.get_mut(&3).unwrap().routes = vec![crate::model::KernelRoute {
        key: crate::model::RouteKey { table: 254, prefix: net("203.0.113.0/24"), metric: 0 },
        target: crate::model::RouteTarget::Inline(Vec::new()),
        preferred_source: None,
        mtu: None,
        protocol: 4,
        scope_link: false,
    }];
    node.links.get_mut(&3).unwrap().carrier = false;
    assert_eq!(node.settle(&Devices::default()), ["take e3 out of its VRF device", "delete red"]);
    assert!(node.record.contains_key(&3));
    node.links.get_mut(&3).unwrap().carrier = true;
    assert_eq!(node.settle(&Devices::default()), ["put back the routes of e3"]);
    assert!(node.record.is_empty());
}

#[test]
fn a_vlan_with_another_id_is_made_anew_and_waits_for_its_parent_to_be_up() {
    let mut node = Node::new();
    node.settle(&devices(&[], &[("v", vlan(7, None))]));
    node.links.get_mut(&2).unwrap().up = false;
    let said = node.settle(&devices(&[], &[("v", vlan(8, None))]));
    assert_eq!(said, ["delete v", "make VLAN device v: 8 on e2", "add 198.51.100.1/24 to v"]);
    node.links.get_mut(&2).unwrap().up = true;
    assert_eq!(node.settle(&devices(&[], &[("v", vlan(8, None))])), ["set v up"]);
}

#[test]
fn a_vlan_without_an_mtu_follows_its_parents() {
    let mut node = Node::new();
    let with = |mtu| {
        let mut interface = vlan(7, None);
        interface.vlan.as_mut().unwrap().mtu = mtu;
        devices(&[], &[("v", interface)])
    };
    node.settle(&with(Some(1400)));
    let parents = node.links[&2].mtu;
    assert_eq!(node.settle(&with(None)), [format!("set the MTU of v to {parents} bytes")]);
    // As the kernel does it when the parent's falls; then the parent's rises again.
    let index = node.by_name("v").unwrap().ifindex;
    for mtu in [1300, 9000] {
        node.links.get_mut(&2).unwrap().mtu = mtu;
        let of_vlan = &mut node.links.get_mut(&index).unwrap().mtu;
        *of_vlan = mtu.min(*of_vlan);
        node.settle(&with(None));
        assert_eq!(node.links[&index].mtu, mtu);
    }
}

/// What people and programs do to devices.
#[derive(Debug, Clone)]
enum Event {
    Desire(Devices),
    TakeOut(u8),
    Delete(u8),
    Down(u8),
    Address(u8),
}

fn desired() -> impl Strategy<Value = Devices> {
    let names = prop::sample::subsequence(vec!["red", "blue", "green"], 0..=3);
    let tables = prop::collection::vec(10001..10004u32, 3);
    let members = prop::collection::vec(prop::option::of(0..3usize), 4);
    (names, tables, members, any::<bool>(), 7..9u16).prop_map(|(names, tables, members, sink, id)| {
        let mut vrfs: BTreeMap<u32, &str> = BTreeMap::new();
        for (name, table) in names.iter().zip(tables) {
            vrfs.entry(table).or_insert(name);
        }
        let vrfs: Vec<VrfDevice> = vrfs.into_iter().map(|(table, name)| vrf(name, table)).collect();
        let of = |member: &Option<usize>| vrfs.get((*member)?).cloned();
        let interfaces = [
            ("e2", member(of(&members[0]))),
            ("e3", Interface { addresses: [net("10.0.0.3/24")].into(), ..member(of(&members[1])) }),
            ("e2.7", vlan(id, of(&members[2]))),
            ("e2.9", vlan(9, of(&members[3]))),
        ];
        // Half of the time an interface is not listed at all.
        let listed =
            interfaces.into_iter().zip(&members).filter(|(_, member)| member != &&Some(2)).map(|(it, _)| it);
        Devices { sink, ..devices(&vrfs, &listed.collect::<Vec<_>>()) }
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => desired().prop_map(Event::Desire),
        1 => any::<u8>().prop_map(Event::TakeOut),
        1 => any::<u8>().prop_map(Event::Delete),
        1 => any::<u8>().prop_map(Event::Down),
        1 => any::<u8>().prop_map(Event::Address),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn devices_come_to_rest_as_desired_and_leave_no_trace(events in prop::collection::vec(event(), 1..12)) {
        let mut node = Node::new();
        let before = node.shape();
        let mut desired = Devices::default();
        for event in events {
            let ours: Vec<u32> = node.links.values().filter(|link| link.alias.is_some()).map(|link| link.ifindex).collect();
            let pick = |number: u8| ours.get(usize::from(number) % ours.len().max(1)).copied();
            match event {
                Event::Desire(new) => desired = new,
                Event::TakeOut(number) => {
                    let members: Vec<u32> = node.links.values().filter(|l| l.master.is_some()).map(|l| l.ifindex).collect();
                    if let Some(ifindex) = members.get(usize::from(number) % members.len().max(1)) {
                        node.links.get_mut(ifindex).unwrap().master = None;
                    }
                }
                Event::Delete(number) => {
                    if let Some(ifindex) = pick(number) {
                        node.delete(ifindex);
                    }
                }
                Event::Down(number) => {
                    if let Some(ifindex) = pick(number) {
                        node.links.get_mut(&ifindex).unwrap().up = false;
                    }
                }
                Event::Address(number) => {
                    if let Some(ifindex) = pick(number) {
                        node.links.get_mut(&ifindex).unwrap().addresses.clear();
                    }
                }
            }
            node.settle(&desired);
            prop_assert_eq!(&node.refused, &Vec::<String>::new());
            for (name, interface) in &desired.interfaces {
                let link = node.by_name(name).unwrap();
                let master = link.master.and_then(|master| node.links.get(&master));
                prop_assert_eq!(master.and_then(|master| master.vrf_table), interface.vrf.as_ref().map(|vrf| vrf.table));
                prop_assert!(link.up);
                for net in &interface.addresses {
                    prop_assert!(link.addresses.iter().any(|address| address.net == *net));
                }
            }
            prop_assert_eq!(node.by_name(SINK_NAME).is_some(), desired.sink);
        }
        node.settle(&Devices::default());
        prop_assert_eq!(node.shape(), before);
        prop_assert!(node.record.is_empty());
    }
}
