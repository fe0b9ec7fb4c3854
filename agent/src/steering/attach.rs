//! Attaching: TCX links, pinned and adopted; on older kernels clsact filters with a fixed priority and handle.
//! A program is swapped in place: no packet passes without one.

use std::io;
use std::os::fd::AsFd as _;

use aya::programs::links::FdLink;
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{Link as _, LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError};
use nix::net::if_::if_indextoname;

use super::pins::{Folder, OLD, Pin};
use super::{Direction, Hook, SteeringError, sys};

/// Before the filters of others: those of most networking agents end the chain.
const PRIORITY: u16 = 1;
/// Ours among the filters of that priority ("bt").
const HANDLE: TcHandle = TcHandle::new(0, 0x6274);

impl From<Direction> for TcAttachType {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self::Egress,
            Direction::Ingress => Self::Ingress,
        }
    }
}

/// A side of an interface where a program shall be, or is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) direction: Direction,
    pub(super) ifindex: u32,
}

impl Place {
    fn pin(self, hook: Hook) -> Pin {
        Pin::Attachment { ifindex: self.ifindex, direction: self.direction, hook }
    }

    /// The interface's name now; it may have changed since the plan was made.
    pub(super) fn name(self) -> Result<String, SteeringError> {
        let name = if_indextoname(self.ifindex).map_err(|error| self.error("attach to", error))?;
        Ok(name.to_string_lossy().into_owned())
    }

    fn error(self, action: &'static str, cause: impl std::fmt::Display) -> SteeringError {
        let name = if_indextoname(self.ifindex).ok();
        let interface =
            name.map_or_else(|| format!("if{}", self.ifindex), |name| name.to_string_lossy().into_owned());
        SteeringError::Attach { action, hook: self.direction.hook(), interface, cause: cause.to_string() }
    }
}

/// What attaching came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attached {
    /// The program was there.
    Unchanged,
    /// It is there now.
    Changed,
    /// It is there, but somebody put a program before it. The kernel moves no program: another instance of it can be
    /// attached first.
    Displaced,
}

/// Attaches a program, or swaps it in for the one that is there.
pub(super) fn attach(
    folder: &Folder,
    program: &mut SchedClassifier,
    place: Place,
    hook: Hook,
) -> Result<Attached, SteeringError> {
    match hook {
        Hook::Tcx => attach_tcx(folder, program, place),
        Hook::Clsact => attach_clsact(folder, program, place),
    }
}

