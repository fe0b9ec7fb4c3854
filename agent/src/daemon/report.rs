//! The status, as `NodeRoutingState` shows it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use zebra_fpm::netlink::FeedbackUnsupported;
use zebra_fpm::session::FeedState;

use super::observed::answers;
use super::trial::Trial;
use super::{Agent, measure};
use crate::api::{
    AgentInfo, ApplyState, ApplyStatus, ChangeCounts, ConflictStatus, FibDrift, FpmState, FpmStatus,
    ImportStatus, MAX_OBJECTS, NodeRoutingStateStatus, ObjectStatus, RejectedRoute, RouteCounts,
    VrfGatewayStatus, VrfInterfaceStatus, VrfStatus,
};
use crate::intent;
use crate::intent::types::Vrf;
use crate::kube::Trouble;
use crate::metrics::Condition;
use crate::reconcile::{Counts, TableCounts};
use crate::status::reason::{self, condition};

/// Entries of bounded lists in the status.
const MAX_LIST: usize = 20;

/// Brings conditions and gauges up to date.
pub(super) fn refresh(agent: &mut Agent) -> (Counts, FibDrift) {
    let counts = agent.engine.counts();
    agent.count_changes();
    measure::publish(agent, &counts);
    let drift = drift(agent);
    conditions(agent, &counts, &drift);
    (counts, drift)
}

/// The whole status.
pub(super) fn status(agent: &mut Agent) -> NodeRoutingStateStatus {
    let (counts, drift) = refresh(agent);
    NodeRoutingStateStatus {
        agent: AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: agent.options.node_name.clone(),
            started_at: Some(Time(agent.started)),
            heartbeat: None,
            kernel: nix::sys::utsname::uname()
                .map(|it| it.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            features: agent.steering.features(),
        },
        apply: agent.apply_state(),
        config_hash: intent::config_hash(&agent.intent),
        fpm: fpm(agent),
        routes: RouteCounts {
            pending: u64::try_from(agent.engine.backlog()).unwrap_or(u64::MAX),
            ..route_counts(&counts)
        },
        vrfs: agent.intent.vrfs.iter().map(|it| vrf(agent, it, &counts)).collect(),
        imports: imports(agent, &counts),
        return_path: agent.steering.status(&agent.steering_plan, &agent.observed, &agent.metrics),
        objects: objects(agent),
        conflicts: conflicts(agent),
        rejected: counts
            .samples
            .iter()
            .map(|(prefix, why)| RejectedRoute {
                prefix: prefix.to_string(),
                reason: (*why).to_owned(),
                ..Default::default()
            })
            .collect(),
        fib_drift: drift,
        conditions: agent.conditions.as_slice().to_vec(),
    }
}

fn fpm(agent: &Agent) -> FpmStatus {
    let view = &agent.fpm;
    let state = match (view.listen, view.connected, view.epoch) {
        (None, _, _) => FpmState::NotListening,
        (_, true, _) => FpmState::Connected,
        (_, false, 0) => FpmState::NeverConnected,
        _ => FpmState::Lost,
    };
    FpmStatus {
        state,
        listen: view.listen.map(|address| address.to_string()).unwrap_or_default(),
        epoch: view.epoch,
        peer: view.peer.filter(|_| view.connected).map(|peer| peer.to_string()),
        last_message: view.last_message.map(Time),
        initial_sync_complete: view.connected
            && matches!(agent.engine.feed().state(), FeedState::Complete(_)),
        routes: agent.engine.rib().len() as u64,
        nexthops: agent.engine.rib().nexthop_count() as u64,
        malformed: view.malformed,
    }
}

fn route_counts(counts: &Counts) -> RouteCounts {
    RouteCounts {
        learned: counts.learned,
        accepted: counts.accepted,
        rejected: counts.rejected.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
        programmed: counts.programmed,
        failed: counts.failed,
        stale: counts.stale,
        pending: 0,
    }
}

