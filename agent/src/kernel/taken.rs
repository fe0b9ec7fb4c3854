//! What the kernel takes from an interface that enters or leaves a VRF device, as the messages that put it back.
//!
//! The VRF driver takes the device down and up for that (`cycle_netdev` in drivers/net/vrf.c), and its VLAN devices
//! go down with it (`vlan_device_event` in net/8021q/vlan.c): IPv6 addresses, nexthop objects and routes go. The
//! messages are the ones of a dump, without what the kernel refuses from a user; so no attribute is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;

use super::dump::{RouteFilter, dump, dump_nexthops, request};
use super::socket::Socket;
use super::wire::{
    Attrs, Encoder, HEADER, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    RTM_GETADDR, RTM_NEWADDR, RTM_NEWNEXTHOP, RTM_NEWROUTE, Unencodable, u16_at, u32_at,
};
use super::{KernelError, nexthop, route};
use crate::model::devices::Taken;
use crate::model::{
    Family, KernelRoute, Link, NexthopBody, NexthopId, NexthopObject, RouteTarget, TABLE_LOCAL, TABLE_MAIN,
};

/// RTPROT_BOOT, RTPROT_STATIC and RTPROT_DHCP: routes that nobody puts back when the kernel drops them. Those of
/// daemons are the daemons'.
const ORPHANS: [u8; 3] = [3, 4, 16];
/// RTPROT_KERNEL and RTPROT_RA: where connected routes and those of router advertisements are, the kernel makes them
/// anew. In any other table somebody made them.
const KERNELS: [u8; 2] = [2, 9];
/// RTPROT_UNSPEC: what `ip nexthop` gives objects.
const UNSPECIFIED: u8 = 0;

/// Length of `struct ifaddrmsg`: family, prefix length, flags, scope, index (4 bytes).
const IFADDRMSG: usize = 8;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
/// IFAPROT_KERNEL_RA, Linux 5.18.
const IFAPROT_KERNEL_RA: u8 = 2;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_MANAGETEMPADDR: u32 = 0x100;

const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u8 = 4;
/// USER_HZ, in which `rta_expires` is.
const TICKS: u32 = 100;
/// INFINITY_LIFE_TIME, seconds.
const FOR_EVER: u32 = u32::MAX;

/// Nexthop objects that go, with the devices that they leave by.
type Gone = BTreeMap<NexthopId, Vec<u32>>;

/// A device that is about to enter or leave a VRF device.
#[derive(Debug)]
pub(super) struct Mover {
    ifindex: u32,
    preserve: bool,
    /// With the VLAN devices on it.
    together: BTreeSet<u32>,
    /// Tables where the kernel makes connected routes.
    connected: BTreeSet<u32>,
    /// The table in which its routes end with the move: the VRF's that it leaves, or main.
    left: u32,
}

impl Mover {
    /// `preserve`: its addresses are to be the same after the move.
    pub(super) fn new(ifindex: u32, preserve: bool, links: &[Link]) -> Self {
        let table = |of: u32| links.iter().find(|link| link.ifindex == of).and_then(|link| link.vrf_table);
        let from = links.iter().find(|link| link.ifindex == ifindex).and_then(|link| link.master);
        let mut together = BTreeSet::from([ifindex]);
        // VLAN devices come after what they are on, unless that was changed since.
        for _ in 0..links.len() {
            let known = together.len();
            let on =
                |link: &&Link| link.kind == "vlan" && link.lower.is_some_and(|it| together.contains(&it));
            let more: Vec<u32> = links.iter().filter(on).map(|link| link.ifindex).collect();
            together.extend(more);
            if together.len() == known {
                break;
            }
        }
        let connected = links.iter().filter_map(|link| link.vrf_table).chain([TABLE_MAIN]).collect();
        // Outside of a VRF device its routes are main's.
        let left = from.and_then(table).unwrap_or(TABLE_MAIN);
        Self { ifindex, preserve, together, connected, left }
    }

    /// What it has now and will not have after the move.
    pub(super) async fn snapshot(self) -> Result<Snapshot, KernelError> {
        blocking(move || self.read()).await
    }

