//! The documentation tells the truth: its manifests are valid, its links lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use backtrail::intent;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    docs.chain([root().join("README.md"), root().join("ARCHITECTURE.md")])
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("text")))
        .collect()
}

/// Contents of the fenced blocks in a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn manifests_in_the_documentation_are_valid() {
    let mut seen = 0;
    for (path, text) in pages() {
        for manifest in blocks(&text, "yaml") {
            let loaded = intent::load_text(&path, manifest);
            assert!(loaded.errors.is_empty(), "{}: {:?}\n{manifest}", path.display(), loaded.errors);
            let intent = intent::build(&loaded, &std::collections::BTreeMap::new(), None);
            assert_eq!(intent.conflicts, [], "{}:\n{manifest}", path.display());
            seen += loaded.manifests.len();
        }
    }
    assert!(seen >= 10, "only {seen} manifests found");
}

/// The anchor that renderers make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    for (path, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !section.is_empty() {
                let text = fs::read_to_string(&target).expect("text");
                let mut headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                let found = headings.any(|heading| anchor(heading.trim_start_matches('#').trim()) == section);
                assert!(found, "{}: {link}", path.display());
            }
        }
    }
}
