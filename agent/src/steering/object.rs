//! Loading the object: programs and maps, with the maps that are pinned already.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapInfo, PerCpuArray, RingBuf};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfError, EbpfLoader};
use backtrail_ebpf_common::maps::{
    self, Counters, EventBudget, Globals, Iface, MacKey, Path, PortPrefix, Prefix4, Prefix6, SCHEMA, names,
    programs,
};

use super::SteeringError;
use super::flows::{Entry, Tables, V4, V6};
use super::pins::{Folder, OLD};
use super::sys;
use super::table::{Table, Zero};

/// Elements of a batch when flows are copied.
const BATCH: u32 = 4096;
/// BPF_NOEXIST: what is there already is newer.
const NO_EXIST: u64 = 1;
/// The programs, in the order in which they are swapped in.
pub(super) const PROGRAMS: [&str; 3] = [programs::EGRESS, programs::SINK, programs::INGRESS];

/// A map of prefixes.
pub(super) type Trie<K> = Table<LpmTrie<MapData, K, u32>>;

impl Zero for Iface {
    const ZERO: Self = Self {
        ifindex: 0,
        slot: 0,
        flags: 0,
        zone: 0,
        protocols: 0,
        path4: 0,
        path6: 0,
        mac: [0; 6],
        l2_length: 0,
    };
}

impl Zero for Path {
    const ZERO: Self = Self {
        ifindex: 0,
        slot: 0,
        kind: 0,
        family: 0,
        gateway_family: 0,
        gateway: [0; 16],
        mtu: 0,
        state: 0,
        table: 0,
        zone: 0,
        flags: 0,
        mac: [0; 6],
        l2_length: 0,
    };
}

impl Zero for Globals {
    const ZERO: Self =
        Self { generation: 0, features: 0, tcp_idle: 0, udp_idle: 0, events: 0, secret: [0; maps::SECRET] };
}

/// The maps that the agent reads and writes.
pub(super) struct Maps {
    pub(super) ifaces: Table<Array<MapData, Iface>>,
    pub(super) paths: Table<Array<MapData, Path>>,
    pub(super) globals: Table<Array<MapData, Globals>>,
    pub(super) macs: Table<HashMap<MapData, MacKey, u32>>,
    pub(super) vips4: Trie<Prefix4>,
    pub(super) vips6: Trie<Prefix6>,
    pub(super) never4: Trie<Prefix4>,
    pub(super) never6: Trie<Prefix6>,
    pub(super) ports: Trie<PortPrefix>,
    pub(super) counters: PerCpuArray<MapData, Counters>,
    pub(super) events: RingBuf<MapData>,
    pub(super) event_budget: PerCpuArray<MapData, EventBudget>,
    pub(super) flows4: MapData,
    pub(super) flows6: MapData,
    pub(super) openers4: MapData,
    pub(super) openers6: MapData,
}

impl Maps {
    /// The tables of flows, with what is needed to judge them.
    pub(super) fn tables(&self, globals: Globals) -> Tables<'_> {
        let Self { flows4, flows6, openers4, openers6, .. } = self;
        Tables { flows4, flows6, openers4, openers6, globals }
    }
}

/// Programs and maps in the kernel.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    /// Entries of each flow table.
    pub(super) flow_entries: u32,
}

/// Loads the object. Maps that are pinned are used on; those of another layout or size are moved aside first, and
/// flows of the same layout copied. `flow_entries` is `None` to keep the size of the pinned flow tables.
pub(super) fn load(
    folder: &Folder,
    object: &[u8],
    flow_entries: Option<u32>,
    otherwise: u32,
) -> Result<Loaded, SteeringError> {
    let pinned = MapInfo::from_pin(folder.path(names::FLOWS)).ok().map(|info| info.max_entries());
    let flow_entries = flow_entries.or(pinned).unwrap_or(otherwise);
    let moved = move_aside(folder, object, flow_entries)?;
    let result = load_pinned(folder, object, flow_entries);
    if result.is_err() {
        for name in moved {
            folder.remove(name)?;
            folder.rename(&format!("{OLD}{name}"), name)?;
        }
    }
    result
}

