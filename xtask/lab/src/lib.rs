//! Network namespaces, real FRR and real traffic for the demo, the tests and the benchmarks.
//!
//! A [`Lab`] owns everything that it makes: namespaces, links, processes, mounts and files go when it is
//! dropped, and also when a test panics. Needs root and Linux 5.3 or newer.
//!
//! ```no_run
//! use backtrail_lab::{End, Lab, tcp_exchange, TcpEcho};
//! use std::time::Duration;
//!
//! let lab = Lab::new("example")?;
//! let (client, node) = (lab.namespace("client")?, lab.namespace("node")?);
//! lab.connect(&End::new(&client, "eth0", &["192.0.2.1/24"]), &End::new(&node, "eth0", &["192.0.2.2/24"]))?;
//! let echo = TcpEcho::start(&node, "0.0.0.0:7000".parse()?)?;
//! tcp_exchange(&client, None, "192.0.2.2:7000".parse()?, Duration::from_secs(2))?;
//! # drop(echo);
//! # Ok::<(), anyhow::Error>(())
//! ```

mod agent;
mod cluster;
pub mod feeder;
mod fib;
mod flow;
pub mod frames;
mod frr;
mod interrupt;
mod kube;
mod lab;
mod monitor;
mod namespace;
mod process;
mod raw;
mod sniffer;
mod suite;
mod traffic;
pub mod transfer;
mod tun;
pub mod ways;

pub use agent::{Agent, AgentOptions, CAPABILITIES, InCluster};
pub use cluster::{Cluster, condition, deploy};
pub use feeder::Feeder;
pub use fib::{Fib, fib};
pub use flow::{Flow, FlowReport};
pub use frr::{Daemon, Frr, FrrInstall, FrrOptions, GUEST_FRR, Version};
pub use interrupt::{catch_interrupts, interrupted};
pub use kube::{ApiServer, Audited, HELM, KUBERNETES, helm, kube_assets};
pub use lab::{End, Lab};
pub use monitor::Monitor;
pub use namespace::{Counters, Namespace, has_8021q};
pub use process::{Process, output};
pub use raw::{send_packet, send_packet_by};
pub use sniffer::{Direction, Frame, Sniffer};
pub use suite::{Suite, cache_dir, debian_sources, obtain_suite, root_of, with_suite};
pub use traffic::{TcpEcho, UdpEcho, ping, tcp_exchange, udp_exchange};
pub use tun::{TunPair, open_tun};

use std::time::{Duration, Instant};

/// A time to wait, times `BACKTRAIL_PATIENCE` where that is set: an emulated machine is slow.
#[must_use]
pub fn patient(timeout: Duration) -> Duration {
    let times = std::env::var("BACKTRAIL_PATIENCE").ok().and_then(|times| times.parse().ok());
    timeout.saturating_mul(times.unwrap_or(1))
}

/// Polls `condition` every 20 ms until it holds.
///
/// # Errors
/// Names `what` when `timeout` has passed, or when an interrupt was caught.
pub fn wait_until(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> anyhow::Result<Duration> {
    let (start, timeout) = (Instant::now(), patient(timeout));
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        anyhow::ensure!(!interrupted(), "interrupted while waiting: {what}");
        anyhow::ensure!(start.elapsed() < timeout, "not within {} s: {what}", timeout.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