fn attach_tcx(
    folder: &Folder,
    program: &mut SchedClassifier,
    place: Place,
) -> Result<Attached, SteeringError> {
    let pin = place.pin(Hook::Tcx).name();
    let failed = |error: &dyn std::fmt::Display| place.error("attach to", error);
    let id = program_id(program).map_err(|error| failed(&error))?;
    let mut displaced = None;
    if let Some((link, state)) = pinned_link(folder, &pin)? {
        if state.ifindex != place.ifindex {
            // Defunct: its device is gone, and another one has the index.
            folder.remove(&pin)?;
        } else if programs_before(place, state.program).is_some_and(|before| before > 0) {
            if state.program == id {
                return Ok(Attached::Displaced);
            }
            displaced = Some(link);
        } else if state.program == id {
            return Ok(Attached::Unchanged);
        } else {
            let new = program.fd().map_err(|error| failed(&error))?;
            sys::update_link(link.as_fd(), new.as_fd()).map_err(|error| failed(&error))?;
            return Ok(Attached::Changed);
        }
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program
        .attach_with_options(&place.name()?, place.direction.into(), options)
        .and_then(|id| program.take_link(id))
        .map_err(|error| failed(&chain(&error)))?;
    let link = FdLink::try_from(link).map_err(|error| failed(&error))?;
    if let Some(old) = displaced {
        // For a moment both are in the chain: what the first one redirects the second one never sees, and to learn twice is
        // to learn once.
        folder.rename(&pin, &format!("{OLD}{pin}"))?;
        link.pin(folder.path(&pin)).map_err(|error| failed(&error))?;
        sys::detach_link(old.as_fd()).map_err(|error| failed(&error))?;
        folder.remove(&format!("{OLD}{pin}"))?;
        return Ok(Attached::Changed);
    }
    // Dropped, the pinned link stays; should pinning fail, it goes.
    link.pin(folder.path(&pin)).map_err(|error| failed(&error))?;
    Ok(Attached::Changed)
}

fn attach_clsact(
    folder: &Folder,
    program: &mut SchedClassifier,
    place: Place,
) -> Result<Attached, SteeringError> {
    let failed = |error: &dyn std::fmt::Display| place.error("attach to", error);
    let pin = place.pin(Hook::Clsact).name();
    let id = program_id(program).map_err(|error| failed(&error))?;
    let there = has_filter(place)?;
    if there && pinned_program(folder, &pin) == Some(id) {
        return Ok(Attached::Unchanged);
    }
    let name = place.name()?;
    let qdisc = Pin::Qdisc { ifindex: place.ifindex }.name();
    let made = match tc::qdisc_add_clsact(&name) {
        Ok(()) => true,
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => false,
        Err(error) => return Err(failed(&error)),
    };
    let attached = if there {
        SchedClassifierLink::attached(&name, place.direction.into(), PRIORITY, HANDLE, None)
            .map_err(|error| failed(&error))
            .and_then(|link| program.attach_to_link(link).map_err(|error| failed(&chain(&error))))
    } else {
        let options =
            TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
        let attached = program.attach_with_options(&name, place.direction.into(), options);
        attached.map_err(|error| failed(&chain(&error)))
    };
    let link = program.take_link(attached?).map_err(|error| failed(&error))?;
    // Dropped, it would take the filter with it.
    std::mem::forget(link);
    if made || folder.exists(&qdisc) {
        folder.remove(&qdisc)?;
        program.pin(folder.path(&qdisc)).map_err(|error| failed(&error))?;
    }
    folder.remove(&pin)?;
    program.pin(folder.path(&pin)).map_err(|error| failed(&error))?;
    Ok(Attached::Changed)
}

/// Detaches what a pin stands for, and removes the pin.
pub(super) fn detach(folder: &Folder, pin: Pin) -> Result<(), SteeringError> {
    match pin {
        Pin::Attachment { ifindex, direction, hook: Hook::Tcx } => {
            let name = pin.name();
            if let Some((link, _)) = pinned_link(folder, &name)? {
                // Without its last reference the kernel would detach it too, but later: until then the program could not be
                // attached again.
                let place = Place { direction, ifindex };
                sys::detach_link(link.as_fd()).map_err(|error| place.error("detach from", error))?;
            }
            folder.remove(&name)
        }
        Pin::Attachment { ifindex, direction, hook: Hook::Clsact } => {
            let place = Place { direction, ifindex };
            if has_filter(place)? {
                let link =
                    SchedClassifierLink::attached(&place.name()?, direction.into(), PRIORITY, HANDLE, None);
                let link = link.map_err(|error| place.error("detach from", error))?;
                link.detach().map_err(|error| place.error("detach from", chain(&error)))?;
            }
            folder.remove(&pin.name())
        }
        Pin::Qdisc { ifindex } => {
            let mut used = false;
            for direction in [Direction::Ingress, Direction::Egress] {
                used |= !filters(Place { direction, ifindex })?.is_empty();
            }
            // With somebody else's filters in it, it is theirs from now on.
            if !used {
                let place = Place { direction: Direction::Egress, ifindex };
                super::tc::delete_clsact(ifindex)
                    .map_err(|error| place.error("remove clsact with", error))?;
            }
            folder.remove(&pin.name())
        }
    }
}

/// Program and link that a pin stands for, as the kernel tells; `None` where nothing is attached.
pub(super) fn state(folder: &Folder, pin: Pin) -> Result<Option<(u32, Option<u32>)>, SteeringError> {
    match pin {
        Pin::Attachment { ifindex, hook: Hook::Tcx, .. } => {
            let link = pinned_link(folder, &pin.name())?.map(|(_, state)| state);
            Ok(link.filter(|link| link.ifindex == ifindex).map(|link| (link.program, Some(link.id))))
        }
        Pin::Attachment { ifindex, direction, hook: Hook::Clsact } => {
            let there = has_filter(Place { direction, ifindex })?;
            let program = pinned_program(folder, &pin.name()).filter(|_| there);
            Ok(program.map(|program| (program, None)))
        }
        Pin::Qdisc { .. } => Ok(None),
    }
}

/// Programs that a packet meets before ours, on a TCX hook.
pub(super) fn programs_before(place: Place, program: u32) -> Option<usize> {
    let programs = sys::tcx_programs(place.ifindex, place.direction).ok()?;
    programs.iter().position(|id| *id == program)
}

/// Filters that a packet meets before ours, with clsact: the kernel lists them in their order.
pub(super) fn filters_before(place: Place) -> Option<usize> {
    filters(place).ok()?.iter().position(is_ours)
}

fn pinned_link(
    folder: &Folder,
    pin: &str,
) -> Result<Option<(std::os::fd::OwnedFd, sys::TcxLink)>, SteeringError> {
    let path = folder.path(pin);
    let link = match sys::open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SteeringError::pin("read", &path)(error)),
    };
    let state = sys::tcx_link(link.as_fd()).map_err(SteeringError::pin("read", &path))?;
    Ok(Some((link, state)))
}

fn pinned_program(folder: &Folder, pin: &str) -> Option<u32> {
    aya::programs::ProgramInfo::from_pin(folder.path(pin)).ok().map(|info| info.id())
}

fn has_filter(place: Place) -> Result<bool, SteeringError> {
    Ok(filters(place)?.iter().any(is_ours))
}

fn is_ours(filter: &super::tc::Filter) -> bool {
    filter.priority == PRIORITY && filter.handle == u32::from(HANDLE)
}

fn filters(place: Place) -> Result<Vec<super::tc::Filter>, SteeringError> {
    let call = "listing the filters of an interface";
    super::tc::filters(place.ifindex, place.direction)
        .map_err(|source| SteeringError::System { call, source })
}

pub(super) fn program_id(program: &SchedClassifier) -> Result<u32, ProgramError> {
    program.info().map(|info| info.id())
}

/// An error with its causes: aya's messages leave them out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