fn vrf(agent: &Agent, vrf: &Vrf, counts: &Counts) -> VrfStatus {
    let interfaces = vrf.interfaces.iter().map(|interface| {
        let link = agent.observed.by_name(&interface.name);
        let state = match link {
            None => "Missing",
            Some(link) if link.usable() => "Up",
            Some(_) => "Down",
        };
        VrfInterfaceStatus {
            name: interface.name.clone(),
            state: state.to_owned(),
            ifindex: link.map(|link| link.ifindex),
            mtu: link.map(|link| link.mtu),
        }
    });
    let gateways = vrf.gateways.iter().map(|gateway| {
        let link = agent.observed.by_name(&gateway.interface);
        let entry = link.and_then(|link| agent.observed.neighbour(link.ifindex, gateway.address));
        VrfGatewayStatus {
            address: gateway.address.to_string(),
            interface: gateway.interface.clone(),
            reachable: answers(entry),
        }
    });
    let device = agent.observed.by_name(&vrf.name).filter(|link| link.vrf_table == Some(vrf.table));
    let TableCounts { desired, programmed, failed } =
        counts.tables.get(&vrf.table).copied().unwrap_or_default();
    VrfStatus {
        name: vrf.name.clone(),
        table: vrf.table,
        mode: format!("{:?}", vrf.mode),
        isolation: if vrf.strict { "Strict" } else { "FallbackToMain" }.to_owned(),
        interfaces: interfaces.collect(),
        gateways: gateways.collect(),
        routes: RouteCounts { accepted: desired, programmed, failed, ..Default::default() },
        sources: vrf.owners.iter().map(ToString::to_string).collect(),
        device_index: device.map(|link| link.ifindex),
        ..Default::default()
    }
}

fn imports(agent: &Agent, counts: &Counts) -> Vec<ImportStatus> {
    let plans = agent.engine.plan().imports.iter().zip(&counts.imports);
    let status = plans.map(|(plan, counts)| ImportStatus {
        owners: plan.import.owners.iter().map(ToString::to_string).collect(),
        from: plan.import.from_table,
        interfaces: plan.import.from_interfaces.iter().cloned().collect(),
        into: plan.import.into.table,
        vrf: plan.import.into.vrf.clone(),
        action: if plan.import.program { "Program" } else { "Observe" }.to_owned(),
        routes: RouteCounts {
            learned: counts.received,
            accepted: counts.accepted,
            rejected: counts.rejected.iter().map(|(reason, n)| ((*reason).to_owned(), *n)).collect(),
            programmed: counts.programmed,
            failed: counts.failed,
            stale: counts.stale,
            pending: 0,
        },
    });
    status.collect()
}

fn objects(agent: &Agent) -> Vec<ObjectStatus> {
    let mut objects: Vec<ObjectStatus> = agent
        .intent
        .objects
        .iter()
        .map(|state| ObjectStatus {
            kind: state.object.kind.clone(),
            name: state.object.name.clone(),
            accepted: state.accepted,
            reason: state.reason.clone(),
            message: state.message.clone(),
            generation: state.generation,
        })
        .collect();
    // A problem of the plan (an interface that is not there, a table that zebra writes) belongs to its object too.
    for problem in &agent.engine.plan().problems {
        let of = |status: &&mut ObjectStatus| {
            status.kind == problem.object.kind && status.name == problem.object.name
        };
        if let Some(status) = objects.iter_mut().find(of)
            && status.accepted
            && status.message.is_empty()
        {
            problem.reason.clone_into(&mut status.reason);
            status.message.clone_from(&problem.message);
        }
    }
    if let Some(why) = agent.feedback_refused()
        && let Some(config) = objects.iter_mut().find(|status| status.kind == "DataplaneConfig")
        && config.message.is_empty()
    {
        reason::UNSUPPORTED.clone_into(&mut config.reason);
        config.message = not_answered(why);
    }
    objects.sort_by_key(|status| (status.accepted, status.message.is_empty()));
    objects.truncate(MAX_OBJECTS);
    objects
}

fn conflicts(agent: &Agent) -> Vec<ConflictStatus> {
    let conflicts = agent.intent.conflicts.iter().map(|conflict| ConflictStatus {
        kind: conflict.object.kind.clone(),
        name: conflict.object.name.clone(),
        item: conflict.item.clone(),
        reason: conflict.reason.clone(),
        winner: conflict.winner.to_string(),
        message: conflict.message.clone(),
    });
    conflicts.take(MAX_LIST).collect()
}

/// Compares observed tables with what FRR announced, and names what the kernel refuses.
fn drift(agent: &Agent) -> FibDrift {
    let mut drift = FibDrift {
        mended: agent.engine.stats().drift + agent.environment.mended,
        recent: agent.drift.notes(),
        ..FibDrift::default()
    };
    for (index, plan) in (0u16..).zip(&agent.engine.plan().imports) {
        let observed = agent.survey.as_ref().map(|survey| &survey.observed);
        let Some(present) = observed.and_then(|tables| tables.get(&plan.import.into.table)) else { continue };
        if plan.import.program {
            continue;
        }
        let (missing, sample) =
            agent.engine.observed_missing(index, |prefix| present.contains(prefix), MAX_LIST);
        drift.missing += missing;
        let table = plan.import.into.table;
        drift.sample.extend(sample.iter().map(|prefix| format!("{prefix} is not in table {table}")));
    }
    let refused = agent.engine.refused(MAX_LIST);
    drift.sample.extend(refused);
    drift.sample.truncate(MAX_LIST);
    drift
}

