//! `RTM_NEWNEIGH` and `RTM_DELNEIGH`: MACs of EVPN (`include/uapi/linux/neighbour.h`).

use super::attr::{Attribute, Attributes};
use super::message::{BodyError, split};
use super::wire::nda;
use crate::types::{Family, IfIndex, NexthopId, Protocol};
use crate::update::{Neighbor, Update};

/// `MAX_ADDR_LEN` of the kernel.
const MAX_LLADDR_LEN: usize = 32;

/// Decodes a neighbour.
pub(crate) fn decode(add: bool, body: &[u8], unknown: &mut u32) -> Result<Update, BodyError> {
    let (&[family, _, _, _, i0, i1, i2, i3, s0, s1, flags, kind], attributes) = split::<12>(body)?;
    let mut neighbor = Neighbor {
        family: Family::from_wire(family),
        ifindex: IfIndex::from_wire(u32::from_ne_bytes([i0, i1, i2, i3])),
        state: u16::from_ne_bytes([s0, s1]),
        flags,
        kind,
        lladdr: None,
        dst: None,
        vlan: None,
        vni: None,
        master: None,
        nexthop: None,
        protocol: None,
    };
    for attribute in Attributes::new(attributes) {
        take(&mut neighbor, attribute?, unknown)?;
    }
    let neighbor = Box::new(neighbor);
    Ok(if add { Update::Neighbor(neighbor) } else { Update::NeighborDel(neighbor) })
}

fn take(neighbor: &mut Neighbor, attribute: Attribute<'_>, unknown: &mut u32) -> Result<(), BodyError> {
    match attribute.kind {
        nda::DST => neighbor.dst = Some(attribute.ip()?),
        nda::LLADDR if attribute.value.len() > MAX_LLADDR_LEN => {
            return Err(attribute.size_error("at most 32").into());
        }
        nda::LLADDR => neighbor.lladdr = Some(attribute.value.into()),
        nda::VLAN => neighbor.vlan = Some(attribute.u16()?),
        nda::VNI => neighbor.vni = Some(attribute.u32()?),
        nda::MASTER => neighbor.master = IfIndex::from_wire(attribute.u32()?),
        nda::PROTOCOL => neighbor.protocol = Some(Protocol(attribute.u8()?)),
        nda::NH_ID => neighbor.nexthop = Some(NexthopId(attribute.u32()?)),
        _ => *unknown += 1,
    }
    Ok(())
}
