//! Sysctls that return paths depend on, of the interfaces that manifests or a running agent list.

use std::collections::BTreeMap;

use super::{Check, Finding, Severity, some_of};
use crate::api::ReturnPathState;
use crate::host::Host;
use crate::intent::types::{GatewaySource, Intent};
use crate::plan::matches_name;

/// Interfaces of return paths, and whether their gateways come from routes alone.
pub(super) type Listed = BTreeMap<String, bool>;

/// What the manifests list of the interfaces that exist, and what the agent steers.
pub(super) fn listed(host: &Host, intent: &Intent, state: Option<&ReturnPathState>) -> Listed {
    let steered = state.into_iter().flat_map(|state| &state.interfaces).filter(|interface| interface.learns);
    let mut listed: Listed = steered.map(|interface| (interface.name.clone(), false)).collect();
    for name in host.list("/proc/sys/net/ipv4/conf") {
        let Some(asks) = intent.return_paths.iter().find(|path| matches_name(&path.name, &name)) else {
            continue;
        };
        listed.insert(name, asks.gateway == GatewaySource::FromRoute);
    }
    listed
}

/// Nothing to say where nothing is listed.
pub(super) fn check(host: &Host, listed: &Listed) -> Vec<Finding> {
    if listed.is_empty() { Vec::new() } else { vec![forwarding(host, listed), arp_announce(host, listed)] }
}

/// bpf_fib_lookup answers for interfaces that forward only (net/core/filter.c, `bpf_ipv4_fib_lookup`).
fn forwarding(host: &Host, listed: &Listed) -> Finding {
    const CHECK: Check = Check::Forwarding;
    let off = |family: &str, name: &str| {
        host.sysctl(&format!("net/{family}/conf/{name}/forwarding")).as_deref() == Some("0")
    };
    let mut names = Vec::new();
    let mut severity = Severity::Note;
    for (name, from_route) in listed {
        let families: Vec<&str> = [("ipv4", "IPv4"), ("ipv6", "IPv6")]
            .iter()
            .filter(|(f, _)| off(f, name))
            .map(|(_, word)| *word)
            .collect();
        if !families.is_empty() {
            names.push(format!("{name} ({})", families.join(", ")));
            severity = if *from_route { Severity::Warning } else { severity };
        }
    }
    if names.is_empty() {
        return Finding::ok(CHECK, "the interfaces of the return paths forward");
    }
    Finding::bad(
        severity,
        CHECK,
        format!("forwarding is off on {}", some_of(&names)),
        "programs can look up routes of interfaces that forward only: `FromRoute` finds no gateway there and the reply \
         follows the FIB; `Auto` goes by the router that delivered the request",
        "sysctl -w net.ipv4.conf.IF.forwarding=1 (IPv6: net.ipv6.conf.IF.forwarding=1), or name the gateway: \
         `gateway: {source: Static, ipv4: …}`",
    )
}

/// The kernel asks for a gateway's MAC with the source address of the packet that waits for it (net/ipv4/arp.c,
/// `arp_solicit`).
fn arp_announce(host: &Host, listed: &Listed) -> Finding {
    const CHECK: Check = Check::ArpAnnounce;
    let value = |name: &str| -> u8 {
        let text = host.sysctl(&format!("net/ipv4/conf/{name}/arp_announce"));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let all = value("all");
    let names: Vec<String> = listed.keys().filter(|name| value(name).max(all) == 0).cloned().collect();
    if names.is_empty() {
        return Finding::ok(CHECK, "ARP requests carry an address of their own interface");
    }
    Finding::bad(
        Severity::Note,
        CHECK,
        format!("net.ipv4.conf.IF.arp_announce is 0 on {}", some_of(&names)),
        "an ARP request for a gateway then carries the service address of the reply that waits for it: gateways with \
         strict checks do not answer, others take the node's MAC for that address",
        "sysctl -w net.ipv4.conf.IF.arp_announce=2 (the kernel takes the larger of `all` and the interface's)",
    )
}
