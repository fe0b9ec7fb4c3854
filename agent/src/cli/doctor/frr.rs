//! FRR's side: zebra, its FPM module, its options, and the session.

use std::net::SocketAddr;

use zebra_fpm::netlink::feedback_support;

use super::{Check, Finding, Severity};
use crate::host::zebra::{self, PROGRAMS, Version, modules, option, version_of};
use crate::host::{Host, Process, TcpState};
use crate::preflight::{ADD_MODULE, OLDEST, ROUTING_TABLE};

pub(super) fn check(host: &Host, listen: SocketAddr, agent: bool, offload_ack: Option<bool>) -> Vec<Finding> {
    let zebras = zebra::all(host);
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
    findings.extend(feedback(zebra, version, offload_ack));
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
    let (what, fix) = if PROGRAMS.iter().any(|path| host.path(path).exists()) {
        ("zebra is installed, but does not run in this network namespace", "start FRR: `systemctl start frr`")
    } else {
        ("zebra does not run in this network namespace, and is not installed", "install the package `frr`")
    };
    let why = "without it no route is learned (a container sees other processes only with hostPID)";
    Finding::bad(Severity::Error, CHECK, what, why, fix)
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

/// Whether zebra gets the answers that it waits for. Nothing to say where neither side wants any; `offload_ack` is not
/// known without manifests.
fn feedback(zebra: &Process, version: Option<Version>, offload_ack: Option<bool>) -> Option<Finding> {
    const CHECK: Check = Check::FrrFeedback;
    const OPTION: &str = "--asic-offload=notify_on_offload";
    // zebra has no short form of it; without a value it means notify_on_ack, which waits for nobody.
    let waits = option(zebra, "--asic-offload", "--asic-offload").contains(&"notify_on_offload");
    if !waits && offload_ack != Some(true) {
        return None;
    }
    let unsupported = version.and_then(|Version(major, minor)| feedback_support(major, minor).err());
    Some(match (unsupported, waits, offload_ack) {
        (Some(why), true, _) => Finding::bad(
            Severity::Error,
            CHECK,
            format!("zebra runs with {OPTION}, but {why}"),
            "its routes stay queued, and BGP with `suppress-fib-pending` advertises none of them",
            format!("remove {OPTION} from zebra_options, or upgrade FRR; then restart it"),
        ),
        (Some(why), false, _) => Finding::bad(
            Severity::Warning,
            CHECK,
            format!("fpm.offloadAck is set, but {why}"),
            "the agent does not answer such a zebra",
            "upgrade FRR, or remove fpm.offloadAck",
        ),
        (None, true, Some(false)) => Finding::bad(
            Severity::Warning,
            CHECK,
            format!("zebra runs with {OPTION}, but the agent is not told to answer"),
            "routes stay queued, and BGP with `suppress-fib-pending` advertises none of them",
            "set `fpm: {offloadAck: true}` in DataplaneConfig",
        ),
        (None, true, None) => Finding::bad(
            Severity::Note,
            CHECK,
            format!("zebra runs with {OPTION}"),
            "without answers of the agent its routes stay queued",
            "see that DataplaneConfig has `fpm: {offloadAck: true}`; with --config this is checked",
        ),
        (None, false, _) => Finding::bad(
            Severity::Note,
            CHECK,
            format!("fpm.offloadAck is set, but zebra runs without {OPTION}"),
            "zebra shows the answers in `show ip route`; BGP does not wait for them",
            format!(
                "add {OPTION} to zebra_options and restart FRR where `bgp suppress-fib-pending` shall wait"
            ),
        ),
        (None, true, Some(true)) => {
            Finding::ok(CHECK, "zebra waits for the kernel's acknowledgement of its routes")
        }
    })
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
