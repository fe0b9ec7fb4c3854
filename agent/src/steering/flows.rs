//! The flow tables: listing, and forgetting what is idle.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use backtrail_ebpf_common::maps::{self, Flow, Flow6, FlowDigest6, FlowKey4, FlowKey6, Globals, names};
use serde::Serialize;

use super::pressure::{Sampled, Watch};
use super::{SteeringError, layout, object, sys};

/// The smallest batch: a bucket of the hash is never read in parts.
const MIN_BATCH: u32 = 64;
/// IPPROTO_TCP
const TCP: u32 = 6;
/// IPPROTO_UDP
const UDP: u32 = 17;
/// IPPROTO_SCTP
const SCTP: u32 = 132;

/// A flow that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowEntry {
    /// IP protocol number: 6, 17, 132, 1 or 58.
    pub protocol: u8,
    /// Client address and port (for echo: the identifier). For flows of the node: the other end.
    pub client: SocketAddr,
    /// Service address and port (for echo: 0). For flows of the node: its own end.
    pub service: SocketAddr,
    /// The interface of the last request; 0 for flows that the node or a pod opened.
    pub ifindex: u32,
    /// Seconds since the last packet, a second exact.
    pub age_seconds: u64,
    /// Replies that were redirected, approximate when several CPUs send at once.
    pub steered_packets: u64,
    /// The neighbour that replies go to, where it is known.
    pub gateway: Option<IpAddr>,
    /// Opened by the node, a pod or in transit: never steered.
    pub node_origin: bool,
}

/// A part of the flow tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowPage {
    /// The flows.
    pub flows: Vec<FlowEntry>,
    /// Cursor of the next page; `None` after the last.
    pub next: Option<u64>,
}

/// What a call of [`super::Steering::expire`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Flows looked at.
    pub scanned: u64,
    /// Flows forgotten.
    pub removed: u64,
    /// All tables were looked at to their ends: the next call begins anew.
    pub complete: bool,
}

/// An entry of either table.
pub(super) trait Entry {
    type Key: Pod;
    type Value: Pod;
    fn client(key: &Self::Key, value: &Self::Value) -> SocketAddr;
    fn service(key: &Self::Key, value: &Self::Value) -> SocketAddr;
    fn protocol(key: &Self::Key) -> u32;
    fn flow(value: &Self::Value) -> &Flow;
}

/// `rp_flows`
pub(super) struct V4;

/// `rp_flows6`
pub(super) struct V6;

impl Entry for V4 {
    type Key = FlowKey4;
    type Value = Flow;

    fn client(key: &FlowKey4, _: &Flow) -> SocketAddr {
        (IpAddr::from(key.client), key.client_port).into()
    }

    fn service(key: &FlowKey4, _: &Flow) -> SocketAddr {
        (IpAddr::from(key.service), key.service_port).into()
    }

    fn protocol(key: &FlowKey4) -> u32 {
        key.proto
    }

    fn flow(value: &Flow) -> &Flow {
        value
    }
}

impl Entry for V6 {
    type Key = FlowDigest6;
    type Value = Flow6;

    fn client(key: &FlowDigest6, value: &Flow6) -> SocketAddr {
        (IpAddr::from(value.client), key.client_port).into()
    }

    fn service(key: &FlowDigest6, value: &Flow6) -> SocketAddr {
        (IpAddr::from(value.service), key.service_port).into()
    }

    fn protocol(key: &FlowDigest6) -> u32 {
        key.proto
    }

    fn flow(value: &Flow6) -> &Flow {
        &value.flow
    }
}

/// The tables, in the order of a walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FlowTable {
    /// `rp_flows`
    #[default]
    Flows4,
    /// `rp_flows6`
    Flows6,
    /// `rp_openers`
    Openers4,
    /// `rp_openers6`
    Openers6,
}

impl FlowTable {
    const ALL: [Self; 4] = [Self::Flows4, Self::Flows6, Self::Openers4, Self::Openers6];

    fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|place| *place > self)
    }

    /// The table of a map's name.
    pub(super) fn of_map(name: &str) -> Option<Self> {
        match name {
            names::FLOWS => Some(Self::Flows4),
            names::FLOWS6 => Some(Self::Flows6),
            names::OPENERS => Some(Self::Openers4),
            names::OPENERS6 => Some(Self::Openers6),
            _ => None,
        }
    }

    /// Whether its flows were confirmed by their clients.
    fn is_confirmed(self) -> bool {
        self < Self::Openers4
    }
}

