//! What differs between IPv4 and IPv6: one instance of every function for each.

use backtrail_ebpf_common::maps::{Flow, Flow6, FlowDigest6, FlowKey4, FlowKey6, Iface, Prefix4, Prefix6};
use backtrail_ebpf_common::packet::fast::{Plain4, Plain6};
use backtrail_ebpf_common::packet::{Headers, widen};
use backtrail_ebpf_common::scope;

use crate::listener;
use crate::maps::{self, FLOWS, FLOWS6, NEVER, NEVER6, OPENERS, OPENERS6, Records6, VIPS, VIPS6};
use crate::skb::Skb;

/// A flow key of one family.
pub trait FlowKey: Copy + Sized {
    /// 4 or 6.
    const FAMILY: u16;

    /// The key of a request with these headers.
    fn request(headers: &Headers, zone: u32) -> Self;
    /// The key of a reply with these headers, built in one piece: two keys would be a fifth of the stack.
    fn reply(headers: &Headers, zone: u32) -> Self;
    /// The same with the ends exchanged.
    fn mirror(&self) -> Self;
    /// The flow's record in the flow table.
    fn find(&self) -> Option<&'static mut Flow>;
    /// The record of a flow that its client has not confirmed yet.
    fn find_opener(&self) -> Option<&'static mut Flow>;
    /// Stores a record in the flow table; false when the table refuses it.
    fn store(&self, flow: &Flow) -> bool;
    /// Stores the record of a flow that its client has yet to confirm.
    fn open(&self, flow: &Flow) -> bool;
    /// Moves the record of a flow, confirmed now, to the flow table; false when the table refuses it.
    fn confirm(&self, flow: &Flow) -> bool;
    /// Removes the record from the flow table; false when there is none.
    fn forget(&self) -> bool;
    /// The record in either table.
    #[inline(always)]
    fn find_any(&self) -> Option<&'static mut Flow> {
        self.find().or_else(|| self.find_opener())
    }
    /// IP protocol number.
    fn proto(&self) -> u8;
    /// Ports of client and service.
    fn ports(&self) -> (u16, u16);
    /// Address of the client, in the field for both families.
    fn client(&self) -> [u8; 16];
    /// Address of the service, in the field for both families.
    fn service(&self) -> [u8; 16];
    /// Whether one end is link-local, multicast or the like.
    fn is_local(&self) -> bool;
    /// `NEVER_*` of the client in a group.
    fn never(&self, group: u32) -> Option<u32>;
    /// Whether the service is listed in `virtualIPs` of a group.
    fn is_vip(&self, group: u32) -> bool;
    /// Whether something on the node listens for the service (TCP).
    fn has_listener(&self, skb: Skb) -> bool;
    /// Path of requests whose MAC names no gateway.
    fn default_path(iface: &Iface) -> u32;
}

/// The header of a packet in the usual frame, read in place. Its flow is looked up without a key: that is for those packets
/// that need more.
pub trait PlainHeader {
    /// The key of its flow.
    type Key: FlowKey;
    /// Offset of the transport header in the frame.
    const L4: u32;

    /// The key, if this is a request.
    fn request(&self, zone: u32) -> Self::Key;
    /// The key, if this is a reply.
    fn reply(&self, zone: u32) -> Self::Key;
    /// Whether an opener that this is a reply to may have been seen lately.
    fn is_opener_recent(&self) -> bool;
    /// The record of the flow that this is a request of.
    fn requested(&self, zone: u32) -> Option<&'static mut Flow>;
    /// The record of the flow that this is a reply of.
    fn replied(&self, zone: u32) -> Option<&'static mut Flow>;
    /// IP protocol number.
    fn proto(&self) -> u8;
    /// TTL or hop limit.
    fn hops(&self) -> u8;
}

impl PlainHeader for Plain4 {
    type Key = FlowKey4;

    const L4: u32 = Plain4::L4;

    #[inline(always)]
    fn request(&self, zone: u32) -> FlowKey4 {
        self.request(zone)
    }

    #[inline(always)]
    fn reply(&self, zone: u32) -> FlowKey4 {
        self.reply(zone)
    }

    #[inline(always)]
    fn is_opener_recent(&self) -> bool {
        maps::is_opener_recent(self.reply_recent())
    }

