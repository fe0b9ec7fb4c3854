//! `backtrail status`: the node's state on one screen.

use std::io::{self, Write};

use anyhow::bail;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::output::{self, Format, Table, age, or_dash};
use super::{Global, Outcome};
use crate::api::{ApplyState, ApplyStatus, FpmState, NodeRoutingStateStatus, RouteCounts, SteeringState};
use crate::control::{Client, Request, Response};
use crate::status::reason::condition;

/// Lines that a list may have; the rest is counted.
const MAX_LINES: usize = 20;

/// `backtrail status`
pub(super) fn status(global: &Global, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let Response::Status(status) = Client::connect(&global.run_dir)?.call(&Request::Status)? else {
        bail!("the agent answered another question: are agent and command of the same version?");
    };
    if global.output == Format::Table {
        print(&status, Timestamp::now(), out)?;
    } else {
        output::value(global.output, out, &status)?;
    }
    Ok(if healthy(&status) { Outcome::Ok } else { Outcome::Differs })
}

/// Whether the condition `Ready` holds.
pub(super) fn healthy(status: &NodeRoutingStateStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == condition::READY && c.status == "True")
}

pub(super) fn print(status: &NodeRoutingStateStatus, now: Timestamp, out: &mut dyn Write) -> io::Result<()> {
    let since = |time: Timestamp| age(u64::try_from(now.duration_since(time).as_secs()).unwrap_or(0));
    let agent = &status.agent;
    let up = agent.started_at.as_ref().map(|time| format!(", up {}", since(time.0))).unwrap_or_default();
    let health = if healthy(status) { "healthy" } else { "NOT HEALTHY" };
    writeln!(out, "{}  {health}  (backtrail {}{up}, Linux {})", agent.node, agent.version, agent.kernel)?;
    if status.apply.mode != ApplyState::Enforce {
        writeln!(out, "{}", not_written(&status.apply))?;
    }
    conditions(&status.conditions, &since, out)?;
    fpm(status, &since, out)?;
    routes(status, out)?;
    vrfs(status, out)?;
    imports(status, out)?;
    steering(status, out)?;
    trouble(status, out)
}

/// What keeps changes from being written, and how many there are.
pub(super) fn not_written(apply: &ApplyStatus) -> String {
    let mode = if apply.mode == ApplyState::Paused { "PAUSED" } else { "DRY RUN" };
    let why = if apply.reason.is_empty() { String::new() } else { format!(": {}", apply.reason) };
    let since = apply.since.as_ref().map(|time| format!(", since {}", time.0)).unwrap_or_default();
    let changes = apply.would_change.map(|it| format!("; {} changes wait (backtrail plan)", it.total()));
    format!("{mode} by {}{since}{why}: nothing is written{}", apply.by, changes.unwrap_or_default())
}

/// Prints a heading and at most [`MAX_LINES`] rows; nothing for an empty list.
fn section(
    title: &str,
    header: &[&str],
    rows: impl ExactSizeIterator<Item = Vec<String>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let total = rows.len();
    if total == 0 {
        return Ok(());
    }
    let mut table = Table::new(header);
    rows.take(MAX_LINES).for_each(|row| table.row(row));
    writeln!(out, "\n{title}")?;
    table.write(out, "  ")?;
    if total > MAX_LINES {
        writeln!(out, "  … and {} more (-o json has all)", total - MAX_LINES)?;
    }
    Ok(())
}

fn conditions(
    conditions: &[Condition],
    since: &dyn Fn(Timestamp) -> String,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows = conditions.iter().map(|c| {
        let for_ = since(c.last_transition_time.0);
        vec![c.type_.clone(), c.status.clone(), for_, c.reason.clone(), one_line(&c.message)]
    });
    section("Conditions", &["TYPE", "STATUS", "FOR", "REASON", "MESSAGE"], rows, out)
}

fn fpm(
    status: &NodeRoutingStateStatus,
    since: &dyn Fn(Timestamp) -> String,
    out: &mut dyn Write,
) -> io::Result<()> {
    let fpm = &status.fpm;
    let session = match fpm.state {
        FpmState::NotListening => "not listening: see the condition FPMConnected".to_owned(),
        FpmState::NeverConnected => format!("listening on {}, zebra has never connected", fpm.listen),
        FpmState::Lost => format!("listening on {}, session {} lost", fpm.listen, fpm.epoch),
        FpmState::Connected => {
            let sync = if fpm.initial_sync_complete { "in sync" } else { "replay running" };
            let peer = or_dash(fpm.peer.as_deref());
            format!("session {} from {peer} on {}, {sync}", fpm.epoch, fpm.listen)
        }
    };
    let last = fpm
        .last_message
        .as_ref()
        .map(|time| format!(", last message {} ago", since(time.0)))
        .unwrap_or_default();
    writeln!(out, "\nFPM\n  {session}")?;
    writeln!(out, "  {} routes and {} nexthop objects announced{last}", fpm.routes, fpm.nexthops)?;
    if fpm.malformed > 0 {
        writeln!(out, "  {} sessions closed because of bad frames", fpm.malformed)?;
    }
    Ok(())
}

