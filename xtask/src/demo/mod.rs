//! `cargo xtask demo`: the four problems, each first without Backtrail and then with it.

mod gateways;
mod manifests;
mod problems;
mod screen;
mod topology;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{FrrInstall, Lab, Suite, catch_interrupts, interrupted, obtain_suite};
use clap::{Args, ValueEnum};

use crate::{cargo, tools};
use screen::Screen;
use topology::Demo;

/// Name of the lab that `--keep` leaves.
const KEPT: &str = "btdemo";

/// Options of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave the lab up at the end, with the agent running
    #[arg(long)]
    keep: bool,
    /// Remove a lab that --keep has left
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
    /// Only say what is needed and what would be done
    #[arg(long)]
    dry_run: bool,
    /// Which FRR runs on the node
    #[arg(long, value_enum, default_value_t = Frr::Distribution)]
    frr: Frr,
    /// The built agent: set by the part that runs without privileges
    #[arg(long, hide = true)]
    agent: Option<PathBuf>,
}

/// Where FRR comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Frr {
    /// This machine's package
    Distribution,
    /// Debian 13's, in a folder of its own
    Trixie,
    /// Debian unstable's, in a folder of its own
    Sid,
}

impl Frr {
    fn install(self) -> Result<FrrInstall> {
        match self {
            Self::Distribution => FrrInstall::host(),
            Self::Trixie => obtain_suite(Suite::Trixie),
            Self::Sid => obtain_suite(Suite::Sid),
        }
    }
}

/// Runs the demo; true when all four problems are shown and solved.
pub(crate) fn run(args: &DemoArgs) -> Result<bool> {
    if let Some(agent) = &args.agent {
        return show(args, agent);
    }
    if args.remove {
        ensure!(nix::unistd::geteuid().is_root(), "run it again with sudo: the lab belongs to root");
        return Lab::remove_kept(KEPT).map(|()| true);
    }
    explain(args);
    if args.dry_run {
        return Ok(true);
    }
    tools::install(tools::LAB)?;
    if args.frr != Frr::Distribution {
        tools::install(tools::TESTS)?;
    }
    println!("building the agent");
    cargo::build(&["-p", "backtrail"])?;
    let agent = cargo::target_dir()?.join("debug/backtrail");
    let mut privileged = tools::privileged(cargo::xtask()?);
    privileged.arg("demo");
    if args.keep {
        privileged.arg("--keep");
    }
    let frr = args.frr.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let status = privileged.args(["--frr", &frr, "--agent"]).arg(agent).status();
    Ok(status.context(tools::NO_ROOT)?.success())
}

fn explain(args: &DemoArgs) {
    println!(
        "The demo lays out a lab of network namespaces on this machine and touches nothing outside of it."
    );
    println!(
        "It needs: root (sudo is asked for the parts that need it), Linux 5.3 or newer, FRR, iproute2, ping."
    );
    let missing = tools::missing(tools::LAB);
    if missing.is_empty() {
        println!("All of that is here.");
    } else {
        println!("It installs from the distribution: {}.", missing.join(", "));
    }
    if args.keep {
        println!("The lab stays at the end.");
    }
}

/// The part that runs as root.
fn show(args: &DemoArgs, agent: &Path) -> Result<bool> {
    catch_interrupts()?;
    let start = Instant::now();
    let screen = Screen::new(start);
    let install = args.frr.install()?;
    let lab = if args.keep {
        Lab::remove_kept(KEPT)?;
        Lab::kept(KEPT)?
    } else {
        Lab::new("demo")?
    };
    let result = present(&screen, &lab, &install, agent);
    if args.keep {
        println!("\nThe lab is up. Remove it with: cargo xtask demo --remove");
    }
    result.inspect(|_| println!("\n{} s, build aside.", start.elapsed().as_secs()))
}

fn present(screen: &Screen, lab: &Lab, install: &FrrInstall, agent: &Path) -> Result<bool> {
    screen.title("The lab");
    let mut demo = Demo::build(screen, lab, install, agent)?;
    let mut rows = Vec::new();
    for (number, (title, problem)) in problems::ALL.iter().enumerate() {
        screen.title(&format!("Problem {}: {title}", number + 1));
        let result = problem(&mut demo, screen);
        let ended = demo.without_backtrail().and_then(|()| demo.undo());
        let result = result.and_then(|summary| ended.map(|()| summary));
        ensure!(!interrupted(), "interrupted");
        if let Err(error) = &result {
            screen.say(&format!("FAILED: {error:#}"));
        }
        rows.push((number + 1, *title, result));
    }
    if lab.is_kept() {
        demo.leave_running(screen)?;
    }
    screen.title("Result");
    for (number, title, result) in &rows {
        match result {
            Ok(summary) => println!("{number}  {title:24} ok      {summary}"),
            Err(error) => {
                let cause = format!("{error:#}");
                println!("{number}  {title:24} failed  {}", cause.lines().next().unwrap_or_default());
            }
        }
    }
    Ok(rows.iter().all(|(_, _, result)| result.is_ok()))
}
