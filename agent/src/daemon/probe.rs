//! Probes: the node's own tries to reach what the operator named, and nothing else.

use std::io::{Error, ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::intent::types::{Probe, ProbeTarget};

/// Between two tries.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long one echo request is waited for.
const ECHO_WAIT: Duration = Duration::from_secs(1);
/// ICMP and ICMPv6 header of an echo, bytes.
const ECHO_LEN: usize = 8;

/// What came of all probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All that could be made have succeeded.
    Passed,
    /// This one did not succeed in time.
    Failed(String),
    /// This one cannot be made, the others have succeeded: it says nothing about the network.
    Impossible(String),
}

/// Why a probe did not succeed.
enum Trouble {
    Network(String),
    Ours(String),
}

/// Makes all probes at once.
pub(super) async fn probe(probes: Vec<Probe>) -> Verdict {
    let tried = futures::future::join_all(probes.iter().map(one)).await;
    let mut verdict = Verdict::Passed;
    for (probe, result) in probes.iter().zip(tried) {
        match result {
            Ok(()) => {}
            Err(Trouble::Network(text)) => return Verdict::Failed(format!("{}: {text}", probe.target)),
            Err(Trouble::Ours(text)) => verdict = Verdict::Impossible(format!("{}: {text}", probe.target)),
        }
    }
    verdict
}

/// Tries until it succeeds, or its time is over.
async fn one(probe: &Probe) -> Result<(), Trouble> {
    let deadline = Instant::now() + probe.timeout;
    let target = match probe.target {
        ProbeTarget::ApiServer => ProbeTarget::Tcp(api_server().await?),
        other => other,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match attempt(target, left).await {
            Ok(()) => return Ok(()),
            Err(Trouble::Ours(text)) => return Err(Trouble::Ours(text)),
            Err(Trouble::Network(text)) => text,
        };
        if Instant::now() + INTERVAL >= deadline {
            return Err(Trouble::Network(format!("{error} (within {} s)", probe.timeout.as_secs_f64())));
        }
        sleep(INTERVAL).await;
    }
}

/// The API server as every pod's environment has it.
async fn api_server() -> Result<SocketAddr, Trouble> {
    let variable = |name: &str| {
        std::env::var(name).map_err(|_| Trouble::Ours(format!("{name} is not set: is this a pod?")))
    };
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let port = port.parse().map_err(|_| Trouble::Ours(format!("KUBERNETES_SERVICE_PORT={port}: no port")))?;
    let mut found = tokio::net::lookup_host((host.as_str(), port))
        .await
        .map_err(|error| Trouble::Ours(format!("KUBERNETES_SERVICE_HOST={host}: {error}")))?;
    found.next().ok_or_else(|| Trouble::Ours(format!("KUBERNETES_SERVICE_HOST={host}: no address")))
}

async fn attempt(target: ProbeTarget, left: Duration) -> Result<(), Trouble> {
    let network = |error: &dyn std::fmt::Display| Trouble::Network(error.to_string());
    match target {
        ProbeTarget::Tcp(address) => match timeout(left, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(network(&error)),
            Err(_) => Err(network(&"no answer")),
        },
        ProbeTarget::Icmp(address) => {
            let echoed = tokio::task::spawn_blocking(move || echo(address, left.min(ECHO_WAIT))).await;
            echoed.unwrap_or_else(|error| Err(Trouble::Ours(error.to_string())))
        }
        ProbeTarget::ApiServer => Err(Trouble::Ours("its address is not known".to_owned())),
    }
}

/// One echo request. Blocking.
fn echo(address: IpAddr, wait: Duration) -> Result<(), Trouble> {
    let network = |error: Error| Trouble::Network(error.to_string());
    let (socket, raw) = echo_socket(address).map_err(|error| {
        Trouble::Ours(format!(
            "no socket for echo requests ({error}): grant CAP_NET_RAW, or widen ping_group_range"
        ))
    })?;
    let deadline = Instant::now() + wait;
    let sequence = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    // Connected, it hears this host alone.
    socket.connect(&SocketAddr::new(address, 0).into()).map_err(network)?;
    socket.send(&request(address, sequence)).map_err(network)?;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left)).map_err(network)?;
        let length = match (&socket).read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(network(error)),
        };
        if buffer.get(..length).is_some_and(|bytes| is_answer(bytes, address, raw, sequence)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Trouble::Network("no answer".to_owned()));
        }
    }
}

