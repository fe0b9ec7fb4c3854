//! JSON lines: one object for each message, with a field for each thing that applies and none that does not.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::frame::Encoding;
use crate::types::{
    Family, IfIndex, Label, Metric, Mtu, NexthopId, Protocol, RouteKey, RouteKind, TableId, VrfId,
};
use crate::update::{
    Encap, Flavors, GroupMember, Lsp, Neighbor, Nexthop, NexthopBody, NexthopObject, RawMessage, Route,
    RouteDel, Seg6Local, Target, Update,
};

/// An update with the encoding that it came in: serializes as `backtrail fpm decode -o json` prints it.
///
/// ```
/// use zebra_fpm::{NexthopId, Protocol, Record, Route, RouteKey, TableId, Update, frame::Encoding};
///
/// let key = RouteKey::new(TableId::MAIN, "192.0.2.0/24".parse()?);
/// let update = Update::Route(Route::by_nexthop(key, Protocol::BGP, NexthopId(15)));
/// let record = Record { encoding: Encoding::Netlink, update: &update };
/// assert_eq!(
///     serde_json::to_string(&record)?,
///     r#"{"op":"add","kind":"route","encoding":"netlink","family":"ipv4","table":254,"dst":"192.0.2.0/24","#.to_owned()
///         + r#""protocol":186,"type":"unicast","metric":20,"nhid":15}"#
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// How it was encoded: says which fields the message can have had.
    pub encoding: Encoding,
    /// What it says.
    pub update: &'a Update,
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Line::of(self).serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Add,
    Del,
}

/// All fields that there are, in the order in which they are printed.
#[derive(Default, Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<Op>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<Family>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<TableId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vrf: Option<VrfId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<NexthopId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<Destination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<RouteKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<Metric>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<Mtu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefsrc: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    realm: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nhid: Option<NexthopId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Vec<MemberLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resilient: Option<ResilientLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nexthops: Option<Vec<NexthopLine<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lladdr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<IfIndex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vni: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    master: Option<IfIndex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nlmsg_type: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Destination {
    Prefix(String),
    Label(Label),
    Address(IpAddr),
}

#[derive(Serialize)]
struct MemberLine {
    id: NexthopId,
    weight: u32,
}

#[derive(Serialize)]
struct ResilientLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_timer: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unbalanced_timer: Option<u32>,
}

#[derive(Serialize)]
struct NexthopLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<IfIndex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    onlink: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a [Label]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encap: Option<EncapLine<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum EncapLine<'a> {
    Mpls {
        labels: &'a [Label],
    },
    Seg6 {
        mode: String,
        segments: &'a [Ipv6Addr],
        #[serde(skip_serializing_if = "Option::is_none")]
        src: Option<Ipv6Addr>,
    },
    Seg6Local(Seg6LocalLine),
    Vxlan {
        vni: u32,
    },
    Ip {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dst: Option<Ipv4Addr>,
        #[serde(skip_serializing_if = "Option::is_none")]
        src: Option<Ipv4Addr>,
    },
    Ip6 {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dst: Option<Ipv6Addr>,
        #[serde(skip_serializing_if = "Option::is_none")]
        src: Option<Ipv6Addr>,
    },
    Raw {
        encap_type: u16,
        hex: String,
    },
}

#[derive(Serialize)]
struct Seg6LocalLine {
    action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<TableId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vrftable: Option<TableId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vrf: Option<VrfId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nh4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nh6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oif: Option<IfIndex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iif: Option<IfIndex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flavors: Option<FlavorsLine>,
}

#[derive(Serialize)]
struct FlavorsLine {
    operations: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lblen: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nflen: Option<u8>,
}

