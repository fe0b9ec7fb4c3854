//! The agent: one task that owns all state, fed by FPM, the kernel, manifests, clients and time.
//!
//! Everything that decides is pure and lives elsewhere; this module moves events in and operations out. One thread
//! suffices: the work for each event is small, the kernel's part of programming has a thread of its own, and dumps
//! run on blocking threads.

mod answer;
mod apply;
mod backoff;
mod bfd;
mod compare;
mod drift;
mod environment;
mod events;
mod explain;
mod facts;
mod feedback;
mod follow;
mod frr;
mod manifests;
mod measure;
mod observed;
mod options;
mod output;
mod persist;
mod probe;
mod report;
mod settle;
mod steer;
mod survey;
mod trial;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use zebra_fpm::netlink::FeedbackUnsupported;
use zebra_fpm::server::{Epoch, Event, EventReceiver, FeedbackSender, Server, ServerOptions};

use self::apply::Switch;
use self::compare::Comparison;
use self::drift::DriftLog;
use self::environment::Environment;
use self::facts::Facts;
use self::follow::Followers;
use self::frr::Frr;
use self::manifests::{Manifests, Source};
use self::observed::{Observed, Outages};
pub use self::options::{AgentOptions, Origin};
use self::output::Bulk;
use self::persist::Persisted;
pub use self::persist::{Owned, STATE_FILES};
use self::steer::Steerer;
use self::survey::Survey;
use self::trial::{Candidate, Trial};
use crate::api::ChangeCounts;
use crate::control::{self, Call, Endpoint, Response};
use crate::intent::types::Intent;
use crate::kernel::KernelError;
use crate::kernel::actions::Actions;
use crate::kernel::devices::DeviceWriter;
use crate::kernel::monitor::{Monitor, Notification, Watch};
use crate::kernel::observe;
use crate::kernel::programmer::{BatchDone, Programmer};
use crate::kernel::sysctl::Sysctls;
use crate::metrics::{self, Metrics};
use crate::model::{KernelRoute, NexthopObject};
use crate::plan::steering::SteeringPlan;
use crate::preflight::Zebra;
use crate::reconcile::{Audit, Engine};
use crate::status::ConditionSet;

/// Target of the one log line that tools wait for: it is written whatever the log's level.
pub const READY: &str = "backtrail::ready";
/// Full comparison with the kernel where it does not notify.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// Changes that come together are planned together.
const SETTLE: Duration = Duration::from_millis(20);
/// Shortest time between two surveys of all routes; a long survey waits twenty times its own length.
const SURVEY_EVERY: Duration = Duration::from_millis(500);
/// Idle flows are forgotten this often.
const EXPIRE_EVERY: Duration = Duration::from_secs(30);
/// What failed is tried again this often: the FPM address taken, a rule refused.
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// Conditions and metrics are brought up to date this often, if nobody asks for them.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Routes of a dump that are handed over at once.
const CHUNK: usize = 4096;
/// Operations above which notifications of routes are not listened to: they cost the kernel a quarter of its rate.
const BULK: usize = 4096;
/// Protocols whose routes steering looks at as they come and go: kernel, boot, static, RA, DHCP, our own.
const FOREIGN_PROTOCOLS: [u8; 5] = [2, 3, 4, 9, 16];

/// What blocking threads report.
enum Report {
    AuditBegin(Vec<NexthopObject>),
    AuditRoutes(Vec<KernelRoute>),
    AuditEnd(Result<(), KernelError>),
    Survey(Result<Survey, KernelError>, Duration),
    /// Whether the zebra of this session acts on feedback, as far as its version is known.
    FeedbackSupport(Epoch, Result<(), FeedbackUnsupported>),
    Zebra(Zebra),
    /// Of the trial with this number.
    Probed(u64, probe::Verdict),
    Peers(Result<BTreeSet<IpAddr>, KernelError>),
}

/// What has to be done again.
#[derive(Debug, Clone, Copy, Default)]
struct Todo {
    plan: bool,
    steering: bool,
    environment: bool,
    survey: bool,
}

/// FPM as the status shows it.
#[derive(Debug, Default)]
struct FpmView {
    listen: Option<SocketAddr>,
    error: Option<String>,
    peer: Option<SocketAddr>,
    epoch: u64,
    last_message: Option<jiff::Timestamp>,
    connected: bool,
    malformed: u64,
    second_client: Option<(SocketAddr, SocketAddr)>,
    last_disconnect: Option<String>,
    replay_began: Option<Instant>,
    /// Updates of the replay came that are not compared with the kernel yet.
    replaying: bool,
    /// When the last of them was.
    replay_compared: Option<Instant>,
    /// Whether this session's zebra can be told what became of its routes; `None` until that is known.
    feedback_support: Option<Result<(), FeedbackUnsupported>>,
}

