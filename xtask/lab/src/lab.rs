//! The lab: what holds namespaces, links, mounts and files together.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::namespace::Namespace;
use crate::process::output;

static SERIAL: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static PRIVATE: Cell<bool> = const { Cell::new(false) };
}

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct End<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
    addresses: &'a [&'a str],
    mac: Option<&'a str>,
}

impl<'a> End<'a> {
    /// `interface` in `namespace` with `addresses` (`192.0.2.1/24`, `2001:db8::1/64`).
    #[must_use]
    pub fn new(namespace: &'a Namespace, interface: &'a str, addresses: &'a [&'a str]) -> Self {
        Self { namespace, interface, addresses, mac: None }
    }

    /// With this hardware address, `02:00:00:00:00:01`.
    #[must_use]
    pub fn mac(mut self, mac: &'a str) -> Self {
        self.mac = Some(mac);
        self
    }
}

/// Owner of a set of namespaces. Dropping it removes its mounts and files; each [`Namespace`] goes with its last clone.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: TempDir,
    keep: bool,
    bpffs: Mutex<Option<PathBuf>>,
}

impl Lab {
    /// A lab that nobody outside sees: the calling thread, and all that it starts, gets a private mount namespace
    /// with an empty `/run/netns` and `/run/frr` (once for each thread).
    ///
    /// # Errors
    /// Without root, or where mount namespaces are forbidden.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a lab of network namespaces needs root");
        if !PRIVATE.get() {
            private_mounts().context("cannot make a private mount namespace (CAP_SYS_ADMIN is needed)")?;
            PRIVATE.set(true);
        }
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self::build(format!("bt{}x{serial}-{name}", std::process::id()), false)
    }

    /// A lab in the host's own mount namespace, visible to `ip netns`, that outlives this program.
    ///
    /// # Errors
    /// Without root.
    pub fn kept(name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a lab of network namespaces needs root");
        Self::build(name.to_owned(), true)
    }

    /// Removes what [`Lab::kept`] of this name has left: its processes, namespaces, mounts and files. Nothing there is no
    /// error. FRR's folders are removed for the host's FRR only.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_kept(name: &str) -> Result<()> {
        let ours =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&format!("{name}-"));
        let list = |folder: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter(ours).map(|entry| entry.path()).collect()
        };
        for path in list(Path::new("/run/netns")) {
            let space = path.file_name().unwrap_or_default();
            let pids = output(Command::new("ip").arg("netns").arg("pids").arg(space))?;
            for pid in pids.split_whitespace() {
                // It may have ended in between.
                nix::sys::signal::kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL).ok();
            }
            output(Command::new("ip").arg("netns").arg("del").arg(space))?;
        }
        for folder in [&std::env::temp_dir(), Path::new("/run/frr")] {
            for path in list(folder) {
                // Only a lab's folder has one, and only once it was asked for.
                umount2(&path.join("bpffs"), MntFlags::MNT_DETACH).ok();
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn build(prefix: String, keep: bool) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .disable_cleanup(keep)
            .tempdir()
            .context("cannot make a temporary folder")?;
        Ok(Self { prefix, dir, keep, bpffs: Mutex::new(None) })
    }

    /// The folder of its files: logs, configurations, sockets.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Whether it outlives this program.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.keep
    }

    /// Makes a namespace; the lab's prefix comes before its name.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::create(&format!("{}-{name}", self.prefix), self.dir(), self.keep)
    }

    /// A bpffs of this lab's own, mounted at the first call.
    ///
    /// # Errors
    /// When the kernel refuses the mount.
    pub fn bpffs(&self) -> Result<PathBuf> {
        let mut mounted = self.bpffs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(path) = mounted.as_ref() {
            return Ok(path.clone());
        }
        let path = self.dir().join("bpffs");
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount bpffs on {}", path.display()))?;
        *mounted = Some(path.clone());
        Ok(path)
    }

    /// Joins two namespaces by a veth pair, both ends up with their addresses.
    ///
    /// # Errors
    /// When `ip` fails, for example because a name is taken.
    pub fn connect(&self, a: &End<'_>, b: &End<'_>) -> Result<()> {
        output(
            Command::new("ip")
                .args(["link", "add", a.interface, "netns", a.namespace.name(), "type", "veth"])
                .args(["peer", "name", b.interface, "netns", b.namespace.name()]),
        )?;
        for end in [a, b] {
            let dev = end.interface;
            let mut script = String::new();
            if let Some(mac) = end.mac {
                script += &format!("ip link set dev {dev} address {mac}\n");
            }
            script += &format!("ip link set dev {dev} up\n");
            for address in end.addresses {
                script += &format!("ip addr add {address} dev {dev}\n");
            }
            end.namespace.run(&script)?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mounted = self.bpffs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let (Some(path), false) = (mounted, self.keep) {
            // Lazily: a process that still holds a pin must not keep the folder from going.
            umount2(&path, MntFlags::MNT_DETACH).ok();
        }
    }
}

fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for folder in ["/run/netns", "/run/frr"] {
        fs::create_dir_all(folder)?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))?;
    }
    Ok(())
}