    #[inline(always)]
    fn requested(&self, zone: u32) -> Option<&'static mut Flow> {
        self.request(zone).find()
    }

    #[inline(always)]
    fn replied(&self, zone: u32) -> Option<&'static mut Flow> {
        self.reply(zone).find()
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        self.proto
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hops
    }
}

impl PlainHeader for Plain6 {
    type Key = FlowKey6;

    const L4: u32 = Plain6::L4;

    #[inline(always)]
    fn request(&self, zone: u32) -> FlowKey6 {
        self.request(zone)
    }

    #[inline(always)]
    fn reply(&self, zone: u32) -> FlowKey6 {
        self.reply(zone)
    }

    #[inline(always)]
    fn is_opener_recent(&self) -> bool {
        maps::is_opener_recent(self.reply_recent())
    }

    #[inline(always)]
    fn requested(&self, zone: u32) -> Option<&'static mut Flow> {
        let digest = self.request_digest(zone, maps::secret()?);
        record6(&FLOWS6, &digest, |entry| self.is_request_of(entry))
    }

    #[inline(always)]
    fn replied(&self, zone: u32) -> Option<&'static mut Flow> {
        let digest = self.reply_digest(zone, maps::secret()?);
        record6(&FLOWS6, &digest, |entry| self.is_reply_of(entry))
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        self.proto
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hops
    }
}

/// The record behind a pointer that a map lookup gave.
#[inline(always)]
fn record(flow: *mut Flow) -> &'static mut Flow {
    // SAFETY: map memory outlives the program. Other CPUs may write the same words: whole words, and any of the
    // values is good for a second.
    unsafe { &mut *flow }
}

#[inline(never)]
fn find_any4(key: &FlowKey4) -> Option<&'static mut Flow> {
    key.find().or_else(|| key.find_opener())
}

#[inline(never)]
fn find6(key: &FlowKey6) -> Option<&'static mut Flow> {
    record6(&FLOWS6, digest(key)?, |entry| entry.is_between(&key.client, &key.service))
}

#[inline(never)]
fn find_opener6(key: &FlowKey6) -> Option<&'static mut Flow> {
    record6(&OPENERS6, digest(key)?, |entry| entry.is_between(&key.client, &key.service))
}

/// Where a flow is in an IPv6 table, in scratch memory.
#[inline(never)]
fn digest(key: &FlowKey6) -> Option<&'static FlowDigest6> {
    let digest = &mut maps::scratch6()?.digest;
    *digest = key.digest(maps::secret()?);
    Some(digest)
}

/// The record behind a digest, if it is the flow's that is looked for.
#[inline(always)]
fn record6<const N: usize>(
    table: &Records6<N>,
    digest: &FlowDigest6,
    is_it: impl FnOnce(&Flow6) -> bool,
) -> Option<&'static mut Flow> {
    let entry = table.get_ptr_mut(digest)?;
    // SAFETY: map memory outlives the program; the addresses of an entry change only with the flow that it is of.
    let entry = unsafe { &mut *entry };
    is_it(entry).then_some(&mut entry.flow)
}

/// The value is put together in scratch memory: it would be a fifth of the stack.
#[inline(always)]
fn insert6<const N: usize>(table: &Records6<N>, key: &FlowKey6, flow: &Flow) -> bool {
    let (Some(digest), Some(scratch)) = (digest(key), maps::scratch6()) else { return false };
    let entry = &mut scratch.entry;
    entry.client = key.client;
    entry.service = key.service;
    entry.flow = *flow;
    table.insert(digest, &*entry, 0).is_ok()
}

#[inline(never)]
fn store6(key: &FlowKey6, flow: &Flow) -> bool {
    insert6(&FLOWS6, key, flow)
}

#[inline(never)]
fn open6(key: &FlowKey6, flow: &Flow) -> bool {
    maps::note_opener(key.recent());
    insert6(&OPENERS6, key, flow)
}

/// Removes a record; false when there is none.
#[inline(always)]
fn remove6<const N: usize>(table: &Records6<N>, key: &FlowKey6) -> bool {
    digest(key).is_some_and(|digest| table.remove(digest).is_ok())
}

impl FlowKey for FlowKey4 {
    const FAMILY: u16 = 4;

    #[inline(always)]
    fn request(headers: &Headers, zone: u32) -> Self {
        headers.request4(zone)
    }

