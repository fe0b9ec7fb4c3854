use std::os::unix::fs::PermissionsExt as _;

use std::path::Path;

use super::*;
use tokio::sync::mpsc;

fn row(prefix: &str) -> RouteRow {
    RouteRow {
        table: 10001,
        vrf: Some("red".to_owned()),
        prefix: prefix.parse().unwrap(),
        state: RouteState::Programmed,
        reason: "Acknowledged".to_owned(),
        owner: Some("RouteImport/red".to_owned()),
        nexthops: vec![NexthopRow { via: Some([192, 0, 2, 1].into()), dev: "eth1".to_owned(), weight: 1 }],
        metric: 20,
        protocol: 186,
    }
}

/// Answers requests as a daemon would, on a runtime of its own, until the endpoint is dropped.
fn agent(dir: &Path, answer: impl Fn(Request) -> Option<Response> + Send + 'static) -> mpsc::Sender<()> {
    let endpoint = Endpoint::claim(dir).unwrap();
    let (stop, mut stopped) = mpsc::channel::<()>(1);
    let (up, is_up) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (calls, mut inbox) = mpsc::channel::<Call>(1);
            tokio::spawn(serve(endpoint.listen().unwrap(), calls));
            up.send(()).unwrap();
            loop {
                tokio::select! {
                    Some(call) = inbox.recv() => {
                        if let Some(response) = answer(call.request) {
                            call.reply.send(response).unwrap();
                        }
                    }
                    _ = stopped.recv() => break,
                }
            }
        });
    });
    is_up.recv().unwrap();
    stop
}

#[test]
fn request_and_answer_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let asked = Request::Routes {
        vrf: Some("red".to_owned()),
        prefix: Some("10.0.0.0/8".parse().unwrap()),
        page: PageRequest { cursor: 0, limit: 2 },
    };
    let expected = asked.clone();
    let _agent = agent(dir.path(), move |request| {
        assert_eq!(request, expected);
        let rows = vec![row("10.1.0.0/16"), row("10.2.0.0/16")];
        Some(Response::Routes(Page { rows, total: 5, next: Some(2) }))
    });
    let mut client = Client::connect(dir.path()).unwrap();
    for _ in 0..2 {
        let Response::Routes(page) = client.call(&asked).unwrap() else { panic!("not routes") };
        assert_eq!(page.rows, [row("10.1.0.0/16"), row("10.2.0.0/16")]);
        assert_eq!((page.total, page.next), (5, Some(2)));
    }
}

#[test]
fn only_the_owner_may_open_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let _agent = agent(&run, |_| None);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&run), 0o700);
    assert_eq!(mode(&run.join(SOCKET)), 0o600);
}

#[test]
fn a_second_agent_is_refused_and_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = Endpoint::claim(dir.path()).unwrap();
    let error = Endpoint::claim(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ControlError::AlreadyRunning { pid, .. } if *pid == std::process::id().to_string())
    );
    drop(first);
    Endpoint::claim(dir.path()).unwrap();
}

#[test]
fn a_socket_left_by_a_killed_agent_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    assert!(matches!(Client::connect(dir.path()), Err(ControlError::NotRunning { .. })));
    let _agent = agent(dir.path(), |_| Some(Response::Error("asked".to_owned())));
    let error = Client::connect(dir.path()).unwrap().call(&Request::Status).unwrap_err();
    assert!(matches!(error, ControlError::Refused(text) if text == "asked"));
}

#[test]
fn nonsense_gets_an_error_and_the_next_client_is_served() {
    use std::io::{Read as _, Write as _};
    let dir = tempfile::tempdir().unwrap();
    let _agent = agent(dir.path(), |_| Some(Response::Error("asked".to_owned())));
    let overlong = vec![b'x'; usize::try_from(MAX_REQUEST).unwrap() + 1];
    for nonsense in [&b"{\"request\":\"reboot\"}\n"[..], b"\xff\xfe\n", b"\n", &overlong] {
        let mut stream = std::os::unix::net::UnixStream::connect(dir.path().join(SOCKET)).unwrap();
        // The server may have answered and closed before it read all.
        let _ = stream.write_all(nonsense);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains("request not understood"), "{answer:?} to {} bytes", nonsense.len());
    }
    assert!(Client::connect(dir.path()).unwrap().call(&Request::Status).is_err());
}

#[test]
fn a_request_that_the_daemon_drops_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let _agent = agent(dir.path(), |_| None);
    let error = Client::connect(dir.path()).unwrap().call(&Request::Status).unwrap_err();
    assert!(error.to_string().contains("stopping"), "{error}");
}

#[test]
fn the_contract_of_rows() {
    let json = serde_json::to_value(row("10.1.0.0/16")).unwrap();
    for field in ["table", "vrf", "prefix", "state", "reason", "owner", "nexthops"] {
        assert!(json.get(field).is_some(), "{field}");
    }
    assert_eq!(json["nexthops"][0], serde_json::json!({"via": "192.0.2.1", "dev": "eth1", "weight": 1}));
    let flow = FlowRow {
        proto: "TCP".to_owned(),
        client: "[2001:db8::1]:40000".parse().unwrap(),
        service: "[2001:db8::2]:443".parse().unwrap(),
        interface: "eth1".to_owned(),
        age_seconds: 3,
        steered_packets: 4,
        gateway: None,
        origin: FlowOrigin::Client,
    };
    let json = serde_json::to_value(flow).unwrap();
    for field in ["proto", "client", "service", "interface", "ageSeconds", "steeredPackets"] {
        assert!(json.get(field).is_some(), "{field}");
    }
    assert_eq!(json["client"], "[2001:db8::1]:40000");
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "content").unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::symlink(&victim, run.join(LOCK)).unwrap();
    assert!(matches!(Endpoint::claim(&run), Err(ControlError::Io { action: "open", .. })));
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "content");
}
