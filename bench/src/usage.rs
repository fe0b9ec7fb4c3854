//! CPU time and memory of a process, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// `USER_HZ` of every Linux architecture that FRR runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// Seconds of all its threads, user and system.
    pub(crate) cpu: f64,
    /// Resident bytes now.
    pub(crate) rss: f64,
    /// Resident bytes at most.
    pub(crate) peak: f64,
}

/// Of a process.
pub(crate) fn of(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    parse(&stat, &status).with_context(|| format!("cannot understand /proc/{pid}"))
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // The name, in parentheses, may hold blanks.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let bytes = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
    };
    let cpu = (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
    Some(Usage { cpu, rss: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

/// CPU seconds of each thread of a process, by its name; threads of one name together.
pub(crate) fn threads(pid: u32) -> Result<BTreeMap<String, f64>> {
    let mut sums = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        let path = task?.path();
        // A thread may end meanwhile.
        let (Ok(name), Ok(times)) =
            (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        let nanoseconds = times.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        *sums.entry(name.trim().to_owned()).or_default() += nanoseconds / 1e9;
    }
    Ok(sums)
}

/// CPU seconds of the calling thread.
pub(crate) fn this_thread() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.unwrap_or_default() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_are_understood() {
        let stat = "42 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        let status = "VmHWM:\t  20 kB\nVmRSS:\t  10 kB\n";
        assert_eq!(parse(stat, status), Some(Usage { cpu: 3.0, rss: 10_240.0, peak: 20_480.0 }));
    }
}
