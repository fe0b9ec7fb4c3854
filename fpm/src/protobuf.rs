//! Protobuf payloads: frames of type 2, from FRR's old `fpm` module (`zebra -M fpm:protobuf`).
//!
//! Best effort: the encoding has no tables, no weights and no nexthop objects, and its IPv4 routes over IPv6
//! nexthops carry a gateway that is none ([`Nexthop::gateway_is_lost_ipv6`]). Nexthops may come twice.
//! Source: FRR's `zebra/zebra_fpm_protobuf.c`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use prost::Message as _;
use zebra_fpm_proto::fpm::{self, RouteType, message, s_rv6_local_sid::Behavior};
use zebra_fpm_proto::qpb;

use crate::types::{IfIndex, Metric, Protocol, QpbProtocol, RouteKey, RouteKind, TableId, VrfId};
use crate::update::{
    Encap, Flavors, Nexthop, RawMessage, Route, RouteDel, Seg6Local, Seg6LocalAction, Target, Update,
};

/// `SEG6_IPTUN_MODE_ENCAP`
const MODE_ENCAP: u32 = 1;

/// Why a payload is not an FPM message as zebra writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// Not protobuf, or fields of other types.
    #[error("not an FPM protobuf message: {0}")]
    Wire(#[from] prost::DecodeError),
    /// A field is missing without which the message means nothing.
    #[error("FPM protobuf message without {0}")]
    Missing(&'static str),
    /// The prefix is longer than an address of its family.
    #[error("prefix length {0} is too long for the family")]
    PrefixLength(u32),
    /// The address does not hold the bytes that it should.
    #[error("address of {len} bytes, {expected} expected")]
    AddressSize {
        /// What is there.
        len: usize,
        /// What should be.
        expected: usize,
    },
}

/// Decodes the one message of a frame's payload.
///
/// # Errors
/// If it is not protobuf or lacks what a route needs. Message types and address families that are not known are no
/// error, but [`Update::Raw`].
pub fn decode(payload: &[u8]) -> Result<Update, ProtobufError> {
    decode_counting(payload).map(|(update, _)| update)
}

/// The same, and whether the message held fields that this crate's schema has not, which are skipped.
pub(crate) fn decode_counting(payload: &[u8]) -> Result<(Update, bool), ProtobufError> {
    let message = fpm::Message::decode(payload)?;
    // Fields that are not in the schema are not kept: the message is shorter without them.
    let skipped = message.encoded_len() < payload.len();
    if names_unknown_family(&message) {
        return Ok((raw(payload), false));
    }
    let update = update(&message, payload)?;
    let skipped = skipped && !matches!(update, Update::Raw(_));
    Ok((update, skipped))
}

fn raw(payload: &[u8]) -> Update {
    Update::Raw(Box::new(RawMessage { nlmsg_type: None, body: payload.into() }))
}

/// Whether a family is stated that this crate does not know (none at all is an error).
fn names_unknown_family(message: &fpm::Message) -> bool {
    let add = message.add_route.as_ref().and_then(|add| add.address_family);
    let delete = message.delete_route.as_ref().and_then(|delete| delete.address_family);
    let known = |family| {
        matches!(
            qpb::AddressFamily::try_from(family),
            Ok(qpb::AddressFamily::Ipv4 | qpb::AddressFamily::Ipv6 | qpb::AddressFamily::UnknownAf)
        )
    };
    [add, delete].into_iter().flatten().any(|family| !known(family))
}

fn update(message: &fpm::Message, payload: &[u8]) -> Result<Update, ProtobufError> {
    match message.r#type() {
        message::Type::AddRoute => {
            add_route(message.add_route.as_ref().ok_or(ProtobufError::Missing("add_route"))?)
        }
        message::Type::DeleteRoute => {
            delete_route(message.delete_route.as_ref().ok_or(ProtobufError::Missing("delete_route"))?)
        }
        message::Type::AddSrv6Localsid => local_sid(message.srv6_localsid.as_ref(), true),
        message::Type::DeleteSrv6Localsid => local_sid(message.srv6_localsid.as_ref(), false),
        message::Type::UnknownMsg => Ok(raw(payload)),
    }
}

