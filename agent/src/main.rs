//! The `backtrail` binary: parses the command line, runs the command, turns its outcome into an exit status.

use std::io::{BufWriter, ErrorKind, Write as _, stdout};
use std::process::ExitCode;

use backtrail::cli::plugin::{self, Plugin};
use backtrail::cli::{self, Cli, Command, Outcome};
use backtrail::daemon;
use clap::Parser as _;

fn main() -> ExitCode {
    let result = if plugin::is_plugin(std::env::args_os().next().as_ref()) {
        Plugin::try_parse().map(|plugin| ask(&plugin))
    } else {
        Cli::try_parse().map(run)
    };
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            // Help and version are answers, not errors; usage errors are 1, for 2 has a meaning of its own.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backtrail: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Agent(args) => {
            args.init_log()?;
            return_memory();
            daemon::run(args.options(&cli.global)?)?;
            Ok(Outcome::Ok.into())
        }
        Command::Other(command) => {
            let mut out = BufWriter::new(stdout().lock());
            let outcome = cli::run(&cli.global, command, &mut out)?;
            out.flush()?;
            Ok(outcome.into())
        }
    }
}

/// `kubectl backtrail`
fn ask(plugin: &Plugin) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(stdout().lock());
    let code = plugin.run(&mut out)?;
    out.flush()?;
    Ok(code)
}

/// Lets glibc return the memory of tables that have grown out of it. By itself it learns from each large block that is
/// freed to keep such blocks (mallopt(3), `M_MMAP_THRESHOLD`), which doubles the memory of a full table.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
fn return_memory() {
    const LARGE: i32 = 512 << 10;
    // SAFETY: two numbers, before there is another thread. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

#[cfg(not(target_env = "gnu"))]
fn return_memory() {}

/// `backtrail routes | head` is not a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
