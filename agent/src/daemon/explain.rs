//! `backtrail explain`: gathers what decides from the agent and the kernel; [`crate::explain`] makes sense of it.
//!
//! What is the agent's own is copied at once. The kernel is asked off the daemon's task: a dump of a million routes takes
//! a second.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use tokio::sync::oneshot;

use super::{Agent, answer};
use crate::control::Response;
use crate::explain::{
    self, Direction, End, Explanation, Flow, IifFrom, Known, Packet, Redirect, RouteFact, Target, Walk, Way,
    World,
};
use crate::intent::types::Intent;
use crate::kernel::KernelError;
use crate::kernel::dump::{RouteFilter, dump_nexthops, visit_routes_behind};
use crate::kernel::gate::Gate;
use crate::kernel::lookup::{Answer, Lookup, get_route, match_route};
use crate::kernel::observe;
use crate::model::{Family, KernelRoute, NexthopBody, NexthopId, RouteKey, Rule};
use crate::plan::Links;
use crate::plan::steering::SteeringPlan;

/// What the agent knows, when it is asked.
struct Facts {
    target: Target,
    /// The interface that the question names.
    given: Option<u32>,
    intent: Intent,
    links: Links,
    steering: SteeringPlan,
    known: Option<Known>,
    routes: Vec<RouteFact>,
    owners: BTreeMap<RouteKey, String>,
}

/// What the kernel holds, as far as it covers the target.
struct Kernel {
    rules: Vec<Rule>,
    routes: BTreeMap<u32, Vec<KernelRoute>>,
    nexthops: BTreeMap<NexthopId, NexthopBody>,
}

impl Agent {
    /// Answers when the kernel has.
    pub(super) fn explain(&self, target: Target, iif: Option<&str>, reply: oneshot::Sender<Response>) {
        let (facts, gate) = (self.facts(target, iif), self.programmer.gate());
        tokio::spawn(async move {
            let explained = match facts {
                Ok(facts) => explain(facts, gate).await,
                Err(error) => Err(error),
            };
            let response = explained.map_or_else(
                |error| Response::Error(format!("{error:#}")),
                |it| Response::Explanation(Box::new(it)),
            );
            // The client may have gone.
            drop(reply.send(response));
        });
    }

    fn facts(&self, target: Target, iif: Option<&str>) -> anyhow::Result<Facts> {
        let given = iif.map(|name| {
            let link = self.observed.by_name(name);
            link.map(|link| link.ifindex).ok_or_else(|| anyhow!("--iif {name}: there is no such interface"))
        });
        let covered: Vec<IpNet> = match &target {
            Target::Address(address) => vec![IpNet::from(*address)],
            Target::Prefix(prefix) => vec![*prefix],
            Target::Flow(flow) => vec![flow.destination.ip().into(), flow.source.ip().into()],
        };
        let mut owners = BTreeMap::new();
        let mut routes = Vec::new();
        for view in covered.iter().flat_map(|prefix| self.engine.routes_covering(prefix)) {
            if let (Some(metric), Some(owner)) = (view.metric, &view.owner) {
                let key = RouteKey { table: view.table, prefix: view.prefix, metric };
                owners.insert(key, owner.clone());
            }
            let because =
                explain::cause(view.reason, &view.prefix, view.table, &self.intent, self.observed.links());
            let fact = RouteFact { route: answer::row(self, view), because };
            if !routes.contains(&fact) {
                routes.push(fact);
            }
        }
        Ok(Facts {
            given: given.transpose()?,
            intent: self.intent.clone(),
            links: self.observed.links().clone(),
            steering: self.steering_plan.clone(),
            known: self.known(&target),
            target,
            routes,
            owners,
        })
    }

    /// The flow table's entry; a flow may be asked for from either end.
    fn known(&self, target: &Target) -> Option<Known> {
        let Target::Flow(Flow { protocol, source, destination }) = *target else { return None };
        let entry = |client, service| self.steering.flow(protocol, client, service);
        let echo = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
        let (there, back) = match protocol {
            1 | 58 => ((source, echo(destination)), (destination, echo(source))),
            _ => ((source, destination), (destination, source)),
        };
        let flow = entry(there.0, there.1).or_else(|| entry(back.0, back.1))?;
        Some(Known { ifindex: flow.ifindex, gateway: flow.gateway, node_origin: flow.node_origin })
    }
}

