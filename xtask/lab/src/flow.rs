//! A steady flow that counts what it loses.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::traffic::Background;

/// A UDP flow of numbered packets to a [`crate::UdpEcho`], one each interval, until it is stopped.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
    thread: Background,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    /// Packets not answered yet, with their time of sending.
    open: Mutex<BTreeMap<u64, Instant>>,
    received: AtomicU64,
    refused: AtomicU64,
}

/// What became of a flow's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowReport {
    /// Packets sent, those included that the kernel refused to send.
    pub sent: u64,
    /// Echoes received.
    pub received: u64,
    /// Packets without an echo within one second.
    pub lost: u64,
    /// Packets that `send` refused (no route to host, for example); they count as lost too.
    pub refused: u64,
}

impl Flow {
    /// Starts sending from `source` in `namespace` to `target`.
    ///
    /// # Errors
    /// When `source` cannot be bound.
    pub fn start(
        namespace: &Namespace,
        source: SocketAddr,
        target: SocketAddr,
        interval: Duration,
    ) -> Result<Self> {
        let socket = namespace
            .enter(|| UdpSocket::bind(source))?
            .with_context(|| format!("cannot bind {source} in {}", namespace.name()))?;
        socket.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let thread = Background::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                state.send(&socket, target);
                std::thread::sleep(interval);
                state.receive(&socket);
            }
            let last = Instant::now();
            while last.elapsed() < GRACE && !state.open().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
                state.receive(&socket);
            }
        });
        Ok(Self { shared, thread })
    }

    /// What was sent and received so far; packets younger than a second do not count as lost.
    #[must_use]
    pub fn report(&self) -> FlowReport {
        self.shared.report(GRACE)
    }

    /// Stops sending, waits up to a second for the last echoes, and reports.
    #[must_use]
    pub fn stop(self) -> FlowReport {
        drop(self.thread);
        self.shared.report(Duration::ZERO)
    }
}

/// After this an echo counts as lost.
const GRACE: Duration = Duration::from_secs(1);

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, socket: &UdpSocket, target: SocketAddr) {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        self.open().insert(number, Instant::now());
        if socket.send_to(&number.to_be_bytes(), target).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        let mut buffer = [0; 8];
        // Ends at WouldBlock; other errors (port unreachable) are the loss that the counters show.
        while let Ok((8, _)) = socket.recv_from(&mut buffer) {
            if self.open().remove(&u64::from_be_bytes(buffer)).is_some() {
                self.received.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn report(&self, grace: Duration) -> FlowReport {
        let lost = self.open().values().filter(|sent| sent.elapsed() >= grace).count();
        FlowReport {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            lost: u64::try_from(lost).unwrap_or(u64::MAX),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}
