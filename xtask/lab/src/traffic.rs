//! Real traffic: echo servers and single exchanges.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use crate::namespace::Namespace;
use crate::patient;

/// How long a server thread waits before it looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// A TCP server that sends back what it gets. Ends when dropped.
#[derive(Debug)]
pub struct TcpEcho {
    server: Background,
}

impl TcpEcho {
    /// Listens on `address` in `namespace`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .enter(|| TcpListener::bind(address))?
            .with_context(|| format!("cannot listen on {address} in {}", namespace.name()))?;
        listener.set_nonblocking(true)?;
        let server = Background::start(move |stop| {
            let mut peers = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let stop = Arc::clone(stop);
                        peers.push(std::thread::spawn(move || echo_stream(&stream, &stop)));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            for peer in peers {
                // A panic there has been printed.
                peer.join().ok();
            }
        });
        Ok(Self { server })
    }

    /// Stops it now.
    pub fn stop(self) {
        drop(self.server);
    }
}

fn echo_stream(mut stream: &TcpStream, stop: &AtomicBool) {
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    let mut buffer = [0; 16384];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                if buffer.get(..n).is_none_or(|got| stream.write_all(got).is_err()) {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// A UDP server that sends back what it gets, from the address that it was sent to. Ends when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    server: Background,
}

impl UdpEcho {
    /// Listens on `address` in `namespace`. Bind a service address, not the wildcard, where the host has several:
    /// the reply's source is the bound one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = namespace
            .enter(|| UdpSocket::bind(address))?
            .with_context(|| format!("cannot bind {address} in {}", namespace.name()))?;
        socket.set_read_timeout(Some(TICK))?;
        let server = Background::start(move |stop| {
            let mut buffer = [0; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((n, from)) = socket.recv_from(&mut buffer) {
                    // A reply that the kernel refuses is a lost one, which is what callers count.
                    buffer.get(..n).map(|got| socket.send_to(got, from));
                }
            }
        });
        Ok(Self { server })
    }

    /// Stops it now.
    pub fn stop(self) {
        drop(self.server);
    }
}

/// Connects by TCP from `namespace` (and address `source`), sends 1 KiB and waits for its echo. Returns the time taken.
///
/// # Errors
/// When there is no connection or no echo within `timeout`.
pub fn tcp_exchange(
    namespace: &Namespace,
    source: Option<SocketAddr>,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Duration> {
    let (start, timeout) = (Instant::now(), patient(timeout));
    let mut stream = namespace
        .enter(|| connect(source, target, timeout))?
        .with_context(|| format!("no TCP connection from {} to {target}", namespace.name()))?;
    stream.set_read_timeout(Some(timeout))?;
    let sent = [0x42; 1024];
    stream.write_all(&sent)?;
    let mut got = [0; 1024];
    stream.read_exact(&mut got).with_context(|| format!("connected to {target}, but no echo"))?;
    ensure!(got == sent, "the echo of {target} differs");
    Ok(start.elapsed())
}

/// A TCP connection from a given source address and port.
pub(crate) fn connect(
    source: Option<SocketAddr>,
    target: SocketAddr,
    timeout: Duration,
) -> std::io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect_timeout(&target, timeout);
    };
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(source))?;
    // A send timeout bounds connect(2) too.
    let seconds = i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX);
    socket::setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(seconds, 0))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(target))?;
    Ok(TcpStream::from(fd))
}

/// Sends one UDP datagram and waits for its echo, once more each 200 ms until `timeout`.
///
/// # Errors
/// When no echo comes.
pub fn udp_exchange(
    namespace: &Namespace,
    source: Option<SocketAddr>,
    target: SocketAddr,
    timeout: Duration,
) -> Result<Duration> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let source = source.map_or_else(|| any.parse(), Ok)?;
    let socket =
        namespace.enter(|| UdpSocket::bind(source))?.with_context(|| format!("cannot bind {source}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (start, timeout) = (Instant::now(), patient(timeout));
    let mut buffer = [0; 64];
    while start.elapsed() < timeout {
        // No route, port unreachable: such errors are tried again as a loss is.
        if socket.send_to(b"backtrail", target).is_ok()
            && socket.recv_from(&mut buffer).is_ok_and(|(n, from)| n == 9 && from == target)
        {
            return Ok(start.elapsed());
        }
    }
    anyhow::bail!("no UDP echo from {target} to {} within {} s", namespace.name(), timeout.as_secs())
}

/// Whether `target` answers an echo request within three seconds, or as many more as [`patient`] gives.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn ping(namespace: &Namespace, source: Option<IpAddr>, target: IpAddr) -> Result<bool> {
    let source = source.map(|source| format!("-I {source}")).unwrap_or_default();
    // -c with -w: ends with the first answer, or after that many seconds.
    let limit = patient(Duration::from_secs(3)).as_secs();
    let status = namespace.enter(|| {
        std::process::Command::new("sh")
            .args([
                "-c",
                &format!("exec ping -n -q -i 0.3 -c 1 -w {limit} {source} {target} >/dev/null 2>&1"),
            ])
            .status()
    })?;
    Ok(status.context("cannot start ping: install iputils-ping")?.success())
}

/// A thread that is told to end, and waited for, when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(body: impl FnOnce(&Arc<AtomicBool>) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self { stop, thread: Some(std::thread::spawn(move || body(&seen))) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            thread.join().ok();
        }
    }
}
