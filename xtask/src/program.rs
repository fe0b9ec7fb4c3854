//! Programs of the host, taken along into a guest or an image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use backtrail_lab::output;

/// A program without its debugging information, which is nine tenths of a test program.
pub(crate) fn stripped(path: &Path) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let to = folder.path().join("program");
    output(Command::new("strip").arg("--strip-debug").arg("-o").arg(&to).arg(path))?;
    fs::read(&to).with_context(|| format!("cannot read {}", to.display()))
}

/// What the dynamic loader would load, itself included; nothing for a static program.
pub(crate) fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let out = Command::new("ldd").arg(path).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}