/// Moves pinned maps aside that the object cannot use: all of them when one has another layout, only the flow
/// tables when their size changes.
fn move_aside(folder: &Folder, object: &[u8], flow_entries: u32) -> Result<Vec<&'static str>, SteeringError> {
    let parsed = aya_obj::Object::parse(object).map_err(|error| Box::new(EbpfError::ParseError(error)))?;
    let mut other_layout = !schema_fits(folder);
    let mut other_size = Vec::new();
    for name in names::ALL {
        let definition = parsed.maps.get(name).ok_or(SteeringError::Object { kind: "map", name })?;
        let Ok(pinned) = MapInfo::from_pin(folder.path(name)) else { continue };
        let configured = configured_entries(name, flow_entries);
        let entries = configured.unwrap_or(definition.max_entries());
        let same = pinned.key_size() == definition.key_size()
            && pinned.value_size() == definition.value_size()
            && pinned.map_flags() == definition.map_flags()
            && pinned.map_type().is_ok_and(|kind| kind as u32 == definition.map_type());
        other_layout |= !same || configured.is_none() && pinned.max_entries() != entries;
        if pinned.max_entries() != entries {
            other_size.push(name);
        }
    }
    let moved = if other_layout { names::ALL.to_vec() } else { other_size };
    let moved: Vec<_> = moved.into_iter().filter(|name| folder.exists(name)).collect();
    for name in &moved {
        // A leftover of a swap that did not end: what it held is older than what is moved now.
        folder.remove(&format!("{OLD}{name}"))?;
        folder.rename(name, &format!("{OLD}{name}"))?;
    }
    Ok(moved)
}

/// Entries of a table whose size is configured, by the entries of a flow table.
fn configured_entries(name: &str, flow_entries: u32) -> Option<u32> {
    match name {
        names::FLOWS | names::FLOWS6 => Some(flow_entries),
        names::OPENERS | names::OPENERS6 => Some(maps::openers(flow_entries)),
        _ => None,
    }
}

/// Whether the pinned maps have this version, or nothing is pinned.
fn schema_fits(folder: &Folder) -> bool {
    let Ok(data) = MapData::from_pin(folder.path(names::SCHEMA)) else {
        return !folder.exists(names::FLOWS);
    };
    let version = Array::<_, u32>::try_from(Map::Array(data)).and_then(|map| map.get(&0, 0));
    version.is_ok_and(|version| version == SCHEMA)
}

fn load_pinned(folder: &Folder, object: &[u8], flow_entries: u32) -> Result<Loaded, SteeringError> {
    let mut loader = EbpfLoader::new();
    // No type of the kernel's is looked at: reading them all would cost 15 ms.
    loader.btf(None);
    for name in names::ALL {
        loader.map_pin_path(name, folder.path(name));
        if let Some(entries) = configured_entries(name, flow_entries) {
            loader.map_max_entries(name, entries);
        }
    }
    let gate_shift = maps::gate_shift(sys::timer_hz());
    loader.override_global(maps::GATE_SHIFT, &gate_shift, true);
    let mut ebpf = loader.load(object).map_err(Box::new)?;
    for name in PROGRAMS {
        let program = program(&mut ebpf, name)?;
        program.load().map_err(|source| SteeringError::Program { name, source: Box::new(source) })?;
        folder.remove(name)?;
        let pinned = program.pin(folder.path(name));
        pinned.map_err(|error| SteeringError::System {
            call: "pinning a program",
            source: std::io::Error::other(error.to_string()),
        })?;
    }
    #[cfg(feature = "bpf-log")]
    super::log::start(&mut ebpf);
    let maps = take_maps(&mut ebpf)?;
    Ok(Loaded { ebpf, maps, flow_entries })
}

/// A program by name.
pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, SteeringError> {
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(SteeringError::Object { kind: "program", name })
}

fn take_maps(ebpf: &mut Ebpf) -> Result<Maps, SteeringError> {
    let mut schema: Array<_, u32> = take(ebpf, names::SCHEMA)?;
    schema.set(0, SCHEMA, 0).map_err(SteeringError::map("write", names::SCHEMA))?;
    let mut globals = Table::open(names::GLOBALS, take(ebpf, names::GLOBALS)?)?;
    draw_secret(&mut globals)?;
    Ok(Maps {
        ifaces: Table::open(names::IFACES, take(ebpf, names::IFACES)?)?,
        paths: Table::open(names::PATHS, take(ebpf, names::PATHS)?)?,
        globals,
        macs: Table::open(names::MACS, take(ebpf, names::MACS)?)?,
        vips4: Table::open(names::VIPS, take(ebpf, names::VIPS)?)?,
        vips6: Table::open(names::VIPS6, take(ebpf, names::VIPS6)?)?,
        never4: Table::open(names::NEVER, take(ebpf, names::NEVER)?)?,
        never6: Table::open(names::NEVER6, take(ebpf, names::NEVER6)?)?,
        ports: Table::open(names::PORTS, take(ebpf, names::PORTS)?)?,
        counters: take(ebpf, names::COUNTERS)?,
        events: take(ebpf, names::EVENTS)?,
        event_budget: take(ebpf, names::EVENT_BUDGET)?,
        flows4: take_flows(ebpf, names::FLOWS)?,
        flows6: take_flows(ebpf, names::FLOWS6)?,
        openers4: take_flows(ebpf, names::OPENERS)?,
        openers6: take_flows(ebpf, names::OPENERS6)?,
    })
}

