use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::frame::{Encoding, FrameErrorCause, write_frame};
use crate::netlink::{Offload, encode};
use crate::queue::COALESCE_FROM;
use crate::types::{NexthopId, Protocol, RouteKey, TableId};
use crate::update::{Route, Update};
use crate::{RouteDel, StreamError};

const PID: u32 = 0xc303_e5d7;

fn key(n: u32) -> RouteKey {
    let address = Ipv4Addr::from(0x0a00_0000 + n);
    RouteKey::new(TableId(1000), IpNet::V4(Ipv4Net::from(address)))
}

fn route(n: u32, nexthop: u32) -> Update {
    Update::Route(Route::by_nexthop(key(n), Protocol::BGP, NexthopId(nexthop)))
}

fn frame(updates: &[Update]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(Encoding::Netlink, &mut out, |payload| {
        for update in updates {
            encode(update, PID, payload);
        }
    })
    .unwrap();
    out
}

fn bind(options: ServerOptions) -> (Server, EventReceiver) {
    Server::bind((Ipv4Addr::LOCALHOST, 0).into(), options).unwrap()
}

async fn next(events: &mut EventReceiver) -> Event {
    tokio::time::timeout(Duration::from_secs(20), events.recv())
        .await
        .expect("an event")
        .expect("an open server")
}

/// The next events up to and with one that `last` accepts.
async fn until(events: &mut EventReceiver, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        seen.push(next(events).await);
        if seen.last().is_some_and(&last) {
            return seen;
        }
    }
}

fn updates_of(events: &[Event]) -> Vec<Update> {
    let mut all = Vec::new();
    for event in events {
        if let Event::Updates { updates, pid, .. } = event {
            assert_eq!(*pid, Some(PID));
            all.extend_from_slice(updates);
        }
    }
    all
}

#[tokio::test]
async fn a_session_from_connect_to_end() {
    let options = ServerOptions { quiet: Duration::from_millis(30), ..ServerOptions::default() };
    let (server, mut events) = bind(options);
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    let peer = zebra.local_addr().unwrap();
    assert_eq!(next(&mut events).await, Event::Connected { epoch: Epoch(1), peer });

    let sent = [route(1, 10), Update::RouteDel(RouteDel { key: key(2), protocol: None, metric: None })];
    zebra.write_all(&frame(&sent[..1])).await.unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::ReplayComplete { .. })).await;
    assert_eq!(updates_of(&seen), sent[..1]);
    assert_eq!(seen.last(), Some(&Event::ReplayComplete { epoch: Epoch(1), pid: Some(PID) }));

    zebra.write_all(&frame(&[route(3, 10)])).await.unwrap();
    drop(zebra);
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    assert_eq!(updates_of(&seen), [route(3, 10)]);
    assert_eq!(seen.last(), Some(&Event::Disconnected { epoch: Epoch(1), reason: DisconnectReason::Eof }));
    assert_eq!(events.stats().frames, 2);
    drop(server);
    assert_eq!(events.recv().await, None);
}

/// Gives memory for so many updates back; returns for how many that of the next three events was.
async fn after_recycling(room: usize) -> Vec<usize> {
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    let mut recycled = vec![route(99, 99)];
    recycled.reserve_exact(room - 1);
    let mut rooms = Vec::new();
    for n in 0..3 {
        events.recycle(std::mem::take(&mut recycled));
        zebra.write_all(&frame(&[route(n, 10)])).await.unwrap();
        let seen = until(&mut events, |event| matches!(event, Event::Updates { .. })).await;
        assert_eq!(updates_of(&seen), [route(n, 10)], "nothing of what it held is left");
        let Some(Event::Updates { updates, .. }) = seen.into_iter().last() else { panic!("not the last") };
        rooms.push(updates.capacity());
        recycled = updates;
    }
    rooms
}

#[tokio::test]
async fn memory_that_is_given_back_is_used_again() {
    assert!(after_recycling(10_000).await.contains(&10_000));
    assert!(
        !after_recycling(COALESCE_FROM + 1).await.iter().any(|room| *room > COALESCE_FROM),
        "too much to keep"
    );
}

#[tokio::test]
async fn malformed_bytes_end_the_session_and_nothing_else() {
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    let good = frame(&[route(1, 10)]);
    zebra.write_all(&good).await.unwrap();
    zebra.write_all(&[9, 1, 0, 40]).await.unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    assert_eq!(updates_of(&seen), [route(1, 10)], "what came before stays");
    let Some(Event::Disconnected { reason: DisconnectReason::Malformed(StreamError::Frame(error)), .. }) =
        seen.last()
    else {
        panic!("{:?}", seen.last());
    };
    assert_eq!((error.offset, error.cause), (good.len() as u64, FrameErrorCause::UnknownVersion(9)));
    assert_eq!(zebra.read(&mut [0]).await.unwrap(), 0, "the server closed");

    let mut again = TcpStream::connect(server.local_addr()).await.unwrap();
    again.write_all(&frame(&[route(2, 10)])).await.unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::Updates { .. })).await;
    assert_eq!(updates_of(&seen), [route(2, 10)]);
}

