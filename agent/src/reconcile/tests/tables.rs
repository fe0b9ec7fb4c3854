//! Tables that zebra writes itself.

use super::*;
use crate::plan::Rejection;

const TABLE: u32 = 10500;

fn in_table(prefix: &str) -> Update {
    Update::Route(Route::by_nexthop(FpmKey::new(TableId(TABLE), net(prefix)), Protocol::BGP, FpmId(11)))
}

fn withdraw_in_table(prefix: &str) -> Update {
    let key = FpmKey::new(TableId(TABLE), net(prefix));
    Update::RouteDel(RouteDel { key, protocol: Some(Protocol::BGP), metric: None })
}

/// As the daemon does after what FRR said.
fn planned(bench: &mut Bench, updates: &[Update]) {
    bench.say(updates);
    bench.replan();
    bench.settle();
}

fn silent(bench: &Bench) -> Vec<u32> {
    bench.engine.silent_tables(bench.now).collect()
}

const GRACE: u64 = 120;

#[test]
fn a_table_stays_zebras_while_its_routes_flap_and_over_restarts() {
    let mut bench = Bench::new(vec![import(5000, TABLE)]);
    let mine = [hop(11, "10.0.1.1", 2), route("100.64.1.0/24", 11)];
    planned(&mut bench, &[mine.to_vec(), vec![in_table("10.9.0.0/16")]].concat());
    // The first message came with both; what the engine wrote before the plan followed is gone again.
    let operations = bench.operations(|bench| {
        for _ in 0..3 {
            planned(bench, &[withdraw_in_table("10.9.0.0/16")]);
            planned(bench, &[in_table("10.9.0.0/16")]);
        }
        planned(bench, &[withdraw_in_table("10.9.0.0/16")]);
        bench.replayed();
        bench.restart();
        bench.connect(PID);
        planned(bench, &mine);
        planned(bench, &[in_table("10.9.0.0/16")]);
        bench.replayed();
        bench.wait(GRACE);
        assert_eq!(silent(bench), [] as [u32; 0], "said in this session");
        bench.engine.fpm_disconnected(bench.now);
        bench.connect(PID + 1);
        planned(bench, &mine);
        bench.replayed();
        assert_eq!(silent(bench), [] as [u32; 0], "BGP has not converged");
        bench.replan();
        bench.settle();
    });
    assert_eq!((operations, bench.fib(TABLE).len()), (0, 0));
    bench.wait(GRACE);
    assert_eq!(silent(&bench), [TABLE]);
    assert!(bench.fib(TABLE).is_empty(), "the kernel has to be asked");
    bench.engine.forget_table(TABLE);
    bench.replan();
    bench.settle();
    assert_eq!(bench.fib(TABLE).len(), 1);
    planned(&mut bench, &[in_table("10.9.0.0/16")]);
    assert!(bench.fib(TABLE).is_empty());
}

#[test]
fn into_a_vrf_nothing_new_is_written_before_the_first_replay_has_ended() {
    let mut bench = Bench::new(vec![import(5000, TABLE)]);
    bench.links.get_mut(&3).unwrap().vrf_table = Some(TABLE);
    bench.replan();
    planned(&mut bench, &[hop(11, "10.0.1.1", 2), hop(12, "10.0.1.2", 2), route("100.64.1.0/24", 11)]);
    assert!(bench.fib(TABLE).is_empty());
    let why = Rejection::Replay.as_str();
    assert_eq!(bench.engine.counts().rejected.get(why), Some(&1));
    bench.replayed();
    bench.replan();
    bench.settle();
    assert_eq!(bench.fib(TABLE).len(), 1);
    // What was there before a restart goes on as FRR says.
    bench.restart();
    bench.connect(PID);
    planned(&mut bench, &[hop(12, "10.0.1.2", 2), route("100.64.1.0/24", 12), route("100.64.2.0/24", 12)]);
    let all: Vec<String> = bench.fib(TABLE).keys().map(ToString::to_string).collect();
    assert_eq!(all, ["100.64.1.0/24"]);
    assert_eq!(bench.fib(TABLE)[&net("100.64.1.0/24")][0].0, "10.0.1.2");
    bench.replayed();
    bench.replan();
    bench.settle();
    assert_eq!(bench.fib(TABLE).len(), 2);
    // Later sessions do not wait.
    bench.engine.fpm_disconnected(bench.now);
    bench.connect(PID);
    planned(&mut bench, &[hop(12, "10.0.1.2", 2), route("100.64.3.0/24", 12)]);
    assert_eq!(bench.fib(TABLE).len(), 3);
}
