use std::collections::BTreeSet;

use super::reason::condition;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_transition_moves_the_time_and_a_new_message_does_not() {
    let mut set = ConditionSet::default();
    assert!(set.set(at(1), condition::FPM_CONNECTED, false, reason::NEVER_CONNECTED, "waiting"));
    assert!(!set.set(at(2), condition::FPM_CONNECTED, false, reason::NEVER_CONNECTED, "waiting"));
    assert_eq!(set.get(condition::FPM_CONNECTED).unwrap().last_transition_time, Time(at(1)));
    assert!(set.set(at(3), condition::FPM_CONNECTED, false, reason::LOST, "gone"));
    assert_eq!(set.get(condition::FPM_CONNECTED).unwrap().last_transition_time, Time(at(1)));
    assert!(set.set(at(4), condition::FPM_CONNECTED, true, reason::CONNECTED, ""));
    let now = set.get(condition::FPM_CONNECTED).unwrap();
    assert_eq!(
        (now.last_transition_time.0, now.status.as_str(), now.reason.as_str()),
        (at(4), "True", "Connected")
    );
    assert!(set.clear(condition::FPM_CONNECTED) && !set.clear(condition::FPM_CONNECTED));
}

#[test]
fn times_survive_a_restart() {
    let mut set = ConditionSet::default();
    set.set(at(1), condition::READY, true, reason::ALL_WELL, "");
    let mut restarted = ConditionSet::new(set.as_slice().to_vec());
    assert!(!restarted.set(at(9), condition::READY, true, reason::ALL_WELL, ""));
    assert_eq!(restarted, set);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let mut set = ConditionSet::default();
    set.set(at(1), condition::DEGRADED, true, reason::PARTIAL, &"ä".repeat(MAX_MESSAGE));
    let message = &set.get(condition::DEGRADED).unwrap().message;
    assert_eq!(message.len(), MAX_MESSAGE);
}

/// The words of a table of `docs/cli.md`: first cells in backticks, between `marker` and the next heading.
fn documented(marker: &str) -> BTreeSet<String> {
    include_str!("../../../docs/cli.md")
        .split_once(marker)
        .unwrap_or_else(|| panic!("docs/cli.md has no {marker:?}"))
        .1
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(word, _)| word.to_owned())
        .collect()
}

#[test]
fn the_manual_lists_exactly_the_words_of_the_code() {
    let states: Vec<String> = crate::control::RouteState::ALL.iter().map(ToString::to_string).collect();
    let states: Vec<&str> = states.iter().map(String::as_str).collect();
    let events: Vec<String> = crate::control::EventKind::ALL.iter().map(ToString::to_string).collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    for (heading, words) in [
        ("### Conditions", condition::ALL),
        ("### Reasons of conditions", reason::CONDITIONS),
        ("### Reasons of conflicts and items", reason::ITEMS),
        ("### Route states", &states),
        ("### Events of flows", &events),
        ("### Reasons of routes", reason::ROUTES),
    ] {
        let code: BTreeSet<String> = words.iter().map(ToString::to_string).collect();
        assert_eq!(code.len(), words.len(), "a word is declared twice under {heading}");
        assert_eq!(documented(heading), code, "under {heading}");
    }
}