// ===== conditions =====

struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn new(holds: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds, reason, message: message.into() }
    }
}

fn conditions(agent: &mut Agent, counts: &Counts, drift: &FibDrift) {
    let parts = [
        (condition::ENFORCED, enforced(&agent.apply_state(), &agent.trial)),
        (condition::FPM_CONNECTED, fpm_connected(agent)),
        (condition::FRR_PREPARED, frr_prepared(agent)),
        (condition::SYNCHRONIZED, synchronized(agent, counts)),
        (condition::PROGRAMMED, programmed(agent, counts)),
        (condition::DATAPLANE_ATTACHED, attached(agent)),
        (condition::FIB_CONSISTENT, consistent(agent, drift)),
        (condition::ACCEPTED, accepted(agent)),
    ];
    let negative = [
        (condition::CONFLICTED, conflicted(agent)),
        (condition::GUARDRAIL_TRIPPED, guardrail(counts, agent.engine.rib().limit())),
        (condition::FOREIGN_INTERFERENCE, interference(agent)),
    ];
    // What is kept out on purpose, or put right again, does not make a node unready.
    let wants_frr = !agent.intent.imports.is_empty();
    // What FRR lacks shows in the connection, or in routes that do not come.
    let blocking = |kind: &str| match kind {
        condition::SYNCHRONIZED | condition::FRR_PREPARED => false,
        condition::FPM_CONNECTED => wants_frr,
        _ => true,
    };
    let wrong: Vec<&str> = parts
        .iter()
        .filter(|(kind, verdict)| !verdict.holds && blocking(kind))
        .map(|(kind, _)| *kind)
        .collect();
    let ready = if !agent.ready {
        Verdict::new(false, reason::STARTING, "the first pass has not ended")
    } else if wrong.is_empty() {
        Verdict::new(true, reason::ALL_WELL, "")
    } else {
        Verdict::new(false, reason::PARTIAL, format!("not as asked for: {}", wrong.join(", ")))
    };
    let degraded = Verdict::new(!ready.holds && agent.ready, ready.reason, ready.message.clone());
    let now = jiff::Timestamp::now();
    let all = [(condition::READY, ready), (condition::DEGRADED, degraded)];
    let cluster =
        agent.manifests.cluster().map(|cluster| (condition::CLUSTER_SYNCHRONIZED, synchronous(cluster)));
    for (kind, verdict) in all.into_iter().chain(parts).chain(negative).chain(cluster) {
        agent
            .metrics
            .status
            .conditions
            .get_or_create(&Condition { condition: kind })
            .set(verdict.holds.into());
        agent.conditions.set(now, kind, verdict.holds, verdict.reason, &verdict.message);
    }
}

fn enforced(apply: &ApplyStatus, trial: &Trial) -> Verdict {
    let reason = match (apply.mode, trial.failure()) {
        (ApplyState::Enforce, None) if trial.is_on() => return Verdict::new(true, reason::PROBING, ""),
        (ApplyState::Enforce, None) => return Verdict::new(true, reason::ENFORCING, ""),
        (ApplyState::Enforce, Some(failure)) if failure.rolled_back => {
            let text = format!(
                "{}: the former configuration is in force again; edit the new one to have it tried again",
                failure.message
            );
            return Verdict::new(false, reason::ROLLED_BACK, text);
        }
        (ApplyState::Enforce, Some(failure)) => {
            return Verdict::new(false, reason::PROBE_FAILED, failure.message.clone());
        }
        (ApplyState::DryRun, _) => reason::DRY_RUN,
        (ApplyState::Paused, _) => reason::PAUSED,
    };
    let why = if apply.reason.is_empty() { String::new() } else { format!(" ({})", apply.reason) };
    let ChangeCounts { add, replace, delete } = apply.would_change.unwrap_or_default();
    let changes = format!("it would add {add}, replace {replace}, delete {delete} objects");
    Verdict::new(false, reason, format!("nothing is written, because of {}{why}: {changes}", apply.by))
}

