//! zebra as a process of this host: which one runs, of which version, with which options.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::{Host, Process};
use crate::preflight::{MODULE, Zebra};

/// Where distributions and FRR's own packages put it; only root writes there.
pub(crate) const PROGRAMS: [&str; 4] =
    ["/usr/lib/frr/zebra", "/usr/libexec/frr/zebra", "/usr/local/sbin/zebra", "/usr/sbin/zebra"];

/// Major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The zebras of this network namespace, as far as this process may see others.
pub(crate) fn all(host: &Host) -> Vec<Process> {
    host.processes().into_iter().filter(|process| process.name == "zebra").collect()
}

/// Ends of the paths of zebra's sockets: for other daemons, and for vtysh.
const SOCKETS: [&str; 2] = ["/zserv.api", "/zebra.vty"];

/// What shows of zebra, of which another container may hide all but its sockets. Of several, the one with the smallest
/// pid. Starts a process: not for a task that must not block.
pub(crate) fn look(host: &Host) -> Zebra {
    if let Some(zebra) = all(host).first() {
        return Zebra::Seen { module: modules(zebra).contains(&MODULE), version: version_of(zebra) };
    }
    let sockets = host.read("/proc/self/net/unix").unwrap_or_default();
    let named = |line: &str| SOCKETS.iter().any(|end| line.ends_with(end));
    if sockets.lines().any(named) { Zebra::Hidden } else { Zebra::Absent }
}

/// The version of the only zebra of this network namespace, where it can be known. Starts a process: not for a task
/// that must not block.
pub(crate) fn version() -> Option<Version> {
    match &all(&Host::here())[..] {
        [zebra] => version_of(zebra),
        _ => None,
    }
}

/// Asks the program itself; only where its files are ours, and from a known place: anybody may call a process zebra.
pub(crate) fn version_of(zebra: &Process) -> Option<Version> {
    let program = PROGRAMS.into_iter().find(|path| zebra.program.as_deref() == Some(Path::new(path)))?;
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `zebra version 8.4.4`
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let version = text.lines().find_map(|line| line.strip_prefix("zebra version "))?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Values of an option in its forms `-M x`, `-Mx`, `--module x` and `--module=x`.
pub(crate) fn option<'a>(zebra: &'a Process, short: &str, long: &str) -> Vec<&'a str> {
    let mut values = Vec::new();
    let mut arguments = zebra.arguments.iter().skip(1).map(String::as_str);
    while let Some(argument) = arguments.next() {
        if argument == short || argument == long {
            values.extend(arguments.next());
        } else if let Some(value) = argument.strip_prefix(long).and_then(|rest| rest.strip_prefix('=')) {
            values.push(value);
        } else if let Some(value) = argument.strip_prefix(short)
            && !argument.starts_with("--")
        {
            values.push(value);
        }
    }
    values
}

/// Modules without their options and paths: `fpm:netlink` is `fpm`.
pub(crate) fn modules(zebra: &Process) -> Vec<&str> {
    option(zebra, "-M", "--module")
        .into_iter()
        .filter_map(|module| module.split(':').next())
        .map(|module| module.rsplit('/').next().unwrap_or(module).trim_start_matches("zebra_"))
        .collect()
}
