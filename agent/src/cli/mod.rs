//! The command line: what is asked, of whom, and how the answer is printed.
//!
//! `docs/cli.md` is its manual. Exit statuses: 0 ok, 1 failed (usage errors too), 2 differs or unhealthy.
//! Starting the agent is `main`'s business: this module only parses its options.

pub mod agent;
mod cleanup;
mod doctor;
mod explain;
mod fpm;
mod output;
pub mod plugin;
mod query;
mod status;
mod validate;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use output::Format;

/// The node dataplane beside FRR.
#[derive(Debug, Parser)]
#[command(name = "backtrail", version, about, propagate_version = true)]
pub struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Directory of the agent's control socket
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/backtrail")]
    pub run_dir: PathBuf,
    /// Form of the output
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Format,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: program routes and steer replies as the manifests say
    Agent(Box<agent::AgentArgs>),
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would print it as help")]
    Other(Other),
}

/// Every command but `agent`: they ask, print and end.
#[derive(Debug, Subcommand)]
pub enum Other {
    /// Check manifests without a node: schema, rules, conflicts
    Validate(validate::ValidateArgs),
    /// Print what the agent would change in the kernel; change nothing
    Plan(query::PlanArgs),
    /// Print the node's health: FPM session, VRFs, routes, steering, conflicts
    Status,
    /// Print learned and programmed routes with state, reason and owner
    Routes(query::RoutesArgs),
    /// Print the flow table: client, service, interface, age, packets steered
    Flows(query::FlowsArgs),
    /// Tell which way a packet takes, why, and whether the kernel agrees
    Explain(explain::ExplainArgs),
    /// Stop all writing to the kernel until `resume`, over restarts too
    Pause(query::PauseArgs),
    /// Write again, beginning with what differs
    Resume,
    /// Look for what would keep Backtrail from working here, with fixes
    Doctor(doctor::DoctorArgs),
    /// Read, replay and take captures of what zebra sends
    Fpm(fpm::FpmArgs),
    /// Remove everything that agents made here, and nothing else
    Cleanup(cleanup::CleanupArgs),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit status 0.
    Ok,
    /// Exit status 2: a plan that differs, a node that is not healthy.
    Differs,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::SUCCESS,
            Outcome::Differs => Self::from(2),
        }
    }
}

/// Runs a command; its result goes to `out`.
///
/// # Errors
/// Whatever kept the command from its answer, for the person at the terminal.
pub fn run(global: &Global, command: Other, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    match command {
        Other::Validate(args) => validate::validate(global, &args, out),
        Other::Plan(args) => query::plan(global, args, out),
        Other::Status => status::status(global, out),
        Other::Routes(args) => query::routes(global, args, out),
        Other::Flows(args) => query::flows(global, &args, out),
        Other::Explain(args) => explain::explain(global, &args, out),
        Other::Pause(args) => query::pause(global, args, out),
        Other::Resume => query::resume(global, out),
        Other::Doctor(args) => doctor::doctor(global, &args, out),
        Other::Fpm(args) => fpm::run(global, &args, out),
        Other::Cleanup(args) => cleanup::cleanup(global, &args, out),
    }
}

/// Runs the parts of a command that talk to the kernel.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}
