//! Answers to clients of the control socket.

use ipnet::IpNet;

use super::{Agent, report};
use crate::control::{Change, MAX_PAGE, NexthopRow, Page, PageRequest, PlanRow, Request, Response, RouteRow};
use crate::intent::types::Intent;
use crate::model::{Hop, Rule};
use crate::plan::{Plan, PlanInput};
use crate::reconcile::{RouteList, RouteView, device_ops};
use crate::status::reason;
use crate::steering::Direction;

/// Answers one request; a failure becomes [`Response::Error`].
pub(super) fn answer(agent: &mut Agent, request: Request) -> Response {
    match request {
        Request::Status => Response::Status(Box::new(report::status(agent))),
        Request::Routes { vrf, prefix, page } => routes(agent, vrf.as_deref(), prefix, page),
        Request::Flows { page } => flows(agent, page),
        // These take their time: the daemon answers them itself.
        Request::Explain { .. } | Request::Pause { .. } | Request::Resume | Request::Events { .. } => {
            Response::Error("not a question".to_owned())
        }
        Request::Plan { config } => {
            let intent = match config {
                None => Ok(agent.intent.clone()),
                Some(path) => agent.manifests.preview(&path, &agent.intent),
            };
            match intent {
                Ok(intent) => Response::Plan(plan(agent, &intent)),
                Err(error) => Response::Error(format!("{error:#}")),
            }
        }
    }
}

/// What was asked for, and the list that all pages of the answer come from.
#[derive(Debug)]
pub(super) struct Listing {
    vrf: Option<String>,
    prefix: Option<IpNet>,
    routes: RouteList,
}

fn routes(agent: &mut Agent, vrf: Option<&str>, prefix: Option<IpNet>, page: PageRequest) -> Response {
    let listing =
        agent.listing.take().filter(|it| page.cursor > 0 && it.vrf.as_deref() == vrf && it.prefix == prefix);
    let listing = listing.unwrap_or_else(|| {
        let of_vrf = |table| vrf.is_none_or(|vrf| vrf_name(agent, table) == Some(vrf));
        let wanted =
            |table, route: &IpNet| of_vrf(table) && prefix.is_none_or(|prefix| prefix.contains(route));
        Listing { routes: agent.engine.list_routes(wanted), vrf: vrf.map(str::to_owned), prefix }
    });
    let skip = usize::try_from(page.cursor).unwrap_or(usize::MAX);
    let limit = page.limit.min(MAX_PAGE) as usize;
    let (views, next) = agent.engine.route_rows(&listing.routes, skip, limit);
    let rows = views.into_iter().map(|view| row(agent, view)).collect();
    let total = listing.routes.len() as u64;
    // A client that stops asking leaves its list behind; the next question takes its place.
    agent.listing = next.is_some().then_some(listing);
    Response::Routes(Page { rows, total, next: next.map(|next| next as u64) })
}

fn vrf_name(agent: &Agent, table: u32) -> Option<&str> {
    agent.intent.vrfs.iter().find(|vrf| vrf.table == table).map(|vrf| vrf.name.as_str())
}

pub(super) fn row(agent: &Agent, view: RouteView) -> RouteRow {
    let nexthop = |hop: &Hop, weight: u32| NexthopRow {
        via: hop.gateway,
        dev: agent.observed.name(hop.ifindex).map_or_else(|| format!("if{}", hop.ifindex), str::to_owned),
        weight,
    };
    RouteRow {
        table: view.table,
        vrf: vrf_name(agent, view.table).map(str::to_owned),
        prefix: view.prefix,
        state: view.state,
        reason: view.reason.to_owned(),
        owner: view.owner,
        nexthops: view.nexthops.iter().map(|(hop, weight)| nexthop(hop, *weight)).collect(),
        metric: view.metric.unwrap_or_default(),
        protocol: view.protocol.unwrap_or(agent.intent.config.route_protocol),
    }
}

fn flows(agent: &Agent, page: PageRequest) -> Response {
    match agent.steering.flows(page, &agent.observed) {
        Ok(page) => Response::Flows(page),
        Err(error) => Response::Error(error.to_string()),
    }
}

