//! The edge to the Kubernetes API: what administrators want comes in, what the node does goes out.
//!
//! It lives on a thread of its own, so that a slow API server never holds up the daemon. Towards the daemon it has two
//! channels: [`Snapshot`]s of what the cluster says, and the daemon's own [`Call`]s, by which it asks for the status as
//! any client does. Whatever happens to the API server, a snapshot only ever holds what was read as a whole: a kind that
//! cannot be read is named as unknown, and the daemon keeps what was in force of it.

mod apply;
mod events;
mod hub;
mod lead;
mod node;
mod pace;
mod publish;
mod sum;
mod trouble;
mod watch;

use std::sync::Arc;

use anyhow::Context as _;
use kube::Client;
use tokio::sync::{mpsc, watch as latest};

pub use self::node::ClusterNode;
pub use self::pace::Pace;
pub use self::trouble::Trouble;
use crate::control::Call;
use crate::intent::{ClusterObjects, Loaded};

/// What a cluster says about this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// All objects that say what is wanted.
    pub loaded: Arc<Loaded>,
    /// This node, where the cluster knows it.
    pub node: Option<ClusterNode>,
    /// What does not work between here and the API server.
    pub trouble: Option<Trouble>,
    /// Whether the API server has said something about every kind and the node, be it a refusal.
    pub answered: bool,
}

impl Default for Snapshot {
    /// Nothing is known yet: about no kind.
    fn default() -> Self {
        let loaded = Arc::new(ClusterObjects::default().loaded());
        Self { loaded, node: None, trouble: None, answered: false }
    }
}

/// Connects to the API server (in-cluster, or by `KUBECONFIG`) and follows it as the agent of `node` until the process ends.
///
/// An API server that does not answer is no error: it is waited for.
///
/// # Errors
/// When there is no configuration of a cluster, or no thread.
pub async fn start(
    node: String,
    calls: mpsc::Sender<Call>,
    pace: Pace,
) -> anyhow::Result<latest::Receiver<Snapshot>> {
    let mut config = kube::Config::infer().await.context(
        "--kubernetes: no cluster: run it in a pod with a service account, or set KUBECONFIG to a file that is one",
    )?;
    // Every request has its own pace here: retries within the client would be writes beyond it.
    config.default_retry = false;
    let (out, snapshots) = latest::channel(Snapshot::default());
    std::thread::Builder::new()
        .name("kube".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(async {
                    // TLS and authentication are prepared on the runtime that uses them.
                    match Client::try_from(config) {
                        Ok(client) => follow(client, node, calls, pace, out).await,
                        Err(error) => {
                            tracing::error!(%error, "the configuration of the cluster is not usable");
                        }
                    }
                }),
                Err(error) => tracing::error!(%error, "no runtime for the API server"),
            }
        })
        .context("thread for the API server")?;
    Ok(snapshots)
}

/// Runs all parts of the edge for one node, until the daemon is gone.
pub async fn follow(
    client: Client,
    node: String,
    calls: mpsc::Sender<Call>,
    pace: Pace,
    out: latest::Sender<Snapshot>,
) {
    let (inbox_in, inbox) = mpsc::channel(256);
    let (leading_in, leading) = latest::channel(false);
    let (owed, _) = latest::channel(false);
    let snapshots = out.subscribe();
    tokio::join!(
        watch::follow(client.clone(), node.clone(), leading.clone(), inbox_in.clone()),
        node::poll_facts(client.clone(), inbox_in.clone(), pace),
        lead::stand(client.clone(), node.clone(), pace, leading_in, owed.clone()),
        publish::run(client.clone(), node, calls, snapshots, inbox_in, pace),
        hub::run(client, inbox, hub::Links { leading, owed, out }, pace),
    );
}
