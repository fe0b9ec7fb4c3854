//! Requests and answers of many flows: real sockets, one packet each way at a time.
//!
//! One thread sends a request, takes it at the service, answers it and takes the answer: each step runs to its end before the
//! next one begins, so that neither a scheduler nor a queue is measured. Flows differ by the client's address.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::Namespace;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

/// The client's port, for all flows.
const CLIENT_PORT: u16 = 4000;
/// Payload of requests and answers, bytes.
const PAYLOAD: [u8; 64] = [0x5a; 64];
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many flows there are at once: the sizes that are measured.
pub(crate) const SIZES: [u32; 3] = [1, 10_000, 1_000_000];

/// A client with many addresses.
pub(crate) struct Asker {
    socket: UdpSocket,
    service: SocketAddrV4,
}

impl Asker {
    /// In the calling thread's network namespace, where the addresses are local (`ip route add local PREFIX dev lo`).
    pub(crate) fn new(service: SocketAddrV4) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))
            .with_context(|| format!("UDP port {CLIENT_PORT} is taken"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, service })
    }

    /// Sends the request of a flow.
    pub(crate) fn ask(&self, source: Ipv4Addr) -> Result<()> {
        let address = |address: Ipv4Addr| nix::libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
        let info = nix::libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: address(source),
            ipi_addr: address(Ipv4Addr::UNSPECIFIED),
        };
        let to = SockaddrIn::from(self.service);
        let (payload, control) = ([IoSlice::new(&PAYLOAD)], [ControlMessage::Ipv4PacketInfo(&info)]);
        sendmsg(self.socket.as_raw_fd(), &payload, &control, MsgFlags::empty(), Some(&to))
            .with_context(|| format!("cannot send from {source}: is it local?"))?;
        Ok(())
    }

    /// Takes an answer.
    pub(crate) fn answered(&self) -> Result<()> {
        let mut buffer = [0; PAYLOAD.len()];
        self.socket.recv(&mut buffer).context("no answer comes back")?;
        Ok(())
    }
}

/// A service that sends back what it gets.
pub(crate) struct Service(UdpSocket);

impl Service {
    /// In the calling thread's network namespace.
    pub(crate) fn new(at: SocketAddrV4) -> Result<Self> {
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot serve at {at}"))?;
        Ok(Self(socket))
    }

    /// Answers one request.
    pub(crate) fn answer(&self) -> Result<()> {
        let mut buffer = [0; PAYLOAD.len()];
        let (length, from): (usize, SocketAddr) = self.0.recv_from(&mut buffer)?;
        let answer = buffer.get(..length).unwrap_or_default();
        self.0.send_to(answer, from).with_context(|| format!("cannot answer {from}"))?;
        Ok(())
    }
}

/// Both ends, in one thread.
pub(crate) struct Exchange {
    asker: Asker,
    service: Service,
}

/// What one measurement gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Nanoseconds for a request and its answer: mean.
    pub(crate) mean: f64,
    /// Nanoseconds of CPU time for the same.
    pub(crate) cpu: f64,
    /// Nanoseconds that half of them took at most.
    pub(crate) p50: f64,
    /// Nanoseconds that 99 % of them took at most.
    pub(crate) p99: f64,
}

impl Exchange {
    /// A client and a node of the lab.
    pub(crate) fn new(client: &Namespace, node: &Namespace, service: SocketAddrV4) -> Result<Self> {
        let asker = client.enter(|| Asker::new(service))??;
        let service = node.enter(|| Service::new(service))??;
        service.0.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { asker, service })
    }

    fn round_trip(&self, source: Ipv4Addr) -> Result<()> {
        self.asker.ask(source)?;
        self.service.answer().context("no request arrives")?;
        self.asker.answered()
    }

    /// Opens flows from `first` on, as conversations: two requests each.
    pub(crate) fn open(&self, first: Ipv4Addr, flows: u32) -> Result<()> {
        for flow in 0..flows {
            self.round_trip(source(first, flow))?;
            self.round_trip(source(first, flow))?;
        }
        Ok(())
    }

    /// Goes round `flows` flows from `first` on, `count` round trips from `from` on.
    pub(crate) fn measure(&self, first: Ipv4Addr, flows: u32, from: u32, count: u32) -> Result<Measured> {
        let mut times = Vec::with_capacity(usize::try_from(count)?);
        let (cpu, began) = (cpu_nanoseconds()?, Instant::now());
        for at in 0..count {
            let sent = Instant::now();
            self.round_trip(source(first, from.wrapping_add(at) % flows))?;
            times.push(sent.elapsed());
        }
        let (wall, cpu) = (began.elapsed(), cpu_nanoseconds()?.saturating_sub(cpu));
        times.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of some seconds")]
        let cpu = cpu as f64;
        Ok(Measured {
            mean: nanoseconds(wall) / f64::from(count),
            cpu: cpu / f64::from(count),
            p50: percentile(&times, 50)?,
            p99: percentile(&times, 99)?,
        })
    }
}

/// The client's address of a flow.
pub(crate) fn source(first: Ipv4Addr, flow: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first).wrapping_add(flow))
}

/// The time that so many percent of sorted times do not exceed, in nanoseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Result<f64> {
    ensure!(!sorted.is_empty(), "nothing was measured");
    let at = (sorted.len() * percent / 100).min(sorted.len() - 1);
    Ok(sorted.get(at).copied().map_or(0.0, nanoseconds))
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// CPU time of this thread, the packets that it pushes through the stack included.
fn cpu_nanoseconds() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("no schedstat")?;
    Ok(text.split_whitespace().next().context("an empty schedstat")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_nanos).collect();
        assert!((percentile(&times, 50).expect("times") - 101.0).abs() < 1e-6);
        assert!((percentile(&times, 99).expect("times") - 199.0).abs() < 1e-6);
        assert!(percentile(&[], 50).is_err());
    }

    #[test]
    fn flows_have_addresses_in_a_row() {
        assert_eq!(source(Ipv4Addr::new(100, 64, 0, 0), 256), Ipv4Addr::new(100, 64, 1, 0));
    }
}
