//! For user space: the programs as built, and `aya::Pod` for the map types.
#![expect(unsafe_code, reason = "Pod is an unsafe marker trait of aya")]

use crate::maps::{
    Counters, EventBudget, Flow, Flow6, FlowDigest6, FlowKey4, Fragment, FragmentKey, Globals, Iface, MacKey,
    Path, PortPrefix, Prefix4, Prefix6,
};

macro_rules! pod {
    ($($type:ty),*) => {$(
        // SAFETY: repr(C), only integers and arrays of them, no padding (sizes asserted in `maps`).
        unsafe impl aya::Pod for $type {}
    )*};
}

pod!(
    FlowKey4,
    FlowDigest6,
    Flow,
    Flow6,
    EventBudget,
    Path,
    Iface,
    MacKey,
    Prefix4,
    Prefix6,
    PortPrefix,
    FragmentKey,
    Fragment,
    Globals,
    Counters
);

/// The programs and maps as built by `cargo xtask ebpf`: an ELF object for `aya::EbpfLoader`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../dist/backtrail.bpf.o");
