//! The `backtrail` binary: parses the command line, runs the command, turns its outcome into an exit status.

use std::io::{BufWriter, ErrorKind, Write as _, stdout};
use std::process::ExitCode;

use backtrail::cli::{self, Cli, Command, Outcome};
use backtrail::daemon;
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors; usage errors are 1, for 2 has a meaning of its own.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(outcome) => outcome.into(),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backtrail: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Outcome> {
    match cli.command {
        Command::Agent(args) => {
            args.init_log()?;
            return_memory();
            daemon::run(args.options(&cli.global)?)?;
            Ok(Outcome::Ok)
        }
        Command::Other(command) => {
            let mut out = BufWriter::new(stdout().lock());
            let outcome = cli::run(&cli.global, command, &mut out)?;
            out.flush()?;
            Ok(outcome)
        }
    }
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