fn fpm_connected(agent: &Agent) -> Verdict {
    let view = &agent.fpm;
    if let Some(error) = &view.error {
        return Verdict::new(false, reason::LISTEN_FAILED, error.clone());
    }
    let listen = view.listen.map(|address| address.to_string()).unwrap_or_default();
    match (view.connected, view.second_client, view.epoch) {
        (true, Some((old, new)), _) => Verdict::new(
            true,
            reason::PEER_REPLACED,
            format!("{new} took over from {old}: is there a second zebra with `fpm address {listen}`?"),
        ),
        (true, None, _) => match agent.feedback_refused() {
            Some(why) => Verdict::new(true, reason::FEEDBACK_UNSUPPORTED, not_answered(why)),
            None => Verdict::new(true, reason::CONNECTED, ""),
        },
        (false, _, 0) => Verdict::new(
            false,
            reason::NEVER_CONNECTED,
            format!(
                "no zebra has connected to {listen}{}: start it with `-M dplane_fpm_nl` and configure `fpm address`",
                view.last_disconnect.as_ref().map(|why| format!(" ({why})")).unwrap_or_default()
            ),
        ),
        _ => Verdict::new(false, reason::LOST, view.last_disconnect.clone().unwrap_or_default()),
    }
}

fn not_answered(why: FeedbackUnsupported) -> String {
    format!("fpm.offloadAck: {why}. Start zebra without `--asic-offload=notify_on_offload`, or upgrade FRR")
}

fn frr_prepared(agent: &Agent) -> Verdict {
    agent.frr_lacks().map_or_else(
        || Verdict::new(true, reason::PREPARED, ""),
        |lack| Verdict::new(false, lack.reason, lack.message),
    )
}

fn synchronized(agent: &Agent, counts: &Counts) -> Verdict {
    let feed = agent.engine.feed();
    match feed.state() {
        _ if feed.is_synchronized() => Verdict::new(true, reason::IN_SYNC, ""),
        FeedState::Lost(_) if agent.fpm.epoch == 0 && counts.stale == 0 => {
            Verdict::new(false, reason::INITIAL_SYNC, "FRR has not connected yet")
        }
        FeedState::Lost(_) => {
            Verdict::new(false, reason::RETAINING, format!("{} routes are kept without FRR", counts.stale))
        }
        _ if feed.synced_pid().is_none() => Verdict::new(false, reason::INITIAL_SYNC, ""),
        _ => Verdict::new(false, reason::RESYNCING, format!("{} routes are not confirmed yet", counts.stale)),
    }
}

/// What is away does not make the node unready: what it was asked to do last stays in force.
fn synchronous(cluster: Result<(), &Trouble>) -> Verdict {
    match cluster {
        Ok(()) => Verdict::new(true, reason::IN_SYNC, ""),
        Err(trouble) => Verdict::new(false, trouble.reason, trouble.message.clone()),
    }
}

fn programmed(agent: &Agent, counts: &Counts) -> Verdict {
    let apply = agent.apply_state();
    if apply.would_change.is_some_and(|changes| changes.total() > 0) {
        return enforced(&apply, &agent.trial);
    }
    if let Some(rule) = agent.environment.refused_rules.first() {
        let (held, (from, to)) = (agent.environment.refused_rules.len(), agent.intent.config.rule_priorities);
        let text = format!(
            "{held} rules are held back, such as {rule}, for foreign rules stand in our band {from}-{to}: move them, or \
             the band (ownership.rulePriorities)"
        );
        return Verdict::new(false, reason::BAND_OCCUPIED, text);
    }
    let failures = &agent.environment.failures;
    if let Some((kind, text)) = failures.first() {
        let more = failures.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        return Verdict::new(false, reason::KERNEL_REJECTED, format!("{kind}: {text}{more}"));
    }
    if let Some(text) = agent.engine.refused(1).into_iter().next() {
        return Verdict::new(
            false,
            reason::KERNEL_REJECTED,
            format!("{} routes fail; {text}", counts.failed),
        );
    }
    if !agent.is_frozen() && agent.settle_at.is_some() {
        return Verdict::new(false, reason::PENDING, "what changed is being planned");
    }
    if !agent.is_frozen() && !agent.engine.is_idle() {
        return Verdict::new(
            false,
            reason::PENDING,
            format!("{} operations are under way", agent.engine.backlog()),
        );
    }
    let grave = [reason::TABLE_OWNED_BY_ZEBRA, reason::TABLE_OCCUPIED];
    let problem = agent.engine.plan().problems.iter().find(|p| grave.contains(&p.reason));
    if let Some(problem) = problem {
        return Verdict::new(false, problem.reason, format!("{}: {}", problem.object, problem.message));
    }
    Verdict::new(true, reason::ALL_PROGRAMMED, "")
}

