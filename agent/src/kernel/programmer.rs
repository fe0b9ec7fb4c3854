//! Writes routes and nexthop objects: a thread of its own, a blocking socket, many messages for each system call.
//!
//! Only the last message of a send asks for an acknowledgement: the kernel reports every error anyway, and one
//! acknowledgement for each message costs a third of the rate. Who submits a batch encodes it, for the kernel's work alone
//! fills the thread's time.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::Instant;

use tokio::sync::mpsc as done;

use super::error::Cause;
use super::gate::{Closed, Gate};
use super::socket::Socket;
use super::wire::{
    Encoder, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_ERROR, RTM_DELROUTE,
    RTM_NEWROUTE, Unencodable,
};
use super::{KernelError, nexthop, route};
pub use crate::model::ops::{Batch, BatchDone, OpError, RouteOp};

/// A send is full when it is longer than this, bytes. Beyond 16 KiB more brings nothing (2 % up to 1 MiB).
const SEND: usize = 32 << 10;
/// Batches that may wait in either direction.
const QUEUE: usize = 16;
/// Bytes of most messages, rounded up.
const TYPICAL: usize = 64;

fn encode(op: &RouteOp, enc: &mut Encoder, seq: u32) -> Result<(), Unencodable> {
    const ADD: u16 = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    const REPLACE: u16 = NLM_F_REQUEST | NLM_F_REPLACE;
    match op {
        RouteOp::AddRoute(route) => route::encode(enc, (RTM_NEWROUTE, ADD, seq), route),
        RouteOp::ReplaceRoute(route) => {
            route::encode(enc, (RTM_NEWROUTE, REPLACE | NLM_F_CREATE, seq), route)
        }
        RouteOp::DelRoute(route) => route::encode(enc, (RTM_DELROUTE, NLM_F_REQUEST, seq), route),
        RouteOp::AddNexthop(object) => nexthop::encode(enc, ADD, seq, object),
        RouteOp::ReplaceNexthop(object) => nexthop::encode(enc, REPLACE, seq, object),
        RouteOp::DelNexthop(id) => nexthop::encode_delete(enc, seq, *id),
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Cause { errno: self.errno, text: self.text.as_deref() }.fmt(f)
    }
}

impl std::error::Error for OpError {}

/// A batch as the thread takes it.
#[derive(Debug)]
struct Encoded {
    batch: Batch,
    bytes: Vec<u8>,
    sends: Vec<Datagram>,
    /// Operations that have no wire form.
    errors: Vec<OpError>,
    /// Dumps stand back until the batch is done.
    closed: Option<Closed>,
}

/// One datagram.
#[derive(Debug)]
struct Datagram {
    /// Where it is in the bytes.
    bytes: Range<usize>,
    /// Which operations it holds: sequence numbers count up from `base` with their indices.
    ops: Range<usize>,
    base: u32,
    /// Sequence number of the message that is acknowledged; `None`: there is no message.
    last: Option<u32>,
}

impl Encoded {
    /// Encodes operations, numbered from `base` on.
    fn new(batch: Batch, base: u32, gate: &Arc<Gate>) -> Self {
        let touches = |op: &RouteOp| matches!(op, RouteOp::ReplaceNexthop(_) | RouteOp::DelNexthop(_));
        let closed = batch.ops.iter().any(touches).then(|| gate.close());
        let mut encoder = Encoder::with_capacity(batch.ops.len() * TYPICAL);
        let (mut sends, mut errors) = (Vec::new(), Vec::new());
        let mut send = Datagram { bytes: 0..0, ops: 0..0, base, last: None };
        for op in &batch.ops {
            let (index, seq) = (send.ops.end, base.wrapping_add(u32::try_from(send.ops.end).unwrap_or(0)));
            match encode(op, &mut encoder, seq) {
                Ok(()) => send.last = Some(seq),
                Err(why) => errors.push(OpError { index, errno: libc::EINVAL, text: Some(why.to_owned()) }),
            }
            send.ops.end += 1;
            send.bytes.end = encoder.bytes().len();
            if send.bytes.len() >= SEND {
                let (bytes, ops) = (send.bytes.end..send.bytes.end, send.ops.end..send.ops.end);
                let next = Datagram { bytes, ops, base: seq.wrapping_add(1), last: None };
                encoder.acknowledge_last();
                sends.push(std::mem::replace(&mut send, next));
            }
        }
        if send.last.is_some() {
            encoder.acknowledge_last();
            sends.push(send);
        }
        Self { batch, bytes: encoder.into_bytes(), sends, errors, closed }
    }
}

