//! What the server tells its consumer.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::codec::StreamError;
use crate::update::Update;

/// Number of an FPM session; grows by one with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A session began: all that is known is stale now, but kept.
    Connected {
        /// Its number.
        epoch: Epoch,
        /// zebra's end.
        peer: SocketAddr,
    },
    /// Messages, of whole frames only: apply them as one.
    Updates {
        /// The session.
        epoch: Epoch,
        /// In order of arrival. If the consumer was slow, there is one for each key only, the latest.
        updates: Vec<Update>,
        /// zebra's netlink port id (`nlmsg_pid`): another one means that zebra has been restarted. Not known
        /// with protobuf.
        pid: Option<u32>,
    },
    /// The session has been quiet for so long that zebra must have sent all it has.
    ReplayComplete {
        /// The session.
        epoch: Epoch,
        /// As in `Updates`.
        pid: Option<u32>,
    },
    /// The session ended; its routes are the consumer's to keep or to drop.
    Disconnected {
        /// The session.
        epoch: Epoch,
        /// Why.
        reason: DisconnectReason,
    },
    /// A connection was turned away before it became a session.
    Refused {
        /// The other end.
        peer: SocketAddr,
        /// Why.
        reason: RefuseReason,
    },
    /// A second client took over: both claim to be the node's zebra. Between the old session's
    /// `Disconnected` and the new one's `Connected`.
    Superseded {
        /// The new session.
        epoch: Epoch,
        /// Whose session ended.
        old_peer: SocketAddr,
        /// Whose begins.
        new_peer: SocketAddr,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectReason {
    /// zebra closed the connection.
    #[error("zebra closed the connection")]
    Eof,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Reset(std::io::ErrorKind),
    /// What arrived is not FPM, or ended within a frame. The frames before it stay applied.
    #[error(transparent)]
    Malformed(StreamError),
    /// A newer connection took over.
    #[error("superseded by the newer FPM client {0}")]
    Superseded(SocketAddr),
    /// More distinct routes are waiting for the consumer than the queue may hold.
    #[error("{pending_bytes} bytes of updates wait to be processed, more than the bound")]
    Overflow {
        /// Bytes in the queue.
        pending_bytes: usize,
    },
}

/// Why a connection was turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefuseReason {
    /// The server listens on loopback, the peer is elsewhere.
    #[error("peer is not loopback; listen on an address that is not loopback to accept it")]
    NotLoopback,
    /// It sent no valid frame.
    #[error(transparent)]
    Malformed(StreamError),
    /// Too many connections, or too many events that the consumer has not taken.
    #[error("too many FPM connections")]
    Busy,
}
