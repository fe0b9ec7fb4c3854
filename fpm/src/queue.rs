//! The queue between the socket and the consumer: never blocks the socket's side, and has a bound.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::server::{Epoch, Event};
use crate::types::{Family, IfIndex, Label, NexthopId, RouteKey, TableId};
use crate::update::{Encap, Neighbor, Nexthop, NexthopBody, Target, Update};

/// Updates that may wait before they are coalesced by key: it costs a lookup for each, which a consumer that
/// keeps up never pays.
pub(crate) const COALESCE_FROM: usize = 16 * 1024;
/// Raw messages have no key to be coalesced by: so many of a batch are kept.
const MAX_RAW: usize = 1024;

/// What an update is about: of two with one key only the later one matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Route(RouteKey),
    Nexthop(NexthopId),
    Bridge { ifindex: Option<IfIndex>, lladdr: SmallVec<[u8; 8]>, vlan: Option<u16>, vni: Option<u32> },
    Neighbor { family: Family, ifindex: Option<IfIndex>, dst: Option<IpAddr> },
    Lsp(TableId, Label),
}

impl Key {
    fn of(update: &Update) -> Option<Self> {
        Some(match update {
            Update::Route(route) => Self::Route(route.key),
            Update::RouteDel(route) => Self::Route(route.key),
            Update::Nexthop(object) => Self::Nexthop(object.id),
            Update::NexthopDel { id, .. } => Self::Nexthop(*id),
            Update::Neighbor(neighbor) | Update::NeighborDel(neighbor) => Self::of_neighbor(neighbor),
            Update::Lsp(lsp) | Update::LspDel(lsp) => Self::Lsp(lsp.table, lsp.label),
            Update::Raw(_) => return None,
        })
    }

    fn of_neighbor(neighbor: &Neighbor) -> Self {
        let Neighbor { family, ifindex, dst, vlan, vni, .. } = *neighbor;
        match &neighbor.lladdr {
            Some(lladdr) if family == Family::Bridge => {
                Self::Bridge { ifindex, lladdr: lladdr.clone(), vlan, vni }
            }
            _ => Self::Neighbor { family, ifindex, dst },
        }
    }
}

/// Bytes that an update holds outside itself.
fn heap_bytes(update: &Update) -> usize {
    let hop_bytes = |hop: &Nexthop| size_of::<Nexthop>() + hop.encap.as_deref().map_or(0, encap_bytes);
    match update {
        Update::Route(route) => match &route.target {
            Target::Nexthops(hops) => hops.iter().map(hop_bytes).sum(),
            Target::None | Target::Nexthop(_) => 0,
        },
        Update::Nexthop(object) => match &object.body {
            NexthopBody::Single(hop) => hop_bytes(hop),
            NexthopBody::Group(group) if group.members.spilled() => group.members.len() * 8,
            NexthopBody::Group(_) | NexthopBody::Blackhole => 0,
        },
        Update::Neighbor(neighbor) | Update::NeighborDel(neighbor) => size_of_val(&**neighbor) + 32,
        Update::Lsp(lsp) | Update::LspDel(lsp) => {
            size_of_val(&**lsp)
                + lsp.nexthops.iter().map(|hop| size_of_val(hop) + hop.labels.len() * 4).sum::<usize>()
        }
        Update::Raw(raw) => size_of_val(&**raw) + raw.body.len(),
        Update::RouteDel(_) | Update::NexthopDel { .. } => 0,
    }
}

fn encap_bytes(encap: &Encap) -> usize {
    size_of::<Encap>()
        + match encap {
            Encap::Mpls(labels) => labels.len() * 4,
            Encap::Seg6 { segments, .. } => segments.len() * 16,
            Encap::Other { data, .. } => data.len(),
            Encap::Seg6Local(_) | Encap::Vxlan { .. } | Encap::Ip { .. } | Encap::Ip6 { .. } => 0,
        }
}

/// Updates of one session, for one [`Event::Updates`].
#[derive(Debug)]
struct Batch {
    epoch: Epoch,
    pid: Option<u32>,
    updates: Vec<Update>,
    /// Where each key is in `updates`; made when the consumer has fallen behind.
    index: Option<HashMap<Key, usize>>,
    raw: usize,
    /// Bytes outside of `updates` and `index`.
    heap_bytes: usize,
}

