//! The steering edge as the daemon holds it: opened when wanted, tried again when it fails, shown in the status.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backtrail_ebpf_common::OBJECT;
use backtrail_ebpf_common::maps::Counters;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::backoff::Backoff;
use super::observed::Observed;
use crate::api::{
    MapStatus, ProgramStatus, ReturnPathState, SteeredInterfaceStatus, SteeringCounters,
    SteeringGatewayStatus, SteeringState,
};
use crate::control::{FlowOrigin, FlowRow, Page, PageRequest};
use crate::metrics::{self, Interface, Map, Metrics, SteeringEvent};
use crate::plan::steering::{SteeredInterface, SteeringPlan};
use crate::status::reason;
use crate::steering::{
    Attachment, Direction, Features, FlowEntry, FlowEvent, Hook, Pressure, Steering, SteeringError,
    SteeringOptions, SteeringStatus, named,
};

/// Flows looked at for expiry in one go.
const EXPIRY_BUDGET: u32 = 65_536;
/// Gateways listed for each interface.
const MAX_GATEWAYS: usize = 32;

/// First delay after which a refused object, or what could not be attached, is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest such delay: a refused program keeps a CPU busy for seconds, and most likely is refused again.
const RETRY_LONGEST: Duration = Duration::from_secs(300);

/// Why steering is not, or not wholly, in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What loading the object came to.
pub(super) type Opened = Result<Steering, SteeringError>;
/// Loads the object. Blocking: the verifier takes its time, on slow machines many seconds.
type Open = fn(&Path, SteeringOptions) -> Opened;

/// The edge, if it is open.
enum Edge {
    Closed,
    /// A thread of its own loads the object.
    Opening(oneshot::Receiver<Opened>),
    Open(Box<Steering>),
}

/// The edge as the daemon holds it.
pub(super) struct Steerer {
    bpffs: PathBuf,
    open: Open,
    edge: Edge,
    backoff: Backoff,
    trouble: Option<Trouble>,
    /// The plan that failed last: it is not tried again before its time; another one is, at once.
    failed: Option<SteeringPlan>,
}

impl Steerer {
    pub(super) fn new(bpffs: &Path) -> Self {
        Self::with(bpffs, |bpffs, options| Steering::open(bpffs, OBJECT, options))
    }

