//! `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP` (`include/uapi/linux/nexthop.h`, Linux 5.3).

use std::net::IpAddr;

use super::attr::{Attribute, Attributes};
use super::encap;
use super::message::{BodyError, Invalid, split};
use super::wire::{GROUP_TYPE_RESILIENT, RTNH_F_ONLINK, nha};
use crate::types::{Family, IfIndex, NexthopId, Protocol};
use crate::update::{GroupMember, Nexthop, NexthopBody, NexthopGroup, NexthopObject, Resilient, Update};

/// Attributes of a nexthop object.
#[derive(Default)]
struct NexthopAttributes<'a> {
    id: Option<u32>,
    group: Option<Attribute<'a>>,
    blackhole: bool,
    oif: Option<IfIndex>,
    gateway: Option<IpAddr>,
    encap_type: Option<u16>,
    encap: Option<Attribute<'a>>,
    resilient: Option<Attribute<'a>>,
    group_type: Option<u16>,
}

impl<'a> NexthopAttributes<'a> {
    fn parse(bytes: &'a [u8], unknown: &mut u32) -> Result<Self, BodyError> {
        let mut all = Self::default();
        for attribute in Attributes::new(bytes) {
            let attribute = attribute?;
            match attribute.kind {
                nha::ID => all.id = Some(attribute.u32()?),
                nha::GROUP => all.group = Some(attribute),
                nha::BLACKHOLE => all.blackhole = true,
                nha::OIF => all.oif = IfIndex::from_wire(attribute.u32()?),
                nha::GATEWAY => all.gateway = Some(attribute.ip()?),
                nha::ENCAP_TYPE => all.encap_type = Some(attribute.u16()?),
                nha::ENCAP => all.encap = Some(attribute),
                nha::RES_GROUP => all.resilient = Some(attribute),
                nha::GROUP_TYPE => all.group_type = Some(attribute.u16()?),
                _ => *unknown += 1,
            }
        }
        Ok(all)
    }

    fn body(&self, flags: u32, unknown: &mut u32) -> Result<NexthopBody, BodyError> {
        if let Some(group) = self.group {
            let mut resilient = self.resilient.map(|group| resilient(group, unknown)).transpose()?;
            match self.group_type {
                Some(GROUP_TYPE_RESILIENT) => drop(resilient.get_or_insert_default()),
                None | Some(0) => {}
                Some(_) => *unknown += 1,
            }
            return Ok(NexthopBody::Group(NexthopGroup { members: members(group)?, resilient }));
        }
        if self.blackhole {
            return Ok(NexthopBody::Blackhole);
        }
        let encap = encap::of(self.encap_type, self.encap, unknown)?;
        let onlink = flags & u32::from(RTNH_F_ONLINK) != 0;
        Ok(NexthopBody::Single(Nexthop {
            gateway: self.gateway,
            ifindex: self.oif,
            weight: 1,
            onlink,
            encap,
        }))
    }
}

/// Decodes a nexthop object.
pub(crate) fn decode(add: bool, body: &[u8], unknown: &mut u32) -> Result<Update, BodyError> {
    let (&[family, _scope, protocol, _reserved, f0, f1, f2, f3], attributes) = split::<8>(body)?;
    let attributes = NexthopAttributes::parse(attributes, unknown)?;
    let id = NexthopId(attributes.id.ok_or(Invalid::NexthopWithoutId)?);
    let protocol = Protocol(protocol);
    if !add {
        return Ok(Update::NexthopDel { id, protocol });
    }
    let body = attributes.body(u32::from_ne_bytes([f0, f1, f2, f3]), unknown)?;
    Ok(Update::Nexthop(NexthopObject { id, protocol, family: Family::from_wire(family), body }))
}

/// An array of `struct nexthop_grp`: id, weight - 1 in a low and (Linux 6.12) a high byte, two reserved.
fn members(group: Attribute<'_>) -> Result<smallvec::SmallVec<[GroupMember; 4]>, BodyError> {
    let (entries, rest) = group.value.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(group.size_error("a multiple of 8").into());
    }
    let member = |&[i0, i1, i2, i3, weight, weight_high, _, _]: &[u8; 8]| GroupMember {
        id: NexthopId(u32::from_ne_bytes([i0, i1, i2, i3])),
        weight: u32::from(u16::from_be_bytes([weight_high, weight])) + 1,
    };
    Ok(entries.iter().map(member).collect())
}

fn resilient(group: Attribute<'_>, unknown: &mut u32) -> Result<Resilient, BodyError> {
    let mut resilient = Resilient::default();
    for attribute in group.nested() {
        let attribute = attribute?;
        match attribute.kind {
            nha::RES_GROUP_BUCKETS => resilient.buckets = Some(attribute.u16()?),
            nha::RES_GROUP_IDLE_TIMER => resilient.idle_timer = Some(attribute.u32()?),
            nha::RES_GROUP_UNBALANCED_TIMER => resilient.unbalanced_timer = Some(attribute.u32()?),
            _ => *unknown += 1,
        }
    }
    Ok(resilient)
}
