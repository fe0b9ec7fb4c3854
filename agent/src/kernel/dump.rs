//! Reads routes and nexthop objects, about a million routes a second. Blocking: call through `spawn_blocking`.

use super::KernelError;
use super::socket::Socket;
use super::wire::{
    Encoder, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, RTM_GETNEXTHOP,
    RTM_GETROUTE, RTM_NEWNEXTHOP, RTM_NEWROUTE,
};
use super::{nexthop, route};
use crate::model::{Family, KernelRoute, NexthopObject};

/// How often a dump that the kernel flags as interrupted (NLM_F_DUMP_INTR) is taken again.
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
}

/// Calls `f` with each route that `filter` lets through. A table that does not exist has no routes.
///
/// Routes that change meanwhile may or may not be seen: listen to notifications from before the dump on. Local,
/// broadcast, multicast, throw and cached routes are left out.
///
/// # Errors
/// [`KernelError`]: no socket, or the kernel refused the dump.
pub fn dump_routes(filter: RouteFilter, f: &mut dyn FnMut(KernelRoute)) -> Result<(), KernelError> {
    let socket = Socket::open()?;
    for family in Family::ALL.into_iter().filter(|family| filter.family.is_none_or(|only| only == *family)) {
        let mut request = Encoder::default();
        let protocol = filter.protocol.unwrap_or(0);
        let header = [family.af(), 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0];
        request.begin(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 1, &header);
        if let Some(table) = filter.table {
            request.attr_u32(route::RTA_TABLE, table);
        }
        let dumped = dump(&socket, request, "dump routes", &mut |kind, payload| {
            if let Some(route) = (kind == RTM_NEWROUTE).then(|| route::decode(payload)).flatten() {
                f(route);
            }
        });
        match dumped {
            Err(error) if filter.table.is_some() && error.is_absent() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// All nexthop objects, or those of one protocol.
///
/// # Errors
/// [`KernelError`]: no socket, the kernel has no nexthop objects (before 5.3), or they change too fast to be read.
pub fn dump_nexthops(protocol: Option<u8>) -> Result<Vec<NexthopObject>, KernelError> {
    let object = "dump nexthop objects";
    let socket = Socket::open()?;
    for _ in 0..ATTEMPTS {
        let mut objects = Vec::new();
        let mut request = Encoder::default();
        request.begin(RTM_GETNEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, 1, &[0; nexthop::NHMSG]);
        let whole = dump(&socket, request, object, &mut |kind, payload| {
            let decoded = (kind == RTM_NEWNEXTHOP).then(|| nexthop::decode(payload)).flatten();
            objects.extend(decoded.filter(|object| protocol.is_none_or(|only| only == object.protocol)));
        })?;
        if whole {
            return Ok(objects);
        }
    }
    Err(KernelError::Interrupted { object: object.to_owned(), attempts: ATTEMPTS })
}

/// Sends a dump request and reads it to its end. Returns false when the kernel says that it is not consistent.
fn dump(
    socket: &Socket,
    mut request: Encoder,
    object: &str,
    f: &mut dyn FnMut(u16, &[u8]),
) -> Result<bool, KernelError> {
    let failed = |source| KernelError::Socket { doing: "dump", source };
    request
        .finish()
        .map_err(|why| KernelError::Malformed { object: object.to_owned(), detail: why.to_owned() })?;
    socket.send(request.bytes()).map_err(failed)?;
    let mut buffer = Vec::new();
    let mut whole = true;
    loop {
        for message in socket.receive(&mut buffer, 0).map_err(failed)? {
            whole &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_DONE | NLMSG_ERROR => match message.verdict() {
                    (0, _) => return Ok(whole),
                    (errno, text) => {
                        let (object, text) = (object.to_owned(), text.map(str::to_owned));
                        return Err(KernelError::Refused { object, errno, text });
                    }
                },
                kind => f(kind, message.payload),
            }
        }
    }
}
