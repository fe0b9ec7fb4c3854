//! From FPM bytes to typed updates, beside a copy of the same bytes.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use zebra_fpm::frame::{Encoding, Frame, FrameDecoder, write_frame};
use zebra_fpm::{Decoder, Target, Update, decode_frame};

use crate::report::{Bar, Bound, Report};
use crate::{Common, allocations};

pub(crate) const BARS: &[Bar] = &[
    Bar {
        name: "fpm-decode",
        bound: Bound::AtLeast(4.5),
        unit: " M/s",
        meaning: "routes by nexthop id decoded a second, in millions, on one core: ten times what zebra replays",
    },
    Bar {
        name: "fpm-decode-allocations",
        bound: Bound::AtMost(0.0),
        unit: "",
        meaning: "allocations for each such route",
    },
];

/// Bytes of one read of a socket.
const CHUNK: usize = 256 * 1024;

/// Options of `fpm`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DecodeArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Messages to decode in each round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    messages: u32,
}

pub(crate) fn describe(args: &DecodeArgs) -> String {
    format!(
        "{} rounds, each decodes {} messages that FRR 8.4, 10.3 and 10.7 sent (repeated captures): routes by nexthop id \
         alone, then all kinds; and copies the same bytes\n",
        args.common.rounds(),
        args.messages
    )
}

pub(crate) fn run(args: &DecodeArgs, report: &mut Report) -> Result<()> {
    report.setting("messages", args.messages);
    report.setting("rounds", args.common.rounds());
    let by_id = repeated(args.messages, is_by_id)?;
    let all = repeated(args.messages, |_| true)?;
    let mut updates = Vec::new();
    for stream in [&by_id, &all] {
        // The buffers reach their size.
        decode(stream, &mut updates)?;
    }
    for _ in 0..args.common.rounds() {
        let before = allocations::count();
        let (rate, bytes) = decode(&by_id, &mut updates)?;
        let allocated = allocations::count() - before;
        report.add_bar("fpm-decode", rate / 1e6);
        report.add("routes by nexthop id", "GB/s", bytes / 1e9);
        // The decoder's own buffers are a handful for each stream, not for each route.
        report.add_bar(
            "fpm-decode-allocations",
            (allocated as f64 / f64::from(args.messages) * 100.0).floor() / 100.0,
        );
        report.add("memcpy of the same", "GB/s", copy(&by_id) / 1e9);
        let (rate, bytes) = decode(&all, &mut updates)?;
        report.add("all kinds of messages", "M/s", rate / 1e6);
        report.add("all kinds of messages, bytes", "GB/s", bytes / 1e9);
    }
    Ok(())
}

/// Whether a frame is what a table is made of: one route by nexthop id.
fn is_by_id(updates: &[Update]) -> bool {
    matches!(updates, [Update::Route(route)] if matches!(route.target, Target::Nexthop(_)))
}

/// Frames of the captures, over and over, until there are so many messages.
fn repeated(messages: u32, wanted: impl Fn(&[Update]) -> bool) -> Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fpm/tests/captures");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    let (mut once, mut count) = (Vec::new(), 0);
    for path in files {
        let mut frames = FrameDecoder::new();
        frames.extend(&fs::read(&path)?);
        while let Some(frame) = frames.next_frame()? {
            let mut updates = Vec::new();
            decode_frame(&frame, &mut updates)?;
            if wanted(&updates) {
                count += updates.len();
                append(&frame, &mut once)?;
            }
        }
    }
    ensure!(count > 0, "no such frame in {}", folder.display());
    Ok(once.repeat(usize::try_from(messages)?.div_ceil(count)))
}

fn append(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    ensure!(frame.encoding == Encoding::Netlink, "a capture of dplane_fpm_nl");
    Ok(write_frame(frame.encoding, out, |payload| payload.extend_from_slice(frame.payload))?)
}

/// Decodes as the server does, and throws away after each read: messages and bytes a second.
fn decode(stream: &[u8], updates: &mut Vec<Update>) -> Result<(f64, f64)> {
    let start = Instant::now();
    let mut decoder = Decoder::new();
    let mut messages = 0;
    for chunk in stream.chunks(CHUNK) {
        decoder.frames().extend(chunk);
        while decoder.next_frame(updates)?.is_some() {}
        messages += black_box(&*updates).len();
        updates.clear();
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok((messages as f64 / seconds, stream.len() as f64 / seconds))
}

/// Copies as a read would: bytes a second.
fn copy(stream: &[u8]) -> f64 {
    let mut buffer = vec![0; CHUNK];
    let start = Instant::now();
    for chunk in stream.chunks(CHUNK) {
        if let Some(space) = buffer.get_mut(..chunk.len()) {
            space.copy_from_slice(chunk);
        }
        black_box(&buffer);
    }
    stream.len() as f64 / start.elapsed().as_secs_f64()
}
