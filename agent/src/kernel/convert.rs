//! From the messages of `netlink-packet-route` to the vocabulary of [`crate::model`].

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanFlags,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState as WireState,
};

use super::actions::{ALIAS, MAKING};
use crate::model::{Address, Link, Neighbour, NeighbourState};

/// A link without its addresses. `None` for messages about a bridge's port (AF_BRIDGE), which come as link messages.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        noarp: flags.contains(LinkFlags::Noarp),
        arphrd: message.header.link_layer_type.into(),
        mtu: 0,
        ..Link::ethernet(message.header.index, "")
    };
    let (mut peer_elsewhere, mut unmarked) = (false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Controller(master) => link.master = (*master != 0).then_some(*master),
            LinkAttribute::Link(lower) => link.lower = (*lower != 0).then_some(*lower),
            LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Group(group) => unmarked = *group == MAKING,
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link_info(&mut link, info)),
            _ => {}
        }
    }
    if unmarked {
        link.alias.get_or_insert_with(|| ALIAS.to_owned());
    }
    // IFLA_LINK of a pair's end names the other end, which carries nothing of this one's.
    if peer_elsewhere || matches!(link.kind.as_str(), "veth" | "netkit" | "vxcan") {
        link.lower = None;
    }
    Some(link)
}

fn link_info(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(InfoKind::Other(kind)) => link.kind.clone_from(kind),
        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
        LinkInfo::Data(InfoData::Vlan(infos)) => {
            link.vlan = infos.iter().find_map(|info| match info {
                InfoVlan::Id(id) => Some(*id),
                _ => None,
            });
            let reorders = |info: &InfoVlan| matches!(info, InfoVlan::Flags((flags, _)) if flags.contains(VlanFlags::ReorderHdr));
            link.keeps_tag = !infos.iter().any(reorders);
        }
        LinkInfo::Data(InfoData::Vrf(infos)) => {
            link.vrf_table = infos.iter().find_map(|info| match info {
                InfoVrf::TableId(table) => Some(*table),
                _ => None,
            });
        }
        _ => {}
    }
}

/// An address and the interface that has it.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, Address)> {
    let (mut local, mut far) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => far = Some(*addr),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::RoutePriority(priority) => metric = *priority,
            _ => {}
        }
    }
    let address = Address {
        net: IpNet::new(local.or(far)?, message.header.prefix_len).ok()?,
        peer: far.filter(|far| local.is_some_and(|local| local != *far)),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        metric,
    };
    Some((message.header.index, address))
}

/// An IPv4 or IPv6 neighbour; `None` for bridge entries and proxies.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    use netlink_packet_route::neighbour::NeighbourFlags;
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut neighbour = Neighbour {
        ifindex: message.header.ifindex,
        address: neighbour_address(message)?,
        mac: None,
        state: match message.header.state {
            WireState::Failed => NeighbourState::Failed,
            WireState::Incomplete | WireState::None => NeighbourState::Incomplete,
            _ => NeighbourState::Valid,
        },
        managed: false,
        protocol: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac = mac.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                neighbour.managed = flags.contains(NeighbourExtFlags::Managed);
            }
            NeighbourAttribute::Protocol(protocol) => neighbour.protocol = (*protocol).into(),
            _ => {}
        }
    }
    Some(neighbour)
}

fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })
}
