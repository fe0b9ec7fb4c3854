//! The run directory: one agent at a time, and a socket for its owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::{UnixListener, UnixSocket};

use super::{ControlError, LOCK, SOCKET};

/// Connections that may wait for accept(2).
const BACKLOG: u32 = 16;

/// The agent's claim on a run directory; dropped, it removes the socket and releases the lock.
#[derive(Debug)]
pub struct Endpoint {
    socket: PathBuf,
    _lock: Flock<File>,
}

impl Endpoint {
    /// Claims `run_dir` (made with mode 0700 where it is missing) for this process.
    ///
    /// The lock decides who is alive, never the socket file, which a killed agent leaves behind.
    ///
    /// # Errors
    /// [`ControlError::AlreadyRunning`] while another process holds the claim; [`ControlError::Io`] otherwise.
    pub fn claim(run_dir: &Path) -> Result<Self, ControlError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(io("create", run_dir))?;
        let path = run_dir.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // In a directory that others may write to, the name could be a link to somebody's file.
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(io("open", &path))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| {
            if errno == Errno::EWOULDBLOCK {
                ControlError::AlreadyRunning { path: path.clone(), pid: holder(file) }
            } else {
                ControlError::Io { action: "lock", path: path.clone(), source: errno.into() }
            }
        })?;
        lock.set_len(0)
            .and_then(|()| lock.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(lock, "{}", std::process::id()))
            .map_err(io("write", &path))?;
        Ok(Self { socket: run_dir.join(SOCKET), _lock: lock })
    }

    /// Opens the socket with mode 0600. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ControlError::Io`], for instance for a path over 107 bytes.
    pub fn listen(&self) -> Result<UnixListener, ControlError> {
        let path = &self.socket;
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io("remove", path)(e)),
            _ => {}
        }
        let socket = UnixSocket::new_stream().map_err(io("create", path))?;
        socket.bind(path).map_err(io("bind", path))?;
        // Before listen(2), connections are refused: nobody gets in between bind and chmod.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io("set the mode of", path))?;
        socket.listen(BACKLOG).map_err(io("listen on", path))
    }

    /// Gives the claim up and removes the lock file too, and the directory where nothing else is in it.
    pub fn retire(self) {
        let lock = self.socket.with_file_name(LOCK);
        let directory = lock.parent().map(Path::to_owned);
        // As in `drop`: what cannot be removed does no harm.
        let _ = fs::remove_file(lock);
        drop(self);
        if let Some(directory) = directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Where it cannot be removed, the next agent replaces it.
        let _ = fs::remove_file(&self.socket);
    }
}

/// The pid that the lock's holder wrote.
fn holder(mut file: File) -> String {
    let mut pid = String::new();
    match file.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "?".to_owned(),
    }
}

/// Names the action and the file of an I/O error.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| ControlError::Io { action, path, source }
}
