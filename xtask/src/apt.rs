//! apt with lists of its own: packages of any Debian release, downloaded and unpacked, never installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use backtrail_lab::{cache_dir, debian_sources, output};

/// apt with lists of its own: the host's are neither read nor changed. Needs no root.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// With the package lists of a release, fetched now.
    ///
    /// # Errors
    /// When no mirror is known or the download fails.
    pub(crate) fn of(suite: &str) -> Result<Self> {
        let folder = cache_dir().join(format!("apt-{suite}"));
        for name in ["lists/partial", "archives/partial"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        fs::write(folder.join("sources.list"), debian_sources(suite)?)?;
        fs::write(folder.join("status"), "")?;
        let apt = Self { folder };
        output(apt.command("apt-get").args(["update", "-qq", "--error-on=any"]))?;
        Ok(apt)
    }

    /// One of its programs, told where everything is.
    pub(crate) fn command(&self, program: &str) -> Command {
        let folder = self.folder.display();
        let mut command = Command::new(program);
        for option in [
            &format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null",
            &format!("Dir::State::lists={folder}/lists"),
            &format!("Dir::State::status={folder}/status"),
            &format!("Dir::Cache={folder}"),
            // A frozen mirror's Release file has expired: its signature is still checked.
            "Acquire::Check-Valid-Until=false",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "APT::Architecture=amd64",
            "APT::Sandbox::User=root",
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Downloads packages and unpacks them into a folder.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub(crate) fn unpack(&self, packages: &BTreeSet<String>, into: &Path) -> Result<()> {
        let downloads = into.join("packages");
        fs::create_dir_all(&downloads).with_context(|| format!("cannot make {}", downloads.display()))?;
        output(self.command("apt-get").args(["download", "-qq"]).args(packages).current_dir(&downloads))?;
        for entry in fs::read_dir(&downloads)? {
            output(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(into))?;
        }
        fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
    }
}
