use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A row of the manual: name, type, meaning.
type Row = (String, String, String);

/// What the stages declare.
fn declared() -> Vec<Row> {
    listed()
        .into_iter()
        .map(|Listed(name, kind, meaning)| {
            let suffix = if matches!(kind, MetricType::Counter) { "_total" } else { "" };
            (format!("backtrail_{name}{suffix}"), kind.as_str().to_owned(), meaning.to_owned())
        })
        .collect()
}

/// Rows of the tables of `docs/metrics.md`.
fn documented() -> Vec<Row> {
    include_str!("../../../docs/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `backtrail_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [_, name, kind, _labels, meaning, _] = cells[..] else { panic!("five cells: {line}") };
            (name.to_owned(), kind.to_owned(), meaning.to_owned())
        })
        .collect()
}

#[test]
fn the_manual_lists_exactly_the_metrics_of_the_code() {
    assert_eq!(documented(), declared());
    let names: std::collections::BTreeSet<String> = declared().into_iter().map(|row| row.0).collect();
    assert_eq!(names.len(), declared().len(), "a metric is declared twice");
}

#[test]
fn a_page_has_the_form_that_prometheus_reads() {
    let metrics = Metrics::default();
    metrics.fpm.connected.set(1);
    metrics.fpm.updates.get_or_create(&Kind { kind: "route" }).inc_by(3);
    metrics.rib.routes.get_or_create(&Table { table: 254 }).set(7);
    metrics.reconcile.convergence_seconds.observe(0.002);
    let event = SteeringEvent { interface: "bond0.100".to_owned(), event: "steered" };
    store(&metrics.steering.events.get_or_create(&event), 12);
    let page = metrics.encode();
    for line in [
        "backtrail_fpm_connected 1",
        "backtrail_fpm_updates_total{kind=\"route\"} 3",
        "backtrail_rib_routes{table=\"254\"} 7",
        "backtrail_reconcile_convergence_seconds_count 1",
        "backtrail_steering_events_total{interface=\"bond0.100\",event=\"steered\"} 12",
        "# TYPE backtrail_fpm_updates counter",
    ] {
        assert!(page.lines().any(|have| have == line), "{line:?} is not in:\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
    let resident =
        page.lines().find_map(|l| l.strip_prefix("backtrail_process_resident_memory_bytes ")).unwrap();
    assert!(resident.parse::<f64>().unwrap() > 1e6, "{resident} bytes");
}

/// Names follow their types and units.
#[test]
fn names_end_in_their_units() {
    for (name, kind, _) in declared() {
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name} is a {kind}");
    }
}

/// The answers to raw requests, one connection each.
fn ask(requests: &[&'static [u8]], metrics: Metrics) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(metrics)));
        let mut answers = Vec::new();
        for request in requests {
            let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            stream.write_all(request).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answers.push(answer);
        }
        answers
    })
}

#[test]
fn a_scrape_gets_the_page() {
    let metrics = Metrics::default();
    metrics.fpm.frames.inc();
    let page = ask(&[b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n"], metrics).remove(0);
    assert!(page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0"));
    assert!(page.contains("backtrail_fpm_frames_total 1\n") && page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn other_requests_get_their_status() {
    let requests: [&[u8]; 6] = [
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"HEAD /metrics?x=1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\n\r\n",
        b"\x01\x01\x00\x28",
        b"",
    ];
    let answers = ask(&requests, Metrics::default());
    let statuses: Vec<&str> = answers.iter().filter_map(|answer| answer.split(' ').nth(1)).collect();
    assert_eq!(statuses, ["200", "200", "404", "405", "400", "400"]);
    assert!(answers[1].ends_with("\r\n\r\n"), "HEAD has no body: {}", answers[1]);
}

#[test]
fn an_agent_is_ready_after_its_first_pass() {
    let request: &[u8] = b"GET /readyz HTTP/1.1\r\n\r\n";
    let metrics = Metrics::default();
    assert!(ask(&[request], metrics).remove(0).starts_with("HTTP/1.1 503 "));
    let metrics = Metrics::default();
    metrics.status.ready.set(1);
    assert!(ask(&[request], metrics).remove(0).starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_manual_lists_exactly_the_events_of_the_programs() {
    let manual = include_str!("../../../docs/metrics.md");
    let (_, section) = manual.split_once("## Steering events\n").unwrap();
    let events: Vec<&str> = section
        .lines()
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0))
        .collect();
    let counters = backtrail_ebpf_common::maps::Counters::default();
    let named: Vec<&str> = crate::steering::named(&counters).into_iter().map(|(name, _)| name).collect();
    assert_eq!(events, named);
}
