#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use zebra_fpm::Decoder;
use zebra_fpm::session::{DEFAULT_QUIET, Replay};

// Bytes arrive in pieces; the first byte of each says how many and after what pause.
fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let mut decoder = Decoder::new();
    let mut replay = Replay::new(DEFAULT_QUIET);
    let mut updates = Vec::new();
    let mut rest = input;
    let (mut last, mut completed) = (now, false);
    while let [how, bytes @ ..] = rest {
        now += Duration::from_millis(u64::from(how >> 4) * 300);
        if replay.tick(now) {
            assert!(!completed && now - last >= DEFAULT_QUIET);
            completed = true;
        }
        let (piece, after) = bytes.split_at(bytes.len().min(usize::from(how & 15) * 16));
        rest = after;
        if !piece.is_empty() {
            replay.bytes(now);
            last = now;
        }
        decoder.frames().extend(piece);
        loop {
            let before = updates.len();
            match decoder.next_frame(&mut updates) {
                Ok(Some(_)) => replay.frame(now),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(updates.len(), before, "nothing of a bad frame");
                    assert!(error.offset() <= input.len() as u64);
                    return;
                }
            }
        }
        updates.clear();
    }
});
