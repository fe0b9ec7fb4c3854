//! The BPF edge: programs, links, maps and their pins.
//!
//! [`Steering::open`] loads the programs and adopts what is pinned, without touching what runs; [`Steering::apply`]
//! makes the kernel hold a [`SteeringPlan`]. Everything is pinned: it goes on while no agent runs, until
//! [`cleanup`]. Needs Linux 6.1, CAP_BPF and CAP_NET_ADMIN, and works in the calling thread's network namespace.

mod attach;
mod counters;
mod error;
mod events;
mod flows;
mod layout;
#[cfg(feature = "bpf-log")]
mod log;
mod object;
mod pins;
mod preflight;
mod pressure;
mod report;
mod sys;
mod table;
mod tc;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::PerCpuValues;
use aya::util::nr_cpus;
use backtrail_ebpf_common::maps::{Counters, Flow, Globals, programs};

pub use counters::named;
pub use error::SteeringError;
pub use events::{EventFlow, FlowEvent, FlowEventKind};
pub use flows::{Expired, FlowEntry, FlowPage};
pub use pins::{Direction, Hook};
pub use preflight::{Features, features};
pub use pressure::Pressure;
pub use report::{Attachment, MapReport, ProgramReport, SteeringReport, SteeringStatus};

use crate::plan::steering::SteeringPlan;
use attach::{Attached, Place};
use flows::{Counts, Sweep, Tables};
use layout::{Layout, Numbers};
use object::Loaded;
use pins::{Folder, Pin};
use pressure::Watch;

/// How steering is opened.
#[derive(Debug, Clone, Copy)]
pub struct SteeringOptions {
    /// Attach by clsact even where the kernel has TCX.
    pub force_clsact: bool,
    /// Entries of each flow table, unless tables are pinned already: then their size stays until a plan changes it.
    pub flow_entries: u32,
}

impl Default for SteeringOptions {
    fn default() -> Self {
        Self { force_clsact: false, flow_entries: backtrail_ebpf_common::maps::FLOWS }
    }
}

/// The programs and maps of this node.
pub struct Steering {
    folder: Folder,
    object: &'static [u8],
    features: Features,
    hook: Hook,
    loaded: Loaded,
    numbers: Numbers,
    sweep: Sweep,
    watch: Watch,
    /// Entries of the tables of flows, when they were last counted.
    counts: Counts,
    /// Names of the plan's interfaces, by ifindex.
    names: BTreeMap<u32, String>,
    /// Places that the last plan wants programs in.
    wanted: usize,
    /// When programs may be loaded again to be first; at once while it is `None`.
    next_reorder: Option<Instant>,
}

/// Programs that others were put before go first again this often at most: the others may want to be first, too.
const REORDER_EVERY: Duration = Duration::from_secs(60);

impl Steering {
    /// Loads `object` (aligned: see `aya::include_bytes_aligned`) and adopts the maps pinned in the folder `bpffs`,
    /// which is made where its parent is on a bpffs. Attached programs of an earlier run go on until
    /// [`Self::apply`] swaps them.
    ///
    /// # Errors
    /// No bpffs, a missing capability, or a kernel that refuses the maps or programs: nothing is changed then.
    pub fn open(
        bpffs: &Path,
        object: &'static [u8],
        options: SteeringOptions,
    ) -> Result<Self, SteeringError> {
        #[cfg(feature = "bpf-log")]
        let object = log::object().unwrap_or(object);
        preflight::bpffs(bpffs)?;
        preflight::capabilities()?;
        let features = features();
        let folder = Folder::new(bpffs);
        let loaded = object::load(&folder, object, None, options.flow_entries)?;
        object::copy_old_flows(&folder, &loaded.maps)?;
        let numbers = Numbers::adopt(loaded.maps.ifaces.content(), loaded.maps.paths.content());
        let hook = if features.tcx && !options.force_clsact { Hook::Tcx } else { Hook::Clsact };
        let mut steering = Self {
            folder,
            object,
            features,
            hook,
            loaded,
            numbers,
            sweep: Sweep::default(),
            watch: Watch::default(),
            counts: Counts::default(),
            names: BTreeMap::new(),
            wanted: 0,
            next_reorder: None,
        };
        // An agent that was killed may have listened.
        steering.listen(0)?;
        Ok(steering)
    }

