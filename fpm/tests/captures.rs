//! Every capture of real zebras against lines that another decoder made (`golden.py`), and back to bytes.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zebra_fpm::frame::{Encoding, FrameDecoder, write_frame};
use zebra_fpm::netlink::{Offload, encode, write_feedback};
use zebra_fpm::{
    Decoder, IfIndex, Nexthop, Protocol, Record, Route, RouteKey, RouteKind, TableId, Target, Update,
    decode_frame,
};

fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn captures_in(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            captures_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "bin") {
            found.push(path);
        }
    }
}

fn captures() -> Vec<PathBuf> {
    let mut found = Vec::new();
    captures_in(&tests_dir().join("captures"), &mut found);
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

fn decode(bytes: &[u8]) -> (Vec<(Encoding, Update)>, u32) {
    let mut decoder = Decoder::new();
    decoder.frames().extend(bytes);
    let mut all = Vec::new();
    let mut updates = Vec::new();
    let mut unknown = 0;
    while let Some(frame) = decoder.next_frame(&mut updates).unwrap() {
        unknown += frame.unknown_attributes;
        all.extend(updates.drain(..).map(|update| (frame.encoding, update)));
    }
    decoder.finish().unwrap();
    (all, unknown)
}

#[test]
fn every_capture_decodes_as_the_other_decoder_says() {
    let captures = captures();
    assert!(captures.len() > 100, "{} captures", captures.len());
    let mut messages = 0;
    for path in captures {
        let name = stem(&path);
        let golden = fs::read_to_string(tests_dir().join("golden").join(format!("{name}.jsonl"))).unwrap();
        let (updates, unknown) = decode(&fs::read(&path).unwrap());
        assert_eq!((updates.len(), unknown), (golden.lines().count(), 0), "{name}");
        for (at, ((encoding, update), line)) in updates.iter().zip(golden.lines()).enumerate() {
            let ours = serde_json::to_value(Record { encoding: *encoding, update }).unwrap();
            let theirs: Value = serde_json::from_str(line).unwrap();
            assert_eq!(ours, theirs, "{name}, message {at}");
            messages += 1;
        }
    }
    assert!(messages > 1000, "{messages} messages");
}

/// Rare attributes, in any order, with padding as it happens to be, and unknown ones (`generate.py`).
#[test]
fn generated_messages_decode_as_they_were_made() {
    for name in ["netlink", "protobuf"] {
        let path = tests_dir().join("generated").join(name);
        let made = fs::read_to_string(path.with_extension("jsonl")).unwrap();
        let made: Vec<Value> = made.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (count, lines) = made.split_last().unwrap();
        let (updates, unknown) = decode(&fs::read(path.with_extension("bin")).unwrap());
        assert!(lines.len() >= 300);
        for (at, ((encoding, update), line)) in updates.iter().zip(lines).enumerate() {
            let ours = serde_json::to_value(Record { encoding: *encoding, update }).unwrap();
            assert_eq!(ours, *line, "{name}, message {at}");
        }
        let expected = if name == "netlink" { count["unknown_attributes"].as_u64().unwrap() } else { 0 };
        assert_eq!((updates.len(), u64::from(unknown)), (lines.len(), expected), "{name}");
    }
}

#[test]
fn protobuf_captures_hold_what_their_descriptions_count() {
    for path in captures().iter().filter(|path| path.parent().is_some_and(|dir| dir.ends_with("protobuf"))) {
        let text = fs::read_to_string(path.with_extension("txt")).unwrap();
        let (updates, _) = decode(&fs::read(path).unwrap());
        let adds = updates.iter().filter(|(_, update)| matches!(update, Update::Route(_))).count();
        assert_eq!(adds, text.matches("type: ADD_ROUTE").count(), "{}", stem(path));
        assert_eq!(updates.len() - adds, text.matches("type: DELETE_ROUTE").count(), "{}", stem(path));
    }
}

/// The bytes of `dplane_fpm_nl` come back exactly: so the generator writes what zebra writes.
#[test]
fn what_dplane_fpm_nl_sent_encodes_to_the_same_bytes() {
    let mut frames = 0;
    for path in captures() {
        let name = stem(&path);
        if !["frr103-", "frr107-", "rt103-"].iter().any(|prefix| name.starts_with(prefix))
            || name.contains("-pb-")
        {
            continue;
        }
        let mut stream = FrameDecoder::new();
        stream.extend(&fs::read(&path).unwrap());
        while let Some(frame) = stream.next_frame().unwrap() {
            let mut updates = Vec::new();
            let pid = decode_frame(&frame, &mut updates).unwrap().pid.unwrap();
            let mut bytes = Vec::new();
            write_frame(Encoding::Netlink, &mut bytes, |out| {
                for update in &updates {
                    encode(update, pid, out);
                }
            })
            .unwrap();
            let mut payload = frame.payload.to_vec();
            zero_padding_of_via(&updates, &mut payload);
            assert_eq!(bytes[4..], payload, "{name} at {}: {updates:?}", frame.offset);
            frames += 1;
        }
    }
    assert!(frames > 300, "{frames} frames");
}

/// As FRR's own `fpm_listener -r` answers, which every version with feedback acts on: what came, with a flag set. (The
/// sender's number and the flags of the netlink header are not looked at, but for `NLM_F_REQUEST`.)
#[test]
fn feedback_reflects_the_route_as_it_came() {
    let mut reflected = 0;
    // The old module orders attributes otherwise, and reads no feedback.
    let new_module = |path: &PathBuf| !stem(path).starts_with("of844") && !stem(path).contains("-old-");
    for path in captures().into_iter().filter(new_module) {
        let bytes = fs::read(&path).unwrap();
        let mut frames = FrameDecoder::new();
        frames.extend(&bytes);
        while let Some(frame) = frames.next_frame().unwrap() {
            let mut updates = Vec::new();
            decode_frame(&frame, &mut updates).unwrap();
            let ([Update::Route(route)], Encoding::Netlink) = (&*updates, frame.encoding) else { continue };
            let mut expected = frame.payload.to_vec();
            zero_padding_of_via(&updates, &mut expected);
            expected[6..8].copy_from_slice(&1u16.to_ne_bytes());
            expected[12..16].fill(0);
            expected[25] |= 0x40;
            let mut answer = Vec::new();
            write_feedback(route, Offload::Done, &mut answer).unwrap();
            assert_eq!(answer[4..], expected, "{}", path.display());
            reflected += 1;
        }
    }
    assert!(reflected > 300, "{reflected}");
}

#[test]
fn feedback_fits_what_zebra_reads_at_a_time() {
    let nexthops = (1..1100).map(|index| Nexthop::new(None, Some(IfIndex(index)))).collect();
    let key = RouteKey::new(TableId::MAIN, "192.0.2.0/24".parse().unwrap());
    let route = Route::new(key, Protocol::BGP, RouteKind::Unicast, Target::Nexthops(nexthops));
    let mut answer = Vec::new();
    write_feedback(&route, Offload::Failed, &mut answer).unwrap();
    let mut frames = FrameDecoder::new();
    frames.extend(&answer);
    let mut updates = Vec::new();
    decode_frame(&frames.next_frame().unwrap().unwrap(), &mut updates).unwrap();
    let expected = Route { target: Target::None, flags: 0x2000_0000, ..route };
    assert_eq!(updates, [Update::Route(expected)]);
}

/// zebra does not clear the two bytes after an `RTA_VIA` with an IPv6 address.
fn zero_padding_of_via(updates: &[Update], payload: &mut [u8]) {
    let header = [22, 0, 18, 0, 10, 0];
    let via = payload.windows(header.len()).position(|window| window == header);
    if let (Some(at), [Update::Route(_)]) = (via, updates) {
        payload[at + 22..at + 24].fill(0);
    }
}

#[test]
fn feedback_is_what_zebra_was_seen_to_accept() {
    let cases = [
        ("bgp-v4-table254", "100.64.50.0/24", 254, Offload::Done),
        ("bgp-v4-table5000", "100.64.50.0/24", 5000, Offload::Done),
        ("bgp-v6-table254", "2001:db8:100::/48", 254, Offload::Done),
        ("bgp-v4-table254", "100.64.55.0/24", 254, Offload::Failed),
    ];
    for (name, prefix, table, outcome) in cases {
        let failed = if outcome == Offload::Failed { "-failed" } else { "" };
        let file = tests_dir().join(format!("captures/feedback-offload{failed}-{name}.bin"));
        let key = RouteKey::new(TableId(table), prefix.parse().unwrap());
        // The least that zebra 10.7 acts on.
        let route =
            Route { metric: None, ..Route::new(key, Protocol::BGP, RouteKind::Unicast, Target::None) };
        let mut frame = Vec::new();
        write_feedback(&route, outcome, &mut frame).unwrap();
        assert_eq!(frame, fs::read(&file).unwrap(), "{}", file.display());
    }
}
