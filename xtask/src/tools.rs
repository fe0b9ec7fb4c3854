//! What a task needs on the machine, and how it gets it: distribution packages, and root for single programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A program and the package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// Name in `PATH`, or an absolute path.
    program: &'static str,
    /// Packages to try, in this order: distributions name it differently.
    packages: &'static [&'static str],
    /// Without it the task cannot run at all.
    required: bool,
}

const fn tool(program: &'static str, packages: &'static [&'static str]) -> Tool {
    Tool { program, packages, required: true }
}

/// What a lab of namespaces with FRR needs.
pub(crate) const LAB: &[Tool] = &[
    tool("ip", &["iproute2"]),
    tool("ping", &["iputils-ping"]),
    tool("unshare", &["util-linux"]),
    tool("setpriv", &["util-linux"]),
    tool("/usr/lib/frr/zebra", &["frr"]),
    Tool { program: "bpftool", packages: &["bpftool", "linux-tools-generic"], required: false },
];

/// What tests need beyond [`LAB`].
pub(crate) const TESTS: &[Tool] = &[
    tool("tcpdump", &["tcpdump"]),
    tool("nft", &["nftables"]),
    tool("openssl", &["openssl"]),
    Tool { program: "iptables", packages: &["iptables"], required: false },
    Tool { program: "ethtool", packages: &["ethtool"], required: false },
    Tool { program: "wg", packages: &["wireguard-tools"], required: false },
    Tool { program: "mmdebstrap", packages: &["mmdebstrap"], required: false },
    Tool { program: "runc", packages: &["runc"], required: false },
    Tool { program: "umoci", packages: &["umoci"], required: false },
    // libFuzzer is C++.
    Tool { program: "c++", packages: &["g++"], required: false },
];

/// What virtual machines need beyond [`LAB`] and [`TESTS`].
pub(crate) const VM: &[Tool] = &[
    tool("qemu-system-x86_64", &["qemu-system-x86"]),
    tool("dpkg", &["dpkg"]),
    tool("strip", &["binutils"]),
    tool("xz", &["xz-utils"]),
];

/// A compiler for BPF with its `core`, and what bpf-linker is built with, where the distribution has them.
pub(crate) const EBPF: &[Tool] = &[
    Tool { program: "/usr/bin/rustc", packages: &["rustc-web"], required: false },
    Tool {
        program: "/usr/lib/rustlib/bpfel-unknown-none",
        packages: &["libstd-rust-web-dev-bpf"],
        required: false,
    },
    Tool { program: "/usr/lib/llvm-22/bin/llvm-config", packages: &["llvm-22-dev"], required: false },
];

/// What to do when a privileged program does not start.
pub(crate) const NO_ROOT: &str = "cannot become root: run this as root, or install sudo";

/// Debian's `PATH` for ordinary users lacks the last two.
const FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// The path of a program, by its name or its absolute path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    // Joining an absolute path gives that path.
    folders.map(|folder| folder.join(program)).find(|path| path.exists())
}

fn is_there(program: &str) -> bool {
    find(program).is_some()
}

/// The packages that are missing, for people.
pub(crate) fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let absent = tools.iter().filter(|tool| !is_there(tool.program));
    absent.filter_map(|tool| tool.packages.first().copied()).collect()
}

/// Installs the distribution packages of those `tools` that are not there. A freshly installed FRR is not left running.
///
/// # Errors
/// When a required one cannot be installed.
pub(crate) fn install(tools: &[Tool]) -> Result<()> {
    let absent: Vec<&Tool> = tools.iter().filter(|tool| !is_there(tool.program)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    ensure!(is_there("apt-get"), "install these by hand, there is no apt-get: {}", missing(tools).join(", "));
    // An outdated index is the only thing that this mends; without a network the installation itself reports it.
    apt(&["update", "-qq"]).ok();
    for tool in absent {
        println!("installing {} for {}", tool.packages.join(" or "), tool.program);
        let installed = tool.packages.iter().any(|package| install_package(package).is_ok());
        if !installed || !is_there(tool.program) {
            ensure!(!tool.required, "cannot install {}", tool.packages.join(" or "));
            println!("going on without {}", tool.program);
        }
    }
    Ok(())
}

fn install_package(package: &str) -> Result<()> {
    let service = package == "frr" && Path::new("/run/systemd/system").exists();
    if service {
        // The lab starts daemons by itself; the package's service would manage the host's routes.
        run(privileged("systemctl").args(["mask", "--runtime", "frr.service"]))?;
    }
    let installed = apt(&["install", "-y", "-qq", "--no-install-recommends", package]);
    if service {
        run(privileged("systemctl").args(["unmask", "--runtime", "frr.service"]))?;
        run(privileged("systemctl").args(["disable", "--quiet", "frr.service"]))?;
    } else if package == "frr" && installed.is_ok() {
        // Without systemd the package may have started it through its init script; stopping what does not run fails.
        privileged("/usr/lib/frr/frrinit.sh").arg("stop").output().ok();
    }
    installed
}

fn apt(arguments: &[&str]) -> Result<()> {
    run(privileged("env").args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("cannot start {command:?}: is sudo there?"))?;
    ensure!(out.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// A command that runs as root: as it is for root, through sudo for everybody else.
pub(crate) fn privileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut path: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    path.extend(FOLDERS.iter().map(Into::into));
    let path = std::env::join_paths(path).unwrap_or_default();
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new(program);
        command.env("PATH", path);
        return command;
    }
    let mut command = Command::new("sudo");
    command.arg("env");
    for name in ["BACKTRAIL_CACHE", "RUST_BACKTRACE", "KUBEBUILDER_ASSETS"] {
        if let Some(value) = std::env::var_os(name) {
            let mut pair = std::ffi::OsString::from(format!("{name}="));
            pair.push(value);
            command.arg(pair);
        }
    }
    let mut pair = std::ffi::OsString::from("PATH=");
    pair.push(path);
    command.arg(pair).arg(program);
    command
}
