//! `RTM_NEWROUTE` and `RTM_DELROUTE`: IPv4, IPv6 and MPLS.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attr::{Attribute, Attributes, align};
use super::encap;
use super::message::{BodyError, Invalid, split};
use super::wire::{RTNH_F_ONLINK, rta};
use crate::types::{Family, IfIndex, Metric, Mtu, NexthopId, Protocol, RouteKey, RouteKind, TableId};
use crate::update::{Encap, Labels, Lsp, LspNexthop, Nexthop, Route, RouteDel, Target, Update};

/// `struct rtmsg`.
struct Header {
    family: Family,
    dst_len: u8,
    src_len: u8,
    table: u8,
    protocol: Protocol,
    scope: u8,
    kind: RouteKind,
    flags: u32,
}

impl From<&[u8; 12]> for Header {
    fn from(
        &[family, dst_len, src_len, _tos, table, protocol, scope, kind, f0, f1, f2, f3]: &[u8; 12],
    ) -> Self {
        Self {
            family: Family::from_wire(family),
            dst_len,
            src_len,
            table,
            protocol: Protocol(protocol),
            scope,
            kind: RouteKind::from_wire(kind),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
        }
    }
}

/// Attributes of a nexthop, be it the route's only one or one of `RTA_MULTIPATH`.
#[derive(Default)]
struct HopAttributes<'a> {
    gateway: Option<IpAddr>,
    oif: Option<IfIndex>,
    encap_type: Option<u16>,
    encap: Option<Attribute<'a>>,
    new_dst: Option<Attribute<'a>>,
}

impl<'a> HopAttributes<'a> {
    /// Takes an attribute; tells whether it is one of a nexthop.
    #[inline]
    fn take(&mut self, attribute: Attribute<'a>) -> Result<bool, BodyError> {
        match attribute.kind {
            rta::OIF => self.oif = IfIndex::from_wire(attribute.u32()?),
            rta::GATEWAY => self.gateway = Some(attribute.ip()?),
            rta::VIA => self.gateway = Some(attribute.via()?),
            rta::ENCAP_TYPE => self.encap_type = Some(attribute.u16()?),
            rta::ENCAP => self.encap = Some(attribute),
            rta::NEWDST => self.new_dst = Some(attribute),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn encap(&self, unknown: &mut u32) -> Result<Option<Box<Encap>>, BodyError> {
        encap::of(self.encap_type, self.encap, unknown)
    }

    fn labels(&self) -> Result<Labels, BodyError> {
        Ok(match self.new_dst {
            Some(stack) => encap::labels(stack)?,
            None => Labels::new(),
        })
    }

    fn is_empty(&self) -> bool {
        self.gateway.is_none() && self.oif.is_none() && self.encap.is_none() && self.new_dst.is_none()
    }

    fn nexthop(&self, weight: u32, onlink: bool, unknown: &mut u32) -> Result<Nexthop, BodyError> {
        let encap = self.encap(unknown)?;
        Ok(Nexthop { gateway: self.gateway, ifindex: self.oif, weight, onlink, encap })
    }
}

/// Attributes of a route.
#[derive(Default)]
struct RouteAttributes<'a> {
    dst: Option<Attribute<'a>>,
    src: Option<Attribute<'a>>,
    priority: Option<u32>,
    table: Option<u32>,
    mtu: Option<u32>,
    nh_id: Option<u32>,
    prefsrc: Option<IpAddr>,
    multipath: Option<&'a [u8]>,
    flow: Option<u32>,
    hop: HopAttributes<'a>,
}

impl<'a> RouteAttributes<'a> {
    #[inline]
    fn parse(bytes: &'a [u8], unknown: &mut u32) -> Result<Self, BodyError> {
        let mut all = Self::default();
        for attribute in Attributes::new(bytes) {
            let attribute = attribute?;
            match attribute.kind {
                rta::DST => all.dst = Some(attribute),
                rta::SRC => all.src = Some(attribute),
                rta::PRIORITY => all.priority = Some(attribute.u32()?),
                rta::TABLE => all.table = Some(attribute.u32()?),
                rta::METRICS => all.mtu = mtu(attribute, unknown)?,
                rta::NH_ID => all.nh_id = Some(attribute.u32()?),
                rta::PREFSRC => all.prefsrc = Some(attribute.ip()?),
                rta::MULTIPATH => all.multipath = Some(attribute.value),
                rta::FLOW => all.flow = Some(attribute.u32()?),
                // Of the kernel's own dumps, and of no use to a reader of routes.
                rta::IIF | rta::CACHEINFO | rta::PREF | rta::EXPIRES => {}
                _ if all.hop.take(attribute)? => {}
                _ => *unknown += 1,
            }
        }
        Ok(all)
    }

    fn table(&self, header: &Header) -> TableId {
        TableId(self.table.unwrap_or_else(|| u32::from(header.table)))
    }

