//! Netlink messages within a payload.

use super::attr::{AttributeError, align};
use super::wire::{
    MESSAGE_HEADER_LEN, RTM_DELNEIGH, RTM_DELNEXTHOP, RTM_DELROUTE, RTM_NEWNEIGH, RTM_NEWNEXTHOP,
    RTM_NEWROUTE,
};
use super::{neighbor, nexthop, route};
use crate::update::{RawMessage, Update};

/// Why a payload is not netlink as zebra writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message does not end where the payload does.
    #[error("netlink message at byte {at} of the payload: length {len}, but {available} bytes are left")]
    MessageLength {
        /// Position of its header.
        at: usize,
        /// As stated by the header; 16 where not even the header is whole.
        len: usize,
        /// What is there.
        available: usize,
    },
    /// The body cannot hold the fixed header of its message type.
    #[error("netlink message type {nlmsg_type}: body of {len} bytes, at least {min} needed")]
    BodyTooShort {
        /// Its type.
        nlmsg_type: u16,
        /// The body's length.
        len: usize,
        /// Length of the fixed header.
        min: usize,
    },
    /// An attribute is damaged.
    #[error("netlink message type {nlmsg_type}: {source}")]
    Attribute {
        /// The message's type.
        nlmsg_type: u16,
        /// What is wrong.
        source: AttributeError,
    },
    /// A value contradicts another or is missing.
    #[error("netlink message type {nlmsg_type}: {what}")]
    Invalid {
        /// The message's type.
        nlmsg_type: u16,
        /// What is wrong.
        what: Invalid,
    },
}

/// What a message says that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Longer than an address of the family.
    #[error("prefix length {0} is too long for the family")]
    PrefixLength(u8),
    /// The address is missing, though the prefix length is not 0, or is of the other family.
    #[error("prefix of length {0} without an address of its family")]
    PrefixAddress(u8),
    /// Nothing says which object it is.
    #[error("nexthop object without an id (NHA_ID)")]
    NexthopWithoutId,
    /// `RTA_MULTIPATH` does not consist of whole `struct rtnexthop`.
    #[error("multipath entry of length {len}, but {available} bytes are left (at least 8 needed)")]
    MultipathLength {
        /// As stated by the entry.
        len: usize,
        /// What is there.
        available: usize,
    },
    /// Segment routing header that does not hold the segments that it counts.
    #[error("segment routing header of {0} bytes is too short for its segments")]
    SegmentRoutingHeader(usize),
    /// An MPLS route without an incoming label.
    #[error("label-switched path without an incoming label of 20 bits")]
    LspWithoutLabel,
}

/// Error within one message, before its type is added.
#[derive(Debug)]
pub(crate) enum BodyError {
    TooShort { len: usize, min: usize },
    Attribute(AttributeError),
    Invalid(Invalid),
}

impl BodyError {
    fn in_message(self, nlmsg_type: u16) -> DecodeError {
        match self {
            Self::TooShort { len, min } => DecodeError::BodyTooShort { nlmsg_type, len, min },
            Self::Attribute(source) => DecodeError::Attribute { nlmsg_type, source },
            Self::Invalid(what) => DecodeError::Invalid { nlmsg_type, what },
        }
    }
}

impl From<AttributeError> for BodyError {
    fn from(source: AttributeError) -> Self {
        Self::Attribute(source)
    }
}

impl From<Invalid> for BodyError {
    fn from(what: Invalid) -> Self {
        Self::Invalid(what)
    }
}

/// Splits a body after its fixed header.
pub(crate) fn split<const N: usize>(body: &[u8]) -> Result<(&[u8; N], &[u8]), BodyError> {
    body.split_first_chunk().ok_or(BodyError::TooShort { len: body.len(), min: N })
}

/// What a payload held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// `nlmsg_pid` of the last message: zebra's netlink port id, which changes when zebra is restarted (from the
    /// old module: its process id).
    pub pid: Option<u32>,
    /// Messages.
    pub messages: u32,
    /// Of these, kept raw.
    pub raw_messages: u32,
    /// Attributes that the types of this crate have no place for, skipped (an encapsulation of an unknown type is kept raw).
    pub unknown_attributes: u32,
}

/// Decodes all messages of a frame's payload. Messages before a damaged one reach `sink` though the whole payload
/// is to be dropped: [`decode_frame`](crate::decode_frame) does that.
///
/// # Errors
/// If the bytes are not netlink, or contradict themselves.
pub fn decode(payload: &[u8], mut sink: impl FnMut(Update)) -> Result<Summary, DecodeError> {
    let mut summary = Summary::default();
    let mut at = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        let too_long = |len| DecodeError::MessageLength { at, len, available: rest.len() };
        let Some((header, _)) = rest.split_first_chunk::<MESSAGE_HEADER_LEN>() else {
            return Err(too_long(MESSAGE_HEADER_LEN));
        };
        let &[l0, l1, l2, l3, t0, t1, _, _, _, _, _, _, p0, p1, p2, p3] = header;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(body) = rest.get(MESSAGE_HEADER_LEN..len) else {
            return Err(too_long(len));
        };
        let update = decode_counting(u16::from_ne_bytes([t0, t1]), body, &mut summary.unknown_attributes)?;
        summary.pid = Some(u32::from_ne_bytes([p0, p1, p2, p3]));
        summary.messages += 1;
        summary.raw_messages += u32::from(matches!(update, Update::Raw(_)));
        sink(update);
        at += align(len);
    }
    Ok(summary)
}

/// Decodes one message: `body` is what follows the netlink header.
///
/// Understands the kernel's own dumps of routes, nexthop objects and neighbours too.
///
/// # Errors
/// If the bytes contradict themselves. A type or family that is not known is no error, but [`Update::Raw`].
pub fn decode_message(nlmsg_type: u16, body: &[u8]) -> Result<Update, DecodeError> {
    decode_counting(nlmsg_type, body, &mut 0)
}

#[inline]
fn decode_counting(nlmsg_type: u16, body: &[u8], unknown: &mut u32) -> Result<Update, DecodeError> {
    match nlmsg_type {
        RTM_NEWROUTE | RTM_DELROUTE => route::decode(nlmsg_type == RTM_NEWROUTE, body, unknown),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            nexthop::decode(nlmsg_type == RTM_NEWNEXTHOP, body, unknown).map(Some)
        }
        RTM_NEWNEIGH | RTM_DELNEIGH => neighbor::decode(nlmsg_type == RTM_NEWNEIGH, body, unknown).map(Some),
        _ => Ok(None),
    }
    .map(|update| update.unwrap_or_else(|| raw(nlmsg_type, body)))
    .map_err(|error| error.in_message(nlmsg_type))
}

fn raw(nlmsg_type: u16, body: &[u8]) -> Update {
    Update::Raw(Box::new(RawMessage { nlmsg_type: Some(nlmsg_type), body: body.into() }))
}
