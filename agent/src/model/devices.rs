//! Devices that manifests ask for, the operations that bring them about, and the record of what was there before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{KernelRoute, Link};

/// IFLA_IFALIAS of the devices that Backtrail made: only those may it delete.
pub const ALIAS: &str = "backtrail";

/// Name of the device that takes the packets which no working route takes to an interface with a program.
pub const SINK_NAME: &str = "backtrail0";

/// The devices that should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// VRF devices to make, each with its table.
    pub vrfs: BTreeMap<String, u32>,
    /// VRF devices to use once somebody else has made them. One that Backtrail made is handed over.
    pub adopted: BTreeMap<String, u32>,
    /// Interfaces to make or to change, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Whether the device [`SINK_NAME`] should be.
    pub sink: bool,
}

/// An interface that manifests speak of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The VLAN device that it is.
    pub vlan: Option<VlanDevice>,
    /// Somebody else makes that; one that Backtrail made is handed over.
    pub adopted: bool,
    /// Addresses to add.
    pub addresses: BTreeSet<IpNet>,
    /// The VRF device that it should be a member of.
    pub vrf: Option<VrfDevice>,
    /// Keep its addresses and routes when its membership changes.
    pub preserve: bool,
}

/// A VLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VlanDevice {
    /// Name of the lower device.
    pub parent: String,
    /// 1 to 4094.
    pub id: u16,
    /// Bytes; `None`: as the parent.
    pub mtu: Option<u32>,
}

/// A VRF device, told by name and table together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfDevice {
    /// Its name.
    pub name: String,
    /// IFLA_VRF_TABLE, which a VRF device keeps for its life.
    pub table: u32,
}

/// What was changed on an interface that is not Backtrail's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Changed {
    /// Its name then, for people.
    pub name: String,
    /// Whether Backtrail made it a member of a VRF device.
    pub member: bool,
    /// The tables of that device, and of the one that it leaves while it moves; none in records of earlier versions,
    /// which did not know.
    pub tables: BTreeSet<u32>,
    /// The routes of main that led by it alone before, which the kernel dropped then, for the VRF's table.
    pub routes: Vec<KernelRoute>,
    /// What puts them, and those by nexthop objects, back into main.
    pub main: Vec<Taken>,
    /// What the kernel took when it moved, and what is not back yet.
    pub lost: Vec<Taken>,
    /// Addresses that Backtrail added.
    pub added: BTreeSet<IpNet>,
}

impl Changed {
    /// Whether it was Backtrail that made the interface a member of `master`.
    #[must_use]
    pub fn put_into(&self, master: &Link) -> bool {
        let table = master.vrf_table.filter(|table| self.tables.is_empty() || self.tables.contains(table));
        self.member && table.is_some()
    }

    /// Forgets that it is a member, and what main had then.
    pub fn disown(&mut self) {
        self.member = false;
        self.tables.clear();
        self.routes.clear();
        self.main.clear();
    }
}

/// A netlink message that puts something back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// RTM_NEWADDR, RTM_NEWNEXTHOP or RTM_NEWROUTE.
    pub kind: u16,
    /// What follows its `nlmsghdr`, in host byte order.
    #[serde(with = "hexadecimal")]
    pub payload: Vec<u8>,
    /// When it was taken, seconds since boot: lifetimes go on.
    pub at: u64,
}

/// Bytes as two digits each.
mod hexadecimal {
    use std::fmt::Write as _;

    use serde::de::{Deserialize as _, Deserializer, Error as _};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let digits = bytes.iter().fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        serializer.serialize_str(&digits)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
        bytes.ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}

/// Whether the device was made by Backtrail.
#[must_use]
pub fn ours(link: &Link) -> bool {
    link.alias.as_deref() == Some(ALIAS)
}

/// Whether `link` may be taken from `master`: where others put it, it stays.
#[must_use]
pub fn may_leave(link: &Link, master: &Link, changed: Option<&Changed>) -> bool {
    let entered = ours(link) && master.vrf_table.is_some();
    ours(master) || entered || changed.is_some_and(|changed| changed.put_into(master))
}

/// What was changed on interfaces that are not Backtrail's, by ifindex.
pub type DeviceRecord = BTreeMap<u32, Changed>;

/// The interface that an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

