//! Devices: what is desired against what is there, and the next steps between.
//!
//! Level-triggered: each pass says what can be done now, and what it changes shows in the links of the next one. A VRF
//! device is there before its members move; members leave before it goes; whatever is not concerned is not touched.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Link;
use crate::model::devices::{
    Changed, DeviceOp, DeviceRecord, Devices, Interface, SINK_NAME, Subject, VlanDevice, VrfDevice,
    may_leave, ours,
};
use crate::plan::Links;

/// The next steps towards the desired devices; none when all is as desired, or waits for something else.
#[must_use]
pub fn device_ops(desired: &Devices, links: &Links, record: &DeviceRecord) -> Vec<DeviceOp> {
    let by_name = links.values().map(|link| (link.name.as_str(), link)).collect();
    let mut pass = Pass { desired, links, record, by_name, making: BTreeSet::new(), ops: Vec::new() };
    pass.make();
    for link in links.values() {
        let before = pass.ops.len();
        pass.member(link);
        if pass.ops.len() == before {
            pass.put_back(link);
        }
    }
    for (name, interface) in &desired.interfaces {
        pass.interface(name, interface);
    }
    pass.remove();
    pass.hand_over();
    pass.ops
}

struct Pass<'a> {
    desired: &'a Devices,
    links: &'a Links,
    record: &'a DeviceRecord,
    by_name: BTreeMap<&'a str, &'a Link>,
    /// VRF devices that this pass makes.
    making: BTreeSet<&'a str>,
    ops: Vec<DeviceOp>,
}

fn subject(link: &Link) -> Subject {
    Subject { ifindex: link.ifindex, name: link.name.clone() }
}

impl<'a> Pass<'a> {
    /// Makes what is not there, and sets it up.
    fn make(&mut self) {
        for (name, table) in &self.desired.vrfs {
            // With net.vrf.strict_mode two devices cannot share a table: the old one goes first.
            let taken = self.links.values().any(|link| link.vrf_table == Some(*table) && self.stale(link));
            match self.by_name.get(name.as_str()) {
                None if !taken => {
                    self.making.insert(name);
                    self.ops.push(DeviceOp::MakeVrf(VrfDevice { name: name.clone(), table: *table }));
                }
                Some(link) if ours(link) && !link.up => self.ops.push(DeviceOp::SetUp(subject(link))),
                _ => {}
            }
        }
        for (name, interface) in &self.desired.interfaces {
            let Some(vlan) = interface.vlan.as_ref().filter(|_| !interface.adopted) else { continue };
            if let (None, Some(parent)) =
                (self.by_name.get(name.as_str()), self.by_name.get(vlan.parent.as_str()))
            {
                self.ops.push(DeviceOp::MakeVlan(name.clone(), parent.ifindex, vlan.clone()));
            }
        }
        match self.by_name.get(SINK_NAME) {
            None if self.desired.sink => self.ops.push(DeviceOp::MakeSink),
            Some(link) if self.desired.sink && !link.up => self.ops.push(DeviceOp::SetUp(subject(link))),
            _ => {}
        }
    }

    /// Whether a link is Backtrail's and not, or no longer so, desired.
    fn stale(&self, link: &Link) -> bool {
        ours(link)
            && match (link.kind.as_str(), link.vrf_table) {
                ("vrf", table) => [&self.desired.vrfs, &self.desired.adopted]
                    .into_iter()
                    .all(|vrfs| vrfs.get(&link.name).copied() != table),
                ("vlan", _) => !self
                    .wanted(link)
                    .and_then(|it| it.vlan.as_ref())
                    .is_some_and(|vlan| self.is_vlan(link, vlan)),
                _ => !(self.desired.sink && link.name == SINK_NAME),
            }
    }

    /// What is adopted belongs to somebody else, whoever made it.
    fn hand_over(&mut self) {
        let adopted = |link: &Link| {
            self.desired.adopted.contains_key(&link.name) || self.wanted(link).is_some_and(|it| it.adopted)
        };
        let links = self.links.values().filter(|link| ours(link) && !self.stale(link) && adopted(link));
        let ops: Vec<DeviceOp> = links.map(|link| DeviceOp::HandOver(subject(link))).collect();
        self.ops.extend(ops);
    }

    fn is_vlan(&self, link: &Link, vlan: &VlanDevice) -> bool {
        let parent = self.by_name.get(vlan.parent.as_str());
        link.vlan == Some(vlan.id) && parent.is_none_or(|parent| link.lower == Some(parent.ifindex))
    }