    fn read(&self) -> Result<Snapshot, KernelError> {
        let now = uptime()?;
        let mut snapshot = Snapshot::default();
        for ifindex in self.together.iter().filter(|it| self.preserve || **it != self.ifindex) {
            addresses(*ifindex, now, &mut snapshot.lost)?;
        }
        let (objects, gone) = self.nexthops()?;
        for object in objects {
            snapshot.lost.push(taken(RTM_NEWNEXTHOP, now, |enc| nexthop::encode(enc, 0, 0, &object))?);
        }
        let mut routes = Vec::new();
        for ifindex in &self.together {
            self.routes(*ifindex, &gone, &mut |payload| routes.push(payload.to_vec()))?;
        }
        // Routes without a gateway first: the others' gateways may be reached by them.
        routes.sort_by_key(|payload| has_gateway(payload));
        routes.dedup();
        for payload in routes {
            let message = taken(RTM_NEWROUTE, now, |enc| route_message(enc, &payload))?;
            let table = table_of(&payload);
            if table != self.left || !ways(&payload, &gone).contains(&self.ifindex) {
                snapshot.lost.push(message);
            } else if table == TABLE_MAIN {
                snapshot.main.push(message);
                let decoded = route::decode(&payload);
                snapshot.routes.extend(decoded.filter(|it| matches!(it.target, RouteTarget::Inline(_))));
            }
        }
        Ok(snapshot)
    }

    /// Nexthop objects that go or lose a member, singles first; and those that go, with the devices that they leave by.
    fn nexthops(&self) -> Result<(Vec<NexthopObject>, Gone), KernelError> {
        let all = match dump_nexthops(None) {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Vec::new(),
            dumped => dumped?,
        };
        let owner =
            |object: &NexthopObject| object.protocol == UNSPECIFIED || ORPHANS.contains(&object.protocol);
        let here = |object: &NexthopObject| matches!(&object.body, NexthopBody::Single(hop) if self.together.contains(&hop.ifindex));
        let down: BTreeSet<NexthopId> = all.iter().filter(|it| here(it)).map(|it| it.id).collect();
        let mut saved: Vec<NexthopObject> = all.iter().filter(|it| here(it) && owner(it)).cloned().collect();
        let way = |object: &NexthopObject| match &object.body {
            NexthopBody::Single(hop) => vec![hop.ifindex],
            _ => Vec::new(),
        };
        let singles: Gone = saved.iter().map(|object| (object.id, way(object))).collect();
        let mut gone = singles.clone();
        for group in all.iter().filter(|object| owner(object)) {
            let Some(members) = group.body.members() else { continue };
            let mut lost = members.iter().filter(|member| down.contains(&member.id)).peekable();
            if lost.peek().is_some() && lost.all(|member| singles.contains_key(&member.id)) {
                saved.push(group.clone());
                let ways: Option<Vec<_>> = members.iter().map(|member| singles.get(&member.id)).collect();
                gone.extend(ways.map(|ways| (group.id, ways.into_iter().flatten().copied().collect())));
            }
        }
        Ok((saved, gone))
    }

