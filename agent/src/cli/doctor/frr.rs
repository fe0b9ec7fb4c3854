//! FRR's side: zebra, its FPM module, its options, and the session.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::host::{Host, Process, TcpState};
use super::{Check, Finding, Severity};

/// Where distributions and FRR's own packages put it; only root writes there.
const ZEBRA: [&str; 4] =
    ["/usr/lib/frr/zebra", "/usr/libexec/frr/zebra", "/usr/local/sbin/zebra", "/usr/sbin/zebra"];

/// Oldest FRR that is tested.
const OLDEST: Version = Version(8, 4);

/// First FRR with `-R` (`--routing-table`): 4d96ce1b4d.
const ROUTING_TABLE: Version = Version(9, 1);

const ADD_MODULE: &str = "add `-M dplane_fpm_nl` to zebra_options in /etc/frr/daemons (with FRR-K8s: in the ConfigMap \
                          frr-startup) and restart FRR";

/// Major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

pub(super) fn check(host: &Host, listen: SocketAddr, agent: bool) -> Vec<Finding> {
    let zebras: Vec<Process> =
        host.processes().into_iter().filter(|process| process.name == "zebra").collect();
    let mut findings = Vec::new();
    let [zebra] = &zebras[..] else {
        findings.push(no_single_zebra(host, &zebras));
        findings.push(session(host, listen, agent, false));
        return findings;
    };
    let version = version_of(zebra);
    findings.push(age(zebra, version));
    findings.push(module(zebra));
    findings.push(routing_table(zebra, version));
    findings.push(session(host, listen, agent, modules(zebra).contains(&"dplane_fpm_nl")));
    findings
}

fn no_single_zebra(host: &Host, zebras: &[Process]) -> Finding {
    const CHECK: Check = Check::FrrZebra;
    if zebras.len() > 1 {
        let pids: Vec<String> = zebras.iter().map(|zebra| zebra.pid.to_string()).collect();
        return Finding::bad(
            Severity::Warning,
            CHECK,
            format!("{} zebras run in this network namespace (pids {})", zebras.len(), pids.join(", ")),
            "they write the same tables, and only one of them can feed Backtrail",
            "stop all but one",
        );
    }
    let (what, fix) = if ZEBRA.iter().any(|path| host.path(path).exists()) {
        ("zebra is installed, but does not run in this network namespace", "start FRR: `systemctl start frr`")
    } else {
        ("zebra does not run in this network namespace, and is not installed", "install the package `frr`")
    };
    let why = "without it no route is learned (a container sees other processes only with hostPID)";
    Finding::bad(Severity::Error, CHECK, what, why, fix)
}

