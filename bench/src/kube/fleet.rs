//! Nodes without a kernel: the agent's own controller, and a daemon that has everything in force that it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail::api::{AgentInfo, NodeRoutingState, NodeRoutingStateStatus, ObjectStatus};
use backtrail::control::{Call, Request, Response};
use backtrail::intent::build;
use backtrail::kube::{Pace, Snapshot, follow};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::requests::Writes;

/// Everything settles within that on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(1800);
/// Requests of the administrator's at a time.
const AT_ONCE: usize = 16;

/// All nodes of a cluster but the real one.
pub(super) struct Fleet {
    client: Client,
    config: Config,
    real: &'static str,
    nodes: u32,
    objects: u32,
    churn: Arc<AtomicU64>,
}

fn name(n: u32) -> String {
    format!("node-{n:04}")
}

impl Fleet {
    pub(super) async fn new(
        kubeconfig: Kubeconfig,
        real: &'static str,
        nodes: u32,
        objects: u32,
    ) -> Result<Self> {
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        // As the agent has it.
        config.default_retry = false;
        let client = Client::try_from(config.clone())?;
        Ok(Self { client, config, real, nodes, objects, churn: Arc::default() })
    }

    fn imports(&self) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("backtrail.dev", "v1alpha1", "RouteImport");
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, "routeimports"))
    }

    fn states(&self) -> Api<NodeRoutingState> {
        Api::all(self.client.clone())
    }

    pub(super) async fn writes(&self) -> Result<Writes> {
        Writes::read(&self.client).await
    }

    /// Makes the Nodes and the objects.
    pub(super) async fn populate(&self) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let params = PostParams::default();
        stream::iter(1..self.nodes)
            .map(|n| {
                let labels = json!({"rack": format!("r{}", n % 10)});
                let node = serde_json::from_value(json!({"metadata": {"name": name(n), "labels": labels}}));
                let (nodes, params) = (&nodes, &params);
                async move { anyhow::Ok(nodes.create(params, &node?).await?) }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |_| Ok(()))
            .await?;
        for n in 0..self.objects {
            let object = json!({
                "apiVersion": "backtrail.dev/v1alpha1",
                "kind": "RouteImport",
                "metadata": {"name": format!("import-{n:03}")},
                "spec": {
                    "from": {"table": 5000},
                    "allowed": {"mode": "Filtered", "prefixes": [{"prefix": format!("10.{n}.0.0/16"), "le": 24}]},
                    "into": {"vrf": {"name": format!("v{n}"), "table": 10_000 + n}},
                },
            });
            self.imports().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        }
        Ok(())
    }

    /// Starts the controllers of all simulated nodes, each with a connection of its own.
    pub(super) fn start(&self) -> Result<()> {
        for n in 1..self.nodes {
            let (calls_in, calls) = mpsc::channel(4);
            let (out, snapshots) = watch::channel(Snapshot::default());
            tokio::spawn(daemon(name(n), calls, snapshots, Arc::clone(&self.churn)));
            let client = Client::try_from(self.config.clone())?;
            tokio::spawn(follow(client, name(n), calls_in, Pace::default(), out));
        }
        Ok(())
    }

    /// What every simulated node says of itself is another from now on.
    pub(super) fn change(&self, value: u64) {
        self.churn.store(value, Ordering::Relaxed);
    }

    /// Edits an object that concerns all nodes.
    pub(super) async fn edit(&self, patch: Value) -> Result<()> {
        self.imports().patch("import-000", &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until every object is ready on so many nodes, and the first in this generation.
    pub(super) async fn settled(&self, nodes: u32, generation: i64) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let list = self.imports().list(&Default::default()).await?;
            let ready = |it: &DynamicObject| {
                let status = it.data.get("status").unwrap_or(&Value::Null);
                let count = |field: &str| status.get(field).and_then(Value::as_i64).unwrap_or_default();
                let is_first = it.metadata.name.as_deref() == Some("import-000");
                count("programmedNodes") == i64::from(nodes)
                    && (!is_first || count("observedGeneration") >= generation)
            };
            let Some(behind) = list.items.iter().find(|it| !ready(it)) else { return Ok(began.elapsed()) };
            ensure!(!backtrail_lab::interrupted(), "interrupted");
            ensure!(began.elapsed() < LIMIT, "not within {} s: {behind:#?}", LIMIT.as_secs());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Bytes of a state and of an object, as a watch delivers them.
    pub(super) async fn bytes(&self) -> Result<(f64, f64)> {
        let state = serde_json::to_vec(&self.states().get(&name(1)).await?)?.len();
        let object = serde_json::to_vec(&self.imports().get("import-000").await?)?.len();
        Ok((state as f64, object as f64))
    }

    /// States of further nodes that say what the first simulated one says, until there are so many.
    pub(super) async fn add_states(&self, states: u32) -> Result<()> {
        let api = self.states();
        let model = api.get(&name(1)).await?.status.context("no status")?;
        let params = PatchParams::apply("backtrail-bench").force();
        stream::iter(self.nodes..states)
            .map(|n| {
                let mut state = NodeRoutingState::new(&name(n), Default::default());
                let (api, params, model) = (&api, &params, &model);
                async move {
                    api.patch(&name(n), params, &Patch::Apply(&state)).await?;
                    state.status = Some(model.clone());
                    anyhow::Ok(api.patch_status(&name(n), params, &Patch::Apply(&state)).await?)
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |_| Ok(()))
            .await
            .with_context(|| format!("states beyond those of {} and the fleet", self.real))
    }
}

/// The daemon of a simulated node.
async fn daemon(
    node: String,
    mut calls: mpsc::Receiver<Call>,
    snapshots: watch::Receiver<Snapshot>,
    churn: Arc<AtomicU64>,
) {
    // What it makes of the objects, until they change.
    let mut made: (Option<Snapshot>, Vec<ObjectStatus>) = (None, Vec::new());
    while let Some(call) = calls.recv().await {
        let Request::Status = call.request else { continue };
        let snapshot = snapshots.borrow().clone();
        let same = |old: &Snapshot| Arc::ptr_eq(&old.loaded, &snapshot.loaded) && old.node == snapshot.node;
        if !made.0.as_ref().is_some_and(same) {
            let labels = snapshot.node.as_ref().map(|node| node.labels.clone()).unwrap_or_default();
            let entries = build(&snapshot.loaded, &labels, None).objects.into_iter().map(|it| ObjectStatus {
                kind: it.object.kind,
                name: it.object.name,
                accepted: it.accepted,
                reason: it.reason,
                message: it.message,
                generation: it.generation,
            });
            made = (Some(snapshot), entries.collect());
        }
        let mut status = NodeRoutingStateStatus {
            agent: AgentInfo { node: node.clone(), ..Default::default() },
            objects: made.1.clone(),
            ..Default::default()
        };
        status.routes.programmed = churn.load(Ordering::Relaxed);
        call.reply.send(Response::Status(Box::new(status))).ok();
    }
}
