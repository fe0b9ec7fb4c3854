//! What many agents ask of one API server: the controller's own code on simulated nodes, and the numbers that decide
//! how far it scales. `BACKTRAIL_SIMULATED_NODES` and `BACKTRAIL_SIMULATED_OBJECTS` make it larger: see docs/scale.md.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use backtrail::api::{AgentInfo, NodeRoutingStateStatus, ObjectStatus};
use backtrail::control::{Call, Request, Response};
use backtrail::intent::build;
use backtrail::kube::{Pace, Snapshot, follow};
use backtrail_lab::{ApiServer, Lab};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::sync::{mpsc, watch};

/// Bytes of one `NodeRoutingState` as a watch delivers it: a fixed part, and so much for each object that it names.
const MAX_STATE_BYTES: (usize, usize) = (4096, 160);
/// Bytes of one intent object with its status, as a watch delivers it to every agent.
const MAX_OBJECT_BYTES: usize = 4096;

/// The daemon of a simulated node: it has everything in force that it is asked for.
async fn daemon(
    node: String,
    mut calls: mpsc::Receiver<Call>,
    snapshots: watch::Receiver<Snapshot>,
    churn: Arc<AtomicU64>,
) {
    while let Some(call) = calls.recv().await {
        let Request::Status = call.request else { continue };
        let snapshot = snapshots.borrow().clone();
        let labels = snapshot.node.map(|node| node.labels).unwrap_or_default();
        let intent = build(&snapshot.loaded, &labels, None);
        let objects = intent.objects.iter().map(|it| ObjectStatus {
            kind: it.object.kind.clone(),
            name: it.object.name.clone(),
            accepted: it.accepted,
            reason: it.reason.clone(),
            message: it.message.clone(),
            generation: it.generation,
        });
        let mut status = NodeRoutingStateStatus {
            agent: AgentInfo { node: node.clone(), ..Default::default() },
            objects: objects.collect(),
            ..Default::default()
        };
        status.routes.programmed = churn.load(Ordering::Relaxed);
        call.reply.send(Response::Status(Box::new(status))).ok();
    }
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Writes that the API server has taken, by resource, from its own metrics.
async fn writes(client: &Client) -> Result<BTreeMap<String, u64>> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await?;
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            line.split_once(&format!("{name}=\""))
                .and_then(|(_, rest)| rest.split_once('"'))
                .map(|(value, _)| value)
                .unwrap_or_default()
        };
        let ours =
            label("group") == "backtrail.dev" && matches!(label("verb"), "APPLY" | "PATCH" | "POST" | "PUT");
        if ours {
            let value: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            *counts.entry(format!("{}/{}", label("resource"), label("subresource"))).or_insert(0) +=
                value as u64;
        }
    }
    Ok(counts)
}

fn total(counts: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>, states: bool) -> u64 {
    let of = |map: &BTreeMap<String, u64>| -> u64 {
        map.iter().filter(|(name, _)| name.starts_with("noderoutingstates") == states).map(|(_, n)| n).sum()
    };
    of(counts) - of(before)
}

struct Fleet {
    client: Client,
    nodes: usize,
    objects: usize,
    churn: Arc<AtomicU64>,
}