impl Batch {
    /// Takes the updates of whole frames; returns how many of all were made needless by others.
    fn append(&mut self, updates: &mut Vec<Update>, coalesce_from: usize) -> u64 {
        if self.updates.len() + updates.len() < coalesce_from && self.index.is_none() {
            self.heap_bytes += updates.iter().map(heap_bytes).sum::<usize>();
            if self.updates.is_empty() {
                // The usual case, of a consumer that keeps up: nothing is copied.
                std::mem::swap(&mut self.updates, updates);
            } else {
                self.updates.append(updates);
            }
            return 0;
        }
        let mut dropped = 0;
        if self.index.is_none() {
            self.index = Some(HashMap::new());
            self.heap_bytes = 0;
            for update in std::mem::take(&mut self.updates) {
                dropped += u64::from(!self.coalesce(update));
            }
        }
        for update in updates.drain(..) {
            dropped += u64::from(!self.coalesce(update));
        }
        dropped
    }

    /// Adds an update; `false` if one of them is dropped for it.
    fn coalesce(&mut self, update: Update) -> bool {
        let Some(key) = Key::of(&update) else {
            self.raw += 1;
            let keep = self.raw <= MAX_RAW;
            if keep {
                self.heap_bytes += heap_bytes(&update);
                self.updates.push(update);
            }
            return keep;
        };
        self.heap_bytes += heap_bytes(&update);
        let at = self.updates.len();
        let index = self.index.get_or_insert_default();
        let slot = *index.entry(key).or_insert(at);
        match self.updates.get_mut(slot) {
            Some(older) => {
                self.heap_bytes -= heap_bytes(older);
                *older = update;
                false
            }
            None => {
                self.updates.push(update);
                true
            }
        }
    }

    fn bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, HashMap::capacity);
        self.updates.capacity() * size_of::<Update>()
            + index * (size_of::<(Key, usize)>() + 1)
            + self.heap_bytes
    }

    fn into_event(self) -> Event {
        Event::Updates { epoch: self.epoch, updates: self.updates, pid: self.pid }
    }
}

#[derive(Debug)]
enum Item {
    Updates(Batch),
    Other(Event),
}

/// Events in order. Updates between two other events are one batch, and if the consumer falls behind the batch
/// holds one update for each key: so memory is bounded by what is distinct, not by what was sent.
#[derive(Debug)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    coalesce_from: usize,
    /// Updates that others made needless.
    pub(crate) coalesced: u64,
}

impl Queue {
    /// An empty queue; normally with [`COALESCE_FROM`].
    pub(crate) fn new(coalesce_from: usize) -> Self {
        Self { items: VecDeque::new(), coalesce_from, coalesced: 0 }
    }

    /// Adds updates of whole frames.
    pub(crate) fn push_updates(&mut self, epoch: Epoch, pid: Option<u32>, updates: &mut Vec<Update>) {
        if updates.is_empty() {
            return;
        }
        if let Some(Item::Updates(batch)) = self.items.back_mut()
            && batch.epoch == epoch
        {
            batch.pid = pid.or(batch.pid);
            self.coalesced += batch.append(updates, self.coalesce_from);
            return;
        }
        let mut batch = Batch { epoch, pid, updates: Vec::new(), index: None, raw: 0, heap_bytes: 0 };
        self.coalesced += batch.append(updates, self.coalesce_from);
        self.items.push_back(Item::Updates(batch));
    }

    /// Adds another event.
    pub(crate) fn push(&mut self, event: Event) {
        self.items.push_back(Item::Other(event));
    }

    /// Takes the oldest event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        Some(match self.items.pop_front()? {
            Item::Updates(batch) => batch.into_event(),
            Item::Other(event) => event,
        })
    }

    /// Events in the queue.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Updates in the queue.
    pub(crate) fn pending_updates(&self) -> usize {
        self.batches().map(|batch| batch.updates.len()).sum()
    }

    /// Memory that the queue's updates hold, bytes.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.batches().map(Batch::bytes).sum()
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.items.iter().filter_map(|item| match item {
            Item::Updates(batch) => Some(batch),
            Item::Other(_) => None,
        })
    }
}

#[cfg(test)]
mod tests;
