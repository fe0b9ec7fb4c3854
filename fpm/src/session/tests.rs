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

#[test]
fn a_restarted_zebra_gets_time_and_a_lost_one_loses_its_routes() {
    let start = Instant::now();
    let mut retention = Retention::new(Some(Duration::from_secs(60)));
    assert_eq!(retention.deadline(), None);
    assert!(!retention.replay_complete(Some(1)));
    retention.disconnected(start);
    assert_eq!(retention.deadline(), Some(seconds(start, 60)));
    assert!(!retention.replay_complete(Some(2)), "restarted");
    retention.disconnected(seconds(start, 30));
    assert!(retention.replay_complete(Some(2)), "this one lived");
    assert_eq!(retention.deadline(), None);
    retention.disconnected(seconds(start, 100));
    assert!(retention.tick(seconds(start, 160)) && !retention.tick(seconds(start, 400)));
}

#[test]
fn protobuf_never_tells_that_zebra_lived() {
    let start = Instant::now();
    let mut retention = Retention::new(Some(Duration::from_secs(60)));
    assert!(!retention.replay_complete(None));
    retention.disconnected(start);
    assert!(!retention.replay_complete(None));
    assert!(retention.tick(seconds(start, 60)));
}

#[test]
fn kept_for_ever_means_until_the_next_replay() {
    let mut retention = Retention::new(None);
    retention.disconnected(Instant::now());
    assert_eq!(retention.deadline(), None);
    assert!(retention.replay_complete(Some(9)));
}
