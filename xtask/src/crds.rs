//! The CRDs in `deploy/crds`, which agent/src/api describes.

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{cargo, deploy};

#[derive(Debug, Args)]
pub(crate) struct CrdsArgs {
    /// Write nothing: fail if deploy/crds is not current
    #[arg(long)]
    pub(crate) check: bool,
}

/// Writes or checks them.
pub(crate) fn run(args: &CrdsArgs) -> Result<bool> {
    let mut command = cargo::command();
    command.args(["run", "--quiet", "-p", "backtrail", "--example", "crds", "--", "deploy/crds"]);
    command.args(args.check.then_some("--check"));
    let done = command.status().context("cannot start cargo")?.success();
    // The all-in-one manifest holds them, too.
    Ok(done && (args.check || deploy::run(&deploy::DeployArgs { check: false })?))
}
