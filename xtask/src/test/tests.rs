use super::*;

fn counted(lines: &str) -> Tally {
    let mut counter = Counter::default();
    for line in lines.lines() {
        counter.line("agent", line);
    }
    counter.end("agent")
}

#[test]
fn results_of_several_programs_add_up() {
    let tally = counted(
        "test a ... ok\ntest result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
         test b ... FAILED\nc::d --- FAILED\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2s",
    );
    assert_eq!((tally.passed, tally.failed, tally.skipped), (4, 2, 0));
    assert_eq!(tally.failures, ["agent b", "agent c::d"]);
    assert_eq!(tally.to_string(), "4 passed, 2 failed, 0 skipped");
}

#[test]
fn a_test_that_says_skipped_is_not_passed() {
    let tally = counted(
        "SKIPPED trixie: mmdebstrap is missing\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
    );
    assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 0, 1));
    assert_eq!(tally.skips, ["trixie: mmdebstrap is missing"]);
}

#[test]
fn a_program_that_dies_without_a_result_is_a_failure() {
    let tally = super::counted("dies", Command::new("sh").args(["-c", "exit 3"])).expect("sh");
    assert_eq!((tally.passed, tally.failed), (0, 1));
}

#[test]
fn what_failed_tests_say_is_kept_and_what_passing_ones_say_is_not_shown() {
    let mut counter = Counter::default();
    let lines = [
        ("running 2 tests", true),
        ("test a ... ok", true),
        ("test b ... FAILED", true),
        ("successes:", false),
        ("a long story", false),
        ("SKIPPED c: no kernel", true),
        ("failures:", true),
        ("b: left 1, right 2", true),
        ("test result: FAILED. 1 passed; 1 failed; 0 ignored", true),
    ];
    for (line, shown) in lines {
        assert_eq!(counter.line("agent", line), shown, "{line}");
    }
    assert_eq!(counter.end("agent").reports, ["--- agent ---\nfailures:\nb: left 1, right 2"]);
}
