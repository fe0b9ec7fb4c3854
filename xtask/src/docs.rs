//! Commands in the documentation are run: what is written works.
//!
//! A fenced block whose info string is `sh test` is run as it is, in the root of the repository with the built
//! `backtrail` in `PATH`; in one marked `sh dry-run` every line gets ` --dry-run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cargo;
use crate::test::Tally;

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Line of its fence, from 1.
    line: usize,
    script: String,
}

/// Runs every marked block of `README.md` and `docs/*.md`.
pub(crate) fn run() -> Result<Tally> {
    cargo::build(&["--quiet", "--workspace"])?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(cargo::target_dir()?.join("debug")).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders)?;
    let mut tally = Tally::default();
    for file in files()? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for block in blocks(&text) {
            let name = format!("{}:{}", file.strip_prefix(cargo::root())?.display(), block.line);
            println!("{name}");
            let mut command = Command::new("sh");
            command.args(["-euc", &block.script]).env("PATH", &path).current_dir(cargo::root());
            tally += Tally::check(&name, passes(&mut command));
        }
    }
    Ok(tally)
}

fn passes(command: &mut Command) -> Result<()> {
    let out = command.output().context("cannot start sh")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(out.status.success(), "{}: {}{}", out.status, text(&out.stderr), text(&out.stdout));
    Ok(())
}

fn files() -> Result<Vec<PathBuf>> {
    let mut files = vec![cargo::root().join("README.md")];
    let docs = cargo::root().join("docs");
    if docs.is_dir() {
        for entry in fs::read_dir(&docs).with_context(|| format!("cannot read {}", docs.display()))? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md") && Path::is_file(file));
    files.sort();
    Ok(files)
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, fence)) = lines.next() {
        let Some(info) = fence.trim_start().strip_prefix("```") else { continue };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
        let script = match info.trim() {
            "sh test" => body.join("\n"),
            "sh dry-run" => {
                let commands =
                    body.iter().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#'));
                commands.map(|line| format!("{line} --dry-run\n")).collect()
            }
            _ => continue,
        };
        found.push(Block { line: number + 1, script });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_blocks_are_run() {
        let text = "# T\n```sh\nrm -rf /\n```\n```sh test\necho a\necho b\n```\n\n```sh dry-run\n# why\ncargo xtask demo\n```\n";
        let block = |line, script: &str| Block { line, script: script.to_owned() };
        assert_eq!(blocks(text), [block(5, "echo a\necho b"), block(10, "cargo xtask demo --dry-run\n")]);
    }
}
