//! Changes to rules, links, addresses and neighbours: few at a time, one request each.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_nametoindex;
use rtnetlink::{LinkBridge, LinkDummy, LinkIfb, LinkUnspec, LinkVlan, LinkVrf};

use super::client::Client;
use super::wire::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use super::{KernelError, rules};
pub use crate::model::devices::ALIAS;
use crate::model::{Address, Family, Rule};

/// IFLA_GROUP of a device that is being made: the kernel ignores the alias on creation, and whoever makes the device
/// may be killed before it can mark it. "back" in ASCII.
pub(super) const MAKING: u32 = 0x6261_636b;

/// A connection for changes.
#[derive(Debug)]
pub struct Actions {
    client: Client,
    /// NDA_PROTOCOL of the neighbours that it manages.
    protocol: u8,
}

impl Actions {
    /// Connects in the calling thread's network namespace; `protocol` marks the neighbours that it manages. Must run
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// [`KernelError::Socket`]
    pub fn open(protocol: u8) -> Result<Self, KernelError> {
        Ok(Self { client: Client::open()?, protocol })
    }

    /// Adds a rule; EEXIST when exactly this rule is there. Its interfaces need not exist yet.
    ///
    /// # Errors
    /// [`KernelError::Refused`]
    pub async fn add_rule(&self, rule: &Rule) -> Result<(), KernelError> {
        let message = RouteNetlinkMessage::NewRule(rules::encode(rule));
        self.client.request(message, NLM_F_CREATE | NLM_F_EXCL, || format!("add rule {rule}")).await
    }

    /// Deletes exactly this rule, from `present` too: the rules of the namespace in the kernel's order. The kernel takes
    /// selectors that a request lacks for "any": another rule of the same priority that it would find first is reported
    /// instead of deleted.
    ///
    /// # Errors
    /// [`KernelError::Refused`] with ENOENT when it is not there, [`KernelError::RuleShadowed`].
    pub async fn del_rule(&self, rule: &Rule, present: &mut Vec<Rule>) -> Result<(), KernelError> {
        let object = || format!("delete rule {rule}");
        let found = present.iter().position(|other| rules::deletes(rule, other));
        let at = found.ok_or_else(|| KernelError::Refused {
            object: object(),
            errno: libc::ENOENT,
            text: None,
        })?;
        if let Some(other) = present.get(at).filter(|other| *other != rule) {
            return Err(KernelError::RuleShadowed { rule: rule.to_string(), other: other.to_string() });
        }
        self.client.request(RouteNetlinkMessage::DelRule(rules::encode(rule)), 0, object).await?;
        present.remove(at);
        Ok(())
    }

    /// Makes a VLAN device, marked as ours and still down; returns its index.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: EEXIST when the name or the parent's VLAN id is taken, EOPNOTSUPP without 8021q.
    pub async fn create_vlan(
        &self,
        name: &str,
        parent: u32,
        id: u16,
        mtu: Option<u32>,
    ) -> Result<u32, KernelError> {
        let mut vlan = LinkVlan::new(name, parent, id);
        if let Some(mtu) = mtu {
            vlan = vlan.mtu(mtu);
        }
        let ifindex = self.create(vlan.build(), name, "vlan").await?;
        self.finish(ifindex, LinkUnspec::new_with_index(ifindex).build(), name).await
    }

    /// Makes a VRF device, marked as ours and still down; returns its index. With the first one of a namespace the
    /// kernel makes the l3mdev rules.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: EEXIST when the name is taken, EBUSY when another device has the table and
    /// net.vrf.strict_mode is set, EOPNOTSUPP without VRF.
    pub async fn create_vrf(&self, name: &str, table: u32) -> Result<u32, KernelError> {
        let ifindex = self.create(LinkVrf::new(name, table).build(), name, "vrf").await?;
        self.finish(ifindex, LinkUnspec::new_with_index(ifindex).build(), name).await
    }

    /// Makes a device without ARP that takes packets to nowhere, marked as ours and up; returns its index. It is a
    /// dummy, or what else this kernel has.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: EEXIST when the name is taken, EOPNOTSUPP when the kernel has none of the kinds.
    pub async fn create_sink(&self, name: &str) -> Result<u32, KernelError> {
        let kinds = [
            ("dummy", LinkDummy::new(name).build()),
            ("ifb", LinkIfb::new(name).build()),
            ("bridge", LinkBridge::new(name).build()),
        ];
        let mut refused = None;
        for (kind, message) in kinds {
            match self.create(message, name, kind).await {
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => refused = Some(error),
                created => {
                    let ifindex = created?;
                    let ready = LinkUnspec::new_with_index(ifindex).arp(false).up().build();
                    return self.finish(ifindex, ready, name).await;
                }
            }
        }
        Err(refused.unwrap_or_else(|| absent(format!("create {name}"))))
    }

    async fn create(&self, mut message: LinkMessage, name: &str, kind: &str) -> Result<u32, KernelError> {
        message.attributes.push(LinkAttribute::Group(MAKING));
        let object = || format!("create {kind} {name}");
        let message = RouteNetlinkMessage::NewLink(message);
        self.client.request(message, NLM_F_CREATE | NLM_F_EXCL, object).await?;
        if_nametoindex(name).map_err(|_| absent(object()))
    }

