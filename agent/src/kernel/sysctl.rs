//! Sysctls through /proc/sys, with a record of what they were: whatever is set can be put back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use nix::net::if_::if_nameindex;
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
    /// The value that we gave it before that, until the last one is written: a kill may come between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    /// The interface whose sysctl it is: the value stays with it when its name, and with that the key, changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ifindex: Option<u32>,
}

impl Changed {
    fn is_ours(&self, value: &str) -> bool {
        self.ours == value || self.previous.as_deref() == Some(value)
    }
}

/// The record on disk. After a reboot, what is found is what was before us.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    boot: String,
    changed: BTreeMap<String, Changed>,
}

/// What may be on disk.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    File(File),
    /// As earlier versions wrote it, without the boot: taken for one of this boot.
    Plain(BTreeMap<String, Changed>),
}

impl Default for Stored {
    fn default() -> Self {
        Self::File(File::default())
    }
}

/// Sysctls of the calling thread's network namespace, and the record of those that were changed.
///
/// Keys are paths below /proc/sys (`net/ipv4/conf/eth0.100/rp_filter`), or dotted where no name holds a dot
/// (`net.ipv4.ip_forward`), as sysctl(8) has it.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    state_dir: PathBuf,
    file: File,
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
        let boot = record::boot_id()?;
        let changed = match record::read(&state_dir.join(RECORD))? {
            Stored::File(file) if file.boot != boot => BTreeMap::new(),
            Stored::File(File { changed, .. }) | Stored::Plain(changed) => changed,
        };
        let file = File { boot, changed };
        let mut sysctls = Self { root: root.to_owned(), state_dir: state_dir.to_owned(), file };
        sysctls.follow();
        Ok(sysctls)
    }

    /// Knows the sysctls of interfaces by the names that these have now, and forgets those of interfaces that are gone.
    /// To be called before each comparison with what is [`recorded`](Self::recorded).
    pub fn follow(&mut self) {
        if self.file.changed.keys().all(|key| interface(key).is_none()) {
            return;
        }
        let Ok(present) = if_nameindex() else { return };
        let present: Vec<(u32, String)> = present
            .iter()
            .map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned()))
            .collect();
        let (named, others) = std::mem::take(&mut self.file.changed)
            .into_iter()
            .partition(|(_, changed)| changed.ifindex.is_some());
        self.file.changed = others;
        for (key, changed) in named {
            let link = present.iter().find(|(ifindex, _)| Some(*ifindex) == changed.ifindex);
            if let Some((key, (_, name))) = interface(&key).zip(link) {
                self.file.changed.insert(key.of(name), changed);
            }
        }
        for (key, changed) in self.file.changed.iter_mut().filter(|(_, changed)| changed.ifindex.is_none()) {
            let link = interface(key).and_then(|key| present.iter().find(|(_, name)| name == key.name));
            changed.ifindex = link.map(|(ifindex, _)| *ifindex);
        }
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
        self.follow();
        let known = self.file.changed.remove(&key);
        let previous = known.as_ref().is_some_and(|known| known.is_ours(&now)).then(|| now.clone());
        let changed = match known {
            Some(known) => Changed { ours: value.to_owned(), previous, ..known },
            None => Changed { original: now, ours: value.to_owned(), previous, ifindex: None },
        };
        let again = changed.previous.is_some();
        self.file.changed.insert(key.clone(), changed);
        self.follow();
        self.save()?;
        self.write(&key, value)?;
        if again {
            self.file.changed.entry(key).and_modify(|changed| changed.previous = None);
            self.save()?;
        }
        Ok(())
    }

    /// Whether we gave it this value once: another one now is somebody else's doing.
    #[must_use]
    pub fn is_ours(&self, key: &str, value: &str) -> bool {
        let recorded = self.normalize(key).ok().and_then(|key| self.file.changed.get(&key));
        recorded.is_some_and(|changed| changed.ours == value)
    }

    /// Puts back what one sysctl was, unless somebody else has changed it since or its interface is gone; forgets it.
    /// The key is the one of now, where the interface was renamed.
    ///
    /// # Errors
    /// [`KernelError::File`], [`KernelError::SysctlKey`]. It stays recorded then.
    pub fn restore(&mut self, key: &str) -> Result<(), KernelError> {
        let key = self.normalize(key)?;
        self.follow();
        let Some(changed) = self.file.changed.get(&key) else { return Ok(()) };
        match self.read(&key) {
            Ok(now) if changed.is_ours(&now) => self.write(&key, &changed.original)?,
            Ok(_) => {}
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
        self.file.changed.remove(&key);
        self.save()
    }

    /// Puts back all of them, as far as it goes.
    ///
    /// # Errors
    /// The first failure; the others are restored all the same.
    pub fn restore_all(&mut self) -> Result<(), KernelError> {
        self.follow();
        let keys: Vec<String> = self.file.changed.keys().cloned().collect();
        keys.iter().map(|key| self.restore(key)).fold(Ok(()), Result::and)
    }

    /// The keys that are changed now, with the values that they had.
    pub fn recorded(&self) -> impl Iterator<Item = (&str, &str)> {
        self.file.changed.iter().map(|(key, changed)| (key.as_str(), changed.original.as_str()))
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
        record::write(&self.state_dir.join(RECORD), &self.file)
    }
}

/// A key of one interface: `net/ipv4/conf/`, `eth0.100`, `/rp_filter`.
struct InterfaceKey<'a> {
    before: &'a str,
    name: &'a str,
    after: &'a str,
}

impl InterfaceKey<'_> {
    fn of(&self, name: &str) -> String {
        format!("{}{name}{}", self.before, self.after)
    }
}

/// The parts of a key, if it is of one interface.
fn interface(key: &str) -> Option<InterfaceKey<'_>> {
    let starts = ["net/ipv4/conf/", "net/ipv6/conf/", "net/ipv4/neigh/", "net/ipv6/neigh/"];
    let start = starts.into_iter().find(|start| key.starts_with(start))?;
    let (before, rest) = key.split_at_checked(start.len())?;
    let (name, after) = rest.split_at_checked(rest.find('/')?)?;
    (!matches!(name, "all" | "default")).then_some(InterfaceKey { before, name, after })
}