    fn with(bpffs: &Path, open: Open) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            open,
            edge: Edge::Closed,
            backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST),
            trouble: None,
            failed: None,
        }
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// When what failed is due to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.backoff.due().filter(|_| !self.is_opening())
    }

    /// Whether the object is being loaded.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.edge, Edge::Opening(_))
    }

    /// The end of loading; never, while nothing is being loaded. To be handed to [`Self::opened`].
    pub(super) async fn opening(&mut self) -> Option<Opened> {
        match &mut self.edge {
            // The thread has panicked if it went without a word.
            Edge::Opening(opening) => opening.await.ok(),
            _ => std::future::pending().await,
        }
    }

    /// Takes what was loaded; [`Self::apply`] puts it to use.
    pub(super) fn opened(&mut self, opened: Option<Opened>, now: Instant) {
        self.edge = Edge::Closed;
        match opened {
            Some(Ok(edge)) => {
                self.edge = Edge::Open(Box::new(edge));
                self.backoff.succeeded();
            }
            Some(Err(error)) => self.failed(error.reason(), &error.to_string(), now),
            None => self.failed(reason::LOAD_FAILED, "loading the BPF object ended without a result", now),
        }
    }

    /// Brings programs and maps to the plan; where the object is not loaded yet, has a thread of its own load it first.
    /// Without a `ReturnPath` nothing is loaded, unless an earlier agent left pins, which then go.
    pub(super) fn apply(&mut self, plan: &SteeringPlan, now: Instant) {
        match &mut self.edge {
            Edge::Opening(_) => {}
            Edge::Closed if plan.interfaces.is_empty() && !has_pins(&self.bpffs) => {
                self.trouble = None;
                self.backoff.succeeded();
            }
            Edge::Closed if self.backoff.is_due(now) => {
                let options =
                    SteeringOptions { flow_entries: plan.flows.max_entries, ..SteeringOptions::default() };
                let (open, bpffs) = (self.open, self.bpffs.clone());
                let (done, opening) = oneshot::channel();
                tokio::task::spawn_blocking(move || drop(done.send(open(&bpffs, options))));
                self.edge = Edge::Opening(opening);
            }
            Edge::Closed => {}
            Edge::Open(_) if !self.backoff.is_due(now) && self.failed.as_ref() == Some(plan) => {}
            Edge::Open(edge) => {
                let report = edge.apply(plan);
                if !report.is_unchanged() {
                    tracing::info!(
                        attached = report.attached,
                        detached = report.detached,
                        writes = report.writes,
                        problems = report.problems.len(),
                        "steering changed"
                    );
                }
                match report.problems.first() {
                    None => {
                        self.trouble = None;
                        self.failed = None;
                        self.backoff.succeeded();
                    }
                    Some(error) => {
                        self.failed = Some(plan.clone());
                        self.failed(error.reason(), &error.to_string(), now);
                    }
                }
            }
        }
    }

    fn failed(&mut self, reason: &'static str, error: &str, now: Instant) {
        let delay = self.backoff.failed(now).as_secs();
        // The same failure comes back with every retry: it is news once.
        if self.trouble.as_ref().is_none_or(|known| !known.message.starts_with(error)) {
            tracing::error!(error, "return-path steering is not wholly in force; routes and rules are");
        }
        self.trouble = Some(Trouble { reason, message: format!("{error}; tried again after {delay} s") });
    }

    fn edge(&self) -> Option<&Steering> {
        if let Edge::Open(edge) = &self.edge { Some(edge) } else { None }
    }

    fn edge_mut(&mut self) -> Option<&mut Steering> {
        if let Edge::Open(edge) = &mut self.edge { Some(edge) } else { None }
    }

    /// Where programs are attached, by this agent or an earlier one.
    pub(super) fn attached(&self) -> BTreeSet<(u32, Direction)> {
        crate::steering::attached(&self.bpffs)
    }

    /// Voids cached nexthops after routes or neighbours changed.
    pub(super) fn routes_changed(&mut self) {
        if let Some(Err(error)) = self.edge_mut().map(Steering::bump_generation) {
            tracing::warn!(%error, "cached nexthops stay up to a second longer");
        }
    }

    /// Forgets idle flows.
    pub(super) fn expire(&mut self) {
        if let Some(Err(error)) = self.edge_mut().map(|edge| edge.expire(EXPIRY_BUDGET)) {
            tracing::warn!(%error, "idle flows are not forgotten");
        }
    }

    /// A page of the flow tables. The tables are not counted for it: `total` is what has been seen so far.
    ///
    /// # Errors
    /// The kernel refused the read.
    pub(super) fn flows(
        &self,
        page: PageRequest,
        observed: &Observed,
    ) -> Result<Page<FlowRow>, SteeringError> {
        let Some(edge) = self.edge() else { return Ok(Page { rows: Vec::new(), total: 0, next: None }) };
        let found = edge.flows(page.cursor, page.limit)?;
        let rows: Vec<FlowRow> = found.flows.iter().map(|flow| row(flow, observed)).collect();
        let total = if page.cursor == 0 && found.next.is_none() {
            rows.len() as u64
        } else {
            self.edge().map_or(0, Steering::flow_count)
        };
        Ok(Page { total: total.max(rows.len() as u64), rows, next: found.next })
    }

    /// See [`Steering::is_disturbed`].
    pub(super) fn is_disturbed(&self) -> bool {
        self.edge().is_some_and(|edge| edge.is_disturbed().unwrap_or(false))
    }

    /// Makes the programs report; readable when they have.
    ///
    /// # Errors
    /// For the person who asks: why nothing is reported.
    pub(super) fn listen(&mut self, events: u32) -> Result<AsyncFd<OwnedFd>, String> {
        let Some(edge) = self.edge_mut() else {
            return Err(
                "no flow is followed: no ReturnPath is in force here (see `backtrail status`)".to_owned()
            );
        };
        edge.listen(events).map_err(|error| error.to_string())?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that may close their descriptor early"
        )]
        let ring = edge.event_fd().and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        ring.map_err(|error| format!("cannot wait for events: {error}"))
    }

    pub(super) fn stop_listening(&mut self) {
        if let Some(Err(error)) = self.edge_mut().map(|edge| edge.listen(0)) {
            tracing::warn!(%error, "the programs go on to report events that nobody follows");
        }
    }

    /// Takes what the programs reported.
    pub(super) fn events(&mut self) -> Vec<FlowEvent> {
        self.edge_mut().map(Steering::events).unwrap_or_default()
    }

    /// See [`Steering::suppressed_events`].
    pub(super) fn suppressed_events(&self) -> u64 {
        self.edge().and_then(|edge| edge.suppressed_events().ok()).unwrap_or_default()
    }

    /// What the flow table knows of one flow.
    pub(super) fn flow(&self, protocol: u8, client: SocketAddr, service: SocketAddr) -> Option<FlowEntry> {
        let found = self.edge()?.flow(protocol, client, service);
        found.inspect_err(|error| tracing::warn!(%error, "a flow cannot be looked up")).ok().flatten()
    }

    pub(super) fn features(&self) -> BTreeMap<String, bool> {
        let Some(Ok(status)) = self.edge().map(Steering::report) else { return BTreeMap::new() };
        let Features { tcx, fib_lookup_tbid } = status.features;
        BTreeMap::from([("tcx".to_owned(), tcx), ("fibLookupTbid".to_owned(), fib_lookup_tbid)])
    }

    /// The status, and the metrics that are read with it.
    pub(super) fn status(
        &self,
        plan: &SteeringPlan,
        observed: &Observed,
        metrics: &Metrics,
    ) -> ReturnPathState {
        let Some(edge) = self.edge() else { return ReturnPathState::default() };
        let (status, counters) = match (edge.report(), edge.counters()) {
            (Ok(status), Ok(counters)) => (status, counters),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "steering does not tell its state");
                return ReturnPathState::default();
            }
        };
        publish(metrics, plan, &status, &counters);
        publish_pressure(metrics, edge.pressure());
        let interfaces = plan.interfaces.iter().map(|(ifindex, interface)| {
            let counted = counters.get(ifindex).copied().unwrap_or_default();
            steered(*ifindex, interface, plan, observed, &status, &counted)
        });
        ReturnPathState {
            mode: mode(plan),
            interfaces: interfaces.collect(),
            maps: status.maps.iter().map(map).collect(),
        }
    }
}

