//! Later fragments carry no ports: those of the first one are kept for them.

use backtrail_ebpf_common::maps::{Fragment, FragmentKey, Iface};
use backtrail_ebpf_common::packet::Headers;

use crate::maps::{self, FRAGMENTS, count};

/// Ticks after which a packet's identification is another packet's: fragments of one leave together.
const LIFE: u32 = 2;

#[inline(always)]
fn key(iface: &Iface, headers: &Headers) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        destination: headers.destination,
        id: headers.fragment_id,
        proto: u16::from(headers.proto),
        family: u16::from(headers.family),
        zone: iface.zone,
        reserved: 0,
    }
}

/// Keeps the ports of a first fragment for the later ones.
#[inline(never)]
pub fn remember(iface: &Iface, headers: &Headers) {
    let fragment = Fragment {
        at: maps::now(),
        source_port: headers.source_port,
        destination_port: headers.destination_port,
    };
    if FRAGMENTS.insert(key(iface, headers), fragment, 0).is_err() {
        count!(iface.slot, full);
    }
}

/// Gives a later fragment the ports of the first; false when that one was not seen.
#[inline(never)]
pub fn recall(iface: &Iface, headers: &mut Headers) -> bool {
    // SAFETY: the value is read at once.
    let Some(fragment) = (unsafe { FRAGMENTS.get(key(iface, headers)) }) else { return false };
    headers.source_port = fragment.source_port;
    headers.destination_port = fragment.destination_port;
    maps::now().wrapping_sub(fragment.at) <= LIFE
}
