//! The node: kernel, privileges, sysctls, and others who manage its network.

use std::path::Path;

use aya::programs::ProgramType;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Check, Finding, Severity, some_of};
use crate::host::Host;
use crate::steering;

/// Oldest kernel that is tested.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities by number (include/uapi/linux/capability.h), and what needs them.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "routes, rules and tc programs"),
    (38, "CAP_PERFMON", "tc programs as the verifier takes them"),
    (39, "CAP_BPF", "BPF programs and maps"),
];

/// Programs that read routes without following nexthop ids, by their `comm` (cut at 15 bytes).
const ROUTE_READERS: [&str; 6] =
    ["cilium-agent", "calico-node", "bird", "bird6", "NetworkManager", "keepalived"];

/// Keys of networkd.conf(5), and what each would remove.
const NETWORKD_KEYS: [(&str, &str); 2] =
    [("ManageForeignRoutingPolicyRules", "policy rules"), ("ManageForeignRoutes", "routes and nexthops")];

pub(super) fn check(host: &Host, bpffs: &Path, agent: bool) -> Vec<Finding> {
    let mut findings = vec![kernel(host), features(steering::features(), tc_programs()), btf(host)];
    findings.extend(capabilities(host));
    findings.push(mounted(bpffs));
    findings.push(rp_filter(host, agent));
    findings.extend(managers(host));
    findings.push(compat_mode(host));
    findings
}