fn has_pins(bpffs: &Path) -> bool {
    std::fs::read_dir(bpffs).is_ok_and(|mut entries| entries.next().is_some())
}

/// An IP protocol as rows name it.
pub(super) fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        1 => "ICMP".to_owned(),
        58 => "ICMPv6".to_owned(),
        other => other.to_string(),
    }
}

fn row(flow: &FlowEntry, observed: &Observed) -> FlowRow {
    let interface = observed.name(flow.ifindex).map_or_else(|| format!("if{}", flow.ifindex), str::to_owned);
    FlowRow {
        proto: protocol(flow.protocol),
        client: flow.client,
        service: flow.service,
        interface: if flow.ifindex == 0 { String::new() } else { interface },
        age_seconds: flow.age_seconds,
        steered_packets: flow.steered_packets,
        gateway: flow.gateway,
        origin: if flow.node_origin { FlowOrigin::Node } else { FlowOrigin::Client },
    }
}

fn mode(plan: &SteeringPlan) -> SteeringState {
    let mut modes = plan.interfaces.values().filter_map(|it| it.learn.as_ref()).map(|learn| learn.enforce);
    match modes.next() {
        None => SteeringState::Off,
        Some(first) if modes.any(|other| other != first) => SteeringState::Mixed,
        Some(true) => SteeringState::TCRedirect,
        Some(false) => SteeringState::Shadow,
    }
}