    #[inline]
    fn key(&self, header: &Header) -> Result<RouteKey, BodyError> {
        let dst = prefix(header.family, self.dst, header.dst_len)?;
        let src = match prefix(header.family, self.src, header.src_len)? {
            IpNet::V6(src) if header.src_len > 0 => Some(src),
            _ => None,
        };
        Ok(RouteKey { table: self.table(header), vrf: None, dst, src })
    }
}

/// Decodes a route; `None` for families that have no type here.
// This and what it calls is inlined: handing an update on by value from call to call takes twice the time of decoding it.
#[inline]
pub(crate) fn decode(add: bool, body: &[u8], unknown: &mut u32) -> Result<Option<Update>, BodyError> {
    let (header, attributes) = split(body)?;
    let header = Header::from(header);
    match header.family {
        Family::Ipv4 | Family::Ipv6 => {}
        Family::Mpls => {
            let attributes = RouteAttributes::parse(attributes, unknown)?;
            let lsp = Box::new(lsp(&header, &attributes, unknown)?);
            return Ok(Some(if add { Update::Lsp(lsp) } else { Update::LspDel(lsp) }));
        }
        _ => return Ok(None),
    }
    let attributes = RouteAttributes::parse(attributes, unknown)?;
    let key = attributes.key(&header)?;
    let metric = attributes.priority.map(Metric);
    if !add {
        return Ok(Some(Update::RouteDel(RouteDel { key, protocol: Some(header.protocol), metric })));
    }
    let (target, flags) = target(&header, &attributes, unknown)?;
    Ok(Some(Update::Route(Route {
        key,
        protocol: header.protocol,
        qpb_protocol: None,
        kind: header.kind,
        scope: header.scope,
        flags,
        metric,
        mtu: attributes.mtu.map(Mtu),
        preferred_source: attributes.prefsrc,
        realm: attributes.flow,
        target,
    })))
}

/// The target, and the route's flags without those that are the nexthop's.
#[inline]
fn target(
    header: &Header,
    attributes: &RouteAttributes<'_>,
    unknown: &mut u32,
) -> Result<(Target, u32), BodyError> {
    let target = if !header.kind.forwards() {
        Target::None
    } else if let Some(id) = attributes.nh_id {
        Target::Nexthop(NexthopId(id))
    } else if let Some(multipath) = attributes.multipath {
        Target::Nexthops(multipath_nexthops(multipath, HopAttributes::nexthop, unknown)?)
    } else if attributes.hop.is_empty() {
        Target::None
    } else {
        let onlink = header.flags & u32::from(RTNH_F_ONLINK) != 0;
        let nexthops = Box::new([attributes.hop.nexthop(1, onlink, unknown)?]);
        return Ok((Target::Nexthops(nexthops), header.flags & !u32::from(RTNH_F_ONLINK)));
    };
    Ok((target, header.flags))
}

/// Walks over the `struct rtnexthop` of `RTA_MULTIPATH`.
fn multipath_nexthops<'a, T>(
    mut rest: &'a [u8],
    make: impl Fn(&HopAttributes<'a>, u32, bool, &mut u32) -> Result<T, BodyError>,
    unknown: &mut u32,
) -> Result<Box<[T]>, BodyError> {
    let mut nexthops = Vec::new();
    while !rest.is_empty() {
        let available = rest.len();
        let Some((&[l0, l1, flags, hops, i0, i1, i2, i3], _)) = rest.split_first_chunk::<8>() else {
            return Err(Invalid::MultipathLength { len: 8, available }.into());
        };
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let attributes = rest.get(8..len).ok_or(Invalid::MultipathLength { len, available })?;
        let mut hop = HopAttributes::default();
        for attribute in Attributes::new(attributes) {
            *unknown += u32::from(!hop.take(attribute?)?);
        }
        hop.oif = IfIndex::from_wire(u32::from_ne_bytes([i0, i1, i2, i3]));
        nexthops.push(make(&hop, u32::from(hops) + 1, flags & RTNH_F_ONLINK != 0, unknown)?);
        rest = rest.get(align(len)..).unwrap_or_default();
    }
    Ok(nexthops.into())
}

fn lsp(header: &Header, attributes: &RouteAttributes<'_>, unknown: &mut u32) -> Result<Lsp, BodyError> {
    let label = match attributes.dst {
        Some(dst) if header.dst_len == 20 => encap::labels(dst)?.first().copied(),
        _ => None,
    };
    let hop = |hop: &HopAttributes<'_>, weight, onlink, unknown: &mut u32| {
        Ok(LspNexthop { nexthop: hop.nexthop(weight, onlink, unknown)?, labels: hop.labels()? })
    };
    let nexthops: Box<[LspNexthop]> = if let Some(multipath) = attributes.multipath {
        multipath_nexthops(multipath, hop, unknown)?
    } else if attributes.hop.is_empty() {
        Box::new([])
    } else {
        Box::new([hop(&attributes.hop, 1, header.flags & u32::from(RTNH_F_ONLINK) != 0, unknown)?])
    };
    Ok(Lsp {
        label: label.ok_or(Invalid::LspWithoutLabel)?,
        protocol: header.protocol,
        table: attributes.table(header),
        kind: header.kind,
        nexthops,
    })
}

fn mtu(metrics: Attribute<'_>, unknown: &mut u32) -> Result<Option<u32>, BodyError> {
    let mut mtu = None;
    for metric in metrics.nested() {
        let metric = metric?;
        match metric.kind {
            rta::RTAX_MTU => mtu = Some(metric.u32()?),
            _ => *unknown += 1,
        }
    }
    Ok(mtu)
}

/// A prefix with its host bits zeroed; the kernel leaves the attribute out for length 0.
#[inline]
fn prefix(family: Family, address: Option<Attribute<'_>>, len: u8) -> Result<IpNet, BodyError> {
    let missing = Invalid::PrefixAddress(len);
    let net = if family == Family::Ipv4 {
        let address = match address {
            Some(attribute) => attribute.ipv4().map_err(|_| missing)?,
            None if len == 0 => Ipv4Addr::UNSPECIFIED,
            None => return Err(missing.into()),
        };
        Ipv4Net::new(address, len).map(|net| IpNet::V4(net.trunc()))
    } else {
        let address = match address {
            Some(attribute) => attribute.ipv6().map_err(|_| missing)?,
            None if len == 0 => Ipv6Addr::UNSPECIFIED,
            None => return Err(missing.into()),
        };
        Ipv6Net::new(address, len).map(|net| IpNet::V6(net.trunc()))
    };
    net.map_err(|_| Invalid::PrefixLength(len).into())
}
