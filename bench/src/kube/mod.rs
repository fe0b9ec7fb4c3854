//! What a cluster's agents ask of its API server: the agent's own controller on simulated nodes, one real agent that sums
//! up what they say, and the numbers that decide how far it scales.

mod fleet;
mod requests;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Agent, Audited, Cluster};
use clap::Args;
use serde_json::json;

use self::fleet::Fleet;
use self::requests::Writes;
use crate::Common;
use crate::report::{Bar, Bound, Report};
use crate::usage::{self, Usage};

pub(crate) const BARS: &[Bar] = &[
    Bar {
        name: "edit-state-writes",
        bound: Bound::AtMost(2.0),
        unit: "",
        meaning: "writes of a NodeRoutingState for each node, for one edit of an object that concerns all",
    },
    Bar {
        name: "edit-object-writes",
        bound: Bound::AtMost(1.0),
        unit: "",
        meaning: "writes of the object's status for such an edit, for each 10 s that it takes, and one",
    },
    Bar {
        name: "quiet-writes",
        bound: Bound::AtMost(1.0),
        unit: "",
        meaning: "writes for each node in ten quiet minutes",
    },
    Bar {
        name: "churn-writes",
        bound: Bound::AtMost(6.0),
        unit: "",
        meaning: "writes for each node and minute while its state changes every second",
    },
    Bar {
        name: "state-bytes",
        bound: Bound::AtMost(160.0),
        unit: " bytes",
        meaning: "a NodeRoutingState as watched, beyond 4096 bytes, for each object that it names",
    },
    Bar {
        name: "object-bytes",
        bound: Bound::AtMost(4096.0),
        unit: " bytes",
        meaning: "an object with its status, as every agent that watches its kind gets it",
    },
];

const MIB: f64 = 1024.0 * 1024.0;
/// Part of a `NodeRoutingState` that depends on no object, bytes.
const STATE_BASE: f64 = 4096.0;
/// Writes come every ten seconds, and a tenth more, if any are due.
const CALM: Duration = Duration::from_secs(13);
/// The node with a real agent.
const REAL: &str = "w1";

#[derive(Debug, Args)]
pub(crate) struct KubeArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Nodes, one of them with a real agent [default: 500, with --quick 20]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=2000))]
    nodes: Option<u32>,
    /// Objects that concern all nodes [default: 200, with --quick 20]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=250))]
    objects: Option<u32>,
    /// Nodes whose states the real agent sums up in the end [default: 5000, with --quick no more than nodes]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    states: Option<u32>,
}

impl KubeArgs {
    fn unless_quick(&self, given: Option<u32>, usual: u32, quick: u32) -> u32 {
        given.unwrap_or(if self.common.quick { quick } else { usual })
    }

    fn nodes(&self) -> u32 {
        self.unless_quick(self.nodes, 500, 20)
    }

    fn objects(&self) -> u32 {
        self.unless_quick(self.objects, 200, 20)
    }

    fn states(&self) -> u32 {
        self.unless_quick(self.states, 5000, 0).max(self.nodes())
    }

    fn times(&self) -> Times {
        let [quiet, churn, states] = if self.common.quick { [30, 30, 5] } else { [600, 60, 60] };
        Times { quiet: Duration::from_secs(quiet), churn, states: Duration::from_secs(states) }
    }
}

/// How long is measured.
struct Times {
    /// Without any change.
    quiet: Duration,
    /// Seconds of changes.
    churn: u64,
    /// With all states.
    states: Duration,
}

pub(crate) fn describe(args: &KubeArgs) -> String {
    let times = args.times();
    format!(
        "kube: {} nodes, one of them with a real agent, and {} objects, on one kube-apiserver with etcd: an edit, {} s of \
         quiet, {} s of changes, then {} states\n",
        args.nodes(),
        args.objects(),
        times.quiet.as_secs(),
        times.churn,
        args.states()
    )
}

pub(crate) fn run(args: &KubeArgs, report: &mut Report) -> Result<()> {
    report.setting("nodes", args.nodes());
    report.setting("objects", args.objects());
    report.setting("states", args.states());
    let binary = std::path::absolute(&args.common.agent)?;
    let cluster = Cluster::installed("kube", &binary)?.context("cargo xtask kube-assets")?;
    let node = cluster.node(REAL, "rack: r1")?;
    let agent = cluster.agent(REAL, &node)?;
    cluster
        .control
        .enter(|| -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let config = kube::config::Kubeconfig::read_from(cluster.server.admin()).context("kubeconfig")?;
            runtime.block_on(async {
                let fleet = Fleet::new(config, REAL, args.nodes(), args.objects()).await?;
                Bench { args, cluster: &cluster, agent, fleet, report }.run().await
            })
        })?
        .with_context(|| {
            let log = cluster.server.log();
            let end: Vec<_> = log.lines().rev().take(20).collect();
            format!("kube-apiserver: {}", end.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })
}

struct Bench<'a> {
    args: &'a KubeArgs,
    cluster: &'a Cluster,
    agent: Agent,
    fleet: Fleet,
    report: &'a mut Report,
}

/// What the processes had used, and what was written, at some instant.
struct Mark {
    at: Instant,
    server: Usage,
    etcd: Usage,
    agent: Usage,
    writes: Writes,
}

