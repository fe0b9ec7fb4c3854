//! What is redirected, and whereto.

use std::net::IpAddr;

use backtrail_ebpf_common::maps::{self, Path};

use crate::frames::{self, L4, PAIRS, Pair, V4, V6};
use crate::harness::{BAD, DROP, GLOBALS, GOOD, NEXT, Node, PATH4, REDIRECT, ROUTER};

/// Learns a TCP flow on `good`, and gives its reply.
fn learned(node: &Node<'_>, pair: &Pair) -> Vec<u8> {
    node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
    pair.reply(frames::tcp(80, 40_000, frames::SYN_ACK))
}

fn octets(address: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address.parse().unwrap() {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    bytes
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn replies_are_redirected_to_the_way_of_their_request() {
    Node::run(|node| {
        let mut steered = 0;
        for pair in PAIRS {
            let icmp: u32 = if pair.client.is_ipv4() { 1 } else { 58 };
            let cases: [(L4, L4, (u16, u16), u32); 4] = [
                (frames::tcp(4000, 80, frames::SYN), frames::tcp(80, 4000, frames::SYN_ACK), (4000, 80), 6),
                (frames::udp(4000, 53), frames::udp(53, 4000), (4000, 53), 17),
                (frames::sctp(4000, 2905, 1), frames::sctp(2905, 4000, 2), (4000, 2905), 132),
                (frames::echo_request(9), frames::echo_reply(9), (9, 0), icmp),
            ];
            for (request, reply, ports, proto) in cases {
                node.ingress("good", &pair.request(request));
                let reply = pair.reply(reply);
                assert_eq!(node.egress("good", &reply), NEXT, "already right");
                assert_eq!(node.egress("bad", &reply), REDIRECT);
                assert_eq!(node.egress("bad", &reply), REDIRECT);
                assert_eq!(node.flow(&pair, ports, proto).unwrap().steered, 2);
                steered += 2;
                assert_eq!(node.count(GOOD, |c| c.steered), steered);
            }
        }
        assert_eq!(node.count(GOOD, |c| c.matched), steered / 2);
        assert_eq!(node.count(BAD, |c| c.steered), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn unknown_replies_pass() {
    Node::run(|node| {
        for pair in PAIRS {
            learned(node, &pair);
            for l4 in [
                frames::tcp(80, 40_001, frames::ACK),
                frames::tcp(81, 40_000, frames::ACK),
                frames::echo_reply(3),
                frames::sctp(80, 40_000, 3),
            ] {
                assert_eq!(node.egress("bad", &pair.reply(l4)), NEXT);
            }
        }
        assert_eq!(node.flow_count(), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn shadow_counts_and_changes_nothing() {
    Node::run(|node| {
        node.change_paths(|path| path.flags = maps::PATH_FLAG_SHADOW);
        for pair in PAIRS {
            let reply = learned(node, &pair);
            assert_eq!(node.egress("bad", &reply), NEXT);
        }
        assert_eq!(node.count(GOOD, |c| c.would_steer), 2);
        assert_eq!(node.count(GOOD, |c| c.steered), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_path_that_is_down_follows_the_fib_or_drops() {
    Node::run(|node| {
        let replies = PAIRS.map(|pair| learned(node, &pair));
        for (flags, verdict) in [(0, NEXT), (maps::PATH_FLAG_DROP, DROP)] {
            node.change_paths(|path| (path.state, path.flags) = (maps::PATH_DOWN, flags));
            for reply in &replies {
                assert_eq!(node.egress("bad", reply), verdict);
            }
        }
        assert_eq!(node.count(GOOD, |c| c.path_down), 2);
        assert_eq!(node.count(GOOD, |c| c.dropped), 2);
        node.change_paths(|path| path.state = maps::PATH_UP);
        assert_eq!(node.egress("bad", &replies[0]), REDIRECT);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_takes_the_route_of_the_interfaces_table() {
    Node::run(|node| {
        node.namespace
            .run("ip route add default via 10.1.0.254 dev good table 100; ip -6 route add default via 2001:db8:1::fe dev good table 100")
            .unwrap();
        node.change_paths(|path| path.table = 100);
        for (pair, gateway, kind) in
            [(V4, "10.1.0.254", maps::NEXTHOP_V4), (V6, "2001:db8:1::fe", maps::NEXTHOP_V6)]
        {
            let reply = learned(node, &pair);
            assert_eq!(node.egress("bad", &reply), REDIRECT);
            let flow = node.flow(&pair, (40_000, 80), 6).unwrap();
            assert_eq!((flow.nexthop.kind, flow.nexthop.address), (kind, octets(gateway)));
            assert_eq!(flow.nexthop.generation, 1);
        }
        assert_eq!(node.count(GOOD, |c| c.steered_mac), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_goes_straight_to_a_client_on_the_link() {
    Node::run(|node| {
        for (generation, client, service, kind) in [
            (2, "10.1.0.77", "198.51.100.10", maps::NEXTHOP_V4),
            (3, "2001:db8:1::77", "2001:db8:100::10", maps::NEXTHOP_V6),
        ] {
            let pair = Pair::new(client, service);
            let reply = learned(node, &pair);
            // Not resolved yet: the MAC of the request serves.
            assert_eq!(node.egress("bad", &reply), REDIRECT);
            assert_eq!(node.flow(&pair, (40_000, 80), 6).unwrap().nexthop.kind, maps::NEXTHOP_MAC);
            node.namespace.run(&format!("ip neigh add {client} lladdr 02:00:00:00:00:77 dev good")).unwrap();
            node.set_globals(maps::Globals { generation, ..GLOBALS });
            assert_eq!(node.egress("bad", &reply), REDIRECT);
            let flow = node.flow(&pair, (40_000, 80), 6).unwrap();
            assert_eq!((flow.nexthop.kind, flow.nexthop.address), (kind, octets(client)));
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn auto_without_a_route_takes_the_only_candidate_else_the_mac() {
    Node::run(|node| {
        let replies = PAIRS.map(|pair| (pair, learned(node, &pair)));
        for (_, reply) in &replies {
            let (verdict, frame) = node.egress_out("bad", reply);
            assert_eq!(verdict, REDIRECT);
            assert_eq!((&frame[..6], &frame[6..12]), (&ROUTER[..], &node.mac("good")[..]));
            assert_eq!(frame[12..], reply[12..]);
        }
        assert_eq!(node.count(GOOD, |c| c.steered_mac), 2);
        node.change_paths(|path| {
            let gateway = if path.family == 4 { "10.1.0.254" } else { "2001:db8:1::fe" };
            (path.gateway_family, path.gateway) = (path.family, octets(gateway));
        });
        for (_, reply) in &replies {
            assert_eq!(node.egress("bad", reply), REDIRECT);
        }
        assert_eq!(node.count(GOOD, |c| c.steered_mac), 2, "no MAC any more");
        assert_eq!(node.count(GOOD, |c| c.steered), 4);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn from_route_steers_by_a_route_only() {
    Node::run(|node| {
        node.change_paths(|path| (path.kind, path.table) = (maps::PATH_ROUTE, 100));
        for pair in PAIRS {
            assert_eq!(node.egress("bad", &learned(node, &pair)), NEXT);
        }
        assert_eq!(node.count(GOOD, |c| c.fib_misses), 2);
        // A route by another interface is none.
        node.namespace.run("ip route add default via 10.2.0.254 dev bad table 100").unwrap();
        node.set_globals(maps::Globals { generation: 2, ..GLOBALS });
        assert_eq!(node.egress("bad", &learned(node, &V4)), NEXT);
        node.namespace.run("ip route replace default via 10.1.0.254 dev good table 100").unwrap();
        node.set_globals(maps::Globals { generation: 3, ..GLOBALS });
        assert_eq!(node.egress("bad", &learned(node, &V4)), REDIRECT);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_resolved_nexthop_lives_for_a_generation_and_a_gate() {
    Node::run(|node| {
        node.change_paths(|path| path.table = 100);
        node.namespace.run("ip route add default via 10.1.0.254 dev good table 100").unwrap();
        let reply = learned(node, &V4);
        let nexthop = |node: &Node<'_>| {
            assert_eq!(node.egress("bad", &reply), REDIRECT);
            node.flow(&V4, (40_000, 80), 6).unwrap().nexthop.address
        };
        assert_eq!(nexthop(node), octets("10.1.0.254"));
        node.namespace.run("ip route replace default via 10.1.0.253 dev good table 100").unwrap();
        node.set_globals(maps::Globals { generation: 2, ..GLOBALS });
        assert_eq!(nexthop(node), octets("10.1.0.253"));
        // Nobody bumps the generation while the agent is dead.
        node.namespace.run("ip route replace default via 10.1.0.252 dev good table 100").unwrap();
        backtrail_lab::wait_until(std::time::Duration::from_secs(30), "the third gateway", || {
            nexthop(node) == octets("10.1.0.252")
        })
        .unwrap();
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn without_tbid_the_rules_lead_to_the_table() {
    Node::run(|node| {
        node.namespace
            .run("ip rule add oif good lookup 100 pref 1150; ip route add default via 10.1.0.254 dev good table 100")
            .unwrap();
        node.set_globals(maps::Globals { features: 0, ..GLOBALS });
        assert_eq!(node.egress("bad", &learned(node, &V4)), REDIRECT);
        let nexthop = node.flow(&V4, (40_000, 80), 6).unwrap().nexthop;
        assert_eq!(nexthop.address, octets("10.1.0.254"));
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_gateway_path_asks_no_fib() {
    Node::run(|node| {
        let gateway = Path {
            kind: maps::PATH_GATEWAY,
            gateway_family: 6,
            gateway: octets("2001:db8:1::fe"),
            ..node.auto_path("good", 4)
        };
        node.set_path(PATH4, gateway);
        // IPv4 by an IPv6 router (RFC 8950).
        assert_eq!(node.egress("bad", &learned(node, &V4)), REDIRECT);
        assert_eq!(node.flow(&V4, (40_000, 80), 6).unwrap().nexthop.kind, maps::NEXTHOP_NONE);
    });
}

/// Two gateways on one link: what leaves by the right interface goes to the gateway that delivered the request.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_reply_by_the_right_interface_goes_to_the_gateway_of_the_request() {
    Node::run(|node| {
        for (pair, family, id) in [(V4, 4, 100), (V6, 6, 101)] {
            let path = Path { kind: maps::PATH_GATEWAY, ..node.auto_path("good", u32::from(family)) };
            node.set_path(id, path);
            node.set_mac("good", ROUTER, family, id);
            let plain = learned(node, &pair);
            node.ingress("good", &pair.request(frames::echo_request(7)));
            let target = |node: &Node<'_>, frame: &[u8]| {
                let (verdict, out) = node.egress_out("good", frame);
                assert_eq!((verdict, &out[12..]), (NEXT, &frame[12..]));
                out[..6].to_vec()
            };
            let other = target(node, &pair.reply(frames::tcp(80, 1, frames::ACK)));
            assert_ne!(other, ROUTER);
            for frame in [&plain, &pair.reply(frames::echo_reply(7))] {
                assert_eq!(target(node, frame), ROUTER);
                node.set_path(id, Path { flags: maps::PATH_FLAG_SHADOW, ..path });
                assert_eq!(target(node, frame), other);
                node.set_path(id, Path { state: maps::PATH_DOWN, ..path });
                assert_eq!(target(node, frame), other);
                node.set_path(id, path);
            }
            // The gateway has another MAC now, which the flow does not know yet.
            node.set_mac("good", ROUTER, family, 77);
            assert_eq!(target(node, &plain), other);
        }
        assert_eq!(node.count(GOOD, |c| c.steered), 4);
        assert_eq!(node.count(GOOD, |c| c.would_steer), 4);
    });
}

/// Whoever has the MAC of the request is the gateway, by decree.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn from_source_mac_holds_for_the_right_interface_too() {
    Node::run(|node| {
        node.change_paths(|path| path.kind = maps::PATH_MAC);
        for pair in PAIRS {
            let (verdict, out) = node.egress_out("good", &learned(node, &pair));
            assert_eq!((verdict, &out[..6]), (NEXT, &ROUTER[..]));
        }
        assert_eq!(node.count(GOOD, |c| c.steered_mac), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn errors_follow_the_flow_that_they_embed() {
    Node::run(|node| {
        for pair in PAIRS {
            node.ingress("good", &pair.request(frames::udp(4000, 53)));
            node.ingress("good", &pair.request(frames::echo_request(6)));
            for l4 in [frames::udp(4000, 53), frames::echo_request(6)] {
                let packet = frames::ip(pair.client, pair.service, l4, 1);
                let error = pair.reply(frames::unreachable(&packet[..packet.len().min(48)]));
                assert_eq!(node.egress("bad", &error), REDIRECT);
                assert_eq!(node.egress("good", &error), NEXT);
            }
            let unknown = frames::ip(pair.client, pair.service, frames::udp(4001, 53), 1);
            assert_eq!(node.egress("bad", &pair.reply(frames::unreachable(&unknown))), NEXT);
            // An error to somebody else than the sender of what it embeds is none.
            let stranger = if pair.client.is_ipv4() { "192.0.2.9" } else { "2001:db8:9::9" };
            let known = frames::ip(pair.client, pair.service, frames::udp(4000, 53), 1);
            let forged = Pair { client: stranger.parse().unwrap(), ..pair };
            assert_eq!(node.egress("bad", &forged.reply(frames::unreachable(&known))), NEXT);
        }
        assert_eq!(node.count(GOOD, |c| c.icmp_errors), 4);
        assert_eq!(node.count(BAD, |c| c.malformed), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn frames_of_upper_devices_pass() {
    Node::run(|node| {
        for pair in PAIRS {
            let reply = learned(node, &pair);
            let vlan = frames::tagged(&reply, &[(0x8100, 100)]);
            assert_eq!(node.egress("bad", &vlan), NEXT);
            node.change_iface("bad", |iface| iface.flags |= maps::IFACE_CHECK_MAC);
            let macvlan = node.test(maps::programs::EGRESS, "bad", ROUTER, [0x02, 5, 5, 5, 5, 5], &reply);
            assert_eq!(macvlan.0, NEXT);
            assert_eq!(node.egress("bad", &reply), REDIRECT, "its own");
        }
        assert_eq!(node.count(BAD, |c| c.upper_device), 4);
    });
}
