//! What can go wrong with programs, maps and pins.

use std::path::PathBuf;

/// Why steering is not, or not wholly, in force.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// The folder for pins lies on another file system.
    #[error(
        "{path} is not on a bpffs: run `mount -t bpf bpf /sys/fs/bpf`, or mount the host's into the container"
    )]
    NotBpffs {
        /// The folder.
        path: PathBuf,
    },
    /// The process may not do what it must.
    #[error("the process lacks {capability}: run it as root, or add the capability to the container")]
    MissingCapability {
        /// Such as `CAP_BPF`.
        capability: &'static str,
    },
    /// The container runtime's seccomp profile stands before the capability.
    #[error(
        "a seccomp profile refuses bpf(2) although CAP_BPF is there (that of CRI-O and podman asks for SYS_ADMIN): set \
         `seccompProfile` of the container to one that allows bpf, or to Unconfined"
    )]
    Seccomp,
    /// A file operation on a pin failed.
    #[error("cannot {action} {path}: {source}")]
    Pin {
        /// A verb: `create`, `read`, `remove`, `rename`.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The object lacks a map or a program, or has it of another kind.
    #[error("the BPF object has no {kind} {name} of the expected form: rebuild it with `cargo xtask ebpf`")]
    Object {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The object could not be read, or its maps not be made.
    #[error("the kernel refused the BPF maps (Linux 6.1 or newer with CONFIG_BPF_SYSCALL is needed): {0}")]
    Load(#[from] Box<aya::EbpfError>),
    /// The verifier refused a program.
    #[error("the kernel refused the program {name} (Linux 6.1 or newer is needed): {source}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be read or written.
    #[error("cannot {action} the map {name}: {source}")]
    Map {
        /// A verb: `read`, `write`.
        action: &'static str,
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<aya::maps::MapError>,
    },
    /// A program could not be attached or detached.
    #[error("cannot {action} {hook} of interface {interface}: {cause}")]
    Attach {
        /// A verb phrase: `attach to`, `detach from`.
        action: &'static str,
        /// `tc ingress` or `tc egress`.
        hook: &'static str,
        /// Name, or `ifN` where it has none any more.
        interface: String,
        /// What the kernel said.
        cause: String,
    },
    /// There is no room for an interface or a path.
    #[error("no room for {object}: {limit} is the limit; list fewer interfaces")]
    Full {
        /// What found no room.
        object: String,
        /// How many fit.
        limit: u32,
    },
    /// A system call of another kind failed.
    #[error("{call} failed: {source}")]
    System {
        /// The call, for whom.
        call: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl SteeringError {
    /// The reason of the condition `DataplaneAttached`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        use crate::status::reason;
        match self {
            Self::NotBpffs { .. } => reason::BPFFS_NOT_MOUNTED,
            Self::MissingCapability { .. } => reason::MISSING_CAPABILITY,
            Self::Attach { .. } | Self::Full { .. } => reason::ATTACH_FAILED,
            _ => reason::LOAD_FAILED,
        }
    }

    pub(super) fn pin(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Pin { action, path, source }
    }

    pub(super) fn map(action: &'static str, name: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { action, name, source: Box::new(source) }
    }
}
