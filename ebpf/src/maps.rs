//! The maps of `backtrail_ebpf_common::maps`, and safe ways to read them.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_map;
use backtrail_ebpf_common::maps as layout;
use backtrail_ebpf_common::maps::{
    Counters, Event, EventBudget, Flow, Flow6, FlowDigest6, FlowKey4, Fragment, FragmentKey, Globals, Iface,
    MacKey, Path, PortPrefix, Prefix4, Prefix6, Recent, SECRET,
};
use backtrail_ebpf_common::packet::Headers;

/// Prefixes in each trie.
const PREFIXES: usize = 16_384;

/// A table of IPv6 flows.
pub type Records6<const N: usize> = LruHashMap<FlowDigest6, Flow6, N>;

#[btf_map(name = "rp_flows")]
pub static FLOWS: LruHashMap<FlowKey4, Flow, { layout::FLOWS as usize }> = LruHashMap::new();
#[btf_map(name = "rp_flows6")]
pub static FLOWS6: Records6<{ layout::FLOWS as usize }> = LruHashMap::new();
#[btf_map(name = "rp_openers")]
pub static OPENERS: LruHashMap<FlowKey4, Flow, { layout::openers(layout::FLOWS) as usize }> =
    LruHashMap::new();
#[btf_map(name = "rp_openers6")]
pub static OPENERS6: Records6<{ layout::openers(layout::FLOWS) as usize }> = LruHashMap::new();
#[btf_map(name = "rp_recent")]
static RECENT: Array<Recent, { layout::RECENT as usize }> = Array::new();
#[btf_map(name = "rp_fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 4096> = LruHashMap::new();
#[btf_map(name = "rp_paths")]
static PATHS: Array<Path, { layout::PATHS as usize }> = Array::new();
#[btf_map(name = "rp_counters")]
static COUNTERS: PerCpuArray<Counters, { layout::SLOTS as usize }> = PerCpuArray::new();
#[btf_map(name = "rp_ifaces")]
static IFACES: Array<Iface, { layout::IFACES as usize }> = Array::new();
#[btf_map(name = "rp_macs")]
static MACS: HashMap<MacKey, u32, 4096> = HashMap::new();
#[btf_map(name = "rp_vips")]
pub static VIPS: LpmTrie<Prefix4, u32, PREFIXES> = LpmTrie::new();
#[btf_map(name = "rp_vips6")]
pub static VIPS6: LpmTrie<Prefix6, u32, PREFIXES> = LpmTrie::new();
#[btf_map(name = "rp_never")]
pub static NEVER: LpmTrie<Prefix4, u32, PREFIXES> = LpmTrie::new();
#[btf_map(name = "rp_never6")]
pub static NEVER6: LpmTrie<Prefix6, u32, PREFIXES> = LpmTrie::new();
#[btf_map(name = "rp_ports")]
static PORTS: LpmTrie<PortPrefix, u32, PREFIXES> = LpmTrie::new();
#[btf_map(name = "rp_events")]
pub static EVENTS: RingBuf<Event, { layout::EVENT_BYTES as usize }> = RingBuf::new();
#[btf_map(name = "rp_event_budget")]
static EVENT_BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();
#[btf_map(name = "rp_globals")]
static GLOBALS: Array<Globals, 1> = Array::new();
#[btf_map(name = "rp_schema")]
static SCHEMA: Array<u32, 1> = Array::new();

/// Where the slow parser leaves its result: 6.1 adds up the stacks of a call chain in units of 32 bytes, to 512. Private to
/// a run of a program, for nothing preempts one on its CPU and runs another.
#[btf_map(name = "rp_scratch")]
static SCRATCH: PerCpuArray<Headers, 1> = PerCpuArray::new();

/// A digest and an entry of an IPv6 table.
#[repr(C)]
pub struct Scratch6 {
    /// Where the entry is, or goes.
    pub digest: FlowDigest6,
    /// What is stored.
    pub entry: Flow6,
}

/// Where an entry of an IPv6 table is put together.
#[btf_map(name = "rp_scratch6")]
static SCRATCH6: PerCpuArray<Scratch6, 1> = PerCpuArray::new();

/// This CPU's scratch memory.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Headers> {
    let headers = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: map memory outlives the program, and is this run's alone. Zeros are a value of `Headers`.
    Some(unsafe { &mut *headers })
}

/// This CPU's scratch memory for an entry of an IPv6 table.
#[inline(always)]
pub fn scratch6() -> Option<&'static mut Scratch6> {
    let entry = SCRATCH6.get_ptr_mut(0)?;
    // SAFETY: as above.
    Some(unsafe { &mut *entry })
}

/// Adds one to a counter of an interface.
macro_rules! count {
    ($slot:expr, $field:ident) => {
        if let Some(counters) = $crate::maps::counters($slot) {
            counters.$field += 1;
        }
    };
}
pub(crate) use count;

/// This CPU's counters of an interface.
#[inline(always)]
pub fn counters(slot: u32) -> Option<&'static mut Counters> {
    let counters = COUNTERS.get_ptr_mut(slot)?;
    // SAFETY: map memory outlives the program; nobody else writes this CPU's copy while a program runs.
    Some(unsafe { &mut *counters })
}

