//! Notifications: what is heard, what is not, and what is lost.

use std::time::Duration;

use backtrail::kernel::dump::dump_nexthops;
use backtrail::kernel::monitor::{Monitor, Notification, Watch};
use backtrail::kernel::programmer::{Batch, Programmer, RouteOp};
use backtrail::model::{NeighbourState, NexthopId, RouteTarget};
use tokio::sync::mpsc::Receiver;

use crate::{
    Links, OURS, address, apply_all, by_id, group, hop, in_namespace_async, index, ip, ours, route, single,
};

fn listen() -> (Monitor, Receiver<Notification>) {
    Monitor::start(&Watch { own_port: 0, route_protocols: vec![OURS] }).expect("monitor")
}

/// The next notification that `pick` takes; what comes before is dropped.
async fn next<T>(
    from: &mut Receiver<Notification>,
    what: &str,
    pick: impl Fn(Notification) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            let notification = from.recv().await.expect("the monitor lives");
            if let Some(picked) = pick(notification) {
                return picked;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("waited for {what}"))
}

/// Everything up to a mark that is set now: a rule of a priority of its own.
async fn up_to_now(from: &mut Receiver<Notification>) -> Vec<Notification> {
    const MARK: u32 = 31_999;
    ip(&format!("rule add pref {MARK} lookup 9"));
    let mut all = Vec::new();
    loop {
        let notification = next(from, "the mark", Some).await;
        match notification {
            Notification::Rule { rule, added: true, .. } if rule.priority == MARK => break,
            Notification::Rule { rule, added: false, .. } if rule.priority == MARK => {}
            other => all.push(other),
        }
    }
    ip(&format!("rule del pref {MARK}"));
    all
}

