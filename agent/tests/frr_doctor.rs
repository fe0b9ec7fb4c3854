//! `backtrail doctor` beside real FRR, as it is before and after its advice is followed.

use std::path::Path;
use std::time::Duration;

use backtrail_lab::{
    Agent, AgentOptions, End, Frr, FrrInstall, FrrOptions, Lab, Namespace, Suite, wait_until, with_suite,
};
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

/// An agent looks once a minute by itself.
const LIMIT: Duration = Duration::from_secs(240);

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

/// Waits until the condition `FRRPrepared` has this reason, and its message these words; returns the message.
fn wait_prepared(agent: &mut Agent, reason: &str, words: &str) -> String {
    // It looks when it reads its manifests, too.
    agent.reload().expect("it runs");
    let mut found = Value::Null;
    let waited = wait_until(LIMIT, reason, || {
        let status = agent.json(&["status"]).expect("it answers");
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        found = conditions.into_iter().find(|it| it["type"] == "FRRPrepared").unwrap_or_default();
        found["reason"] == reason && found["message"].as_str().is_some_and(|message| message.contains(words))
    });
    assert!(waited.is_ok(), "{reason}: {found}");
    found["message"].as_str().unwrap_or_default().to_owned()
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
    wait_prepared(&mut agent, "FRRNotRunning", "");

    let without = Frr::start(&lab, &node, &install, FrrOptions::default()).unwrap();
    let (severity, text) = examine(&agent);
    assert_eq!((severity("frr-zebra").as_str(), severity("frr-module").as_str()), ("ok", "error"), "{text}");
    // The agent itself lacks the capability to see a process of another user's: zebra's sockets tell that it is there.
    wait_prepared(&mut agent, "ModuleOrAddressMissing", "");
    drop(without);

    let _frr = Frr::start(&lab, &node, &install, FrrOptions { fpm: true, ..FrrOptions::default() }).unwrap();
    wait_until(Duration::from_secs(30), "doctor sees the session", || {
        let status: Value = agent.json(&["status"]).unwrap();
        status["fpm"]["state"] == "Connected"
    })
    .unwrap();
    wait_prepared(&mut agent, "Prepared", "");
    let (severity, text) = examine(&agent);
    for check in
        ["frr-zebra", "frr-module", "fpm-session", "bpffs", "capabilities", "rule-band", "table-range"]
    {
        assert_eq!(severity(check), "ok", "{check}: {text}");
    }
    assert_eq!(severity("frr-routing-table"), "note", "{text}");
    assert!(text.contains(&format!("zebra {} ", install.version())), "the version is told: {text}");
}

/// A node with an uplink and an agent that may see zebra's process, as one on the host itself.
fn node_that_sees(lab: &Lab, import_from: u32) -> anyhow::Result<([Namespace; 2], Agent)> {
    let (node, router) = (lab.namespace("node")?, lab.namespace("router")?);
    lab.connect(&End::new(&node, "eth0", &["192.0.2.2/24"]), &End::new(&router, "eth0", &["192.0.2.1/24"]))?;
    let options = AgentOptions {
        manifests: IMPORT.replace("254", &import_from.to_string()),
        capabilities: &["sys_ptrace"],
        ..AgentOptions::default()
    };
    let agent = Agent::start(lab, &node, Path::new(env!("CARGO_BIN_EXE_backtrail")), options)?;
    Ok(([node, router], agent))
}

/// A route that zebra announces.
const STATIC: &str = "ip route 203.0.113.0/24 192.0.2.1";

#[test]
#[ignore = "needs root, network namespaces and FRR: cargo xtask test frr"]
fn the_condition_says_which_of_module_address_and_table_is_missing() {
    let lab = Lab::new("lacks").unwrap();
    let ([node, _router], mut agent) = node_that_sees(&lab, 254).unwrap();
    let install = FrrInstall::host().unwrap();
    let start = |options: FrrOptions| Frr::start(&lab, &node, &install, options).unwrap();

    let without = start(FrrOptions::default());
    let said = wait_prepared(&mut agent, "ModuleNotLoaded", "");
    assert!(said.contains("-M dplane_fpm_nl"), "{said}");
    drop(without);

    let module = ["-M", "dplane_fpm_nl"].map(str::to_owned).to_vec();
    let unaddressed = start(FrrOptions { arguments: module, ..FrrOptions::default() });
    let said = wait_prepared(&mut agent, "AddressNotConfigured", "");
    assert!(said.contains("`fpm address 127.0.0.1 port 2620`"), "{said}");
    drop(unaddressed);

    agent.write_manifests(&IMPORT.replace("254", "5000")).unwrap();
    let _frr = start(FrrOptions { fpm: true, staticd: STATIC.into(), ..FrrOptions::default() });
    let said = wait_prepared(&mut agent, "RoutingTableMismatch", "");
    let fix = if install.can_divert() { "add `-R 5000`" } else { "has no -R" };
    assert!(said.contains("RouteImport/doctor takes table 5000") && said.contains(fix), "{said}");
}

#[test]
#[ignore = "needs root, network namespaces and FRR: cargo xtask test frr"]
fn the_condition_names_the_table_that_zebra_has() -> anyhow::Result<()> {
    with_suite(Suite::Trixie, "the_condition_names_the_table_that_zebra_has", |install| {
        let lab = Lab::new("table")?;
        let ([node, _router], mut agent) = node_that_sees(&lab, 5000)?;
        // What a zebra announced is held for an hour, and is not what the next one has.
        agent.write_manifests(&(IMPORT.replace("254", "5000") + "  onFeedLoss: {timeout: 3600s}\n"))?;
        for (table, reason, words) in [
            (None, "RoutingTableMismatch", "add `-R 5000`"),
            (Some(6000), "RoutingTableMismatch", "import `from: {table: 6000}`"),
            (Some(5000), "Prepared", ""),
            (Some(6000), "RoutingTableMismatch", "import `from: {table: 6000}`"),
        ] {
            let options = FrrOptions { fpm: true, table, staticd: STATIC.into(), ..FrrOptions::default() };
            let _frr = Frr::start(&lab, &node, install, options)?;
            if table == Some(5000) {
                wait_until(LIMIT, "it is the one that announces from there", || {
                    agent.json(&["routes", "203.0.113.0/24"]).is_ok_and(|rows| rows[0].is_object())
                })?;
            }
            wait_prepared(&mut agent, reason, words);
        }
        Ok(())
    })
}