    /// Makes the kernel hold the plan. What it holds already is not written again; what fails is reported, and the
    /// rest done.
    pub fn apply(&mut self, plan: &SteeringPlan) -> SteeringReport {
        let mut report = SteeringReport::default();
        if plan.flows.max_entries != self.loaded.flow_entries {
            report.note(self.load_again(Some(plan.flows.max_entries)).map(|()| 1));
        }
        self.names = plan.interfaces.iter().map(|(ifindex, on)| (*ifindex, on.name.clone())).collect();
        self.wanted = places(plan).len();
        let layout = self.numbers.lay_out(plan, self.loaded.maps.paths.content());
        for (object, limit) in &layout.full {
            report.problems.push(SteeringError::Full { object: object.clone(), limit: *limit });
        }
        self.write(plan, &layout, &mut report);
        self.attach(plan, &mut report);
        self.detach(plan, &mut report);
        self.prune(&layout, &mut report);
        report
    }

    /// Loads the programs again, with flow tables of another size if one is given; [`Self::apply`] swaps them in.
    fn load_again(&mut self, entries: Option<u32>) -> Result<(), SteeringError> {
        let otherwise = self.loaded.flow_entries;
        self.loaded = object::load(&self.folder, self.object, entries, otherwise)?;
        self.sweep = Sweep::default();
        object::copy_old_flows(&self.folder, &self.loaded.maps)
    }

    /// Writes map contents: what is named before what names it.
    fn write(&mut self, plan: &SteeringPlan, layout: &Layout, report: &mut SteeringReport) {
        for slot in &layout.new_slots {
            report.note(self.reset_counters(*slot).map(|()| 1));
        }
        let globals = layout::globals(plan, self.features.bits(), &self.globals());
        let maps = &mut self.loaded.maps;
        report.note(maps.globals.put(&BTreeMap::from([(0, globals)])));
        report.note(maps.paths.put(&layout.paths));
        report.note(maps.vips4.put(&layout.vips4));
        report.note(maps.vips6.put(&layout.vips6));
        report.note(maps.never4.put(&layout.never4));
        report.note(maps.never6.put(&layout.never6));
        report.note(maps.ports.put(&layout.ports));
        report.note(maps.macs.put(&layout.macs));
        report.note(maps.ifaces.put(&layout.ifaces));
    }

    fn prune(&mut self, layout: &Layout, report: &mut SteeringReport) {
        let maps = &mut self.loaded.maps;
        report.note(maps.ifaces.prune(&layout.ifaces));
        report.note(maps.macs.prune(&layout.macs));
        report.note(maps.ports.prune(&layout.ports));
        report.note(maps.never6.prune(&layout.never6));
        report.note(maps.never4.prune(&layout.never4));
        report.note(maps.vips6.prune(&layout.vips6));
        report.note(maps.vips4.prune(&layout.vips4));
        report.note(maps.paths.prune(&layout.paths));
    }

    /// Attaches, egress first: a flow is not learned before it can be steered. Maps that were moved aside go when
    /// every program that reads them was swapped.
    fn attach(&mut self, plan: &SteeringPlan, report: &mut SteeringReport) {
        let displaced = self.attach_all(plan, report);
        let now = Instant::now();
        if displaced && self.next_reorder.is_none_or(|at| now >= at) {
            self.next_reorder = Some(now + REORDER_EVERY);
            match self.load_again(None) {
                Ok(()) => drop(self.attach_all(plan, report)),
                Err(error) => report.problems.push(error),
            }
        }
    }

    /// Attaches everywhere; says whether somebody put a program before one of ours.
    fn attach_all(&mut self, plan: &SteeringPlan, report: &mut SteeringReport) -> bool {
        let (mut swapped, mut displaced) = (true, false);
        for place in places(plan) {
            let sink = plan.interfaces.get(&place.ifindex).is_some_and(|interface| interface.sink);
            let name = match place.direction {
                Direction::Ingress => programs::INGRESS,
                Direction::Egress if sink => programs::SINK,
                Direction::Egress => programs::EGRESS,
            };
            let attached = object::program(&mut self.loaded.ebpf, name)
                .and_then(|program| attach::attach(&self.folder, program, place, self.hook));
            swapped &= attached.is_ok();
            match attached {
                Ok(Attached::Unchanged) => {}
                Ok(Attached::Changed) => report.attached += 1,
                Ok(Attached::Displaced) => displaced = true,
                Err(error) => report.problems.push(error),
            }
        }
        if swapped {
            let ended = object::copy_old_flows(&self.folder, &self.loaded.maps)
                .and_then(|()| object::remove_old(&self.folder));
            report.note(ended.map(|()| 0));
        }
        displaced
    }

