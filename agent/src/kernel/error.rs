//! What can go wrong at the netlink edge, worded for the person who has to mend it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// An operation at the netlink edge failed. Each message names the thing, the cause and, where there is one, the fix.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused a request.
    #[error("{object}: {}", Cause { errno: *errno, text: text.as_deref() })]
    Refused {
        /// What was asked for: `add rule 1100 iif eth1 lookup 10000`.
        object: String,
        /// Positive errno.
        errno: i32,
        /// The kernel's own words (NLMSGERR_ATTR_MSG), where it gave any.
        text: Option<String>,
    },
    /// A netlink socket could not be opened, written or read.
    #[error("netlink socket: {doing}: {source}")]
    Socket {
        /// What was being done with it.
        doing: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error(
        "{object}: the kernel's answer could not be decoded ({detail}); please report it with the kernel's version"
    )]
    Malformed {
        /// What was asked for.
        object: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// A dump changed under our hands each time it was taken.
    #[error("{object}: changed during each of {attempts} dumps; it will be read again")]
    Interrupted {
        /// What was dumped.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// Deleting the rule would have deleted another one, which the kernel finds first.
    #[error(
        "delete rule {rule}: the kernel would delete {other} instead, for it comes first; delete that rule first"
    )]
    RuleShadowed {
        /// The rule to delete.
        rule: String,
        /// The rule that the kernel would have deleted.
        other: String,
    },
    /// A sysctl's key is not a path below /proc/sys.
    #[error(
        "sysctl {key}: not a key below /proc/sys; write net/ipv4/conf/eth0.100/rp_filter or net.ipv4.ip_forward"
    )]
    SysctlKey {
        /// The key as given.
        key: String,
    },
    /// A sysctl could not be read or written, or the record of its former value.
    #[error("{}: {doing}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done with it.
        doing: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The record of what was before Backtrail's changes cannot be read.
    #[error("{}: not a record of changes ({source}); move it away: what is in it then stays as it is now", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Cause.
        source: serde_json::Error,
    },
}

impl KernelError {
    /// The positive errno of a refusal, or of the operating system's error.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket { source, .. } | Self::File { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the thing was not there (ENOENT, ESRCH, ENODEV, EADDRNOTAVAIL): success for whoever wanted it gone.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL))
    }

    /// Whether something with this key is there already (EEXIST).
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// An errno with the kernel's own words and what to do about it.
pub(super) struct Cause<'a> {
    pub(super) errno: i32,
    pub(super) text: Option<&'a str>,
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = Errno::from_raw(self.errno);
        write!(f, "{} ({errno:?})", errno.desc())?;
        if let Some(text) = self.text {
            write!(f, ", the kernel says \"{text}\"")?;
        }
        match hint(self.errno) {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// What an errno of rtnetlink means in practice, and the way out.
fn hint(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM | libc::EACCES => "needs CAP_NET_ADMIN in this network namespace",
        libc::EEXIST => "something with this key is there already and is left alone",
        libc::ENOENT | libc::ESRCH => "it is not there, or it refers to something that is not",
        libc::ENODEV => "the interface does not exist",
        libc::ENETDOWN => "the interface is down or has no carrier",
        libc::ENETUNREACH | libc::EHOSTUNREACH => {
            "no connected route leads to the gateway: give the interface an address in its network, or use onlink"
        }
        libc::EOPNOTSUPP => "the kernel lacks this feature, or its module is not loaded",
        libc::EAFNOSUPPORT => "the kernel lacks this address family",
        libc::EADDRNOTAVAIL => "the address is not configured on this node",
        libc::ENOBUFS => "answers were lost: the outcome is unknown until the next dump",
        libc::ENOMEM | libc::ENOSPC => "the kernel is out of room for it",
        _ => return None,
    })
}