impl Fleet {
    fn imports(&self) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("backtrail.dev", "v1alpha1", "RouteImport");
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, "routeimports"))
    }

    async fn populate(&self) -> Result<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        for n in 0..self.nodes {
            let node = json!({"metadata": {"name": format!("node-{n:04}"), "labels": {"rack": format!("r{}", n % 10)}}});
            nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        }
        for n in 0..self.objects {
            let object = json!({
                "apiVersion": "backtrail.dev/v1alpha1",
                "kind": "RouteImport",
                "metadata": {"name": format!("import-{n:03}")},
                "spec": {
                    "from": {"table": 5000},
                    "allowed": {"mode": "Filtered", "prefixes": [{"prefix": format!("10.{n}.0.0/16"), "le": 24}]},
                    "into": {"vrf": {"name": format!("v{n}"), "table": 10000 + n}},
                },
            });
            self.imports().create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        }
        Ok(())
    }

    fn start(&self, config: &Config) -> Result<()> {
        for n in 0..self.nodes {
            let (node, (calls_in, calls)) = (format!("node-{n:04}"), mpsc::channel(4));
            let (out, snapshots) = watch::channel(Snapshot::default());
            tokio::spawn(daemon(node.clone(), calls, snapshots, Arc::clone(&self.churn)));
            // A connection for each, as agents have.
            tokio::spawn(follow(Client::try_from(config.clone())?, node, calls_in, Pace::default(), out));
        }
        Ok(())
    }

    /// Waits until every object is ready on every node.
    async fn settled(&self, generation: i64, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let list = self.imports().list(&Default::default()).await?;
            let ready = |it: &DynamicObject| {
                it.data["status"]["programmedNodes"] == self.nodes
                    && (it.metadata.name.as_deref() != Some("import-000")
                        || it.data["status"]["observedGeneration"].as_i64() >= Some(generation))
            };
            if list.items.iter().all(ready) {
                return Ok(began.elapsed());
            }
            let some = list.items.iter().find(|it| !ready(it)).map(|it| it.data["status"].clone());
            ensure!(began.elapsed() < limit, "not within {} s: {some:#?}", limit.as_secs());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn measure(&self) -> Result<()> {
        let limit = Duration::from_secs(900);
        let took = self.settled(1, limit).await?;
        let start = writes(&self.client).await?;
        println!(
            "{} nodes, {} objects: everything ready {:.0} s after the start; writes so far: {start:?}",
            self.nodes,
            self.objects,
            took.as_secs_f64()
        );

        // One edit: every node says so once, and the sums follow at their pace.
        let patch = Patch::Merge(json!({"spec": {"maxRoutes": 77}}));
        self.imports().patch("import-000", &PatchParams::default(), &patch).await?;
        let began = Instant::now();
        let took = self.settled(2, limit).await?;
        let edited = writes(&self.client).await?;
        let (states, sums) = (total(&edited, &start, true), total(&edited, &start, false));
        println!(
            "an edit is ready on all nodes after {:.0} s: {states} writes of states, {sums} of objects",
            took.as_secs_f64()
        );
        let rounds = 1 + began.elapsed().as_secs() / 10;
        ensure!(states <= self.nodes as u64 * 2, "{states} writes of {} nodes for one edit", self.nodes);
        // The edit itself, and its status at most once each ten seconds.
        ensure!(sums <= 2 + rounds, "{sums} writes of objects in {rounds} rounds");

        // Quiet: nobody writes.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let before = writes(&self.client).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let quiet = writes(&self.client).await?;
        let count = total(&quiet, &before, true) + total(&quiet, &before, false);
        println!("quiet: {count} writes in 30 s");
        ensure!(count == 0, "{count} writes in quiet: {before:?} {quiet:?}");

        // Churn: every look finds something new on every node.
        let (began, mut seconds) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(30) {
            seconds += 1;
            self.churn.store(seconds, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let churned = writes(&self.client).await?;
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let each = total(&churned, &quiet, true) as f64 / self.nodes as f64 / minutes;
        println!(
            "churn: {each:.1} writes for each node and minute, {} of objects",
            total(&churned, &quiet, false)
        );
        ensure!(each <= 6.0 + 1.0 / minutes, "{each} writes for each node and minute");

        let gvk = GroupVersionKind::gvk("backtrail.dev", "v1alpha1", "NodeRoutingState");
        let states = Api::<DynamicObject>::all_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&gvk, "noderoutingstates"),
        );
        let state = serde_json::to_vec(&states.get("node-0000").await?)?.len();
        let object = serde_json::to_vec(&self.imports().get("import-000").await?)?.len();
        println!(
            "bytes: {state} a NodeRoutingState with {} objects, {object} an object with its status",
            self.objects
        );
        let most = MAX_STATE_BYTES.0 + MAX_STATE_BYTES.1 * self.objects;
        ensure!(state <= most, "a NodeRoutingState has {state} bytes, more than {most}");
        ensure!(object <= MAX_OBJECT_BYTES, "an object has {object} bytes");
        Ok(())
    }
}

#[test]
#[ignore = "needs root and kube-apiserver: cargo xtask test kube"]
fn many_agents_and_one_api_server() -> Result<()> {
    let lab = Lab::new("scale")?;
    let control = lab.namespace("cp")?;
    control.run("ip link set lo up; ip addr add 192.0.2.1/32 dev lo")?;
    let Some(server) =
        ApiServer::start(&lab, &control, "192.0.2.1".parse()?, "many_agents_and_one_api_server")?
    else {
        return Ok(());
    };
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    server.kubectl(&["apply", "--kustomize", &crds.display().to_string()])?;
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"])?;
    let kubeconfig = kube::config::Kubeconfig::read_from(server.admin()).context("kubeconfig")?;
    control.enter(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            config.default_retry = false;
            let fleet = Fleet {
                client: Client::try_from(config.clone())?,
                nodes: number("BACKTRAIL_SIMULATED_NODES", 20),
                objects: number("BACKTRAIL_SIMULATED_OBJECTS", 20),
                churn: Arc::default(),
            };
            fleet.populate().await?;
            fleet.start(&config)?;
            fleet.measure().await
        })
    })?
}