fn add_route(add: &fpm::AddRoute) -> Result<Update, ProtobufError> {
    let key = key(add.vrf_id, add.address_family(), add.key.as_ref())?;
    let qpb = u8::try_from(add.protocol.ok_or(ProtobufError::Missing("protocol"))?).unwrap_or(u8::MAX);
    let kind = match add.route_type() {
        RouteType::Unknown => RouteKind::Other(0),
        RouteType::Normal => RouteKind::Unicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Blackhole => RouteKind::Blackhole,
    };
    let target = if kind.forwards() { Target::Nexthops(nexthops(add)?) } else { Target::None };
    Ok(Update::Route(Route {
        qpb_protocol: Some(QpbProtocol(qpb)),
        metric: add.metric.map(|metric| Metric(metric.cast_unsigned())),
        ..Route::new(key, QpbProtocol(qpb).to_rtm(), kind, target)
    }))
}

fn delete_route(delete: &fpm::DeleteRoute) -> Result<Update, ProtobufError> {
    let key = key(delete.vrf_id, delete.address_family(), delete.key.as_ref())?;
    Ok(Update::RouteDel(RouteDel { key, protocol: None, metric: None }))
}

fn key(
    vrf: Option<u32>,
    family: qpb::AddressFamily,
    key: Option<&fpm::RouteKey>,
) -> Result<RouteKey, ProtobufError> {
    let vrf = VrfId(vrf.ok_or(ProtobufError::Missing("vrf_id"))?);
    let prefix = key.and_then(|key| key.prefix.as_ref()).ok_or(ProtobufError::Missing("key.prefix"))?;
    let len = prefix.length.ok_or(ProtobufError::Missing("key.prefix.length"))?;
    let too_long = ProtobufError::PrefixLength(len);
    let short_len = match (family, u8::try_from(len)) {
        (qpb::AddressFamily::Ipv4, Ok(len @ 0..=32)) | (qpb::AddressFamily::Ipv6, Ok(len @ 0..=128)) => len,
        (qpb::AddressFamily::UnknownAf, _) => return Err(ProtobufError::Missing("address_family")),
        _ => return Err(too_long),
    };
    let address = if family == qpb::AddressFamily::Ipv4 {
        IpAddr::from(padded::<4>(prefix.bytes(), short_len)?)
    } else {
        IpAddr::from(padded::<16>(prefix.bytes(), short_len)?)
    };
    let dst = IpNet::new(address, short_len).map_err(|_| too_long)?;
    Ok(RouteKey { table: TableId::UNSPEC, vrf: Some(vrf), dst: dst.trunc(), src: None })
}

/// Fills up an address of which only the bytes that its prefix length covers are sent.
fn padded<const N: usize>(bytes: &[u8], prefix_len: u8) -> Result<[u8; N], ProtobufError> {
    let expected = usize::from(prefix_len.div_ceil(8));
    let mut address = [0; N];
    match address.get_mut(..bytes.len()) {
        Some(start) if bytes.len() >= expected => start.copy_from_slice(bytes),
        _ => return Err(ProtobufError::AddressSize { len: bytes.len(), expected }),
    }
    Ok(address)
}

fn nexthops(add: &fpm::AddRoute) -> Result<Box<[Nexthop]>, ProtobufError> {
    let encap = match &add.srv6_vpn_sid {
        Some(sid) => Some(Box::new(Encap::Seg6 {
            mode: MODE_ENCAP,
            segments: Box::new([ipv6(sid)?]),
            source: add.srv6_encap_source_address.as_ref().map(ipv6).transpose()?,
        })),
        None => None,
    };
    let with_encap = |hop| Ok(Nexthop { encap: encap.clone(), ..nexthop(hop)? });
    add.nexthops.iter().map(with_encap).collect()
}

fn nexthop(hop: &fpm::Nexthop) -> Result<Nexthop, ProtobufError> {
    let ifindex = hop.if_id.as_ref().and_then(|id| IfIndex::from_wire(id.index()));
    let gateway = match &hop.address {
        Some(qpb::L3Address { v4: Some(v4), .. }) => Some(IpAddr::V4(Ipv4Addr::from(v4.value()))),
        Some(qpb::L3Address { v6: Some(v6), .. }) => Some(IpAddr::V6(ipv6(v6)?)),
        _ => None,
    };
    Ok(Nexthop::new(gateway, ifindex))
}

fn ipv6(address: &qpb::Ipv6Address) -> Result<Ipv6Addr, ProtobufError> {
    let bytes = address.bytes();
    let wrong_size = |_| ProtobufError::AddressSize { len: bytes.len(), expected: 16 };
    <[u8; 16]>::try_from(bytes).map(Ipv6Addr::from).map_err(wrong_size)
}