/// All state of the agent.
struct Agent {
    options: AgentOptions,
    started: jiff::Timestamp,
    metrics: Arc<Metrics>,
    manifests: Manifests,
    intent: Intent,
    engine: Engine,
    observed: Observed,
    outages: Outages,
    facts: Facts,
    environment: Environment,
    programmer: Programmer,
    monitor: Monitor,
    listening: bool,
    bulk: Bulk,
    steering: Steerer,
    followers: Followers,
    steering_plan: SteeringPlan,
    /// `None` until the first one is done: what steering needs cannot be told before.
    survey: Option<Survey>,
    surveying: bool,
    next_survey: Instant,
    audit: Option<Audit>,
    /// A dump is being read, for `audit` or for nobody any more.
    audit_lag: bool,
    audit_stop: Arc<AtomicBool>,
    comparison: Comparison,
    next_expiry: Instant,
    next_retry: Instant,
    next_refresh: Instant,
    reports: mpsc::Sender<Report>,
    fpm: FpmView,
    fpm_events: Option<EventReceiver>,
    /// Listens as long as it is kept.
    fpm_server: Option<Server>,
    fpm_feedback: Option<FeedbackSender>,
    frr: Frr,
    failed_sessions: BTreeSet<bfd::Session>,
    conditions: ConditionSet,
    drift: DriftLog,
    /// When a gateway's change was notified whose groups are not acknowledged yet.
    failover_since: Option<Instant>,
    persisted: Persisted,
    switch: Switch,
    trial: Trial,
    /// What would change, while nothing is written.
    would_change: Option<ChangeCounts>,
    /// Who waits for the end of what was under way when the switch was pressed.
    pausing: Vec<oneshot::Sender<Response>>,
    listing: Option<answer::Listing>,
    /// Gateways of several paths, kept resolved so that their failure and their return show.
    watched: BTreeSet<(u32, IpAddr)>,
    todo: Todo,
    settle_at: Option<Instant>,
    /// Whether anything was planned yet.
    planned: bool,
    ready: bool,
}

/// Runs the agent until SIGTERM or SIGINT; the data plane stays as it is.
///
/// # Errors
/// When it cannot start: no privilege, another agent, unreadable manifests. What fails later shows as a condition.
pub fn run(options: AgentOptions) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")?;
    let result = runtime.block_on(run_async(options));
    // Dumps under way are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn run_async(options: AgentOptions) -> anyhow::Result<()> {
    let endpoint = Endpoint::claim(&options.run_dir)?;
    let metrics = Arc::new(Metrics::default());
    let (calls_in, mut calls) = mpsc::channel::<Call>(16);
    tokio::spawn(control::serve(endpoint.listen()?, calls_in.clone()));
    serve_metrics(&options, &metrics).await;
    let (reports_in, mut reports) = mpsc::channel::<Report>(8);
    let (bfd_in, mut sessions) = mpsc::channel(64);
    tokio::spawn(bfd::follow(options.frr_run_dir.clone(), bfd_in));
    let (mut agent, mut notifications, mut done) =
        Agent::start(options, metrics, reports_in, calls_in).await?;
    let mut signals = Signals::new()?;
    let mut changes = agent.manifests.watch()?;
    loop {
        let deadline = agent.deadline();
        tokio::select! {
            event = recv_fpm(&mut agent.fpm_events) => agent.on_fpm(event),
            Some(batch) = done.recv() => agent.on_batch(&batch),
            Some(notification) = notifications.recv() => {
                agent.on_notification(notification).await;
                // A burst is taken whole before anything is planned.
                for _ in 0..256 {
                    let Ok(next) = notifications.try_recv() else { break };
                    agent.on_notification(next).await;
                }
            }
            Some(failed) = sessions.recv() => agent.on_bfd(failed),
            Some(report) = reports.recv() => agent.on_report(report),
            opened = agent.steering.opening() => {
                agent.steering.opened(opened, Instant::now());
                agent.todo.steering = true;
            }
            Some(call) = calls.recv() => agent.on_call(call),
            () = agent.followers.readable() => agent.followers.take(&mut agent.steering, &agent.observed),
            Some(()) = changes.recv() => agent.reload("manifests changed"),
            _ = signals.hangup.recv() => agent.reload("SIGHUP"),
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            () = sleep_until(deadline.into()) => agent.on_time().await,
        }
        agent.settle().await;
        agent.pump();
        agent.start_probes();
    }
    agent.stop();
    drop(endpoint);
    Ok(())
}

/// The next FPM event; never, while FPM does not listen.
async fn recv_fpm(events: &mut Option<EventReceiver>) -> Option<Event> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
        })
    }
}

async fn serve_metrics(options: &AgentOptions, metrics: &Arc<Metrics>) {
    match tokio::net::TcpListener::bind(options.metrics_listen).await {
        Ok(listener) => {
            tokio::spawn(metrics::serve(listener, Arc::clone(metrics)));
        }
        // Without metrics the node still forwards.
        Err(error) => {
            tracing::error!(%error, address = %options.metrics_listen, "metrics are not served: give another --metrics-listen");
        }
    }
}

