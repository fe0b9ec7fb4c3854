use clap::Parser as _;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command, Other};

const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fpm/tests/captures");

fn backtrail(words: &[&str]) -> anyhow::Result<String> {
    let cli = Cli::try_parse_from([&["backtrail", "fpm"], words].concat())?;
    let Command::Other(Other::Fpm(args)) = cli.command else { panic!("not fpm") };
    let mut out = Vec::new();
    run(&cli.global, &args, &mut out)?;
    Ok(String::from_utf8(out)?)
}

fn capture(name: &str) -> String {
    format!("{CAPTURES}/{name}")
}

#[test]
fn decodes_to_json_lines_yaml_and_text() {
    let file = capture("frr844-04-static4-change.bin");
    let json = backtrail(&["decode", &file, "-o", "json"]).unwrap();
    let ops: Vec<_> =
        json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["op"].clone()).collect();
    assert!(ops.windows(2).any(|ops| ops == ["del", "add"]), "{json}");
    assert_eq!(backtrail(&["decode", &file]).unwrap().lines().count(), ops.len());
    let yaml = backtrail(&["decode", &file, "-o", "yaml"]).unwrap();
    let rows: Vec<Value> = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(rows.len(), ops.len());
}

#[test]
fn names_the_offset_of_a_bad_frame_and_prints_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(capture("frr844-03-static4-add.bin")).unwrap();
    let good = bytes.len();
    for (bad, cause) in [
        (&[2, 1, 0, 20][..], "version 2"),
        (&[1, 7, 0, 20], "type 7"),
        (&[1, 1, 0, 19], "length 19"),
        (&[1, 1, 0, 40, 0, 0], "truncated"),
        (&[1], "truncated"),
    ] {
        bytes.truncate(good);
        bytes.extend_from_slice(bad);
        let file = dir.path().join("bad.bin");
        std::fs::write(&file, &bytes).unwrap();
        let cli = Cli::try_parse_from(["backtrail", "fpm", "decode", file.to_str().unwrap(), "-o", "json"])
            .unwrap();
        let Command::Other(Other::Fpm(args)) = cli.command else { panic!("not fpm") };
        let mut out = Vec::new();
        let error = format!("{:#}", run(&cli.global, &args, &mut out).unwrap_err());
        assert!(error.contains(&format!("at byte {good}:")) && error.contains(cause), "{error}");
        assert!(!out.is_empty());
    }
}

#[test]
fn what_is_sent_is_recorded_and_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.bin");
    let agent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = agent.local_addr().unwrap().to_string();
    let from = free_port();
    let passed_on = thread::scope(|scope| {
        let sink = scope.spawn(|| {
            let mut bytes = Vec::new();
            agent.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let recorder =
            scope.spawn(|| backtrail(&["record", copy.to_str().unwrap(), "--listen", &from, "--to", &to]));
        let file = capture("frr844-20-replay-full.bin");
        let file =
            if Path::new(&file).exists() { file } else { capture("frr844-02-reconnect-replay-nhg.bin") };
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = backtrail(&["send", &file, "--to", &from]) {
            assert!(Instant::now() < deadline, "{error:#}");
            thread::sleep(Duration::from_millis(10));
        }
        recorder.join().unwrap().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&copy).unwrap());
        sink.join().unwrap()
    });
    assert_eq!(passed_on, std::fs::read(&copy).unwrap());
    let times = read_times(&times_of(&copy)).unwrap();
    assert_eq!(times.first().map(|first| first.offset), Some(0));
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn the_original_pace_keeps_the_pauses() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("two.bin");
    std::fs::write(&file, b"onetwo").unwrap();
    std::fs::write(times_of(&file), "{\"offset\":0,\"us\":0}\n{\"offset\":3,\"us\":60000}\n").unwrap();
    let agent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = agent.local_addr().unwrap().to_string();
    thread::scope(|scope| {
        scope.spawn(|| {
            backtrail(&["send", file.to_str().unwrap(), "--to", &to, "--pace", "original"]).unwrap()
        });
        let mut stream = agent.accept().unwrap().0;
        let mut first = [0; 6];
        let len = stream.read(&mut first).unwrap();
        assert_eq!(&first[..len], b"one", "the rest is not due yet");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"two");
    });
    std::fs::write(times_of(&file), "{\"offset\":3,\"us\":0}\n{\"offset\":0,\"us\":1}\n").unwrap();
    let error = backtrail(&["send", file.to_str().unwrap(), "--to", &to, "--pace", "original"]).unwrap_err();
    assert!(format!("{error:#}").contains("line 2"), "{error:#}");
}
