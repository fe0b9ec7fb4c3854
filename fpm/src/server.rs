//! The FPM server: accepts zebra's connection, decodes it, and hands events to one consumer.
//!
//! - The newest connection that has sent a valid frame is the session. An older one is read to its end, so that its
//!   zebra does not stall, but nothing of it counts; it is closed when the session ends, so that its zebra
//!   connects again and replays.
//! - The socket is always read. What the consumer has not taken yet waits in a queue, in which of two
//!   updates with one key only the later one stays: its memory is bounded by the number of distinct routes and nexthops,
//!   and by [`ServerOptions::max_pending_bytes`].
//! - Malformed bytes close the session, nothing more.

mod connection;
mod events;
mod shared;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub use events::{DisconnectReason, Epoch, Event, RefuseReason};
pub use shared::{EventReceiver, FeedbackError, FeedbackSender, Stats};

use crate::session::DEFAULT_QUIET;
use shared::Shared;

/// Connections at a time, with those that are not the session.
const MAX_CONNECTIONS: usize = 16;
/// Pause after a failed `accept`, which fails again at once when descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the server behaves.
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Quiet time after which zebra's replay counts as complete.
    pub quiet: Duration,
    /// Bound of the memory of updates that wait for the consumer. A session that exceeds it is closed: a million
    /// distinct routes by nexthop id take about 300 MB when the consumer takes none of them.
    pub max_pending_bytes: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { quiet: DEFAULT_QUIET, max_pending_bytes: 1 << 30 }
    }
}

/// A running server; dropping it closes its connections, without a last event.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    /// Ends the thread when dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `addr` and serves in a thread of its own: the socket is read however busy the consumer's is.
    ///
    /// # Errors
    /// If the address is in use or not the machine's, or if there is no thread to be had.
    pub fn bind(addr: SocketAddr, options: ServerOptions) -> io::Result<(Self, EventReceiver)> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let local_addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(options));
        let (stop, stopped) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("fpm".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(serve(listener, of_thread, started, stopped));
        })?;
        // Without a sender the thread has panicked, which it does not.
        start.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        let receiver = EventReceiver::new(Arc::clone(&shared));
        Ok((Self { local_addr, shared, stop: Some(stop), thread: Some(thread) }, receiver))
    }

    /// The address that it listens on: with its port, where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A way to send feedback to zebra.
    #[must_use]
    pub fn feedback(&self) -> FeedbackSender {
        FeedbackSender::new(Arc::clone(&self.shared))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The address is free again when the thread has ended.
            let _ = thread.join();
        }
        self.shared.close();
    }
}

/// The thread's work: tells whether it could start, and ends when `stopped` does.
async fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    started: std::sync::mpsc::Sender<io::Result<()>>,
    stopped: oneshot::Receiver<()>,
) {
    let listening = listener.local_addr().and_then(|addr| Ok((TcpListener::from_std(listener)?, addr.ip())));
    let (listener, listen) = match listening {
        Ok(listening) => listening,
        Err(error) => return drop(started.send(Err(error))),
    };
    drop(started.send(Ok(())));
    tokio::select! {
        _ = stopped => {}
        () = accept_loop(listener, listen, shared) => {}
    }
}

async fn accept_loop(listener: TcpListener, listen: IpAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an FPM connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if !admits(listen, peer.ip()) {
            shared.refuse(peer, RefuseReason::NotLoopback);
        } else if connections.len() >= MAX_CONNECTIONS || shared.is_crowded() {
            shared.refuse(peer, RefuseReason::Busy);
        } else {
            if let Err(error) = keep_alive(&stream) {
                tracing::debug!(%peer, %error, "no TCP keepalive on the FPM connection");
            }
            connections.spawn(connection::serve(stream, peer, Arc::clone(&shared)));
        }
    }
}

/// FPM has no authentication: only local peers, unless whoever chose the listen address asked for others.
fn admits(listen: IpAddr, peer: IpAddr) -> bool {
    !listen.to_canonical().is_loopback() || peer.to_canonical().is_loopback()
}

/// zebra sends nothing while nothing changes: only probes tell that its machine is gone.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}

#[cfg(test)]
mod tests;