fn steered(
    ifindex: u32,
    interface: &SteeredInterface,
    plan: &SteeringPlan,
    observed: &Observed,
    status: &SteeringStatus,
    counters: &Counters,
) -> SteeredInterfaceStatus {
    let attached: Vec<&Attachment> = status.attachments.iter().filter(|it| it.ifindex == ifindex).collect();
    let wanted = 1 + usize::from(interface.learn.is_some());
    let hook = attached.first().map(|it| if it.hook == Hook::Tcx { "tcx" } else { "clsact" });
    let gateways = plan.managed_neighbours.iter().filter(|(on, _)| *on == ifindex).take(MAX_GATEWAYS);
    SteeredInterfaceStatus {
        name: interface.name.clone(),
        ifindex: Some(ifindex),
        learns: interface.learn.is_some(),
        mode: interface
            .learn
            .as_ref()
            .map(|learn| if learn.enforce { "TCRedirect" } else { "Shadow" }.to_owned()),
        state: if attached.len() >= wanted { "Attached" } else { "Missing" }.to_owned(),
        hook: hook.unwrap_or_default().to_owned(),
        programs: attached.iter().map(|it| program(it)).collect(),
        counters: summary(counters),
        gateways: gateways
            .map(|(on, address)| {
                let entry = observed.neighbour(*on, *address);
                SteeringGatewayStatus {
                    address: address.to_string(),
                    mac: entry.and_then(|it| it.mac).map(mac),
                    state: entry.map_or_else(|| "Incomplete".to_owned(), |it| format!("{:?}", it.state)),
                }
            })
            .collect(),
    }
}

fn program(attachment: &Attachment) -> ProgramStatus {
    ProgramStatus {
        direction: if attachment.direction == Direction::Ingress { "ingress" } else { "egress" }.to_owned(),
        prog_id: attachment.program,
        link_id: attachment.link,
        position: match attachment.programs_before {
            Some(0) => "first".to_owned(),
            Some(before) => format!("behind {before}"),
            None => String::new(),
        },
    }
}

fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn summary(counters: &Counters) -> SteeringCounters {
    SteeringCounters {
        learned: counters.learned,
        matched: counters.matched,
        steered: counters.steered,
        would_steer: counters.would_steer,
        path_down: counters.path_down,
        unknown: counters.midflow,
        own: counters.node_origin,
        exempt: counters.never + counters.protected + counters.excepted + counters.other_service,
        unparsable: counters.truncated + counters.malformed + counters.too_deep,
        too_big: counters.mtu_exceeded + counters.mtu_unfit,
        dropped: counters.dropped + counters.sink_dropped,
        table_full: counters.full,
        stacked: counters.upper_device,
    }
}

fn map(map: &crate::steering::MapReport) -> MapStatus {
    MapStatus {
        name: map.name.to_owned(),
        id: map.id,
        pin_path: map.pin.display().to_string(),
        entries: map.entries,
        max_entries: map.max_entries,
    }
}

fn publish_pressure(metrics: &Metrics, pressure: Pressure) {
    let steering = &metrics.steering;
    metrics::store(&steering.flows_watched, pressure.watched);
    metrics::store(&steering.flows_evicted, pressure.evicted);
    if let Some(age) = pressure.youngest_evicted {
        steering.youngest_evicted_seconds.set(i64::try_from(age).unwrap_or(i64::MAX));
    }
}

fn publish(
    metrics: &Metrics,
    plan: &SteeringPlan,
    status: &SteeringStatus,
    counters: &BTreeMap<u32, Counters>,
) {
    let steering = &metrics.steering;
    steering.attached.clear();
    for (ifindex, interface) in &plan.interfaces {
        let name = interface.name.clone();
        let wanted = 1 + usize::from(interface.learn.is_some());
        let attached = status.attachments.iter().filter(|it| it.ifindex == *ifindex).count() >= wanted;
        steering.attached.get_or_create(&Interface { interface: name.clone() }).set(i64::from(attached));
        for (event, value) in counters.get(ifindex).map(named).into_iter().flatten() {
            let label = SteeringEvent { interface: name.clone(), event };
            metrics::store(&steering.events.get_or_create(&label), value);
        }
    }
    let mut flows = 0;
    for map in &status.maps {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if let Some(entries) = map.entries {
            steering.map_entries.get_or_create(&Map { map: map.name }).set(number(entries));
            flows += if map.name.starts_with("rp_flows") { entries } else { 0 };
        }
        steering.map_max_entries.get_or_create(&Map { map: map.name }).set(i64::from(map.max_entries));
    }
    steering.flows.set(i64::try_from(flows).unwrap_or(i64::MAX));
}
