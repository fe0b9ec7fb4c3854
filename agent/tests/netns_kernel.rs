//! The netlink edge against the real kernel, each test in a network namespace of its own.

#[path = "netns_kernel/actions.rs"]
mod actions;
#[path = "netns_kernel/monitor.rs"]
mod monitor;
#[path = "netns_kernel/programmer.rs"]
mod programmer;
#[path = "netns_kernel/random.rs"]
mod random;

use std::future::Future;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use backtrail::kernel::dump::{RouteFilter, dump_routes};
use backtrail::kernel::programmer::{Batch, BatchDone, Programmer, RouteOp};
use backtrail::model::{
    Family, Hop, KernelRoute, Member, NexthopBody, NexthopId, NexthopObject, RouteKey, RouteTarget,
};
use nix::sched::{CloneFlags, unshare};

const OURS: u8 = 201;
const TABLE: u32 = 10_000;

/// Interfaces of the test's namespace: a pair, both ends up and with addresses.
#[derive(Clone, Copy)]
struct Links {
    /// Index of `v0`: 10.0.0.1/24 and fd00::1/64.
    v0: u32,
    /// Index of `v1`: 10.0.1.1/24 and fd00:1::1/64.
    v1: u32,
}

/// Runs a test on a thread that has a network namespace of its own. What it leaves behind goes with the namespace.
fn in_namespace(test: impl FnOnce(Links) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for command in [
            "link set lo up",
            "link add v0 type veth peer name v1",
            "address add 10.0.0.1/24 dev v0",
            "address add fd00::1/64 dev v0 nodad",
            "address add 10.0.1.1/24 dev v1",
            "address add fd00:1::1/64 dev v1 nodad",
            "link set v0 up",
            "link set v1 up",
        ] {
            ip(command);
        }
        // IPv6 waits for the carrier, which a pair gets a moment later.
        until("the connected IPv6 routes", || (ip("-6 route show fd00:1::/64").contains("v1")).then_some(()));
        test(Links { v0: index("v0"), v1: index("v1") });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The same for a test that needs the runtime.
fn in_namespace_async<F: Future<Output = ()>>(test: impl FnOnce(Links) -> F + Send + 'static) {
    in_namespace(move |links| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(test(links));
    });
}

/// Runs `ip`; returns what it prints.
fn ip(command: &str) -> String {
    let output = Command::new("ip").args(command.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the interface")
}

/// Polls until `ready` gives something.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Applies operations and waits for the result.
fn apply(ops: Vec<RouteOp>) -> BatchDone {
    let (programmer, mut done) = Programmer::spawn().expect("programmer");
    programmer.try_submit(Batch { id: 7, ops }).expect("an empty queue takes a batch");
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Ok(done) = done.try_recv() {
            assert_eq!(done.id, 7);
            return done;
        }
        assert!(Instant::now() < deadline, "no answer to a batch in 120 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Applies operations, none of which may fail.
fn apply_all(ops: Vec<RouteOp>) {
    let done = apply(ops);
    let told: Vec<_> =
        done.errors.iter().map(|error| format!("{}: {error}", done.ops[error.index])).collect();
    assert!(told.is_empty(), "{told:#?}");
}

fn errors(done: &BatchDone) -> Vec<(usize, i32)> {
    done.errors.iter().map(|error| (error.index, error.errno)).collect()
}

fn dumped(filter: RouteFilter) -> Vec<KernelRoute> {
    let mut routes = Vec::new();
    dump_routes(filter, &mut |route| routes.push(route)).expect("dump");
    routes.sort_by_key(|route| (route.key.table, route.key.prefix, route.key.metric));
    routes
}

/// Our routes in our table.
fn ours() -> Vec<KernelRoute> {
    dumped(RouteFilter { table: Some(TABLE), protocol: Some(OURS), ..RouteFilter::default() })
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn route(prefix: &str, target: RouteTarget) -> KernelRoute {
    KernelRoute {
        key: RouteKey { table: TABLE, prefix: prefix.parse().expect("a prefix"), metric: 20 },
        target,
        preferred_source: None,
        mtu: None,
        protocol: OURS,
        scope_link: false,
    }
}

fn by_id(prefix: &str, id: u32) -> KernelRoute {
    route(prefix, RouteTarget::Nexthop(NexthopId(id)))
}

fn hop(gateway: &str, ifindex: u32) -> Hop {
    let gateway = address(gateway);
    Hop { gateway: Some(gateway), ifindex, onlink: false, family: Family::of_addr(&gateway) }
}

fn single(id: u32, gateway: &str, ifindex: u32) -> NexthopObject {
    NexthopObject { id: NexthopId(id), protocol: OURS, body: NexthopBody::Single(hop(gateway, ifindex)) }
}

fn group(id: u32, members: &[(u32, u16)]) -> NexthopObject {
    let members = members.iter().map(|&(id, weight)| Member { id: NexthopId(id), weight }).collect();
    NexthopObject { id: NexthopId(id), protocol: OURS, body: NexthopBody::Group(members) }
}
