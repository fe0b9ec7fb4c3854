//! What steering did, and what there is.

use std::path::PathBuf;

use backtrail_ebpf_common::maps::names;
use serde::Serialize;

use super::attach::{self, Place, program_id};
use super::flows::FlowTable;
use super::object::{self, PROGRAMS};
use super::pins::Pin;
use super::{Direction, Features, Hook, Steering, SteeringError};

/// What [`Steering::apply`] did. All zeros when the kernel held the plan already.
#[derive(Debug, Default)]
pub struct SteeringReport {
    /// Map elements written or removed.
    pub writes: usize,
    /// Programs attached, or swapped in.
    pub attached: usize,
    /// Programs detached, and qdiscs of ours removed.
    pub detached: usize,
    /// What could not be done.
    pub problems: Vec<SteeringError>,
}

impl SteeringReport {
    /// Whether the kernel held the plan already.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.writes + self.attached + self.detached == 0 && self.problems.is_empty()
    }

    pub(super) fn note(&mut self, result: Result<usize, SteeringError>) {
        match result {
            Ok(writes) => self.writes += writes,
            Err(error) => self.problems.push(error),
        }
    }
}

/// What there is, as the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SteeringStatus {
    /// What the kernel can do.
    pub features: Features,
    /// The programs that were loaded last.
    pub programs: Vec<ProgramReport>,
    /// Where programs run.
    pub attachments: Vec<Attachment>,
    /// The maps.
    pub maps: Vec<MapReport>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramReport {
    /// Its name.
    pub name: &'static str,
    /// Its id, as `bpftool prog` shows it.
    pub id: u32,
}

/// A program on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its name; `ifN` where the last plan did not name it.
    pub interface: String,
    /// Side.
    pub direction: Direction,
    /// How it is attached.
    pub hook: Hook,
    /// Id of the program that runs.
    pub program: u32,
    /// Id of the TCX link.
    pub link: Option<u32>,
    /// Programs, with clsact filters, that a packet meets before this one: 0 is first.
    pub programs_before: Option<usize>,
}

/// A map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapReport {
    /// Its name.
    pub name: &'static str,
    /// Its id, as `bpftool map` shows it.
    pub id: u32,
    /// Where it is pinned.
    pub pin: PathBuf,
    /// Entries in use. Of the flow tables: when [`Steering::expire`] last walked them to the end.
    pub entries: Option<u64>,
    /// Entries that fit.
    pub max_entries: u32,
}

impl Steering {
    /// What there is, as the kernel tells: programs, attachments, maps.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn report(&self) -> Result<SteeringStatus, SteeringError> {
        let mut attachments = Vec::new();
        for pin in self.folder.pins()? {
            let Pin::Attachment { ifindex, direction, hook } = pin else { continue };
            let Some((program, link)) = attach::state(&self.folder, pin)? else { continue };
            let interface = self.names.get(&ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"));
            let programs_before = match hook {
                Hook::Tcx => attach::programs_before(Place { direction, ifindex }, program),
                Hook::Clsact => attach::filters_before(Place { direction, ifindex }),
            };
            attachments.push(Attachment {
                ifindex,
                interface,
                direction,
                hook,
                program,
                link,
                programs_before,
            });
        }
        let programs = PROGRAMS.into_iter().filter_map(|name| {
            let program = self.loaded.ebpf.program(name)?;
            let program: &aya::programs::SchedClassifier = program.try_into().ok()?;
            Some(ProgramReport { name, id: program_id(program).ok()? })
        });
        Ok(SteeringStatus {
            features: self.features,
            programs: programs.collect(),
            attachments,
            maps: self.map_reports(),
        })
    }

    fn map_reports(&self) -> Vec<MapReport> {
        let maps = object::map_infos(&self.folder).into_iter().map(|(name, info)| MapReport {
            name,
            id: info.id(),
            pin: self.folder.path(name),
            entries: self.entries(name),
            max_entries: info.max_entries(),
        });
        maps.collect()
    }

    fn entries(&self, name: &str) -> Option<u64> {
        if let Some(place) = FlowTable::of_map(name) {
            return self.counts.get(place as usize).copied();
        }
        let maps = &self.loaded.maps;
        let known = match name {
            names::IFACES => maps.ifaces.content().len(),
            names::PATHS => maps.paths.content().len(),
            names::MACS => maps.macs.content().len(),
            names::VIPS => maps.vips4.content().len(),
            names::VIPS6 => maps.vips6.content().len(),
            names::NEVER => maps.never4.content().len(),
            names::NEVER6 => maps.never6.content().len(),
            names::PORTS => maps.ports.content().len(),
            _ => return None,
        };
        Some(known as u64)
    }
}
