//! What was downloaded or built once, and is kept for other runs and other worktrees.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use backtrail_lab::cache_dir;
use nix::fcntl::{Flock, FlockArg};

/// The folder `name` of the cache: as it is there, else filled by `make` now. What is in the cache is whole: it is renamed
/// into place at the end. Of several processes one makes it, and the others wait.
///
/// # Errors
/// Those of `make`, and where the cache cannot be written.
pub(crate) fn obtain(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_dir();
    let folder = cache.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock =
        File::create(cache.join(format!("lock-{name}"))).context("cannot make the lock file of the cache")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let began = Instant::now();
    let new = cache.join(format!("{name}.new"));
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    fs::create_dir(&new).with_context(|| format!("cannot make {}", new.display()))?;
    make(&new)?;
    fs::rename(&new, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    println!("made {} in {} s", folder.display(), began.elapsed().as_secs());
    Ok(folder)
}
