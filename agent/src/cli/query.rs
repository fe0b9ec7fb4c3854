//! Commands that ask a running agent.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::output::{self, Format, List, Table, or_dash};
use super::{Global, Outcome};
use crate::api::ApplyState;
use crate::control::{
    Change, Client, EventRow, FlowOrigin, FlowRow, MAX_PAGE, NexthopRow, Page, PageRequest, PlanRow, Request,
    Response, RouteRow,
};

/// Rows of a table when `--limit` is not given.
const TABLE_ROWS: u64 = 100;

const OTHER_ANSWER: &str = "the agent answered another question: are agent and command of the same version?";

/// Options of `backtrail plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Plan with these manifests instead of those in force (a file or folder that the agent can read)
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

/// Options of `backtrail routes`.
#[derive(Debug, Clone, Args)]
pub struct RoutesArgs {
    /// Only routes of this VRF
    #[arg(long, value_name = "NAME")]
    vrf: Option<String>,
    /// Only this prefix and what lies inside it
    #[arg(value_name = "PREFIX", value_parser = prefix)]
    prefix: Option<IpNet>,
    #[command(flatten)]
    limit: Limit,
}

/// Options of `backtrail flows`.
#[derive(Debug, Clone, Args)]
pub struct FlowsArgs {
    /// Print what happens to flows, as it happens, until interrupted or after --limit events
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    limit: Limit,
}

/// Options of `backtrail pause`.
#[derive(Debug, Clone, Args)]
pub struct PauseArgs {
    /// Why, for whoever looks at the status
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// A prefix without its host bits; an address is a prefix of full length.
fn prefix(text: &str) -> Result<IpNet, String> {
    let host = text.parse::<IpAddr>().map(IpNet::from);
    let parsed = host.or_else(|_| text.parse::<IpNet>());
    parsed.map(|prefix| prefix.trunc()).map_err(|_| "give an address or ADDRESS/LENGTH".to_owned())
}

#[derive(Debug, Clone, Copy, Args)]
struct Limit {
    /// Print at most N rows, 0 for all [default: 100 in a table, else all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Limit {
    fn rows(self, format: Format) -> u64 {
        match (self.limit, format) {
            (Some(0), _) | (None, Format::Json | Format::Yaml) => u64::MAX,
            (Some(limit), _) => limit,
            (None, Format::Table) => TABLE_ROWS,
        }
    }
}

/// `backtrail routes`
pub(super) fn routes(global: &Global, args: RoutesArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let (vrf, prefix) = (args.vrf, args.prefix);
    let ask = |page| Request::Routes { vrf: vrf.clone(), prefix, page };
    let mut table = Table::new(&["TABLE", "VRF", "PREFIX", "METRIC", "STATE", "REASON", "NEXTHOPS", "OWNER"]);
    list(global, args.limit, out, ask, routes_page, &mut table, route_cells)
}

/// `backtrail flows`
pub(super) fn flows(global: &Global, args: &FlowsArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    if args.follow {
        return follow(global, args.limit.limit.filter(|limit| *limit > 0), out);
    }
    let ask = |page| Request::Flows { page };
    let mut table = Table::new(&[
        "PROTO",
        "CLIENT",
        "SERVICE",
        "INTERFACE",
        "GATEWAY",
        "ORIGIN",
        "AGE",
        "STEERED (packets)",
    ]);
    list(global, args.limit, out, ask, flows_page, &mut table, flow_cells)
}

/// `backtrail flows --follow`
fn follow(global: &Global, limit: Option<u64>, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut client = Client::connect(&global.run_dir)?;
    let (mut after, mut left) = (None, limit.unwrap_or(u64::MAX));
    while left > 0 {
        let Response::Events(page) = client.call(&Request::Events { after })? else { bail!(OTHER_ANSWER) };
        for event in page.events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            event_line(global.output, event, out)?;
        }
        if page.lost > 0 {
            eprintln!("{} more events are not shown: too many in a second", page.lost);
        }
        out.flush()?;
        left = left.saturating_sub(page.events.len() as u64);
        after = Some(page.next);
    }
    Ok(Outcome::Ok)
}

fn event_line(format: Format, event: &EventRow, out: &mut dyn Write) -> anyhow::Result<()> {
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(event)?)?,
        Format::Yaml => output::value(format, out, &[event])?,
        Format::Table => {
            write!(out, "{} {:<10} on {}", event.time, event.event, event.interface)?;
            if let (Some(proto), Some(client), Some(service)) = (&event.proto, event.client, event.service) {
                write!(out, " {proto} {client} > {service}")?;
            }
            if let Some(way) = &event.replies_by {
                write!(out, ", replies by {way}")?;
            }
            let reason = event.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            writeln!(out, "{reason}")?;
        }
    }
    Ok(())
}

fn routes_page(response: Response) -> Option<Page<RouteRow>> {
    if let Response::Routes(page) = response { Some(page) } else { None }
}

fn flows_page(response: Response) -> Option<Page<FlowRow>> {
    if let Response::Flows(page) = response { Some(page) } else { None }
}

/// `backtrail pause`
pub(super) fn pause(global: &Global, args: PauseArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    switch(global, &Request::Pause { reason: args.reason }, out)
}

/// `backtrail resume`
pub(super) fn resume(global: &Global, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    switch(global, &Request::Resume, out)
}