#[tokio::test]
async fn a_damaged_message_takes_its_whole_frame_with_it() {
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    let mut two = frame(&[route(1, 10), route(2, 10)]);
    let in_second = two.len() - 8;
    two[in_second] = 200;
    zebra.write_all(&two).await.unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    assert_eq!(updates_of(&seen), []);
    let Some(Event::Disconnected { reason: DisconnectReason::Malformed(error), .. }) = seen.last() else {
        panic!("{:?}", seen.last());
    };
    assert_eq!(error.offset(), 0);
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_named() {
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    let whole = frame(&[route(1, 10)]);
    zebra.write_all(&whole[..whole.len() - 1]).await.unwrap();
    drop(zebra);
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    let Some(Event::Disconnected { reason: DisconnectReason::Malformed(StreamError::Frame(error)), .. }) =
        seen.last()
    else {
        panic!("{:?}", seen.last());
    };
    assert_eq!(error.cause, FrameErrorCause::Truncated { have: whole.len() - 1, len: whole.len() });
}

#[tokio::test]
async fn the_newest_client_with_a_valid_frame_wins() {
    let (server, mut events) = bind(ServerOptions::default());
    let mut old = TcpStream::connect(server.local_addr()).await.unwrap();
    old.write_all(&frame(&[route(1, 10)])).await.unwrap();
    until(&mut events, |event| matches!(event, Event::Updates { .. })).await;

    let mut new = TcpStream::connect(server.local_addr()).await.unwrap();
    let (old_peer, new_peer) = (old.local_addr().unwrap(), new.local_addr().unwrap());
    old.write_all(&frame(&[route(2, 10)])).await.unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::Updates { .. })).await;
    assert_eq!(updates_of(&seen), [route(2, 10)], "a silent client takes nothing over");

    new.write_all(&frame(&[route(3, 10)])).await.unwrap();
    let seen = until(&mut events, |event| matches!(event, Event::Updates { .. })).await;
    assert_eq!(
        seen[..3],
        [
            Event::Disconnected { epoch: Epoch(1), reason: DisconnectReason::Superseded(new_peer) },
            Event::Superseded { epoch: Epoch(2), old_peer, new_peer },
            Event::Connected { epoch: Epoch(2), peer: new_peer },
        ]
    );
    assert_eq!(updates_of(&seen), [route(3, 10)]);

    // Far more than the sockets hold: it arrives only if the server still reads the old one.
    let flood = frame(&[route(4, 10)]).repeat(400_000);
    old.write_all(&flood).await.unwrap();
    drop(new);
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    assert_eq!(updates_of(&seen), [], "and forgets it");
    assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0, "closed, so that its zebra connects again");
}

#[tokio::test]
async fn a_slow_consumer_costs_bounded_memory_and_gets_the_latest_state() {
    const KEYS: u32 = 20_000;
    const ROUNDS: u32 = 8;
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    for round in 0..ROUNDS {
        for chunk in (0..KEYS).collect::<Vec<_>>().chunks(1000) {
            let del = |n| Update::RouteDel(RouteDel { key: key(n), protocol: None, metric: None });
            let frames = chunk.iter().flat_map(|&n| frame(&[del(n), route(n, round)]));
            zebra.write_all(&frames.collect::<Vec<_>>()).await.unwrap();
        }
    }
    drop(zebra);
    let all = u64::from(KEYS * ROUNDS * 2);
    while events.stats().messages < all {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stats = events.stats();
    assert_eq!(stats.pending_updates, KEYS as usize);
    assert_eq!(stats.coalesced, all - u64::from(KEYS));
    // Twice for the growth of the vector and the table; the session sent 160,000 routes and as many deletes.
    assert!(stats.peak_pending_bytes < KEYS as usize * 600, "{} bytes", stats.peak_pending_bytes);
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    let expected: Vec<_> = (0..KEYS).map(|n| route(n, ROUNDS - 1)).collect();
    assert!(updates_of(&seen) == expected, "the latest of each, with no key lost");
}

#[tokio::test]
async fn the_bound_of_the_queue_ends_the_session() {
    let (server, mut events) = bind(ServerOptions { max_pending_bytes: 1 << 20, ..ServerOptions::default() });
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    let frames: Vec<u8> = (0..100_000).flat_map(|n| frame(&[route(n, 1)])).collect();
    // The server closes within it.
    let _ = zebra.write_all(&frames).await;
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    let Some(Event::Disconnected { reason: DisconnectReason::Overflow { .. }, .. }) = seen.last() else {
        panic!("{:?}", seen.last());
    };
}

#[tokio::test]
async fn feedback_reaches_the_sessions_zebra() {
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = TcpStream::connect(server.local_addr()).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    let feedback = server.feedback();
    let route = Route::by_nexthop(key(1), Protocol::BGP, NexthopId(1));
    let send = |epoch| feedback.send(epoch, &route, Offload::Done);
    assert_eq!(send(Epoch(7)), Err(FeedbackError::NoSession));
    for _ in 0..3 {
        send(Epoch(1)).unwrap();
    }
    let mut frame = vec![0; 64 * 3];
    zebra.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[..4], [1, 1, 0, 64]);
    assert_eq!(events.stats().feedback_frames, 3);
}

