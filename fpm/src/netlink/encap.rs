//! Lightweight tunnel encapsulations: the content of `RTA_ENCAP` and `NHA_ENCAP`, both directions.

use std::net::Ipv6Addr;

use super::attr::{Attribute, AttributeError, Attributes, NESTED};
use super::encode::Writer;
use super::message::{BodyError, Invalid};
use super::wire::lwt;
use crate::types::{IfIndex, Label, TableId};
use crate::update::{Encap, Flavors, Labels, Seg6Local, Seg6LocalAction};

/// `int mode` and `struct ipv6_sr_hdr`, in front of the segments.
const SRH_LEN: usize = 12;

/// Decodes the content of an encapsulation attribute. What it has no type for is kept as it came, and counted.
pub(crate) fn decode(encap_type: u16, data: &[u8], unknown: &mut u32) -> Result<Encap, BodyError> {
    let before = *unknown;
    let known = match encap_type {
        lwt::MPLS => mpls(data, unknown)?,
        lwt::IP => Some(ip(data, unknown)?),
        lwt::IP6 => Some(ip6(data, unknown)?),
        lwt::SEG6 => seg6(data, unknown)?,
        lwt::SEG6_LOCAL => Some(Encap::Seg6Local(seg6_local(data, unknown)?)),
        lwt::VXLAN => vxlan(data, unknown)?,
        _ => None,
    };
    Ok(known.unwrap_or_else(|| {
        *unknown = before + 1;
        Encap::Other { encap_type, data: data.into() }
    }))
}

/// Decodes the pair of attributes that names an encapsulation; one without the other is counted as unknown.
pub(crate) fn of(
    encap_type: Option<u16>,
    content: Option<Attribute<'_>>,
    unknown: &mut u32,
) -> Result<Option<Box<Encap>>, BodyError> {
    match (encap_type, content) {
        // LWTUNNEL_ENCAP_NONE
        (None | Some(0), None) => Ok(None),
        (Some(encap_type), Some(content)) if encap_type != 0 => {
            decode(encap_type, content.value, unknown).map(|encap| Some(Box::new(encap)))
        }
        _ => {
            *unknown += 1;
            Ok(None)
        }
    }
}

fn mpls(data: &[u8], unknown: &mut u32) -> Result<Option<Encap>, BodyError> {
    let mut stack = None;
    for attribute in Attributes::new(data) {
        let attribute = attribute?;
        match attribute.kind {
            lwt::MPLS_DST => stack = Some(labels(attribute)?),
            _ => *unknown += 1,
        }
    }
    Ok(stack.map(Encap::Mpls))
}

fn vxlan(data: &[u8], unknown: &mut u32) -> Result<Option<Encap>, BodyError> {
    let mut vni = None;
    for attribute in Attributes::new(data) {
        let attribute = attribute?;
        match attribute.kind {
            lwt::VXLAN_VNI => vni = Some(attribute.u32()?),
            _ => *unknown += 1,
        }
    }
    Ok(vni.map(|vni| Encap::Vxlan { vni }))
}

fn ip(data: &[u8], unknown: &mut u32) -> Result<Encap, BodyError> {
    let (id, dst, src) = tunnel(data, |attribute| attribute.ipv4(), unknown)?;
    Ok(Encap::Ip { id, dst, src })
}

fn ip6(data: &[u8], unknown: &mut u32) -> Result<Encap, BodyError> {
    let (id, dst, src) = tunnel(data, |attribute| attribute.ipv6(), unknown)?;
    Ok(Encap::Ip6 { id, dst, src })
}

/// Key, destination and source.
type Tunnel<A> = (Option<u64>, Option<A>, Option<A>);

