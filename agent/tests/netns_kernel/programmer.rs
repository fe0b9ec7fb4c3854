//! Routes and nexthop objects: written, refused, dumped, looked up.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use backtrail::kernel::dump::{RouteFilter, dump_nexthops, visit_routes_behind};
use backtrail::kernel::gate::Gate;
use backtrail::kernel::lookup::{Lookup, get_route, match_route};
use backtrail::kernel::programmer::RouteOp;
use backtrail::model::{
    Family, Hop, KernelRoute, NexthopBody, NexthopId, NexthopObject, RouteTarget, Special,
};

use crate::{
    Links, OURS, TABLE, address, apply, apply_all, by_id, dumped, errors, group, hop, in_namespace, ip, ours,
    route, single, until,
};

fn onlink(id: u32, gateway: &str, ifindex: u32) -> NexthopObject {
    let hop = Hop { onlink: true, ..hop(gateway, ifindex) };
    NexthopObject { body: NexthopBody::Single(hop), ..single(id, gateway, ifindex) }
}

fn direct(id: u32, family: Family, ifindex: u32) -> NexthopObject {
    let hop = Hop { gateway: None, ifindex, onlink: false, family };
    NexthopObject { id: NexthopId(id), protocol: OURS, body: NexthopBody::Single(hop) }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn routes_of_both_families_come_and_go() {
    in_namespace(|Links { v0, v1 }| {
        let objects = [
            single(1, "10.0.0.2", v0),
            single(2, "10.0.1.2", v1),
            single(3, "fd00::2", v0),
            single(4, "fd00:1::2", v1),
            // As BGP unnumbered has them, and as tables that main knows nothing of need them.
            single(5, "fe80::2", v0),
            onlink(6, "172.16.0.1", v1),
            onlink(7, "2001:db8:ffff::1", v1),
            direct(8, Family::Ipv4, v0),
            direct(9, Family::Ipv6, v0),
            group(10, &[(1, 1), (2, 200)]),
            group(11, &[(3, 3), (4, 2)]),
        ];
        let mut tuned = by_id("100.64.0.0/10", 1);
        tuned.mtu = Some(1400);
        tuned.preferred_source = Some(address("10.0.1.1"));
        let mut connected = by_id("203.0.117.0/24", 8);
        connected.scope_link = true;
        let added = [
            by_id("0.0.0.0/0", 1),
            by_id("10.8.0.0/16", 2),
            route("10.9.0.0/16", RouteTarget::Special(Special::Blackhole)),
            tuned,
            by_id("192.0.2.0/24", 10),
            // IPv4 by an IPv6 gateway (RFC 8950).
            by_id("203.0.113.0/24", 3),
            by_id("203.0.114.0/24", 11),
            by_id("203.0.115.0/24", 5),
            by_id("203.0.116.0/24", 6),
            connected,
            by_id("::/0", 4),
            by_id("2001:db8::/32", 11),
            route("2001:db8:1::/48", RouteTarget::Special(Special::Unreachable)),
            route("2001:db8:2::/48", RouteTarget::Special(Special::Prohibit)),
            by_id("2001:db8:3::/48", 7),
            by_id("2001:db8:4::/48", 9),
        ];
        let nexthops = objects.iter().cloned().map(RouteOp::AddNexthop);
        apply_all(nexthops.chain(added.iter().cloned().map(RouteOp::AddRoute)).collect());
        assert_eq!(dump_nexthops(Some(OURS)).expect("dump"), objects);
        assert_eq!(ours(), added);
        let shown = ip("route show table 10000 192.0.2.0/24");
        assert!(shown.contains("nhid 10 proto 201 metric 20"), "{shown}");

        apply_all(added.into_iter().map(RouteOp::DelRoute).collect());
        assert_eq!(ours(), []);
        apply_all((1..=11).rev().map(|id| RouteOp::DelNexthop(NexthopId(id))).collect());
        assert_eq!(dump_nexthops(None).expect("dump"), []);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn inline_nexthops_of_all_shapes_come_and_go() {
    in_namespace(|Links { v0, v1 }| {
        let onlink = Hop { onlink: true, ..hop("172.16.0.1", v0) };
        let direct = |family| Hop { gateway: None, ifindex: v0, onlink: false, family };
        let mut connected = route("10.7.0.0/16", RouteTarget::Inline(vec![(direct(Family::Ipv4), 1)]));
        connected.scope_link = true;
        let added = [
            route("10.1.0.0/16", RouteTarget::Inline(vec![(hop("10.0.0.2", v0), 1)])),
            route("10.2.0.0/16", RouteTarget::Inline(vec![(hop("fd00::2", v0), 1)])),
            route(
                "10.3.0.0/16",
                RouteTarget::Inline(vec![(hop("10.0.0.2", v0), 1), (hop("10.0.1.2", v1), 7)]),
            ),
            route("10.4.0.0/16", RouteTarget::Inline(vec![(onlink, 1)])),
            route("10.5.0.0/16", RouteTarget::Inline(vec![(onlink, 2), (hop("fd00:1::2", v1), 256)])),
            connected,
            route("2001:db8:1::/48", RouteTarget::Inline(vec![(hop("fd00::2", v0), 1)])),
            route(
                "2001:db8:2::/48",
                RouteTarget::Inline(vec![(hop("fd00::2", v0), 2), (hop("fd00:1::2", v1), 3)]),
            ),
            route("2001:db8:3::/48", RouteTarget::Inline(vec![(direct(Family::Ipv6), 1)])),
        ];
        apply_all(added.iter().cloned().map(RouteOp::AddRoute).collect());
        assert_eq!(ours(), added);
        apply_all(added.into_iter().map(RouteOp::DelRoute).collect());
        assert_eq!(ours(), []);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replacing_changes_what_is_there_and_creates_routes_but_no_nexthops() {
    in_namespace(|Links { v0, v1 }| {
        apply_all(vec![
            RouteOp::AddNexthop(single(1, "10.0.0.2", v0)),
            RouteOp::AddNexthop(single(2, "10.0.1.2", v1)),
            RouteOp::AddNexthop(group(10, &[(1, 1)])),
            RouteOp::ReplaceRoute(by_id("192.0.2.0/24", 1)),
            RouteOp::ReplaceRoute(by_id("192.0.2.0/24", 10)),
        ]);
        apply_all(vec![
            RouteOp::ReplaceNexthop(group(10, &[(1, 1), (2, 4)])),
            RouteOp::ReplaceNexthop(single(1, "10.0.0.3", v0)),
        ]);
        // What is gone took its routes along: made anew it would stand there without them.
        let absent = apply(vec![
            RouteOp::ReplaceNexthop(single(3, "10.0.0.4", v0)),
            RouteOp::ReplaceNexthop(group(11, &[(1, 1)])),
            RouteOp::ReplaceNexthop(group(11, &[(3, 1)])),
            RouteOp::ReplaceNexthop(group(10, &[(3, 1)])),
        ]);
        let (gone, no_member) = (libc::ENOENT, libc::EINVAL);
        assert_eq!(errors(&absent), [(0, gone), (1, gone), (2, no_member), (3, no_member)]);
        assert_eq!(ours(), [by_id("192.0.2.0/24", 10)]);
        let objects = dump_nexthops(Some(OURS)).expect("dump");
        assert_eq!(
            objects,
            [single(1, "10.0.0.3", v0), single(2, "10.0.1.2", v1), group(10, &[(1, 1), (2, 4)])]
        );
        let mut v6 = route("2001:db8::/32", RouteTarget::Inline(vec![(hop("fd00::2", v0), 1)]));
        apply_all(vec![RouteOp::AddRoute(v6.clone())]);
        v6.target = RouteTarget::Inline(vec![(hop("fd00:1::2", v1), 1)]);
        apply_all(vec![RouteOp::ReplaceRoute(v6.clone())]);
        assert_eq!(ours(), [by_id("192.0.2.0/24", 10), v6]);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn each_error_finds_its_operation_and_harms_no_other() {
    in_namespace(|Links { v0, .. }| {
        let mut ops = vec![RouteOp::AddNexthop(single(1, "10.0.0.2", v0))];
        // Enough for several sends.
        let prefix = |n: usize| format!("100.{}.{}.0/24", n / 256, n % 256);
        ops.extend((1..5000).map(|n| RouteOp::AddRoute(by_id(&prefix(n), 1))));
        ops[700] = RouteOp::AddRoute(by_id(&prefix(700), 99));
        ops[1500] =
            RouteOp::AddNexthop(NexthopObject { id: NexthopId(5), protocol: OURS, body: NexthopBody::Other });
        ops[3000] = RouteOp::DelRoute(by_id("203.0.113.0/24", 1));
        ops[3001] = RouteOp::AddRoute(by_id(&prefix(1), 1));
        ops[4999] = RouteOp::DelNexthop(NexthopId(99));
        let done = apply(ops.clone());
        assert_eq!(done.ops, ops);
        assert_eq!(
            errors(&done),
            [
                (700, libc::EINVAL),
                (1500, libc::EINVAL),
                (3000, libc::ESRCH),
                (3001, libc::EEXIST),
                (4999, libc::ENOENT)
            ]
        );
        let text = done.errors[0].to_string();
        assert!(text.contains("Nexthop id does not exist"), "{text}");
        assert!(done.elapsed > Duration::ZERO);
        assert_eq!(ours().len(), 4999 - 5);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn foreign_routes_are_neither_replaced_nor_deleted() {
    in_namespace(|Links { v0, .. }| {
        ip("route add 192.0.2.0/24 via 10.0.0.9 table 10000 metric 20 proto 186");
        ip("-6 route add 2001:db8::/32 via fd00::9 table 10000 metric 20 proto 186");
        let foreign =
            || dumped(RouteFilter { table: Some(TABLE), protocol: Some(186), ..RouteFilter::default() });
        let before = foreign();
        assert_eq!(before.len(), 2);
        let v4 = by_id("192.0.2.0/24", 1);
        let v6 = by_id("2001:db8::/32", 2);
        let gateway = |prefix, gateway| route(prefix, RouteTarget::Inline(vec![(hop(gateway, v0), 1)]));
        let done = apply(vec![
            RouteOp::AddNexthop(single(1, "10.0.0.9", v0)),
            RouteOp::AddNexthop(single(2, "fd00::9", v0)),
            RouteOp::AddRoute(v4.clone()),
            RouteOp::AddRoute(v6.clone()),
            RouteOp::DelRoute(v4),
            RouteOp::DelRoute(v6),
            RouteOp::DelRoute(gateway("192.0.2.0/24", "10.0.0.9")),
            RouteOp::DelRoute(gateway("2001:db8::/32", "fd00::9")),
        ]);
        let refused = [
            (2, libc::EEXIST),
            (3, libc::EEXIST),
            (4, libc::ESRCH),
            (5, libc::ESRCH),
            (6, libc::ESRCH),
            (7, libc::ESRCH),
        ];
        assert_eq!(errors(&done), refused);
        assert_eq!(foreign(), before);
        // Only the route with our metric goes, not its neighbour of another one.
        let other = KernelRoute {
            key: backtrail::model::RouteKey { metric: 30, ..by_id("198.51.100.0/24", 1).key },
            ..by_id("198.51.100.0/24", 1)
        };
        apply_all(vec![RouteOp::AddRoute(by_id("198.51.100.0/24", 1)), RouteOp::AddRoute(other.clone())]);
        apply_all(vec![RouteOp::DelRoute(by_id("198.51.100.0/24", 1))]);
        assert_eq!(ours(), [other]);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn dumps_give_what_the_filter_lets_through() {
    in_namespace(|Links { v0, .. }| {
        ip("route add 192.0.2.0/24 via 10.0.0.9 table 20000 proto 186");
        apply_all(vec![
            RouteOp::AddNexthop(single(1, "10.0.0.2", v0)),
            RouteOp::AddNexthop(single(2, "fd00::2", v0)),
            RouteOp::AddRoute(by_id("192.0.2.0/24", 1)),
            RouteOp::AddRoute(by_id("2001:db8::/32", 2)),
        ]);
        ip("nexthop add id 77 via 10.0.0.3 dev v0 proto 186");
        let prefixes = |family, table, protocol| {
            let routes = dumped(RouteFilter { family, table, protocol, interface: None });
            routes.iter().map(|route| format!("{}@{}", route.key.prefix, route.key.table)).collect::<Vec<_>>()
        };
        let both = ["192.0.2.0/24@10000", "2001:db8::/32@10000"];
        assert_eq!(prefixes(None, None, Some(OURS)), both);
        assert_eq!(prefixes(None, Some(TABLE), None), both);
        assert_eq!(prefixes(Some(Family::Ipv6), Some(TABLE), None), both[1..]);
        assert_eq!(prefixes(None, None, Some(186)), ["192.0.2.0/24@20000"]);
        assert_eq!(prefixes(None, Some(55_555), None), [] as [&str; 0]);
        let all = prefixes(None, None, None);
        assert!(all.contains(&"10.0.0.0/24@254".to_owned()) && all.contains(&both[0].to_owned()), "{all:?}");
        let ids = |protocol| {
            dump_nexthops(protocol).expect("dump").iter().map(|object| object.id.0).collect::<Vec<_>>()
        };
        assert_eq!((ids(None), ids(Some(186)), ids(Some(99))), (vec![1, 2, 77], vec![77], vec![]));
        ip("nexthop add id 78 blackhole proto 187");
        let objects = dump_nexthops(Some(187)).expect("dump");
        assert_eq!(objects, [NexthopObject { id: NexthopId(78), protocol: 187, body: NexthopBody::Other }]);
    });
}

/// Others' objects come and go without end: those that stay are seen each time.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn nexthop_objects_are_read_while_others_change() {
    in_namespace(|Links { v0, .. }| {
        let stay = [single(3000, "10.0.0.2", v0), single(4_200_000_000, "10.0.0.2", v0)];
        apply_all(stay.clone().map(RouteOp::AddNexthop).to_vec());
        // More than one buffer of the dump holds, before, between and behind ours.
        let foreign: String = (1..6000).filter(|id| *id != 3000).map(added).collect();
        batch(&foreign);
        let (end, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let changing = scope.spawn(move || {
                let churn: String =
                    (6000..6200).map(|id| added(id) + &format!("nexthop del id {id}\n")).collect();
                while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    batch(&churn);
                }
            });
            for _ in 0..20 {
                let objects = dump_nexthops(None).expect("dump");
                let constant = |object: &&NexthopObject| !(6000..6200).contains(&object.id.0);
                assert_eq!(objects.iter().filter(constant).count(), 6000);
                assert!(stay.iter().all(|object| objects.contains(object)));
            }
            drop(end);
            changing.join().expect("the other one");
        });
    });
}

fn added(id: u32) -> String {
    format!("nexthop add id {id} via 10.0.0.3 dev v0 proto 186\n")
}

/// Runs commands of `ip`, one a line.
fn batch(commands: &str) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
    ip.stdin.take().expect("its input").write_all(commands.as_bytes()).expect("written");
    assert!(ip.wait().expect("its end").success());
}

/// Netlink sockets of the namespace, by inode.
fn sockets() -> BTreeSet<String> {
    let listed = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("the namespace's sockets");
    listed.lines().skip(1).filter_map(|line| Some(line.split_whitespace().last()?.to_owned())).collect()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_ipv6_dump_stands_back_while_nexthop_objects_change() {
    const ROUTES: u32 = 5000;
    in_namespace(|Links { v0, .. }| {
        let routes = (0..ROUTES).map(|n| by_id(&format!("2001:db8:{n:x}::/48"), 1));
        let ops = [RouteOp::AddNexthop(single(1, "fd00::2", v0)), RouteOp::AddRoute(by_id("10.8.0.0/16", 1))];
        apply_all(ops.into_iter().chain(routes.map(RouteOp::AddRoute)).collect());
        let of = |family| RouteFilter { family: Some(family), table: Some(TABLE), ..RouteFilter::default() };
        let (gate, before, (tell, told)) = (Arc::new(Gate::default()), sockets(), mpsc::channel());
        let behind = Arc::clone(&gate);
        let dump = std::thread::spawn(move || {
            let mut shown = Vec::new();
            let dumped = visit_routes_behind(&behind, of(Family::Ipv6), &mut |route| {
                if shown.is_empty() {
                    tell.send(behind.close()).expect("the test waits for it");
                }
                shown.push(route.key.prefix);
                ControlFlow::Continue(())
            });
            dumped.map(|()| shown)
        });
        let closed = told.recv().expect("a route is shown");
        // Of those before, some may be on their way out.
        until("the end of the dump's socket", || sockets().is_subset(&before).then_some(()));
        // IPv4 dumps harm nobody.
        let mut shown = 0;
        let mut count = |_| {
            shown += 1;
            ControlFlow::Continue(())
        };
        visit_routes_behind(&gate, of(Family::Ipv4), &mut count).expect("dump");
        assert_eq!(shown, 1);
        drop(closed);
        let shown = dump.join().expect("the dump's thread").expect("dump");
        // What it had seen, and then all of them.
        assert_eq!(shown.len(), 1 + ROUTES as usize);
        assert_eq!(shown[0], shown[1]);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn lookups_tell_table_and_route() {
    in_namespace(|Links { v0, .. }| {
        ip("rule add to 192.0.2.0/24 lookup 10000 pref 1100");
        ip("rule add ipproto udp dport 53 lookup 10000 pref 1101");
        apply_all(vec![
            RouteOp::AddNexthop(single(1, "10.0.0.2", v0)),
            RouteOp::AddRoute(by_id("192.0.2.0/24", 1)),
            RouteOp::AddRoute(by_id("198.51.100.0/24", 1)),
        ]);
        let lookup = Lookup::to(address("192.0.2.1"));
        let answer = get_route(&lookup).expect("a route");
        assert_eq!((answer.table, answer.kind, answer.oif), (TABLE, 1, Some(v0)));
        assert_eq!((answer.gateway, answer.source), (Some(address("10.0.0.2")), Some(address("10.0.0.1"))));
        assert_eq!(match_route(&lookup).expect("a route"), Some(by_id("192.0.2.0/24", 1)));
        let elsewhere = Lookup::to(address("198.51.100.1"));
        assert_eq!(get_route(&elsewhere).expect_err("no route").errno(), Some(libc::ENETUNREACH));
        let dns = get_route(&Lookup { flow: Some((17, 4000, 53)), ..elsewhere }).expect("a route for DNS");
        assert_eq!(dns.table, TABLE);
        let local =
            Lookup { source: Some(address("10.0.0.5")), iif: Some(v0), ..Lookup::to(address("10.0.0.1")) };
        assert_eq!(get_route(&local).expect("a local route").kind, 2);
        assert_eq!(match_route(&local).expect("a local route"), None);
        let v6 = get_route(&Lookup::to(address("fd00::77"))).expect("a connected route");
        assert_eq!((v6.table, v6.oif, v6.gateway), (254, Some(v0), None));
    });
}

/// What the kernel does on carrier loss, and why the engine tracks links: nexthop objects, the groups left empty and
/// their routes vanish, groups with members left shrink, and nothing returns by itself.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn carrier_loss_takes_nexthops_groups_and_routes() {
    in_namespace(|Links { v0, .. }| {
        ip("link add w0 type veth peer name w1");
        for command in ["address add 10.2.0.1/24 dev w0", "link set w0 up", "link set w1 up"] {
            ip(command);
        }
        let w0 = crate::index("w0");
        let with_carrier = || ip("-o link show w0").contains("LOWER_UP").then_some(());
        until("w0's carrier", with_carrier);
        let (lost, kept) = (single(1, "10.2.0.2", w0), single(2, "10.0.0.2", v0));
        apply_all(vec![
            RouteOp::AddNexthop(lost.clone()),
            RouteOp::AddNexthop(kept.clone()),
            RouteOp::AddNexthop(group(10, &[(1, 1), (2, 1)])),
            RouteOp::AddNexthop(group(11, &[(1, 1)])),
            RouteOp::AddRoute(by_id("192.0.2.0/24", 10)),
            RouteOp::AddRoute(by_id("198.51.100.0/24", 11)),
            RouteOp::AddRoute(by_id("203.0.113.0/24", 1)),
        ]);
        ip("link set w1 down");
        let left = || dump_nexthops(Some(OURS)).expect("dump");
        until("the kernel to drop nexthop 1", || (left().len() == 2).then_some(()));
        assert_eq!(left(), [kept.clone(), group(10, &[(2, 1)])]);
        assert_eq!(ours(), [by_id("192.0.2.0/24", 10)]);
        let refused = apply(vec![RouteOp::AddNexthop(lost.clone())]);
        assert_eq!(errors(&refused), [(0, libc::ENETDOWN)]);
        assert!(refused.errors[0].to_string().contains("no carrier"), "{}", refused.errors[0]);
        ip("link set w1 up");
        until("w0's carrier", with_carrier);
        assert_eq!(left().len(), 2, "nothing returns by itself");
        apply_all(vec![RouteOp::AddNexthop(lost), RouteOp::ReplaceNexthop(group(10, &[(1, 1), (2, 1)]))]);
    });
}

/// Takes away the calling thread's capabilities, and those of threads that it starts.
#[expect(unsafe_code, reason = "the C library's setresuid would change all threads of the process")]
fn become_nobody() {
    const NOBODY: libc::c_long = 65_534;
    // SAFETY: the system call takes three integers and touches no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_setresuid, -1 as libc::c_long, NOBODY, -1 as libc::c_long) };
    assert_eq!(result, 0, "setresuid");
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn without_the_capability_each_operation_says_so() {
    in_namespace(|Links { v0, .. }| {
        become_nobody();
        let one = apply(vec![RouteOp::AddNexthop(single(1, "10.0.0.2", v0))]);
        assert_eq!(errors(&one), [(0, libc::EPERM)]);
        assert!(one.errors[0].to_string().contains("needs CAP_NET_ADMIN"), "{}", one.errors[0]);
        // Without it the receive buffer stays small, and so many refusals may overflow it: none may be forgotten.
        let many = apply((0..5000).map(|id| RouteOp::DelNexthop(NexthopId(id))).collect());
        let refused: Vec<usize> = many.errors.iter().map(|error| error.index).collect();
        assert_eq!(refused, (0..5000).collect::<Vec<_>>());
        assert!(many.errors.iter().all(|error| [libc::EPERM, libc::ENOBUFS].contains(&error.errno)));
        assert_eq!(ours(), [], "reading needs no capability");
    });
}

/// Speed is printed, not judged: the machine is shared.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_hundred_thousand_routes_in_one_batch() {
    in_namespace(|Links { v0, .. }| {
        const COUNT: u32 = 100_000;
        // An odd multiplier permutes the low bits: hashed order without repetition.
        let prefix = |n: u32| {
            let bits = n.wrapping_mul(0x9E37_79B1) % (1 << 20);
            let address = std::net::Ipv4Addr::from((16 << 24) + (bits << 8));
            ipnet::IpNet::new(address.into(), 24).expect("a prefix")
        };
        let routes: Vec<_> = (0..COUNT)
            .map(|n| {
                let mut route = by_id("0.0.0.0/0", 1);
                route.key.prefix = prefix(n);
                route
            })
            .collect();
        apply_all(vec![RouteOp::AddNexthop(single(1, "10.0.0.2", v0))]);
        let added = apply(routes.iter().cloned().map(RouteOp::AddRoute).collect());
        assert_eq!(errors(&added), []);
        let started = std::time::Instant::now();
        assert_eq!(ours().len(), routes.len());
        let dumping = started.elapsed();
        let deleted = apply(routes.into_iter().map(RouteOp::DelRoute).collect());
        assert_eq!(errors(&deleted), []);
        assert_eq!(ours(), []);
        let rate = |elapsed: Duration| f64::from(COUNT) / elapsed.as_secs_f64() / 1000.0;
        println!(
            "{COUNT} routes: added {:.0} k/s, dumped and sorted {:.0} k/s, deleted {:.0} k/s",
            rate(added.elapsed),
            rate(dumping),
            rate(deleted.elapsed)
        );
    });
}