/// A local SID is a route to the SID, whose encapsulation says what to do with its packets: the kernel's model.
fn local_sid(sid: Option<&fpm::SRv6LocalSid>, add: bool) -> Result<Update, ProtobufError> {
    let sid = sid.ok_or(ProtobufError::Missing("srv6_localsid"))?;
    let address = ipv6(sid.sid.as_ref().ok_or(ProtobufError::Missing("srv6_localsid.sid"))?)?;
    let dst = IpNet::V6(Ipv6Net::from(address));
    let key = RouteKey { table: TableId::UNSPEC, vrf: Some(VrfId(0)), dst, src: None };
    if !add {
        return Ok(Update::RouteDel(RouteDel { key, protocol: None, metric: None }));
    }
    let behavior = sid.behavior.as_ref().ok_or(ProtobufError::Missing("srv6_localsid.behavior"))?;
    let local = seg6_local(behavior, sid.sid_format.as_ref())?;
    let mut hop = Nexthop::new(None, local.oif);
    hop.encap = Some(Box::new(Encap::Seg6Local(local)));
    let target = Target::Nexthops(Box::new([hop]));
    Ok(Update::Route(Route { metric: None, ..Route::new(key, Protocol::ZEBRA, RouteKind::Unicast, target) }))
}

fn seg6_local(behavior: &Behavior, format: Option<&fpm::SRv6SidFormat>) -> Result<Seg6Local, ProtobufError> {
    use Seg6LocalAction as Action;
    let (action, operations) = match behavior {
        Behavior::End(_) => (Action::END, 0),
        Behavior::EndX(_) => (Action::END_X, 0),
        Behavior::EndT(_) => (Action::END_T, 0),
        Behavior::EndDx6(_) => (Action::END_DX6, 0),
        Behavior::EndDx4(_) => (Action::END_DX4, 0),
        Behavior::EndDt6(_) => (Action::END_DT6, 0),
        Behavior::EndDt4(_) => (Action::END_DT4, 0),
        Behavior::EndDt46(_) => (Action::END_DT46, 0),
        Behavior::Un(_) => (Action::END, Flavors::PSP | Flavors::USD | Flavors::NEXT_CSID),
        Behavior::Ua(_) => (Action::END_X, Flavors::PSP | Flavors::USD | Flavors::NEXT_CSID),
        Behavior::Udt6(_) => (Action::END_DT6, Flavors::NEXT_CSID),
        Behavior::Udt4(_) => (Action::END_DT4, Flavors::NEXT_CSID),
        Behavior::Udt46(_) => (Action::END_DT46, Flavors::NEXT_CSID),
    };
    let mut local = Seg6Local { action, ..Seg6Local::default() };
    match behavior {
        Behavior::End(_) | Behavior::Un(_) => {}
        Behavior::EndX(to) | Behavior::EndDx6(to) | Behavior::EndDx4(to) | Behavior::Ua(to) => {
            let hop = nexthop(to.nexthop.as_ref().ok_or(ProtobufError::Missing("srv6_localsid nexthop"))?)?;
            local.oif = hop.ifindex;
            match hop.gateway {
                Some(IpAddr::V4(gateway)) => local.nh4 = Some(gateway),
                Some(IpAddr::V6(gateway)) => local.nh6 = Some(gateway),
                None => {}
            }
        }
        Behavior::EndT(lookup)
        | Behavior::EndDt6(lookup)
        | Behavior::EndDt4(lookup)
        | Behavior::EndDt46(lookup)
        | Behavior::Udt6(lookup)
        | Behavior::Udt4(lookup)
        | Behavior::Udt46(lookup) => local.vrf = lookup.vrf_id.map(VrfId),
    }
    if operations != 0 {
        local.flavors = Some(flavors(operations, format));
    }
    Ok(local)
}

fn flavors(operations: u32, format: Option<&fpm::SRv6SidFormat>) -> Flavors {
    let bits = |len: Option<u32>| len.and_then(|len| u8::try_from(len).ok());
    Flavors {
        operations,
        block_bits: bits(format.and_then(|format| format.locator_block_length)),
        node_function_bits: bits(
            format.and_then(|format| format.locator_node_length?.checked_add(format.function_length?)),
        ),
    }
}

#[cfg(test)]
mod tests;
