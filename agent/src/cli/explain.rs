//! `backtrail explain`: the way of a packet, for people.

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;

use super::output::{self, Format, Table, or_dash};
use super::query::route_cells;
use super::{Global, Outcome};
use crate::control::{Client, Request, Response};
use crate::explain::{Direction, Explanation, IifFrom, KernelAnswer, Step, Target, Way};

/// Options of `backtrail explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// An address, a prefix, or a flow: `tcp 203.0.113.9:40000 198.51.100.10:443`, IPv6 addresses in brackets
    #[arg(value_name = "TARGET", required = true, num_args = 1..=3)]
    target: Vec<String>,
    /// The interface that the flow's first packet comes in by [default: what the flow table knows, else the route back]
    #[arg(long, value_name = "INTERFACE")]
    iif: Option<String>,
}

/// `backtrail explain`
pub(super) fn explain(global: &Global, args: &ExplainArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let target: Target = args.target.join(" ").parse()?;
    if args.iif.is_some() && !matches!(target, Target::Flow(_)) {
        bail!("--iif needs a flow: rules look at the source too");
    }
    let request = Request::Explain { target, iif: args.iif.clone() };
    let Response::Explanation(explanation) = Client::connect(&global.run_dir)?.call(&request)? else {
        bail!("the agent answered another question: are agent and command of the same version?");
    };
    if global.output == Format::Table {
        print(&explanation, out)?;
    } else {
        output::value(global.output, out, &explanation)?;
    }
    Ok(if explanation.consistent { Outcome::Ok } else { Outcome::Differs })
}

fn print(explanation: &Explanation, out: &mut dyn Write) -> io::Result<()> {
    for direction in &explanation.directions {
        print_direction(direction, out)?;
    }
    if explanation.routes.is_empty() {
        return writeln!(out, "Backtrail neither learned nor programmed a route that covers it");
    }
    writeln!(out, "Routes that Backtrail learned or programmed")?;
    let mut table =
        Table::new(&["TABLE", "VRF", "PREFIX", "METRIC", "STATE", "REASON", "NEXTHOPS", "OWNER", "BECAUSE"]);
    for fact in &explanation.routes {
        let mut cells = route_cells(&fact.route);
        cells.push(or_dash(fact.because.as_deref()));
        table.row(cells);
    }
    table.write(out, "  ")
}

fn print_direction(direction: &Direction, out: &mut dyn Write) -> io::Result<()> {
    let way = if direction.direction == Way::Forward { "Forward" } else { "Reply" };
    let source = direction.source.as_deref().unwrap_or("this node");
    let arrival = match (&direction.iif, direction.iif_from) {
        (Some(iif), Some(IifFrom::Assumed)) => format!(", in by {iif} (assumed: the route back leads there)"),
        (Some(iif), Some(IifFrom::FlowTable)) => format!(", in by {iif} (from the flow table)"),
        (Some(iif), _) => format!(", in by {iif}"),
        (None, _) => String::new(),
    };
    writeln!(out, "{way}: {source} to {}{arrival}", direction.destination)?;
    let mut table = Table::new(&["STEP", "OBJECT", "OUTCOME", "BECAUSE OF"]);
    for step in &direction.steps {
        table.row([step.kind.to_string(), step.object.clone(), step.outcome.clone(), because(step)]);
    }
    table.write(out, "  ")?;
    writeln!(out, "  verdict: {}", direction.verdict)?;
    writeln!(out, "  kernel:  {}", answer(&direction.kernel))?;
    if let Some(mismatch) = &direction.mismatch {
        writeln!(out, "  MISMATCH: {mismatch}")?;
    }
    writeln!(out)
}

fn because(step: &Step) -> String {
    let foreign = step.foreign.as_ref().map(|protocol| format!("foreign: {protocol}"));
    or_dash(step.owner.as_ref().or(foreign.as_ref()).map(String::as_str))
}

fn answer(kernel: &KernelAnswer) -> String {
    let mut words = Vec::new();
    words.extend(kernel.error.clone());
    words.extend(kernel.local.then(|| "local".to_owned()));
    words.extend(kernel.via.map(|via| format!("via {via}")));
    words.extend(kernel.dev.as_ref().map(|dev| format!("dev {dev}")));
    words.extend(kernel.table.map(|table| format!("table {table}")));
    words.extend(kernel.source.map(|source| format!("src {source}")));
    words.extend(kernel.route.as_ref().map(|route| format!("by route {route}")));
    words.join(" ")
}