fn routes(notifications: &[Notification]) -> Vec<String> {
    let describe = |notification: &Notification| match notification {
        Notification::Route { route, added, replaced, own, .. } => {
            let verb = if *added { "+" } else { "-" };
            Some(format!("{verb}{} proto {} replaced {replaced} own {own}", route.key.prefix, route.protocol))
        }
        _ => None,
    };
    notifications.iter().filter_map(describe).collect()
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn links_and_addresses_are_heard() {
    in_namespace_async(|_| async move {
        let (_monitor, mut heard) = listen();
        ip("link add w0 type veth peer name w1");
        let w0 = index("w0");
        // The kernel does not tell of a new alias while a link is down.
        ip("link set w0 alias backtrail");
        ip("link set w0 up");
        let link = next(&mut heard, "w0", |heard| match heard {
            Notification::Link(link) if link.alias.is_some() => Some(link),
            _ => None,
        })
        .await;
        assert_eq!((link.ifindex, link.name.as_str(), link.kind.as_str()), (w0, "w0", "veth"));
        assert_eq!((link.up, link.usable(), link.lower, link.mtu), (true, false, None, 1500));
        assert_eq!((link.alias.as_deref(), link.arphrd), (Some("backtrail"), 1));
        ip("address add 10.5.0.1/24 dev w0");
        // Other links get their link-local addresses meanwhile.
        let pick = |heard| match heard {
            Notification::Address { ifindex, address, added } if address.net.addr().is_ipv4() => {
                Some((ifindex, address.net.to_string(), added))
            }
            _ => None,
        };
        assert_eq!(next(&mut heard, "the address", pick).await, (w0, "10.5.0.1/24".to_owned(), true));
        ip("address del 10.5.0.1/24 dev w0");
        assert_eq!(next(&mut heard, "the address", pick).await, (w0, "10.5.0.1/24".to_owned(), false));
        // A port that leaves its bridge sends a link deletion of the bridge's family: no link is gone.
        ip("link add br0 type bridge");
        ip("link set w0 master br0");
        ip("link set w0 nomaster");
        let gone = up_to_now(&mut heard).await;
        assert!(!gone.iter().any(|heard| matches!(heard, Notification::LinkGone { .. })), "{gone:?}");
        ip("link del w0");
        next(&mut heard, "the end of w0", |heard| {
            (heard == Notification::LinkGone { ifindex: w0 }).then_some(())
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn neighbours_and_rules_are_heard() {
    in_namespace_async(|Links { v0, .. }| async move {
        let (_monitor, mut heard) = listen();
        ip("rule add pref 1100 iif v0 lookup 10000 proto 201");
        let pick = |heard| match heard {
            Notification::Rule { rule, added, .. } => Some((rule.to_string(), rule.protocol, added)),
            _ => None,
        };
        let text = "1100: from all iif v0 lookup 10000".to_owned();
        assert_eq!(next(&mut heard, "the rule", pick).await, (text.clone(), OURS, true));
        ip("rule del pref 1100");
        assert_eq!(next(&mut heard, "the rule", pick).await, (text, OURS, false));
        ip("neigh add 10.0.0.7 lladdr 02:00:00:00:00:07 dev v0 nud reachable");
        let neighbour = next(&mut heard, "the neighbour", |heard| match heard {
            Notification::Neighbour(neighbour) if neighbour.address == address("10.0.0.7") => Some(neighbour),
            _ => None,
        })
        .await;
        assert_eq!((neighbour.ifindex, neighbour.state), (v0, NeighbourState::Valid));
        assert_eq!(neighbour.mac, Some([2, 0, 0, 0, 0, 7]));
        ip("neigh del 10.0.0.7 dev v0");
        next(&mut heard, "the end of the neighbour", |heard| match heard {
            Notification::NeighbourGone { address: gone, .. } if gone == address("10.0.0.7") => Some(()),
            _ => None,
        })
        .await;
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_others_do_to_our_routes_is_heard() {
    in_namespace_async(|Links { v0, .. }| async move {
        let (monitor, mut heard) = listen();
        let delete = |prefix| ip(&format!("route del {prefix} table 10000"));
        let inline = |prefix| route(prefix, RouteTarget::Inline(vec![(hop("10.0.0.2", v0), 1)]));
        let prefixes = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"];
        apply_all(prefixes.map(|prefix| RouteOp::AddRoute(inline(prefix))).into());
        delete(prefixes[0]);
        assert_eq!(routes(&up_to_now(&mut heard).await), [] as [&str; 0], "not listening yet");
        monitor.listen_routes(true).expect("join");
        delete(prefixes[1]);
        ip("route replace 203.0.113.0/24 via 10.0.0.3 table 10000 metric 20 proto 186");
        ip("route add 10.99.0.0/16 via 10.0.0.3 proto 186");
        ip("-6 route add 2001:db8::/32 via fd00::9 table 10000 proto 201");
        ip("-6 route del 2001:db8::/32 table 10000");
        let expected = [
            "-198.51.100.0/24 proto 201 replaced false own false",
            "+203.0.113.0/24 proto 186 replaced true own false",
            "+2001:db8::/32 proto 201 replaced false own false",
            "-2001:db8::/32 proto 201 replaced false own false",
        ];
        assert_eq!(routes(&up_to_now(&mut heard).await), expected);
        monitor.listen_routes(false).expect("leave");
        apply_all(vec![RouteOp::AddRoute(inline("192.0.2.0/24"))]);
        delete(prefixes[0]);
        assert_eq!(routes(&up_to_now(&mut heard).await), [] as [&str; 0]);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn our_own_doings_are_told_from_others() {
    in_namespace_async(|Links { v0, .. }| async move {
        let (programmer, mut done) = Programmer::spawn().expect("programmer");
        let watch = Watch { own_port: programmer.port(), route_protocols: vec![OURS] };
        let (monitor, mut heard) = Monitor::start(&watch).expect("monitor");
        monitor.listen_routes(true).expect("join");
        let ops = vec![
            RouteOp::AddNexthop(single(1, "10.0.0.2", v0)),
            RouteOp::AddRoute(by_id("192.0.2.0/24", 1)),
            RouteOp::DelRoute(by_id("192.0.2.0/24", 1)),
            RouteOp::DelNexthop(NexthopId(1)),
        ];
        programmer.try_submit(Batch { id: 1, ops }).expect("room");
        assert_eq!(done.recv().await.expect("done").errors, []);
        ip("nexthop add id 2 via 10.0.0.3 dev v0 proto 201");
        ip("nexthop del id 2");
        let told: Vec<_> = up_to_now(&mut heard)
            .await
            .iter()
            .filter_map(|heard| match heard {
                Notification::Nexthop { object, own, .. } => {
                    Some(format!("+nexthop {} own {own}", object.id.0))
                }
                Notification::NexthopGone { id, own, .. } => Some(format!("-nexthop {} own {own}", id.0)),
                Notification::Route { route, added, own, .. } => {
                    Some(format!("{}{} own {own}", if *added { "+" } else { "-" }, route.key.prefix))
                }
                _ => None,
            })
            .collect();
        let expected = [
            "+nexthop 1 own true",
            "+192.0.2.0/24 own true",
            "-192.0.2.0/24 own true",
            "-nexthop 1 own true",
            "+nexthop 2 own false",
            "-nexthop 2 own false",
        ];
        assert_eq!(told, expected);
    });
}

/// The reason for tracking links: of all that carrier loss takes, only the link itself is notified.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn carrier_loss_is_heard_of_the_link_alone() {
    in_namespace_async(|Links { v0, v1 }| async move {
        apply_all(vec![
            RouteOp::AddNexthop(single(1, "10.0.0.2", v0)),
            RouteOp::AddNexthop(group(10, &[(1, 1)])),
            RouteOp::AddRoute(by_id("192.0.2.0/24", 10)),
        ]);
        let (monitor, mut heard) = listen();
        monitor.listen_routes(true).expect("join");
        ip("link set v1 down");
        next(&mut heard, "v0 without carrier", |heard| match heard {
            Notification::Link(link) if link.ifindex == v0 && !link.carrier => Some(()),
            Notification::Link(link) => {
                assert!([v0, v1].contains(&link.ifindex));
                None
            }
            Notification::Nexthop { .. } | Notification::NexthopGone { .. } => panic!("notified after all"),
            Notification::Route { .. } => panic!("notified after all"),
            _ => None,
        })
        .await;
        assert_eq!((dump_nexthops(Some(OURS)).expect("dump"), ours()), (vec![], vec![]), "yet all is gone");
        let later = up_to_now(&mut heard).await;
        let told = |heard: &&Notification| {
            matches!(
                heard,
                Notification::Nexthop { .. } | Notification::NexthopGone { .. } | Notification::Route { .. }
            )
        };
        assert_eq!(later.iter().find(told), None);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_overrun_is_told_and_survived() {
    in_namespace_async(|Links { v0, .. }| async move {
        let (monitor, mut heard) = listen();
        monitor.listen_routes(true).expect("join");
        // The monitor's task does not run while this thread waits for the programmer: its socket overflows.
        let mut ops = vec![RouteOp::AddNexthop(single(1, "10.0.0.2", v0))];
        ops.extend(
            (0..100_000u32)
                .map(|n| by_id(&format!("{}/32", std::net::Ipv4Addr::from((100 << 24) + n)), 1))
                .map(RouteOp::AddRoute),
        );
        apply_all(ops);
        next(&mut heard, "the overrun", |heard| (heard == Notification::Overrun).then_some(())).await;
        monitor.listen_routes(false).expect("leave");
        ip("link set v0 alias later");
        next(&mut heard, "what comes later", |heard| match heard {
            Notification::Link(link) if link.alias.as_deref() == Some("later") => Some(()),
            _ => None,
        })
        .await;
    });
}
