//! FRR of newer Debian releases, in folders of their own, made once and cached outside the tree.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::frr::FrrInstall;
use crate::process::output;

/// A Debian release with FRR in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 13: FRR 10.3.
    Trixie,
    /// Debian unstable: the newest.
    Sid,
}

impl Suite {
    /// Its name in the archive.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }
}

/// FRR of `suite`, from the cache or made now by mmdebstrap from the mirrors that apt knows (about 30 s, 200 MB).
///
/// It is kept in [`cache_dir`].
///
/// # Errors
/// When mmdebstrap is missing, no mirror is known, the download fails, or FRR does not run there.
pub fn obtain_suite(suite: Suite) -> Result<FrrInstall> {
    FrrInstall::within(&root_of(suite)?)
}

/// Runs a test with the FRR of `suite`. Where that cannot be obtained the test is skipped, in the form that
/// `cargo xtask test` counts; one that was obtained and does not work is a failure.
///
/// # Errors
/// Those of `body`.
pub fn with_suite(suite: Suite, test: &str, body: impl FnOnce(&FrrInstall) -> Result<()>) -> Result<()> {
    match root_of(suite) {
        Ok(root) => body(&FrrInstall::within(&root)?),
        Err(error) => {
            println!("SKIPPED {test}: {error:#}");
            Ok(())
        }
    }
}

/// The root folder of a suite, from the cache or made now.
///
/// # Errors
/// When mmdebstrap is missing, no mirror is known, or the download fails.
pub fn root_of(suite: Suite) -> Result<PathBuf> {
    let cache = cache_dir();
    let folder = cache.join(format!("frr-{}", suite.name()));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join("lock")).context("cannot make the lock file of the cache")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let new = cache.join(format!("frr-{}.new", suite.name()));
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    bootstrap(suite, &new).with_context(|| format!("cannot obtain FRR of Debian {}", suite.name()))?;
    fs::rename(&new, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Where downloads stay: `$BACKTRAIL_CACHE`, else `$XDG_CACHE_HOME/backtrail`, else `/var/cache/backtrail` for root
/// and `~/.cache/backtrail` for others.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || of("HOME").filter(|_| !nix::unistd::geteuid().is_root());
    of("BACKTRAIL_CACHE")
        .or_else(|| of("XDG_CACHE_HOME").map(|path| path.join("backtrail")))
        .or_else(|| home().map(|path| path.join(".cache/backtrail")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/backtrail"))
}

/// A list of sources for apt: the Debian release `suite`, from the mirrors that this host's apt knows.
///
/// # Errors
/// Where apt knows no Debian mirror.
pub fn debian_sources(suite: &str) -> Result<String> {
    let mirrors = Mirrors::of_host()?;
    let mut sources = format!("deb {} {suite} main\n", mirrors.main);
    if let Some(security) = mirrors.security.filter(|_| suite != Suite::Sid.name()) {
        sources += &format!("deb {security} {suite}-security main\n");
    }
    Ok(sources)
}

fn bootstrap(suite: Suite, folder: &Path) -> Result<()> {
    let sources = debian_sources(suite.name())?;
    let list = folder.with_extension("list");
    fs::write(&list, sources).with_context(|| format!("cannot write {}", list.display()))?;
    let made = output(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=essential", "--include=frr,iproute2"])
            // A frozen mirror's Release file has expired: its signature is still checked.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(suite.name())
            .arg(folder)
            .arg(&list),
    );
    // Read only once; a list that stays does no harm.
    fs::remove_file(&list).ok();
    made.map(drop)
}

/// Where the host's apt gets Debian from.
#[derive(Debug)]
struct Mirrors {
    main: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_host() -> Result<Self> {
        let text = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(SUITE)|$(SITE)|$(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        Self::parse(&text)
    }

    /// Lines of `origin|suite|site|repository`. On Ubuntu no line is Debian's: then the suites cannot be had.
    fn parse(text: &str) -> Result<Self> {
        let mut main = None;
        let mut security = None;
        for line in text.lines() {
            let mut fields = line.split('|');
            let (origin, suite) = (fields.next(), fields.next().unwrap_or_default());
            let repository = fields.nth(1).unwrap_or_default().trim_end_matches('/');
            if origin == Some("Debian") && !repository.is_empty() {
                let slot = if suite.ends_with("-security") { &mut security } else { &mut main };
                slot.get_or_insert_with(|| repository.to_owned());
            }
        }
        ensure!(main.is_some(), "apt's configuration names no Debian mirror");
        Ok(Self { main: main.context("no mirror")?, security })
    }
}