fn tunnel<A>(
    data: &[u8],
    address: impl Fn(Attribute<'_>) -> Result<A, AttributeError>,
    unknown: &mut u32,
) -> Result<Tunnel<A>, BodyError> {
    let (mut id, mut dst, mut src) = (None, None, None);
    for attribute in Attributes::new(data) {
        let attribute = attribute?;
        match attribute.kind {
            lwt::IP_ID => id = Some(attribute.u64_be()?),
            lwt::IP_DST => dst = Some(address(attribute)?),
            lwt::IP_SRC => src = Some(address(attribute)?),
            _ => *unknown += 1,
        }
    }
    Ok((id, dst, src))
}

fn seg6(data: &[u8], unknown: &mut u32) -> Result<Option<Encap>, BodyError> {
    let (mut header, mut source) = (None, None);
    for attribute in Attributes::new(data) {
        let attribute = attribute?;
        match attribute.kind {
            lwt::SEG6_SRH => header = Some(attribute.value),
            lwt::SEG6_SRC => source = Some(attribute.ipv6()?),
            _ => *unknown += 1,
        }
    }
    let Some(header) = header else {
        return Ok(None);
    };
    let too_short = Invalid::SegmentRoutingHeader(header.len());
    let (fixed, rest) = header.split_first_chunk::<SRH_LEN>().ok_or(too_short)?;
    let &[m0, m1, m2, m3, _next, _len, kind, left, first, flags, t0, t1] = fixed;
    // `first_segment` is the index of the last entry, as segments are listed from the end of the path.
    let count = usize::from(first) + 1;
    let entries = rest.get(..count * 16).ok_or(too_short)?;
    // Anything but the list of segments (TLVs, flags, a tag) zebra does not write, and has no place in the type.
    if (kind, left, flags, t0, t1) != (4, first, 0, 0, 0) || rest.len() > entries.len() {
        return Ok(None);
    }
    let segments = entries.as_chunks::<16>().0.iter().rev().map(|segment| Ipv6Addr::from(*segment)).collect();
    Ok(Some(Encap::Seg6 { mode: u32::from_ne_bytes([m0, m1, m2, m3]), segments, source }))
}

fn seg6_local(data: &[u8], unknown: &mut u32) -> Result<Seg6Local, BodyError> {
    let mut local = Seg6Local::default();
    for attribute in Attributes::new(data) {
        let attribute = attribute?;
        match attribute.kind {
            lwt::LOCAL_ACTION => local.action = Seg6LocalAction(attribute.u32()?),
            lwt::LOCAL_TABLE => local.table = Some(TableId(attribute.u32()?)),
            lwt::LOCAL_VRFTABLE => local.vrf_table = Some(TableId(attribute.u32()?)),
            lwt::LOCAL_NH4 => local.nh4 = Some(attribute.ipv4()?),
            lwt::LOCAL_NH6 => local.nh6 = Some(attribute.ipv6()?),
            lwt::LOCAL_IIF => local.iif = IfIndex::from_wire(attribute.u32()?),
            lwt::LOCAL_OIF => local.oif = IfIndex::from_wire(attribute.u32()?),
            lwt::LOCAL_FLAVORS => local.flavors = Some(flavors(attribute, unknown)?),
            _ => *unknown += 1,
        }
    }
    Ok(local)
}

fn flavors(attribute: Attribute<'_>, unknown: &mut u32) -> Result<Flavors, BodyError> {
    let mut flavors = Flavors::default();
    for attribute in attribute.nested() {
        let attribute = attribute?;
        match attribute.kind {
            lwt::FLV_OPERATION => flavors.operations = attribute.u32()?,
            lwt::FLV_BLOCK_BITS => flavors.block_bits = Some(attribute.u8()?),
            lwt::FLV_NODE_FUNCTION_BITS => flavors.node_function_bits = Some(attribute.u8()?),
            _ => *unknown += 1,
        }
    }
    Ok(flavors)
}

/// Number for the encapsulation's type attribute.
pub(crate) fn type_of(encap: &Encap) -> u16 {
    match encap {
        Encap::Mpls(_) => lwt::MPLS,
        Encap::Seg6 { .. } => lwt::SEG6,
        Encap::Seg6Local(_) => lwt::SEG6_LOCAL,
        Encap::Vxlan { .. } => lwt::VXLAN,
        Encap::Ip { .. } => lwt::IP,
        Encap::Ip6 { .. } => lwt::IP6,
        Encap::Other { encap_type, .. } => *encap_type,
    }
}

/// Writes the content of the encapsulation attribute.
pub(crate) fn encode(encap: &Encap, out: &mut Writer<'_>) {
    match encap {
        Encap::Mpls(labels) => out.attribute(lwt::MPLS_DST, &label_stack(labels)),
        Encap::Seg6 { mode, segments, source } => {
            out.attribute(lwt::SEG6_SRH, &segment_routing_header(*mode, segments));
            if let Some(source) = source {
                out.attribute(lwt::SEG6_SRC, &source.octets());
            }
        }
        Encap::Seg6Local(local) => encode_seg6_local(local, out),
        Encap::Vxlan { vni } => out.u32(lwt::VXLAN_VNI, *vni),
        Encap::Ip { id, dst, src } => {
            encode_ip(*id, dst.map(|dst| dst.octets()), src.map(|src| src.octets()), out);
        }
        Encap::Ip6 { id, dst, src } => {
            encode_ip(*id, dst.map(|dst| dst.octets()), src.map(|src| src.octets()), out);
        }
        Encap::Other { data, .. } => out.bytes(data),
    }
}

fn encode_ip<const N: usize>(
    id: Option<u64>,
    dst: Option<[u8; N]>,
    src: Option<[u8; N]>,
    out: &mut Writer<'_>,
) {
    if let Some(id) = id {
        out.attribute(lwt::IP_ID, &id.to_be_bytes());
    }
    if let Some(dst) = dst {
        out.attribute(lwt::IP_DST, &dst);
    }
    if let Some(src) = src {
        out.attribute(lwt::IP_SRC, &src);
    }
}

fn encode_seg6_local(local: &Seg6Local, out: &mut Writer<'_>) {
    out.u32(lwt::LOCAL_ACTION, local.action.0);
    if let Some(TableId(table)) = local.table {
        out.u32(lwt::LOCAL_TABLE, table);
    }
    if let Some(TableId(table)) = local.vrf_table {
        out.u32(lwt::LOCAL_VRFTABLE, table);
    }
    if let Some(address) = local.nh4 {
        out.attribute(lwt::LOCAL_NH4, &address.octets());
    }
    if let Some(address) = local.nh6 {
        out.attribute(lwt::LOCAL_NH6, &address.octets());
    }
    if let Some(IfIndex(index)) = local.iif {
        out.u32(lwt::LOCAL_IIF, index);
    }
    if let Some(IfIndex(index)) = local.oif {
        out.u32(lwt::LOCAL_OIF, index);
    }
    if let Some(flavors) = local.flavors {
        out.nested(lwt::LOCAL_FLAVORS | NESTED, |out| {
            out.u32(lwt::FLV_OPERATION, flavors.operations);
            if let Some(bits) = flavors.block_bits {
                out.attribute(lwt::FLV_BLOCK_BITS, &[bits]);
            }
            if let Some(bits) = flavors.node_function_bits {
                out.attribute(lwt::FLV_NODE_FUNCTION_BITS, &[bits]);
            }
        });
    }
}

/// A stack of labels with the bottom-of-stack bit on the last; TTL 0 as zebra writes it.
pub(crate) fn label_stack(labels: &[Label]) -> Vec<u8> {
    let last = labels.len().saturating_sub(1);
    let entries = labels.iter().enumerate();
    entries.flat_map(|(at, label)| (label.0 << 12 | u32::from(at == last) << 8).to_be_bytes()).collect()
}

/// `int mode`, `struct ipv6_sr_hdr` (RFC 8754), segments from the end of the path; at most 127 segments.
fn segment_routing_header(mode: u32, segments: &[Ipv6Addr]) -> Vec<u8> {
    let segments = segments.get(..127).unwrap_or(segments);
    let count = segments.len() as u8;
    let last = count.saturating_sub(1);
    let mut header = mode.to_ne_bytes().to_vec();
    header.extend_from_slice(&[0, count * 2, 4, last, last, 0, 0, 0]);
    header.extend(segments.iter().rev().flat_map(Ipv6Addr::octets));
    header
}

/// A label stack: entries of four bytes in network byte order (RFC 3032), outermost first.
pub(crate) fn labels(stack: Attribute<'_>) -> Result<Labels, BodyError> {
    let (entries, rest) = stack.value.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(stack.size_error("a multiple of 4").into());
    }
    Ok(entries.iter().map(|entry| Label(u32::from_be_bytes(*entry) >> 12)).collect())
}
