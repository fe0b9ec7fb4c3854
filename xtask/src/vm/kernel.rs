//! Debian's cloud kernels: downloaded and unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{Suite, cache_dir, output};
use clap::ValueEnum;

use crate::apt::Apt;

/// The package that depends on a release's newest kernel.
const META: &str = "linux-image-cloud-amd64";
/// What belongs to a kernel, besides what a running system needs.
const PARTS: &[&str] = &["linux-image-", "linux-binary-", "linux-modules-"];

/// A kernel of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's: no TCX
    #[value(name = "6.1")]
    Bookworm,
    /// Debian 13's
    #[value(name = "6.12")]
    Trixie,
    /// Debian unstable's
    #[value(name = "newest")]
    Sid,
}

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Files {
    /// `6.1.0-56-cloud-amd64`
    pub(super) release: String,
    /// What QEMU boots.
    pub(super) image: PathBuf,
    /// `lib/modules/RELEASE`
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// As the command line names it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Bookworm => "6.1",
            Self::Trixie => "6.12",
            Self::Sid => "newest",
        }
    }

    /// The release of Debian that has it.
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// The release whose FRR goes with it; the oldest one's is the host's own package.
    pub(super) fn suite_of_frr(self) -> Option<Suite> {
        match self {
            Self::Bookworm => None,
            Self::Trixie => Some(Suite::Trixie),
            Self::Sid => Some(Suite::Sid),
        }
    }

    /// The folder of this kernel's newest package, from the cache or downloaded now from the mirrors that apt knows.
    ///
    /// # Errors
    /// When no mirror is known or the download fails.
    pub(super) fn obtain(self) -> Result<PathBuf> {
        let apt = Apt::of(self.suite())?;
        let (version, packages) = closure(&apt)?;
        let folder = cache_dir().join(format!("kernel-{}-{version}", self.suite()));
        if !folder.is_dir() {
            println!("downloading {}", packages.iter().cloned().collect::<Vec<_>>().join(" "));
            // Renamed at the end: what is in the cache is whole.
            let new = folder.with_extension("new");
            if new.exists() {
                fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
            }
            apt.unpack(&packages, &new)?;
            fs::rename(&new, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(folder)
    }
}

impl Files {
    /// What is in the folder of an unpacked kernel.
    ///
    /// # Errors
    /// When there is no kernel where Debian's packages have it.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let modules =
            ["usr/lib/modules", "lib/modules"].into_iter().find_map(|path| only_entry(&folder.join(path)));
        let modules = modules.with_context(|| format!("no modules in {}", folder.display()))?;
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let images = [folder.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = images.into_iter().find(|image| image.is_file());
        let image = image.with_context(|| format!("no kernel in {}", folder.display()))?;
        Ok(Self { release, image, modules })
    }
}

fn only_entry(folder: &Path) -> Option<PathBuf> {
    Some(fs::read_dir(folder).ok()?.next()?.ok()?.path())
}

/// The kernel's version, and all packages that it is made of: newer releases split it.
fn closure(apt: &Apt) -> Result<(String, BTreeSet<String>)> {
    let mut packages = BTreeSet::new();
    let mut version = None;
    let mut open = vec![META.to_owned()];
    while let Some(name) = open.pop() {
        if !packages.insert(name.clone()) {
            continue;
        }
        let record = output(apt.command("apt-cache").args(["show", "--no-all-versions", &name]))?;
        let field = |key: &str| record.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        version = version.or_else(|| field("Version").map(str::to_owned));
        let depends = field("Depends").unwrap_or_default().split(", ");
        let names = depends.filter_map(|depend| depend.split_whitespace().next());
        open.extend(names.filter(|name| PARTS.iter().any(|part| name.starts_with(part))).map(str::to_owned));
    }
    packages.remove(META);
    ensure!(!packages.is_empty(), "{META} depends on no kernel");
    Ok((version.with_context(|| format!("{META} has no version"))?, packages))
}
