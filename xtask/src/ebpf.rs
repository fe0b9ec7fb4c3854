//! Builds the tc programs and keeps the committed object honest.
//!
//! The object is committed, so that nobody needs an eBPF toolchain to build the agent. `cargo xtask ebpf` rebuilds it,
//! `cargo xtask ebpf --check` proves that it is what the source says.

mod object;
mod stack;
mod toolchain;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::object::Contents;
use self::toolchain::Toolchain;
use crate::{cargo, tools};

/// The committed object, and what it was built from and with.
const OBJECT: &str = "ebpf/dist/backtrail.bpf.o";
const RECORD: &str = "ebpf/dist/backtrail.json";
/// What goes into the object.
const SOURCES: &[&str] = &["ebpf/Cargo.toml", "ebpf/Cargo.lock", "ebpf/src", "ebpf/common/src"];
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
    ensure!(run(&EbpfArgs { check: true, install: false })?, "{OBJECT} is not the source's");
    Ok(())
}

/// Rebuilds the object, or checks it; false when it is not the source's.
pub(crate) fn run(args: &EbpfArgs) -> Result<bool> {
    let toolchain = Toolchain::find(args.install)?;
    println!("building with {} and {}", toolchain.compiler, toolchain.linker);
    let built = toolchain.build()?;
    let bytes =
        object::strip(&fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?)?;
    for stack::Cost { program, stack, chain, instructions } in stack::check(&bytes)? {
        println!(
            "{program}: {instructions} instructions, {stack} bytes of stack on Linux 6.1: {}",
            chain.join(" > ")
        );
    }
    let record = Record {
        compiler: toolchain.compiler,
        linker: toolchain.linker,
        source: source_hash()?,
        contents: object::contents(&bytes)?,
    };
    if args.check {
        return check(&record, &bytes);
    }
    let root = cargo::root();
    fs::write(root.join(OBJECT), &bytes).with_context(|| format!("cannot write {OBJECT}"))?;
    let text = serde_json::to_string_pretty(&record)? + "\n";
    fs::write(root.join(RECORD), text).with_context(|| format!("cannot write {RECORD}"))?;
    println!("wrote {OBJECT}, {} bytes, and {RECORD}", bytes.len());
    Ok(true)
}

/// Whether the committed object was built from the sources as they are, by the record alone: needs no toolchain.
pub(crate) fn is_current() -> Result<()> {
    let recorded = recorded()?;
    let committed = fs::read(cargo::root().join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    ensure!(
        object::contents(&committed)? == recorded.contents,
        "{OBJECT} is not the one that {RECORD} describes: run `cargo xtask ebpf`"
    );
    stack::check(&committed)?;
    ensure!(
        source_hash()? == recorded.source,
        "the programs have changed since {OBJECT} was built: run `cargo xtask ebpf`"
    );
    Ok(())
}

fn recorded() -> Result<Record> {
    let text =
        fs::read_to_string(cargo::root().join(RECORD)).with_context(|| format!("cannot read {RECORD}"))?;
    serde_json::from_str(&text).with_context(|| format!("cannot parse {RECORD}"))
}

/// Compares meaning where the compiler is the recorded one, and behaviour in any case.
fn check(fresh: &Record, bytes: &[u8]) -> Result<bool> {
    is_current()?;
    let recorded = recorded()?;
    let same_tools = recorded.compiler == fresh.compiler && recorded.linker == fresh.linker;
    let differences = recorded.contents.differences(&fresh.contents);
    if !same_tools {
        println!(
            "{OBJECT} was built with {} and {}: instructions cannot be compared, only behaviour",
            recorded.compiler, recorded.linker
        );
    } else if differences.is_empty() {
        println!("programs, functions and BTF are those of {OBJECT}");
    } else {
        println!("{OBJECT} is not the source's: {} differ", differences.join(", "));
    }
    Ok((!same_tools || differences.is_empty()) && behaves(bytes)?)
}

/// Runs the programs' tests on an object.
fn behaves(bytes: &[u8]) -> Result<bool> {
    let folder = cargo::target_dir()?.join("ebpf-check");
    fs::create_dir_all(&folder)?;
    let path = folder.join("backtrail.bpf.o");
    fs::write(&path, bytes)?;
    let Some(test) = cargo::test_binaries(TESTS)?.pop() else { bail!("no test is named {TESTS}") };
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
fn source_hash() -> Result<String> {
    let mut files = BTreeMap::new();
    for source in SOURCES {
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
