//! What must be there before anything is loaded, and what this kernel can do.

use std::path::Path;

use backtrail_ebpf_common::maps::FEATURE_TBID;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::{SteeringError, sys};

/// Where the kernel describes its own types (CONFIG_DEBUG_INFO_BTF).
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// include/uapi/linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
/// include/uapi/linux/capability.h
const CAP_SYS_ADMIN: u32 = 21;
/// include/uapi/linux/capability.h, Linux 5.8.
const CAP_PERFMON: u32 = 38;
/// include/uapi/linux/capability.h, Linux 5.8.
const CAP_BPF: u32 = 39;

/// What this kernel can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// TCX links (Linux 6.6); else clsact filters.
    pub tcx: bool,
    /// `bpf_fib_lookup` in a given table (Linux 6.5 and some 6.1); else `oif` rules lead to it.
    pub fib_lookup_tbid: bool,
}

impl Features {
    /// As the maps say it.
    pub(super) fn bits(self) -> u32 {
        if self.fib_lookup_tbid { FEATURE_TBID } else { 0 }
    }
}

/// Reads what the kernel can do from the names in its type information, as distributions port features back.
/// A kernel without that information counts as one without the features.
#[must_use]
pub fn features() -> Features {
    let btf = std::fs::read(KERNEL_BTF).unwrap_or_default();
    Features {
        tcx: names(&btf, b"\0BPF_TCX_INGRESS\0"),
        fib_lookup_tbid: names(&btf, b"\0BPF_FIB_LOOKUP_TBID\0"),
    }
}

/// Whether bytes occur in others.
fn names(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Makes the folder for pins and checks that it is on a bpffs.
pub(super) fn bpffs(path: &Path) -> Result<(), SteeringError> {
    if on_bpffs(path) {
        return Ok(());
    }
    // Creating it elsewhere would leave a folder that a later mount of the bpffs hides.
    if !path.parent().is_some_and(on_bpffs) {
        return Err(SteeringError::NotBpffs { path: path.to_owned() });
    }
    std::fs::create_dir(path).map_err(SteeringError::pin("create", path))
}

pub(super) fn on_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// Checks that the process may load and attach programs.
pub(super) fn capabilities() -> Result<(), SteeringError> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|source| SteeringError::System { call: "reading /proc/self/status", source })?;
    if let Some(capability) = missing_capability(&status) {
        return Err(SteeringError::MissingCapability { capability });
    }
    // No pin is there. With CAP_BPF the kernel says so in another way than by EPERM.
    match sys::open_pin(Path::new("/")).err().and_then(|error| error.raw_os_error()) {
        Some(libc::EPERM | libc::ENOSYS) => Err(SteeringError::Seccomp),
        _ => Ok(()),
    }
}

/// The first capability that the effective set of `/proc/PID/status` lacks.
fn missing_capability(status: &str) -> Option<&'static str> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(hex.trim(), 16).ok()?;
    let has = |capability: u32| effective & (1 << capability) != 0;
    if !has(CAP_NET_ADMIN) {
        return Some("CAP_NET_ADMIN");
    }
    // SYS_ADMIN includes both, as before Linux 5.8.
    let lacks = |capability: u32| !has(capability) && !has(CAP_SYS_ADMIN);
    if lacks(CAP_BPF) {
        return Some("CAP_BPF");
    }
    // The verifier refuses arithmetic on packet pointers without it.
    lacks(CAP_PERFMON).then_some("CAP_PERFMON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_capability_that_is_missing() {
        let status = |mask: u64| format!("Name:\tx\nCapEff:\t{mask:016x}\n");
        let bit = |capability: u32| 1u64 << capability;
        assert_eq!(missing_capability(&status(u64::MAX)), None);
        let exact = bit(CAP_NET_ADMIN) | bit(CAP_BPF) | bit(CAP_PERFMON);
        assert_eq!(missing_capability(&status(exact)), None);
        assert_eq!(missing_capability(&status(exact & !bit(CAP_PERFMON))), Some("CAP_PERFMON"));
        assert_eq!(missing_capability(&status(bit(CAP_NET_ADMIN) | bit(CAP_SYS_ADMIN))), None);
        assert_eq!(missing_capability(&status(bit(CAP_NET_ADMIN))), Some("CAP_BPF"));
        assert_eq!(missing_capability(&status(0)), Some("CAP_NET_ADMIN"));
    }

    #[test]
    fn a_folder_elsewhere_is_refused_and_not_made() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("backtrail");
        let error = bpffs(&path).expect_err("no bpffs");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!path.exists());
    }
}
