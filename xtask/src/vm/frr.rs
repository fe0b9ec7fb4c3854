//! The FRR that belongs to a kernel's Debian release, in a root folder of its own within the guest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use backtrail_lab::{GUEST_FRR, output};

use super::cpio::Archive;
use crate::program::stripped;

/// Folder of the programs.
const DAEMONS: &str = "usr/lib/frr";
/// Programs besides the daemons, in `usr/bin`.
const PROGRAMS: &[&str] = &["vtysh", "chown"];
/// Daemons of the lab; older releases lack the first.
const WANTED: &[&str] = &["mgmtd", "zebra", "bgpd", "staticd"];
/// What is loaded by name, below the folder of libraries.
const PLUGINS: &[&str] = &["frr/modules/dplane_fpm_nl.so", "security/pam_permit.so"];
/// Models that newer releases of libyang read from files.
const MODELS: &str = "usr/share/yang/modules/libyang";
/// The folder of libraries, and FRR's own within it.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// The loader is found by this path alone.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// Folders that daemons write to.
const FOLDERS: &[&str] = &["etc/frr", "run/frr", "tmp", "var/lib/frr", "var/log/frr", "var/tmp"];
/// Whoever is in the guest may use vtysh.
const PAM: &[u8] = b"auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n";

/// Adds FRR from `root`, the root folder of a Debian system.
///
/// # Errors
/// When a program or a library of it is missing there.
pub(super) fn add(archive: &mut Archive, root: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = vec![];
    let daemons = WANTED.iter().map(|name| Path::new(DAEMONS).join(name));
    files.extend(daemons.filter(|daemon| root.join(daemon).exists()));
    files.extend(PROGRAMS.iter().map(|name| Path::new("usr/bin").join(name)));
    files.extend(PLUGINS.iter().map(|name| Path::new(LIBRARIES).join(name)));
    let mut seen: BTreeSet<PathBuf> = files.iter().cloned().collect();
    let guest = Path::new(GUEST_FRR);
    while let Some(file) = files.pop() {
        let data = stripped(&root.join(&file))?;
        archive.file(guest.join(&file), 0o755, &data)?;
        for library in needed(&root.join(&file))? {
            let folders = [format!("{LIBRARIES}/frr"), LIBRARIES.to_owned()];
            let mut places = folders.iter().map(|folder| Path::new(folder).join(&library));
            let place = places.find(|place| root.join(place).exists());
            let place = place.with_context(|| format!("{} needs {library}: not there", file.display()))?;
            if seen.insert(place.clone()) {
                files.push(place);
            }
        }
    }
    archive.file(guest.join(LOADER), 0o755, &fs::read(root.join(LOADER)).context("no loader")?)?;
    archive.tree(&guest.join(MODELS), &root.join(MODELS))?;
    archive.link(guest.join("lib"), "usr/lib")?;
    archive.link(guest.join("bin"), "usr/bin")?;
    archive.link(guest.join("var/run"), "/run")?;
    archive.device(guest.join("dev/null"), 1, 3)?;
    archive.device(guest.join("dev/urandom"), 1, 9)?;
    for folder in FOLDERS {
        archive.folder(guest.join(folder))?;
    }
    for name in ["passwd", "group"] {
        let path = root.join("etc").join(name);
        let data = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        archive.file(guest.join("etc").join(name), 0o644, &data)?;
    }
    archive.file(guest.join("etc/nsswitch.conf"), 0o644, b"passwd: files\ngroup: files\n")?;
    for name in ["frr", "other"] {
        archive.file(guest.join("etc/pam.d").join(name), 0o644, PAM)?;
    }
    Ok(())
}

/// The libraries that a program or a library asks the loader for.
fn needed(path: &Path) -> Result<Vec<String>> {
    let text = output(Command::new("objdump").arg("-p").arg(path))?;
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("NEEDED"));
    // The loader is its own library.
    Ok(names.map(|name| name.trim().to_owned()).filter(|name| !name.starts_with("ld-linux")).collect())
}
