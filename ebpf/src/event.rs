//! Samples of what happens to flows, for whoever follows them. Nobody does: one load where something rare happens.

use core::mem::MaybeUninit;

use backtrail_ebpf_common::maps::{EVENT_UNPARSABLE, Event, EventBudget};
use backtrail_ebpf_common::packet::Unparsed;

use crate::family::FlowKey;
use crate::maps::{self, EVENTS};

/// What happened, and where.
pub struct Happened {
    /// `EVENT_*`
    pub kind: u16,
    /// Interface that the packet was seen on.
    pub ifindex: u32,
    /// Interface that replies belong to; 0: none.
    pub path_ifindex: u32,
}

/// Reports what happened to a flow.
#[inline(never)]
pub fn flow<K: FlowKey>(key: &K, happened: &Happened) {
    #[cfg(feature = "log")]
    log(key, happened);
    let (client_port, service_port) = key.ports();
    report(|| Event {
        kind: happened.kind,
        family: K::FAMILY,
        proto: u32::from(key.proto()),
        ifindex: happened.ifindex,
        path_ifindex: happened.path_ifindex,
        client: key.client(),
        service: key.service(),
        client_port,
        service_port,
    });
}

/// Tells the same to the agent's log, whether somebody follows or not.
#[cfg(feature = "log")]
#[inline(never)]
fn log<K: FlowKey>(key: &K, happened: &Happened) {
    let (client_port, service_port) = key.ports();
    aya_log_ebpf::debug!(
        (),
        "event {} on {}: IPv{} protocol {} ports {} {}, replies by {}",
        happened.kind,
        happened.ifindex,
        K::FAMILY,
        key.proto(),
        client_port,
        service_port,
        happened.path_ifindex,
    );
}

/// Reports a packet without a tuple.
#[inline(never)]
pub fn unparsable(ifindex: u32, why: Unparsed) {
    report(|| Event {
        kind: EVENT_UNPARSABLE,
        family: 0,
        proto: why as u32,
        ifindex,
        path_ifindex: 0,
        client: [0; 16],
        service: [0; 16],
        client_port: 0,
        service_port: 0,
    });
}

#[inline(always)]
fn report(event: impl FnOnce() -> Event) {
    if maps::events() == 0 {
        return;
    }
    let Some(budget) = budget() else { return };
    let Some(mut entry) = EVENTS.reserve(0) else {
        budget.suppressed += 1;
        return;
    };
    budget.sent += 1;
    MaybeUninit::write(&mut entry, event());
    entry.submit(0);
}

/// The budget, if it has room in this gate.
#[inline(never)]
fn budget() -> Option<&'static mut EventBudget> {
    let budget = maps::event_budget()?;
    let gate = u32::from(maps::gate());
    if budget.gate != gate {
        budget.gate = gate;
        budget.sent = 0;
    }
    if budget.sent < maps::events() {
        return Some(budget);
    }
    budget.suppressed += 1;
    None
}