fn attached(agent: &Agent) -> Verdict {
    if let Some(trouble) = agent.steering.trouble() {
        return Verdict::new(false, trouble.reason, trouble.message.clone());
    }
    if agent.steering.is_opening() {
        return Verdict::new(false, reason::PENDING, "the kernel is verifying the programs");
    }
    if let Some(problem) = agent.steering_plan.conditions.first() {
        return Verdict::new(false, problem.reason, format!("{}: {}", problem.item, problem.message));
    }
    if agent.intent.return_paths.is_empty() {
        return Verdict::new(true, reason::NOT_REQUESTED, "");
    }
    Verdict::new(true, reason::ATTACHED, "")
}

fn consistent(agent: &Agent, drift: &FibDrift) -> Verdict {
    if let Some(error) = agent.comparison.failure() {
        let text = format!("{error}: tried again within 60 s; what others changed meanwhile may be missing");
        return Verdict::new(false, reason::COMPARISON_FAILED, text);
    }
    if drift.missing > 0 {
        let sample = drift.sample.first().cloned().unwrap_or_default();
        let text =
            format!("{} routes that FRR announced are not where it should put them: {sample}", drift.missing);
        return Verdict::new(false, reason::OBSERVED_MISMATCH, text);
    }
    Verdict::new(true, reason::CONSISTENT, "")
}

fn accepted(agent: &Agent) -> Verdict {
    if let Some(error) = agent.manifests.errors().next() {
        return Verdict::new(false, reason::UNREADABLE, error);
    }
    let bad = agent.intent.objects.iter().find(|state| !state.accepted);
    bad.map_or_else(
        || Verdict::new(true, reason::VALID, ""),
        |state| Verdict::new(false, reason::INVALID, format!("{}: {}", state.object, state.message)),
    )
}

fn conflicted(agent: &Agent) -> Verdict {
    agent.intent.conflicts.first().map_or_else(
        || Verdict::new(false, reason::ALL_WELL, ""),
        |conflict| {
            let text = format!(
                "{} {} against {}: {}",
                conflict.object, conflict.item, conflict.winner, conflict.message
            );
            Verdict::new(true, reason::PARTIAL, format!("{}: {text}", conflict.reason))
        },
    )
}

fn guardrail(counts: &Counts, limit: usize) -> Verdict {
    if counts.refused > 0 {
        let text = format!(
            "{} announcements were not learned, for {limit} routes are: filter them in FRR, or raise maxRoutesPerNode and \
             restart the agent",
            counts.refused
        );
        return Verdict::new(true, reason::MAX_LEARNED_ROUTES, text);
    }
    let guards = [
        reason::DEFAULT_ROUTE_REJECTED,
        reason::PROTECTED_PREFIX,
        reason::MAX_ROUTES,
        reason::MAX_ROUTES_PER_NODE,
    ];
    for guard in guards {
        if let Some(number) = counts.rejected.get(guard) {
            let sample = counts.samples.iter().find(|(_, why)| *why == guard);
            let sample = sample.map(|(prefix, _)| format!(", such as {prefix}")).unwrap_or_default();
            return Verdict::new(true, guard, format!("{number} routes are kept out{sample}"));
        }
    }
    Verdict::new(false, reason::ALL_WELL, "")
}

fn interference(agent: &Agent) -> Verdict {
    if let Some(rule) = agent.environment.foreign_rules.first() {
        let (from, to) = agent.intent.config.rule_priorities;
        let text = format!("a foreign rule stands in our band {from}-{to}: {rule}: move it, or the band");
        return Verdict::new(true, reason::RULE_SHADOWED, text);
    }
    if agent.environment.mended > 0 {
        let text =
            format!("{} rules were put right after somebody removed or added them", agent.environment.mended);
        return Verdict::new(true, reason::RULE_DELETED, text);
    }
    if let Some((key, times)) = &agent.environment.reset {
        let text = format!(
            "sysctls that we need were changed by somebody {times} times, and set again: the latest is {key}"
        );
        return Verdict::new(true, reason::SYSCTL_CHANGED, text);
    }
    Verdict::new(false, reason::NO_INTERFERENCE, "")
}
