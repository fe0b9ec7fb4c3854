//! What the connections' tasks, the consumer and the server's handle share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::{DisconnectReason, Epoch, Event, RefuseReason, ServerOptions};
use crate::codec::FrameInfo;
use crate::frame::PayloadTooLong;
use crate::netlink::{Offload, write_feedback};
use crate::queue::{COALESCE_FROM, Queue};
use crate::update::{Route, Update};

/// Events that may wait, beside updates. New connections are turned away then.
const MAX_EVENTS: usize = 256;
/// Bytes of most frames: a route by nexthop id.
const TYPICAL_FRAME: usize = 56;
/// Feedback that may wait for zebra to read it: that of a million IPv4 routes.
const MAX_FEEDBACK_BYTES: usize = 64 << 20;

/// Counters of a server since it started, and the state of its queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions begun.
    pub sessions: u64,
    /// Connections turned away.
    pub refused: u64,
    /// Bytes received in sessions.
    pub bytes: u64,
    /// Valid frames.
    pub frames: u64,
    /// Messages in them.
    pub messages: u64,
    /// Of these, kept raw.
    pub raw_messages: u64,
    /// Attributes of unknown types, skipped.
    pub unknown_attributes: u64,
    /// Updates that never reached the consumer, since a later one with the same key overtook them in the queue.
    pub coalesced: u64,
    /// Updates waiting for the consumer.
    pub pending_updates: usize,
    /// Memory that they hold, bytes.
    pub pending_bytes: usize,
    /// The most that they ever held, bytes.
    pub peak_pending_bytes: usize,
    /// Feedback frames handed to the session's connection.
    pub feedback_frames: u64,
}

/// The connection that is the session.
#[derive(Debug)]
struct Active {
    epoch: Epoch,
    peer: SocketAddr,
    /// Feedback that its task has not taken yet.
    outbox: Vec<u8>,
    /// Tells the task.
    feedback: Arc<Notify>,
}

/// What a connection's task holds while it is the session.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) epoch: Epoch,
    feedback: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Room for the updates of a read, that of an event before: memory that is fresh each time costs more than decoding into it.
    spare: Vec<Update>,
    active: Option<Active>,
    last_epoch: u64,
    stats: Stats,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: ServerOptions,
    state: Mutex<State>,
    /// Something is in the queue.
    arrived: Notify,
    /// Something was taken from it.
    taken: Notify,
    /// The session that there is.
    session: watch::Sender<Option<Epoch>>,
}

/// Progress of one read: what its frames amount to.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) updates: Vec<Update>,
    pub(super) pid: Option<u32>,
    bytes: u64,
    frames: u64,
    raw_messages: u64,
    unknown_attributes: u64,
}

impl Received {
    pub(super) fn add(&mut self, frame: &FrameInfo) {
        self.pid = frame.pid.or(self.pid);
        self.frames += 1;
        self.raw_messages += u64::from(frame.raw_messages);
        self.unknown_attributes += u64::from(frame.unknown_attributes);
    }

    /// Bytes came, and with them most likely so many updates as `updates`, empty, is made to have room for.
    pub(super) fn new(mut updates: Vec<Update>, bytes: usize) -> Self {
        updates.reserve(bytes / TYPICAL_FRAME);
        let bytes = bytes as u64;
        Self { updates, pid: None, bytes, frames: 0, raw_messages: 0, unknown_attributes: 0 }
    }

    /// Room for what the next read brings.
    pub(super) fn into_room(mut self) -> Vec<Update> {
        self.updates.clear();
        self.updates
    }

    pub(super) fn has_frames(&self) -> bool {
        self.frames > 0
    }

    fn count(&mut self, stats: &mut Stats) {
        stats.bytes += std::mem::take(&mut self.bytes);
        stats.frames += std::mem::take(&mut self.frames);
        stats.messages += self.updates.len() as u64;
        stats.raw_messages += std::mem::take(&mut self.raw_messages);
        stats.unknown_attributes += std::mem::take(&mut self.unknown_attributes);
    }
}