fn switch(global: &Global, request: &Request, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let Response::Apply(state) = Client::connect(&global.run_dir)?.call(request)? else {
        bail!("the agent answered another question: are agent and command of the same version?");
    };
    if global.output != Format::Table {
        output::value(global.output, out, &state)?;
    } else if state.mode == ApplyState::Enforce {
        writeln!(out, "changes are written")?;
    } else {
        writeln!(out, "{}", super::status::not_written(&state))?;
    }
    Ok(Outcome::Ok)
}

/// Asks for page after page and prints them: tables at the end, for columns to align; the rest as it comes.
fn list<T: Serialize>(
    global: &Global,
    limit: Limit,
    out: &mut dyn Write,
    ask: impl Fn(PageRequest) -> Request,
    page_of: impl Fn(Response) -> Option<Page<T>>,
    table: &mut Table,
    cells: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<Outcome> {
    let mut client = Client::connect(&global.run_dir)?;
    let wanted = limit.rows(global.output);
    let (mut left, mut cursor) = (wanted, 0);
    let mut list = List::new(global.output, out);
    let total = loop {
        let limit = u32::try_from(left).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let Some(page) = page_of(client.call(&ask(PageRequest { cursor, limit }))?) else {
            bail!(OTHER_ANSWER);
        };
        left = left.saturating_sub(page.rows.len() as u64);
        if global.output == Format::Table {
            page.rows.iter().for_each(|row| table.row(cells(row)));
        } else {
            list.extend(&page.rows)?;
        }
        match page.next {
            Some(next) if left > 0 => cursor = next,
            _ => break page.total,
        }
    };
    if global.output != Format::Table {
        list.end()?;
        return Ok(Outcome::Ok);
    }
    table.write(out, "")?;
    let shown = wanted - left;
    if shown < total {
        writeln!(out, "… and {} more of {total} (--limit 0 prints all)", total - shown)?;
    }
    Ok(Outcome::Ok)
}

pub(super) fn route_cells(row: &RouteRow) -> Vec<String> {
    vec![
        row.table.to_string(),
        or_dash(row.vrf.as_deref()),
        row.prefix.to_string(),
        row.metric.to_string(),
        row.state.to_string(),
        or_dash(Some(&row.reason)),
        nexthops(&row.nexthops),
        or_dash(row.owner.as_deref()),
    ]
}

/// At most four nexthops, with weights where they differ.
fn nexthops(all: &[NexthopRow]) -> String {
    const SHOWN: usize = 4;
    let weighted = all.iter().any(|hop| Some(hop.weight) != all.first().map(|first| first.weight));
    let mut text: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|hop| {
            let via = hop.via.map(|via| format!("{via}%")).unwrap_or_default();
            let weight = if weighted { format!("*{}", hop.weight) } else { String::new() };
            format!("{via}{}{weight}", hop.dev)
        })
        .collect();
    if all.len() > SHOWN {
        text.push(format!("+{} more", all.len() - SHOWN));
    }
    or_dash(Some(&text.join(" ")))
}

fn flow_cells(row: &FlowRow) -> Vec<String> {
    vec![
        row.proto.clone(),
        row.client.to_string(),
        row.service.to_string(),
        row.interface.clone(),
        or_dash(row.gateway.map(|gateway| gateway.to_string()).as_deref()),
        match row.origin {
            FlowOrigin::Client => "client",
            FlowOrigin::Node => "node",
        }
        .to_owned(),
        output::age(row.age_seconds),
        row.steered_packets.to_string(),
    ]
}

/// `backtrail plan`
pub(super) fn plan(global: &Global, args: PlanArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let config = args.config.map(std::path::absolute).transpose()?;
    let Response::Plan(plan) = Client::connect(&global.run_dir)?.call(&Request::Plan { config })? else {
        bail!(OTHER_ANSWER);
    };
    if global.output == Format::Table {
        diff(&plan, out)?;
    } else {
        let mut list = List::new(global.output, out);
        list.extend(&plan.rows)?;
        list.end()?;
    }
    Ok(if plan.total == 0 { Outcome::Ok } else { Outcome::Differs })
}

fn diff(plan: &Page<PlanRow>, out: &mut dyn Write) -> anyhow::Result<()> {
    for row in &plan.rows {
        let owner = row.owner.as_ref().map(|owner| format!("  # {owner}")).unwrap_or_default();
        let line = |sign, content: &Option<String>| {
            format!("{sign} {} {} {}", row.kind, row.object, content.as_deref().unwrap_or_default())
        };
        if matches!(row.change, Change::Delete | Change::Replace) {
            writeln!(
                out,
                "{}{}",
                line('-', &row.before).trim_end(),
                if row.after.is_none() { &owner } else { "" }
            )?;
        }
        if matches!(row.change, Change::Add | Change::Replace) {
            writeln!(out, "{}{owner}", line('+', &row.after).trim_end())?;
        }
    }
    let shown = plan.rows.len() as u64;
    if shown < plan.total {
        writeln!(out, "… and {} more", plan.total - shown)?;
    }
    match plan.total {
        0 => writeln!(out, "no changes")?,
        1 => writeln!(out, "1 change")?,
        total => writeln!(out, "{total} changes")?,
    }
    Ok(())
}