    /// Whether others changed what [`Self::apply`] mends: a program of ours was taken away, or another put before it.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn is_disturbed(&self) -> Result<bool, SteeringError> {
        let found = self.report()?.attachments;
        let may_reorder = self.hook == Hook::Tcx && self.next_reorder.is_none_or(|at| Instant::now() >= at);
        let displaced =
            found.iter().any(|attachment| attachment.programs_before.is_some_and(|before| before > 0));
        Ok(found.len() < self.wanted || (may_reorder && displaced))
    }

    /// Detaches what is not in the plan, ingress first.
    fn detach(&self, plan: &SteeringPlan, report: &mut SteeringReport) {
        let wanted = places(plan);
        let pins = match self.folder.pins() {
            Ok(pins) => pins,
            Err(error) => return report.problems.push(error),
        };
        let is_wanted = |pin: &Pin| match *pin {
            Pin::Attachment { ifindex, direction, hook } => {
                hook == self.hook && wanted.contains(&Place { direction, ifindex })
            }
            Pin::Qdisc { ifindex } => {
                self.hook == Hook::Clsact && wanted.iter().any(|place| place.ifindex == ifindex)
            }
        };
        for pin in in_order_of_removal(pins).into_iter().filter(|pin| !is_wanted(pin)) {
            match attach::detach(&self.folder, pin) {
                Ok(()) => report.detached += 1,
                Err(error) => report.problems.push(error),
            }
        }
    }

    fn reset_counters(&mut self, slot: u32) -> Result<(), SteeringError> {
        let name = backtrail_ebpf_common::maps::names::COUNTERS;
        let cpus = nr_cpus().map_err(|(call, source)| SteeringError::System { call, source })?;
        let zeros = PerCpuValues::try_from(vec![Counters::default(); cpus])
            .map_err(|source| SteeringError::System { call: "clearing counters", source })?;
        self.loaded.maps.counters.set(slot, zeros, 0).map_err(SteeringError::map("write", name))
    }

    /// Voids cached nexthops: to be called after the kernel acknowledged a change of routes or neighbours.
    ///
    /// # Errors
    /// The kernel refused the write.
    pub fn bump_generation(&mut self) -> Result<(), SteeringError> {
        let globals = self.globals();
        let globals = Globals { generation: globals.generation.wrapping_add(1), ..globals };
        self.loaded.maps.globals.put(&BTreeMap::from([(0, globals)])).map(drop)
    }

    /// Lets each CPU report so many events in about a second; 0: none, at no cost.
    ///
    /// # Errors
    /// The kernel refused the write.
    pub fn listen(&mut self, events: u32) -> Result<(), SteeringError> {
        let globals = Globals { events, ..self.globals() };
        self.loaded.maps.globals.put(&BTreeMap::from([(0, globals)])).map(drop)
    }

    /// Readable when there are events.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn event_fd(&self) -> std::io::Result<OwnedFd> {
        self.loaded.maps.events.as_fd().try_clone_to_owned()
    }

    /// Takes all events out of the ring: the kernel does not tell of new ones while old ones are in it.
    pub fn events(&mut self) -> Vec<FlowEvent> {
        std::iter::from_fn(|| events::next(&mut self.loaded.maps.events)).collect()
    }

    /// Events that were not reported since the maps were made: too many in a second, or nobody took them from the ring.
    ///
    /// # Errors
    /// The kernel refused the read.
    pub fn suppressed_events(&self) -> Result<u64, SteeringError> {
        let name = backtrail_ebpf_common::maps::names::EVENT_BUDGET;
        let budgets = self.loaded.maps.event_budget.get(&0, 0).map_err(SteeringError::map("read", name))?;
        Ok(budgets.iter().map(|budget| budget.suppressed).sum())
    }

    fn globals(&self) -> Globals {
        use table::Zero as _;
        self.loaded.maps.globals.content().get(&0).copied().unwrap_or(Globals::ZERO)
    }

    fn tables(&self) -> Tables<'_> {
        let maps = &self.loaded.maps;
        maps.tables(self.globals())
    }

    /// Entries of all tables of flows, as last counted by [`Self::expire`].
    #[must_use]
    pub fn flow_count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A page of the flow tables: from `cursor` (0, or [`FlowPage::next`]) about `limit` flows, no fewer than a
    /// bucket of the hash holds. Flows that come and go meanwhile may be missed or seen twice.
    ///
    /// # Errors
    /// The kernel refused the read.
    pub fn flows(&self, cursor: u64, limit: u32) -> Result<FlowPage, SteeringError> {
        self.tables().page(cursor, limit, |flow| self.gateway(flow))
    }

    /// One flow, in whichever zone it is known.
    ///
    /// # Errors
    /// The kernel refused the read.
    pub fn flow(
        &self,
        protocol: u8,
        client: SocketAddr,
        service: SocketAddr,
    ) -> Result<Option<FlowEntry>, SteeringError> {
        let zones: BTreeSet<u32> =
            self.loaded.maps.ifaces.content().values().map(|iface| iface.zone).collect();
        for zone in zones {
            let found = self.tables().one((protocol, client, service, zone), |flow| self.gateway(flow))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn gateway(&self, flow: &Flow) -> Option<IpAddr> {
        let path =
            self.loaded.maps.paths.content().get(&flow.path).filter(|path| {
                path.kind == backtrail_ebpf_common::maps::PATH_GATEWAY || flow.nexthop.kind == 0
            });
        let of_path = path.and_then(|path| layout::address(path.gateway, path.gateway_family));
        of_path.or_else(|| flows::resolved(flow))
    }

    /// Counters of each interface that has a program, by ifindex, summed over CPUs.
    ///
    /// # Errors
    /// The kernel refused the read.
    pub fn counters(&self) -> Result<BTreeMap<u32, Counters>, SteeringError> {
        let name = backtrail_ebpf_common::maps::names::COUNTERS;
        let mut sums = BTreeMap::new();
        for iface in self.loaded.maps.ifaces.content().values() {
            let parts = self.loaded.maps.counters.get(&iface.slot, 0);
            let mut sum = Counters::default();
            for part in parts.map_err(SteeringError::map("read", name))?.iter() {
                counters::add(&mut sum, part);
            }
            sums.insert(iface.ifindex, sum);
        }
        Ok(sums)
    }

    /// Whether flows had to make room for others, as far as samples show that each call of [`Self::expire`] takes.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.watch.found()
    }

    /// Forgets flows that are idle for longer than the plan says. Looks at about `budget` flows and goes on with
    /// the next call; a whole walk also counts the flows, and gives back path ids that no flow holds any more.
    ///
    /// # Errors
    /// The kernel refused a read or a deletion.
    pub fn expire(&mut self, budget: u32) -> Result<Expired, SteeringError> {
        let tables = self.loaded.maps.tables(self.globals());
        let (expired, swept) = self.sweep.step(&tables, self.numbers.retired(), budget, &mut self.watch)?;
        if let Some(swept) = swept {
            self.counts = swept.counts;
            let mut paths = self.loaded.maps.paths.content().clone();
            for id in swept.unused {
                self.numbers.free(id);
                paths.remove(&id);
            }
            self.loaded.maps.paths.prune(&paths)?;
        }
        Ok(expired)
    }
}