/// What became of a session's updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Queued,
    /// Queued; more would have to be coalesced.
    Crowded,
    /// The session is another connection's now.
    Superseded,
    /// The queue is full: the session has ended.
    Overflow,
}

impl Shared {
    pub(super) fn new(options: ServerOptions) -> Self {
        Self {
            options,
            state: Mutex::new(State::new()),
            arrived: Notify::new(),
            taken: Notify::new(),
            session: watch::Sender::new(None),
        }
    }

    /// A panic elsewhere leaves nothing half-changed here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a new connection the session if there is none.
    pub(super) fn connect(&self, peer: SocketAddr) -> Option<Session> {
        let mut state = self.lock();
        state.active.is_none().then(|| self.begin(&mut state, peer))
    }

    /// Makes a connection that has sent a valid frame the session.
    pub(super) fn claim(&self, peer: SocketAddr) -> Session {
        let mut state = self.lock();
        if let Some(old) = state.active.take() {
            let reason = DisconnectReason::Superseded(peer);
            state.queue.push(Event::Disconnected { epoch: old.epoch, reason });
            let epoch = Epoch(state.last_epoch + 1);
            state.queue.push(Event::Superseded { epoch, old_peer: old.peer, new_peer: peer });
        }
        self.begin(&mut state, peer)
    }

    fn begin(&self, state: &mut State, peer: SocketAddr) -> Session {
        state.last_epoch += 1;
        let epoch = Epoch(state.last_epoch);
        let feedback = Arc::new(Notify::new());
        state.active = Some(Active { epoch, peer, outbox: Vec::new(), feedback: Arc::clone(&feedback) });
        state.stats.sessions += 1;
        state.queue.push(Event::Connected { epoch, peer });
        self.session.send_replace(Some(epoch));
        self.arrived.notify_one();
        Session { epoch, feedback }
    }

    /// Queues what a session received.
    pub(super) fn deliver(&self, epoch: Epoch, received: &mut Received) -> Delivery {
        let mut state = self.lock();
        if state.epoch() != Some(epoch) {
            return Delivery::Superseded;
        }
        received.count(&mut state.stats);
        state.queue.push_updates(epoch, received.pid, &mut received.updates);
        if received.updates.capacity() == 0 {
            received.updates = std::mem::take(&mut state.spare);
        }
        let pending_bytes = state.queue.pending_bytes();
        state.stats.peak_pending_bytes = state.stats.peak_pending_bytes.max(pending_bytes);
        self.arrived.notify_one();
        if pending_bytes <= self.options.max_pending_bytes {
            let crowded = state.queue.pending_updates() >= COALESCE_FROM / 2;
            return if crowded { Delivery::Crowded } else { Delivery::Queued };
        }
        self.end_locked(&mut state, DisconnectReason::Overflow { pending_bytes });
        Delivery::Overflow
    }

    pub(super) fn replay_complete(&self, epoch: Epoch, pid: Option<u32>) {
        let mut state = self.lock();
        if state.epoch() == Some(epoch) {
            state.queue.push(Event::ReplayComplete { epoch, pid });
            state.spare = Vec::new();
            self.arrived.notify_one();
        }
    }

    /// Ends a session, unless another one has ended it.
    pub(super) fn end(&self, epoch: Epoch, reason: DisconnectReason) {
        let mut state = self.lock();
        if state.epoch() == Some(epoch) {
            self.end_locked(&mut state, reason);
        }
    }

    fn end_locked(&self, state: &mut State, reason: DisconnectReason) {
        if let Some(active) = state.active.take() {
            state.queue.push(Event::Disconnected { epoch: active.epoch, reason });
            self.session.send_replace(None);
            self.arrived.notify_one();
        }
    }