/// Asks the program itself; only where its files are ours, and from a known place: anybody may call a process zebra.
fn version_of(zebra: &Process) -> Option<Version> {
    let program = ZEBRA.into_iter().find(|path| zebra.program.as_deref() == Some(Path::new(path)))?;
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `zebra version 8.4.4`
pub(super) fn parse_version(text: &str) -> Option<Version> {
    let version = text.lines().find_map(|line| line.strip_prefix("zebra version "))?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn age(zebra: &Process, version: Option<Version>) -> Finding {
    const CHECK: Check = Check::FrrZebra;
    match version {
        None => {
            Finding::ok(CHECK, format!("zebra runs (pid {}); its version is hidden from here", zebra.pid))
        }
        Some(version) if version < OLDEST => Finding::bad(
            Severity::Warning,
            CHECK,
            format!("zebra {version} runs (pid {})", zebra.pid),
            "its FPM module differs from those that are tested",
            format!("upgrade to FRR {OLDEST} or newer; 10.4 or newer has the fewest FPM faults"),
        ),
        Some(version) => Finding::ok(CHECK, format!("zebra {version} runs (pid {})", zebra.pid)),
    }
}

/// Values of an option in its forms `-M x`, `-Mx`, `--module x` and `--module=x`.
fn option<'a>(zebra: &'a Process, short: &str, long: &str) -> Vec<&'a str> {
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
fn modules(zebra: &Process) -> Vec<&str> {
    option(zebra, "-M", "--module")
        .into_iter()
        .filter_map(|module| module.split(':').next())
        .map(|module| module.rsplit('/').next().unwrap_or(module).trim_start_matches("zebra_"))
        .collect()
}

fn module(zebra: &Process) -> Finding {
    const CHECK: Check = Check::FrrModule;
    let modules = modules(zebra);
    if modules.contains(&"dplane_fpm_nl") {
        Finding::ok(CHECK, "zebra was started with the module dplane_fpm_nl")
    } else if modules.contains(&"fpm") {
        Finding::bad(
            Severity::Warning,
            CHECK,
            "zebra was started with the old module `fpm`",
            "it is deprecated, sends no nexthop objects, and names routes that the kernel refused",
            ADD_MODULE.replace("add", "instead of it, add"),
        )
    } else {
        Finding::bad(
            Severity::Error,
            CHECK,
            "zebra was started without the module dplane_fpm_nl",
            "zebra sends its routes to nobody, and `fpm address` is an unknown command",
            ADD_MODULE,
        )
    }
}

fn routing_table(zebra: &Process, version: Option<Version>) -> Finding {
    const CHECK: Check = Check::FrrRoutingTable;
    const WHY: &str = "zebra writes the main table itself, so Backtrail programs tables of its own only (mirror mode); \
                       an import from 254 into Main can only be observed";
    if let Some(table) = option(zebra, "-R", "--routing-table").last() {
        return match table.parse::<u32>() {
            Ok(0 | 253..=255) | Err(_) => Finding::bad(
                Severity::Warning,
                CHECK,
                format!("zebra writes table {table} (-R {table})"),
                "that table forwards traffic, or is none",
                "choose an unused table, such as `-R 5000`",
            ),
            Ok(table) => Finding::ok(
                CHECK,
                format!("zebra writes table {table} (-R): import `from: {{table: {table}}}`"),
            ),
        };
    }
    match version {
        Some(version) if version < ROUTING_TABLE => Finding::bad(
            Severity::Note,
            CHECK,
            format!("zebra {version} has no option -R: mirror mode"),
            WHY,
            format!("upgrade to FRR {ROUTING_TABLE} or newer where Backtrail shall program the main table"),
        ),
        _ => Finding::bad(
            Severity::Note,
            CHECK,
            "zebra runs without -R: mirror mode",
            WHY,
            "where Backtrail shall program the main table: add `-R 5000` (FRR 9.1 or newer) to zebra_options, restart FRR, \
             and import `from: {table: 5000}`",
        ),
    }
}

fn session(host: &Host, listen: SocketAddr, agent: bool, module: bool) -> Finding {
    const CHECK: Check = Check::FpmSession;
    let sockets = host.tcp_sockets();
    let at = |local: SocketAddr| {
        local.port() == listen.port() && (local.ip() == listen.ip() || local.ip().is_unspecified())
    };
    let listening = sockets.iter().any(|socket| socket.state == TcpState::Listen && at(socket.local));
    let connected = sockets
        .iter()
        .find(|socket| socket.state == TcpState::Established && socket.local.port() == listen.port());
    match (listening, agent, connected) {
        (true, true, Some(session)) => {
            Finding::ok(CHECK, format!("zebra is connected to {listen} from {}", session.remote))
        }
        (true, true, None) => Finding::bad(
            Severity::Error,
            CHECK,
            format!("the agent listens on {listen}, but nobody is connected"),
            "zebra connects only where its configuration names the address; it then tries every 3 s",
            if module {
                format!(
                    "in vtysh: `configure terminal`, `fpm address {} port {}`, `write`",
                    listen.ip(),
                    listen.port()
                )
            } else {
                "see frr-module first".to_owned()
            },
        ),
        (false, true, _) => Finding::bad(
            Severity::Error,
            CHECK,
            format!("the agent runs, but does not listen on {listen}"),
            "zebra cannot connect",
            "see the condition FPMConnected in `backtrail status`; give the agent's address with --fpm-listen",
        ),
        (true, false, _) => Finding::bad(
            Severity::Error,
            CHECK,
            format!("something that is not our agent listens on {listen}"),
            "the agent will not get the address",
            format!(
                "find it with `ss -ltnp sport = :{}`, or choose another address with --fpm-listen",
                listen.port()
            ),
        ),
        (false, false, _) => Finding::bad(
            Severity::Note,
            CHECK,
            "no agent runs with this --run-dir",
            "nothing can be said about the session",
            "start `backtrail agent`, then run doctor again",
        ),
    }
}