fn kernel(host: &Host) -> Finding {
    const CHECK: Check = Check::KernelVersion;
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_KERNEL => {
            Finding::ok(CHECK, format!("Linux {release}"))
        }
        _ => Finding::bad(
            Severity::Warning,
            CHECK,
            format!("Linux {release}"),
            "older than any kernel that is tested",
            format!("use Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        ),
    }
}

/// What the programs make use of; each has something that stands in for it.
pub(super) fn features(features: steering::Features, programs: bool) -> Finding {
    const CHECK: Check = Check::KernelFeatures;
    if !programs {
        return Finding::bad(
            Severity::Error,
            CHECK,
            "the kernel takes no tc programs, or not from this process",
            "replies cannot be steered; routes and rules work",
            "use a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, and see the check capabilities",
        );
    }
    let hook = if features.tcx { "TCX links" } else { "clsact filters (TCX needs Linux 6.6)" };
    let lookup = if features.fib_lookup_tbid {
        "look up tables by themselves"
    } else {
        "look up tables by `oif` rules (Linux 6.5 needs none)"
    };
    Finding::ok(CHECK, format!("programs attach as {hook} and {lookup}"))
}

/// Asks the kernel, by loading a program that does nothing.
fn tc_programs() -> bool {
    aya::sys::is_program_supported(ProgramType::SchedClassifier).unwrap_or(false)
}

fn btf(host: &Host) -> Finding {
    const CHECK: Check = Check::KernelBtf;
    if host.path("/sys/kernel/btf/vmlinux").exists() {
        return Finding::ok(CHECK, "the kernel describes its types (BTF)");
    }
    Finding::bad(
        Severity::Note,
        CHECK,
        "/sys/kernel/btf/vmlinux is missing",
        "bpftool shows maps of such a kernel in hex",
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
    )
}

fn capabilities(host: &Host) -> Vec<Finding> {
    const CHECK: Check = Check::Capabilities;
    let status = host.read("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<Finding> = CAPABILITIES
        .iter()
        .filter(|(number, ..)| effective & (1 << number) == 0)
        .map(|(_, name, use_for)| {
            Finding::bad(
                Severity::Error,
                CHECK,
                format!("{name} is missing: needed for {use_for}"),
                "doctor looks at its own process: run it as the agent runs",
                format!("run as root, or grant {name} to the agent"),
            )
        })
        .collect();
    if missing.is_empty() {
        let names: Vec<&str> = CAPABILITIES.iter().map(|(_, name, _)| *name).collect();
        return vec![Finding::ok(CHECK, format!("{} are there", names.join(", ")))];
    }
    missing
}

/// Whether the folder, or the nearest one above it that exists, is on a bpffs.
fn mounted(bpffs: &Path) -> Finding {
    const CHECK: Check = Check::Bpffs;
    let there = bpffs.ancestors().find(|path| path.exists());
    if let Some(there) = there
        && statfs(there).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
    {
        return Finding::ok(CHECK, format!("{} is on a bpffs", bpffs.display()));
    }
    Finding::bad(
        Severity::Error,
        CHECK,
        format!("{} is not on a bpffs", bpffs.display()),
        "programs and maps cannot be pinned, so steering would end with the agent; it is off",
        "mount -t bpf bpf /sys/fs/bpf (in a container: mount the host's), or give --bpffs",
    )
}

/// Strict on any interface: max(all, interface) is 1.
fn rp_filter(host: &Host, agent: bool) -> Finding {
    const CHECK: Check = Check::RpFilter;
    let value = |name: &str| -> u8 {
        host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"))
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    let all = value("all");
    let strict: Vec<String> = host
        .list("/proc/sys/net/ipv4/conf")
        .into_iter()
        .filter(|name| !matches!(name.as_str(), "all" | "default" | "lo") && value(name).max(all) == 1)
        .collect();
    if strict.is_empty() {
        return Finding::ok(CHECK, "no interface filters strictly by reverse path");
    }
    let why = "a strict filter drops requests whose reply would leave by another interface, before any program sees them";
    let fix = if agent {
        "nothing for interfaces of a ReturnPath with `rpFilter: Auto`; else set net.ipv4.conf.IF.rp_filter=2 \
         (the kernel takes the larger of `all` and the interface's)"
    } else {
        "nothing: the agent sets it to loose on the interfaces of a ReturnPath with `rpFilter: Auto`, and restores it"
    };
    Finding::bad(Severity::Note, CHECK, format!("strict on {}", some_of(&strict)), why, fix)
}

fn managers(host: &Host) -> Vec<Finding> {
    let processes = host.processes();
    let runs = |name: &str| processes.iter().any(|process| process.name == name);
    let mut findings = Vec::new();
    if runs("systemd-network") {
        findings.extend(networkd(host));
    }
    if runs("NetworkManager") {
        findings.push(Finding::bad(
            Severity::Note,
            Check::Networkmanager,
            "NetworkManager runs",
            "it leaves foreign rules alone, but may take over VLAN interfaces that the agent makes",
            "for those, add `unmanaged-devices=interface-name:IF` under [keyfile] in /etc/NetworkManager/conf.d",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            Check::NetworkManagers,
            "neither systemd-networkd nor NetworkManager runs here",
        ));
    }
    findings
}

fn networkd(host: &Host) -> Vec<Finding> {
    const CHECK: Check = Check::Networkd;
    let managed: Vec<(&str, &str)> = NETWORKD_KEYS
        .into_iter()
        .filter(|(key, _)| {
            let value = host.ini("systemd", "networkd.conf", key).unwrap_or_default();
            !matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0" | "off")
        })
        .collect();
    if managed.is_empty() {
        return vec![Finding::ok(CHECK, "systemd-networkd leaves foreign rules and routes alone")];
    }
    managed
        .into_iter()
        .map(|(key, removes)| {
            Finding::bad(
                Severity::Warning,
                CHECK,
                format!("systemd-networkd manages foreign {removes} ({key} is not `no`)"),
                "when it restarts or reconfigures a link it removes what it did not make; the agent puts it back, but \
                 packets are lost in between",
                format!(
                    "write `[Network]` and `{key}=no` to /etc/systemd/networkd.conf.d/backtrail.conf and restart \
                     systemd-networkd"
                ),
            )
        })
        .collect()
}

fn compat_mode(host: &Host) -> Finding {
    const CHECK: Check = Check::NexthopCompatMode;
    if host.sysctl("net/ipv4/nexthop_compat_mode").as_deref() != Some("0") {
        return Finding::bad(
            Severity::Note,
            CHECK,
            "net.ipv4.nexthop_compat_mode is 1",
            "for each route of a nexthop group that loses a path the kernel sends a notification: about 1 s for 1,000,000",
            "nothing: an agent that programs routes sets it to 0, which holds for the whole network namespace, and cleanup restores it",
        );
    }
    let processes = host.processes();
    let readers: Vec<&str> = ROUTE_READERS
        .into_iter()
        .filter(|name| processes.iter().any(|process| process.name == *name))
        .collect();
    if readers.is_empty() {
        return Finding::ok(CHECK, "net.ipv4.nexthop_compat_mode is 0, and no known reader of routes runs");
    }
    Finding::bad(
        Severity::Warning,
        CHECK,
        format!("net.ipv4.nexthop_compat_mode is 0, and {} read routes", readers.join(", ")),
        "routes by nexthop id then come without gateways, and a reader that does not follow ids misses them",
        "set it back to 1, or see that those programs follow RTA_NH_ID",
    )
}
