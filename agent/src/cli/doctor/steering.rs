//! What a running agent's programs meet: others in the chain, paths of different MTU.

use super::{Check, Finding, Severity, some_of};
use crate::api::{ReturnPathState, SteeringState};
use crate::model::Link;

/// Nothing to say where nothing is steered.
pub(super) fn check(state: &ReturnPathState, links: &[Link]) -> Vec<Finding> {
    if state.mode == SteeringState::Off {
        return Vec::new();
    }
    vec![order(state), mtu(state, links)]
}

fn order(state: &ReturnPathState) -> Finding {
    let later: Vec<String> = state
        .interfaces
        .iter()
        .flat_map(|interface| interface.programs.iter().map(|program| (&interface.name, program)))
        .filter(|(_, program)| program.position != "first")
        .map(|(name, program)| format!("{name} {}: {}", program.direction, program.position))
        .collect();
    if later.is_empty() {
        return Finding::ok(Check::TcxOrder, "our programs come first on every interface");
    }
    Finding::bad(
        Severity::Warning,
        Check::TcxOrder,
        format!("other programs come before ours: {}", some_of(&later)),
        "one that ends the chain (TC_ACT_OK, a redirect) hides packets from ours",
        "list them with `bpftool net show` and `tc filter show`; start them after Backtrail, give filters a preference above 1, or have them return TCX_NEXT",
    )
}

/// A reply may be redirected from any of these interfaces to any other.
fn mtu(state: &ReturnPathState, links: &[Link]) -> Finding {
    let mut mtus: Vec<(u32, &str)> = state
        .interfaces
        .iter()
        .filter_map(|interface| {
            let link = links.iter().find(|link| link.name == interface.name)?;
            Some((link.mtu, interface.name.as_str()))
        })
        .collect();
    mtus.sort_unstable();
    match (mtus.first(), mtus.last()) {
        (Some((smallest, _)), Some((largest, _))) if smallest < largest => {
            let names: Vec<String> = mtus.iter().map(|(mtu, name)| format!("{name} {mtu} bytes")).collect();
            Finding::bad(
                Severity::Note,
                Check::PathMtu,
                format!("return paths differ in MTU: {}", some_of(&names)),
                "a reply made for the larger one is too big for the smaller: its sender is told by ICMP, and retries",
                "use one MTU, or see that ICMP errors reach the services",
            )
        }
        _ => Finding::ok(Check::PathMtu, "all return paths have one MTU"),
    }
}
