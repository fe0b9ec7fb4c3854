//! Sysctls through /proc/sys, with a record of what they were: whatever is set can be put back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{KernelError, record};

/// Name of the record in the state directory.
pub const RECORD: &str = "sysctls.json";

/// A sysctl that we changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    /// Its value before.
    original: String,
    /// The value that we gave it last.
    ours: String,
}

/// Sysctls of the calling thread's network namespace, and the record of those that were changed.
///
/// Keys are paths below /proc/sys (`net/ipv4/conf/eth0.100/rp_filter`), or dotted where no name holds a dot
/// (`net.ipv4.ip_forward`), as sysctl(8) has it.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    state_dir: PathBuf,
    changed: BTreeMap<String, Changed>,
}

impl Sysctls {
    /// Reads the record in `state_dir`, which must exist.
    ///
    /// # Errors
    /// [`KernelError::File`], or [`KernelError::Record`] when the record is not one.
    pub fn open(state_dir: &Path) -> Result<Self, KernelError> {
        Self::open_at(Path::new("/proc/sys"), state_dir)
    }

    /// The same with another root than /proc/sys.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(root: &Path, state_dir: &Path) -> Result<Self, KernelError> {
        let changed = record::read(&state_dir.join(RECORD))?;
        Ok(Self { root: root.to_owned(), state_dir: state_dir.to_owned(), changed })
    }

    /// The value, without its newline.
    ///
    /// # Errors
    /// [`KernelError::File`] (NotFound: no such interface, or not in this kernel), [`KernelError::SysctlKey`].
    pub fn get(&self, key: &str) -> Result<String, KernelError> {
        self.read(&self.normalize(key)?)
    }

    /// Sets a sysctl. Its former value is on disk before; one that has the value already is left alone.
    ///
    /// # Errors
    /// [`KernelError::File`], [`KernelError::SysctlKey`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), KernelError> {
        let key = self.normalize(key)?;
        let now = self.read(&key)?;
        if now == value {
            return Ok(());
        }
        let original = self.changed.get(&key).map_or(now, |changed| changed.original.clone());
        self.changed.insert(key.clone(), Changed { original, ours: value.to_owned() });
        self.save()?;
        self.write(&key, value)
    }

    /// Whether we gave it this value once: another one now is somebody else's doing.
    #[must_use]
    pub fn is_ours(&self, key: &str, value: &str) -> bool {
        let recorded = self.normalize(key).ok().and_then(|key| self.changed.get(&key));
        recorded.is_some_and(|changed| changed.ours == value)
    }

    /// Puts back what one sysctl was, unless somebody else has changed it since or its interface is gone; forgets it.
    ///
    /// # Errors
    /// [`KernelError::File`], [`KernelError::SysctlKey`]. It stays recorded then.
    pub fn restore(&mut self, key: &str) -> Result<(), KernelError> {
        let key = self.normalize(key)?;
        let Some(changed) = self.changed.get(&key) else { return Ok(()) };
        match self.read(&key) {
            Ok(now) if now == changed.ours => self.write(&key, &changed.original)?,
            Ok(_) => {}
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
        self.changed.remove(&key);
        self.save()
    }

    /// Puts back all of them, as far as it goes.
    ///
    /// # Errors
    /// The first failure; the others are restored all the same.
    pub fn restore_all(&mut self) -> Result<(), KernelError> {
        let keys: Vec<String> = self.changed.keys().cloned().collect();
        keys.iter().map(|key| self.restore(key)).fold(Ok(()), Result::and)
    }

    /// The keys that are changed now, with the values that they had.
    pub fn recorded(&self) -> impl Iterator<Item = (&str, &str)> {
        self.changed.iter().map(|(key, changed)| (key.as_str(), changed.original.as_str()))
    }

    /// The slash form, which cannot leave the root.
    fn normalize(&self, key: &str) -> Result<String, KernelError> {
        let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
        let plain = !path.is_empty()
            && Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
        if plain { Ok(path) } else { Err(KernelError::SysctlKey { key: key.to_owned() }) }
    }

    fn read(&self, key: &str) -> Result<String, KernelError> {
        let path = self.root.join(key);
        match fs::read_to_string(&path) {
            Ok(value) => Ok(value.trim_end().to_owned()),
            Err(source) => Err(KernelError::File { path, doing: "read the sysctl", source }),
        }
    }

    fn write(&self, key: &str, value: &str) -> Result<(), KernelError> {
        let path = self.root.join(key);
        fs::write(&path, value).map_err(|source| KernelError::File {
            path,
            doing: "write the sysctl",
            source,
        })
    }

    fn save(&self) -> Result<(), KernelError> {
        record::write(&self.state_dir.join(RECORD), &self.changed)
    }
}
