//! A table that zebra writes is zebra's: imports into it are refused, and nobody fights.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{FrrInstall, Monitor, wait_until};

use crate::rig::{PEER_AS, Rig, Sessions, Setup, WAIT};

/// A route that both BGP (into zebra's own table) and staticd (for table 100) have.
const BOTH: &str = "10.64.0.0/24";
/// One that staticd alone has.
const STATIC: &str = "10.99.0.0/24";
/// Both of them, told to the running staticd: zebra replays no route of such a table to a new FPM session.
const STATICS: &str =
    "ip route 10.64.0.0/24 192.0.2.1 table 100\nip route 10.99.0.0/24 192.0.2.1 table 100\n";

with_each_frr!(imports_into_a_table_of_zebra_are_refused_without_a_fight);

fn imports_into_a_table_of_zebra_are_refused_without_a_fight(install: &FrrInstall) -> Result<()> {
    let setup = Setup { staticd: "ip route 10.98.0.0/24 192.0.2.1\n", ..Setup::default() };
    let rig = Rig::with(install, Sessions::V4, &setup)?;
    let flapping: Vec<String> = (1..20).map(|n| format!("10.64.{n}.0/24")).collect();
    rig.speakers[0].announce(PEER_AS, &[BOTH.to_owned()])?;
    rig.speakers[0].announce(PEER_AS, &flapping)?;
    rig.wait_count(4, 20)?;
    rig.wait_synchronized()?;
    rig.frr.configure(STATICS)?;
    let zebras = || rig.node.run(&format!("ip -4 route show table {} proto bgp | wc -l", rig.from));
    ensure!(zebras()?.trim() == "20", "zebra's table has {}", zebras()?);

    let monitor = Monitor::start(&rig.node)?;
    let into = if rig.from == 254 { "Main".to_owned() } else { rig.from.to_string() };
    rig.agent.write_manifests(&format!(
        "apiVersion: backtrail.dev/v1alpha1
kind: RouteImport
metadata: {{name: into-zebras}}
spec: {{from: {{table: 100}}, into: {{table: {into}}}, allowed: {{mode: All}}}}
"
    ))?;
    let still_refused =
        || rig.condition("Programmed").is_ok_and(|it| it == ("False".into(), "TableOwnedByZebra".into()));
    wait_until(WAIT, "the import is refused", still_refused)?;
    for prefix in [BOTH, STATIC] {
        let refused = |row: &(String, String)| row.0 == "Rejected" && row.1 == "TableOwnedByZebra";
        let mut rows = Vec::new();
        let waited = wait_until(WAIT, &format!("{prefix} of table 100 is refused"), || {
            rows = rig.rows(prefix).unwrap_or_default();
            rows.iter().any(refused)
        });
        waited.with_context(|| format!("{rows:?}\n{:?}", rig.frr.vtysh(&["show ip route table all"])))?;
    }
    let explained = rig.agent.command(&["explain", STATIC])?.1;
    ensure!(
        explained.contains("into (zebra writes that table itself) of RouteImport/into-zebras"),
        "{explained}"
    );

    // zebra goes on as if nobody else were there: what stays is not touched, by nobody.
    let quiet = Monitor::start(&rig.node)?;
    for _ in 0..3 {
        rig.speakers[0].withdraw(PEER_AS, &flapping)?;
        wait_until(WAIT, "BGP has withdrawn", || zebras().is_ok_and(|count| count.trim() == "1"))?;
        rig.speakers[0].announce(PEER_AS, &flapping)?;
        wait_until(WAIT, "BGP has announced", || zebras().is_ok_and(|count| count.trim() == "20"))?;
    }
    let touched: Vec<String> =
        quiet.lines()?.into_iter().filter(|line| line.contains(BOTH) || line.contains(STATIC)).collect();
    // For a while zebra has no route there: the table is its own all the same.
    rig.frr.configure("no ip route 10.98.0.0/24 192.0.2.1\n")?;
    for _ in 0..2 {
        rig.speakers[0].withdraw(PEER_AS, &flapping)?;
        rig.speakers[0].withdraw(PEER_AS, &[BOTH.to_owned()])?;
        wait_until(WAIT, "the agent knows staticd's alone", || {
            rig.agent.json(&["status"]).is_ok_and(|status| status["routes"]["learned"] == 2)
        })?;
        wait_until(WAIT, "the import is refused all the same", still_refused)?;
        rig.speakers[0].announce(PEER_AS, &[BOTH.to_owned()])?;
        rig.speakers[0].announce(PEER_AS, &flapping)?;
        wait_until(WAIT, "BGP has announced", || zebras().is_ok_and(|count| count.trim() == "20"))?;
    }
    let more = std::env::var("BACKTRAIL_WATCH_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    std::thread::sleep(Duration::from_secs(more.unwrap_or(0)));
    ensure!(quiet.ours()?.is_empty(), "{:?}", quiet.ours()?);
    ensure!(touched.is_empty(), "{touched:?}");
    // The former import's routes went, and none was written.
    let written: Vec<String> = monitor.ours()?.into_iter().filter(|line| !line.contains("Deleted")).collect();
    ensure!(written.is_empty(), "{written:?}");
    // It is `Pending` for as long as updates are on their way.
    wait_until(WAIT, "the import is still refused", still_refused)?;
    Ok(())
}