/// The consumer's runtime is blocked here: only a thread of the server's own can read meanwhile.
#[tokio::test]
async fn the_socket_is_read_while_the_consumer_is_busy() {
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = std::net::TcpStream::connect(server.local_addr()).unwrap();
    let flood = frame(&[route(1, 10)]).repeat(400_000);
    io::Write::write_all(&mut zebra, &flood).unwrap();
    drop(zebra);
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    assert_eq!(updates_of(&seen).last(), Some(&route(1, 10)));
    let again = Server::bind(server.local_addr(), ServerOptions::default());
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let addr = server.local_addr();
    drop(server);
    Server::bind(addr, ServerOptions::default()).expect("the address is free again");
}

/// A consumer that takes nothing for as long as zebra writes: thirty times the same table, changed each time.
#[tokio::test]
async fn a_slow_consumer_holds_zebra_up_no_more_than_it_loses_a_route() {
    const KEYS: u32 = 20_000;
    const ROUNDS: u32 = 30;
    /// What the queue keeps of a route: itself and its place in an index that may be half empty, both in lists that grow by doubling.
    const BYTES_PER_KEY: usize = 2 * size_of::<Update>() + 4 * 64;
    let (server, mut events) = bind(ServerOptions::default());
    let mut zebra = std::net::TcpStream::connect(server.local_addr()).unwrap();
    // Writing would fail, not wait, if the socket were not read.
    zebra.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut sent = 0;
    for round in 1..=ROUNDS {
        let withdrawn = |n: u32| n % 7 == round % 7;
        let delete = |n| Update::RouteDel(RouteDel { key: key(n), protocol: None, metric: None });
        let updates = (0..KEYS).map(|n| if withdrawn(n) { delete(n) } else { route(n, round) });
        let frames: Vec<u8> = updates.flat_map(|update| frame(&[update])).collect();
        sent += frames.len();
        io::Write::write_all(&mut zebra, &frames).unwrap();
    }
    drop(zebra);
    assert!(sent > 30 << 20, "more than any socket holds: {sent} bytes");
    let seen = until(&mut events, |event| matches!(event, Event::Disconnected { .. })).await;
    let mut table = std::collections::BTreeMap::new();
    for update in updates_of(&seen) {
        match update {
            Update::Route(route) => drop(table.insert(route.key, route)),
            Update::RouteDel(route) => drop(table.remove(&route.key)),
            other => panic!("{other:?}"),
        }
    }
    let expected = (0..KEYS).filter(|n| n % 7 != ROUNDS % 7).map(|n| route(n, ROUNDS));
    assert_eq!(table.into_values().map(Update::Route).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let stats = events.stats();
    // What was still in the socket came when the consumer was awake again.
    assert!(stats.coalesced > u64::from(KEYS * ROUNDS / 2), "{stats:?}");
    assert!(stats.peak_pending_bytes < KEYS as usize * BYTES_PER_KEY, "{stats:?}");
}

#[test]
fn peers_elsewhere_need_a_listener_elsewhere() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(admits(ip("127.0.0.1"), ip("127.0.0.9")));
    assert!(admits(ip("::1"), ip("::ffff:127.0.0.1")));
    assert!(!admits(ip("127.0.0.1"), ip("192.0.2.1")));
    assert!(!admits(ip("::1"), ip("2001:db8::1")));
    assert!(!admits(ip("::ffff:127.0.0.1"), ip("::ffff:192.0.2.1")));
    assert!(admits(ip("192.0.2.7"), ip("192.0.2.1")));
    assert!(admits(ip("::"), ip("2001:db8::1")));
}