    pub(super) fn refuse(&self, peer: SocketAddr, reason: RefuseReason) {
        tracing::warn!(%peer, %reason, "FPM connection refused");
        let mut state = self.lock();
        state.stats.refused += 1;
        if state.queue.len() < MAX_EVENTS {
            state.queue.push(Event::Refused { peer, reason });
            self.arrived.notify_one();
        }
    }

    /// Waits until the consumer takes something.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Whether so many events wait that no new session should add to them.
    pub(super) fn is_crowded(&self) -> bool {
        self.lock().queue.len() >= MAX_EVENTS
    }

    /// Waits until there is no session.
    pub(super) async fn idle(&self) {
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = self.session.subscribe().wait_for(Option::is_none).await;
    }

    /// Waits until `epoch` is not the session any more.
    pub(super) async fn superseded(&self, epoch: Epoch) {
        let _ = self.session.subscribe().wait_for(|session| *session != Some(epoch)).await;
    }

    /// Waits for feedback to send to the session's zebra.
    pub(super) async fn feedback(&self, session: &Session) -> Vec<u8> {
        session.feedback.notified().await;
        match &mut self.lock().active {
            Some(active) if active.epoch == session.epoch => std::mem::take(&mut active.outbox),
            _ => Vec::new(),
        }
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }
}

impl State {
    fn new() -> Self {
        let queue = Queue::new(COALESCE_FROM);
        Self { queue, spare: Vec::new(), active: None, last_epoch: 0, stats: Stats::default(), closed: false }
    }

    fn epoch(&self) -> Option<Epoch> {
        self.active.as_ref().map(|active| active.epoch)
    }
}

/// The consumer's end.
#[derive(Debug)]
pub struct EventReceiver {
    shared: Arc<Shared>,
}

impl EventReceiver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits for the next event; `None` when the server was dropped and all is taken. Loses nothing if cancelled.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            let arrived = self.shared.arrived.notified();
            {
                let mut state = self.shared.lock();
                if let Some(event) = state.queue.pop() {
                    self.shared.taken.notify_one();
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<Event> {
        let event = self.shared.lock().queue.pop();
        if event.is_some() {
            self.shared.taken.notify_one();
        }
        event
    }

    /// Takes the updates of an event that was dealt with: what comes next is decoded into their memory.
    pub fn recycle(&self, mut updates: Vec<Update>) {
        updates.clear();
        if updates.capacity() <= COALESCE_FROM {
            self.shared.lock().spare = updates;
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats {
            coalesced: state.queue.coalesced,
            pending_updates: state.queue.pending_updates(),
            pending_bytes: state.queue.pending_bytes(),
            ..state.stats
        }
    }
}

/// Why feedback was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// The session that the route came by has ended: the next replay asks again.
    #[error("the FPM session has ended")]
    NoSession,
    /// zebra does not read.
    #[error("{0} bytes of feedback wait for zebra, which does not read them")]
    Full(usize),
    /// See [`write_feedback`].
    #[error(transparent)]
    Frame(#[from] PayloadTooLong),
}

/// Sends feedback to the session's zebra.
#[derive(Debug, Clone)]
pub struct FeedbackSender {
    shared: Arc<Shared>,
}

impl FeedbackSender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Tells zebra the outcome for a route that came in session `epoch`. Never blocks.
    ///
    /// # Errors
    /// If the session is over, or zebra does not read.
    pub fn send(&self, epoch: Epoch, route: &Route, outcome: Offload) -> Result<(), FeedbackError> {
        let mut state = self.shared.lock();
        let active = match &mut state.active {
            Some(active) if active.epoch == epoch => active,
            _ => return Err(FeedbackError::NoSession),
        };
        if active.outbox.len() >= MAX_FEEDBACK_BYTES {
            return Err(FeedbackError::Full(active.outbox.len()));
        }
        write_feedback(route, outcome, &mut active.outbox)?;
        active.feedback.notify_one();
        state.stats.feedback_frames += 1;
        Ok(())
    }
}
