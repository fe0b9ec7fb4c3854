//! `backtrail validate`: manifests checked without a node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::output::{self, Format, Table};
use super::{Global, Outcome};
use crate::intent::types::{Conflict, ObjectRef};
use crate::intent::{LoadError, Loaded, build, label_sets, load};
use crate::status::reason;

/// Errors that are spelled out on standard error.
const MAX_ERRORS: usize = 100;

/// Options of `backtrail validate`.
#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// File, or folder with *.yaml, *.yml and *.json files
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Look for conflicts on a node with these labels [default: on every node that selectors tell apart]
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: write KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The answer in a form for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    valid: bool,
    objects: Vec<ObjectRow>,
    errors: Vec<ErrorRow>,
    conflicts: Vec<Conflict>,
    warnings: Vec<Warning>,
    skipped: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRow {
    kind: String,
    name: String,
    file: PathBuf,
    document: usize,
    line: usize,
    state: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorRow {
    file: PathBuf,
    document: usize,
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    message: String,
}

/// Something that is valid, and that this version leaves out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning {
    kind: String,
    name: String,
    reason: String,
    message: String,
}

impl From<&LoadError> for ErrorRow {
    fn from(error: &LoadError) -> Self {
        Self {
            file: error.source_file.file.clone(),
            document: error.source_file.document,
            line: error.source_file.line,
            kind: error.object.as_ref().map(|o| o.kind.clone()),
            name: error.object.as_ref().map(|o| o.name.clone()),
            field: error.field.clone(),
            message: error.message.clone(),
        }
    }
}

/// Checks and reports. Errors and conflicts make it fail; each error is named on standard error too.
pub(super) fn validate(global: &Global, args: &ValidateArgs, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut loaded = load(&args.path)?;
    let labels = if args.node_labels.is_empty() {
        label_sets(&loaded)
    } else {
        vec![args.node_labels.iter().cloned().collect()]
    };
    let findings = examine(&mut loaded, &labels);
    match global.output {
        Format::Table => print(&findings, out)?,
        format => output::value(format, out, &findings)?,
    }
    if findings.valid {
        return Ok(Outcome::Ok);
    }
    out.flush()?;
    bail!(complaint(&args.path, &loaded.errors, &findings.conflicts))
}

/// Merges for every set of labels. What only merging finds wrong with one object joins the errors of loading.
fn examine(loaded: &mut Loaded, labels: &[BTreeMap<String, String>]) -> Findings {
    let mut conflicts = Vec::new();
    let mut refused = BTreeSet::new();
    for labels in labels {
        let intent = build(loaded, labels, None);
        conflicts.extend(intent.conflicts);
        let read = intent
            .objects
            .into_iter()
            .filter(|o| loaded.manifests.iter().any(|m| m.object.object_ref() == o.object));
        // Losing against another object is in the conflicts, being invalid in the errors of loading.
        let own = read.filter(|o| {
            [reason::UNSUPPORTED, reason::TABLE_OUTSIDE_OWNERSHIP, reason::BAND_FULL]
                .contains(&o.reason.as_str())
        });
        refused.extend(own.map(|o| (o.object, o.reason, o.message)));
    }
    conflicts.sort_by(|a, b| {
        (&a.object, &a.item, &a.reason, &a.message).cmp(&(&b.object, &b.item, &b.reason, &b.message))
    });
    conflicts.dedup();
    let (warnings, wrong): (Vec<_>, Vec<_>) =
        refused.into_iter().partition(|(_, reason, _)| reason == reason::UNSUPPORTED);
    for (object, _, message) in wrong {
        let Some(manifest) = loaded.manifests.iter().find(|m| m.object.object_ref() == object) else {
            continue;
        };
        let (field, message) = message.split_once(": ").unwrap_or(("spec", &message));
        loaded.errors.push(LoadError {
            source_file: manifest.source.clone(),
            field: Some(field.to_owned()),
            message: message.to_owned(),
            object: Some(object),
        });
    }
    let warning = |(object, reason, message): (ObjectRef, String, String)| Warning {
        kind: object.kind,
        name: object.name,
        reason,
        message,
    };
    Findings {
        valid: loaded.errors.is_empty() && conflicts.is_empty(),
        objects: rows(loaded, &conflicts),
        errors: loaded.errors.iter().map(ErrorRow::from).collect(),
        conflicts,
        warnings: warnings.into_iter().map(warning).collect(),
        skipped: loaded.skipped.iter().map(|(source, what)| format!("{source}: {what}")).collect(),
    }
}

/// Every object that could be told, with its state.
fn rows(loaded: &Loaded, conflicts: &[Conflict]) -> Vec<ObjectRow> {
    let good = loaded.manifests.iter().map(|m| (m.object.object_ref(), &m.source));
    let bad = loaded.errors.iter().filter_map(|e| Some((e.object.clone()?, &e.source_file)));
    let mut rows: BTreeMap<_, _> = good.chain(bad).map(|(object, source)| ((source, object), ())).collect();
    let mut list = Vec::new();
    while let Some(((source, object), ())) = rows.pop_first() {
        let invalid =
            loaded.errors.iter().any(|e| e.source_file == *source && e.object.as_ref() == Some(&object));
        let state = match (invalid, conflicts.iter().any(|c| c.object == object)) {
            (true, _) => "Invalid",
            (false, true) => "Conflicted",
            (false, false) => "Valid",
        };
        list.push(ObjectRow {
            kind: object.kind,
            name: object.name,
            file: source.file.clone(),
            document: source.document,
            line: source.line,
            state,
        });
    }
    list
}

fn print(findings: &Findings, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut table = Table::new(&["OBJECT", "STATE", "FILE"]);
    for row in &findings.objects {
        let place = format!("{}:{}", row.file.display(), row.line);
        table.row([format!("{}/{}", row.kind, row.name), row.state.to_owned(), place]);
    }
    table.write(out, "")?;
    for warning in &findings.warnings {
        writeln!(out, "warning: {}/{}: {}", warning.kind, warning.name, warning.message)?;
    }
    for skipped in &findings.skipped {
        writeln!(out, "skipped: {skipped}: not an object of Backtrail")?;
    }
    if findings.objects.is_empty() && findings.errors.is_empty() {
        writeln!(out, "no objects found: all defaults apply")?;
    }
    Ok(())
}

fn complaint(path: &std::path::Path, errors: &[LoadError], conflicts: &[Conflict]) -> String {
    let mut text = format!("{}: errors: {}, conflicts: {}", path.display(), errors.len(), conflicts.len());
    for error in errors.iter().take(MAX_ERRORS) {
        let _ = write!(text, "\nerror: {error}");
    }
    for conflict in conflicts.iter().take(MAX_ERRORS) {
        let Conflict { object, item, reason, winner, message } = conflict;
        let _ = write!(text, "\nconflict: {object}: {item}: {reason} with {winner}: {message}");
    }
    text
}
