//! Writes routes and nexthop objects: a thread of its own, a blocking socket, many messages for each system call.
//!
//! Only the last message of a send asks for an acknowledgement: the kernel reports every error anyway, and one
//! acknowledgement for each message costs a third of the rate.

use std::fmt;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::Instant;

use tokio::sync::mpsc as done;

use super::error::Cause;
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

fn encode(op: &RouteOp, enc: &mut Encoder, seq: u32) -> Result<(), Unencodable> {
    const ADD: u16 = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
    const REPLACE: u16 = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    match op {
        RouteOp::AddRoute(route) => route::encode(enc, (RTM_NEWROUTE, ADD, seq), route),
        RouteOp::ReplaceRoute(route) => route::encode(enc, (RTM_NEWROUTE, REPLACE, seq), route),
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

/// The thread that writes. It ends when this is dropped, after the batches that were submitted.
#[derive(Debug)]
pub struct Programmer {
    batches: SyncSender<Batch>,
    port: u32,
}

impl Programmer {
    /// Opens the socket in the calling thread's network namespace and starts the thread.
    ///
    /// # Errors
    /// [`KernelError::Socket`] when there is no socket or no thread to be had.
    pub fn spawn() -> Result<(Self, done::Receiver<BatchDone>), KernelError> {
        let socket = Socket::open()?;
        let port = socket.port();
        let (batches, todo) = mpsc::sync_channel::<Batch>(QUEUE);
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
        Ok((Self { batches, port }, results))
    }

    /// Queues a batch; gives it back when the queue is full or the thread has ended.
    ///
    /// # Errors
    /// The batch itself.
    pub fn try_submit(&self, batch: Batch) -> Result<(), Batch> {
        self.batches.try_send(batch).map_err(|error| match error {
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
        })
    }

    /// The socket's port id: notifications that carry it were caused by this programmer.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }
}

/// Writes a few routes and waits for the kernel's verdict: gives the operations back, and those that it refused.
///
/// # Errors
/// [`KernelError::Socket`] when there is no socket or no thread to be had.
pub async fn write_routes(ops: Vec<RouteOp>) -> Result<(Vec<RouteOp>, Vec<OpError>), KernelError> {
    if ops.is_empty() {
        return Ok((ops, Vec::new()));
    }
    let (programmer, mut done) = Programmer::spawn()?;
    let submitted = programmer.try_submit(Batch { id: 0, ops });
    match (submitted, done.recv().await) {
        (Ok(()), Some(batch)) => Ok((batch.ops, batch.errors)),
        _ => Err(KernelError::Socket {
            doing: "write routes",
            source: std::io::Error::other("the writer's thread has ended"),
        }),
    }
}

/// The thread's state.
struct Writer {
    socket: Socket,
    encoder: Encoder,
    received: Vec<u8>,
    /// Sequence number of the next message.
    seq: u32,
}

impl Writer {
    fn new(socket: Socket) -> Self {
        Self { socket, encoder: Encoder::with_capacity(2 * SEND), received: Vec::new(), seq: 1 }
    }

    fn apply(&mut self, batch: Batch) -> BatchDone {
        let started = Instant::now();
        let mut errors = Vec::new();
        let mut next = 0;
        while next < batch.ops.len() {
            next = self.send_from(&batch.ops, next, &mut errors);
        }
        // A send reports what could not be encoded before what the kernel refused.
        errors.sort_by_key(|error| error.index);
        BatchDone { id: batch.id, ops: batch.ops, errors, elapsed: started.elapsed() }
    }

    /// Sends as many operations from `first` on as fit into one datagram; returns the index after the last one.
    fn send_from(&mut self, ops: &[RouteOp], first: usize, errors: &mut Vec<OpError>) -> usize {
        let sent = Sent { first, base: self.seq };
        let mut last = None;
        let mut next = first;
        self.encoder.clear();
        for op in ops.get(first..).unwrap_or_default() {
            match encode(op, &mut self.encoder, self.seq) {
                Ok(()) => last = Some(self.seq),
                Err(why) => {
                    let text = Some(why.to_owned());
                    errors.push(OpError { index: next, errno: libc::EINVAL, text });
                }
            }
            self.seq = self.seq.wrapping_add(1);
            next += 1;
            if self.encoder.bytes().len() >= SEND {
                break;
            }
        }
        let Some(last) = last else { return next };
        self.encoder.acknowledge_last();
        let known = errors.len();
        let outcome = self.socket.send(self.encoder.bytes()).and_then(|()| self.collect(&sent, last, errors));
        if let Err(cause) = outcome {
            self.give_up(first..next, &cause, known, errors);
        }
        next
    }

    /// Reads answers until the last message's.
    fn collect(&mut self, sent: &Sent, last: u32, errors: &mut Vec<OpError>) -> std::io::Result<()> {
        loop {
            for message in self.socket.receive(&mut self.received, 0)? {
                if message.kind != NLMSG_ERROR {
                    continue;
                }
                errors.extend(sent.error(&message));
                if message.seq == last {
                    return Ok(());
                }
            }
        }
    }

    /// The answers are lost: nobody knows what became of `lost`. Whatever else was answered is thrown away, so that
    /// the next send starts clean.
    fn give_up(
        &mut self,
        lost: std::ops::Range<usize>,
        cause: &std::io::Error,
        known: usize,
        errors: &mut Vec<OpError>,
    ) {
        while self.socket.receive(&mut self.received, libc::MSG_DONTWAIT).is_ok() {}
        errors.truncate(known);
        let errno = cause.raw_os_error().unwrap_or(libc::EIO);
        let refused: Vec<usize> = errors.iter().map(|error| error.index).collect();
        let lost = lost.filter(|index| !refused.contains(index));
        errors.extend(lost.map(|index| OpError { index, errno, text: None }));
    }
}

/// Which operations a datagram holds: sequence numbers count up from `base` with the indices from `first`.
struct Sent {
    first: usize,
    base: u32,
}

impl Sent {
    /// The operation's error that `message` reports; `None` when it acknowledges.
    fn error(&self, message: &Message<'_>) -> Option<OpError> {
        let (errno, text) = message.verdict();
        let index = self.first + message.seq.wrapping_sub(self.base) as usize;
        (errno != 0).then(|| OpError { index, errno, text: text.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests;
