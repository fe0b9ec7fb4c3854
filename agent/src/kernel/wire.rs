//! Netlink framing: messages and attributes, written into one reused buffer and read without copying.
//!
//! Layout: include/uapi/linux/netlink.h. Integers are host byte order, addresses network byte order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
pub(super) const RTM_NEWNETCONF: u16 = 80;
pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
pub(super) const RTM_GETNEXTHOP: u16 = 106;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Offset of `nlmsg_flags` in it.
const FLAGS_AT: usize = 6;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER are no part of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;

/// Lengths are rounded up to 4 bytes, in messages and attributes alike.
fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// An operation that has no wire form, with the reason.
pub(super) type Unencodable = &'static str;

/// Writes messages one after the other into a buffer that is reused: nothing is allocated for each message.
#[derive(Default)]
pub(super) struct Encoder {
    buf: Vec<u8>,
    /// Where the message being written starts.
    message: usize,
    /// Where the last finished one starts.
    finished: usize,
    too_long: bool,
}

impl Encoder {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { buf: Vec::with_capacity(bytes), ..Self::default() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.buf
    }

    /// Starts a message. `header` is the fixed part that follows `nlmsghdr`, such as `struct rtmsg`.
    pub(super) fn begin(&mut self, kind: u16, flags: u16, seq: u32, header: &[u8]) {
        self.message = self.buf.len();
        self.too_long = false;
        let ([k0, k1], [f0, f1], [s0, s1, s2, s3]) =
            (kind.to_ne_bytes(), flags.to_ne_bytes(), seq.to_ne_bytes());
        self.buf.extend_from_slice(&[0, 0, 0, 0, k0, k1, f0, f1, s0, s1, s2, s3, 0, 0, 0, 0]);
        self.raw(header);
    }

    /// Ends the message, or takes it back when an attribute did not fit into its 16-bit length.
    pub(super) fn finish(&mut self) -> Result<(), Unencodable> {
        if self.too_long {
            self.cancel();
            return Err("an attribute is longer than 65,535 bytes: too many nexthops");
        }
        let len = u32::try_from(self.buf.len() - self.message).unwrap_or(u32::MAX);
        self.put(self.message, &len.to_ne_bytes());
        self.finished = self.message;
        Ok(())
    }

    /// Takes back the message that was begun last.
    pub(super) fn cancel(&mut self) {
        self.buf.truncate(self.message);
    }

    /// Asks for an acknowledgement of the message that was finished last.
    pub(super) fn acknowledge_last(&mut self) {
        let at = self.finished + FLAGS_AT;
        if let Some(flags) = self.buf.get(at..).and_then(<[u8]>::first_chunk) {
            let flags = u16::from_ne_bytes(*flags) | NLM_F_ACK;
            self.put(at, &flags.to_ne_bytes());
        }
    }

    /// Appends bytes, padded.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        self.buf.resize(align(self.buf.len()), 0);
    }

    pub(super) fn attr(&mut self, kind: u16, value: &[u8]) {
        let at = self.nest(kind);
        self.buf.extend_from_slice(value);
        self.end(at);
    }

    pub(super) fn attr_u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub(super) fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr_word(kind, value.to_ne_bytes());
    }

    /// An attribute of four bytes, as most are: needs no padding, and is written at once.
    fn attr_word(&mut self, kind: u16, [v0, v1, v2, v3]: [u8; 4]) {
        let ([l0, l1], [k0, k1]) = (8u16.to_ne_bytes(), kind.to_ne_bytes());
        self.buf.extend_from_slice(&[l0, l1, k0, k1, v0, v1, v2, v3]);
    }

    pub(super) fn attr_ip(&mut self, kind: u16, addr: IpAddr) {
        match addr {
            IpAddr::V4(addr) => self.attr_word(kind, addr.octets()),
            IpAddr::V6(addr) => self.attr(kind, &addr.octets()),
        }
    }

    /// Starts an attribute that holds others; [`end`](Self::end) takes what this returns.
    pub(super) fn nest(&mut self, kind: u16) -> usize {
        let at = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    /// Ends what [`nest`](Self::nest) started: writes its length, pads.
    pub(super) fn end(&mut self, at: usize) {
        match u16::try_from(self.buf.len() - at) {
            Ok(len) => self.put(at, &len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.buf.resize(align(self.buf.len()), 0);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.buf.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

/// One netlink message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) seq: u32,
    /// Port id of the socket whose request caused it; 0 for the kernel's own doing.
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// For NLMSG_ERROR and NLMSG_DONE: the positive errno (0 is an acknowledgement) and the kernel's words.
    pub(super) fn verdict(&self) -> (i32, Option<&'a str>) {
        let errno = i32_at(self.payload, 0).unwrap_or(0).wrapping_neg();
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return (errno, None);
        }
        let tlvs = if self.kind == NLMSG_DONE {
            4
        } else if self.flags & NLM_F_CAPPED != 0 {
            4 + HEADER
        } else {
            4 + align(u32_at(self.payload, 4).unwrap_or(0) as usize)
        };
        (errno, self.payload.get(tlvs..).and_then(error_text))
    }
}

/// NLMSGERR_ATTR_MSG among the attributes after an error: the kernel's explanation.
pub(super) fn error_text(tlvs: &[u8]) -> Option<&str> {
    let (_, text) = Attrs(tlvs).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    let text = text.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// The messages of one datagram. Ends at the first one whose length is impossible.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let payload = self.0.get(HEADER..len)?;
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, FLAGS_AT)?,
            seq: u32_at(self.0, 8)?,
            port: u32_at(self.0, 12)?,
            payload,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(message)
    }
}

/// Attributes as (type, value). Ends at the first one whose length is impossible.
#[derive(Clone, Copy)]
pub(super) struct Attrs<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    chunk(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    chunk(bytes, at).map(i32::from_ne_bytes)
}

/// An address by its length: 4 bytes or 16.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => chunk(bytes, 0).map(|octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets))),
        16 => chunk(bytes, 0).map(|octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    }
}
