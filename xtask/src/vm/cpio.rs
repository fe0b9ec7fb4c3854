//! Archives in cpio's `newc` format, as the kernel unpacks them (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// File types of `st_mode`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;

/// An archive in memory; everything in it belongs to root. Folders come by themselves.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    paths: BTreeSet<PathBuf>,
}

impl Archive {
    /// Whether there is something at this path.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.paths.contains(path)
    }

    /// Adds a file with these permissions. What is there already stays.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, permissions: u32, data: &[u8]) -> Result<()> {
        self.entry(path.as_ref(), FILE | permissions, (0, 0), data)
    }

    /// Adds a file of the host, or all files of a folder; nothing where the host has none.
    pub(super) fn tree(&mut self, at: &Path, from: &Path) -> Result<()> {
        if from.is_dir() {
            for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
                let name = entry?.file_name();
                self.tree(&at.join(&name), &from.join(&name))?;
            }
        } else if from.is_file() {
            let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            self.file(at, 0o644, &data)?;
        }
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: impl AsRef<Path>, target: &str) -> Result<()> {
        self.entry(path.as_ref(), LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device by its numbers.
    pub(super) fn device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) -> Result<()> {
        self.entry(path.as_ref(), CHARACTERS | 0o600, (major, minor), &[])
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.entry(path.as_ref(), FOLDER | 0o755, (0, 0), &[])
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.write("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        if path == Path::new("/") || !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        let name = path.to_str().with_context(|| format!("{} is no text", path.display()))?;
        self.write(name.trim_start_matches('/'), mode, device, data)
    }

    fn write(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        let number = |length: usize| u32::try_from(length).context("a file is too large for cpio");
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            number(data.len())?,
            0,
            0,
            device.0,
            device.1,
            number(name.len() + 1)?,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests;
