//! One connection, from accept to close.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::shared::{Delivery, Received, Session, Shared};
use super::{DisconnectReason, RefuseReason};
use crate::codec::{Decoder, StreamError};
use crate::session::Replay;
use crate::update::Update;

/// How long a read waits for a consumer that is busy, once until it takes something: coalescing costs more than its work.
/// zebra's bytes wait in the socket's buffers so long.
const PATIENCE: Duration = Duration::from_millis(50);

/// A connection that is the session, or may become it.
struct Connection {
    peer: SocketAddr,
    shared: Arc<Shared>,
    decoder: Decoder,
    /// Memory for the updates of the next read.
    room: Vec<Update>,
    replay: Replay,
    /// Set while it is the session.
    session: Option<Session>,
    pid: Option<u32>,
    /// Until when the next read waits for the consumer.
    wait_until: Option<Instant>,
    /// It waited in vain, and the consumer has taken nothing since.
    waited: bool,
    /// Feedback being written: never waited for, since reading must go on.
    outgoing: Bytes,
}

/// How a connection goes on after a read.
enum Next {
    Go,
    /// Another connection is the session now.
    Drain,
    /// It is over, and the consumer knows.
    Close,
}

/// Serves a connection to its end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let (mut reader, mut writer) = stream.into_split();
    let mut connection = Connection {
        peer,
        decoder: Decoder::new(),
        room: Vec::new(),
        replay: Replay::new(shared.options.quiet),
        session: shared.connect(peer),
        pid: None,
        wait_until: None,
        waited: false,
        outgoing: Bytes::new(),
        shared: Arc::clone(&shared),
    };
    loop {
        let session = connection.session.as_ref();
        let next = tokio::select! {
            () = superseded(&shared, session) => Next::Drain,
            () = shared.taken(), if connection.wait_until.is_some() => connection.after_wait(false),
            () = at(connection.wait_until), if connection.wait_until.is_some() => connection.after_wait(true),
            read = reader.read_buf(connection.decoder.frames().read_buffer()), if connection.wait_until.is_none() => {
                connection.after_read(read)
            }
            () = at(connection.replay.deadline()) => connection.after_quiet(),
            frames = feedback(&shared, session), if connection.outgoing.is_empty() => {
                connection.outgoing = frames.into();
                Next::Go
            }
            sent = writer.write_buf(&mut connection.outgoing), if !connection.outgoing.is_empty() => {
                connection.after_write(sent)
            }
        };
        match next {
            Next::Go => {}
            Next::Close => return,
            Next::Drain => return drain(reader, &shared).await,
        }
    }
}

async fn superseded(shared: &Shared, session: Option<&Session>) {
    match session {
        Some(session) => shared.superseded(session.epoch).await,
        None => pending().await,
    }
}

async fn feedback(shared: &Shared, session: Option<&Session>) -> Vec<u8> {
    match session {
        Some(session) => shared.feedback(session).await,
        None => pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// Reads and forgets, until the peer closes or the session that took over ends.
async fn drain(mut reader: OwnedReadHalf, shared: &Shared) {
    let mut forgotten = vec![0; 64 * 1024];
    let to_end = async { while matches!(reader.read(&mut forgotten).await, Ok(1..)) {} };
    tokio::select! {
        () = to_end => {}
        () = shared.idle() => {}
    }
}

impl Connection {
    fn after_read(&mut self, read: io::Result<usize>) -> Next {
        match read {
            Ok(0) => {
                let reason = self
                    .decoder
                    .finish()
                    .map_or_else(DisconnectReason::Malformed, |()| DisconnectReason::Eof);
                self.end(reason)
            }
            Ok(bytes) => self.receive(bytes),
            Err(error) => self.end(DisconnectReason::Reset(error.kind())),
        }
    }

    /// Decodes what was read and delivers it.
    fn receive(&mut self, bytes: usize) -> Next {
        let now = Instant::now();
        self.replay.bytes(now);
        let mut received = Received::new(std::mem::take(&mut self.room), bytes);
        let outcome = self.decode(&mut received);
        self.pid = received.pid.or(self.pid);
        received.pid = self.pid;
        if received.has_frames() {
            self.replay.frame(now);
            if self.session.is_none() {
                self.session = Some(self.shared.claim(self.peer));
            }
        }
        if let Some(Session { epoch, .. }) = self.session {
            match self.shared.deliver(epoch, &mut received) {
                Delivery::Queued => self.waited = false,
                Delivery::Crowded if !self.waited => self.wait_until = Some(now + PATIENCE),
                Delivery::Crowded => {}
                Delivery::Superseded => return Next::Drain,
                Delivery::Overflow => return Next::Close,
            }
        }
        self.room = received.into_room();
        match outcome {
            Ok(()) => Next::Go,
            Err(error) => self.end(DisconnectReason::Malformed(error)),
        }
    }

    fn decode(&mut self, received: &mut Received) -> Result<(), StreamError> {
        while let Some(frame) = self.decoder.next_frame(&mut received.updates)? {
            received.add(&frame);
        }
        Ok(())
    }

    fn after_wait(&mut self, in_vain: bool) -> Next {
        self.wait_until = None;
        self.waited = in_vain;
        Next::Go
    }

    fn after_quiet(&mut self) -> Next {
        if self.replay.tick(Instant::now())
            && let Some(session) = &self.session
        {
            self.shared.replay_complete(session.epoch, self.pid);
            self.room = Vec::new();
        }
        Next::Go
    }

    fn after_write(&self, sent: io::Result<usize>) -> Next {
        match sent {
            Ok(_) => Next::Go,
            Err(error) => self.end(DisconnectReason::Reset(error.kind())),
        }
    }

    fn end(&self, reason: DisconnectReason) -> Next {
        match (&self.session, reason) {
            (Some(session), reason) => self.shared.end(session.epoch, reason),
            (None, DisconnectReason::Malformed(error)) => {
                self.shared.refuse(self.peer, RefuseReason::Malformed(error));
            }
            (None, reason) => {
                tracing::debug!(peer = %self.peer, %reason, "FPM connection without a frame ended");
            }
        }
        Next::Close
    }
}