impl<'a> Line<'a> {
    fn of(record: &Record<'a>) -> Self {
        let line = match record.update {
            Update::Route(route) => Self::route(route, record.encoding),
            Update::RouteDel(route) => Self::route_del(route),
            Update::Nexthop(object) => Self::nexthop(object),
            Update::NexthopDel { id, protocol } => Self {
                op: Some(Op::Del),
                kind: "nexthop",
                id: Some(*id),
                protocol: Some(protocol.0),
                ..Self::default()
            },
            Update::Neighbor(neighbor) => Self { op: Some(Op::Add), ..Self::neighbor(neighbor) },
            Update::NeighborDel(neighbor) => Self { op: Some(Op::Del), ..Self::neighbor(neighbor) },
            Update::Lsp(lsp) => Self { op: Some(Op::Add), r#type: Some(lsp.kind), ..Self::lsp(lsp) },
            Update::LspDel(lsp) => Self { op: Some(Op::Del), ..Self::lsp(lsp) },
            Update::Raw(raw) => Self::raw(raw),
        };
        Self { encoding: Some(record.encoding), ..line }
    }

    fn key(key: &RouteKey) -> Self {
        Self {
            kind: "route",
            family: Some(key.family()),
            table: key.vrf.is_none().then_some(key.table),
            vrf: key.vrf,
            dst: Some(Destination::Prefix(key.dst.to_string())),
            src: key.src.map(|src| src.to_string()),
            ..Self::default()
        }
    }

    fn route(route: &'a Route, encoding: Encoding) -> Self {
        let (nhid, nexthops) = match &route.target {
            Target::None => (None, None),
            Target::Nexthop(id) => (Some(*id), None),
            Target::Nexthops(hops) => {
                let weighted = encoding == Encoding::Netlink && is_multipath(hops.iter());
                (None, Some(hops.iter().map(|hop| NexthopLine::of(hop, weighted)).collect()))
            }
        };
        Self {
            op: Some(Op::Add),
            protocol: match encoding {
                Encoding::Netlink => Some(route.protocol.0),
                Encoding::Protobuf => route.qpb_protocol.map(|protocol| protocol.0),
            },
            r#type: Some(route.kind),
            metric: route.metric,
            mtu: route.mtu,
            prefsrc: route.preferred_source,
            realm: route.realm,
            nhid,
            nexthops,
            ..Self::key(&route.key)
        }
    }

    fn route_del(route: &RouteDel) -> Self {
        Self {
            op: Some(Op::Del),
            protocol: route.protocol.map(|protocol| protocol.0),
            metric: route.metric,
            ..Self::key(&route.key)
        }
    }

    fn nexthop(object: &'a NexthopObject) -> Self {
        let mut line = Self {
            op: Some(Op::Add),
            kind: "nexthop",
            family: Some(object.family).filter(|family| *family != Family::Unspec),
            id: Some(object.id),
            protocol: Some(object.protocol.0),
            ..Self::default()
        };
        match &object.body {
            NexthopBody::Single(hop) => line.nexthops = Some(vec![NexthopLine::of(hop, false)]),
            NexthopBody::Blackhole => line.r#type = Some(RouteKind::Blackhole),
            NexthopBody::Group(group) => {
                let member = |&GroupMember { id, weight }: &GroupMember| MemberLine { id, weight };
                line.group = Some(group.members.iter().map(member).collect());
                line.resilient = group.resilient.map(|resilient| ResilientLine {
                    buckets: resilient.buckets,
                    idle_timer: resilient.idle_timer,
                    unbalanced_timer: resilient.unbalanced_timer,
                });
            }
        }
        line
    }

    fn neighbor(neighbor: &Neighbor) -> Self {
        Self {
            kind: "neighbor",
            family: Some(neighbor.family),
            lladdr: neighbor.lladdr.as_deref().map(|lladdr| hex(lladdr, ":")),
            dst: neighbor.dst.map(Destination::Address),
            dev: neighbor.ifindex,
            vlan: neighbor.vlan,
            vni: neighbor.vni,
            master: neighbor.master,
            nhid: neighbor.nexthop,
            protocol: neighbor.protocol.map(|Protocol(protocol)| protocol),
            ..Self::default()
        }
    }

    fn lsp(lsp: &'a Lsp) -> Self {
        let weighted = is_multipath(lsp.nexthops.iter().map(|hop| &hop.nexthop));
        let nexthop = |hop: &'a crate::LspNexthop| NexthopLine {
            labels: Some(hop.labels.as_slice()),
            ..NexthopLine::of(&hop.nexthop, weighted)
        };
        Self {
            kind: "lsp",
            family: Some(Family::Mpls),
            table: Some(lsp.table),
            dst: Some(Destination::Label(lsp.label)),
            protocol: Some(lsp.protocol.0),
            nexthops: (!lsp.nexthops.is_empty()).then(|| lsp.nexthops.iter().map(nexthop).collect()),
            ..Self::default()
        }
    }

