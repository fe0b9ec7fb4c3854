//! The kernel's notifications, decoded. Memory is bounded: when the reader is late the kernel drops, and says so.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_core::ParseableParametrized as _;
use netlink_packet_route::RouteNetlinkMessage;
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::socket::Socket;
use super::wire::{
    Message, NLM_F_REPLACE, RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELNEXTHOP, RTM_DELROUTE,
    RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWNETCONF, RTM_NEWNEXTHOP, RTM_NEWROUTE,
    RTM_NEWRULE,
};
use super::{KernelError, convert, nexthop, route, rules};
use crate::model::{Address, KernelRoute, Link, Neighbour, NexthopId, NexthopObject, Rule};

/// Notifications that may wait for the reader; the socket's buffer takes what comes beyond.
const QUEUE: usize = 1024;

/// RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_RULE, _IPV6_IFADDR, _IPV6_RULE, _IPV4_NETCONF, _IPV6_NETCONF, _NEXTHOP
/// (include/uapi/linux/rtnetlink.h).
const GROUPS: [u32; 9] = [1, 3, 5, 8, 9, 19, 24, 25, 32];
/// RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE.
const ROUTE_GROUPS: [u32; 2] = [7, 11];

/// Something changed in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// An interface is new or changed. Its addresses are not part of the message: the list is empty.
    Link(Link),
    /// An interface is gone, and silently with it all that used it.
    LinkGone {
        /// Its index.
        ifindex: u32,
    },
    /// An interface got or lost an address, or the address's flags changed.
    Address {
        /// Index of the interface.
        ifindex: u32,
        /// The address.
        address: Address,
        /// False: it is gone.
        added: bool,
    },
    /// A neighbour is new or changed its state.
    Neighbour(Neighbour),
    /// A neighbour entry is gone.
    NeighbourGone {
        /// Index of its interface.
        ifindex: u32,
        /// Its address.
        address: IpAddr,
    },
    /// A policy rule came or went.
    Rule {
        /// The rule.
        rule: Rule,
        /// False: it is gone.
        added: bool,
        /// Netlink port of whoever did it; 0 is the kernel.
        port: u32,
    },
    /// A route came, was replaced, or went. Only while [`Monitor::listen_routes`] is on.
    Route {
        /// The route as it is now, or as it was.
        route: KernelRoute,
        /// False: it is gone.
        added: bool,
        /// It took the place of another one of its key (NLM_F_REPLACE), whoever's that was.
        replaced: bool,
        /// Our programmer did it.
        own: bool,
        /// Netlink port of who did it: mostly a process id; 0: the kernel.
        port: u32,
    },
    /// A nexthop object is new or changed. What carrier loss deletes is *not* notified.
    Nexthop {
        /// The object.
        object: NexthopObject,
        /// Our programmer did it.
        own: bool,
        /// Netlink port of who did it.
        port: u32,
    },
    /// A nexthop object is gone, and silently with it its routes.
    NexthopGone {
        /// Its id.
        id: NexthopId,
        /// Our programmer did it.
        own: bool,
        /// Netlink port of who did it.
        port: u32,
    },
    /// Somebody set a sysctl of an interface or of all: rp_filter, forwarding and a few others are notified of.
    Settings,
    /// The kernel dropped notifications (ENOBUFS): whatever is known must be dumped again.
    Overrun,
}

/// What to listen for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watch {
    /// [`Programmer::port`](super::programmer::Programmer::port): its doings are marked `own`. 0: nobody's.
    pub own_port: u32,
    /// `rtm_protocol`s of the routes to hear of; the kernel drops the others before they wake anybody. A route that
    /// replaces another one is always heard of, for the other one may have been ours. At most 32 are looked at.
    pub route_protocols: Vec<u8>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    socket: Arc<AsyncFd<Socket>>,
    reader: JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Monitor {
    /// Listens in the calling thread's network namespace, for everything but routes. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`KernelError::Socket`] when there is no socket, or the kernel lacks a notification group (nexthops: 5.3).
    pub fn start(watch: &Watch) -> Result<(Self, mpsc::Receiver<Notification>), KernelError> {
        let failed = |doing| move |source| KernelError::Socket { doing, source };
        let socket = Socket::open()?;
        SockRef::from(&socket)
            .attach_filter(&filter(&watch.route_protocols))
            .map_err(failed("attach the filter of routes"))?;
        socket.set_non_blocking().map_err(failed("make it non-blocking"))?;
        for group in GROUPS {
            socket.member(group, true).map_err(failed("join a notification group"))?;
        }
        let socket = register(socket)?;
        let socket = Arc::new(socket);
        let (out, notifications) = mpsc::channel(QUEUE);
        let reader = tokio::spawn(read(Arc::clone(&socket), watch.own_port, out));
        Ok((Self { socket, reader }, notifications))
    }

    /// Joins or leaves the route groups. A listener costs a bulk load about a quarter of its rate: leave before one,
    /// and audit by a dump after joining again.
    ///
    /// # Errors
    /// [`KernelError::Socket`] when the kernel refuses.
    pub fn listen_routes(&self, on: bool) -> Result<(), KernelError> {
        for group in ROUTE_GROUPS {
            self.socket
                .get_ref()
                .member(group, on)
                .map_err(|source| KernelError::Socket { doing: "join or leave the route groups", source })?;
        }
        Ok(())
    }
}

/// Puts the socket under the runtime's poller.
#[expect(unsafe_code, reason = "tokio has no safe way to watch a descriptor of a foreign type")]
fn register(socket: Socket) -> Result<AsyncFd<Socket>, KernelError> {
    // SAFETY: a `Socket` owns its descriptor, `as_raw_fd` gives the same one until it is dropped, and nobody else
    // closes it.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        .map_err(|error| KernelError::Socket { doing: "register with the runtime", source: error.into() })
}

