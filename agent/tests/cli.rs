//! The command line as a user sees it: the built binary against an agent that answers from a script.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;

use backtrail::api::{FpmState, NodeRoutingStateStatus};
use backtrail::control::{
    Call, Change, Endpoint, FlowOrigin, FlowRow, NexthopRow, Page, PlanRow, Request, Response, RouteRow,
    RouteState, serve,
};
use backtrail::status::{ConditionSet, reason};

/// Runs the binary with `--run-dir`.
fn backtrail(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backtrail"))
        .args(arguments)
        .arg("--run-dir")
        .arg(dir)
        .env_remove("RUST_LOG")
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An agent that answers each request with `answer`; it lives as long as the directory.
fn agent(answer: impl Fn(&Request) -> Response + Send + 'static) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let endpoint = Endpoint::claim(dir.path()).expect("a claim");
    let (up, is_up) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (calls, mut inbox) = tokio::sync::mpsc::channel::<Call>(1);
            tokio::spawn(serve(endpoint.listen().expect("a socket"), calls));
            up.send(()).expect("the test waits");
            while let Some(call) = inbox.recv().await {
                // A client that has gone needs no answer.
                let _ = call.reply.send(answer(&call.request));
            }
        });
    });
    is_up.recv().expect("the agent is up");
    dir
}

fn route(number: u8) -> RouteRow {
    let hop = |last, weight| NexthopRow {
        via: Some([192, 0, 2, last].into()),
        dev: format!("bond0.{last}"),
        weight,
    };
    RouteRow {
        table: 10020,
        vrf: Some("billing".to_owned()),
        prefix: format!("10.{number}.0.0/16").parse().expect("a prefix"),
        state: if number == 3 { RouteState::Rejected } else { RouteState::Programmed },
        reason: if number == 3 { "NotAllowed" } else { "Imported" }.to_owned(),
        owner: (number != 3).then(|| "RouteImport/billing".to_owned()),
        nexthops: if number == 2 { vec![hop(1, 1), hop(2, 3)] } else { vec![hop(1, 1)] },
        metric: 20,
        protocol: 186,
    }
}

/// 250 routes in pages of at most 100.
fn many_routes(request: &Request) -> Response {
    let Request::Routes { page, .. } = request else { return Response::Error("not asked for".to_owned()) };
    let first = u8::try_from(page.cursor).expect("a cursor of ours");
    let rows: Vec<RouteRow> = (first..250).take(page.limit.min(100) as usize).map(route).collect();
    let next = page.cursor + rows.len() as u64;
    Response::Routes(Page { rows, total: 250, next: (next < 250).then_some(next) })
}

