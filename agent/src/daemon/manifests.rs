//! Manifests, from files or from an API server: read, kept at their last good version, watched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch as latest};

use super::{AgentOptions, Origin, persist};
use crate::control::Call;
use crate::intent::types::Intent;
use crate::intent::{self, Loaded};
use crate::kube::{self, ClusterNode, Pace, Snapshot, Trouble};
use crate::plan::NodeFacts;

/// File in the state directory with the last good manifests.
pub(super) const KEPT: &str = "intent.json";
/// Editors write a file in several steps: wait until it is quiet.
const QUIET: Duration = Duration::from_millis(150);

/// An agent with a last good version waits so long for the API server before it goes by that.
const PREFER_CLUSTER: Duration = Duration::from_secs(5);

/// Where manifests come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A file or a folder.
    Files(PathBuf),
    /// An API server.
    Cluster(latest::Receiver<Snapshot>),
}

impl Source {
    /// Opens it. The API server is waited for where nothing is known yet about what is wanted: an empty answer for want of
    /// a better one would remove what an earlier agent has programmed.
    ///
    /// # Errors
    /// When there is no configuration of a cluster.
    pub(super) async fn open(options: &AgentOptions, calls: mpsc::Sender<Call>) -> anyhow::Result<Self> {
        match &options.origin {
            Origin::Files(path) => Ok(Self::Files(path.clone())),
            Origin::Cluster => Self::cluster(options, calls).await,
        }
    }

    async fn cluster(options: &AgentOptions, calls: mpsc::Sender<Call>) -> anyhow::Result<Self> {
        let mut snapshots = kube::start(options.node_name.clone(), calls, Pace::default()).await?;
        let gone = "the thread that follows the API server has ended";
        let answered = snapshots.wait_for(|snapshot| snapshot.answered);
        if persist::read::<Kept>(&options.state_dir.join(KEPT)).is_some() {
            // Whether it came in time shows in the snapshot.
            if let Ok(answer) = tokio::time::timeout(PREFER_CLUSTER, answered).await {
                answer.context(gone)?;
            }
        } else {
            tracing::info!("waiting for the API server: it is not known yet what is wanted");
            answered.await.context(gone)?;
        }
        Ok(Self::Cluster(snapshots))
    }
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    loaded: Loaded,
    /// This node, as the cluster last knew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<ClusterNode>,
}

/// The manifests of this node.
#[derive(Debug)]
pub(super) struct Manifests {
    source: Source,
    labels: BTreeMap<String, String>,
    loaded: Loaded,
    node: Option<ClusterNode>,
    trouble: Option<Trouble>,
    /// Where the last good manifests are kept, for a start with bad ones.
    kept: PathBuf,
}

impl Manifests {
    pub(super) fn new(source: Source, labels: BTreeMap<String, String>, state_dir: &Path) -> Self {
        let kept = state_dir.join(KEPT);
        let Kept { loaded, node } = persist::read(&kept).unwrap_or_default();
        Self { source, labels, loaded, node, trouble: None, kept }
    }

    /// Whether the manifests in force are those of the API server, or what keeps them from being so; `None`: they are files.
    pub(super) fn cluster(&self) -> Option<Result<(), &Trouble>> {
        matches!(self.source, Source::Cluster(_)).then(|| self.trouble.as_ref().map_or(Ok(()), Err))
    }

    /// What the cluster says about networks and addresses.
    pub(super) fn facts(&self) -> NodeFacts {
        let Some(node) = &self.node else { return NodeFacts::default() };
        NodeFacts {
            pod_cidrs: node.pod_cidrs.clone(),
            service_cidrs: node.facts.service_cidrs.clone(),
            node_cidrs: node.addresses.iter().copied().map(IpNet::from).collect(),
            api_servers: node.facts.api_servers.clone(),
            ..NodeFacts::default()
        }
    }

