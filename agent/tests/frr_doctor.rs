//! `backtrail doctor` beside real FRR, as it is before and after its advice is followed.

use std::path::Path;
use std::time::Duration;

use backtrail_lab::{Agent, AgentOptions, Frr, FrrInstall, FrrOptions, Lab, wait_until};
use serde_json::Value;

const IMPORT: &str = "
apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {name: doctor}
spec:
  from: {table: 254}
  into: {table: Main}
  action: Observe
  allowed: {mode: All}
";

/// Severity of each check, and the whole answer for the message of a failure.
fn examine(agent: &Agent) -> (impl Fn(&str) -> String + use<>, String) {
    let bpffs = agent.bpffs().to_str().expect("a plain path");
    let findings = agent.json(&["doctor", "--bpffs", bpffs]).expect("doctor answers");
    let text = serde_json::to_string_pretty(&findings).expect("JSON");
    let severity = move |check: &str| {
        let all = findings.as_array().map_or(&[][..], Vec::as_slice);
        let found = all.iter().find(|finding| finding["check"] == check);
        found.and_then(|finding| finding["severity"].as_str()).unwrap_or("absent").to_owned()
    };
    (severity, text)
}

/// Waits until the condition `FRRPrepared` has this reason.
fn wait_prepared(agent: &mut Agent, reason: &str) {
    // An agent looks once a minute by itself, and when it reads its manifests.
    agent.reload().expect("it runs");
    let mut found = Value::Null;
    let waited = wait_until(Duration::from_secs(90), reason, || {
        let status = agent.json(&["status"]).expect("it answers");
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        found = conditions.into_iter().find(|it| it["type"] == "FRRPrepared").unwrap_or_default();
        found["reason"] == reason
    });
    assert!(waited.is_ok(), "{reason}: {found}");
}

#[test]
#[ignore = "needs root, network namespaces and FRR: cargo xtask test frr"]
fn advice_that_is_followed_helps() {
    let lab = Lab::new("doctor").unwrap();
    let node = lab.namespace("node").unwrap();
    let install = FrrInstall::host().unwrap();
    let options = AgentOptions { manifests: IMPORT.to_owned(), ..AgentOptions::default() };
    let binary = Path::new(env!("CARGO_BIN_EXE_backtrail"));
    let mut agent = Agent::start(&lab, &node, binary, options).unwrap();

    let (severity, text) = examine(&agent);
    assert_eq!(
        (severity("frr-zebra").as_str(), severity("fpm-session").as_str()),
        ("error", "error"),
        "{text}"
    );
    wait_prepared(&mut agent, "FRRNotRunning");

    let without = Frr::start(&lab, &node, &install, FrrOptions::default()).unwrap();
    let (severity, text) = examine(&agent);
    assert_eq!((severity("frr-zebra").as_str(), severity("frr-module").as_str()), ("ok", "error"), "{text}");
    // The agent itself lacks the capability to see a process of another user's: zebra's sockets tell that it is there.
    wait_prepared(&mut agent, "ModuleOrAddressMissing");
    drop(without);

    let _frr = Frr::start(&lab, &node, &install, FrrOptions { fpm: true, ..FrrOptions::default() }).unwrap();
    wait_until(Duration::from_secs(30), "doctor sees the session", || {
        let status: Value = agent.json(&["status"]).unwrap();
        status["fpm"]["state"] == "Connected"
    })
    .unwrap();
    wait_prepared(&mut agent, "Prepared");
    let (severity, text) = examine(&agent);
    for check in
        ["frr-zebra", "frr-module", "fpm-session", "bpffs", "capabilities", "rule-band", "table-range"]
    {
        assert_eq!(severity(check), "ok", "{check}: {text}");
    }
    assert_eq!(severity("frr-routing-table"), "note", "{text}");
    assert!(text.contains(&format!("zebra {} ", install.version())), "the version is told: {text}");
}