    fn wanted(&self, link: &Link) -> Option<&'a Interface> {
        self.desired.interfaces.get(&link.name)
    }

    /// The VRF device that a link should be a member of, if it is there.
    fn target(&self, link: &Link) -> Option<u32> {
        let vrf = self.wanted(link)?.vrf.as_ref()?;
        let device = self.by_name.get(vrf.name.as_str())?;
        (device.vrf_table == Some(vrf.table)).then_some(device.ifindex)
    }

    /// Whether a link is a member of what it should be a member of.
    fn settled(&self, link: &Link) -> bool {
        match self.wanted(link).and_then(|interface| interface.vrf.as_ref()) {
            Some(_) => link.master.is_some() && link.master == self.target(link),
            None => true,
        }
    }

    /// Moves a link to where it should be.
    fn member(&mut self, link: &'a Link) {
        let changed = self.record.get(&link.ifindex).filter(|changed| changed.member);
        let recorded = changed.is_some();
        let vrf = self.wanted(link).and_then(|interface| interface.vrf.as_ref());
        if self.stale(link) {
            // It is deleted, as a member or not.
            return;
        }
        let target = self.target(link);
        let master = link.master.and_then(|master| self.links.get(&master));
        if master.is_some_and(|master| Some(master.ifindex) != target && !may_leave(link, master, changed)) {
            if recorded {
                self.ops.push(DeviceOp::Disown(subject(link)));
            }
            return;
        }
        if let Some((target, vrf)) = target.zip(vrf) {
            if link.master != Some(target) {
                self.ops.push(DeviceOp::Join {
                    link: subject(link),
                    vrf: target,
                    table: vrf.table,
                    preserve: self.wanted(link).is_some_and(|interface| interface.preserve),
                    foreign: !ours(link),
                });
            }
            return;
        }
        let made_now = vrf.is_some_and(|vrf| self.making.contains(vrf.name.as_str()));
        match master {
            Some(master)
                if (self.stale(master) && !made_now)
                    || (vrf.is_none() && (recorded || ours(link) && master.kind == "vrf")) =>
            {
                self.ops.push(DeviceOp::Leave(subject(link)));
            }
            // A route needs its link: what waits for the carrier is put back when it comes.
            None if recorded && vrf.is_none() && self.can_restore(link) => {
                self.ops.push(DeviceOp::Restore(subject(link)));
            }
            _ => {}
        }
    }

    /// A move does that by itself, as far as it goes.
    fn put_back(&mut self, link: &Link) {
        if link.up && self.record.get(&link.ifindex).is_some_and(|changed| !changed.lost.is_empty()) {
            self.ops.push(DeviceOp::PutBack(subject(link)));
        }
    }

    fn can_restore(&self, link: &Link) -> bool {
        let none = |changed: &Changed| changed.routes.is_empty() && changed.main.is_empty();
        link.usable() || self.record.get(&link.ifindex).is_none_or(none)
    }

    /// Brings a desired interface up, to its MTU and to its addresses.
    fn interface(&mut self, name: &str, interface: &Interface) {
        let Some(link) = self.by_name.get(name).copied() else { return };
        if self.stale(link) || !self.settled(link) {
            return;
        }
        if let Some(vlan) = interface.vlan.as_ref().filter(|_| ours(link)) {
            let parent = link.lower.and_then(|lower| self.links.get(&lower));
            if !link.up && parent.is_none_or(|parent| parent.up) {
                self.ops.push(DeviceOp::SetUp(subject(link)));
            }
            // The kernel lowers a VLAN's MTU with its parent's, and never raises it. On MACsec it must be smaller.
            let parents = parent.filter(|parent| parent.kind != "macsec").map(|parent| parent.mtu);
            let mtu = vlan.mtu.or(parents).filter(|mtu| *mtu != link.mtu);
            self.ops.extend(mtu.map(|mtu| DeviceOp::SetMtu(subject(link), mtu)));
        }
        for net in &interface.addresses {
            if link.addresses.iter().all(|address| address.net != *net) {
                let (link, foreign) = (subject(link), !ours(link));
                self.ops.push(DeviceOp::AddAddress { link, net: *net, foreign });
            }
        }
    }

    /// Takes away what is no longer desired.
    fn remove(&mut self) {
        for (ifindex, changed) in self.record {
            let Some(link) = self.links.get(ifindex) else {
                self.ops.push(DeviceOp::Forget(*ifindex));
                continue;
            };
            let wanted = self.wanted(link);
            let keep = |net| wanted.is_some_and(|interface| interface.addresses.contains(net));
            for net in changed.added.iter().filter(|net| !keep(net)) {
                self.ops.push(DeviceOp::RemoveAddress(subject(link), *net));
            }
        }
        let used: BTreeSet<u32> = self.links.values().filter_map(|link| link.master).collect();
        let unused = |link: &&Link| link.kind != "vrf" || !used.contains(&link.ifindex);
        let stale = self.links.values().filter(|link| self.stale(link)).filter(unused);
        let deletions: Vec<DeviceOp> = stale.map(|link| DeviceOp::Delete(subject(link))).collect();
        self.ops.extend(deletions);
    }
}
