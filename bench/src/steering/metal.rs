//! The same exchange between two machines with real NICs: one answers, the other asks.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::flows::{Asker, SIZES, Service, percentile, source};

/// Requests under way at once, where throughput is measured.
const WINDOW: u32 = 64;
/// Of one measurement.
const TIME: Duration = Duration::from_secs(10);
/// How often the node tells what packets cost it.
const REPORT: Duration = Duration::from_secs(5);

/// Answers until it is interrupted, and tells what a packet costs this machine.
pub(crate) fn serve(at: SocketAddrV4) -> Result<Infallible> {
    let service = Service::new(at)?;
    println!("{at} answers; what packets cost all CPUs together follows every {} s", REPORT.as_secs());
    loop {
        let (began, busy) = (Instant::now(), busy_seconds()?);
        let mut packets = 0_u32;
        while began.elapsed() < REPORT {
            service.answer()?;
            packets += 1;
        }
        let (wall, busy) = (began.elapsed().as_secs_f64(), busy_seconds()? - busy);
        let each = busy * 1e9 / f64::from(packets.max(1));
        println!("{:.0} requests/s, {each:.0} ns of CPU for each and its answer", f64::from(packets) / wall);
    }
}

/// Asks as one, as 10,000 and as 1,000,000 clients, whose addresses begin with `first`.
pub(crate) fn ask(service: SocketAddrV4, first: Ipv4Addr) -> Result<()> {
    let asker = Asker::new(service)?;
    for flows in SIZES {
        let mut next = 0;
        // Two requests make a conversation.
        for flow in 0..flows {
            for _ in 0..2 {
                asker.ask(source(first, flow))?;
                asker.answered()?;
            }
        }
        let mut times = Vec::new();
        let began = Instant::now();
        while began.elapsed() < TIME {
            let sent = Instant::now();
            asker.ask(source(first, next % flows))?;
            asker.answered()?;
            times.push(sent.elapsed());
            next += 1;
        }
        times.sort_unstable();
        let (p50, p99) = (percentile(&times, 50)? / 1e3, percentile(&times, 99)? / 1e3);
        for _ in 0..WINDOW {
            asker.ask(source(first, next % flows))?;
            next += 1;
        }
        let (began, mut answers) = (Instant::now(), 0_u32);
        while began.elapsed() < TIME {
            asker.answered()?;
            asker.ask(source(first, next % flows))?;
            (next, answers) = (next + 1, answers + 1);
        }
        let rate = f64::from(answers) / began.elapsed().as_secs_f64();
        for _ in 0..WINDOW {
            asker.answered()?;
        }
        println!(
            "{flows} flows: {rate:.0} answers/s with {WINDOW} under way; one at a time p50 {p50:.1} us, p99 {p99:.1} us"
        );
    }
    Ok(())
}

/// Seconds that the CPUs of this machine were busy since it started, added up.
fn busy_seconds() -> Result<f64> {
    /// USER_HZ: what /proc/stat counts in, on all architectures that matter here.
    const TICKS: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/stat").context("no /proc/stat")?;
    busy_ticks(&text).map(|ticks| ticks / TICKS).context("/proc/stat has no line for all CPUs")
}

/// User, nice, system, irq and softirq of the first line.
fn busy_ticks(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_all_but_idle_and_waiting() {
        assert_eq!(busy_ticks("cpu  1 2 3 100 50 4 5 0 0 0\ncpu0 9 9"), Some(15.0));
        assert_eq!(busy_ticks("cpu 1 2"), None);
    }
}
