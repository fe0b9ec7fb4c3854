//! `kubectl backtrail`: the same program, called by kubectl as `kubectl-backtrail`, asks about nodes from afar.
//!
//! What a `NodeRoutingState` holds comes from the API server. For all else the command is run in the agent's pod on that
//! node. Both go through kubectl, so that kubeconfig, login and proxies are the user's own.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use super::Outcome;
use super::output::{self, Format};
use super::status;
use crate::api::NodeRoutingState;

/// What kubectl calls a plugin's program.
const NAME: &str = "kubectl-backtrail";
/// Label of the agent's pods, and their container.
const PODS: &str = "app.kubernetes.io/name=backtrail";
const CONTAINER: &str = "agent";
/// Where the image has the program.
const PROGRAM: &str = "/usr/bin/backtrail";

/// Whether the program was started as a plugin: `argv[0]`.
#[must_use]
pub fn is_plugin(program: Option<&OsString>) -> bool {
    program.is_some_and(|program| Path::new(program).file_stem().is_some_and(|name| name == NAME))
}

/// Ask about a node's routes and return paths, through the cluster.
#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = "kubectl backtrail", version)]
pub struct Plugin {
    #[command(flatten)]
    cluster: Cluster,
    /// Form of the output
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    question: Question,
}

/// Which cluster, as kubectl has it.
#[derive(Debug, Clone, Args)]
struct Cluster {
    /// The kubeconfig file to use
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of it
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the agents
    #[arg(short, long, global = true, value_name = "NAME", default_value = "backtrail-system")]
    namespace: String,
    /// Print the kubectl command that would be run on the node, and do not run it
    #[arg(long, global = true)]
    dry_run: bool,
}

/// What is asked.
#[derive(Debug, Clone, Subcommand)]
enum Question {
    /// Health of all nodes in a table, or of one in full
    Status {
        /// Name of the node
        node: Option<String>,
    },
    /// Learned and programmed routes of a node
    Routes(OnNode),
    /// Flow table of a node
    Flows(OnNode),
    /// Way of a packet on a node, with the object that causes each step
    Explain(OnNode),
    /// What the agent of a node would change
    Plan(OnNode),
    /// What is in the way on a node
    Doctor(OnNode),
}

/// A command that runs on the node.
#[derive(Debug, Clone, Args)]
struct OnNode {
    /// Name of the node
    node: String,
    /// Arguments as `backtrail` itself takes them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Plugin {
    /// Asks and prints.
    ///
    /// # Errors
    /// Without kubectl, and with its words when it fails.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let (command, on) = match &self.question {
            Question::Status { node: None } => return self.cluster.run(&["get", "noderoutingstates"]),
            Question::Status { node: Some(node) } => return self.status(node, out),
            Question::Routes(on) => ("routes", on),
            Question::Flows(on) => ("flows", on),
            Question::Explain(on) => ("explain", on),
            Question::Plan(on) => ("plan", on),
            Question::Doctor(on) => ("doctor", on),
        };
        let pod = self.cluster.pod(&on.node)?;
        let mut arguments =
            vec!["exec", "--namespace", &self.cluster.namespace, &pod, "--container", CONTAINER];
        arguments.extend(["--", PROGRAM, command]);
        // The bpffs is mounted elsewhere in the container.
        if command == "doctor" {
            arguments.extend(["--bpffs", "/host/sys/fs/bpf/backtrail"]);
        }
        arguments.extend(match self.output {
            Format::Table => &[][..],
            Format::Json => &["--output", "json"],
            Format::Yaml => &["--output", "yaml"],
        });
        arguments.extend(on.arguments.iter().map(String::as_str));
        if self.cluster.dry_run {
            let words = arguments.iter().map(|word| quoted(word));
            writeln!(out, "kubectl {}", words.collect::<Vec<_>>().join(" "))?;
            return Ok(ExitCode::SUCCESS);
        }
        self.cluster.run(&arguments)
    }

    /// The status of one node, as `backtrail status` prints it there.
    fn status(&self, node: &str, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let text = self.cluster.answer(&["get", "noderoutingstates", node, "--output", "json"])?;
        let state: NodeRoutingState = serde_json::from_str(&text)
            .with_context(|| format!("NodeRoutingState/{node} is of another version: upgrade this plugin"))?;
        let status = state.status.unwrap_or_default();
        if self.output == Format::Table {
            status::print(&status, Timestamp::now(), out)?;
        } else {
            output::value(self.output, out, &status)?;
        }
        Ok(if status::healthy(&status) { Outcome::Ok } else { Outcome::Differs }.into())
    }
}

impl Cluster {
    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        if let Some(file) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(file);
        }
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        command.args(arguments);
        command
    }

    /// Runs kubectl on the terminal; its exit status is ours.
    fn run(&self, arguments: &[&str]) -> anyhow::Result<ExitCode> {
        let status = self.kubectl(arguments).status().context("cannot start kubectl")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }

    /// What kubectl prints.
    fn answer(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = self.kubectl(arguments);
        let out = command.stderr(Stdio::piped()).output().context("cannot start kubectl")?;
        let error = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "kubectl {}: {}", arguments.join(" "), error.trim());
        String::from_utf8(out.stdout).context("kubectl printed no text")
    }

    /// The agent's pod on a node: `pod/backtrail-x7k2p`.
    fn pod(&self, node: &str) -> anyhow::Result<String> {
        let on = format!("spec.nodeName={node}");
        let mut arguments = vec!["get", "pods", "--namespace", &self.namespace, "--selector", PODS];
        arguments.extend(["--field-selector", &on, "--output", "name"]);
        let pods = self.answer(&arguments)?;
        let Some(pod) = pods.lines().next() else {
            bail!(
                "no agent runs on node {node} in namespace {0}: see `kubectl get nodes` and `kubectl --namespace {0} get pods \
                 --output wide`",
                self.namespace
            );
        };
        Ok(pod.to_owned())
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