/// Gives new maps a secret; those of an earlier agent have theirs, by which their flows are found.
fn draw_secret(globals: &mut Table<Array<MapData, Globals>>) -> Result<(), SteeringError> {
    let before = globals.content().get(&0).copied().unwrap_or(Globals::ZERO);
    if before.secret != Globals::ZERO.secret {
        return Ok(());
    }
    let secret =
        sys::random().map_err(|source| SteeringError::System { call: "drawing a secret", source })?;
    globals.put(&BTreeMap::from([(0, Globals { secret, ..before })])).map(drop)
}

fn take<T: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, SteeringError> {
    let map = ebpf.take_map(name).and_then(|map| T::try_from(map).ok());
    map.ok_or(SteeringError::Object { kind: "map", name })
}

fn take_flows(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, SteeringError> {
    match ebpf.take_map(name) {
        Some(Map::LruHashMap(data)) => Ok(data),
        _ => Err(SteeringError::Object { kind: "map", name }),
    }
}

/// Copies flows from tables that were moved aside, as far as they have the same layout and are not known yet.
pub(super) fn copy_old_flows(folder: &Folder, maps: &Maps) -> Result<(), SteeringError> {
    // Another schema may mean other path ids: such flows are learned anew.
    if folder.exists(&format!("{OLD}{}", names::PATHS)) {
        return Ok(());
    }
    copy_table::<V4>(folder, names::FLOWS, &maps.flows4)?;
    copy_table::<V6>(folder, names::FLOWS6, &maps.flows6)?;
    copy_table::<V4>(folder, names::OPENERS, &maps.openers4)?;
    copy_table::<V6>(folder, names::OPENERS6, &maps.openers6)
}

/// Another handle of a map. By its descriptor: by its id it takes CAP_SYS_ADMIN, which the agent does not have.
pub(super) fn duplicate(map: &MapData, name: &'static str) -> Result<MapData, SteeringError> {
    use std::os::fd::AsFd as _;
    let fd = map.fd().as_fd().try_clone_to_owned();
    let fd =
        fd.map_err(|source| SteeringError::System { call: "duplicating the descriptor of a map", source })?;
    MapData::from_fd(fd).map_err(SteeringError::map("read", name))
}

fn copy_table<E: Entry>(folder: &Folder, name: &'static str, into: &MapData) -> Result<(), SteeringError> {
    use std::os::fd::AsFd as _;
    let Ok(old) = MapData::from_pin(folder.path(&format!("{OLD}{name}"))) else { return Ok(()) };
    let wrong = |source| SteeringError::System { call: "copying the flow table", source };
    let target = HashMap::<_, E::Key, E::Value>::try_from(Map::LruHashMap(duplicate(into, name)?));
    let mut target = target.map_err(SteeringError::map("write", name))?;
    let mut from = None;
    loop {
        let batch = sys::lookup_batch::<E::Key, E::Value>(old.fd().as_fd(), from, BATCH).map_err(wrong)?;
        for (key, flow) in batch.entries {
            // EEXIST is what is wished for; and a table that is full forgets by itself.
            drop(target.insert(key, flow, NO_EXIST));
        }
        match batch.next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

/// Removes the maps that were moved aside: no program reads them any more.
pub(super) fn remove_old(folder: &Folder) -> Result<(), SteeringError> {
    for name in folder.names()?.iter().filter(|name| name.starts_with(OLD)) {
        folder.remove(name)?;
    }
    Ok(())
}

/// What is pinned where.
pub(super) fn map_infos(folder: &Folder) -> BTreeMap<&'static str, MapInfo> {
    names::ALL
        .into_iter()
        .filter_map(|name| Some((name, MapInfo::from_pin(folder.path(name)).ok()?)))
        .collect()
}

/// Whether a pin is one of ours, by its name.
pub(super) fn is_ours(name: &str) -> bool {
    let name = name.strip_prefix(OLD).unwrap_or(name);
    names::ALL.contains(&name) || PROGRAMS.contains(&name)
}
