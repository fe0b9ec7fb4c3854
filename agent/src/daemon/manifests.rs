//! Manifests of the standalone mode: read, kept at their last good version, watched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::persist;
use crate::intent::types::Intent;
use crate::intent::{self, Loaded};

/// File in the state directory with the last good manifests.
pub(super) const KEPT: &str = "intent.json";
/// Editors write a file in several steps: wait until it is quiet.
const QUIET: Duration = Duration::from_millis(150);

/// The manifests of this node.
#[derive(Debug)]
pub(super) struct Manifests {
    path: PathBuf,
    labels: BTreeMap<String, String>,
    loaded: Loaded,
    /// Where the last good manifests are kept, for a start with bad ones.
    kept: PathBuf,
}

impl Manifests {
    pub(super) fn new(path: &Path, labels: BTreeMap<String, String>, state_dir: &Path) -> Self {
        let kept = state_dir.join(KEPT);
        let loaded = persist::read(&kept).unwrap_or_default();
        Self { path: path.to_owned(), labels, loaded, kept }
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
        let mut loaded = intent::load(&self.path)?;
        loaded.retain_good(&self.loaded);
        for error in &loaded.errors {
            tracing::error!("{error}");
        }
        let changed = loaded.manifests != self.loaded.manifests;
        self.loaded = loaded;
        if changed && let Err(error) = persist::write(&self.kept, &self.loaded) {
            tracing::warn!(%error, "the last good manifests are not on disk: a start with bad ones would lose them");
        }
        Ok(intent::build(&self.loaded, &self.labels, previous))
    }

    /// What was read last.
    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// What these manifests ask of this node.
    pub(super) fn build(&self, loaded: &Loaded, previous: Option<&Intent>) -> Intent {
        intent::build(loaded, &self.labels, previous)
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
        Ok(intent::build(&loaded, &self.labels, Some(previous)))
    }

    /// Tells when the manifests may have changed. The parent folder is watched too: many tools replace a file or a
    /// symbolic link (as ConfigMap volumes do) instead of writing it.
    ///
    /// # Errors
    /// When the kernel gives no inotify watch.
    pub(super) fn watch(&self) -> anyhow::Result<Changes> {
        let (raw_in, mut raw) = mpsc::channel::<()>(1);
        let concerns = Concerns { path: self.path.clone(), folder: self.path.is_dir() };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may have swallowed the event that counts.
            if event.map_or(true, |event| concerns.event(&event)) {
                // One pending signal says it all.
                let _ = raw_in.try_send(());
            }
        })
        .context("watch the manifests")?;
        let folder = if self.path.is_dir() { Some(self.path.as_path()) } else { self.path.parent() };
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
        Ok(Changes { changes, _watcher: watcher })
    }
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
pub(super) struct Changes {
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Changes {
    pub(super) async fn recv(&mut self) -> Option<()> {
        self.changes.recv().await
    }
}
