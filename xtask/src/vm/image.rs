//! What a guest sees: programs of the host with their libraries, the kernel's modules, and the tests, all in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _};

use super::cpio::Archive;
use super::guest::{MODULES, TESTS};
use super::kernel::Files;
use super::{Job, frr};
use crate::program::{libraries, stripped};
use crate::{cargo, tools};

/// Programs that tests call, each with what the guest calls it by.
const PROGRAMS: &[&str] = &[
    "sh", "chroot", "ip", "tc", "bridge", "ping", "nft", "tcpdump", "bpftool", "unshare", "sysctl", "cat",
    "cut", "grep", "head", "prlimit", "sed", "setpriv", "sleep", "sort", "tail", "timeout", "tr", "true",
    "wc", "wg",
];
/// Names of users, protocols and tables, which those programs read.
const SETTINGS: &[&str] =
    &["/etc/group", "/etc/iproute2", "/etc/passwd", "/etc/protocols", "/etc/services", "/usr/share/iproute2"];
/// Modules that the tests' devices, queues and filters need.
const WANTED: &[&str] = &[
    "8021q",
    "bonding",
    "bridge",
    "cls_bpf",
    "dummy",
    "geneve",
    "ifb",
    "inet_diag",
    "ip_gre",
    "ipip",
    "ipvlan",
    "macvlan",
    "nf_conntrack",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_reject_inet",
    "sch_ingress",
    "tcp_diag",
    "tun",
    "veth",
    "vrf",
    "vxlan",
    "wireguard",
];

/// Builds the initial RAM disk.
pub(super) fn build(kernel: &Files, frr: Option<&Path>, jobs: &[Job], agent: &Path) -> Result<Vec<u8>> {
    let mut image = Image::default();
    for folder in ["/dev", "/proc", "/run/netns", "/sys", "/tmp", "/var/tmp"] {
        image.archive.folder(folder)?;
    }
    image.archive.link("/var/run", "/run")?;
    image.archive.device("/dev/console", 5, 1)?;
    image.archive.file("/etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\n")?;
    for path in SETTINGS {
        image.archive.tree(path.as_ref(), path.as_ref())?;
    }
    image.program(Path::new("/init"), &cargo::xtask()?)?;
    for name in PROGRAMS {
        match tools::find(name) {
            Some(path) => image.program(&Path::new("/bin").join(name), &path)?,
            None => println!("the guest has no {name}: it is not installed here"),
        }
    }
    image.modules(&kernel.modules)?;
    if let Some(root) = frr {
        frr::add(&mut image.archive, root)?;
    }
    image.program(agent, agent)?;
    let mut list = String::new();
    for Job { test, filters } in jobs {
        image.program(&test.executable, &test.executable)?;
        image.archive.folder(&test.package)?;
        let arguments = ["--ignored --test-threads=1 --show-output"].into_iter();
        let arguments = arguments.chain(filters.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
        list += &format!(
            "{}\t{}\t{}\t{arguments}\n",
            test.name,
            test.package.display(),
            test.executable.display()
        );
    }
    image.archive.file(TESTS, 0o644, list.as_bytes())?;
    image.archive.finish()
}

#[derive(Default)]
struct Image {
    archive: Archive,
}

impl Image {
    /// A program without its debugging information, and the libraries that it names.
    fn program(&mut self, at: &Path, path: &Path) -> Result<()> {
        let path = path.canonicalize().with_context(|| format!("no program {}", path.display()))?;
        let data = stripped(&path)?;
        self.archive.file(at, 0o755, &data)?;
        for library in libraries(&path)? {
            if !self.archive.has(&library) {
                let data =
                    fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
                self.archive.file(&library, 0o755, &data)?;
            }
        }
        Ok(())
    }

    /// The wanted modules and those that they depend on, numbered in the order in which they must be loaded.
    fn modules(&mut self, folder: &Path) -> Result<()> {
        let mut all = Modules { paths: BTreeMap::new(), order: Vec::new() };
        all.index(folder)?;
        for name in WANTED {
            all.add(&name.replace('-', "_"))?;
        }
        for (number, (name, data)) in all.order.iter().enumerate() {
            self.archive.file(Path::new(MODULES).join(format!("{number:03}-{name}.ko")), 0o644, data)?;
        }
        Ok(())
    }
}

struct Modules {
    paths: BTreeMap<String, PathBuf>,
    order: Vec<(String, Vec<u8>)>,
}

impl Modules {
    fn index(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                self.index(&path)?;
            } else if let Some(name) = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz")) {
                self.paths.insert(name.replace('-', "_"), path);
            }
        }
        Ok(())
    }

    /// A module after those that it depends on; what is no module of this kernel is built in, or the tests miss it.
    fn add(&mut self, name: &str) -> Result<()> {
        let Some(path) = self.paths.get(name) else { return Ok(()) };
        if self.order.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let data = if path.extension().is_some_and(|extension| extension == "xz") {
            unpacked(path)?
        } else {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
        };
        for dependency in dependencies(&data)? {
            self.add(&dependency)?;
        }
        self.order.push((name.to_owned(), data));
        Ok(())
    }
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let out = Command::new("xz").arg("-dc").arg(path).output().context("cannot start xz")?;
    anyhow::ensure!(out.status.success(), "cannot unpack {}", path.display());
    Ok(out.stdout)
}

/// `depends=` of a module's `.modinfo`.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module).context("a module is no ELF file")?;
    let info = file.section_by_name(".modinfo").context("a module without .modinfo")?.data()?;
    let depends = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).replace('-', "_");
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}