/// A socket for echo requests: the kernel's own kind where the group may have one (net.ipv4.ping_group_range), else a
/// raw one. Tells whether it is raw.
fn echo_socket(address: IpAddr) -> Result<(Socket, bool), Error> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => Ok((socket, false)),
        Err(_) => Ok((Socket::new(domain, Type::RAW, Some(protocol))?, true)),
    }
}

/// RFC 792, RFC 4443: type, code, checksum, identifier, sequence number. For ICMPv6 the kernel adds the checksum.
fn request(address: IpAddr, sequence: u16) -> [u8; ECHO_LEN] {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let [high, low] = sequence.to_be_bytes();
    let mut packet = [kind, 0, 0, 0, high, low, high, low];
    if address.is_ipv4() {
        // The sum of 16-bit words in ones' complement; all others are zero.
        let sum = (u32::from(kind) << 8) + 2 * u32::from(sequence);
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let [high, low] = (!u16::try_from(folded).unwrap_or_default()).to_be_bytes();
        (packet[2], packet[3]) = (high, low);
    }
    packet
}

/// Whether it is an echo reply to our request. A raw IPv4 socket sees the IP header too.
fn is_answer(bytes: &[u8], address: IpAddr, raw: bool, sequence: u16) -> bool {
    let header = match bytes.first() {
        Some(first) if raw && address.is_ipv4() => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let reply = if address.is_ipv4() { 0 } else { 129 };
    let Some(icmp) = bytes.get(header..header + ECHO_LEN) else { return false };
    let [high, low] = sequence.to_be_bytes();
    matches!(icmp, [kind, 0, .., h, l] if *kind == reply && *h == high && *l == low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        for sequence in [0, 1, 0x1234, 0xffff] {
            let packet = request([192, 0, 2, 1].into(), sequence);
            let sum: u32 =
                packet.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{packet:02x?}");
        }
    }

    #[test]
    fn only_the_reply_to_our_request_counts() {
        let v4: IpAddr = [192, 0, 2, 1].into();
        let reply = [0, 0, 0xff, 0xff, 9, 9, 0x12, 0x34];
        assert!(is_answer(&reply, v4, false, 0x1234));
        assert!(!is_answer(&reply, v4, false, 0x1235), "another sequence");
        assert!(!is_answer(&request(v4, 0x1234), v4, false, 0x1234), "a request");
        let mut framed = vec![0x45; 20];
        framed.extend(reply);
        assert!(is_answer(&framed, v4, true, 0x1234));
        assert!(!is_answer(&framed, v4, false, 0x1234) && !is_answer(&[0x4f], v4, true, 0x1234));
    }

    #[tokio::test]
    async fn an_open_port_passes_a_closed_one_fails_and_a_missing_pod_is_no_failure() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = open.local_addr().unwrap();
        let tcp = |timeout| vec![Probe { target: ProbeTarget::Tcp(address), timeout }];
        assert_eq!(probe(tcp(Duration::from_secs(60))).await, Verdict::Passed);
        drop(open);
        let failed = probe(tcp(Duration::from_millis(1))).await;
        assert!(
            matches!(&failed, Verdict::Failed(text) if text.starts_with(&format!("TCP {address}: "))),
            "{failed:?}"
        );
        if std::env::var("KUBERNETES_SERVICE_HOST").is_err() {
            let api = Probe { target: ProbeTarget::ApiServer, timeout: Duration::from_secs(1) };
            assert!(matches!(probe(vec![api]).await, Verdict::Impossible(_)));
        }
    }
}
