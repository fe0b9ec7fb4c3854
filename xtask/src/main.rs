//! Every developer task of Backtrail: `cargo xtask TASK`.

mod apt;
mod bench;
mod cache;
mod cargo;
mod crds;
mod demo;
mod deploy;
mod docs;
mod ebpf;
mod fuzz;
mod golang;
mod groups;
mod image;
mod kube;
mod program;
mod test;
mod tools;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Every developer task of Backtrail")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show the four problems without Backtrail and with it, in a lab with real FRR and real traffic
    Demo(demo::DemoArgs),
    /// Install what tests need, then run all tests, or some groups of them
    Test(test::TestArgs),
    /// Build the tc programs, or check that the committed object is the source's
    Ebpf(ebpf::EbpfArgs),
    /// Feed the decoders of foreign bytes with mutated input, and report what breaks them
    Fuzz(fuzz::FuzzArgs),
    /// Write the CRDs of agent/src/api into deploy/crds
    Crds(crds::CrdsArgs),
    /// Write deploy/backtrail.yaml from the kustomize base
    Deploy(deploy::DeployArgs),
    /// Build the agent as a container image
    Image(image::ImageArgs),
    /// Run the tests on other kernels, in virtual machines
    Vm(vm::VmArgs),
    /// The first process of such a machine
    #[command(hide = true)]
    VmGuest,
    /// Obtain kube-apiserver, etcd, kubectl and Helm for the tests of the group `kube`, and print where they are
    KubeAssets,
    /// Run a benchmark with its baselines: `fpm`, `routes`, `failover`, `restart`, `memory`, `steering`, `kube`
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Crds(args) => crds::run(&args),
        Task::Deploy(args) => deploy::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::KubeAssets => kube::run(),
        Task::VmGuest => vm::guest::run(),
        Task::Bench(args) => match bench::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
