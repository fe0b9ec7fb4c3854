//! `cargo xtask image`: the agent as a container image, made of nothing but the program and the libraries that it names.
//!
//! The image depends on its content alone: no times, no names of the machine, entries in order. The program is built with
//! the paths of the source and of cargo's registry taken out, so that two machines with the same toolchain and C library
//! make the same image.

mod layout;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;

use self::layout::{Entry, Layout};
use crate::{cargo, program};

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// Where the image goes [default: backtrail-image.tar in cargo's target folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name and tag of the image
    #[arg(long, value_name = "NAME:TAG", default_value = concat!("backtrail:", env!("CARGO_PKG_VERSION")))]
    name: String,
    /// Take this program instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    binary: Option<PathBuf>,
    /// Build twice, from nothing, the second time from a copy of the source elsewhere: fail if the images differ
    #[arg(long)]
    check: bool,
}

/// Where the program is in the image.
const PROGRAM: &str = "usr/bin/backtrail";
/// Folders that the DaemonSet mounts something on.
const MOUNT_POINTS: [&str; 8] = [
    "dev",
    "host/proc/sys/net",
    "host/sys/fs/bpf/backtrail",
    "proc",
    "run/backtrail",
    "sys",
    "tmp",
    "var/lib/backtrail",
];

/// Builds, packs and writes the image.
pub(crate) fn run(args: &ImageArgs) -> Result<bool> {
    let target = cargo::target_dir()?;
    if args.check {
        return is_reproducible(&target, &args.name);
    }
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build(cargo::root(), &target.join("image"))?,
    };
    let image = pack(&binary, &args.name)?;
    let file = args.output.clone().unwrap_or_else(|| target.join("backtrail-image.tar"));
    fs::write(&file, &image.archive).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{} {} in {} ({} KiB)", args.name, image.digest, file.display(), image.archive.len() / 1024);
    Ok(true)
}

/// Whether two builds, of which neither knows of the other's, make the same image.
fn is_reproducible(target: &Path, name: &str) -> Result<bool> {
    let folder = tempfile::tempdir_in(target).context("cannot make a target folder")?;
    let copy = tempfile::tempdir().context("cannot make a folder for the source")?;
    let source = copy.path().join("source");
    copy_source(cargo::root(), &source)?;
    let first = pack(&build(cargo::root(), folder.path())?, name)?;
    let again = pack(&build(&source, &copy.path().join("built"))?, name)?;
    println!("first {}\nagain {}", first.digest, again.digest);
    Ok(again.digest == first.digest)
}

/// Copies the repository without what was built and its history.
fn copy_source(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                copy_source(&path, &copy)?;
            }
        } else if entry.file_type()?.is_file() {
            fs::copy(&path, &copy).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// The agent, as released, without any path of this machine in it.
fn build(source: &Path, target: &Path) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let remap = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flag
    };
    let mut flags = remap(source, "/source");
    // Of paths that two say something about the later one is taken.
    flags.push("\x1f");
    flags.push(remap(target, "/target"));
    if let Some(home) = home {
        flags.push("\x1f");
        flags.push(remap(&home, "/cargo"));
    }
    let status = cargo::command()
        .current_dir(source)
        .args(["build", "--release", "--locked", "-p", "backtrail", "--bin", "backtrail", "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the agent does not build");
    Ok(target.join("release/backtrail"))
}

/// A finished image.
struct Image {
    /// An OCI image layout, as tar.
    archive: Vec<u8>,
    /// Of its manifest: `sha256:…`.
    digest: String,
}

fn pack(binary: &Path, name: &str) -> Result<Image> {
    let mut layout = Layout::default();
    let layer = layout.layer(&contents(binary)?)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": [format!("/{PROGRAM}")],
            "Env": ["PATH=/usr/bin"],
            "User": "0:0",
            "Labels": {
                "org.opencontainers.image.title": "backtrail",
                "org.opencontainers.image.description": "The node dataplane beside FRR",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "cargo xtask image"}],
    });
    let digest = layout.manifest(&config, &layer, name)?;
    Ok(Image { archive: layout.archive()?, digest })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The files of the image, by path.
fn contents(binary: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut files = BTreeMap::new();
    for folder in MOUNT_POINTS {
        files.insert(folder.into(), Entry::Folder);
    }
    files.insert(PROGRAM.into(), Entry::File { mode: 0o755, data: program::stripped(binary)? });
    for library in program::libraries(binary)? {
        let data = read(&library)?;
        files.insert(library.strip_prefix("/")?.to_owned(), Entry::File { mode: 0o755, data });
    }
    // Names of API servers: from /etc/hosts, which the kubelet mounts, and from DNS.
    let text = |text: &[u8]| Entry::File { mode: 0o644, data: text.to_vec() };
    files.insert("etc/nsswitch.conf".into(), text(b"hosts: files dns\n"));
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        files
            .insert(Path::new("usr/share/doc/backtrail").join(name), text(&read(&cargo::root().join(name))?));
    }
    // The licences of the libraries, where the distribution keeps them.
    for package in ["libc6", "libgcc-s1"] {
        let path = Path::new("usr/share/doc").join(package).join("copyright");
        if let Ok(data) = fs::read(Path::new("/").join(&path)) {
            files.insert(path, text(&data));
        }
    }
    Ok(files)
}
