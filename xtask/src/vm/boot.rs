//! One run of a machine, and what its console says.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow};

use super::Job;
use super::guest::{LIMIT, MARK};
use super::kernel::Files;
use crate::test::{Counter, Tally};

/// Seconds for a machine's start and end.
const BOOT: usize = 300;
/// Without the timer's check: on a busy host the emulated one comes too late, and the kernel gives up.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=3 panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check nokaslr rdinit=/init -- vm-guest";

/// Boots a kernel with a RAM disk and counts what the tests report. No result is a failure.
pub(super) fn run(label: &str, kernel: &Files, image: &[u8], jobs: &[Job]) -> Result<Tally> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let disk = folder.path().join("initrd");
    fs::write(&disk, image).with_context(|| format!("cannot write {}", disk.display()))?;
    let limit = BOOT + LIMIT * jobs.len();
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", &limit.to_string(), "qemu-system-x86_64"])
        .args(["-M", "q35", "-accel", "tcg,thread=multi"])
        // With cmpxchg16b one boot in ten of Linux 6.12 crashes.
        .args(["-cpu", "max,-cx16", "-smp", "2", "-m", "2G", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&disk)
        .args(["-append", &format!("tsc_early_khz={} {COMMAND_LINE}", counter::kilohertz())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start qemu-system-x86_64")?;
    let stdout = child.stdout.take().context("no console")?;
    let mut console = Console::new(label);
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("cannot read the console")?).into_owned();
        let line = line.trim_end_matches('\r');
        if console.line(line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    Ok(console.verdict(jobs.iter().map(|job| job.test.name.as_str()), status.code()))
}

/// The processor's counter, whose rate the guest is told: what it finds out by itself on a busy host may be a quarter of it,
/// and then its clock runs four times too fast. QEMU's TCG shows the guest the host's.
mod counter {
    use std::time::{Duration, Instant};

    /// How long it is watched.
    const WATCH: Duration = Duration::from_millis(200);

    /// Counts in a millisecond.
    pub(super) fn kilohertz() -> u128 {
        let (start, first) = reading();
        std::thread::sleep(WATCH);
        let (end, last) = reading();
        u128::from(last - first) * 1_000_000 / (end - start).as_nanos()
    }

    /// When the counter was where: the reading between whose ends the least time went by.
    fn reading() -> (Instant, u64) {
        let readings = (0..20).map(|_| {
            let (before, count) = (Instant::now(), now());
            (before.elapsed(), before, count)
        });
        readings.min().map_or_else(|| (Instant::now(), now()), |(_, at, count)| (at, count))
    }

    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "an instruction that no crate wraps")]
    fn now() -> u64 {
        // SAFETY: every x86-64 processor has the counter, and reading it has no other effect.
        unsafe { std::arch::x86_64::_rdtsc() }
    }

    /// There are guests for x86-64 only.
    #[cfg(not(target_arch = "x86_64"))]
    fn now() -> u64 {
        0
    }
}

/// Reads the console.
#[derive(Debug)]
struct Console {
    label: String,
    tally: Tally,
    counter: Counter,
    ended: Vec<String>,
    result: Option<i32>,
}

impl Console {
    fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            tally: Tally::default(),
            counter: Counter::default(),
            ended: Vec::new(),
            result: None,
        }
    }

    /// Takes one line; whether people should see it.
    fn line(&mut self, line: &str) -> bool {
        let Some(marked) = line.strip_prefix(MARK) else {
            let name = self.label.clone();
            return self.counter.line(&name, line);
        };
        match marked.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["end", name, passed] => self.end(name, *passed == "true"),
            ["result", failed] => self.result = failed.parse().ok(),
            _ => {}
        }
        true
    }

    /// A test program has ended: one that fails without a failed test, or passes without any test, is a failure too.
    fn end(&mut self, name: &str, passed: bool) {
        let tally = std::mem::take(&mut self.counter).end(name);
        let counted = tally.passed + tally.failed + tally.skipped > 0;
        if passed != (tally.failed == 0) || !counted {
            self.fail(name, "its exit status and its tests do not agree, or it has run none");
        }
        self.tally += tally;
        self.ended.push(name.to_owned());
    }

    fn fail(&mut self, name: &str, why: &str) {
        self.tally += Tally::check(&format!("{} {name}", self.label), Err(anyhow!("{why}")));
    }

    /// What became of the run: every test must have ended, and console and exit status must say the same.
    fn verdict<'n>(mut self, tests: impl Iterator<Item = &'n str>, status: Option<i32>) -> Tally {
        for test in tests {
            if !self.ended.iter().any(|ended| ended == test) {
                self.fail(test, "no result: the machine ended or hung before");
            }
        }
        if self.result.is_none() || status != self.result.map(|failed| failed << 1 | 1) {
            let why = format!("the console's result is {:?}, the exit status {status:?}", self.result);
            self.fail("machine", &why);
        }
        self.tally
    }
}

#[cfg(test)]
mod tests;
