//! Compilers that know BPF.
//!
//! Either a distribution's compiler with a prebuilt `core` for BPF (Debian: `rustc-web` with `libstd-rust-web-dev-bpf`),
//! or rustup's nightly with `rust-src`, which builds `core` along. Both need bpf-linker.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, tools};

/// The distribution's compiler: rustup's proxies come first on `PATH`.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
/// LLVM of the distribution's compiler: the linker has to be of the same one.
const LLVM: &str = "/usr/lib/llvm-22";

/// A compiler with its linker.
#[derive(Debug)]
pub(super) struct Toolchain {
    kind: Kind,
    linker_path: PathBuf,
    /// `rustc --version`, and the version of its LLVM.
    pub(super) compiler: String,
    /// `bpf-linker --version`
    pub(super) linker: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// [`SYSTEM_RUSTC`]
    System,
    /// `rustup run nightly`
    Nightly,
}

impl Toolchain {
    /// The first one that is there; with `install`, the first one that can be had.
    pub(super) fn find(install: bool) -> Result<Self> {
        if let Some(found) = Kind::find().zip(find_linker()) {
            return Self::describe(found.0, found.1);
        }
        ensure!(
            install,
            "no compiler and linker for BPF: run `cargo xtask ebpf --install`, or install bpf-linker {LINKER_VERSION} and \
             either rustc-web with libstd-rust-web-dev-bpf or rustup's nightly with rust-src"
        );
        let kind = match Kind::find() {
            Some(kind) => kind,
            None => Kind::install()?,
        };
        let linker = match find_linker() {
            Some(linker) => linker,
            None => install_linker(kind)?,
        };
        Self::describe(kind, linker)
    }

    fn describe(kind: Kind, linker_path: PathBuf) -> Result<Self> {
        let verbose = text(kind.rustc().arg("-vV"))?;
        let version = verbose.lines().next().unwrap_or_default();
        let llvm = verbose.lines().find(|line| line.starts_with("LLVM")).unwrap_or_default();
        let linker = text(Command::new(&linker_path).arg("--version"))?;
        Ok(Self {
            kind,
            compiler: format!("{version}, {llvm}"),
            linker: linker.trim().to_owned(),
            linker_path,
        })
    }

    /// Builds the programs of a package; returns the unstripped object.
    pub(super) fn build(&self, folder: &str, program: &str, more: &[&str]) -> Result<PathBuf> {
        let folder = cargo::root().join(folder);
        let mut command = self.kind.cargo();
        command.args(["build", "--release", "--locked", "--target", TARGET]).args(more);
        command.current_dir(&folder).env("CARGO_ENCODED_RUSTFLAGS", self.flags()?);
        for inherited in [
            "RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ] {
            command.env_remove(inherited);
        }
        let status = command.status().context("cannot start cargo")?;
        ensure!(status.success(), "the programs do not build");
        Ok(folder.join("target").join(TARGET).join("release").join(program))
    }

    /// No path of this machine gets into the object: BTF holds the names of source files.
    fn flags(&self) -> Result<OsString> {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker_path);
        let mut flags = vec![linker];
        let fixed =
            ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];
        flags.extend(fixed.map(OsString::from));
        let sysroot = PathBuf::from(text(self.kind.rustc().args(["--print", "sysroot"]))?.trim());
        let mut prefixes = vec![(sysroot, "rust"), (cargo::root().to_owned(), "backtrail")];
        let registry = cargo_home()?.join("registry/src");
        // As many as there are registries, each with a hash in its name.
        for entry in fs::read_dir(&registry).into_iter().flatten() {
            prefixes.push((entry?.path(), "registry"));
        }
        for (prefix, name) in prefixes {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(prefix);
            flag.push(format!("={name}"));
            flags.push(flag);
        }
        Ok(flags.join(&OsString::from("\u{1f}")))
    }
}

impl Kind {
    fn find() -> Option<Self> {
        [Self::System, Self::Nightly].into_iter().find(|kind| kind.has_core().unwrap_or(false))
    }

    /// Whether `core` for BPF is there, or its source.
    fn has_core(self) -> Result<bool> {
        Ok(match self {
            Self::System => {
                let folder = text(self.rustc().args(["--print", "target-libdir", "--target", TARGET]))?;
                Path::new(folder.trim()).is_dir()
            }
            Self::Nightly => {
                let sysroot = text(self.rustc().args(["--print", "sysroot"]))?;
                Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
            }
        })
    }

    fn install() -> Result<Self> {
        if tools::install(tools::EBPF).is_ok() && Self::System.has_core().unwrap_or(false) {
            return Ok(Self::System);
        }
        let arguments =
            ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        run(Command::new("rustup").args(arguments))?;
        Ok(Self::Nightly)
    }

    fn rustc(self) -> Command {
        match self {
            Self::System => Command::new(SYSTEM_RUSTC),
            Self::Nightly => rustup("rustc"),
        }
    }

    /// A cargo that uses this compiler. aya-ebpf wants an unstable feature for its architecture: it alone gets it from
    /// a stable compiler.
    fn cargo(self) -> Command {
        match self {
            Self::System => {
                let mut command = cargo::command();
                command.env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "aya_ebpf");
                command
            }
            Self::Nightly => {
                let mut command = rustup("cargo");
                command.env("CARGO_UNSTABLE_BUILD_STD", "core");
                command
            }
        }
    }
}

/// A program of rustup's nightly, whatever toolchain runs this task.
fn rustup(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    for inherited in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC"] {
        command.env_remove(inherited);
    }
    command
}

/// bpf-linker on `PATH`, among cargo's programs, or where [`install_linker`] puts it.
fn find_linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(cargo_home().ok().map(|home| home.join("bin")));
    folders.extend(linker_root().ok().map(|root| root.join("bin")));
    folders.into_iter().map(|folder| folder.join(LINKER)).find(|program| program.is_file())
}

fn linker_root() -> Result<PathBuf> {
    Ok(cargo::target_dir()?.join("bpf-linker"))
}

fn install_linker(kind: Kind) -> Result<PathBuf> {
    let root = linker_root()?;
    let mut command = cargo::command();
    command.args(["install", LINKER, "--version", LINKER_VERSION, "--locked", "--root"]).arg(&root);
    if kind == Kind::System {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = std::iter::once(Path::new(LLVM).join("bin"));
        let path = std::env::join_paths(first.chain(std::env::split_paths(&path)))?;
        command.args(["--no-default-features", "--features", "llvm-22"]);
        command.env("LLVM_PREFIX", LLVM).env("LLVM_SYS_221_PREFIX", LLVM).env("PATH", path);
    }
    run(&mut command)?;
    Ok(root.join("bin").join(LINKER))
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}

fn text(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !out.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8(out.stdout)?)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