async fn explain(facts: Facts, gate: Arc<Gate>) -> anyhow::Result<Explanation> {
    let rules = observe::rules().await?;
    let explained = tokio::task::spawn_blocking(move || {
        let kernel = Kernel::read(rules, &facts.target, &gate)?;
        facts.explain(&kernel)
    });
    explained.await.context("the explanation has failed")?
}

impl Kernel {
    fn read(rules: Vec<Rule>, target: &Target, gate: &Gate) -> Result<Self, KernelError> {
        let addresses: Vec<IpAddr> = match target {
            Target::Address(address) => vec![*address],
            Target::Prefix(prefix) => sample(prefix).into_iter().collect(),
            Target::Flow(flow) => vec![flow.source.ip(), flow.destination.ip()],
        };
        let mut routes: BTreeMap<u32, Vec<KernelRoute>> = BTreeMap::new();
        let families: BTreeSet<Family> = addresses.iter().map(Family::of_addr).collect();
        for family in families {
            let filter = RouteFilter { family: Some(family), ..RouteFilter::default() };
            visit_routes_behind(gate, filter, &mut |route| {
                if addresses.iter().any(|address| route.key.prefix.contains(address)) {
                    let listed = routes.entry(route.key.table).or_default();
                    if !listed.contains(&route) {
                        listed.push(route);
                    }
                }
                ControlFlow::Continue(())
            })?;
        }
        let nexthops = dump_nexthops(None)?.into_iter().map(|object| (object.id, object.body)).collect();
        Ok(Self { rules, routes, nexthops })
    }
}

/// An address of the prefix; the default route has none that stands for it.
fn sample(prefix: &IpNet) -> Option<IpAddr> {
    (prefix.prefix_len() > 0).then(|| prefix.hosts().next()).flatten()
}

/// A packet on its way, and how its arrival is known.
struct Traveller {
    packet: Packet,
    iif_from: Option<IifFrom>,
    way: Way,
}

impl Facts {
    fn explain(self, kernel: &Kernel) -> anyhow::Result<Explanation> {
        let world = World {
            rules: &kernel.rules,
            routes: &kernel.routes,
            nexthops: &kernel.nexthops,
            links: &self.links,
            intent: &self.intent,
            owners: &self.owners,
        };
        let sent = |destination| {
            let packet = Packet { source: None, destination, flow: None, iif: None };
            Traveller { packet, iif_from: None, way: Way::Forward }
        };
        let directions = match &self.target {
            Target::Address(address) => vec![self.direction(sent(*address), &world)?.0],
            Target::Prefix(prefix) => match sample(prefix) {
                Some(address) => vec![self.direction(sent(address), &world)?.0],
                None => Vec::new(),
            },
            Target::Flow(flow) => self.both(flow, &world)?,
        };
        let consistent = directions.iter().all(|direction| direction.agrees);
        Ok(Explanation { target: self.target, consistent, directions, routes: self.routes })
    }

    fn both(&self, flow: &Flow, world: &World<'_>) -> anyhow::Result<Vec<Direction>> {
        let (from, to) = (flow.source, flow.destination);
        let packet = |source: SocketAddr, destination: SocketAddr, iif| Packet {
            source: Some(source.ip()),
            destination: destination.ip(),
            flow: Some((flow.protocol, source.port(), destination.port())),
            iif,
        };
        let mut back = packet(to, from, None);
        let (mut iif, mut iif_from) = (None, None);
        if world.holder(from.ip()).is_none() {
            let (ifindex, known) = self.arrival(&back, world)?;
            (iif, iif_from) = (Some(ifindex), Some(known));
        }
        let there = Traveller { packet: packet(from, to, iif), iif_from, way: Way::Forward };
        let (forward, leaves_by) = self.direction(there, world)?;
        let mut directions = vec![forward];
        let local = world.holder(to.ip()).is_some();
        back.iif = leaves_by.filter(|_| !local);
        if local || back.iif.is_some() {
            let iif_from = back.iif.map(|_| IifFrom::Assumed);
            directions.push(self.direction(Traveller { packet: back, iif_from, way: Way::Reply }, world)?.0);
        }
        Ok(directions)
    }

