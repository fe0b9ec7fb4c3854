//! `backtrail cleanup`: takes away everything that agents made here, and nothing else.
//!
//! What is ours is told by marks in the kernel itself, so that it works after a crash and without any file: the
//! protocol number of routes, rules, nexthops and neighbours, the alias of devices, the folder of pins. Only what
//! sysctls and the interfaces of others were comes from the state directory.

use std::fs;
use std::hash::BuildHasher as _;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use rustc_hash::FxBuildHasher;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::agent::Dirs;
use super::output::{self, Format};
use super::{Global, Outcome, block_on};
use crate::control::{ControlError, Endpoint};
use crate::daemon::{Owned, STATE_FILES};
use crate::kernel::actions::Actions;
use crate::kernel::devices::{DeviceWriter, RECORD as DEVICES};
use crate::kernel::dump::{self, RouteFilter};
use crate::kernel::programmer::{Batch, Programmer, RouteOp};
use crate::kernel::sysctl::{RECORD, Sysctls};
use crate::kernel::{KernelError, observe};
use crate::model::Rule;
use crate::model::devices::{DeviceOp, Devices};
use crate::reconcile::{device_ops, sort_for_deletion};
use crate::steering;

/// Operations in one batch.
const BATCH: usize = 512;

/// Failures that are printed; the rest is counted.
const MAX_FAILURES: usize = 20;

/// Looks at the devices at most: a step shows in the next look.
const DEVICE_PASSES: usize = 60;

/// Time that an interface gets to have its carrier again.
const CARRIER: Duration = Duration::from_millis(250);

/// Options of `backtrail cleanup`.
#[derive(Debug, Clone, Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    dirs: Dirs,
    /// Clean up although an agent runs; it will put back what it is asked for
    #[arg(long)]
    force: bool,
    /// When done, wait for SIGTERM: a DaemonSet's containers must not end
    #[arg(long)]
    wait: bool,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Pins of programs, links and maps, and clsact filters.
    pins: usize,
    rules: usize,
    routes: usize,
    nexthops: usize,
    neighbours: usize,
    devices: usize,
    /// Interfaces of others that left a VRF device.
    released: usize,
    /// Addresses that were added to interfaces of others.
    addresses: usize,
    sysctls: usize,
    /// What could not be removed, at most [`MAX_FAILURES`].
    failures: Vec<String>,
    /// All of them.
    failed: usize,
}

impl Report {
    /// Counts one removal. What is gone already needs no removal.
    fn note(result: Result<(), KernelError>, removed: &mut usize, failures: &mut Vec<String>) {
        match result {
            Ok(()) => *removed += 1,
            Err(error) if error.is_absent() => {}
            Err(error) => failures.push(error.to_string()),
        }
    }
}