/// What would change: routes and rules one by one. Steering's own routes and rules follow the links, not the manifests
/// alone: they are compared only where the intent is the one in force.
fn plan(agent: &Agent, intent: &Intent) -> Page<PlanRow> {
    let facts = agent.node_facts();
    let input = PlanInput {
        intent,
        links: agent.observed.links(),
        zebra: agent.engine.zebra_tables(),
        facts: &facts,
    };
    let mut plan = Plan::compile(input);
    plan.rules.extend(agent.steering_plan.rules.iter().cloned());
    plan.adopt_statics(agent.engine.plan(), reason::RETURN_PATH);
    let mut rows = agent.engine.preview(&plan, |ifindex| agent.observed.name(ifindex).map(str::to_owned));
    let rules = agent.environment.rule_changes(&plan.rules);
    let rule = |change, rule: &Rule, added: bool| PlanRow {
        change,
        kind: "rule".to_owned(),
        object: format!("{:?} {}", rule.family, rule.priority).to_lowercase(),
        before: (!added).then(|| content(rule)),
        after: added.then(|| content(rule)),
        owner: None,
    };
    rows.extend(rules.add.iter().map(|new| rule(Change::Add, new, true)));
    rows.extend(rules.delete.iter().map(|gone| rule(Change::Delete, gone, false)));
    if *intent == agent.intent {
        rows.extend(besides(agent));
    }
    let total = rows.len() as u64;
    rows.truncate(MAX_PAGE as usize);
    Page { rows, total, next: None }
}

/// Devices, sysctls and programs that are not as they should be. They follow the links, and are known for the intent in
/// force only.
pub(super) fn besides(agent: &Agent) -> Vec<PlanRow> {
    let row = |kind: &str, object: String, before: Option<String>, after: &str| PlanRow {
        change: if before.is_some() { Change::Replace } else { Change::Add },
        kind: kind.to_owned(),
        object,
        before,
        after: Some(after.to_owned()),
        owner: None,
    };
    let gone = |kind: &str, object: String, before: &str| PlanRow {
        change: Change::Delete,
        kind: kind.to_owned(),
        object,
        before: Some(before.to_owned()),
        after: None,
        owner: None,
    };
    let desired = agent.desired();
    let record = agent.environment.device_record();
    let steps = device_ops(&desired.devices, agent.observed.links(), record);
    let links = steps.iter().map(|op| {
        let (verb, kind) = op.words();
        let change = match verb {
            "add" => Change::Add,
            "delete" => Change::Delete,
            _ => Change::Replace,
        };
        PlanRow { change, ..row(kind, op.object().to_owned(), None, &op.to_string()) }
    });
    let sysctls = desired.sysctls.iter().filter_map(|(key, value)| {
        let now = agent.environment.sysctls.get(key).ok()?;
        (now != *value).then(|| row("sysctl", key.clone(), Some(now), value))
    });
    // What it was before Backtrail changed it; where it is that already, only the record goes.
    let restored = agent.environment.sysctls.recorded().filter_map(|(key, before)| {
        let now = agent.environment.sysctls.get(key).ok().filter(|now| now != before)?;
        (!desired.sysctls.contains_key(key)).then(|| row("sysctl", key.to_owned(), Some(now), before))
    });
    let attached = agent.steering.attached();
    let programs = agent.steering_plan.interfaces.iter().flat_map(|(ifindex, interface)| {
        let ingress = interface.learn.is_some().then_some((Direction::Ingress, "ingress"));
        let wanted = ingress.into_iter().chain([(Direction::Egress, "egress")]);
        let missing = wanted.filter(|(direction, _)| !attached.contains(&(*ifindex, *direction)));
        missing.map(|(_, word)| row("program", format!("{} {word}", interface.name), None, "attached"))
    });
    let detached = attached.iter().filter_map(|(ifindex, direction)| {
        let interface = agent.steering_plan.interfaces.get(ifindex);
        let (wanted, word) = match direction {
            Direction::Ingress => (interface.is_some_and(|it| it.learn.is_some()), "ingress"),
            Direction::Egress => (interface.is_some(), "egress"),
        };
        let name = agent.observed.name(*ifindex).map_or_else(|| format!("if{ifindex}"), str::to_owned);
        (!wanted).then(|| gone("program", format!("{name} {word}"), "attached"))
    });
    links.chain(sysctls).chain(restored).chain(programs).chain(detached).collect()
}

/// A rule as `ip` prints it, without its priority.
fn content(rule: &Rule) -> String {
    let text = rule.to_string();
    text.split_once(": ").map_or_else(|| text.clone(), |(_, content)| content.to_owned())
}
