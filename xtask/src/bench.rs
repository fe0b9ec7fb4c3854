//! `cargo xtask bench`: builds what is measured, and measures it.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo, kube, tools};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Which benchmark, and its options: `routes --help`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the benchmark; its exit status is the task's: 2 when a bar is not reached.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let told = |what: &str| args.arguments.iter().any(|argument| argument == what);
    // What only talks needs no optimized agent, no tools, no root.
    if ["--dry-run", "--help", "-h"].into_iter().any(told) {
        let mut command = cargo::command();
        command.args(["run", "--quiet", "-p", "backtrail-bench", "--"]).args(&args.arguments);
        let status = command.status().context("cannot start cargo")?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let built = cargo::target_dir()?;
    let program = built.join("release/backtrail-bench");
    let mut command = if ["fpm", "--serve", "--ask"].into_iter().any(told) {
        // Decoding alone, or one of two machines: no agent, no lab, no root.
        cargo::build(&["-p", "backtrail-bench", "--release"])?;
        Command::new(program)
    } else {
        tools::install(tools::LAB)?;
        tools::install(tools::TESTS)?;
        if told("kube") {
            kube::obtain()?;
        }
        cargo::build(&["-p", "backtrail", "-p", "backtrail-bench", "--release"])?;
        tools::privileged(program)
    };
    command.args(&args.arguments);
    for (option, ours) in [("--agent", built.join("release/backtrail")), ("--out", built.join("bench"))] {
        let given = |argument: &String| argument.split('=').next() == Some(option);
        if !args.arguments.iter().any(given) {
            command.arg(option).arg(ours);
        }
    }
    let status = command.status().context("cannot start the benchmark")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
