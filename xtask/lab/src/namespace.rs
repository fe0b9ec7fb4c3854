//! One network namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::process::{Process, output};

/// A named network namespace; the last clone removes it, and with it its links.
///
/// Programs are started by `setns` alone, without `ip netns exec`, which would hide bpffs behind its own `/sys`.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    logs: PathBuf,
    serial: AtomicU32,
    keep: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.keep {
            // In a drop nobody is left to report to.
            output(Command::new("ip").args(["netns", "del", &self.name])).ok();
        }
    }
}

/// What an interface has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

impl Namespace {
    /// Makes the namespace `name` with loopback up, rp_filter off and no duplicate address detection.
    pub(crate) fn create(name: &str, logs: &Path, keep: bool) -> Result<Self> {
        output(Command::new("ip").args(["netns", "add", name]))?;
        let path = Path::new("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let serial = AtomicU32::new(0);
        let namespace =
            Self(Arc::new(Inner { name: name.to_owned(), file, logs: logs.to_owned(), serial, keep }));
        for (key, value) in [
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
        ] {
            namespace.sysctl(key, value)?;
        }
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `f` on a thread of its own inside the namespace and waits for it. Threads and programs that `f` starts
    /// stay inside. A panic of `f` goes on in the caller.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = &self.0.file;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || setns(file, CloneFlags::CLONE_NEWNET).map(|()| f()));
            match thread.join() {
                Ok(result) => result.with_context(|| format!("cannot enter namespace {}", self.0.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a shell script (`sh -euc`) to its end; returns what it printed.
    ///
    /// # Errors
    /// With the script's standard error, when it fails.
    pub fn run(&self, script: &str) -> Result<String> {
        self.enter(|| output(Command::new("sh").args(["-euc", script])))?
            .with_context(|| format!("in namespace {}", self.0.name))
    }

    /// Runs a shell script and parses what it prints as JSON (`ip -j route`); nothing printed is an empty list.
    ///
    /// # Errors
    /// When the script fails or prints something else.
    pub fn json(&self, script: &str) -> Result<Value> {
        let text = self.run(script)?;
        if text.trim().is_empty() {
            return Ok(Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("{script} printed no JSON: {text}"))
    }

    /// Starts a program; it is killed when the returned value is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let program = program.to_string_lossy().into_owned();
        let serial = self.0.serial.fetch_add(1, Ordering::Relaxed);
        let log = self.0.logs.join(format!("{}-{program}-{serial}.log", self.0.name));
        self.spawn_logged(&program, command, &log)
    }

    /// Like [`Namespace::spawn`], with a log file of the caller's choice.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_logged(&self, name: &str, command: &mut Command, log: &Path) -> Result<Process> {
        let label = format!("{name} in {}", self.0.name);
        self.enter(|| Process::start(&label, command, log))?
    }

    /// Sets a sysctl, in dotted notation; a dot within an interface name is written as `/`.
    ///
    /// # Errors
    /// When the kernel has no such key, refuses the value, or `/proc/sys` is read-only.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = sysctl_path(key);
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("cannot write {value} to {path}"))
    }

    /// Reads a sysctl.
    ///
    /// # Errors
    /// When the kernel has no such key.
    pub fn read_sysctl(&self, key: &str) -> Result<String> {
        let path = sysctl_path(key);
        let text =
            self.enter(|| fs::read_to_string(&path))?.with_context(|| format!("cannot read {path}"))?;
        Ok(text.trim().to_owned())
    }

    /// Makes it a router for IPv4 and IPv6.
    ///
    /// # Errors
    /// See [`Namespace::sysctl`].
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// The counters of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        let links = self.json(&format!("ip -j -s link show dev {interface}"))?;
        let stats = links.get(0).and_then(|link| link.get("stats64"));
        let number = |side: &str, what: &str| {
            stats
                .and_then(|stats| stats.get(side)?.get(what)?.as_u64())
                .ok_or_else(|| anyhow!("ip -s link shows no {side} {what} for {interface}"))
        };
        Ok(Counters {
            rx_packets: number("rx", "packets")?,
            tx_packets: number("tx", "packets")?,
            rx_bytes: number("rx", "bytes")?,
            tx_bytes: number("tx", "bytes")?,
        })
    }
}

fn sysctl_path(key: &str) -> String {
    let path: String = key
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    format!("/proc/sys/{path}")
}

/// Whether this kernel makes 802.1Q devices (module `8021q`); asks it, in the given namespace.
#[must_use]
pub fn has_8021q(namespace: &Namespace) -> bool {
    let made = namespace.run("ip link add vlanprobe0 type veth peer name vlanprobe1 && ip link add link vlanprobe0 name vlanprobe2 type vlan id 2");
    // Removing the veth removes all three; there is nothing to remove where even that failed.
    namespace.run("ip link del vlanprobe0").ok();
    made.is_ok()
}
