//! Child processes that end with their owner.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_until;

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started, or with its standard error when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{shown}: {}: {}{}", out.status, String::from_utf8_lossy(&out.stderr), text);
    }
    Ok(text)
}

/// A running program: killed, by its pid, when dropped. What it prints goes to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    detached: bool,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .with_context(|| format!("cannot open {}", log.display()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), detached: false })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            // A log that cannot be read is shown as far as it was.
            file.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until its log has `text` after byte `from`.
    ///
    /// # Errors
    /// With the end of the log, when it ends first or `timeout` passes.
    pub fn wait_for_line(&mut self, text: &str, from: usize, timeout: Duration) -> Result<()> {
        let mut ended = false;
        let waited = wait_until(timeout, text, || {
            let seen = self.log().get(from..).is_some_and(|new| new.contains(text));
            ended = !seen && !self.alive();
            seen || ended
        });
        if waited.is_err() || ended {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("{} did not print '{text}'; the end of its log:\n{}", self.name, tail.join("\n"));
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("pid")?);
        kill(pid, signal).with_context(|| format!("cannot signal {} ({pid})", self.name))
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end within `timeout`.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let mut status = None;
        wait_until(timeout, &format!("end of {}", self.name), || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        status.context("no exit status")
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // Killing what has already ended is no error; `wait` reports the rest.
        self.child.kill().ok();
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Lets it live on when this value is dropped.
    pub fn detach(&mut self) {
        self.detached = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached {
            // Nobody is left to report to.
            self.kill().ok();
        }
    }
}
