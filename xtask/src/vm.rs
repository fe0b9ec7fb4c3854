//! `cargo xtask vm`: the tests on other kernels, in virtual machines that are emulated (QEMU's TCG), without KVM or root.

mod boot;
mod cpio;
mod frr;
pub(crate) mod guest;
mod image;
mod kernel;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use backtrail_lab::root_of;
use clap::{Args, ValueEnum as _};

use self::kernel::{Files, Kernel};
use crate::cargo::TestBinary;
use crate::test::Tally;
use crate::{cargo, tools};

/// Options of `cargo xtask vm`.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// Kernel to run the tests on
    #[arg(long, value_enum, default_value = "6.1", conflicts_with = "all")]
    kernel: Kernel,
    /// All kernels, one after the other
    #[arg(long)]
    all: bool,
    /// Test programs, by the start of their names; all without any
    tests: Vec<String>,
    /// Arguments of the test programs: parts of the names of the tests to run
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A test program in a guest.
#[derive(Debug)]
struct Job {
    test: TestBinary,
    /// Parts of the names of the tests to run; all without any.
    filters: Vec<String>,
}

/// What depends on the kernel, and how little of it tells: the verifier takes seconds for each test that loads programs.
const BRIEF: &[(&str, &[&str])] = &[
    ("vm_devices", &[]),
    ("vm_vrf", &[]),
    ("vm_bgp", &[]),
    ("netns_kernel", &[]),
    ("netns_cleanup", &[]),
    ("netns_bpf_programs", &["programs_stay", "learn::openers", "sink::", "steer::a_gateway"]),
    ("netns_steering", &["traffic::replies_leave_by", "life::cleanup_leaves"]),
    ("vm_places", &["vlan_of_a_bond", "one_tuple", "interfaces_that_move", "a_qdisc_that"]),
];

/// Runs the tests on the chosen kernels; the last line is `N passed, N failed, N skipped`.
pub(crate) fn run(args: &VmArgs) -> Result<bool> {
    let kernels = if args.all { Kernel::value_variants() } else { std::slice::from_ref(&args.kernel) };
    let wanted = |name: &str| args.tests.is_empty() || args.tests.iter().any(|start| name.starts_with(start));
    let tally =
        matrix(kernels, &|test| wanted(&test.name).then(|| Job { test, filters: args.arguments.clone() }))?;
    for skip in &tally.skips {
        println!("skipped  {skip}");
    }
    for failure in &tally.failures {
        println!("FAILED   {failure}");
    }
    println!("{tally}");
    Ok(tally.failed == 0 && tally.passed > 0)
}

/// The group `vm`: what depends on the kernel, on the oldest one.
pub(crate) fn group() -> Result<Tally> {
    matrix(&[Kernel::Bookworm], &|test| {
        let (_, filters) = BRIEF.iter().find(|(name, _)| *name == test.name)?;
        Some(Job { test, filters: filters.iter().map(|&filter| filter.to_owned()).collect() })
    })
}

fn matrix(kernels: &[Kernel], choose: &dyn Fn(TestBinary) -> Option<Job>) -> Result<Tally> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(Tally::skip("vm", "its kernels are for x86-64"));
    }
    // The guest has the programs of the host.
    let needed = [tools::LAB, tools::TESTS, tools::VM].concat();
    if let Err(error) = tools::install(&needed) {
        return Ok(Tally::skip("vm", &format!("{error:#}")));
    }
    let tests = cargo::test_binaries(&["vm_", "netns_"])?;
    let jobs: Vec<Job> = tests.into_iter().filter_map(choose).collect();
    ensure!(!jobs.is_empty(), "no test program has such a name");
    let agent = cargo::target_dir()?.join("debug/backtrail");
    let mut total = Tally::default();
    for kernel in kernels {
        // A release that cannot be had is no fault of ours; one that was obtained and does not work may be.
        let name = format!("Linux {}", kernel.label());
        total += match kernel.obtain() {
            Err(error) => Tally::skip(&name, &format!("{error:#}")),
            Ok(folder) => machine(&name, &folder, frr(*kernel).as_deref(), &jobs, &agent)
                .unwrap_or_else(|error| Tally::check(&name, Err(error))),
        };
    }
    Ok(total)
}

/// The root folder with the FRR of a kernel's release; without it the tests that need it are skipped.
fn frr(kernel: Kernel) -> Option<PathBuf> {
    let found = match kernel.suite_of_frr() {
        Some(suite) => root_of(suite),
        None => Ok(PathBuf::from("/")),
    };
    found.inspect_err(|error| println!("the guest has no FRR: {error:#}")).ok()
}

fn machine(name: &str, kernel: &Path, frr: Option<&Path>, jobs: &[Job], agent: &Path) -> Result<Tally> {
    let files = Files::of(kernel)?;
    println!("\n--- {name}: {} ---", files.release);
    let image = image::build(&files, frr, jobs, agent)?;
    println!("RAM disk of {} MiB", image.len() >> 20);
    boot::run(name, &files, &image, jobs)
}
