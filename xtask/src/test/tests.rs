use super::*;

fn counted(lines: &str) -> Tally {
    let mut counter = Counter::default();
    for line in lines.lines() {
        counter.line("agent", line);
    }
    counter.tally
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
