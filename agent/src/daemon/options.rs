//! What the daemon is told before it reads a manifest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::plan::NodeFacts;

/// Where manifests come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file or a folder.
    Files(PathBuf),
    /// The API server of a cluster, in-cluster or by `KUBECONFIG`.
    Cluster,
}

/// What the command line says. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOptions {
    /// Where manifests come from.
    pub origin: Origin,
    /// Directory of the control socket.
    pub run_dir: PathBuf,
    /// Directory of what must survive a reboot.
    pub state_dir: PathBuf,
    /// Directory of pins.
    pub bpffs: PathBuf,
    /// Where sysctls are written: `/proc/sys`, or a folder that shows its `net` where that is read-only.
    pub sysctls: PathBuf,
    /// FRR's run directory, with the sockets of its daemons; it need not exist.
    pub frr_run_dir: PathBuf,
    /// Goes before `DataplaneConfig.spec.fpm.listen`.
    pub fpm_listen: Option<SocketAddr>,
    /// Where metrics are served.
    pub metrics_listen: SocketAddr,
    /// Name of this node.
    pub node_name: String,
    /// Labels of this node.
    pub node_labels: BTreeMap<String, String>,
    /// What the command line says about the cluster.
    pub facts: NodeFacts,
}
