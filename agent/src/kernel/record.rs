//! Records in the state directory of what was before Backtrail changed it: read whole, replaced whole.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::KernelError;

/// Which boot of the machine this is: what the kernel was told in another one is gone.
pub(super) fn boot_id() -> Result<String, KernelError> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(BOOT).map_err(|source| KernelError::File { path: BOOT.into(), doing: "read", source })
}

/// The record, or an empty one where there is none.
pub(super) fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, KernelError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|source| KernelError::Record { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(source) => Err(KernelError::File { path: path.to_owned(), doing: "read", source }),
    }
}

/// Writes the record whole: a new file, synced, then renamed over the old one.
pub(super) fn write(path: &Path, record: &impl Serialize) -> Result<(), KernelError> {
    let new = path.with_extension("json.new");
    let bytes = serde_json::to_vec_pretty(record)
        .map_err(|source| KernelError::Record { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let written = File::create(&new)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|source| KernelError::File { path: path.to_owned(), doing: "write the record", source })
}
