//! Reads routes and nexthop objects, about a million routes a second. Blocking: call through `spawn_blocking`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::KernelError;
use super::gate::Gate;
use super::socket::Socket;
use super::wire::{
    Encoder, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, RTM_GETNEXTHOP, RTM_GETROUTE,
    RTM_NEWNEXTHOP, RTM_NEWROUTE,
};
use super::{nexthop, route};
use crate::model::{Family, KernelRoute, NexthopObject};

/// How often a dump is taken again that gave way.
const ATTEMPTS: u32 = 10;

/// Which routes to dump; the kernel applies it (strict checking), so that nothing else crosses the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteFilter {
    /// `None`: IPv4, then IPv6.
    pub family: Option<Family>,
    /// `None`: all tables.
    pub table: Option<u32>,
    /// `rtm_protocol`; `None`: all.
    pub protocol: Option<u8>,
    /// Index of an interface that a nexthop leaves by; `None`: any.
    pub interface: Option<u32>,
}

/// Who has routes in a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableUse {
    /// A route of the protocol that was asked for; the others are not all counted then.
    pub ours: bool,
    /// Routes of others, by `rtm_protocol`.
    pub foreign: BTreeMap<u8, u64>,
}

/// Who has routes in a table. Reads no further than the first route of protocol `own`.
///
/// # Errors
/// As [`dump_routes`].
pub fn table_use(table: u32, own: u8) -> Result<TableUse, KernelError> {
    let mut seen = TableUse::default();
    let filter = RouteFilter { table: Some(table), ..RouteFilter::default() };
    visit(filter, None, &mut |route| {
        if route.protocol == own {
            seen.ours = true;
            return ControlFlow::Break(());
        }
        *seen.foreign.entry(route.protocol).or_default() += 1;
        ControlFlow::Continue(())
    })?;
    Ok(seen)
}

/// Whether a table holds a route of one of these `rtm_protocol`s. Reads no further than the first one.
///
/// # Errors
/// As [`dump_routes`].
pub fn is_used_by(table: u32, protocols: &[u8]) -> Result<bool, KernelError> {
    let mut used = false;
    let filter = RouteFilter { table: Some(table), ..RouteFilter::default() };
    visit(filter, None, &mut |route| {
        used = protocols.contains(&route.protocol);
        if used { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(used)
}

/// Calls `f` with each route that `filter` lets through. A table that does not exist has no routes.
///
/// Routes that change meanwhile may or may not be seen: listen to notifications from before the dump on. Local,
/// broadcast, multicast and cached routes are left out.
///
/// # Errors
/// [`KernelError`]: no socket, or the kernel refused the dump.
pub fn dump_routes(filter: RouteFilter, f: &mut dyn FnMut(KernelRoute)) -> Result<(), KernelError> {
    visit(filter, None, &mut |route| {
        f(route);
        ControlFlow::Continue(())
    })
}

/// The same until `f` has seen enough, for a process that writes, too: where the [`Gate`] closes meanwhile, the IPv6 routes are read anew once it is
/// open, and `f` sees some of them again.
///
/// # Errors
/// As [`dump_routes`].
pub fn visit_routes_behind(
    gate: &Gate,
    filter: RouteFilter,
    f: &mut dyn FnMut(KernelRoute) -> ControlFlow<()>,
) -> Result<(), KernelError> {
    visit(filter, Some(gate), f)
}

fn visit(
    filter: RouteFilter,
    gate: Option<&Gate>,
    f: &mut dyn FnMut(KernelRoute) -> ControlFlow<()>,
) -> Result<(), KernelError> {
    for family in Family::ALL.into_iter().filter(|family| filter.family.is_none_or(|only| only == *family)) {
        let gate = gate.filter(|_| family == Family::Ipv6);
        let mut patience = ATTEMPTS;
        loop {
            gate.iter().for_each(|gate| gate.wait());
            let socket = Socket::open()?;
            let mut gives_way = false;
            let dumped = dump(&socket, request(filter, family), "dump routes", &mut |kind, payload| {
                let route = (kind == RTM_NEWROUTE).then(|| route::decode(payload)).flatten();
                route.map_or(ControlFlow::Continue(()), &mut *f)?;
                gives_way = patience > 0 && gate.is_some_and(Gate::is_closed);
                if gives_way { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match dumped {
                // The rest of a dump that was left goes with the socket.
                Ok(Dumped::Left) if gives_way => patience -= 1,
                Ok(Dumped::Left) => return Ok(()),
                Err(error) if filter.table.is_some() && error.is_absent() => break,
                Ok(_) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

pub(super) fn request(filter: RouteFilter, family: Family) -> Encoder {
    let mut request = Encoder::default();
    let header = [family.af(), 0, 0, 0, 0, filter.protocol.unwrap_or(0), 0, 0, 0, 0, 0, 0];
    request.begin(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 1, &header);
    if let Some(table) = filter.table {
        request.attr_u32(route::RTA_TABLE, table);
    }
    if let Some(interface) = filter.interface {
        request.attr_u32(route::RTA_OIF, interface);
    }
    request
}

/// All nexthop objects, or those of one protocol. Those that are there all the time are among them, whatever others add and
/// delete meanwhile: the kernel goes on behind the id that it gave last (since 5.13, `rtm_dump_walk_nexthops` in
/// net/ipv4/nexthop.c). So a dump that it calls inconsistent (`NLM_F_DUMP_INTR`) is as good as one of routes: listen to
/// notifications from before it on. Waiting for a consistent one could take for ever.
///
/// # Errors
/// [`KernelError`]: no socket, or the kernel has no nexthop objects (before 5.3).
pub fn dump_nexthops(protocol: Option<u8>) -> Result<Vec<NexthopObject>, KernelError> {
    let object = "dump nexthop objects";
    let socket = Socket::open()?;
    let mut objects = Vec::new();
    let mut request = Encoder::default();
    request.begin(RTM_GETNEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, 1, &[0; nexthop::NHMSG]);
    dump(&socket, request, object, &mut |kind, payload| {
        let decoded = (kind == RTM_NEWNEXTHOP).then(|| nexthop::decode(payload)).flatten();
        objects.extend(decoded.filter(|object| protocol.is_none_or(|only| only == object.protocol)));
        ControlFlow::Continue(())
    })?;
    Ok(objects)
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dumped {
    /// With all there is.
    Whole,
    /// By the reader, before its end.
    Left,
}

/// Sends a dump request and reads it to its end, or until `f` has seen enough.
pub(super) fn dump(
    socket: &Socket,
    mut request: Encoder,
    object: &str,
    f: &mut dyn FnMut(u16, &[u8]) -> ControlFlow<()>,
) -> Result<Dumped, KernelError> {
    let failed = |source| KernelError::Socket { doing: "dump", source };
    request
        .finish()
        .map_err(|why| KernelError::Malformed { object: object.to_owned(), detail: why.to_owned() })?;
    socket.send(request.bytes()).map_err(failed)?;
    let mut buffer = Vec::new();
    loop {
        for message in socket.receive(&mut buffer, 0).map_err(failed)? {
            match message.kind {
                NLMSG_DONE | NLMSG_ERROR => match message.verdict() {
                    (0, _) => return Ok(Dumped::Whole),
                    (errno, text) => {
                        let (object, text) = (object.to_owned(), text.map(str::to_owned));
                        return Err(KernelError::Refused { object, errno, text });
                    }
                },
                kind => {
                    if f(kind, message.payload).is_break() {
                        return Ok(Dumped::Left);
                    }
                }
            }
        }
    }
}
