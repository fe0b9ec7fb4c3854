//! `backtrail doctor`: what would keep Backtrail from working here, who interferes, and what to do about it.
//!
//! Each check reads the host and judges; none changes anything. Checks that read files take the root of the tree that
//! they read, so that tests can give them another one.

mod frr;
mod node;
mod ownership;
mod returns;
mod steering;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{self, Format};
use super::{Global, Outcome, block_on};
use crate::api::NodeRoutingStateStatus;
use crate::control::{Client, Request, Response};
use crate::host::Host;
use crate::intent;
use crate::intent::types::Intent;
use crate::kernel::observe;

/// Options of `backtrail doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Manifests whose `DataplaneConfig` says what Backtrail owns [default: its defaults]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Where the agent waits for zebra [default: where the running agent does, else `DataplaneConfig`]
    #[arg(long, value_name = "ADDR:PORT")]
    fpm_listen: Option<SocketAddr>,
    /// Directory on a bpffs for pinned programs, links and maps
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/backtrail")]
    bpffs: PathBuf,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Will hurt sooner or later.
    Warning,
    /// Keeps Backtrail, or a part of it, from working.
    Error,
}

/// The checks. Each has a section of its name in `docs/troubleshooting.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    FrrZebra,
    FrrModule,
    FrrRoutingTable,
    FrrFeedback,
    FpmSession,
    KernelVersion,
    KernelFeatures,
    KernelBtf,
    Capabilities,
    Bpffs,
    RpFilter,
    Forwarding,
    ArpAnnounce,
    Networkd,
    Networkmanager,
    NetworkManagers,
    NexthopCompatMode,
    RuleBand,
    RulesBeforeBand,
    TableRange,
    NexthopIds,
    TcxOrder,
    PathMtu,
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// How bad it is.
    pub(super) severity: Severity,
    /// Who found it. Stable: tools may match on it.
    pub(super) check: Check,
    /// What was found.
    pub(super) what: String,
    /// Why it matters; empty when it is as it should be.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) why: &'static str,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) fix: String,
}

impl Finding {
    fn ok(check: Check, what: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, check, what: what.into(), why: "", fix: String::new() }
    }

    fn bad(
        severity: Severity,
        check: Check,
        what: impl Into<String>,
        why: &'static str,
        fix: impl Into<String>,
    ) -> Self {
        Self { severity, check, what: what.into(), why, fix: fix.into() }
    }
}

/// `backtrail doctor`
pub(super) fn doctor(global: &Global, args: &DoctorArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let host = Host::here();
    let intent = match &args.config {
        Some(path) => intent::build(&intent::load(path)?, &BTreeMap::new(), None),
        None => Intent::default(),
    };
    let owned = &intent.config;
    let agent = ask(global);
    let listen =
        args.fpm_listen.or_else(|| agent.as_ref()?.fpm.listen.parse().ok()).unwrap_or(owned.fpm_listen);
    let offload_ack = args.config.as_ref().map(|_| owned.offload_ack);
    let mut findings = frr::check(&host, listen, agent.is_some(), offload_ack);
    if agent.as_ref().is_some_and(|status| status.imports.is_empty()) {
        // Nothing is imported: FRR may be away.
        findings.iter_mut().for_each(|finding| finding.severity = finding.severity.min(Severity::Note));
    }
    findings.extend(node::check(&host, &args.bpffs, agent.is_some()));
    let listed = returns::listed(&host, &intent, agent.as_ref().map(|status| &status.return_path));
    findings.extend(returns::check(&host, &listed));
    findings.extend(block_on(ownership::check(owned))?);
    if let Some(status) = &agent {
        findings.extend(steering::check(&status.return_path, &block_on(observe::links())??));
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    if global.output == Format::Table {
        print(&findings, out)?;
    } else {
        output::value(global.output, out, &findings)?;
    }
    Ok(if worst >= Some(Severity::Warning) { Outcome::Differs } else { Outcome::Ok })
}

/// The status of the running agent, if one runs.
fn ask(global: &Global) -> Option<Box<NodeRoutingStateStatus>> {
    match Client::connect(&global.run_dir).ok()?.call(&Request::Status) {
        Ok(Response::Status(status)) => Some(status),
        _ => None,
    }
}

fn print(findings: &[Finding], out: &mut dyn Write) -> std::io::Result<()> {
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => "ok     ",
            Severity::Note => "note   ",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR  ",
        };
        writeln!(out, "{mark}  {:20}  {}", finding.check, finding.what)?;
        if !finding.why.is_empty() {
            writeln!(out, "{:31}why: {}", "", finding.why)?;
        }
        if !finding.fix.is_empty() {
            writeln!(out, "{:31}fix: {}", "", finding.fix)?;
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    writeln!(out, "{} checks: {errors} errors, {warnings} warnings, {notes} notes", findings.len())
}

/// At most eight names.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
