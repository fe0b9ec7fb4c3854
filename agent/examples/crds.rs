//! Writes the CRDs into a folder, or checks that the folder holds them: `crds [--check] DIR`.
//!
//! An example and not a part of `xtask`, so that other tasks need not build the agent.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<()> {
    let (flags, folders): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument == "--check");
    let [folder] = folders.as_slice() else { bail!("usage: crds [--check] DIR") };
    let folder = PathBuf::from(folder);
    for (name, text) in backtrail::api::crd_yaml()? {
        let file = folder.join(name);
        if flags.is_empty() {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        } else if std::fs::read_to_string(&file).ok().as_deref() != Some(&text) {
            bail!("{} is not what agent/src/api says: run `cargo xtask crds`", file.display());
        }
    }
    Ok(())
}
