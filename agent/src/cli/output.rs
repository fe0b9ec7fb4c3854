//! Forms of output: aligned tables for people, JSON and YAML for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// Form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns, units, bounded.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints one value in a form for programs.
///
/// # Errors
/// When `out` cannot be written to.
pub(super) fn value(format: Format, out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    if format == Format::Yaml {
        out.write_all(serde_saphyr::to_string(value)?.as_bytes())?;
    } else {
        writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    }
    Ok(())
}

/// A list in a form for programs that is printed while it arrives: JSON with one element a line, or YAML.
pub(super) struct List<'a> {
    format: Format,
    out: &'a mut dyn Write,
    empty: bool,
}

impl<'a> List<'a> {
    pub(super) fn new(format: Format, out: &'a mut dyn Write) -> Self {
        Self { format, out, empty: true }
    }

    pub(super) fn extend(&mut self, rows: &[impl Serialize]) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.format == Format::Yaml {
            self.out.write_all(serde_saphyr::to_string(&rows)?.as_bytes())?;
            self.empty = false;
            return Ok(());
        }
        for row in rows {
            let before = if self.empty { "[" } else { ",\n " };
            write!(self.out, "{before}{}", serde_json::to_string(row)?)?;
            self.empty = false;
        }
        Ok(())
    }

    pub(super) fn end(self) -> io::Result<()> {
        match (self.format, self.empty) {
            (Format::Yaml, false) => Ok(()),
            (_, true) => writeln!(self.out, "[]"),
            (_, false) => writeln!(self.out, "]"),
        }
    }
}

/// Columns for people: as wide as their widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(ToString::to_string).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn write(&self, out: &mut dyn Write, indent: &str) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let line =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>();
            writeln!(out, "{indent}{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// A cell for what may not be there.
pub(super) fn or_dash(value: Option<&str>) -> String {
    value.filter(|value| !value.is_empty()).unwrap_or("-").to_owned()
}

/// A duration in at most two units: `45s`, `3m10s`, `2h05m`, `4d03h`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}
