//! What `deploy/` says of the agent is true of it: metrics of alerts and dashboard, sections of the documentation,
//! capabilities.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use backtrail::metrics::listed;
use backtrail::status::reason::condition;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

fn rules() -> Result<Vec<Value>> {
    let text = read("deploy/kustomize/overlays/monitoring/rules.yaml")?;
    let document: Value = serde_saphyr::from_str(&text)?;
    let rules = document.pointer("/spec/groups/0/rules").and_then(Value::as_array);
    Ok(rules.context("no rules")?.clone())
}

/// Every expression of alerts and dashboard.
fn expressions() -> Result<Vec<String>> {
    let of = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut all: Vec<String> = rules()?.iter().filter_map(|rule| of(rule, "expr")).collect();
    let dashboard: Value =
        serde_json::from_str(&read("deploy/kustomize/overlays/monitoring/backtrail.json")?)?;
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    for panel in list(&dashboard, "panels") {
        all.extend(list(&panel, "targets").iter().filter_map(|target| of(target, "expr")));
    }
    let variables = dashboard.get("templating").map(|it| list(it, "list")).unwrap_or_default();
    all.extend(variables.iter().filter_map(|variable| of(variable, "query")));
    ensure!(all.len() > 30, "{} expressions", all.len());
    Ok(all)
}

/// Names as they are scraped.
fn scraped() -> BTreeSet<String> {
    let suffixes = |kind: &str| match kind {
        "counter" => &["_total"][..],
        "histogram" => &["_bucket", "_count", "_sum"],
        _ => &[""],
    };
    let names = listed().into_iter().flat_map(|metric| {
        suffixes(metric.1.as_str()).iter().map(move |suffix| format!("backtrail_{}{suffix}", metric.0))
    });
    names.collect()
}

#[test]
fn alerts_and_dashboard_use_metrics_that_exist() -> Result<()> {
    let exist = scraped();
    for expression in expressions()? {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let unknown: Vec<&str> =
            words.filter(|word| word.starts_with("backtrail_") && !exist.contains(*word)).collect();
        ensure!(unknown.is_empty(), "{expression}: no metric {unknown:?}");
        let named = expression.split("condition=").skip(1).filter_map(|rest| rest.split('"').nth(1));
        let named =
            named.chain(expression.split("condition=~").skip(1).filter_map(|rest| rest.split('"').nth(1)));
        for name in named.flat_map(|names| names.split('|')) {
            ensure!(condition::ALL.contains(&name), "{expression}: no condition {name:?}");
        }
    }
    Ok(())
}

/// Anchors of a page, as they are made of its headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn alerts_lead_to_sections_that_exist() -> Result<()> {
    for rule in rules()? {
        let runbook = rule.pointer("/annotations/runbook").and_then(Value::as_str).context("no runbook")?;
        let (page, section) = runbook.split_once('#').unwrap_or((runbook, ""));
        let page = read(page)?;
        ensure!(section.is_empty() || anchors(&page).contains(section), "{runbook}: {:?}", anchors(&page));
    }
    Ok(())
}

#[test]
fn tests_run_with_the_capabilities_that_are_shipped() -> Result<()> {
    let daemonset: Value = serde_saphyr::from_str(&read("deploy/kustomize/base/daemonset.yaml")?)?;
    let security = daemonset
        .pointer("/spec/template/spec/containers/0/securityContext")
        .context("no securityContext")?;
    let added = security.pointer("/capabilities/add").and_then(Value::as_array).context("no capabilities")?;
    let added: Vec<String> = added.iter().filter_map(Value::as_str).map(str::to_lowercase).collect();
    ensure!(added == backtrail_lab::CAPABILITIES, "{added:?}");
    ensure!(security.pointer("/capabilities/drop") == Some(&serde_json::json!(["ALL"])));
    Ok(())
}

#[test]
fn the_kustomization_has_every_crd() -> Result<()> {
    let kustomization: Value = serde_saphyr::from_str(&read("deploy/crds/Kustomization")?)?;
    let listed = kustomization.get("resources").and_then(Value::as_array).context("no resources")?;
    let listed: BTreeSet<String> = listed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let written: BTreeSet<String> = backtrail::api::crd_yaml()?.into_iter().map(|(name, _)| name).collect();
    ensure!(listed == written, "{listed:?}");
    Ok(())
}