    #[inline(always)]
    fn reply(headers: &Headers, zone: u32) -> Self {
        headers.reply4(zone)
    }

    #[inline(always)]
    fn mirror(&self) -> Self {
        self.mirrored()
    }

    #[inline(always)]
    fn find(&self) -> Option<&'static mut Flow> {
        FLOWS.get_ptr_mut(self).map(record)
    }

    #[inline(always)]
    fn find_opener(&self) -> Option<&'static mut Flow> {
        OPENERS.get_ptr_mut(self).map(record)
    }

    #[inline(always)]
    fn find_any(&self) -> Option<&'static mut Flow> {
        find_any4(self)
    }

    #[inline(always)]
    fn store(&self, flow: &Flow) -> bool {
        FLOWS.insert(self, flow, 0).is_ok()
    }

    #[inline(always)]
    fn open(&self, flow: &Flow) -> bool {
        maps::note_opener(self.recent());
        OPENERS.insert(self, flow, 0).is_ok()
    }

    #[inline(always)]
    fn confirm(&self, flow: &Flow) -> bool {
        self.store(flow) && OPENERS.remove(self).is_ok()
    }

    #[inline(always)]
    fn forget(&self) -> bool {
        FLOWS.remove(self).is_ok()
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        self.proto as u8
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        (self.client_port, self.service_port)
    }

    #[inline(always)]
    fn client(&self) -> [u8; 16] {
        widen(self.client)
    }

    #[inline(always)]
    fn service(&self) -> [u8; 16] {
        widen(self.service)
    }

    #[inline(always)]
    fn is_local(&self) -> bool {
        scope::is_local4(self.client) || scope::is_local4(self.service)
    }

    #[inline(always)]
    fn never(&self, group: u32) -> Option<u32> {
        maps::longest(&NEVER, Prefix4 { group, address: self.client })
    }

    #[inline(always)]
    fn is_vip(&self, group: u32) -> bool {
        maps::longest(&VIPS, Prefix4 { group, address: self.service }).is_some()
    }

    #[inline(always)]
    fn has_listener(&self, skb: Skb) -> bool {
        listener::exists4(skb, self)
    }

    #[inline(always)]
    fn default_path(iface: &Iface) -> u32 {
        iface.path4
    }
}

impl FlowKey for FlowKey6 {
    const FAMILY: u16 = 6;

    #[inline(always)]
    fn request(headers: &Headers, zone: u32) -> Self {
        headers.request6(zone)
    }

    #[inline(always)]
    fn reply(headers: &Headers, zone: u32) -> Self {
        headers.reply6(zone)
    }

    #[inline(always)]
    fn mirror(&self) -> Self {
        self.mirrored()
    }

    #[inline(always)]
    fn find(&self) -> Option<&'static mut Flow> {
        find6(self)
    }

    #[inline(always)]
    fn find_opener(&self) -> Option<&'static mut Flow> {
        find_opener6(self)
    }

    #[inline(always)]
    fn store(&self, flow: &Flow) -> bool {
        store6(self, flow)
    }

    #[inline(always)]
    fn open(&self, flow: &Flow) -> bool {
        open6(self, flow)
    }

    #[inline(always)]
    fn confirm(&self, flow: &Flow) -> bool {
        store6(self, flow) && remove6(&OPENERS6, self)
    }

    #[inline(always)]
    fn forget(&self) -> bool {
        remove6(&FLOWS6, self)
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        self.proto as u8
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        (self.client_port, self.service_port)
    }

    #[inline(always)]
    fn client(&self) -> [u8; 16] {
        self.client
    }

    #[inline(always)]
    fn service(&self) -> [u8; 16] {
        self.service
    }

    #[inline(always)]
    fn is_local(&self) -> bool {
        scope::is_local6(&self.client) || scope::is_local6(&self.service)
    }

    #[inline(always)]
    fn never(&self, group: u32) -> Option<u32> {
        maps::longest(&NEVER6, Prefix6 { group, address: self.client })
    }

    #[inline(always)]
    fn is_vip(&self, group: u32) -> bool {
        maps::longest(&VIPS6, Prefix6 { group, address: self.service }).is_some()
    }

    #[inline(always)]
    fn has_listener(&self, skb: Skb) -> bool {
        listener::exists6(skb, self)
    }

    #[inline(always)]
    fn default_path(iface: &Iface) -> u32 {
        iface.path6
    }
}
