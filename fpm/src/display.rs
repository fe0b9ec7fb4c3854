//! Updates as `ip route`, `ip nexthop` and `bridge fdb` print them. Interfaces are printed by index, `if3`: names are
//! not on the wire.

use std::fmt::{self, Display, Formatter};

use crate::json::{flavor_names, hex, seg6_mode};
use crate::types::{Family, IfIndex, Metric, Mtu, NexthopId, Protocol, RouteKind, TableId, VrfId};
use crate::update::{
    Encap, Lsp, Neighbor, Nexthop, NexthopBody, NexthopObject, RawMessage, Route, RouteDel, Seg6Local,
    Target, Update,
};

impl Display for IfIndex {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "if{}", self.0)
    }
}

impl Display for Update {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => write!(f, "{route}"),
            Self::RouteDel(route) => write!(f, "Deleted {route}"),
            Self::Nexthop(object) => write!(f, "nexthop {object}"),
            Self::NexthopDel { id, .. } => write!(f, "Deleted nexthop id {}", id.0),
            Self::Neighbor(neighbor) => write!(f, "neighbor {neighbor}"),
            Self::NeighborDel(neighbor) => write!(f, "Deleted neighbor {neighbor}"),
            Self::Lsp(lsp) => write!(f, "lsp {lsp}"),
            Self::LspDel(lsp) => write!(f, "Deleted lsp {lsp}"),
            Self::Raw(raw) => write!(f, "{raw}"),
        }
    }
}

/// A space, a word, a space, and the value if there is one.
fn option<T: Display>(f: &mut Formatter<'_>, word: &str, value: Option<T>) -> fmt::Result {
    match value {
        Some(value) => write!(f, " {word} {value}"),
        None => Ok(()),
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.kind != RouteKind::Unicast {
            write!(f, "{} ", self.kind)?;
        }
        write!(f, "{}", self.key)?;
        let single = match &self.target {
            Target::Nexthop(NexthopId(id)) => {
                write!(f, " nhid {id}")?;
                None
            }
            Target::Nexthops(hops) => match &**hops {
                [hop] if hop.weight == 1 => Some(hop),
                _ => None,
            },
            Target::None => None,
        };
        if let Some(hop) = single {
            fmt_hop(hop, self.key.family(), f)?;
        }
        write!(f, " proto {}", self.protocol)?;
        option(f, "src", self.preferred_source)?;
        option(f, "realm", self.realm)?;
        option(f, "metric", self.metric.map(|Metric(metric)| metric))?;
        option(f, "mtu", self.mtu.map(|Mtu(mtu)| mtu))?;
        if single.is_none() {
            for hop in self.target.nexthops() {
                write!(f, " nexthop")?;
                fmt_hop(hop, self.key.family(), f)?;
                write!(f, " weight {}", hop.weight)?;
            }
        }
        Ok(())
    }
}

impl Display for RouteDel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        option(f, "proto", self.protocol)?;
        option(f, "metric", self.metric.map(|Metric(metric)| metric))
    }
}

/// `inet6` marks a gateway of another family than the route's, as iproute2 does.
fn fmt_hop(hop: &Nexthop, family: Family, f: &mut Formatter<'_>) -> fmt::Result {
    if let Some(encap) = &hop.encap {
        write!(f, " encap {encap}")?;
    }
    if let Some(gateway) = hop.gateway {
        match Family::of_addr(&gateway) {
            same if same == family => write!(f, " via {gateway}")?,
            Family::Ipv6 => write!(f, " via inet6 {gateway}")?,
            _ => write!(f, " via inet {gateway}")?,
        }
    }
    option(f, "dev", hop.ifindex)?;
    if hop.onlink { f.write_str(" onlink") } else { Ok(()) }
}