impl Agent {
    async fn start(
        options: AgentOptions,
        metrics: Arc<Metrics>,
        reports: mpsc::Sender<Report>,
        calls: mpsc::Sender<Call>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Notification>, mpsc::Receiver<BatchDone>)> {
        let now = Instant::now();
        std::fs::create_dir_all(&options.state_dir)
            .with_context(|| format!("--state-dir {}: cannot be made", options.state_dir.display()))?;
        let source = Source::open(&options, calls).await?;
        let mut manifests = Manifests::new(source, options.node_labels.clone(), &options.state_dir);
        let earlier = manifests.loaded().clone();
        let mut intent = manifests.load(None)?;
        let persisted = Persisted::open(&options.state_dir, &intent.config)?;
        persisted.keep_ownership(&mut intent);
        let mut trial = Trial::open(&options.state_dir);
        let hash = manifests.hash();
        let read = Candidate { loaded: manifests.loaded(), hash: &hash, config: &intent.config };
        let was_written =
            !earlier.manifests.is_empty() && !manifests.build(&earlier, None).config.is_frozen();
        if let Some(former) = trial.start(read, was_written.then_some(earlier), now) {
            tracing::warn!(
                "the manifests were taken back after a failed probe: the former ones stay in force"
            );
            intent = manifests.build(&former, None);
            persisted.keep_ownership(&mut intent);
        }
        let config = intent.config.clone();
        let (programmer, done) = Programmer::spawn()?;
        let mut protocols = vec![config.route_protocol];
        protocols.extend(FOREIGN_PROTOCOLS);
        let watch = Watch { own_port: programmer.port(), route_protocols: protocols };
        let (monitor, notifications) = Monitor::start(&watch)?;
        let mut observed = Observed::default();
        observed.reset(observe::links().await?, observe::neighbours().await?);
        let mut outages = Outages::default();
        outages.update(observed.links(), now);
        let environment = Environment::new(
            Actions::open(config.route_protocol)?,
            DeviceWriter::open(&options.state_dir, config.route_protocol)?,
            Sysctls::open_at(&options.sysctls, &options.state_dir)?,
            config.route_protocol,
        );
        let mut engine = Engine::new(&config, now, persisted.synced_pid());
        engine.remember_tables(persisted.zebra_tables());
        let mut agent = Self {
            started: jiff::Timestamp::now(),
            metrics,
            manifests,
            intent,
            engine,
            observed,
            outages,
            facts: Facts::new(options.facts.clone(), now),
            environment,
            programmer,
            monitor,
            listening: false,
            bulk: Bulk::new(now),
            steering: Steerer::new(&options.bpffs),
            followers: Followers::default(),
            steering_plan: SteeringPlan::default(),
            survey: None,
            surveying: false,
            next_survey: now,
            audit: None,
            audit_lag: false,
            audit_stop: Arc::default(),
            comparison: Comparison::new(now),
            next_expiry: now + EXPIRE_EVERY,
            next_retry: now + RETRY_EVERY,
            next_refresh: now + REFRESH_EVERY,
            reports,
            fpm: FpmView::default(),
            fpm_events: None,
            fpm_server: None,
            fpm_feedback: None,
            frr: Frr::new(now),
            failed_sessions: BTreeSet::new(),
            conditions: ConditionSet::default(),
            drift: DriftLog::default(),
            failover_since: None,
            persisted,
            switch: Switch::open(&options.state_dir),
            trial,
            would_change: None,
            pausing: Vec::new(),
            listing: None,
            watched: BTreeSet::new(),
            todo: Todo { plan: true, steering: true, environment: true, survey: true },
            settle_at: Some(now),
            planned: false,
            ready: false,
            options,
        };
        agent.engine.set_usable_links(agent.observed.usable(), now);
        agent.engine.neighbours_seen(agent.observed.neighbours(), now);
        agent.engine.want_audit();
        agent.listen_fpm();
        Ok((agent, notifications, done))
    }

    /// Waits for zebra. A taken address is tried again; the rest of the agent works meanwhile.
    fn listen_fpm(&mut self) {
        let address = self.options.fpm_listen.unwrap_or(self.intent.config.fpm_listen);
        if self.fpm.listen == Some(address) {
            return;
        }
        self.fpm_events = None;
        self.fpm_server = None;
        self.fpm_feedback = None;
        match Server::bind(address, ServerOptions::default()) {
            Ok((server, events)) => {
                self.fpm.listen = Some(server.local_addr());
                self.fpm.error = None;
                self.fpm_events = Some(events);
                self.fpm_feedback = Some(server.feedback());
                self.fpm_server = Some(server);
            }
            Err(error) => {
                self.fpm.listen = None;
                self.fpm.error = Some(format!(
                    "cannot listen for zebra on {address}: {error}: free the address, or set fpm.listen or --fpm-listen"
                ));
                tracing::error!(%error, %address, "FPM does not listen");
            }
        }
    }

    fn stop(&mut self) {
        tracing::info!("stopping; routes, rules and programs stay in place");
        self.note_feed();
    }

    /// What the next agent should know of zebra.
    fn note_feed(&mut self) {
        self.persisted.set_feed(self.engine.feed().synced_pid(), &self.engine.zebra_tables().tables);
    }
}
