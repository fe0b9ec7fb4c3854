//! Builds the tc programs and keeps the committed object honest.
//!
//! The object is committed, so that nobody needs an eBPF toolchain to build the agent. `cargo xtask ebpf` rebuilds it,
//! `cargo xtask ebpf --check` proves that it is what the source says.

mod object;
mod stack;
mod toolchain;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::object::Contents;
use self::toolchain::Toolchain;
use crate::{cargo, tools};

/// A committed object, and what it is built from.
#[derive(Debug)]
struct Committed {
    /// Folder of the package.
    folder: &'static str,
    /// Its program.
    program: &'static str,
    object: &'static str,
    /// What it was built from and with.
    record: &'static str,
    /// What goes into it.
    sources: &'static [&'static str],
}

/// The agent's.
const AGENT: Committed = Committed {
    folder: "ebpf",
    program: "backtrail",
    object: "ebpf/dist/backtrail.bpf.o",
    record: "ebpf/dist/backtrail.json",
    sources: &["ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf/src", "ebpf/common/src"],
};

/// That of the benchmark's baseline.
const BASELINE: Committed = Committed {
    folder: "bench/ebpf",
    program: "baseline",
    object: "bench/ebpf/dist/baseline.bpf.o",
    record: "bench/ebpf/dist/baseline.json",
    sources: &["bench/ebpf/Cargo.toml", "bench/ebpf/Cargo.lock", "bench/ebpf/src"],
};

/// The tests of the programs' behaviour.
const TESTS: &str = "netns_bpf_programs";

/// Arguments of `cargo xtask ebpf`.
#[derive(Debug, Args)]
pub(crate) struct EbpfArgs {
    /// Change nothing: rebuild, compare with the committed object, and run the programs' tests on the fresh one
    #[arg(long)]
    check: bool,
    /// Install a compiler and a linker for BPF if there are none
    #[arg(long)]
    install: bool,
    /// Write the agent's programs with log statements to FILE, for an agent built with the feature `bpf-log`; nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    log: Option<PathBuf>,
}

/// `backtrail.json`
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Record {
    /// `rustc --version`, and the version of its LLVM.
    compiler: String,
    /// `bpf-linker --version`
    linker: String,
    /// SHA-256 over the sources.
    source: String,
    /// SHA-256 of what the kernel gets to see, by part.
    contents: Contents,
}

/// Gets a toolchain, installing it where there is none.
pub(crate) fn obtain_toolchain() -> Result<()> {
    Toolchain::find(true).map(drop)
}

/// Whether the rebuilt programs are the committed ones, and behave.
pub(crate) fn is_reproducible() -> Result<()> {
    ensure!(
        run(&EbpfArgs { check: true, install: false, log: None })?,
        "a committed object is not the source's"
    );
    Ok(())
}

