//! What an agent of another configuration left in the kernel, and the one after it finds.

use super::*;
use crate::model::RouteKey;

/// What FRR says: a default route and another one.
fn told(bench: &mut Bench) {
    bench.say(&[hop(11, "10.0.1.1", 2), route("0.0.0.0/0", 11), route("100.64.1.0/24", 11)]);
    bench.replayed();
}

fn keys(bench: &Bench) -> Vec<RouteKey> {
    bench.kernel.routes.keys().copied().collect()
}

#[test]
fn what_an_older_configuration_left_goes_at_a_restart() {
    let with = |change: &dyn Fn(&mut Import)| {
        let mut spec = import(5000, 10500);
        change(&mut spec);
        vec![spec]
    };
    let defaults = |how: DefaultRoute| with(&move |spec| spec.default_route = how);
    let configurations = [
        defaults(DefaultRoute::Backup),
        defaults(DefaultRoute::Reject),
        defaults(DefaultRoute::Accept),
        with(&|spec| spec.metric = 30),
        with(&|spec| (spec.metric, spec.default_route) = (30, DefaultRoute::Accept)),
        with(&|spec| spec.into.table = 10501),
        with(&|spec| spec.from_table = 5001),
        with(&|spec| spec.program = false),
        // The default route by another import.
        vec![import(5000, 10500), {
            let allowed = Allowed::Prefixes(Vec::new());
            Import { allowed, metric: 30, default_route: DefaultRoute::Accept, ..import(5000, 10500) }
        }],
        Vec::new(),
    ];
    for older in &configurations {
        for newer in &configurations {
            let mut fresh = Bench::new(newer.clone());
            told(&mut fresh);
            // The zebra is the same as before, another one, or does not come back.
            for (pid, within) in [(Some(PID), 0), (Some(PID + 1), 120), (None, 120)] {
                let mut bench = Bench::new(older.clone());
                told(&mut bench);
                bench.intent.imports.clone_from(newer);
                bench.restart();
                let expected = if let Some(pid) = pid {
                    bench.connect(pid);
                    told(&mut bench);
                    keys(&fresh)
                } else {
                    Vec::new()
                };
                bench.wait(within);
                assert_eq!(keys(&bench), expected, "{older:?}\n{newer:?}\n{pid:?}");
                assert_eq!(bench.engine.feed().is_synchronized(), pid.is_some(), "{older:?}\n{newer:?}");
            }
        }
    }
}

#[test]
fn what_is_left_is_known_before_anything_is_written() {
    let mut bench = Bench::new(vec![import(5000, 254)]);
    two_paths(&mut bench);
    let before = bench.fib(254);
    bench.engine = Engine::new(&bench.intent.config, bench.now, Some(PID));
    bench.replan();
    bench.engine.hold_back();
    // Its dump fails.
    bench.engine.abort_audit();
    bench.connect(PID);
    bench.engine.fpm_updates(&[hop(11, "10.0.1.1", 2), route("100.64.9.0/24", 11)], bench.now);
    bench.engine.fpm_taken(bench.now);
    assert!(bench.engine.next_batch(bench.now).is_none());
    bench.engine.want_audit();
    bench.settle();
    assert_eq!(bench.via("100.64.9.0/24"), ["10.0.1.1"]);
    assert_eq!(bench.operations(two_paths), 0, "what was left is as it should be");
    assert!(before.iter().all(|(prefix, ways)| bench.fib(254).get(prefix) == Some(ways)));
}