    /// Message types come in fours (NEW, DEL, GET, SET) from 16 on (`include/uapi/linux/rtnetlink.h`).
    fn raw(raw: &RawMessage) -> Self {
        let op = match raw.nlmsg_type {
            Some(16..) if raw.nlmsg_type.is_some_and(|number| number % 4 == 0) => Some(Op::Add),
            Some(16..) if raw.nlmsg_type.is_some_and(|number| number % 4 == 1) => Some(Op::Del),
            _ => None,
        };
        Self { op, kind: "raw", nlmsg_type: raw.nlmsg_type, hex: Some(hex(&raw.body, "")), ..Self::default() }
    }
}

/// Whether weights mean anything: the wire has none for the only nexthop.
fn is_multipath<'a>(mut hops: impl ExactSizeIterator<Item = &'a Nexthop>) -> bool {
    hops.len() > 1 || hops.any(|hop| hop.weight != 1)
}

impl<'a> NexthopLine<'a> {
    fn of(hop: &'a Nexthop, weighted: bool) -> Self {
        Self {
            via: hop.gateway,
            dev: hop.ifindex,
            weight: weighted.then_some(hop.weight),
            onlink: hop.onlink,
            labels: None,
            encap: hop.encap.as_deref().map(EncapLine::of),
        }
    }
}

impl<'a> EncapLine<'a> {
    fn of(encap: &'a Encap) -> Self {
        match encap {
            Encap::Mpls(labels) => Self::Mpls { labels },
            Encap::Seg6 { mode, segments, source } => {
                Self::Seg6 { mode: seg6_mode(*mode), segments, src: *source }
            }
            Encap::Seg6Local(local) => Self::Seg6Local(Seg6LocalLine::of(local)),
            Encap::Vxlan { vni } => Self::Vxlan { vni: *vni },
            Encap::Ip { id, dst, src } => Self::Ip { id: *id, dst: *dst, src: *src },
            Encap::Ip6 { id, dst, src } => Self::Ip6 { id: *id, dst: *dst, src: *src },
            Encap::Other { encap_type, data } => Self::Raw { encap_type: *encap_type, hex: hex(data, "") },
        }
    }
}

impl Seg6LocalLine {
    fn of(local: &Seg6Local) -> Self {
        Self {
            action: local.action.to_string(),
            table: local.table,
            vrftable: local.vrf_table,
            vrf: local.vrf,
            nh4: local.nh4,
            nh6: local.nh6,
            oif: local.oif,
            iif: local.iif,
            flavors: local.flavors.map(|flavors| FlavorsLine {
                operations: flavor_names(flavors).collect(),
                lblen: flavors.block_bits,
                nflen: flavors.node_function_bits,
            }),
        }
    }
}

/// iproute2's names of `SEG6_IPTUN_MODE_*`.
pub(crate) fn seg6_mode(mode: u32) -> String {
    match mode {
        0 => "inline".to_owned(),
        1 => "encap".to_owned(),
        2 => "l2encap".to_owned(),
        3 => "encap.red".to_owned(),
        4 => "l2encap.red".to_owned(),
        other => format!("mode-{other}"),
    }
}

/// iproute2's names of the flavors that are set.
pub(crate) fn flavor_names(flavors: Flavors) -> impl Iterator<Item = &'static str> {
    let names = [
        (Flavors::PSP, "psp"),
        (Flavors::USP, "usp"),
        (Flavors::USD, "usd"),
        (Flavors::NEXT_CSID, "next-csid"),
    ];
    names.into_iter().filter(move |(bit, _)| flavors.operations & bit != 0).map(|(_, name)| name)
}

/// Hexadecimal digits, with something between the bytes.
pub(crate) fn hex(bytes: &[u8], between: &str) -> String {
    let mut text = String::with_capacity(bytes.len() * (2 + between.len()));
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            text.push_str(between);
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