    /// The interface that packets come in by whose answers are `back`.
    fn arrival(&self, back: &Packet, world: &World<'_>) -> anyhow::Result<(u32, IifFrom)> {
        if let Some(given) = self.given {
            return Ok((given, IifFrom::Given));
        }
        if let Some(known) = self.known.filter(|known| !known.node_origin && known.ifindex != 0) {
            return Ok((known.ifindex, IifFrom::FlowTable));
        }
        let source = back.source.filter(|source| world.holder(*source).is_some());
        let lookup = Lookup { source, ..Lookup::to(back.destination) };
        match get_route(&lookup).ok().and_then(|answer| answer.oif) {
            Some(oif) => Ok((oif, IifFrom::Assumed)),
            None => bail!(
                "no route leads back to {}: say by which interface it comes in, with --iif",
                back.destination
            ),
        }
    }

    /// One direction, and the interface that it leaves by.
    fn direction(&self, traveller: Traveller, world: &World<'_>) -> anyhow::Result<(Direction, Option<u32>)> {
        let Traveller { packet, iif_from, way } = traveller;
        let Walk { mut steps, end, doubts } = explain::walk(&packet, world);
        let lookup = Lookup {
            destination: packet.destination,
            source: packet.source,
            iif: packet.iif,
            oif: None,
            flow: packet.flow,
        };
        let answer = match get_route(&lookup) {
            Ok(answer) => Ok(answer),
            Err(KernelError::Refused { errno, .. }) => Err(errno),
            Err(error) => return Err(error.into()),
        };
        let matched = match_route(&lookup).ok().flatten();
        let walk = Walk { steps: Vec::new(), end, doubts };
        let (kernel, mismatch) = explain::check(&walk, &answer, matched.as_ref(), world);
        if let Some(iif) = packet.iif {
            let seen = explain::ingress(iif, self.known.as_ref(), packet.destination, &self.steering, world);
            steps.splice(0..0, seen);
        }
        let program = self.leaves(&walk.end, answer.as_ref().ok()).and_then(|oif| {
            explain::egress(oif, packet.family(), self.known.as_ref(), &self.steering, world)
        });
        let redirect = program.as_ref().and_then(|(_, redirect)| *redirect);
        let verdict = verdict(&walk.end, answer.as_ref().ok(), redirect, world);
        let leaves_by =
            redirect.map(|redirect| redirect.ifindex).or(self.leaves(&walk.end, answer.as_ref().ok()));
        let verdict = match &program {
            Some((step, None)) if step.outcome.starts_with("dropped") => step.outcome.clone(),
            _ => verdict,
        };
        steps.extend(program.map(|(step, _)| step));
        let end = |address: IpAddr, port: Option<u16>| match port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        };
        let direction = Direction {
            direction: way,
            source: packet.source.map(|source| end(source, packet.flow.map(|(_, port, _)| port))),
            destination: end(packet.destination, packet.flow.map(|(.., port)| port)),
            iif: packet.iif.map(|iif| world.name(iif)),
            iif_from,
            steps,
            verdict,
            kernel,
            agrees: mismatch.is_none(),
            mismatch,
        };
        Ok((direction, leaves_by))
    }

    /// The interface by which a packet that is routed leaves: the kernel's choice among several.
    fn leaves(&self, end: &End, answer: Option<&Answer>) -> Option<u32> {
        let End::Route(_, hops) = end else { return None };
        answer.and_then(|answer| answer.oif).or(hops.first().map(|(hop, _)| hop.ifindex))
    }
}

fn verdict(end: &End, answer: Option<&Answer>, redirect: Option<Redirect>, world: &World<'_>) -> String {
    let by = |ifindex: u32, gateway: Option<IpAddr>| {
        let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("leaves by {}{via}", world.name(ifindex))
    };
    match (end, redirect, answer) {
        (End::Route(..), Some(redirect), _) => by(redirect.ifindex, redirect.gateway),
        (End::Route(..), None, Some(Answer { oif: Some(oif), gateway, .. })) => by(*oif, *gateway),
        (End::Route(_, hops), None, _) => match hops.first() {
            Some((hop, _)) => by(hop.ifindex, hop.gateway),
            None => "is routed, but its nexthop is not known".to_owned(),
        },
        (End::Local, ..) => "is delivered to this node".to_owned(),
        (End::Special(kind), ..) => format!("is refused: {}", format!("{kind:?}").to_lowercase()),
        (End::Nothing, ..) => "is refused: no route".to_owned(),
    }
}