/// One change of devices, members or addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceOp {
    /// Makes a VRF device, still down.
    MakeVrf(VrfDevice),
    /// Makes a VLAN device on the link with this index, still down.
    MakeVlan(String, u32, VlanDevice),
    /// Makes the device [`SINK_NAME`], up.
    MakeSink,
    /// Takes Backtrail's mark from a device: whoever adopts it has it from then on.
    HandOver(Subject),
    /// Sets a device up.
    SetUp(Subject),
    /// Sets the MTU, bytes.
    SetMtu(Subject, u32),
    /// Makes an interface a member of the VRF device with this index.
    Join {
        /// The interface.
        link: Subject,
        /// Index of the VRF device.
        vrf: u32,
        /// Table of that device.
        table: u32,
        /// Keep its addresses.
        preserve: bool,
        /// It is not Backtrail's: what it was is recorded.
        foreign: bool,
    },
    /// Takes an interface out of its VRF device, with its addresses.
    Leave(Subject),
    /// Forgets that an interface is a member: somebody else has put it elsewhere.
    Disown(Subject),
    /// Puts back what a move took and could not be put back at once.
    PutBack(Subject),
    /// Puts the recorded routes back and forgets the interface.
    Restore(Subject),
    /// Adds an address; of a foreign interface it is recorded.
    AddAddress {
        /// The interface.
        link: Subject,
        /// Address and prefix length.
        net: IpNet,
        /// It is not Backtrail's.
        foreign: bool,
    },
    /// Takes an address away that was added.
    RemoveAddress(Subject, IpNet),
    /// Deletes a device of Backtrail's.
    Delete(Subject),
    /// Forgets an interface that is gone.
    Forget(u32),
}

impl DeviceOp {
    /// What it does and to what kind of thing, as metrics name it.
    #[must_use]
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::MakeVrf(_) | Self::MakeVlan(..) | Self::MakeSink => ("add", "link"),
            Self::SetUp(_)
            | Self::SetMtu(..)
            | Self::Join { .. }
            | Self::Leave(_)
            | Self::Disown(_)
            | Self::HandOver(_) => ("replace", "link"),
            Self::PutBack(_) | Self::Restore(_) => ("add", "route"),
            Self::AddAddress { .. } => ("add", "address"),
            Self::RemoveAddress(..) => ("delete", "address"),
            Self::Delete(_) | Self::Forget(_) => ("delete", "link"),
        }
    }
}

impl DeviceOp {
    /// The name of the device that it is about.
    #[must_use]
    pub fn object(&self) -> &str {
        match self {
            Self::MakeVrf(vrf) => &vrf.name,
            Self::MakeVlan(name, ..) => name,
            Self::MakeSink => SINK_NAME,
            Self::SetUp(link)
            | Self::SetMtu(link, _)
            | Self::Join { link, .. }
            | Self::Leave(link)
            | Self::Disown(link)
            | Self::HandOver(link)
            | Self::PutBack(link)
            | Self::Restore(link)
            | Self::AddAddress { link, .. }
            | Self::RemoveAddress(link, _)
            | Self::Delete(link) => &link.name,
            Self::Forget(_) => "",
        }
    }
}

impl fmt::Display for DeviceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeVrf(vrf) => write!(f, "make VRF device {} with table {}", vrf.name, vrf.table),
            Self::MakeVlan(name, _, vlan) => {
                write!(f, "make VLAN device {name}: {} on {}", vlan.id, vlan.parent)
            }
            Self::MakeSink => write!(f, "make {SINK_NAME}"),
            Self::HandOver(link) => write!(f, "hand {} over to whoever adopts it", link.name),
            Self::SetUp(link) => write!(f, "set {} up", link.name),
            Self::SetMtu(link, mtu) => write!(f, "set the MTU of {} to {mtu} bytes", link.name),
            Self::Join { link, vrf, .. } => write!(f, "make {} a member of VRF device {vrf}", link.name),
            Self::Leave(link) => write!(f, "take {} out of its VRF device", link.name),
            Self::Disown(link) => write!(f, "leave {} where somebody else has put it", link.name),
            Self::PutBack(link) => write!(f, "put back what the move took from {}", link.name),
            Self::Restore(link) => write!(f, "put back the routes of {}", link.name),
            Self::AddAddress { link, net, .. } => write!(f, "add {net} to {}", link.name),
            Self::RemoveAddress(link, net) => write!(f, "remove {net} from {}", link.name),
            Self::Delete(link) => write!(f, "delete {}", link.name),
            Self::Forget(ifindex) => write!(f, "forget link {ifindex}"),
        }
    }
}