/// The interface, if the agent told of it.
#[inline(always)]
pub fn iface(ifindex: u32) -> Option<&'static Iface> {
    for probe in 0..layout::IFACE_PROBES {
        let iface = IFACES.get(layout::iface_index(ifindex, probe))?;
        if iface.ifindex == ifindex {
            return Some(iface);
        }
    }
    None
}

/// The gate of the last opener like a flow; see `backtrail_ebpf_common::maps::recent_index`.
#[inline(always)]
fn recent(flow: (u32, u16, u16)) -> Option<*mut u16> {
    let (entry, place) = layout::recent_index(flow);
    let entry = RECENT.get_ptr_mut(entry)?;
    // SAFETY: map memory outlives the program; `place` is below four.
    Some(unsafe { (&raw mut (*entry).gates).cast::<u16>().add(place & 3) })
}

/// Notes the opener of a flow.
#[inline(always)]
pub fn note_opener(flow: (u32, u16, u16)) {
    if let Some(gate) = recent(flow) {
        // SAFETY: in map memory. Whoever writes last is right.
        unsafe { gate.write_volatile(self::gate()) }
    }
}

/// Whether an opener of a flow may have been seen lately.
#[inline(always)]
pub fn is_opener_recent(flow: (u32, u16, u16)) -> bool {
    recent(flow).is_some_and(|gate| {
        // SAFETY: in map memory.
        let then = unsafe { gate.read_volatile() };
        self::gate().wrapping_sub(then) < layout::RECENT_GATES
    })
}

/// The path of an id, if there is one.
#[inline(always)]
pub fn path(id: u32) -> Option<&'static Path> {
    PATHS.get(id).filter(|path| path.ifindex != 0)
}

/// Whether a path leads to a gateway that answers.
#[inline(always)]
pub fn is_gateway(id: u32) -> bool {
    path(id).is_some_and(|path| path.kind == layout::PATH_GATEWAY && path.state == layout::PATH_UP)
}

/// Whether a path leads to the MAC that the request came from, by decree.
#[inline(always)]
pub fn is_by_mac(id: u32) -> bool {
    path(id).is_some_and(|path| path.kind == layout::PATH_MAC)
}

/// The path of a gateway, if it has this MAC.
#[inline(always)]
pub fn path_of_mac(key: &MacKey) -> Option<u32> {
    // SAFETY: the value is copied at once.
    unsafe { MACS.get(key) }.copied()
}

/// An LPM key whose data is aligned on the stack, as the verifier wants it: the prefix length comes before.
#[repr(C, align(8))]
struct Aligned<K> {
    _gap: u32,
    key: Key<K>,
}

/// The value of the longest prefix that covers `data`.
#[inline(always)]
pub fn longest<K: Copy, const N: usize>(trie: &LpmTrie<K, u32, N>, data: K) -> Option<u32> {
    let key = Aligned { _gap: 0, key: Key::new(size_of::<K>() as u32 * 8, data) };
    trie.get(&key.key).copied()
}

/// Whether a service port is excepted for a group.
#[inline(always)]
pub fn is_port_excepted(group: u32, port: u16) -> bool {
    let data = PortPrefix { group, port: port.to_be_bytes(), reserved: [0; 2] };
    longest(&PORTS, data).is_some()
}

/// Settings, zeros until the agent wrote them.
#[inline(always)]
fn globals() -> Option<*const Globals> {
    GLOBALS.get_ptr(0)
}

/// A field of [`Globals`], read here and now.
macro_rules! global {
    ($($(#[$doc:meta])* $name:ident: $type:ty),* $(,)?) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> $type {
            match globals() {
                // SAFETY: map memory outlives the program. Volatile: others write it meanwhile.
                Some(globals) => unsafe { (&raw const (*globals).$name).read_volatile() },
                None => 0,
            }
        }
    )*};
}

global! {
    /// See [`Globals::generation`].
    generation: u32,
    /// See [`Globals::features`].
    features: u32,
    /// See [`Globals::tcp_idle`].
    tcp_idle: u32,
    /// See [`Globals::udp_idle`].
    udp_idle: u32,
    /// See [`Globals::events`].
    events: u32,
}

/// See [`Globals::secret`]: written before the first program is attached, and never again.
#[inline(always)]
pub fn secret() -> Option<&'static [u32; SECRET]> {
    // SAFETY: map memory outlives the program.
    globals().map(|globals| unsafe { &(*globals).secret })
}

/// What this CPU may still report.
#[inline(always)]
pub fn event_budget() -> Option<&'static mut EventBudget> {
    let budget = EVENT_BUDGET.get_ptr_mut(0)?;
    // SAFETY: map memory outlives the program; nobody else writes this CPU's copy while a program runs.
    Some(unsafe { &mut *budget })
}

/// See `backtrail_ebpf_common::maps::gate_shift`.
#[unsafe(no_mangle)]
static GATE_SHIFT: Global<u32> = Global::new(8);

/// The period of about a second that this is, for comparison only: it wraps after 18 hours.
#[inline(always)]
pub fn gate() -> u16 {
    // SAFETY: a helper without arguments.
    (unsafe { helpers::bpf_jiffies64() } >> GATE_SHIFT.load()) as u16
}

/// The time in ticks. Linux 5.11.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    layout::ticks(unsafe { helpers::bpf_ktime_get_coarse_ns() })
}
