//! What was measured, and whether it is good enough.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine::Machine;
use crate::svg::{self, Point};

/// Which side of a bar is good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) enum Bound {
    AtLeast(f64),
    Above(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::Above(bound) => value > bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">={bound:.2}"),
            Self::Above(bound) => write!(f, ">{bound:.2}"),
            Self::AtMost(bound) => write!(f, "<={bound:.2}"),
            Self::Below(bound) => write!(f, "<{bound:.2}"),
        }
    }
}

/// A value that has to be reached.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) bound: Bound,
    /// `x` for ratios.
    pub(crate) unit: &'static str,
    pub(crate) meaning: &'static str,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}: {}", self.name, self.bound, self.unit, self.meaning)
    }
}

/// One quantity, measured once a round.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Series {
    pub(crate) unit: &'static str,
    pub(crate) rounds: Vec<f64>,
}

impl Series {
    /// The middle value, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }

    fn spread(&self) -> (f64, f64) {
        let low = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        (low, self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }
}

#[derive(Debug, Serialize)]
struct Verdict {
    bar: Bar,
    /// Median of the rounds.
    value: f64,
    lowest: f64,
    highest: f64,
    ok: bool,
}

/// A run of one benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    started_unix_seconds: u64,
    machine: Machine,
    settings: BTreeMap<&'static str, String>,
    series: BTreeMap<String, Series>,
    /// Names of the series in the order of their first value.
    order: Vec<String>,
    bars: Vec<Verdict>,
    #[serde(skip)]
    expected: &'static [Bar],
}

impl Report {
    pub(crate) fn new(benchmark: &'static str, expected: &'static [Bar]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let machine = Machine::here();
        println!("machine: {}", machine.line());
        Self {
            benchmark,
            started_unix_seconds: now.as_secs(),
            machine,
            settings: BTreeMap::new(),
            series: BTreeMap::new(),
            order: Vec::new(),
            bars: Vec::new(),
            expected,
        }
    }

    pub(crate) fn setting(&mut self, name: &'static str, value: u32) {
        self.settings.insert(name, value.to_string());
    }

    /// Adds this round's value of a quantity.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        let name = name.into();
        if !self.series.contains_key(&name) {
            self.order.push(name.clone());
        }
        let series = self.series.entry(name).or_default();
        series.unit = unit;
        series.rounds.push(value);
    }

    /// Adds this round's value of a quantity that has a bar of the same name.
    pub(crate) fn add_bar(&mut self, name: &'static str, value: f64) {
        let unit = self.expected.iter().find(|bar| bar.name == name).map_or("", |bar| bar.unit);
        self.add(name, unit, value);
    }

    /// Prints everything, writes the file; false when a bar is not reached, or was not measured.
    pub(crate) fn finish(mut self, folder: &Path) -> Result<bool> {
        println!("\nmedian (lowest to highest) of the rounds:");
        for name in &self.order {
            if let Some(series) = self.series.get(name)
                && let Some(median) = series.median()
            {
                let (low, high) = series.spread();
                let digits = digits(median);
                let unit = series.unit;
                println!("  {name:<44} {median:.digits$} {unit} ({low:.digits$} to {high:.digits$})");
            }
        }
        println!();
        let mut all = true;
        for bar in self.expected {
            all &= self.judge(*bar);
        }
        let path = folder.join(format!("{}-{}.json", self.benchmark, self.started_unix_seconds));
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, serde_json::to_string_pretty(&self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
        let path = path.with_extension("svg");
        fs::write(&path, self.plot()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
        Ok(all)
    }

    /// All series, those of a unit together.
    fn plot(&self) -> String {
        let mut panels: Vec<(&str, Vec<Point<'_>>)> = Vec::new();
        for (name, series) in self.order.iter().filter_map(|name| Some((name, self.series.get(name)?))) {
            let Some(median) = series.median() else { continue };
            let (lowest, highest) = series.spread();
            let point = Point { name, median, lowest, highest };
            match panels.iter_mut().find(|(unit, _)| *unit == series.unit) {
                Some((_, points)) => points.push(point),
                None => panels.push((series.unit, vec![point])),
            }
        }
        svg::plot(&format!("{}: {}", self.benchmark, self.machine.line()), &panels)
    }

    fn judge(&mut self, bar: Bar) -> bool {
        let Some((value, (lowest, highest))) =
            self.series.get(bar.name).and_then(|series| Some((series.median()?, series.spread())))
        else {
            println!("BAR {} not-measured {}{} short", bar.name, bar.bound, bar.unit);
            return false;
        };
        let ok = bar.bound.holds(value);
        let word = if ok { "ok" } else { "short" };
        println!("BAR {} {value:.2}{} {}{} {word}", bar.name, bar.unit, bar.bound, bar.unit);
        self.bars.push(Verdict { bar, value, lowest, highest, ok });
        ok
    }
}

/// Four figures at most: no more is known.
fn digits(value: f64) -> usize {
    match value.abs() {
        0.0..10.0 => 3,
        10.0..100.0 => 2,
        100.0..1000.0 => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let of = |rounds: &[f64]| Series { unit: "s", rounds: rounds.to_vec() }.median();
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_bar_without_a_value_is_short() {
        static BARS: [Bar; 1] =
            [Bar { name: "speed", bound: Bound::AtLeast(0.9), unit: "x", meaning: "how fast" }];
        let mut report = Report::new("test", &BARS);
        assert!(!report.judge(BARS[0]));
        report.add_bar("speed", 0.95);
        report.add_bar("speed", 0.89);
        report.add_bar("speed", 0.91);
        assert!(report.judge(BARS[0]));
    }
}