impl Display for Encap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mpls(labels) => {
                f.write_str("mpls ")?;
                separated(f, "/", labels.iter().map(|label| label.0))
            }
            Self::Seg6 { mode, segments, source } => {
                write!(f, "seg6 mode {} segs {} [ ", seg6_mode(*mode), segments.len())?;
                separated(f, " ", segments.iter())?;
                f.write_str(" ]")?;
                option(f, "tunsrc", source.as_ref())
            }
            Self::Seg6Local(local) => write!(f, "seg6local {local}"),
            Self::Vxlan { vni } => write!(f, "vxlan vni {vni}"),
            Self::Ip { id, dst, src } => {
                f.write_str("ip")?;
                option(f, "id", id.as_ref())?;
                option(f, "src", src.as_ref())?;
                option(f, "dst", dst.as_ref())
            }
            Self::Ip6 { id, dst, src } => {
                f.write_str("ip6")?;
                option(f, "id", id.as_ref())?;
                option(f, "src", src.as_ref())?;
                option(f, "dst", dst.as_ref())
            }
            Self::Other { encap_type, data } => write!(f, "type-{encap_type} {}", hex(data, "")),
        }
    }
}

fn separated<T: Display>(f: &mut Formatter<'_>, by: &str, items: impl Iterator<Item = T>) -> fmt::Result {
    for (at, item) in items.enumerate() {
        if at > 0 {
            f.write_str(by)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl Display for Seg6Local {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "action {}", self.action)?;
        option(f, "table", self.table)?;
        option(f, "vrftable", self.vrf_table)?;
        option(f, "vrf", self.vrf.map(|VrfId(vrf)| vrf))?;
        option(f, "nh4", self.nh4)?;
        option(f, "nh6", self.nh6)?;
        option(f, "iif", self.iif)?;
        option(f, "oif", self.oif)?;
        if let Some(flavors) = self.flavors {
            f.write_str(" flavors ")?;
            separated(f, ",", flavor_names(flavors))?;
            option(f, "lblen", flavors.block_bits)?;
            option(f, "nflen", flavors.node_function_bits)?;
        }
        Ok(())
    }
}

impl Display for NexthopObject {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "id {}", self.id.0)?;
        match &self.body {
            NexthopBody::Single(hop) => {
                let family = hop.gateway.as_ref().map_or(self.family, Family::of_addr);
                fmt_hop(hop, family, f)?;
            }
            NexthopBody::Blackhole => f.write_str(" blackhole")?,
            NexthopBody::Group(group) => {
                f.write_str(" group ")?;
                let member = |member: &crate::GroupMember| match member.weight {
                    1 => member.id.0.to_string(),
                    weight => format!("{},{weight}", member.id.0),
                };
                separated(f, "/", group.members.iter().map(member))?;
                if let Some(resilient) = group.resilient {
                    f.write_str(" type resilient")?;
                    option(f, "buckets", resilient.buckets)?;
                    option(f, "idle_timer", resilient.idle_timer)?;
                    option(f, "unbalanced_timer", resilient.unbalanced_timer)?;
                }
            }
        }
        write!(f, " proto {}", self.protocol)
    }
}

impl Display for Neighbor {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.family)?;
        option(f, "lladdr", self.lladdr.as_deref().map(|lladdr| hex(lladdr, ":")))?;
        option(f, "dev", self.ifindex)?;
        option(f, "vlan", self.vlan)?;
        option(f, "dst", self.dst)?;
        option(f, "nhid", self.nexthop.map(|NexthopId(id)| id))?;
        option(f, "vni", self.vni)?;
        option(f, "master", self.master)?;
        option(f, "proto", self.protocol)
    }
}

impl Display for Lsp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.label.0)?;
        if self.table != TableId::MAIN {
            write!(f, " table {}", self.table)?;
        }
        if self.protocol != Protocol::UNSPEC {
            write!(f, " proto {}", self.protocol)?;
        }
        let multipath = self.nexthops.len() > 1;
        for hop in &self.nexthops {
            if multipath {
                f.write_str(" nexthop")?;
            }
            if !hop.labels.is_empty() {
                f.write_str(" as to ")?;
                separated(f, "/", hop.labels.iter().map(|label| label.0))?;
            }
            fmt_hop(&hop.nexthop, Family::Mpls, f)?;
            if multipath {
                write!(f, " weight {}", hop.nexthop.weight)?;
            }
        }
        Ok(())
    }
}

impl Display for RawMessage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.nlmsg_type {
            Some(nlmsg_type) => write!(f, "raw netlink type {nlmsg_type}: {}", hex(&self.body, "")),
            None => write!(f, "raw protobuf: {}", hex(&self.body, "")),
        }
    }
}
