//! Asks the kernel which route it would take: RTM_GETROUTE for one destination. Blocking.

use std::net::IpAddr;

use super::KernelError;
use super::route::{self, RTA_DST, RTA_GATEWAY, RTA_IIF, RTA_OIF, RTA_PREFSRC, RTA_SRC, RTA_TABLE, RTA_VIA};
use super::socket::Socket;
use super::wire::{Attrs, Encoder, NLM_F_REQUEST, NLMSG_ERROR, RTM_GETROUTE, RTM_NEWROUTE, ip, u32_at};
use crate::model::{Family, KernelRoute};

const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// Say which table answered. IPv6 always says it, and refuses the flag.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
/// Answer with the route of the table instead of the resolved path (Linux 4.20).
const RTM_F_FIB_MATCH: u32 = 0x2000;

/// A packet to find the way of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// Where to.
    pub destination: IpAddr,
    /// Source address; rules select by it. Must be given with `iif`.
    pub source: Option<IpAddr>,
    /// Index of the interface that it came in by; `None`: sent by this node.
    pub iif: Option<u32>,
    /// Index of the interface that its socket is bound to.
    pub oif: Option<u32>,
    /// IP protocol, source port, destination port; rules select by them.
    pub flow: Option<(u8, u16, u16)>,
}

impl Lookup {
    /// A packet of this node to `destination`.
    #[must_use]
    pub fn to(destination: IpAddr) -> Self {
        Self { destination, source: None, iif: None, oif: None, flow: None }
    }
}

/// The way that the kernel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The table whose route won.
    pub table: u32,
    /// `rtm_type`: 1 unicast, 2 local, 3 broadcast, 5 multicast, 6 to 8 blackhole, unreachable, prohibit.
    pub kind: u8,
    /// Egress interface, where there is one.
    pub oif: Option<u32>,
    /// `None`: on the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
}

/// The way of a packet: rules, tables and the choice among nexthops applied.
///
/// # Errors
/// [`KernelError::Refused`] when no route leads there (ENETUNREACH) or one forbids it (IPv4: EHOSTUNREACH
/// unreachable, EACCES prohibit, EINVAL blackhole; IPv6 answers with the route's kind instead).
pub fn get_route(lookup: &Lookup) -> Result<Answer, KernelError> {
    ask(lookup, RTM_F_LOOKUP_TABLE, |payload| {
        let mut answer = Answer {
            table: u32::from(*payload.get(4)?),
            kind: *payload.get(7)?,
            oif: None,
            gateway: None,
            source: None,
        };
        for (kind, value) in Attrs(payload.get(route::RTMSG..)?) {
            match kind {
                RTA_TABLE => answer.table = u32_at(value, 0)?,
                RTA_OIF => answer.oif = u32_at(value, 0),
                RTA_GATEWAY => answer.gateway = ip(value),
                RTA_VIA => answer.gateway = route::via(value),
                RTA_PREFSRC => answer.source = ip(value),
                _ => {}
            }
        }
        Some(answer)
    })
}

/// The route that decides for a packet, as its table holds it. `None` when it is of a kind that is no
/// [`KernelRoute`], such as a local one.
///
/// # Errors
/// As [`get_route`].
pub fn match_route(lookup: &Lookup) -> Result<Option<KernelRoute>, KernelError> {
    ask(lookup, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH, |payload| Some(route::decode(payload)))
}

fn ask<T>(lookup: &Lookup, flags: u32, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, KernelError> {
    let object = || format!("route to {}", lookup.destination);
    let failed = |source| KernelError::Socket { doing: "look up a route", source };
    let socket = Socket::open()?;
    let mut request = Encoder::default();
    encode(&mut request, lookup, flags);
    request.finish().map_err(|why| KernelError::Malformed { object: object(), detail: why.to_owned() })?;
    socket.send(request.bytes()).map_err(failed)?;
    let mut buffer = Vec::new();
    loop {
        for message in socket.receive(&mut buffer, 0).map_err(failed)? {
            match message.kind {
                NLMSG_ERROR => {
                    let (errno, text) = message.verdict();
                    let text = text.map(str::to_owned);
                    return Err(KernelError::Refused { object: object(), errno, text });
                }
                RTM_NEWROUTE => {
                    return read(message.payload).ok_or_else(|| KernelError::Malformed {
                        object: object(),
                        detail: "a route message without its header".to_owned(),
                    });
                }
                _ => {}
            }
        }
    }
}

fn encode(request: &mut Encoder, lookup: &Lookup, flags: u32) {
    let family = Family::of_addr(&lookup.destination);
    let len = if family == Family::Ipv4 { 32 } else { 128 };
    let src_len = if lookup.source.is_some() { len } else { 0 };
    let flags = if family == Family::Ipv6 { flags & !RTM_F_LOOKUP_TABLE } else { flags };
    let [f0, f1, f2, f3] = flags.to_ne_bytes();
    let header = [family.af(), len, src_len, 0, 0, 0, 0, 0, f0, f1, f2, f3];
    request.begin(RTM_GETROUTE, NLM_F_REQUEST, 1, &header);
    request.attr_ip(RTA_DST, lookup.destination);
    if let Some(source) = lookup.source {
        request.attr_ip(RTA_SRC, source);
    }
    for (kind, ifindex) in [(RTA_IIF, lookup.iif), (RTA_OIF, lookup.oif)] {
        if let Some(ifindex) = ifindex {
            request.attr_u32(kind, ifindex);
        }
    }
    if let Some((protocol, sport, dport)) = lookup.flow {
        request.attr_u8(RTA_IP_PROTO, protocol);
        request.attr(RTA_SPORT, &sport.to_be_bytes());
        request.attr(RTA_DPORT, &dport.to_be_bytes());
    }
}