/// The thread that writes. It ends when this is dropped, after the batches that were submitted.
#[derive(Debug)]
pub struct Programmer {
    batches: SyncSender<Encoded>,
    port: u32,
    /// Sequence number of the next message.
    seq: AtomicU32,
    gate: Arc<Gate>,
}

impl Programmer {
    /// Opens the socket in the calling thread's network namespace and starts the thread.
    ///
    /// # Errors
    /// [`KernelError::Socket`] when there is no socket or no thread to be had.
    pub fn spawn() -> Result<(Self, done::Receiver<BatchDone>), KernelError> {
        let socket = Socket::open()?;
        let port = socket.port();
        let (batches, todo) = mpsc::sync_channel::<Encoded>(QUEUE);
        let (finished, results) = done::channel(QUEUE);
        let mut writer = Writer::new(socket);
        std::thread::Builder::new()
            .name("route-writer".to_owned())
            .spawn(move || {
                for batch in todo {
                    if finished.blocking_send(writer.apply(batch)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| KernelError::Socket { doing: "start the writer's thread", source })?;
        Ok((Self { batches, port, seq: AtomicU32::new(1), gate: Arc::default() }, results))
    }

    /// Encodes and queues a batch; gives it back when the queue is full or the thread has ended.
    ///
    /// # Errors
    /// The batch itself.
    pub fn try_submit(&self, batch: Batch) -> Result<(), Batch> {
        let count = u32::try_from(batch.ops.len()).unwrap_or(u32::MAX);
        let base = self.seq.fetch_add(count, Ordering::Relaxed);
        self.batches.try_send(Encoded::new(batch, base, &self.gate)).map_err(|error| match error {
            TrySendError::Full(encoded) | TrySendError::Disconnected(encoded) => encoded.batch,
        })
    }

    /// Closed while a batch is under way that changes or deletes nexthop objects.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// The socket's port id: notifications that carry it were caused by this programmer.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }
}

/// The thread's state.
struct Writer {
    socket: Socket,
    received: Vec<u8>,
}

impl Writer {
    fn new(socket: Socket) -> Self {
        Self { socket, received: Vec::new() }
    }

    fn apply(&mut self, Encoded { batch, bytes, sends, mut errors, closed }: Encoded) -> BatchDone {
        let started = Instant::now();
        let unencodable = errors.len();
        for send in &sends {
            let known = errors.len();
            let datagram = bytes.get(send.bytes.clone()).unwrap_or_default();
            let sent = self.socket.send(datagram).and_then(|()| self.collect(send, &mut errors));
            if let Err(cause) = sent {
                errors.truncate(known);
                let unencodable = errors.iter().take(unencodable).map(|error| error.index).collect();
                self.give_up(send, &unencodable, &cause, &mut errors);
            }
        }
        drop(closed);
        // A batch reports what could not be encoded before what the kernel refused.
        errors.sort_by_key(|error| error.index);
        BatchDone { id: batch.id, ops: batch.ops, errors, elapsed: started.elapsed() }
    }

    /// Reads answers until the last message's.
    fn collect(&mut self, sent: &Datagram, errors: &mut Vec<OpError>) -> std::io::Result<()> {
        loop {
            for message in self.socket.receive(&mut self.received, 0)? {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                errors.extend(sent.error(&message));
                if Some(message.seq) == sent.last {
                    return Ok(());
                }
            }
        }
    }

    /// The answers to a datagram are lost: nobody knows what became of it. Whatever else was answered is thrown away, so
    /// that the next send starts clean.
    fn give_up(
        &mut self,
        lost: &Datagram,
        unencodable: &BTreeSet<usize>,
        cause: &std::io::Error,
        errors: &mut Vec<OpError>,
    ) {
        while self.socket.receive(&mut self.received, libc::MSG_DONTWAIT).is_ok() {}
        let errno = cause.raw_os_error().unwrap_or(libc::EIO);
        let lost = lost.ops.clone().filter(|index| !unencodable.contains(index));
        errors.extend(lost.map(|index| OpError { index, errno, text: None }));
    }
}

impl Datagram {
    /// The operation's error that `message` reports; `None` when it acknowledges.
    fn error(&self, message: &Message<'_>) -> Option<OpError> {
        let (errno, text) = message.verdict();
        let index = self.ops.start + message.seq.wrapping_sub(self.base) as usize;
        (errno != 0).then(|| OpError { index, errno, text: text.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests;
