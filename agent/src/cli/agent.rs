//! Options of `backtrail agent`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::Global;
use crate::daemon::{AgentOptions, Origin, READY};
use crate::plan::NodeFacts;

/// Options of `backtrail agent`, as given.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// File or folder with manifests; read again when it changes and on SIGHUP
    #[arg(long, value_name = "PATH", required_unless_present = "kubernetes", conflicts_with = "kubernetes")]
    config: Option<PathBuf>,
    /// Take manifests from the API server, in-cluster or by KUBECONFIG, and write the node's state there
    #[arg(long)]
    kubernetes: bool,
    #[command(flatten)]
    dirs: Dirs,
    /// Where to wait for zebra; goes before `DataplaneConfig` [default there: 127.0.0.1:2620]
    #[arg(long, value_name = "ADDR:PORT")]
    fpm_listen: Option<SocketAddr>,
    /// Where to serve OpenMetrics
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9472")]
    metrics_listen: SocketAddr,
    /// Name of this node [default: its host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Labels of this node, which `nodeSelector` is matched against; with `--kubernetes` in addition to the Node's
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',')]
    node_labels: Vec<String>,
    /// Networks of pods: looked up in main before VRFs (`autoDetect`), not imported, never steered
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    pod_cidrs: Vec<IpNet>,
    /// Networks of services, likewise
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    service_cidrs: Vec<IpNet>,
    /// Addresses or networks of the cluster's nodes, likewise, but imports may bring routes to them
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',')]
    node_cidrs: Vec<IpNet>,
    /// FRR's run directory: bfdd of FRR before 10.2 tells there which gateways have failed
    #[arg(long, value_name = "DIR", default_value = "/var/run/frr")]
    frr_run_dir: PathBuf,
    /// What to log: a level, or directives such as `info,backtrail::kernel=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    log_level: String,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

/// Where the agent keeps what outlives it.
#[derive(Debug, Clone, Args)]
pub struct Dirs {
    /// Directory of the last good intent, of what is owned, and of sysctls as they were
    #[arg(long, value_name = "DIR", default_value = "/var/lib/backtrail")]
    pub state_dir: PathBuf,
    /// Directory on a bpffs for pinned programs, links and maps
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/backtrail")]
    pub bpffs: PathBuf,
    /// Where sysctls are written: in a container /proc/sys is read-only, and the host's `net` is mounted below another
    #[arg(long, value_name = "DIR", default_value = "/proc/sys")]
    pub sysctls: PathBuf,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl AgentArgs {
    /// Starts logging to standard error.
    ///
    /// # Errors
    /// When the filter is not one.
    pub fn init_log(&self) -> anyhow::Result<()> {
        let ready = format!("{READY}=info").parse().context("directive of the ready line")?;
        let filter = EnvFilter::try_new(&self.log_level)
            .with_context(|| format!("--log-level {:?}: give a level or directives", self.log_level))?
            .add_directive(ready)
            // It logs every request that fails; the agent tells each trouble once.
            .add_directive("kube_client::client::builder=off".parse().context("directive for the client")?);
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        };
        started.map_err(|error| anyhow!("logging: {error}"))
    }

    /// Checks what clap cannot.
    ///
    /// # Errors
    /// Names the option, and what would be right.
    pub fn options(self, global: &Global) -> anyhow::Result<AgentOptions> {
        let origin = match &self.config {
            None => Origin::Cluster,
            Some(config) => {
                let config = absolute("--config", config)?;
                config.metadata().with_context(|| {
                    format!("--config {}: give a file or a folder with manifests", config.display())
                })?;
                Origin::Files(config)
            }
        };
        Ok(AgentOptions {
            origin,
            run_dir: absolute("--run-dir", &global.run_dir)?,
            state_dir: absolute("--state-dir", &self.dirs.state_dir)?,
            bpffs: absolute("--bpffs", &self.dirs.bpffs)?,
            sysctls: absolute("--sysctls", &self.dirs.sysctls)?,
            frr_run_dir: absolute("--frr-run-dir", &self.frr_run_dir)?,
            fpm_listen: self.fpm_listen,
            metrics_listen: self.metrics_listen,
            node_name: node_name(self.node_name)?,
            node_labels: labels(&self.node_labels)?,
            facts: NodeFacts {
                pod_cidrs: self.pod_cidrs.into_iter().collect(),
                service_cidrs: self.service_cidrs.into_iter().collect(),
                node_cidrs: self.node_cidrs.into_iter().collect(),
                ..NodeFacts::default()
            },
        })
    }
}

fn absolute(option: &str, path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{option} {}", path.display()))
}

fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let name = match given {
        Some(name) => name,
        None => {
            nix::sys::utsname::uname().context("host name")?.nodename().to_string_lossy().to_ascii_lowercase()
        }
    };
    ensure!(!name.is_empty(), "the node has no name: give --node-name");
    Ok(name)
}

fn labels(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for label in given.iter().filter(|label| !label.is_empty()) {
        let Some((key, value)) = label.split_once('=') else {
            bail!("--node-labels: {label:?} is not key=value");
        };
        ensure!(!key.is_empty(), "--node-labels: {label:?} has no key");
        if let Some(other) = labels.insert(key.to_owned(), value.to_owned()) {
            ensure!(other == value, "--node-labels: {key} is given twice, as {other:?} and as {value:?}");
        }
    }
    Ok(labels)
}
