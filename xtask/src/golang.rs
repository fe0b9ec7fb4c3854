//! Go, in which kube-apiserver, kubectl and Helm are written: the machine's, else Debian's, unpacked into the cache. The
//! product itself has none of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use backtrail_lab::output;

use crate::apt::Apt;
use crate::{cache, tools};

/// First Go that fetches the newer one that a module asks for, from where modules come from.
const OLDEST: (u32, u32) = (1, 21);
/// Debian's: the release, its packages, and where they have it.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 2] = ["golang-1.24-go", "golang-1.24-src"];
const ROOT: &str = "usr/lib/go-1.24";

/// A Go that is new enough.
#[derive(Debug)]
pub(crate) struct Go {
    program: PathBuf,
    /// Where its library is, if not where it was built for.
    root: Option<PathBuf>,
}

impl Go {
    /// The one in `PATH` or `/usr/local/go`, else Debian's.
    ///
    /// # Errors
    /// When a download fails.
    pub(crate) fn obtain() -> Result<Self> {
        let here = ["go", "/usr/local/go/bin/go"].into_iter().filter_map(tools::find).find(|program| {
            let said = output(Command::new(program).arg("version"));
            said.ok().and_then(|text| version(&text)).is_some_and(|version| version >= OLDEST)
        });
        if let Some(program) = here {
            return Ok(Self { program, root: None });
        }
        let folder = cache::obtain(&format!("go-{SUITE}"), |folder| {
            println!("unpacking Go of Debian {SUITE}: 250 MB");
            Apt::of(SUITE)?.unpack(&BTreeSet::from(PACKAGES.map(str::to_owned)), folder)
        });
        let root =
            folder.context("Go is missing, and Debian's cannot be had: install Go 1.21 or newer")?.join(ROOT);
        Ok(Self { program: root.join("bin/go"), root: Some(root) })
    }

    /// It, for static programs, at low priority: tests that run beside it wait for events, not for it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nice");
        command.arg(&self.program).envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "auto")]);
        if let Some(root) = &self.root {
            command.env("GOROOT", root);
        }
        command
    }
}

/// `go version go1.24.4 linux/amd64`
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    Some((1, word.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_understood() {
        assert_eq!(version("go version go1.24.4 linux/amd64\n"), Some((1, 24)));
        assert_eq!(version("go version go1.19 linux/amd64\n"), Some((1, 19)));
        assert_eq!(version("no such thing"), None);
    }
}
