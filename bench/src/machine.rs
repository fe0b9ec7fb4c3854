//! Where a run took place: what a reader of its numbers has to know.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine and the versions of what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// `model name` of the first CPU.
    cpu: String,
    /// CPUs that the scheduler may use.
    cpus: usize,
    memory_mib: u64,
    kernel: String,
    /// Processes that were ready to run, averaged over the minute before the run.
    load_before: String,
    frr: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kibibytes: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kibibytes / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            frr: frr(),
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} CPUs ({}), {} MiB, Linux {}, load before {}; FRR {}; Backtrail {}",
            self.cpus,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.load_before,
            self.frr,
            env!("CARGO_PKG_VERSION"),
        )
    }
}

fn frr() -> String {
    let out = Command::new("/usr/lib/frr/zebra").arg("--version").output();
    let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    let version = text.lines().next().and_then(|line| line.split(' ').next_back());
    version.unwrap_or("not installed").to_owned()
}