#[test]
fn usage_errors_exit_1_and_help_exits_0() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["bogus"],
        &["routes", "10.0.0.0/33"],
        &["status", "-o", "xml"],
        &["agent"],
        &["agent", "--config", "/nonexistent.yaml"],
        &["agent", "--config", "/", "--node-labels", "novalue"],
    ] {
        let output = backtrail(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["routes", "--help"]] {
        assert_eq!(backtrail(dir.path(), arguments).status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn without_an_agent_the_error_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["status", "routes", "flows", "plan"] {
        let output = backtrail(dir.path(), &[command]);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert!(said.contains("no agent answers") && said.contains("start `backtrail agent`"), "{said}");
    }
}

#[test]
fn a_table_of_routes_is_aligned_and_bounded() {
    let dir = agent(many_routes);
    let output = backtrail(dir.path(), &["routes", "--limit", "4"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "\
TABLE  VRF      PREFIX       METRIC  STATE       REASON      NEXTHOPS                                 OWNER
10020  billing  10.0.0.0/16  20      Programmed  Imported    192.0.2.1%bond0.1                        RouteImport/billing
10020  billing  10.1.0.0/16  20      Programmed  Imported    192.0.2.1%bond0.1                        RouteImport/billing
10020  billing  10.2.0.0/16  20      Programmed  Imported    192.0.2.1%bond0.1*1 192.0.2.2%bond0.2*3  RouteImport/billing
10020  billing  10.3.0.0/16  20      Rejected    NotAllowed  192.0.2.1%bond0.1                        -
… and 246 more of 250 (--limit 0 prints all)
"
    );
    let all = stdout(&backtrail(dir.path(), &["routes", "--limit", "0"]));
    assert_eq!(all.lines().count(), 251);
    assert_eq!(stdout(&backtrail(dir.path(), &["routes"])).lines().count(), 102, "100 rows by default");
}

#[test]
fn lists_for_programs_are_whole() {
    let dir = agent(many_routes);
    let output = backtrail(dir.path(), &["routes", "-o", "json"]);
    let rows: Vec<RouteRow> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows, (0..250).map(route).collect::<Vec<_>>());
    let yaml = stdout(&backtrail(dir.path(), &["routes", "-o", "yaml"]));
    let rows: Vec<RouteRow> = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(rows.len(), 250);
}

#[test]
fn the_question_reaches_the_agent() {
    let dir = agent(|request| {
        let Request::Routes { vrf, prefix, page } = request else { panic!("not asked for") };
        assert_eq!((vrf.as_deref(), *prefix), (Some("red"), Some("10.0.0.0/8".parse().unwrap())));
        assert_eq!((page.cursor, page.limit), (0, 100));
        Response::Routes(Page { rows: Vec::new(), total: 0, next: None })
    });
    let output = backtrail(dir.path(), &["routes", "--vrf", "red", "10.1.2.3/8"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1, "the header alone");
    let empty =
        backtrail(dir.path(), &["routes", "--vrf", "red", "10.0.0.0/8", "--limit", "100", "-o", "json"]);
    assert_eq!(stdout(&empty), "[]\n");
}

#[test]
fn flows_show_who_is_steered_where() {
    let dir = agent(|_| {
        let flow = |client: &str, origin| FlowRow {
            proto: "TCP".to_owned(),
            client: client.parse().unwrap(),
            service: "203.0.113.9:443".parse().unwrap(),
            interface: "bond0.100".to_owned(),
            age_seconds: 190,
            steered_packets: 17,
            gateway: (origin == FlowOrigin::Client).then(|| [192, 0, 2, 1].into()),
            origin,
        };
        let rows = vec![flow("198.51.100.7:40000", FlowOrigin::Client), flow("10.0.0.1:1", FlowOrigin::Node)];
        Response::Flows(Page { rows, total: 2, next: None })
    });
    assert_eq!(
        stdout(&backtrail(dir.path(), &["flows"])),
        "\
PROTO  CLIENT              SERVICE          INTERFACE  GATEWAY    ORIGIN  AGE    STEERED (packets)
TCP    198.51.100.7:40000  203.0.113.9:443  bond0.100  192.0.2.1  client  3m10s  17
TCP    10.0.0.1:1          203.0.113.9:443  bond0.100  -          node    3m10s  17
"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&backtrail(dir.path(), &["flows", "-o", "json"]).stdout).unwrap();
    assert_eq!(json[0]["ageSeconds"], 190);
    assert_eq!(json[1]["origin"], "node");
}

#[test]
fn a_plan_that_differs_exits_2_and_prints_a_diff() {
    let dir = agent(|request| {
        assert!(matches!(request, Request::Plan { config: Some(path) } if path.is_absolute()));
        let row = |change, object: &str, before: Option<&str>, after: Option<&str>| PlanRow {
            change,
            kind: "route".to_owned(),
            object: object.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            owner: after.map(|_| "RouteImport/red".to_owned()),
        };
        let rows = vec![
            row(Change::Add, "10.0.0.0/8 table 10001 metric 20", None, Some("via 192.0.2.1 dev eth1")),
            row(Change::Replace, "10.0.0.0/9 table 10001 metric 20", Some("dev eth1"), Some("dev eth2")),
            row(Change::Delete, "10.0.0.0/10 table 10001 metric 20", Some("dev eth1"), None),
        ];
        Response::Plan(Page { rows, total: 3, next: None })
    });
    let output = backtrail(dir.path(), &["plan", "--config", "some.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stdout(&output),
        "\
+ route 10.0.0.0/8 table 10001 metric 20 via 192.0.2.1 dev eth1  # RouteImport/red
- route 10.0.0.0/9 table 10001 metric 20 dev eth1
+ route 10.0.0.0/9 table 10001 metric 20 dev eth2  # RouteImport/red
- route 10.0.0.0/10 table 10001 metric 20 dev eth1
3 changes
"
    );
}

#[test]
fn a_plan_without_changes_exits_0() {
    let dir = agent(|_| Response::Plan(Page { rows: Vec::new(), total: 0, next: None }));
    let output = backtrail(dir.path(), &["plan"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "no changes\n"));
}

/// A node in the given health.
fn status(ready: bool) -> NodeRoutingStateStatus {
    let mut conditions = ConditionSet::default();
    let now = jiff::Timestamp::now();
    let why = if ready { reason::ALL_WELL } else { reason::PARTIAL };
    conditions.set(now, reason::condition::READY, ready, why, "");
    let mut status =
        NodeRoutingStateStatus { conditions: conditions.as_slice().to_vec(), ..Default::default() };
    status.agent.node = "w1".to_owned();
    status.fpm.state = FpmState::Connected;
    status.fpm.epoch = 7;
    status.fpm.listen = "127.0.0.1:2620".to_owned();
    status.routes.learned = 812;
    status.routes.rejected = [("NotAllowed".to_owned(), 530)].into();
    status
}

#[test]
fn an_unhealthy_node_exits_2() {
    for (ready, code, word) in [(true, 0, "w1  healthy"), (false, 2, "w1  NOT HEALTHY")] {
        let dir = agent(move |_| Response::Status(Box::new(status(ready))));
        let output = backtrail(dir.path(), &["status"]);
        assert_eq!(output.status.code(), Some(code));
        let text = stdout(&output);
        assert!(text.starts_with(word), "{text}");
        assert!(text.contains("session 7 from - on 127.0.0.1:2620, replay running"), "{text}");
        assert!(text.contains("rejected: NotAllowed 530"), "{text}");
        let json = backtrail(dir.path(), &["status", "-o", "json"]);
        assert_eq!(json.status.code(), Some(code));
        let parsed: NodeRoutingStateStatus = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(parsed.routes.learned, 812);
    }
}

#[test]
fn the_agents_refusal_is_passed_on() {
    let dir = agent(|_| Response::Error("prefix of no table".to_owned()));
    let output = backtrail(dir.path(), &["routes"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "backtrail: prefix of no table\n");
}

#[test]
fn a_reader_that_stops_is_no_failure() {
    use std::io::Read as _;
    let dir = agent(many_routes);
    let mut child = Command::new(env!("CARGO_BIN_EXE_backtrail"))
        .args(["routes", "-o", "json", "--run-dir"])
        .arg(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
}