impl Bench<'_> {
    async fn run(mut self) -> Result<()> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let idle = self.mark().await?;
        self.report.add("agent --kubernetes, no object, resident", "MiB", idle.agent.rss / MIB);
        self.fleet.populate().await?;
        self.fleet.settled(1, 1).await?;
        let alone = self.mark().await?;
        self.report.add("the same with all objects", "MiB", alone.agent.rss / MIB);

        self.fleet.start().await?;
        let took = self.fleet.settled(self.args.nodes(), 1).await?;
        self.report.add("until all nodes count as ready", "s", took.as_secs_f64());
        let start = self.calm().await?;
        self.used("start", &alone, &start);
        self.edit(&start).await?;
        let quiet = self.quiet().await?;
        self.churn(&quiet).await?;
        self.bytes().await?;
        self.states().await
    }

    async fn mark(&mut self) -> Result<Mark> {
        let (server, etcd) = self.cluster.server.pids()?;
        Ok(Mark {
            at: Instant::now(),
            server: usage::of(server)?,
            etcd: usage::of(etcd)?,
            agent: usage::of(self.agent.process()?.pid())?,
            writes: self.fleet.writes().await?,
        })
    }

    /// Waits until nothing was written for longer than the shortest time between two writes of an object.
    async fn calm(&mut self) -> Result<Mark> {
        let mut last = self.mark().await?;
        loop {
            tokio::time::sleep(CALM).await;
            let now = self.mark().await?;
            if now.writes == last.writes {
                return Ok(now);
            }
            ensure!(!backtrail_lab::interrupted(), "interrupted");
            last = now;
        }
    }

    /// CPU time between two marks, for each minute, and memory at the second.
    fn used(&mut self, phase: &str, from: &Mark, to: &Mark) {
        let minutes = (to.at - from.at).as_secs_f64() / 60.0;
        for (who, before, after) in [
            ("kube-apiserver", from.server, to.server),
            ("etcd", from.etcd, to.etcd),
            ("agent that sums up", from.agent, to.agent),
        ] {
            let cpu = (after.cpu - before.cpu) / minutes;
            self.report.add(format!("{phase}: CPU of {who}"), "s a minute", cpu);
            self.report.add(format!("{phase}: memory of {who}"), "MiB", after.rss / MIB);
        }
        eprintln!("  {phase}: {minutes:.1} min, {} writes", to.writes.since(&from.writes));
    }

    /// Writes of statuses that the real agent has made so far, of the edited object and of all others.
    fn sums(&self) -> Result<(u64, u64)> {
        let (mut edited, mut others) = (0, 0);
        for request in self.cluster.server.audited()?.into_iter().filter(Audited::is_write) {
            match request.target.as_str() {
                "routeimports/import-000/status" => edited += 1,
                target if target.starts_with("routeimports/") => others += 1,
                _ => {}
            }
        }
        Ok((edited, others))
    }

    /// One edit: every node says so once, and the sums follow at their pace.
    async fn edit(&mut self, start: &Mark) -> Result<()> {
        let before = self.sums()?;
        self.fleet.edit(json!({"spec": {"maxRoutes": 77}})).await?;
        let took = self.fleet.settled(self.args.nodes(), 2).await?;
        let after = self.mark().await?;
        self.report.add("until an edit is ready on all nodes", "s", took.as_secs_f64());
        let writes = after.writes.since(&start.writes);
        self.report.add_bar("edit-state-writes", writes.states as f64 / f64::from(self.args.nodes()));
        let sums = self.sums()?;
        let tens = 1.0 + took.as_secs_f64() / 10.0;
        self.report.add_bar("edit-object-writes", (sums.0 - before.0) as f64 / tens);
        self.report.add("writes of other objects meanwhile", "", (sums.1 - before.1) as f64);
        self.used("edit", start, &after);
        Ok(())
    }

    async fn quiet(&mut self) -> Result<Mark> {
        let before = self.calm().await?;
        tokio::time::sleep(self.args.times().quiet).await;
        let after = self.mark().await?;
        let writes = after.writes.since(&before.writes);
        let tens = (after.at - before.at).as_secs_f64() / 600.0;
        let each = (writes.states + writes.objects) as f64 / f64::from(self.args.nodes());
        self.report.add_bar("quiet-writes", each / tens.max(f64::EPSILON));
        self.used("quiet", &before, &after);
        Ok(after)
    }

    /// Every look finds something new on every node.
    async fn churn(&mut self, before: &Mark) -> Result<()> {
        for second in 1..=self.args.times().churn {
            self.fleet.change(second);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let after = self.mark().await?;
        let writes = after.writes.since(&before.writes);
        let minutes = (after.at - before.at).as_secs_f64() / 60.0;
        // The real agent's state does not change.
        let nodes = f64::from(self.args.nodes() - 1);
        self.report.add_bar("churn-writes", writes.states as f64 / nodes / minutes);
        self.report.add("churn: writes of objects a minute", "", writes.objects as f64 / minutes);
        self.used("churn", before, &after);
        Ok(())
    }

    async fn bytes(&mut self) -> Result<()> {
        let (state, object) = self.fleet.bytes().await?;
        self.report.add("a NodeRoutingState as watched", "bytes", state);
        let beyond = (state - STATE_BASE).max(0.0) / f64::from(self.args.objects());
        self.report.add_bar("state-bytes", beyond);
        self.report.add_bar("object-bytes", object);
        Ok(())
    }

    /// The real agent with the states of many more nodes.
    async fn states(&mut self) -> Result<()> {
        self.fleet.add_states(self.args.states()).await?;
        self.fleet.settled(self.args.states(), 2).await?;
        let before = self.mark().await?;
        tokio::time::sleep(self.args.times().states).await;
        let after = self.mark().await?;
        self.used(&format!("{} states", self.args.states()), &before, &after);
        let peak = after.agent.peak / MIB;
        self.report.add("agent that sums up, peak of its memory", "MiB", peak);
        Ok(())
    }
}