/// Where a walk through all tables stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    place: FlowTable,
    /// Where the next batch begins; `None`: at the beginning.
    token: Option<u32>,
}

impl Position {
    /// 0 is the beginning.
    fn to_cursor(self) -> u64 {
        let begun = u64::from(self.token.is_some());
        (self.place as u64) << 33 | begun << 32 | u64::from(self.token.unwrap_or_default())
    }

    fn from_cursor(cursor: u64) -> Self {
        let token = u32::try_from(cursor & u64::from(u32::MAX)).ok();
        let place = FlowTable::ALL.into_iter().find(|place| *place as u64 == cursor >> 33 & 3);
        Self { place: place.unwrap_or_default(), token: token.filter(|_| cursor >> 32 & 1 == 1) }
    }

    /// After a batch whose end is `next`; `None` after the last of the last table.
    fn after(self, next: Option<u32>) -> Option<Self> {
        match next {
            Some(token) => Some(Self { token: Some(token), ..self }),
            None => Some(Self { place: self.place.next()?, token: None }),
        }
    }
}

/// The tables with what is needed to judge flows.
pub(super) struct Tables<'a> {
    pub(super) flows4: &'a MapData,
    pub(super) flows6: &'a MapData,
    pub(super) openers4: &'a MapData,
    pub(super) openers6: &'a MapData,
    pub(super) globals: Globals,
}

impl Tables<'_> {
    pub(super) fn idle_limit(&self, protocol: u32) -> u32 {
        idle_limit(protocol, &self.globals)
    }

    /// About `limit` flows from a cursor on (0: the beginning), confirmed ones first.
    pub(super) fn page(
        &self,
        cursor: u64,
        limit: u32,
        gateway: impl Fn(&Flow) -> Option<IpAddr>,
    ) -> Result<FlowPage, SteeringError> {
        let mut position = Position::from_cursor(cursor);
        let mut flows = Vec::new();
        loop {
            let room = limit.saturating_sub(u32::try_from(flows.len()).unwrap_or(u32::MAX));
            let (token, page) = (position.token, &mut flows);
            let next = match position.place {
                FlowTable::Flows4 => list::<V4>(self.flows4, token, room, &gateway, page)?,
                FlowTable::Flows6 => list::<V6>(self.flows6, token, room, &gateway, page)?,
                FlowTable::Openers4 => list::<V4>(self.openers4, token, room, &gateway, page)?,
                FlowTable::Openers6 => list::<V6>(self.openers6, token, room, &gateway, page)?,
            };
            let Some(after) = position.after(next) else { return Ok(FlowPage { flows, next: None }) };
            position = after;
            if flows.len() as u64 + u64::from(MIN_BATCH) > u64::from(limit) {
                return Ok(FlowPage { flows, next: Some(position.to_cursor()) });
            }
        }
    }
}

impl Tables<'_> {
    /// One flow: protocol, client, service, zone.
    pub(super) fn one(
        &self,
        (protocol, client, service, zone): (u8, SocketAddr, SocketAddr, u32),
        gateway: impl Fn(&Flow) -> Option<IpAddr>,
    ) -> Result<Option<FlowEntry>, SteeringError> {
        let (client_port, service_port, proto) = (client.port(), service.port(), u32::from(protocol));
        match (client.ip(), service.ip()) {
            (IpAddr::V4(client), IpAddr::V4(service)) => {
                let (client, service) = (client.octets(), service.octets());
                let key = FlowKey4 { client, service, client_port, service_port, proto, zone, reserved: 0 };
                let found = match lookup::<V4>(self.flows4, &key)? {
                    None => lookup::<V4>(self.openers4, &key)?,
                    found => found,
                };
                Ok(found.map(|value| listed::<V4>(&key, &value, &gateway)))
            }
            (IpAddr::V6(client), IpAddr::V6(service)) => {
                let (client, service) = (client.octets(), service.octets());
                let key = FlowKey6 { client, service, client_port, service_port, proto, zone, reserved: 0 };
                let key = key.digest(&self.globals.secret);
                let is_it = |it: &Flow6| it.is_between(&client, &service);
                let found = match lookup::<V6>(self.flows6, &key)?.filter(is_it) {
                    None => lookup::<V6>(self.openers6, &key)?.filter(is_it),
                    found => found,
                };
                Ok(found.map(|value| listed::<V6>(&key, &value, &gateway)))
            }
            _ => Ok(None),
        }
    }
}