/// `backtrail cleanup`
pub(super) fn cleanup(global: &Global, args: &CleanupArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    // Held to the end: no agent starts while we clean up.
    let claim = match Endpoint::claim(&global.run_dir) {
        Ok(claim) => Some(claim),
        Err(ControlError::AlreadyRunning { pid, .. }) if !args.force => {
            bail!("an agent runs (pid {pid}): stop it first, or give --force");
        }
        Err(ControlError::AlreadyRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut report = Report::default();
    // Before anything else: what is steered to a path of ours must not meet a route that is half gone.
    match steering::cleanup(&args.dirs.bpffs) {
        Ok(removed) => report.pins = removed.len(),
        Err(error) => report.failures.push(error.to_string()),
    }
    let owned = Owned::read(&args.dirs.state_dir);
    block_on(kernel(&owned, &mut report))??;
    block_on(devices(&owned, &args.dirs.state_dir, &mut report))??;
    sysctls(&args.dirs, &mut report);
    if report.failures.is_empty() {
        state(&args.dirs.state_dir, &mut report);
    }
    if let Some(claim) = claim {
        claim.retire();
    }
    report.failed = report.failures.len();
    report.failures.truncate(MAX_FAILURES);
    print(global, &report, out)?;
    if report.failed > 0 {
        bail!("{} things could not be removed", report.failed);
    }
    if args.wait {
        out.flush()?;
        block_on(terminated())??;
    }
    Ok(Outcome::Ok)
}

/// Waits for SIGTERM or SIGINT.
async fn terminated() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Rules first: from then on nothing is looked up in our tables. Then routes, then the nexthops that they used (the
/// kernel would remove both together, but unannounced), then devices.
async fn kernel(owned: &Owned, report: &mut Report) -> Result<(), KernelError> {
    let actions = Actions::open(owned.route_protocol)?;
    let (first, last) = owned.rule_priorities;
    let mut present = observe::rules().await?;
    let ours =
        |rule: &&Rule| rule.protocol == owned.route_protocol && (first..=last).contains(&rule.priority);
    let mut ours: Vec<Rule> = present.iter().filter(ours).cloned().collect();
    sort_for_deletion(&mut ours);
    for rule in &ours {
        let deleted = actions.del_rule(rule, &mut present).await;
        Report::note(deleted, &mut report.rules, &mut report.failures);
    }
    routes(owned, report).await?;
    for neighbour in observe::neighbours().await? {
        if neighbour.managed && neighbour.protocol == owned.route_protocol {
            let released = actions.manage_neighbour(neighbour.ifindex, neighbour.address, false).await;
            Report::note(released, &mut report.neighbours, &mut report.failures);
        }
    }
    Ok(())
}

/// Releases interfaces with what they had, and deletes devices: the steps towards no device at all.
async fn devices(owned: &Owned, state_dir: &Path, report: &mut Report) -> Result<(), KernelError> {
    let mut writer = DeviceWriter::open(state_dir, owned.route_protocol)?;
    let mut failures = Vec::new();
    for _ in 0..DEVICE_PASSES {
        let links = observe::links().await?.into_iter().map(|link| (link.ifindex, link)).collect();
        let ops = device_ops(&Devices::default(), &links, writer.record());
        if ops.is_empty() && writer.record().is_empty() {
            failures.clear();
            break;
        }
        failures.clear();
        for op in &ops {
            let done = writer.apply(op).await;
            let counted = match op {
                DeviceOp::Delete(_) => &mut report.devices,
                DeviceOp::Leave(_) => &mut report.released,
                DeviceOp::RemoveAddress(..) => &mut report.addresses,
                _ => &mut 0,
            };
            Report::note(done, counted, &mut failures);
        }
        if ops.is_empty() || !failures.is_empty() {
            // An interface gets its carrier back a moment after it has moved, and routes need it.
            tokio::time::sleep(CARRIER).await;
        }
    }
    failures.extend(writer.record().values().map(|changed| {
        let lost = changed.main.len().max(changed.routes.len()) + changed.lost.len();
        format!(
            "{}: {lost} of its routes and addresses could not be put back, for it has no carrier",
            changed.name
        )
    }));
    report.failures.extend(failures);
    Ok(())
}

/// Routes of our protocol in every table (an import may go into main), then nexthop objects of our ids.
async fn routes(owned: &Owned, report: &mut Report) -> Result<(), KernelError> {
    let protocol = Some(owned.route_protocol);
    let mut routes = Vec::new();
    dump::dump_routes(RouteFilter { protocol, ..RouteFilter::default() }, &mut |route| routes.push(route))?;
    // The kernel's trie is up to 40 times slower in ascending order.
    routes.sort_by_cached_key(|route| FxBuildHasher.hash_one(route.key));
    let (first, last) = owned.nexthop_ids;
    let mut nexthops: Vec<_> = dump::dump_nexthops(protocol)?
        .into_iter()
        .filter(|object| (first..=last).contains(&object.id.0))
        .collect();
    // Groups before their members, which cannot be told apart otherwise from what the kernel removed with them.
    nexthops.sort_by_key(|object| object.body.members().is_none());
    let (programmer, mut done) = Programmer::spawn()?;
    let operations = routes
        .into_iter()
        .map(RouteOp::DelRoute)
        .chain(nexthops.iter().map(|object| RouteOp::DelNexthop(object.id)));
    let mut operations = operations.peekable();
    while operations.peek().is_some() {
        let ops: Vec<RouteOp> = operations.by_ref().take(BATCH).collect();
        // One batch is under way at a time: the queue has room.
        if programmer.try_submit(Batch { id: 0, ops }).is_err() {
            break;
        }
        let Some(batch) = done.recv().await else { break };
        let mut errors = batch.errors.into_iter().peekable();
        for (index, op) in batch.ops.iter().enumerate() {
            match errors.next_if(|error| error.index == index) {
                Some(error) if matches!(error.errno, libc::ESRCH | libc::ENOENT) => {}
                Some(error) => report.failures.push(format!("{op}: {error}")),
                None if matches!(op, RouteOp::DelRoute(_)) => report.routes += 1,
                None => report.nexthops += 1,
            }
        }
    }
    Ok(())
}

/// Puts sysctls back to what they were before any agent, and forgets them.
fn sysctls(dirs: &Dirs, report: &mut Report) {
    if !dirs.state_dir.is_dir() {
        return;
    }
    match Sysctls::open_at(&dirs.sysctls, &dirs.state_dir) {
        Ok(mut sysctls) => {
            let changed = sysctls.recorded().count();
            if let Err(error) = sysctls.restore_all() {
                report.failures.push(error.to_string());
            }
            report.sysctls = changed - sysctls.recorded().count();
        }
        Err(error) => report.failures.push(error.to_string()),
    }
}

/// Removes the agent's files, and their directory where nothing else is in it.
fn state(state_dir: &Path, report: &mut Report) {
    for path in STATE_FILES.iter().chain(&[RECORD, DEVICES]).map(|name| state_dir.join(name)) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                report.failures.push(format!("remove {}: {error}", path.display()));
            }
            _ => {}
        }
    }
    // Not empty, or not there: both are fine.
    let _ = fs::remove_dir(state_dir);
}

fn print(global: &Global, report: &Report, out: &mut dyn Write) -> anyhow::Result<()> {
    if global.output != Format::Table {
        return output::value(global.output, out, report);
    }
    writeln!(
        out,
        "removed {} BPF pins, {} rules, {} routes, {} nexthop objects, {} devices, {} addresses; released {} interfaces, \
         {} neighbours; restored {} sysctls",
        report.pins,
        report.rules,
        report.routes,
        report.nexthops,
        report.devices,
        report.addresses,
        report.released,
        report.neighbours,
        report.sysctls
    )?;
    for failure in &report.failures {
        writeln!(out, "failed: {failure}")?;
    }
    Ok(())
}
