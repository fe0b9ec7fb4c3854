//! How fast streams become updates: `cargo bench -p zebra-fpm`.
//!
//! `memcpy` copies the same bytes: what reading them costs at least. `captures` repeats what real zebras sent,
//! with all kinds of messages; `by-nexthop-id` is a full table as `dplane_fpm_nl` replays it, byte for byte.

use std::fs;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use zebra_fpm::frame::{Encoding, write_frame};
use zebra_fpm::netlink::encode;
use zebra_fpm::{Decoder, NexthopId, Protocol, Route, RouteKey, TableId, Update};

const ROUTES: u32 = 1_000_000;
/// Bytes of one read of a socket.
const CHUNK: usize = 256 * 1024;

fn by_nexthop_id() -> Vec<u8> {
    let mut stream = Vec::new();
    for n in 0..ROUTES {
        let dst = IpNet::V4(Ipv4Net::from(Ipv4Addr::from(0x0a40_0000 + n)));
        let route = Route::by_nexthop(RouteKey::new(TableId::MAIN, dst), Protocol::BGP, NexthopId(15));
        write_frame(Encoding::Netlink, &mut stream, |payload| encode(&Update::Route(route), 1, payload))
            .expect("a route fits a frame");
    }
    stream
}

fn captures() -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("the captures are in the repository")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .collect();
    files.sort();
    let once: Vec<u8> = files.iter().flat_map(|path| fs::read(path).expect("readable")).collect();
    let messages = decode(&once, &mut Vec::new());
    once.repeat(usize::try_from(u64::from(ROUTES) / messages + 1).expect("a small number"))
}

/// Decodes as the server does, and throws away after each read; returns the number of messages.
fn decode(stream: &[u8], updates: &mut Vec<Update>) -> u64 {
    let mut decoder = Decoder::new();
    let mut messages = 0;
    for chunk in stream.chunks(CHUNK) {
        decoder.frames().extend(chunk);
        while decoder.next_frame(updates).expect("a valid stream").is_some() {}
        messages += black_box(&*updates).len() as u64;
        updates.clear();
    }
    messages
}

fn benchmarks(criterion: &mut Criterion) {
    for (name, stream) in [("by-nexthop-id", by_nexthop_id()), ("captures", captures())] {
        let mut updates = Vec::new();
        let messages = decode(&stream, &mut updates);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        group.throughput(Throughput::ElementsAndBytes { elements: messages, bytes: stream.len() as u64 });
        group.bench_function("decode", |bencher| bencher.iter(|| decode(&stream, &mut updates)));
        let mut copy = vec![0; CHUNK];
        group.bench_function("memcpy", |bencher| {
            bencher.iter(|| {
                for chunk in stream.chunks(CHUNK) {
                    if let Some(space) = copy.get_mut(..chunk.len()) {
                        space.copy_from_slice(chunk);
                    }
                    black_box(&copy);
                }
            });
        });
    }
}

criterion_group!(decoding, benchmarks);
criterion_main!(decoding);