    /// Marks what was just created, or takes it back.
    async fn finish(&self, ifindex: u32, mut message: LinkMessage, name: &str) -> Result<u32, KernelError> {
        message.attributes.push(LinkAttribute::IfAlias(ALIAS.to_owned()));
        message.attributes.push(LinkAttribute::Group(0));
        let message = RouteNetlinkMessage::NewLink(message);
        let marked = self.client.request(message, 0, || format!("mark {name}")).await;
        if let Err(error) = marked {
            self.delete_link(ifindex).await?;
            return Err(error);
        }
        Ok(ifindex)
    }

    /// Takes the mark of a device of ours away.
    ///
    /// # Errors
    /// [`KernelError::Refused`]
    pub async fn unmark(&self, ifindex: u32) -> Result<(), KernelError> {
        let mut message = LinkUnspec::new_with_index(ifindex).build();
        message.attributes.push(LinkAttribute::IfAlias(String::new()));
        self.set_link(message, || format!("take the mark of link {ifindex} away")).await
    }

    /// Deletes a device, whosever it is.
    ///
    /// # Errors
    /// [`KernelError::Refused`]
    pub async fn delete_link(&self, ifindex: u32) -> Result<(), KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        let message = RouteNetlinkMessage::DelLink(message);
        self.client.request(message, 0, || format!("delete link {ifindex}")).await
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: ENETDOWN when its lower device is down.
    pub async fn set_up(&self, ifindex: u32) -> Result<(), KernelError> {
        let up = LinkUnspec::new_with_index(ifindex).up().build();
        self.set_link(up, || format!("set link {ifindex} up")).await
    }

    /// Sets a device's MTU, bytes.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: EINVAL or ERANGE when the device, or the one below it, cannot have it.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu).build();
        self.set_link(message, || format!("set the MTU of link {ifindex} to {mtu} bytes")).await
    }

    async fn set_link(&self, message: LinkMessage, object: impl Fn() -> String) -> Result<(), KernelError> {
        self.client.request(RouteNetlinkMessage::NewLink(message), 0, object).await
    }

    /// Makes a link a member of a VRF device, or of none. The kernel takes it down and up for that.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: it stays what it was.
    pub async fn set_controller(&self, ifindex: u32, controller: Option<u32>) -> Result<(), KernelError> {
        let link = LinkUnspec::new_with_index(ifindex);
        let link = match controller {
            Some(controller) => link.controller(controller),
            None => link.nocontroller(),
        };
        let object = || match controller {
            Some(controller) => format!("make link {ifindex} a member of link {controller}"),
            None => format!("take link {ifindex} out of its VRF device"),
        };
        self.set_link(link.build(), object).await
    }

    /// Adds an address; EEXIST when it is there.
    ///
    /// # Errors
    /// [`KernelError::Refused`]
    pub async fn add_address(&self, ifindex: u32, address: &Address) -> Result<(), KernelError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(ifindex, address));
        let object = || format!("add address {} to link {ifindex}", address.net);
        self.client.request(message, NLM_F_CREATE | NLM_F_EXCL, object).await
    }

    /// Deletes an address.
    ///
    /// # Errors
    /// [`KernelError::Refused`]
    pub async fn del_address(&self, ifindex: u32, address: &Address) -> Result<(), KernelError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(ifindex, address));
        self.client.request(message, 0, || format!("delete address {} of link {ifindex}", address.net)).await
    }

    /// Has the kernel keep a neighbour resolved (NTF_EXT_MANAGED, Linux 5.16), or no longer. An older kernel resolves
    /// it once for each call. The entry's state stays as it is.
    ///
    /// # Errors
    /// [`KernelError::Refused`]: ENODEV when the interface is gone, ENETDOWN when it is down.
    pub async fn manage_neighbour(&self, ifindex: u32, addr: IpAddr, on: bool) -> Result<(), KernelError> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        // NTF_USE resolves, and keeps the kernel from touching the state of an entry that is there.
        message.header.flags = NeighbourFlags::Use;
        let (family, destination) = match addr {
            IpAddr::V4(addr) => (AddressFamily::Inet, NeighbourAddress::Inet(addr)),
            IpAddr::V6(addr) => (AddressFamily::Inet6, NeighbourAddress::Inet6(addr)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        if on {
            message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
            message.attributes.push(NeighbourAttribute::Protocol(self.protocol.into()));
        }
        let message = RouteNetlinkMessage::NewNeighbour(message);
        let object = || format!("manage neighbour {addr} on link {ifindex}");
        self.client.request(message, NLM_F_CREATE | NLM_F_REPLACE, object).await
    }
}

fn absent(object: String) -> KernelError {
    KernelError::Refused { object, errno: libc::ENODEV, text: None }
}

fn address_message(ifindex: u32, address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.family = rules::family(Family::of(&address.net));
    message.header.prefix_len = address.net.prefix_len();
    let attributes = &mut message.attributes;
    attributes.push(AddressAttribute::Local(address.net.addr()));
    attributes.push(AddressAttribute::Address(address.peer.unwrap_or(address.net.addr())));
    if address.no_prefix_route {
        attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    }
    if address.metric != 0 {
        attributes.push(AddressAttribute::RoutePriority(address.metric));
    }
    message
}
