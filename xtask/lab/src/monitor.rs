//! Watching what changes in a namespace's routing.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::namespace::Namespace;
use crate::process::Process;

/// A running `ip -ts monitor route rule nexthop`.
#[derive(Debug)]
pub struct Monitor {
    process: Process,
    namespace: Namespace,
}

impl Monitor {
    /// Starts watching, and returns when changes are seen.
    ///
    /// # Errors
    /// When `ip` cannot be started.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["-ts", "monitor", "route", "rule", "nexthop"]);
        let monitor = Self { process: namespace.spawn(&mut command)?, namespace: namespace.clone() };
        monitor.settle()?;
        Ok(monitor)
    }

    /// Lines seen so far, all notifications up to now included.
    ///
    /// # Errors
    /// When `ip monitor` has died.
    pub fn lines(&self) -> Result<Vec<String>> {
        self.settle()?;
        Ok(self.process.log().lines().filter(|line| !line.contains(MARK)).map(str::to_owned).collect())
    }

    /// The lines that are of Backtrail: `proto 201`.
    ///
    /// # Errors
    /// When `ip monitor` has died.
    pub fn ours(&self) -> Result<Vec<String>> {
        let mut lines = self.lines()?;
        lines.retain(|line| line.contains("proto 201"));
        Ok(lines)
    }

    /// Makes a change of its own until it shows: notifications come in order, so all earlier ones have been seen then.
    fn settle(&self) -> Result<()> {
        let before = self.process.log().len();
        crate::wait_until(Duration::from_secs(10), "ip monitor shows a change", || {
            let changed = self.namespace.run(&format!(
                "ip rule add to {MARK} table 1 pref 32000 proto 99; ip rule del to {MARK} table 1 pref 32000 proto 99"
            ));
            changed.is_ok() && self.process.log().get(before..).is_some_and(|new| new.contains(MARK))
        })?;
        Ok(())
    }
}

const MARK: &str = "192.0.2.254";
