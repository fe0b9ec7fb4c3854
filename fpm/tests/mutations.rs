//! Millions of mutated frames: no panic, and no more memory than their size explains.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]
#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use zebra_fpm::frame::{Encoding, Frame, FrameDecoder};
use zebra_fpm::{Decoder, decode_frame};

/// Frames that are mutated, one after the other.
const FRAMES: u32 = 2_000_000;
/// Streams of some frames that are mutated.
const STREAMS: u32 = 20_000;
/// Memory for each byte of a frame at most: the shortest attribute of 8 bytes, a group's member, becomes 8 bytes; the shortest
/// `struct rtnexthop`, 8 bytes too, a nexthop of 40; boxes and the growth of lists come on top.
const BYTES_PER_BYTE: usize = 24;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Marsaglia's xorshift: the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound.max(1)
    }

    /// Damages bytes in one of the ways that decoders fall over: values, lengths, ends.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 => drop(bytes.drain(at..(at + self.below(12)).min(bytes.len()))),
                3 => {
                    let edges = [0, 1, 3, 4, 7, 8, 0x7f, 0x80, 0xff];
                    bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = edges[self.below(edges.len())]);
                }
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.below(8)),
            }
        }
    }
}

/// Whole frames of all captures and generated messages.
fn frames() -> Vec<(Encoding, Vec<u8>)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut frames = Vec::new();
    for folder in ["captures", "captures/protobuf", "captures/oldmodule-netlink", "generated"] {
        for entry in fs::read_dir(tests.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "bin") {
                let mut decoder = FrameDecoder::new();
                decoder.extend(&fs::read(path).unwrap());
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push((frame.encoding, frame.payload.to_vec()));
                }
            }
        }
    }
    frames
}

/// The memory that `act` takes beyond what was taken before.
fn peak_of(act: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    act();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

// The only test of this file: another one would allocate meanwhile.
#[test]
fn mutated_frames_neither_panic_nor_take_memory() {
    let frames = frames();
    assert!(frames.len() > 1500, "{} frames", frames.len());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut payload = Vec::with_capacity(1 << 20);
    let mut updates = Vec::with_capacity(1 << 16);
    let before = LIVE.load(Ordering::Relaxed);
    let (mut good, mut bad) = (0_u32, 0_u32);
    for _ in 0..FRAMES {
        let (encoding, original) = &frames[random.below(frames.len())];
        payload.clear();
        payload.extend_from_slice(original);
        random.mutate(&mut payload);
        let frame = Frame { offset: 0, encoding: *encoding, payload: &payload };
        let peak = peak_of(|| match decode_frame(&frame, &mut updates) {
            Ok(_) => good += 1,
            Err(_) => bad += 1,
        });
        assert!(
            peak <= 4096 + payload.len() * BYTES_PER_BYTE,
            "{peak} bytes for {} of {payload:?}",
            payload.len()
        );
        updates.clear();
    }
    assert!(good > FRAMES / 10 && bad > FRAMES / 10, "{good} decode, {bad} do not: both happen often");
    assert_eq!(LIVE.load(Ordering::Relaxed), before, "what was taken is given back");

    for _ in 0..STREAMS {
        let mut stream = Vec::new();
        for _ in 0..5 {
            let (encoding, original) = &frames[random.below(frames.len())];
            let _ =
                zebra_fpm::frame::write_frame(*encoding, &mut stream, |out| out.extend_from_slice(original));
        }
        random.mutate(&mut stream);
        let mut decoder = Decoder::new();
        for piece in stream.chunks(1 + random.below(200)) {
            decoder.frames().extend(piece);
            while let Ok(Some(_)) = decoder.next_frame(&mut updates) {}
            updates.clear();
        }
        drop(decoder.finish());
    }
    assert_eq!(LIVE.load(Ordering::Relaxed), before, "nothing is kept of a stream that has ended");
}
