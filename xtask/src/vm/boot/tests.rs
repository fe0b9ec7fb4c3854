use super::Console;
use crate::test::Tally;

const ALL_WELL: &str = "vm-guest: Linux 6.1.0
vm-guest: begin netns_a
test one ... ok
test result: ok. 3 passed; 0 failed; 0 ignored
vm-guest: end netns_a true
vm-guest: begin vm_b
SKIPPED two: no such device
test result: ok. 2 passed; 0 failed; 0 ignored
vm-guest: end vm_b true
vm-guest: result 0";

fn read(console: &str, status: Option<i32>) -> Tally {
    let mut reader = Console::new("Linux 6.1");
    for line in console.lines() {
        reader.line(line);
    }
    reader.verdict(["netns_a", "vm_b"].into_iter(), status)
}

#[test]
fn counts_what_the_tests_report() {
    let tally = read(ALL_WELL, Some(1));
    assert_eq!((tally.passed, tally.failed, tally.skipped), (4, 0, 1));
}

#[test]
fn a_failed_test_is_named_with_its_kernel() {
    let console = ALL_WELL
        .replace(
            "test one ... ok\ntest result: ok. 3 passed; 0 failed",
            "test one ... FAILED\ntest result: FAILED. 2 passed; 1 failed",
        )
        .replace("netns_a true", "netns_a false")
        .replace("result 0", "result 1");
    let tally = read(&console, Some(3));
    assert_eq!((tally.passed, tally.failed), (3, 1));
    assert_eq!(tally.failures, ["Linux 6.1 one"]);
}

#[test]
fn no_result_is_a_failure() {
    let silent = ALL_WELL.replace("vm-guest: result 0", "");
    assert_eq!(read(&silent, Some(1)).failures, ["Linux 6.1 machine"]);
    assert_eq!(read(ALL_WELL, None).failures, ["Linux 6.1 machine"]);
    assert_eq!(read(ALL_WELL, Some(0)).failures, ["Linux 6.1 machine"]);
    let hung = ALL_WELL.split("vm-guest: end vm_b").next().unwrap_or_default();
    assert_eq!(read(hung, Some(137)).failures, ["Linux 6.1 vm_b", "Linux 6.1 machine"]);
}

#[test]
fn a_program_without_tests_is_a_failure() {
    let empty = ALL_WELL.replace("test result: ok. 3 passed; 0 failed; 0 ignored\n", "");
    assert_eq!(read(&empty, Some(1)).failures, ["Linux 6.1 netns_a"]);
    let crashed = ALL_WELL.replace("netns_a true", "netns_a false").replace("result 0", "result 1");
    assert_eq!(read(&crashed, Some(3)).failures, ["Linux 6.1 netns_a"]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_counter_has_one_rate() {
    let (first, second) = (super::counter::kilohertz(), super::counter::kilohertz());
    assert!(first.abs_diff(second) < first / 100, "{first} kHz, then {second} kHz");
}
