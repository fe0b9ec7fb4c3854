use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const QUIET: Duration = DEFAULT_QUIET;

fn seconds(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn pauses_of_zebras_walk_do_not_end_the_replay() {
    let start = Instant::now();
    let mut replay = Replay::new(QUIET);
    for second in 0..100 {
        replay.frame(seconds(start, second));
        assert!(!replay.tick(seconds(start, second + 1)), "zebra retries after one second");
    }
    assert_eq!(replay.deadline(), Some(seconds(start, 102)));
    assert!(replay.tick(seconds(start, 102)) && replay.is_complete());
    replay.frame(seconds(start, 200));
    assert_eq!(replay.deadline(), None, "what comes later is live");
}

#[test]
fn half_a_frame_is_no_sign_of_a_replay_but_of_one_going_on() {
    let start = Instant::now();
    let mut replay = Replay::new(QUIET);
    replay.bytes(start);
    assert_eq!(replay.deadline(), None);
    replay.frame(start);
    replay.bytes(seconds(start, 2));
    assert_eq!(replay.deadline(), Some(seconds(start, 5)));
}

proptest! {
    /// Complete exactly once, never before a pause of the quiet time, and always after one.
    #[test]
    fn a_replay_ends_at_its_first_pause(gaps in vec(0..6_000u64, 1..50)) {
        let mut now = Instant::now();
        let mut replay = Replay::new(QUIET);
        replay.frame(now);
        let (mut ends, mut expected) = (0, 0);
        for gap in gaps {
            let gap = Duration::from_millis(gap);
            now += gap;
            ends += u32::from(replay.tick(now));
            if gap >= QUIET && expected == 0 {
                expected = 1;
            }
            prop_assert_eq!(ends, expected);
            replay.frame(now);
        }
    }
}

/// A feed that lost a whole copy of zebra 1 at second 0.
fn lost(start: Instant) -> Feed {
    let mut feed = Feed::new(start, Some(1));
    feed.connected(start);
    feed.seen_pid(1);
    feed.replay_complete(start);
    feed.synchronized();
    feed.disconnected(start);
    feed
}

const MINUTE: Retention = Retention::For(Duration::from_secs(60));

#[test]
fn a_restarted_zebra_gets_time_and_a_lost_one_loses_its_routes() {
    let start = Instant::now();
    let mut feed = lost(start);
    assert_eq!(feed.hold_until(MINUTE), Some(seconds(start, 60)));
    assert_eq!(feed.hold_until(Retention::Withdraw), Some(start));
    feed.connected(seconds(start, 10));
    feed.seen_pid(2);
    feed.replay_complete(seconds(start, 20));
    assert_eq!(feed.hold_until(MINUTE), Some(seconds(start, 60)), "restarted: what it has not said may come");
    feed.disconnected(seconds(start, 30));
    assert_eq!(feed.hold_until(MINUTE), Some(seconds(start, 60)), "a loss after a loss gives no more time");
    feed.connected(seconds(start, 40));
    feed.seen_pid(1);
    feed.replay_complete(seconds(start, 50));
    assert_eq!(feed.hold_until(MINUTE), Some(seconds(start, 50)), "the zebra that we had whole");
    feed.synchronized();
    assert!(feed.is_synchronized() && feed.synced_pid() == Some(1));
}

#[test]
fn protobuf_never_tells_that_zebra_lived() {
    let start = Instant::now();
    let mut feed = Feed::new(start, None);
    for replay in [10, 20] {
        feed.connected(seconds(start, replay - 5));
        feed.replay_complete(seconds(start, replay));
        assert_eq!(feed.hold_until(MINUTE), Some(seconds(start, 60)));
    }
}

#[test]
fn kept_for_ever_means_until_a_new_zebra_had_its_time() {
    let start = Instant::now();
    let mut feed = lost(start);
    assert_eq!(feed.hold_until(Retention::Forever), None);
    feed.connected(start);
    feed.seen_pid(9);
    assert_eq!(feed.hold_until(Retention::Forever), None);
    feed.replay_complete(seconds(start, 10));
    assert_eq!(feed.hold_until(Retention::Forever), Some(seconds(start, 10) + GRACE));
}

#[test]
fn at_the_start_even_a_consumer_that_withdraws_waits_for_zebra() {
    let start = Instant::now();
    let feed = Feed::new(start, None);
    assert_eq!(feed.hold_until(Retention::Withdraw), Some(start + START_GRACE));
    let mut synchronized = feed;
    synchronized.synchronized();
    assert!(!synchronized.is_synchronized(), "there is no session");
}