/// Rebuilds the objects, or checks them; false when one is not the source's.
pub(crate) fn run(args: &EbpfArgs) -> Result<bool> {
    let toolchain = Toolchain::find(args.install)?;
    println!("building with {} and {}", toolchain.compiler, toolchain.linker);
    if let Some(file) = &args.log {
        let built = toolchain.build(AGENT.folder, AGENT.program, &["--features", "log"])?;
        fs::write(file, object::strip(&fs::read(built)?)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(true);
    }
    let mut good = true;
    for committed in [&AGENT, &BASELINE] {
        let (record, bytes) = committed.build(&toolchain)?;
        if !args.check {
            committed.write(&record, &bytes)?;
            continue;
        }
        good &= committed.is_the_sources(&record)?;
        good &= committed.folder != AGENT.folder || behaves(&bytes)?;
    }
    Ok(good)
}

/// Whether the committed objects were built from the sources as they are, by the records alone: needs no toolchain.
pub(crate) fn is_current() -> Result<()> {
    AGENT.is_current()?;
    BASELINE.is_current()
}

impl Committed {
    /// Builds it anew, within the limits of the oldest kernel.
    fn build(&self, toolchain: &Toolchain) -> Result<(Record, Vec<u8>)> {
        let built = toolchain.build(self.folder, self.program, &[])?;
        let built = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        let bytes = object::strip(&built)?;
        for stack::Cost { program, stack, chain, instructions } in stack::check(&bytes)? {
            let chain = chain.join(" > ");
            println!("{program}: {instructions} instructions, {stack} bytes of stack on Linux 6.1: {chain}");
        }
        let record = Record {
            compiler: toolchain.compiler.clone(),
            linker: toolchain.linker.clone(),
            source: source_hash(self.sources)?,
            contents: object::contents(&bytes)?,
        };
        Ok((record, bytes))
    }

    fn write(&self, record: &Record, bytes: &[u8]) -> Result<()> {
        let Self { object, record: path, .. } = self;
        let root = cargo::root();
        fs::write(root.join(object), bytes).with_context(|| format!("cannot write {object}"))?;
        let text = serde_json::to_string_pretty(record)? + "\n";
        fs::write(root.join(path), text).with_context(|| format!("cannot write {path}"))?;
        println!("wrote {object}, {} bytes, and {path}", bytes.len());
        Ok(())
    }

    fn is_current(&self) -> Result<()> {
        let Self { object, record, .. } = self;
        let recorded = self.recorded()?;
        let committed =
            fs::read(cargo::root().join(object)).with_context(|| format!("cannot read {object}"))?;
        ensure!(
            object::contents(&committed)? == recorded.contents,
            "{object} is not the one that {record} describes: run `cargo xtask ebpf`"
        );
        stack::check(&committed)?;
        ensure!(
            source_hash(self.sources)? == recorded.source,
            "the programs have changed since {object} was built: run `cargo xtask ebpf`"
        );
        Ok(())
    }

    fn recorded(&self) -> Result<Record> {
        let path = self.record;
        let text =
            fs::read_to_string(cargo::root().join(path)).with_context(|| format!("cannot read {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("cannot parse {path}"))
    }

    /// Compares meaning, where the compiler is the recorded one.
    fn is_the_sources(&self, fresh: &Record) -> Result<bool> {
        self.is_current()?;
        let (object, recorded) = (self.object, self.recorded()?);
        let same_tools = recorded.compiler == fresh.compiler && recorded.linker == fresh.linker;
        let differences = recorded.contents.differences(&fresh.contents);
        if !same_tools {
            println!(
                "{object} was built with {} and {}: instructions cannot be compared, only behaviour",
                recorded.compiler, recorded.linker
            );
        } else if differences.is_empty() {
            println!("programs, functions and BTF are those of {object}");
        } else {
            println!("{object} is not the source's: {} differ", differences.join(", "));
        }
        Ok(!same_tools || differences.is_empty())
    }
}

/// Runs the programs' tests on an object.
fn behaves(bytes: &[u8]) -> Result<bool> {
    let folder = cargo::target_dir()?.join("ebpf-check");
    fs::create_dir_all(&folder)?;
    let path = folder.join("backtrail.bpf.o");
    fs::write(&path, bytes)?;
    let Some(test) = cargo::test_binaries(&[TESTS])?.pop() else { bail!("no test is named {TESTS}") };
    let mut variable = std::ffi::OsString::from("BACKTRAIL_BPF_OBJECT=");
    variable.push(&path);
    let status = tools::privileged("env")
        .arg(variable)
        .arg(&test.executable)
        .args(["--ignored", "--test-threads=1"])
        .current_dir(&test.package)
        .status()?;
    Ok(status.success())
}

/// One hash over the names and bytes of all sources; tests are none.
fn source_hash(sources: &[&str]) -> Result<String> {
    let mut files = BTreeMap::new();
    for source in sources {
        collect(Path::new(source), &mut files)?;
    }
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update(format!("{name} {}\n", bytes.len()));
        hash.update(bytes);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(path: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let full = cargo::root().join(path);
    if full.is_dir() {
        for entry in fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))? {
            collect(&path.join(entry?.file_name()), files)?;
        }
    } else if !path.ends_with("tests.rs") {
        let bytes = fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
        files.insert(path.to_string_lossy().into_owned(), bytes);
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
