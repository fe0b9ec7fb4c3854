#![no_main]

use libfuzzer_sys::fuzz_target;
use zebra_fpm::frame::{FrameDecoder, FrameError};

fn frames(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> (Vec<(u64, Vec<u8>)>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::new();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.extend(piece.as_ref());
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push((frame.offset, frame.payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, decoder.finish())
}

fuzz_target!(|stream: &[u8]| {
    let whole = frames([stream].into_iter());
    let size = 1 + stream.len() % 17;
    assert_eq!(frames(stream.chunks(size)), whole);
});