    /// Labels of this node: as the cluster knows them, and as the command line says.
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.node.as_ref().map(|node| node.labels.clone()).unwrap_or_default();
        labels.extend(self.labels.clone());
        labels
    }

    /// Errors of the last reading: documents that are not in force, or kept at their last good version.
    pub(super) fn errors(&self) -> impl Iterator<Item = String> + '_ {
        self.loaded.errors.iter().map(ToString::to_string)
    }

    /// Reads everything and merges it. A document that is bad now stays at its last good version.
    ///
    /// # Errors
    /// When the path itself cannot be read.
    pub(super) fn load(&mut self, previous: Option<&Intent>) -> anyhow::Result<Intent> {
        let (mut loaded, node) = match &mut self.source {
            Source::Files(path) => (intent::load(path)?, None),
            Source::Cluster(snapshots) => {
                let snapshot = snapshots.borrow_and_update().clone();
                self.trouble = snapshot.trouble;
                ((*snapshot.loaded).clone(), snapshot.node)
            }
        };
        loaded.retain_good(&self.loaded);
        // An API server may tell the same many times.
        for error in loaded.errors.iter().filter(|error| !self.loaded.errors.contains(error)) {
            tracing::error!("{error}");
        }
        for (object, fields) in &loaded.unknown_fields {
            if self.loaded.unknown_fields.get(object) != Some(fields) {
                tracing::warn!(%object, ?fields, "fields that this version does not know are left aside");
            }
        }
        let changed = loaded.manifests != self.loaded.manifests || (node.is_some() && node != self.node);
        // A Node that the cluster lost keeps its labels.
        let kept = Kept { loaded, node: node.or_else(|| self.node.take()) };
        if changed && let Err(error) = persist::write(&self.kept, &kept) {
            tracing::warn!(%error, "the last good manifests are not on disk: a start with bad ones would lose them");
        }
        (self.loaded, self.node) = (kept.loaded, kept.node);
        Ok(intent::build(&self.loaded, &self.labels(), previous))
    }

    /// What was read last.
    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// What these manifests ask of this node.
    pub(super) fn build(&self, loaded: &Loaded, previous: Option<&Intent>) -> Intent {
        intent::build(loaded, &self.labels(), previous)
    }

    /// Hash of what was read last asks of this node. What is in force has no part in it: where objects disagree that
    /// decides, and is not the same after a restart.
    pub(super) fn hash(&self) -> String {
        intent::config_hash(&self.build(&self.loaded, None))
    }

    /// What other manifests would ask for, without putting them in force.
    ///
    /// # Errors
    /// When the path cannot be read, or a document of it is bad.
    pub(super) fn preview(&self, path: &Path, previous: &Intent) -> anyhow::Result<Intent> {
        let loaded = intent::load(path)?;
        if let Some(error) = loaded.errors.first() {
            anyhow::bail!("{error}");
        }
        Ok(intent::build(&loaded, &self.labels(), Some(previous)))
    }

    /// Tells when the manifests may have changed. The parent folder is watched too: many tools replace a file or a
    /// symbolic link (as ConfigMap volumes do) instead of writing it.
    ///
    /// # Errors
    /// When the kernel gives no inotify watch.
    pub(super) fn watch(&self) -> anyhow::Result<Changes> {
        match &self.source {
            Source::Files(path) => watch_files(path),
            Source::Cluster(snapshots) => Ok(Changes::Cluster(snapshots.clone())),
        }
    }
}

fn watch_files(path: &Path) -> anyhow::Result<Changes> {
    let (raw_in, mut raw) = mpsc::channel::<()>(1);
    let concerns = Concerns { path: path.to_owned(), folder: path.is_dir() };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may have swallowed the event that counts.
        if event.map_or(true, |event| concerns.event(&event)) {
            // One pending signal says it all.
            let _ = raw_in.try_send(());
        }
    })
    .context("watch the manifests")?;
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    if let Some(folder) = folder {
        watcher
            .watch(folder, RecursiveMode::NonRecursive)
            .with_context(|| format!("watch {} for changes", folder.display()))?;
    }
    let (out, changes) = mpsc::channel(1);
    tokio::spawn(async move {
        while raw.recv().await.is_some() {
            while tokio::time::timeout(QUIET, raw.recv()).await.is_ok_and(|event| event.is_some()) {}
            if out.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(Changes::Files { changes, _watcher: watcher })
}

/// Which of the folder's events are about manifests.
struct Concerns {
    path: PathBuf,
    folder: bool,
}

impl Concerns {
    fn event(&self, event: &notify::Event) -> bool {
        !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| self.path(path))
    }

    fn path(&self, path: &Path) -> bool {
        // `..data` is the link that a ConfigMap volume switches.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let manifest =
            path.extension().is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known));
        name.starts_with("..")
            || if self.folder { manifest } else { path.file_name() == self.path.file_name() }
    }
}

/// Signals that manifests may have changed.
pub(super) enum Changes {
    Files { changes: mpsc::Receiver<()>, _watcher: RecommendedWatcher },
    Cluster(latest::Receiver<Snapshot>),
}

impl Changes {
    pub(super) async fn recv(&mut self) -> Option<()> {
        match self {
            Self::Files { changes, .. } => changes.recv().await,
            Self::Cluster(snapshots) => snapshots.changed().await.ok(),
        }
    }
}
