//! More than a packet at a time, to an echo service and back.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::namespace::Namespace;
use crate::patient;
use crate::traffic::connect;

/// Sends `bytes` by TCP and reads them back.
///
/// # Errors
/// When nothing moves for `timeout`, or other bytes come back.
pub fn stream(namespace: &Namespace, target: SocketAddr, bytes: usize, timeout: Duration) -> Result<()> {
    exchange(namespace, None, target, bytes, timeout)
}

/// [`stream`] from a given address.
///
/// # Errors
/// When nothing moves for `timeout`, or other bytes come back.
pub fn stream_from(
    namespace: &Namespace,
    source: SocketAddr,
    target: SocketAddr,
    bytes: usize,
    timeout: Duration,
) -> Result<()> {
    exchange(namespace, Some(source), target, bytes, timeout)
}

fn exchange(
    namespace: &Namespace,
    source: Option<SocketAddr>,
    target: SocketAddr,
    bytes: usize,
    timeout: Duration,
) -> Result<()> {
    let timeout = patient(timeout);
    let stream = namespace
        .enter(|| connect(source, target, timeout))?
        .with_context(|| format!("no TCP connection from {} to {target}", namespace.name()))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let sent: Vec<u8> = (0..bytes).map(|at| at.to_le_bytes()[1]).collect();
    let mut got = Vec::with_capacity(bytes);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| {
            (&stream).write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        });
        let read = (&stream).take(u64::try_from(bytes)?).read_to_end(&mut got);
        let wrote = writer.join().ok().context("the writer panicked")?;
        read.with_context(|| format!("{} of {bytes} bytes came back from {target}", sent.len()))?;
        wrote.with_context(|| format!("{target} takes no more bytes"))
    })?;
    ensure!(got == sent, "{} of {bytes} bytes came back from {target}, or others", got.len());
    Ok(())
}

/// Sends one UDP datagram of `bytes` and waits for its echo, once more each 200 ms until `timeout`.
///
/// # Errors
/// When no echo comes.
pub fn datagram(namespace: &Namespace, target: SocketAddr, bytes: usize, timeout: Duration) -> Result<()> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = namespace.enter(|| UdpSocket::bind(any))?.context("cannot bind")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (start, timeout) = (Instant::now(), patient(timeout));
    let sent = vec![0x42; bytes];
    let mut got = vec![0; bytes + 1];
    while start.elapsed() < timeout {
        // What the kernel refuses (a smaller MTU is known by now) it takes the next time.
        if socket.send_to(&sent, target).is_ok()
            && socket.recv_from(&mut got).is_ok_and(|(n, from)| n == bytes && from == target)
        {
            return Ok(());
        }
    }
    bail!("no echo of {bytes} bytes from {target} within {} s", timeout.as_secs())
}