/// Where the plan wants programs: all of egress, then all of ingress.
fn places(plan: &SteeringPlan) -> BTreeSet<Place> {
    let egress =
        plan.interfaces.keys().map(|ifindex| Place { direction: Direction::Egress, ifindex: *ifindex });
    let learning = plan.interfaces.iter().filter(|(_, interface)| interface.learn.is_some());
    let ingress = learning.map(|(ifindex, _)| Place { direction: Direction::Ingress, ifindex: *ifindex });
    egress.chain(ingress).collect()
}

/// Ingress, then egress, then qdiscs: nothing is learned that cannot be steered.
fn in_order_of_removal(mut pins: Vec<Pin>) -> Vec<Pin> {
    pins.sort_by_key(|pin| match pin {
        Pin::Attachment { direction: Direction::Ingress, .. } => 0,
        Pin::Attachment { direction: Direction::Egress, .. } => 1,
        Pin::Qdisc { .. } => 2,
    });
    pins
}

/// Where programs are pinned in the folder `bpffs`: interface and direction.
#[must_use]
pub fn attached(bpffs: &Path) -> BTreeSet<(u32, Direction)> {
    let pins = Folder::new(bpffs).pins().unwrap_or_default();
    let place = |pin: Pin| match pin {
        Pin::Attachment { ifindex, direction, .. } => Some((ifindex, direction)),
        Pin::Qdisc { .. } => None,
    };
    pins.into_iter().filter_map(place).collect()
}

/// Removes every program, link, filter, map and pin of ours in the folder `bpffs`, and the folder when it is empty
/// then; a clsact qdisc only if it is ours and empty. Returns the names of the pins that went.
///
/// # Errors
/// The first thing that could not be removed; the rest is removed nevertheless.
pub fn cleanup(bpffs: &Path) -> Result<Vec<String>, SteeringError> {
    if !preflight::on_bpffs(bpffs) {
        return Ok(Vec::new());
    }
    let folder = Folder::new(bpffs);
    let mut removed = Vec::new();
    let mut first_error = None;
    let mut note = |name: String, result: Result<(), SteeringError>| match result {
        Ok(()) => removed.push(name),
        Err(error) => drop(first_error.get_or_insert(error)),
    };
    for pin in in_order_of_removal(folder.pins()?) {
        note(pin.name(), attach::detach(&folder, pin));
    }
    for name in folder.names()?.into_iter().filter(|name| object::is_ours(name)) {
        note(name.clone(), folder.remove(&name));
    }
    // Fails where somebody else pinned something here: then it is not ours alone.
    drop(std::fs::remove_dir(folder.root()));
    first_error.map_or(Ok(removed), Err)
}