/// Reads until the receiver is gone or the socket fails.
async fn read(socket: Arc<AsyncFd<Socket>>, own_port: u32, out: mpsc::Sender<Notification>) {
    let mut buffer = Vec::new();
    loop {
        let ready = tokio::select! {
            () = out.closed() => return,
            ready = socket.readable() => ready,
        };
        let Ok(mut ready) = ready else { return };
        let received = &mut buffer;
        match ready.try_io(move |socket| socket.get_ref().receive(received, 0)) {
            Err(_would_block) => {}
            Ok(Ok(messages)) => {
                let decoded: Vec<_> = messages.filter_map(|message| decode(&message, own_port)).collect();
                for notification in decoded {
                    if out.send(notification).await.is_err() {
                        return;
                    }
                }
            }
            Ok(Err(error)) if lost_some(&error) => {
                discard(socket.get_ref());
                if out.send(Notification::Overrun).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "kernel notifications ended");
                return;
            }
        }
    }
}

/// Empties the socket after an overrun. Until it is empty the kernel goes on dropping and does not say so again: a dump
/// taken before would miss what is dropped after it (net/netlink/af_netlink.c, NETLINK_S_CONGESTED).
fn discard(socket: &Socket) {
    let mut buffer = Vec::new();
    loop {
        match socket.receive(&mut buffer, 0) {
            Err(error) if !lost_some(&error) => return,
            _ => {}
        }
    }
}

/// ENOBUFS, or a message that did not fit.
fn lost_some(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS) || error.kind() == io::ErrorKind::InvalidData
}

fn decode(message: &Message<'_>, own_port: u32) -> Option<Notification> {
    let own = own_port != 0 && message.port == own_port;
    match message.kind {
        RTM_NEWROUTE | RTM_DELROUTE => Some(Notification::Route {
            route: route::decode(message.payload)?,
            added: message.kind == RTM_NEWROUTE,
            replaced: message.kind == RTM_NEWROUTE && message.flags & NLM_F_REPLACE != 0,
            own,
            port: message.port,
        }),
        RTM_NEWNEXTHOP => {
            let object = nexthop::decode(message.payload)?;
            Some(Notification::Nexthop { object, own, port: message.port })
        }
        RTM_DELNEXTHOP => {
            let id = nexthop::decode(message.payload)?.id;
            Some(Notification::NexthopGone { id, own, port: message.port })
        }
        RTM_NEWNETCONF => Some(Notification::Settings),
        RTM_NEWLINK | RTM_DELLINK | RTM_NEWADDR | RTM_DELADDR | RTM_NEWNEIGH | RTM_DELNEIGH | RTM_NEWRULE
        | RTM_DELRULE => match RouteNetlinkMessage::parse_with_param(message.payload, message.kind) {
            Ok(decoded) => convert(&decoded, message.port),
            Err(error) => {
                tracing::warn!(%error, kind = message.kind, "kernel notification not understood");
                None
            }
        },
        _ => None,
    }
}

fn convert(message: &RouteNetlinkMessage, port: u32) -> Option<Notification> {
    use RouteNetlinkMessage as M;
    Some(match message {
        M::NewLink(link) => Notification::Link(convert::link(link)?),
        M::DelLink(link) => Notification::LinkGone { ifindex: convert::link(link)?.ifindex },
        M::NewAddress(address) | M::DelAddress(address) => {
            let (ifindex, address) = convert::address(address)?;
            Notification::Address { ifindex, address, added: matches!(message, M::NewAddress(_)) }
        }
        M::NewNeighbour(neighbour) => Notification::Neighbour(convert::neighbour(neighbour)?),
        M::DelNeighbour(neighbour) => {
            let Neighbour { ifindex, address, .. } = convert::neighbour(neighbour)?;
            Notification::NeighbourGone { ifindex, address }
        }
        M::NewRule(rule) | M::DelRule(rule) => {
            let added = matches!(message, M::NewRule(_));
            Notification::Rule { rule: rules::decode(rule)?, added, port }
        }
        _ => return None,
    })
}

/// A classic BPF program over each message: all but routes pass, routes of `protocols`, and those that replace.
fn filter(protocols: &[u8]) -> Vec<SockFilter> {
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const JUMP_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const TYPE_AT: u32 = 4;
    const FLAGS_AT: u32 = 6;
    const PROTOCOL_AT: u32 = 16 + 5;
    const MOST: usize = 32;
    // Loads of halves swap as if from the network, while netlink's fields are host byte order.
    let half = |value: u16| u32::from(u16::from_be_bytes(value.to_ne_bytes()));
    let protocols = &protocols[..protocols.len().min(MOST)];
    let count = u8::try_from(protocols.len()).unwrap_or(0);
    let mut program = vec![
        SockFilter::new(LOAD_HALF, 0, 0, TYPE_AT),
        SockFilter::new(JUMP_EQUAL, 1, 0, half(RTM_NEWROUTE)),
        SockFilter::new(JUMP_EQUAL, 2, 4 + count, half(RTM_DELROUTE)),
        SockFilter::new(LOAD_HALF, 0, 0, FLAGS_AT),
        SockFilter::new(JUMP_SET, 2 + count, 0, half(NLM_F_REPLACE)),
        SockFilter::new(LOAD_BYTE, 0, 0, PROTOCOL_AT),
    ];
    for (left, protocol) in (1..=count).rev().zip(protocols) {
        program.push(SockFilter::new(JUMP_EQUAL, left, 0, u32::from(*protocol)));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}