fn routes(status: &NodeRoutingStateStatus, out: &mut dyn Write) -> io::Result<()> {
    let routes = &status.routes;
    let rejected: u64 = routes.rejected.values().sum();
    writeln!(
        out,
        "\nRoutes\n  learned {}, accepted {}, programmed {}, failed {}, stale {}, rejected {rejected}",
        routes.learned, routes.accepted, routes.programmed, routes.failed, routes.stale
    )?;
    if routes.pending > 0 {
        writeln!(out, "  loading: {} changes still to go", routes.pending)?;
    }
    if rejected > 0 {
        writeln!(out, "  rejected: {}", reasons(routes))?;
    }
    let drift = &status.fib_drift;
    if drift.missing + drift.foreign + drift.mended > 0 {
        writeln!(
            out,
            "  drift: {} missing, {} foreign, {} mended since the agent's start",
            drift.missing, drift.foreign, drift.mended
        )?;
        for note in drift.recent.iter().take(3) {
            writeln!(out, "    {note}")?;
        }
    }
    Ok(())
}

fn reasons(routes: &RouteCounts) -> String {
    let reasons: Vec<String> =
        routes.rejected.iter().filter(|(_, count)| **count > 0).map(|(r, n)| format!("{r} {n}")).collect();
    reasons.join(", ")
}

fn counts(routes: &RouteCounts) -> [String; 3] {
    [
        format!("{}/{}", routes.programmed, routes.accepted),
        routes.failed.to_string(),
        routes.stale.to_string(),
    ]
}

fn vrfs(status: &NodeRoutingStateStatus, out: &mut dyn Write) -> io::Result<()> {
    let rows = status.vrfs.iter().map(|vrf| {
        let interfaces: Vec<String> = vrf
            .interfaces
            .iter()
            .map(|interface| match interface.state.as_str() {
                "Up" => interface.name.clone(),
                state => format!("{} ({state})", interface.name),
            })
            .collect();
        let mut row = vec![vrf.name.clone(), vrf.table.to_string(), vrf.mode.clone(), vrf.isolation.clone()];
        row.push(or_dash(Some(&interfaces.join(" "))));
        row.extend(counts(&vrf.routes));
        row
    });
    let header = ["NAME", "TABLE", "MODE", "ISOLATION", "INTERFACES", "ROUTES", "FAILED", "STALE"];
    section("VRFs (routes: programmed/accepted)", &header, rows, out)
}

fn imports(status: &NodeRoutingStateStatus, out: &mut dyn Write) -> io::Result<()> {
    let rows = status.imports.iter().map(|import| {
        let into = match &import.vrf {
            Some(vrf) => format!("{} ({vrf})", import.into),
            None => import.into.to_string(),
        };
        let mut row = vec![import.from.to_string(), into, import.action.clone()];
        row.extend(counts(&import.routes));
        row.push(or_dash(Some(&reasons(&import.routes))));
        row.push(import.owners.join(" "));
        row
    });
    let header = ["FROM", "INTO", "ACTION", "ROUTES", "FAILED", "STALE", "REJECTED", "OWNERS"];
    section("Imports (tables; routes: programmed/accepted)", &header, rows, out)
}

fn steering(status: &NodeRoutingStateStatus, out: &mut dyn Write) -> io::Result<()> {
    let state = &status.return_path;
    if state.mode == SteeringState::Off && state.interfaces.is_empty() {
        return Ok(());
    }
    let rows = state.interfaces.iter().map(|interface| {
        let c = &interface.counters;
        let mode = interface.mode.as_deref().unwrap_or("egress only");
        let mut row =
            vec![interface.name.clone(), mode.to_owned(), interface.state.clone(), interface.hook.clone()];
        let numbers = [c.learned, c.matched, c.steered, c.would_steer, c.path_down, c.dropped];
        row.extend(numbers.iter().map(u64::to_string));
        row
    });
    let header = [
        "INTERFACE",
        "MODE",
        "STATE",
        "HOOK",
        "LEARNED",
        "MATCHED",
        "STEERED",
        "WOULD-STEER",
        "PATH-DOWN",
        "DROPPED",
    ];
    section(&format!("Return paths: {:?} (flows learned; packets)", state.mode), &header, rows, out)?;
    for (map, entries) in state.maps.iter().filter_map(|map| Some((map, map.entries?))) {
        let percent = entries.saturating_mul(100) / u64::from(map.max_entries.max(1));
        // Of the others it matters only when they fill up.
        if !map.name.starts_with("rp_flows") && percent < 50 {
            continue;
        }
        writeln!(out, "  {}: {entries} of {} entries ({percent} %)", map.name, map.max_entries)?;
    }
    Ok(())
}

/// What needs somebody's hand: conflicts, objects that are not in force, samples of rejected routes.
fn trouble(status: &NodeRoutingStateStatus, out: &mut dyn Write) -> io::Result<()> {
    let conflicts = status.conflicts.iter().map(|c| {
        vec![
            format!("{}/{}", c.kind, c.name),
            c.item.clone(),
            c.reason.clone(),
            c.winner.clone(),
            one_line(&c.message),
        ]
    });
    section("Conflicts", &["OBJECT", "ITEM", "REASON", "WINNER", "MESSAGE"], conflicts, out)?;
    let refused: Vec<_> = status.objects.iter().filter(|object| !object.accepted).collect();
    let refused = refused.into_iter().map(|object| {
        vec![format!("{}/{}", object.kind, object.name), object.reason.clone(), one_line(&object.message)]
    });
    section("Objects not in force", &["OBJECT", "REASON", "MESSAGE"], refused, out)?;
    let rejected = status.rejected.iter().map(|route| {
        vec![route.prefix.clone(), route.table.to_string(), route.reason.clone(), or_dash(Some(&route.owner))]
    });
    section("Rejected routes (sample)", &["PREFIX", "FROM TABLE", "REASON", "IMPORT"], rejected, out)
}

/// A message in one line of a table.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
