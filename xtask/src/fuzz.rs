//! `cargo xtask fuzz`: decoders of foreign bytes under libFuzzer.
//!
//! The targets are those of cargo-fuzz, but it is not needed: coverage instrumentation is a matter of flags that every rustc
//! has. Only libFuzzer itself wants a C++ compiler.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::test::Tally;
use crate::{cargo, tools};

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Targets; all without any
    targets: Vec<String>,
    /// Time for each target, seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// A crate with fuzz targets.
struct Place {
    /// Its fuzz folder: a workspace of its own, whose programs are the targets.
    folder: &'static str,
    targets: &'static [&'static str],
    /// Folders of inputs to start from.
    seeds: &'static [&'static str],
}

const PLACES: &[Place] = &[
    Place {
        folder: "fpm/fuzz",
        targets: &["frame", "netlink", "protobuf", "session"],
        seeds: &[
            "fpm/tests/captures",
            "fpm/tests/captures/protobuf",
            "fpm/tests/captures/oldmodule-netlink",
            "fpm/tests/generated",
        ],
    },
    Place { folder: "ebpf/common/fuzz", targets: &["packet"], seeds: &["ebpf/common/fuzz/seeds/packet"] },
];

/// Time for each target in `cargo xtask test`, seconds.
const BRIEF: u32 = 10;
/// Memory that a target may take: the decoders' own is bounded by their input.
const MAX_MIB: u32 = 512;
/// What may take no longer for a single input: seconds.
const HANG: u32 = 20;

/// As cargo-fuzz sets them, but for the address sanitizer: what is fuzzed here is safe Rust.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "--cfg",
    "fuzzing",
];

/// Runs the targets that were asked for; `false` when one of them found something.
pub(crate) fn run(args: &FuzzArgs) -> Result<bool> {
    let known: Vec<&str> = PLACES.iter().flat_map(|place| place.targets).copied().collect();
    if let Some(unknown) = args.targets.iter().find(|target| !known.contains(&target.as_str())) {
        bail!("no fuzz target {unknown}; there are {}", known.join(", "));
    }
    let mut fine = true;
    for place in PLACES {
        let wanted = |target: &&&str| args.targets.is_empty() || args.targets.iter().any(|t| t == **target);
        let targets: Vec<&str> = place.targets.iter().filter(wanted).copied().collect();
        if targets.is_empty() {
            continue;
        }
        place.build()?;
        for target in targets {
            if let Err(error) = place.fuzz(target, args.seconds) {
                println!("FAILED fuzz {target}: {error:#}");
                fine = false;
            }
        }
    }
    Ok(fine)
}

/// All targets for a short time.
pub(crate) fn brief() -> Tally {
    let mut tally = Tally::default();
    for place in PLACES {
        if tools::find("c++").is_none() {
            tally += Tally::skip(&format!("fuzzing {}", place.folder), "no C++ compiler: install g++");
            continue;
        }
        if let Err(error) = place.build() {
            tally += Tally::check(&format!("building {}", place.folder), Err(error));
            continue;
        }
        for target in place.targets {
            tally += Tally::check(&format!("fuzz {target}"), place.fuzz(target, BRIEF));
        }
    }
    tally
}

impl Place {
    fn build(&self) -> Result<()> {
        println!("building the fuzz targets of {}", self.folder);
        let status = cargo::command()
            .current_dir(cargo::root().join(self.folder))
            // A target triple of its own keeps build scripts and macros free of the flags.
            .args(["build", "--quiet", "--release", "--bins", "--target", &host()?])
            .env("CARGO_TARGET_DIR", target_dir()?)
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
            .status()
            .context("cannot start cargo")?;
        ensure!(status.success(), "the fuzz targets of {} do not build", self.folder);
        Ok(())
    }

    /// Inputs that reach new code are kept for the next time, those that break the target for whoever mends it.
    fn fuzz(&self, target: &str, seconds: u32) -> Result<()> {
        let built = target_dir()?;
        let (corpus, artifacts) = (built.join("corpus").join(target), built.join("artifacts").join(target));
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        println!("fuzz {target}: {seconds} s");
        let output = Command::new(built.join(host()?).join("release").join(target))
            .arg(corpus)
            .args(self.seeds.iter().map(|seed| cargo::root().join(seed)))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args([format!("-max_total_time={seconds}"), format!("-rss_limit_mb={MAX_MIB}")])
            .args([format!("-timeout={HANG}"), "-print_final_stats=1".to_owned()])
            // The panic's message and the input are what the end of the output has room for.
            .env("RUST_BACKTRACE", "0")
            .output()
            .with_context(|| format!("cannot start the target {target}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let shown =
            |word: &str| text.lines().rfind(|line| line.contains(word)).unwrap_or_default().to_owned();
        println!("{}", shown("stat::number_of_executed_units"));
        if output.status.success() {
            return Ok(());
        }
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{} ({})\n{}", shown("Test unit written"), output.status, tail.join("\n"))
    }
}

/// Built apart from everything else: the flags differ.
fn target_dir() -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join("fuzz"))
}

/// This machine's target triple.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out =
        Command::new(rustc).arg("-vV").current_dir(cargo::root()).output().context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}