/// Adds a batch of a table to a page; returns where the next one begins.
fn list<E: Entry>(
    table: &MapData,
    from: Option<u32>,
    room: u32,
    gateway: &impl Fn(&Flow) -> Option<IpAddr>,
    page: &mut Vec<FlowEntry>,
) -> Result<Option<u32>, SteeringError> {
    let batch = read::<E>(table, from, room)?;
    page.extend(batch.entries.iter().map(|(key, value)| listed::<E>(key, value, gateway)));
    Ok(batch.next)
}

/// An entry as it is listed.
fn listed<E: Entry>(key: &E::Key, value: &E::Value, gateway: &impl Fn(&Flow) -> Option<IpAddr>) -> FlowEntry {
    let flow = E::flow(value);
    FlowEntry {
        protocol: u8::try_from(E::protocol(key)).unwrap_or_default(),
        client: E::client(key, value),
        service: E::service(key, value),
        ifindex: flow.ifindex,
        age_seconds: seconds(idle(flow, maps::ticks(sys::coarse_nanoseconds()))),
        steered_packets: flow.steered,
        gateway: gateway(flow),
        node_origin: flow.path == maps::PATH_NODE,
    }
}

/// Ticks in seconds.
pub(super) fn seconds(ticks: u32) -> u64 {
    (u64::from(ticks) << 30) / 1_000_000_000
}

/// The neighbour of a flow's last FIB lookup.
pub(super) fn resolved(flow: &Flow) -> Option<IpAddr> {
    layout::address(flow.nexthop.address, u32::from(flow.nexthop.kind))
}

fn read<E: Entry>(
    table: &MapData,
    from: Option<u32>,
    room: u32,
) -> Result<sys::Batch<E::Key, E::Value>, SteeringError> {
    let batch = sys::lookup_batch(table.fd().as_fd(), from, room.max(MIN_BATCH));
    batch.map_err(unread)
}

fn lookup<E: Entry>(table: &MapData, key: &E::Key) -> Result<Option<E::Value>, SteeringError> {
    const NAME: &str = names::FLOWS;
    let wrong = || SteeringError::map("read", NAME);
    let handle = Map::LruHashMap(object::duplicate(table, NAME)?);
    let map = HashMap::<_, E::Key, E::Value>::try_from(handle).map_err(wrong())?;
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(wrong()(error)),
    }
}

fn unread(source: std::io::Error) -> SteeringError {
    SteeringError::System { call: "reading the flow table", source }
}

/// Ticks since the last packet of a flow.
fn idle(flow: &Flow, now: u32) -> u32 {
    // A packet may have been later than the look at the clock.
    now.saturating_sub(last_packet(flow))
}

fn last_packet(flow: &Flow) -> u32 {
    flow.seen.max(flow.replied)
}

/// Ticks after which an idle flow is forgotten; 0: never.
fn idle_limit(protocol: u32, globals: &Globals) -> u32 {
    if matches!(protocol, TCP | SCTP) { globals.tcp_idle } else { globals.udp_idle }
}

fn is_expired(protocol: u32, flow: &Flow, now: u32, globals: &Globals) -> bool {
    let limit = idle_limit(protocol, globals);
    limit != 0 && idle(flow, now) > limit
}

/// A walk through all tables that forgets idle flows and sees which paths are in use.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    position: Position,
    /// Retired paths when the walk began: only of these can it say that no flow holds them.
    candidates: BTreeSet<u32>,
    in_use: BTreeSet<u32>,
    counts: Counts,
}

/// Entries of the tables, in the order of [`FlowTable`].
pub(super) type Counts = [u64; 4];

/// What a whole walk found.
pub(super) struct Swept {
    /// Retired paths that no flow holds.
    pub(super) unused: Vec<u32>,
    /// Entries of each table.
    pub(super) counts: Counts,
}

