//! What the tc programs do with a packet (`ebpf/src/egress.rs`, `steer.rs`).

use std::net::IpAddr;

use super::{Step, StepKind, World};
use crate::intent::types::Intent;
use crate::model::Family;
use crate::plan::matches_name;
use crate::plan::steering::SteeringPlan;

/// What the flow table knows of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The interface of the last request; 0 for flows of the node.
    pub ifindex: u32,
    /// The neighbour that replies go to, where it is resolved.
    pub gateway: Option<IpAddr>,
    /// Opened by the node, or in transit: never steered.
    pub node_origin: bool,
}

/// Where a program sends a packet instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirect {
    /// The interface.
    pub ifindex: u32,
    /// The neighbour; `None`: found by the program, packet by packet.
    pub gateway: Option<IpAddr>,
}

fn step(object: String, outcome: String, owner: Option<String>) -> Step {
    Step { kind: StepKind::Program, object, outcome, owner, foreign: None }
}

fn owner(name: &str, intent: &Intent) -> Option<String> {
    let asks = intent.return_paths.iter().find(|path| matches_name(&path.name, name))?;
    asks.owners.first().map(ToString::to_string)
}

/// The egress program's verdict on a packet that is about to leave by `egress`.
#[must_use]
pub fn egress(
    egress: u32,
    family: Family,
    known: Option<&Known>,
    plan: &SteeringPlan,
    world: &World<'_>,
) -> Option<(Step, Option<Redirect>)> {
    let interface = plan.interfaces.get(&egress)?;
    let object = format!("{} egress", interface.name);
    let pass = |why: &str| Some((step(object.clone(), format!("passes: {why}"), None), None));
    let Some(known) = known else {
        return pass("the flow is not in the flow table: no request of it came in by a listed interface");
    };
    if known.node_origin {
        return pass("the node, or a pod behind it, opened the flow");
    }
    if known.ifindex == egress {
        return pass("its requests come in by this interface");
    }
    let by = world.name(known.ifindex);
    let Some(learned) = plan.interfaces.get(&known.ifindex) else {
        return pass(&format!("{by}, where its requests came in, is not listed any more"));
    };
    if learned.zone != interface.zone {
        return pass(&format!("{by} belongs to another VRF"));
    }
    let by_owner = owner(&by, world.intent);
    let enforced = learned.learn.as_ref().is_none_or(|learn| learn.enforce);
    let drops = learned.learn.as_ref().is_some_and(|learn| learn.drop_on_path_down);
    let mut paths =
        plan.paths.iter().filter(|(key, _)| key.ifindex == known.ifindex && key.family == family).peekable();
    let down = paths.peek().is_some() && !paths.any(|(_, path)| path.up);
    let via = known.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
    let outcome = match (down, drops, enforced) {
        (true, true, true) => format!("dropped: the path by {by} is down (onPathDown: Drop)"),
        (true, ..) => format!("passes: the path by {by} is down (onPathDown: FollowFIB)"),
        (false, _, false) => format!("passes, and is counted: it would be redirected {via}dev {by} (Shadow)"),
        (false, _, true) => format!("redirected {via}dev {by}, where its requests come in"),
    };
    let redirect = (enforced && !down).then_some(Redirect { ifindex: known.ifindex, gateway: known.gateway });
    Some((step(object, outcome, by_owner), redirect))
}

/// What the ingress program does with a packet that comes in by `ingress`.
#[must_use]
pub fn ingress(
    ingress: u32,
    known: Option<&Known>,
    service: IpAddr,
    plan: &SteeringPlan,
    world: &World<'_>,
) -> Option<Step> {
    let interface = plan.interfaces.get(&ingress)?;
    let learn = interface.learn.as_ref()?;
    let listed = learn.virtual_ips.is_empty() || learn.virtual_ips.iter().any(|net| net.contains(&service));
    let outcome = match known {
        Some(known) if known.node_origin => "the flow is the node's own: nothing to remember".to_owned(),
        Some(known) if known.ifindex == ingress => "remembered: its replies leave here".to_owned(),
        Some(known) => format!("remembered so far by {}; it moves here", world.name(known.ifindex)),
        None if listed => "not remembered (yet): the packet that opens a flow is what counts".to_owned(),
        None => format!("not remembered: virtualIPs do not hold {service}"),
    };
    let owner = owner(&interface.name, world.intent);
    Some(step(format!("{} ingress", interface.name), outcome, owner))
}
