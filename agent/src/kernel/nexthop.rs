//! Nexthop objects on the wire: `struct nhmsg` and its attributes (include/uapi/linux/nexthop.h, Linux 5.3).

use super::wire::{
    Attrs, Encoder, NLM_F_REQUEST, RTM_DELNEXTHOP, RTM_NEWNEXTHOP, Unencodable, ip, u16_at, u32_at,
};
use crate::model::{Family, Hop, Member, NexthopBody, NexthopId, NexthopObject, Resilience};

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_FDB: u16 = 11;
const NHA_RES_GROUP: u16 = 12;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
/// NLA_F_NESTED: NHA_RES_GROUP is refused without.
const NESTED: u16 = 0x8000;

const RTNH_F_ONLINK: u32 = 4;
/// NEXTHOP_GRP_TYPE_MPATH: hash threshold groups.
const GROUP_TYPE_MPATH: u16 = 0;
/// NEXTHOP_GRP_TYPE_RES
const GROUP_TYPE_RESILIENT: u16 = 1;

/// Length of `struct nhmsg`: family, scope, protocol, reserved, flags (4 bytes).
pub(super) const NHMSG: usize = 8;
/// Length of `struct nexthop_grp`: id (4 bytes), weight, weight_high, reserved (2 bytes).
const GROUP_ENTRY: usize = 8;

/// Appends RTM_NEWNEXTHOP; `flags` says whether it may create or replace.
pub(super) fn encode(
    enc: &mut Encoder,
    flags: u16,
    seq: u32,
    object: &NexthopObject,
) -> Result<(), Unencodable> {
    let (family, hop_flags) = match &object.body {
        NexthopBody::Single(hop) => {
            (hop.gateway.map_or(hop.family, |gateway| Family::of_addr(&gateway)).af(), hop.onlink)
        }
        NexthopBody::Group(_) | NexthopBody::Resilient(..) => (0, false),
        NexthopBody::Other => return Err("only single nexthops and groups can be written"),
    };
    let [f0, f1, f2, f3] = (if hop_flags { RTNH_F_ONLINK } else { 0 }).to_ne_bytes();
    enc.begin(RTM_NEWNEXTHOP, flags, seq, &[family, 0, object.protocol, 0, f0, f1, f2, f3]);
    enc.attr_u32(NHA_ID, object.id.0);
    match &object.body {
        NexthopBody::Single(hop) => {
            enc.attr_u32(NHA_OIF, hop.ifindex);
            if let Some(gateway) = hop.gateway {
                enc.attr_ip(NHA_GATEWAY, gateway);
            }
        }
        NexthopBody::Group(members) => group(enc, members),
        NexthopBody::Resilient(members, resilience) => {
            group(enc, members);
            enc.attr(NHA_GROUP_TYPE, &GROUP_TYPE_RESILIENT.to_ne_bytes());
            let at = enc.nest(NHA_RES_GROUP | NESTED);
            enc.attr(NHA_RES_GROUP_BUCKETS, &resilience.buckets.to_ne_bytes());
            enc.attr_u32(NHA_RES_GROUP_IDLE_TIMER, resilience.idle_timer);
            enc.end(at);
        }
        NexthopBody::Other => {}
    }
    enc.finish()
}

/// NHA_GROUP: kernels before 6.12 refuse a weight over 256, whose high byte is reserved there.
fn group(enc: &mut Encoder, members: &[Member]) {
    let at = enc.nest(NHA_GROUP);
    for member in members {
        let [low, high] = member.weight.saturating_sub(1).to_le_bytes();
        enc.raw(&member.id.0.to_ne_bytes());
        enc.raw(&[low, high, 0, 0]);
    }
    enc.end(at);
}

/// Appends RTM_DELNEXTHOP.
pub(super) fn encode_delete(enc: &mut Encoder, seq: u32, id: NexthopId) -> Result<(), Unencodable> {
    enc.begin(RTM_DELNEXTHOP, NLM_F_REQUEST, seq, &[0; NHMSG]);
    enc.attr_u32(NHA_ID, id.0);
    enc.finish()
}

/// A nexthop object of a dump or a notification.
pub(super) fn decode(payload: &[u8]) -> Option<NexthopObject> {
    let [af, _scope, protocol, _] = *payload.first_chunk()?;
    let onlink = u32_at(payload, 4)? & RTNH_F_ONLINK != 0;
    let family = if af == Family::Ipv6.af() { Family::Ipv6 } else { Family::Ipv4 };
    let mut id = None;
    let mut hop = Hop { gateway: None, ifindex: 0, onlink, family };
    let mut members = None;
    let (mut other, mut group_type, mut resilience) = (false, GROUP_TYPE_MPATH, None);
    for (kind, value) in Attrs(payload.get(NHMSG..)?) {
        match kind {
            NHA_ID => id = u32_at(value, 0),
            NHA_OIF => hop.ifindex = u32_at(value, 0)?,
            NHA_GATEWAY => hop.gateway = ip(value),
            NHA_GROUP => members = Some(decode_group(value)),
            NHA_GROUP_TYPE => group_type = u16_at(value, 0)?,
            NHA_RES_GROUP => resilience = decode_resilience(value),
            NHA_BLACKHOLE | NHA_ENCAP_TYPE | NHA_FDB => other = true,
            _ => {}
        }
    }
    let body = match members {
        _ if other => NexthopBody::Other,
        Some(members) => match (group_type, resilience) {
            (GROUP_TYPE_MPATH, _) => NexthopBody::Group(members),
            (GROUP_TYPE_RESILIENT, Some(resilience)) => NexthopBody::Resilient(members, resilience),
            _ => NexthopBody::Other,
        },
        None => NexthopBody::Single(hop),
    };
    Some(NexthopObject { id: NexthopId(id?), protocol, body })
}

fn decode_resilience(value: &[u8]) -> Option<Resilience> {
    let (mut buckets, mut idle_timer) = (None, None);
    for (kind, value) in Attrs(value) {
        match kind {
            NHA_RES_GROUP_BUCKETS => buckets = u16_at(value, 0),
            NHA_RES_GROUP_IDLE_TIMER => idle_timer = u32_at(value, 0),
            _ => {}
        }
    }
    Some(Resilience { buckets: buckets?, idle_timer: idle_timer? })
}

fn decode_group(value: &[u8]) -> Vec<Member> {
    value
        .chunks_exact(GROUP_ENTRY)
        .filter_map(|entry| {
            let [_, _, _, _, low, high, _, _] = *entry.first_chunk()?;
            let weight = u16::from_le_bytes([low, high]).saturating_add(1);
            Some(Member { id: NexthopId(u32_at(entry, 0)?), weight })
        })
        .collect()
}