    /// Calls `f` with each route that leads by devices which go down together alone, and that nobody else puts back.
    fn routes(&self, ifindex: u32, gone: &Gone, f: &mut dyn FnMut(&[u8])) -> Result<(), KernelError> {
        let filter = RouteFilter { interface: Some(ifindex), ..RouteFilter::default() };
        for family in Family::ALL {
            let socket = Socket::open()?;
            dump(&socket, request(filter, family), "dump routes", &mut |kind, payload| {
                if kind == RTM_NEWROUTE && self.is_lost(payload, gone) {
                    f(payload);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(())
    }

    fn is_lost(&self, payload: &[u8], gone: &Gone) -> bool {
        let (table, protocol) = (table_of(payload), payload.get(5).copied().unwrap_or_default());
        let cached = u32_at(payload, 8).is_none_or(|flags| flags & RTM_F_CLONED != 0);
        let orphan =
            ORPHANS.contains(&protocol) || (KERNELS.contains(&protocol) && !self.connected.contains(&table));
        let ways = ways(payload, gone);
        let alone = !ways.is_empty() && ways.iter().all(|way| self.together.contains(way));
        !cached && table != TABLE_LOCAL && orphan && alone
    }
}

/// What a move takes away.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// To be put back as soon as the device has moved, in this order.
    pub(super) lost: Vec<Taken>,
    /// Routes of main, which do not fit while it is in a VRF device.
    pub(super) main: Vec<Taken>,
    /// Those of them that the VRF's table can have.
    pub(super) routes: Vec<KernelRoute>,
}

/// Puts messages back, as far as it goes; what is there meanwhile stays as it is. Returns the messages that the kernel
/// refused, and the first reason. What has expired, and what belongs to a device that is gone, needs nothing.
pub(super) async fn put_back(messages: Vec<Taken>) -> Result<(Vec<Taken>, Option<KernelError>), KernelError> {
    blocking(move || {
        let now = uptime()?;
        let socket = Socket::open()?;
        let mut refused = (Vec::new(), None);
        for message in messages {
            match put(&socket, &message, now) {
                Err(error) if !error.is_present() && error.errno() != Some(libc::ENODEV) => {
                    refused.0.push(message);
                    refused.1.get_or_insert(error);
                }
                _ => {}
            }
        }
        Ok(refused)
    })
    .await
}

fn put(socket: &Socket, message: &Taken, now: u64) -> Result<(), KernelError> {
    let elapsed = u32::try_from(now.saturating_sub(message.at)).unwrap_or(u32::MAX);
    let mut enc = Encoder::default();
    // A group may have lost some of its members only.
    let how = match message.kind {
        RTM_NEWNEXTHOP if nexthop::decode(&message.payload).is_some_and(|it| it.body.members().is_some()) => {
            NLM_F_REPLACE
        }
        _ => NLM_F_EXCL,
    };
    let fixed = if message.kind == RTM_NEWROUTE { route::RTMSG } else { IFADDRMSG };
    let (head, attributes) = message.payload.split_at_checked(fixed).unwrap_or_default();
    enc.begin(message.kind, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | how, 1, head);
    if message.kind == RTM_NEWNEXTHOP {
        // Flags of nested attributes are part of these.
        enc.raw(attributes);
    } else {
        for (kind, value) in Attrs(attributes) {
            match (message.kind, kind) {
                (RTM_NEWADDR, IFA_CACHEINFO) => {
                    let left = [0, 4].map(|at| remaining(u32_at(value, at).unwrap_or(FOR_EVER), elapsed));
                    if left[1] == 0 {
                        return Ok(());
                    }
                    enc.attr(kind, &[left[0].to_ne_bytes(), left[1].to_ne_bytes(), [0; 4], [0; 4]].concat());
                }
                (RTM_NEWROUTE, route::RTA_EXPIRES) => match remaining(u32_at(value, 0).unwrap_or(0), elapsed)
                {
                    0 => return Ok(()),
                    left => enc.attr_u32(kind, left),
                },
                _ => enc.attr(kind, value),
            }
        }
    }
    dump(socket, enc, &describe(message), &mut |_, _| ControlFlow::Continue(())).map(drop)
}

/// Seconds of a lifetime that are left.
fn remaining(seconds: u32, elapsed: u32) -> u32 {
    if seconds == FOR_EVER { FOR_EVER } else { seconds.saturating_sub(elapsed) }
}

fn describe(message: &Taken) -> String {
    let what = match message.kind {
        RTM_NEWADDR => u32_at(&message.payload, 4).map(|ifindex| format!("an address of link {ifindex}")),
        RTM_NEWNEXTHOP => {
            nexthop::decode(&message.payload).map(|object| format!("nexthop object {}", object.id.0))
        }
        _ => route::decode(&message.payload)
            .map(|route| format!("route {} of table {}", route.key.prefix, route.key.table)),
    };
    format!("put back {}", what.unwrap_or_else(|| "a route".to_owned()))
}

/// The IPv6 addresses that no router advertisement brings back. IPv4 addresses outlive a device that is down.
fn addresses(ifindex: u32, now: u64, lost: &mut Vec<Taken>) -> Result<(), KernelError> {
    let [i0, i1, i2, i3] = ifindex.to_ne_bytes();
    let mut request = Encoder::default();
    let head = [Family::Ipv6.af(), 0, 0, 0, i0, i1, i2, i3];
    request.begin(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, &head);
    dump(&Socket::open()?, request, "dump addresses", &mut |kind, payload| {
        let value = |kind| payload.get(IFADDRMSG..).and_then(|rest| Attrs(rest).find(|(it, _)| *it == kind));
        let flags = value(IFA_FLAGS).and_then(|(_, flags)| u32_at(flags, 0)).unwrap_or_default();
        let advertised = flags & (IFA_F_TEMPORARY | IFA_F_MANAGETEMPADDR) != 0
            || value(IFA_PROTO).is_some_and(|(_, proto)| proto == [IFAPROT_KERNEL_RA]);
        if kind == RTM_NEWADDR && (flags & IFA_F_PERMANENT != 0 || !advertised) {
            lost.push(Taken { kind, payload: payload.to_vec(), at: now });
        }
        ControlFlow::Continue(())
    })
    .map(drop)
}

/// The message that adds a dumped route: without what says how it is now.
fn route_message(enc: &mut Encoder, payload: &[u8]) -> Result<(), Unencodable> {
    let (head, attributes) =
        payload.split_at_checked(route::RTMSG).ok_or("a route's message is too short")?;
    let mut head = head.to_vec();
    let flags = u32_at(payload, 8).unwrap_or_default() & u32::from(RTNH_F_ONLINK);
    head.truncate(8);
    head.extend(flags.to_ne_bytes());
    enc.begin(RTM_NEWROUTE, 0, 0, &head);
    let by_object = attribute(payload, route::RTA_NH_ID).is_some();
    for (kind, value) in Attrs(attributes) {
        match kind {
            route::RTA_CACHEINFO => {
                let ticks = u32_at(value, 8).unwrap_or_default();
                // Negative: it has expired.
                if ticks != 0 && ticks <= i32::MAX.unsigned_abs() {
                    enc.attr_u32(route::RTA_EXPIRES, ticks.div_ceil(TICKS));
                }
            }
            // The kernel says what the object says, and does not take it.
            route::RTA_OIF
            | route::RTA_GATEWAY
            | route::RTA_VIA
            | route::RTA_MULTIPATH
            | route::RTA_ENCAP
            | route::RTA_ENCAP_TYPE
                if by_object => {}
            route::RTA_MULTIPATH => enc.attr(kind, &multipath(value)),
            _ => enc.attr(kind, value),
        }
    }
    enc.finish()
}

/// RTA_MULTIPATH without the states of its nexthops.
fn multipath(value: &[u8]) -> Vec<u8> {
    let mut list = value.to_vec();
    let mut at = 0;
    while let Some(len) = u16_at(&list, at).map(usize::from).filter(|len| *len > 0) {
        if let Some(flags) = list.get_mut(at + 2) {
            *flags &= RTNH_F_ONLINK;
        }
        at += (len + 3) & !3;
    }
    list
}

/// The interfaces that a route leaves by; none where it uses a nexthop object that stays.
fn ways(payload: &[u8], gone: &Gone) -> Vec<u32> {
    if let Some(id) = attribute(payload, route::RTA_NH_ID).and_then(|value| u32_at(value, 0)) {
        return gone.get(&NexthopId(id)).cloned().unwrap_or_default();
    }
    let Some(mut rest) = attribute(payload, route::RTA_MULTIPATH) else {
        return attribute(payload, route::RTA_OIF).and_then(|value| u32_at(value, 0)).into_iter().collect();
    };
    let mut hops = Vec::new();
    while let Some(len) = u16_at(rest, 0).map(usize::from).filter(|len| *len > 0) {
        hops.extend(u32_at(rest, 4));
        rest = rest.get((len + 3) & !3..).unwrap_or_default();
    }
    hops
}

fn has_gateway(payload: &[u8]) -> bool {
    let ways = [route::RTA_GATEWAY, route::RTA_VIA, route::RTA_MULTIPATH, route::RTA_NH_ID];
    ways.into_iter().any(|kind| attribute(payload, kind).is_some())
}

fn table_of(payload: &[u8]) -> u32 {
    let short = payload.get(4).copied().map_or(0, u32::from);
    attribute(payload, route::RTA_TABLE).and_then(|value| u32_at(value, 0)).unwrap_or(short)
}

fn attribute(payload: &[u8], kind: u16) -> Option<&[u8]> {
    Attrs(payload.get(route::RTMSG..)?).find(|(it, _)| *it == kind).map(|(_, value)| value)
}

/// A message without its `nlmsghdr`.
fn taken(
    kind: u16,
    at: u64,
    encode: impl FnOnce(&mut Encoder) -> Result<(), Unencodable>,
) -> Result<Taken, KernelError> {
    let mut enc = Encoder::default();
    let encoded = encode(&mut enc);
    encoded.map_err(|why| KernelError::Malformed { object: "dump".to_owned(), detail: why.to_owned() })?;
    Ok(Taken { kind, payload: enc.into_bytes().split_off(HEADER), at })
}

/// The message that adds a route.
pub(super) fn of_route(route: &KernelRoute) -> Result<Taken, KernelError> {
    taken(RTM_NEWROUTE, 0, |enc| route::encode(enc, (RTM_NEWROUTE, 0, 0), route))
}

/// Seconds since boot.
fn uptime() -> Result<u64, KernelError> {
    const UPTIME: &str = "/proc/uptime";
    let text = fs::read_to_string(UPTIME).map_err(|source| KernelError::File {
        path: UPTIME.into(),
        doing: "read",
        source,
    })?;
    Ok(text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(KernelError::Socket { doing: "work on a thread", source: std::io::Error::other(error) })
    })
}
