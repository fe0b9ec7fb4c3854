//! The bare writer: the least work that puts routes into the kernel. Also counts them.
//!
//! Packed messages by nexthop id in hashed order, one acknowledgement for each datagram. It knows its routes
//! beforehand, checks nothing and remembers nothing.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Bytes of a datagram: more brings nothing.
const SEND: usize = 64 << 10;
pub(crate) const RECEIVE: usize = 64 << 10;

// include/uapi/linux/{netlink,rtnetlink}.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE_EXCL: u16 = 0x600;
const DUMP: u16 = 0x300;
const RTA_DST: u16 = 1;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTM_NEWNEXTHOP: u16 = 104;
const CREATE_REPLACE: u16 = 0x500;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
/// Offset of `nlmsg_flags`.
const FLAGS: usize = 6;

/// Where routes go, and what they say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Into {
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    pub(crate) metric: u32,
    /// An existing nexthop object.
    pub(crate) nexthop: u32,
}

/// What to do with routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Insert,
    /// Give them another nexthop.
    Replace,
    Withdraw,
}

/// A socket in the namespace of the thread that opened it.
pub(crate) struct Writer {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket.set_cap_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(2 * SEND) })
    }

    /// Writes, replaces or deletes all routes.
    pub(crate) fn apply(
        &mut self,
        change: Change,
        routes: &[impl Copy + std::convert::Into<IpNet>],
        into: Into,
    ) -> Result<()> {
        let mut last = 0;
        for route in routes {
            last = self.buffer.len();
            encode(&mut self.buffer, change, (*route).into(), into);
            if self.buffer.len() >= SEND {
                self.flush(last)?;
            }
        }
        if self.buffer.is_empty() { Ok(()) } else { self.flush(last) }
    }

    /// Sends what is there, asking for the acknowledgement of the message that begins at `last`.
    fn flush(&mut self, last: usize) -> Result<()> {
        if let Some(flags) = self.buffer.get_mut(last + FLAGS) {
            *flags |= ACK.to_ne_bytes()[0];
        }
        self.socket.send_to(&self.buffer, &SocketAddr::new(0, 0), 0).context("netlink send")?;
        self.buffer.clear();
        let mut answer = Vec::with_capacity(RECEIVE);
        self.socket.recv_from(&mut answer, 0).context("netlink receive")?;
        ensure!(word16(&answer, 4) == Some(NLMSG_ERROR), "the kernel's answer is no acknowledgement");
        match word32(&answer, 16) {
            Some(0) => Ok(()),
            errno => bail!("the kernel refuses a route: errno {}", errno.unwrap_or(0).wrapping_neg()),
        }
    }

    /// Replaces a nexthop group.
    pub(crate) fn replace_group(&mut self, id: u32, members: &[u32]) -> Result<()> {
        message(&mut self.buffer, RTM_NEWNEXTHOP, REQUEST | CREATE_REPLACE, |out| {
            out.extend([0; 8]);
            attribute(out, NHA_ID, id);
            let list: Vec<u8> =
                members.iter().flat_map(|member| [member.to_ne_bytes(), [0; 4]].concat()).collect();
            bytes(out, NHA_GROUP, &list);
        });
        self.flush(0)
    }

    /// Routes of a protocol in a table, counted one by one in a dump.
    pub(crate) fn count(&mut self, table: u32, protocol: u8, v6: bool) -> Result<u32> {
        let mut request = Vec::new();
        message(&mut request, RTM_GETROUTE, REQUEST | DUMP, |out| {
            out.extend([if v6 { AF_INET6 } else { AF_INET }, 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0]);
            attribute(out, RTA_TABLE, table);
        });
        self.socket.send_to(&request, &SocketAddr::new(0, 0), 0).context("netlink send")?;
        let mut count = 0;
        loop {
            let mut answer = Vec::with_capacity(RECEIVE);
            self.socket.recv_from(&mut answer, 0).context("netlink receive")?;
            for kind in messages(&answer) {
                match kind {
                    NLMSG_DONE => return Ok(count),
                    // A table that has never held a route does not exist.
                    NLMSG_ERROR => return Ok(0),
                    RTM_NEWROUTE => count += 1,
                    _ => {}
                }
            }
        }
    }
}

/// The types of the messages of a datagram.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (length, kind) = (word32(bytes, at)?, word16(bytes, at + 4)?);
        at += (length as usize).max(16).next_multiple_of(4);
        Some(kind)
    })
}

fn encode(out: &mut Vec<u8>, change: Change, route: IpNet, into: Into) {
    let (kind, flags) = match change {
        Change::Insert => (RTM_NEWROUTE, REQUEST | CREATE_EXCL),
        Change::Replace => (RTM_NEWROUTE, REQUEST | CREATE_REPLACE),
        Change::Withdraw => (RTM_DELROUTE, REQUEST),
    };
    message(out, kind, flags, |out| {
        // Family, lengths, TOS, table (in the attribute), protocol, scope universe, type unicast, flags.
        let family = if route.addr().is_ipv6() { AF_INET6 } else { AF_INET };
        out.extend([family, route.prefix_len(), 0, 0, 0, into.protocol, 0, 1, 0, 0, 0, 0]);
        match route.addr() {
            IpAddr::V4(addr) => attribute(out, RTA_DST, u32::from_ne_bytes(addr.octets())),
            IpAddr::V6(addr) => bytes(out, RTA_DST, &addr.octets()),
        }
        attribute(out, RTA_TABLE, into.table);
        attribute(out, RTA_PRIORITY, into.metric);
        attribute(out, RTA_NH_ID, into.nexthop);
    });
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(space) = out.get_mut(start..start + 4) {
        space.copy_from_slice(&length.to_ne_bytes());
    }
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: u32) {
    bytes(out, kind, &value.to_ne_bytes());
}

/// An attribute of a multiple of four bytes.
fn bytes(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(u16::try_from(value.len() + 4).unwrap_or(u16::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
