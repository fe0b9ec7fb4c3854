//! `cargo xtask test`: everything that tests need, then all tests, then one line that counts them.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{groups, kube, tools, vm};

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Groups to run; all without any
    groups: Vec<Group>,
    /// Only say what would be installed and run
    #[arg(long)]
    dry_run: bool,
}

/// A group of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Format, lints, dependencies, unit tests, generated files, commands in the documentation
    Unit,
    /// The BPF object rebuilt from its source and compared
    Ebpf,
    /// Tests in network namespaces, as root
    Netns,
    /// Tests with real FRR, as root
    Frr,
    /// Tests with a real Kubernetes API server
    Kube,
    /// Tests on other kernels, in virtual machines
    Vm,
}

/// What became of some tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Names of what failed.
    pub(crate) failures: Vec<String>,
    /// What the failed ones said, repeated at the end: logs are often kept by their end only.
    pub(crate) reports: Vec<String>,
    /// What was skipped, and why.
    pub(crate) skips: Vec<String>,
}

impl Tally {
    /// One check by its result; a failure is printed at once.
    pub(crate) fn check(name: &str, result: Result<()>) -> Self {
        match result {
            Ok(()) => Self { passed: 1, ..Self::default() },
            Err(error) => {
                let report = format!("FAILED {name}: {error:#}");
                println!("{report}");
                Self { failed: 1, failures: vec![name.to_owned()], reports: vec![report], ..Self::default() }
            }
        }
    }

    /// One check that could not be made.
    pub(crate) fn skip(name: &str, why: &str) -> Self {
        println!("SKIPPED {name}: {why}");
        Self { skipped: 1, skips: vec![format!("{name}: {why}")], ..Self::default() }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures);
        self.reports.extend(other.reports);
        self.skips.extend(other.skips);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs the groups and prints the summary; the last line is `N passed, N failed, N skipped`. Running nothing is a failure.
pub(crate) fn run(args: &TestArgs) -> Result<bool> {
    let groups = if args.groups.is_empty() { Group::value_variants() } else { &args.groups };
    let needed: Vec<tools::Tool> = tools::LAB.iter().chain(tools::TESTS).copied().collect();
    if args.dry_run {
        let vm = if groups.contains(&Group::Vm) { tools::VM } else { &[] };
        let all: Vec<tools::Tool> = needed.iter().chain(vm).copied().collect();
        println!("would install: {}", tools::missing(&all).join(", "));
        println!("would run the groups: {groups:?}");
        return Ok(true);
    }
    if groups.iter().any(|group| matches!(group, Group::Ebpf | Group::Netns | Group::Frr | Group::Kube)) {
        tools::install(&needed)?;
    }
    let mut total = Tally::default();
    let mut summary = Vec::new();
    let mut making: Option<thread::JoinHandle<Result<bool>>> = None;
    for group in groups {
        let name = format!("{group:?}").to_lowercase();
        let began = Instant::now();
        println!("\n=== {name} ===");
        // These wait for the kernel and FRR most of the time: what `kube` needs is made meanwhile, at low priority.
        if matches!(group, Group::Netns | Group::Frr) && groups.contains(&Group::Kube) {
            making.get_or_insert_with(|| thread::spawn(kube::run));
        }
        let mut tally = match group {
            Group::Unit => groups::unit()?,
            Group::Ebpf => groups::ebpf(),
            Group::Netns => groups::privileged("netns_")?,
            Group::Frr => groups::privileged("frr_")?,
            Group::Kube => {
                // Where it failed the group says why.
                making.take().map(thread::JoinHandle::join);
                groups::kube()?
            }
            Group::Vm => vm::group()?,
        };
        if tally.passed + tally.failed + tally.skipped == 0 {
            tally += Tally::check(&name, Err(anyhow::anyhow!("the group has run nothing")));
        }
        summary.push(format!("{name:8} {tally}; {} s", began.elapsed().as_secs()));
        total += tally;
    }
    for report in &total.reports {
        println!("\n{report}");
    }
    println!("\n=== summary ===");
    for line in &summary {
        println!("{line}");
    }
    for skip in &total.skips {
        println!("skipped  {skip}");
    }
    for failure in &total.failures {
        println!("FAILED   {failure}");
    }
    println!("{total}");
    Ok(total.failed == 0 && total.passed > 0)
}

/// Runs a test program or `cargo test`, shows what it prints, and counts. A failure without a failed test counts as one.
pub(crate) fn counted(name: &str, command: &mut Command) -> Result<Tally> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut counter = Counter::default();
    let stdout = child.stdout.take().context("no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.with_context(|| format!("cannot read what {name} prints"))?;
        if counter.line(name, &line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    let mut tally = counter.end(name);
    if !status.success() && tally.failed == 0 {
        tally += Tally::check(name, Err(anyhow::anyhow!("{status}")));
    }
    Ok(tally)
}

/// Starts of lines that people see even of passing tests: what is missing, and numbers.
const SHOWN: &[&str] = &["SKIPPED ", "MEASURED "];

/// Lines that are kept of what the failed tests of one program say.
const REPORT: usize = 400;

/// Where libtest is in what it prints at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Running,
    Successes,
    Failures,
}

/// Reads what libtest prints.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    tally: Tally,
    section: Section,
    skipped_here: u64,
    report: Vec<String>,
}

impl Counter {
    /// Takes one line: a result, a failed test, or `SKIPPED …` of a test that passes because something is missing.
    /// Whether people should see it: what passing tests say is left out.
    pub(crate) fn line(&mut self, name: &str, line: &str) -> bool {
        self.section = match line {
            "successes:" => Section::Successes,
            "failures:" => Section::Failures,
            line if line.starts_with("test result: ") || line.starts_with("running ") => Section::Running,
            _ => self.section,
        };
        if self.section == Section::Failures && self.report.len() < REPORT {
            self.report.push(line.to_owned());
        }
        if let Some(what) = line.strip_prefix("SKIPPED ") {
            self.skipped_here += 1;
            self.tally.skips.push(what.to_owned());
        } else if let Some(test) = failed_test(line) {
            self.tally.failures.push(format!("{name} {test}"));
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let before = counts.split(what).next().unwrap_or_default();
                before
                    .rsplit(' ')
                    .find(|word| !word.is_empty())
                    .and_then(|n| n.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            let skipped = std::mem::take(&mut self.skipped_here);
            self.tally.passed += count(" passed").saturating_sub(skipped);
            self.tally.failed += count(" failed");
            self.tally.skipped += skipped;
        }
        self.section != Section::Successes || SHOWN.iter().any(|start| line.starts_with(start))
    }

    /// What became of all tests, once the program has ended.
    pub(crate) fn end(mut self, name: &str) -> Tally {
        if !self.report.is_empty() {
            self.tally.reports.push(format!("--- {name} ---\n{}", self.report.join("\n")));
        }
        self.tally
    }
}

/// The test's name, in the long form of libtest and in the quiet one.
fn failed_test(line: &str) -> Option<&str> {
    let long = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
    long.or_else(|| line.strip_suffix(" --- FAILED"))
}

#[cfg(test)]
mod tests;