impl Sweep {
    /// Goes on for about `budget` flows.
    pub(super) fn step(
        &mut self,
        tables: &Tables<'_>,
        retired: impl Iterator<Item = u32>,
        budget: u32,
        watch: &mut Watch,
    ) -> Result<(Expired, Option<Swept>), SteeringError> {
        if self.position == Position::default() {
            *self = Self { candidates: retired.collect(), ..Self::default() };
        }
        watch.check(tables, maps::ticks(sys::coarse_nanoseconds()))?;
        let mut expired = Expired::default();
        loop {
            let room = u32::try_from(u64::from(budget).saturating_sub(expired.scanned)).unwrap_or(u32::MAX);
            let next = match self.position.place {
                FlowTable::Flows4 => self.part::<V4>(tables.flows4, tables, room, &mut expired, watch)?,
                FlowTable::Flows6 => self.part::<V6>(tables.flows6, tables, room, &mut expired, watch)?,
                FlowTable::Openers4 => self.part::<V4>(tables.openers4, tables, room, &mut expired, watch)?,
                FlowTable::Openers6 => self.part::<V6>(tables.openers6, tables, room, &mut expired, watch)?,
            };
            let Some(position) = self.position.after(next) else {
                expired.complete = true;
                let unused = self.candidates.difference(&self.in_use).copied().collect();
                let swept = Swept { unused, counts: self.counts };
                *self = Self::default();
                return Ok((expired, Some(swept)));
            };
            self.position = position;
            if expired.scanned >= u64::from(budget) {
                return Ok((expired, None));
            }
        }
    }

    fn part<E: Sampled>(
        &mut self,
        table: &MapData,
        tables: &Tables<'_>,
        room: u32,
        expired: &mut Expired,
        watch: &mut Watch,
    ) -> Result<Option<u32>, SteeringError> {
        let batch = read::<E>(table, self.position.token, room)?;
        let now = maps::ticks(sys::coarse_nanoseconds());
        let confirmed = self.position.place.is_confirmed();
        let mut stale = Vec::new();
        for (key, value) in &batch.entries {
            let flow = E::flow(value);
            // What its client has not confirmed is no connection yet: there is none to be kept over hours of silence.
            let protocol = if confirmed { E::protocol(key) } else { UDP };
            if is_expired(protocol, flow, now, &tables.globals) {
                stale.push(*key);
            } else {
                self.in_use.insert(flow.path);
            }
        }
        sys::delete_batch(table.fd().as_fd(), &stale)
            .map_err(|source| SteeringError::System { call: "forgetting idle flows", source })?;
        if confirmed {
            watch.add::<E>(&batch.entries, |value| last_packet(E::flow(value)));
        }
        if let Some(count) = self.counts.get_mut(self.position.place as usize) {
            *count += (batch.entries.len() - stale.len()) as u64;
        }
        expired.scanned += batch.entries.len() as u64;
        expired.removed += stale.len() as u64;
        Ok(batch.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back_and_zero_is_the_beginning() {
        assert_eq!(Position::from_cursor(0), Position::default());
        for place in FlowTable::ALL {
            for token in [None, Some(0), Some(7), Some(u32::MAX)] {
                let position = Position { place, token };
                assert_eq!(Position::from_cursor(position.to_cursor()), position);
            }
        }
    }

    #[test]
    fn a_walk_visits_all_tables() {
        let begin = Position::default();
        assert_eq!(begin.after(Some(3)), Some(Position { place: FlowTable::Flows4, token: Some(3) }));
        let ends = std::iter::successors(Some(begin), |position| position.after(None));
        assert_eq!(ends.map(|position| position.place).collect::<Vec<_>>(), FlowTable::ALL);
    }

    #[test]
    fn idle_times_differ_by_protocol_and_zero_means_never() {
        let flow = |seen, replied| Flow {
            path: 1,
            ifindex: 1,
            born: 0,
            seen,
            replied,
            request_gate: 0,
            reply_gate: 0,
            nexthop: maps::Nexthop { generation: 0, gate: 0, kind: 0, address: [0; 16] },
            mac: [0; 6],
            flags: 0,
            steered: 0,
        };
        let globals = Globals {
            generation: 0,
            features: 0,
            tcp_idle: 100,
            udp_idle: 10,
            events: 0,
            secret: [0; maps::SECRET],
        };
        assert!(is_expired(17, &flow(5, 0), 16, &globals));
        assert!(!is_expired(17, &flow(5, 6), 16, &globals), "a reply is a packet too");
        assert!(!is_expired(6, &flow(5, 0), 16, &globals));
        assert!(!is_expired(17, &flow(20, 0), 16, &globals), "a packet later than the clock");
        assert!(!is_expired(17, &flow(0, 0), 1000, &Globals { udp_idle: 0, ..globals }));
    }
}
