//! Nodes without a kernel: the agent's own controller with a token as the shipped account's pods have it, and a daemon that
//! has everything in force that it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail::api::{AgentInfo, NodeRoutingState, NodeRoutingStateStatus, ObjectStatus};
use backtrail::control::{Call, Request, Response};
use backtrail::intent::build;
use backtrail::kube::{Pace, Snapshot, follow};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::requests::Writes;

/// How often progress is told.
const TOLD: Duration = Duration::from_secs(10);
/// Everything settles within that on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(1800);
/// Requests of the administrator's at a time.
const AT_ONCE: usize = 16;
/// Where the agents' account and their Lease are.
const NAMESPACE: &str = "backtrail-system";
/// Agents start one after the other: kubelets never start theirs in the same instant.
const BETWEEN_STARTS: Duration = Duration::from_millis(20);

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

/// Asks until the server has answered: one that is busy refuses, or lets requests time out.
async fn insist<T>(what: &str, ask: impl AsyncFn() -> kube::Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(kube::Error::Api(status)) if (400..429).contains(&status.code) => {
                return Err(kube::Error::Api(status)).with_context(|| what.to_owned());
            }
            Err(error) if began.elapsed() > LIMIT => return Err(error).with_context(|| what.to_owned()),
            Err(error) => eprintln!("  {what}: {error}"),
        }
        ensure!(!backtrail_lab::interrupted(), "interrupted");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
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
        NAMESPACE.clone_into(&mut config.default_namespace);
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
        insist("metrics", async || Writes::read(&self.client).await).await
    }

    /// Makes the Nodes and the objects.
    pub(super) async fn populate(&self) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        let params = PatchParams::apply("backtrail-bench");
        let node = |n| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(n), "labels": {"rack": format!("r{}", n % 10)}}});
        let apply = async |n| {
            let node = Patch::Apply(node(n));
            insist("Node", async || nodes.patch(&name(n), &params, &node).await).await.map(drop)
        };
        stream::iter(1..self.nodes).map(apply).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let imports = self.imports();
        for n in 0..self.objects {
            let object = format!("import-{n:03}");
            let import = Patch::Apply(json!({
                "apiVersion": "backtrail.dev/v1alpha1",
                "kind": "RouteImport",
                "metadata": {"name": object},
                "spec": {
                    "from": {"table": 5000},
                    "allowed": {"mode": "Filtered", "prefixes": [{"prefix": format!("10.{n}.0.0/16"), "le": 24}]},
                    "into": {"vrf": {"name": format!("v{n}"), "table": 10_000 + n}},
                },
            }));
            insist("RouteImport", async || imports.patch(&object, &params, &import).await).await?;
        }
        Ok(())
    }

    /// What the API server knows the agent of a node by: a token that is bound to it, as a pod there gets.
    async fn token(&self, n: u32) -> Result<AuthInfo> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), NAMESPACE);
        let node = json!({"apiVersion": "v1", "kind": "Node", "name": name(n)});
        let request = serde_json::from_value(json!({"spec": {"audiences": [], "boundObjectRef": node}}))?;
        let params = PostParams::default();
        let ask = async || accounts.create_token_request("backtrail", &params, &request).await;
        let token = insist("token", ask).await?.status.context("no token")?.token;
        Ok(serde_json::from_value(json!({"token": token}))?)
    }

    /// Starts the controllers of all simulated nodes, each with a connection and a token of its own.
    pub(super) async fn start(&self) -> Result<()> {
        for n in 1..self.nodes {
            let mut config = self.config.clone();
            config.auth_info = self.token(n).await?;
            let (calls_in, calls) = mpsc::channel(4);
            let (out, snapshots) = watch::channel(Snapshot::default());
            tokio::spawn(daemon(name(n), calls, snapshots, Arc::clone(&self.churn)));
            tokio::spawn(follow(Client::try_from(config)?, name(n), calls_in, Pace::default(), out));
            tokio::time::sleep(BETWEEN_STARTS).await;
        }
        Ok(())
    }

    /// What every simulated node says of itself is another from now on.
    pub(super) fn change(&self, value: u64) {
        self.churn.store(value, Ordering::Relaxed);
    }

    /// Edits an object that concerns all nodes.
    pub(super) async fn edit(&self, patch: Value) -> Result<()> {
        let (imports, patch) = (self.imports(), Patch::Merge(patch));
        insist("edit", async || imports.patch("import-000", &PatchParams::default(), &patch).await)
            .await
            .map(drop)
    }

    /// Waits until every object is ready on so many nodes, and the first in this generation.
    pub(super) async fn settled(&self, nodes: u32, generation: i64) -> Result<Duration> {
        let (began, imports) = (Instant::now(), self.imports());
        let mut told = began;
        loop {
            let list = insist("RouteImports", async || imports.list(&Default::default()).await).await?;
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
            if told.elapsed() > TOLD {
                let done = list.items.iter().filter(|it| ready(it)).count();
                let (all, took) = (list.items.len(), began.elapsed().as_secs());
                eprintln!("  {done} of {all} objects ready on all {nodes} nodes after {took} s");
                told = Instant::now();
            }
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
        let add = async |n| {
            let mut state = NodeRoutingState::new(&name(n), Default::default());
            insist("state", async || api.patch(&name(n), &params, &Patch::Apply(&state)).await).await?;
            state.status = Some(model.clone());
            let ask = async || api.patch_status(&name(n), &params, &Patch::Apply(&state)).await;
            insist("state", ask).await.map(drop)
        };
        let added = stream::iter(self.nodes..states).map(add).buffer_unordered(AT_ONCE);
        added
            .try_collect::<()>()
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
