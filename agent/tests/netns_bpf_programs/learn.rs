//! What is remembered, and what is not.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use aya::maps::lpm_trie::{Key, LpmTrie};
use backtrail_ebpf_common::maps::{self, FLOW_ADOPTED, FLOW_TRANSIT, PATH_NODE, PortPrefix};

use crate::frames::{self, PAIRS, Pair, V4, V6};
use crate::harness::{BAD, GLOBALS, GOOD, NEXT, Node, PATH4, PATH6, REDIRECT, ROUTER};

fn path_of(pair: &Pair) -> u32 {
    if pair.client.is_ipv4() { PATH4 } else { PATH6 }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn openers_are_learned_with_their_path() {
    Node::run(|node| {
        for pair in PAIRS {
            let icmp = if pair.client.is_ipv4() { 1 } else { 58 };
            for (l4, ports, proto) in [
                (frames::tcp(40_000, 80, frames::SYN), (40_000, 80), 6),
                (frames::udp(40_000, 53), (40_000, 53), 17),
                (frames::sctp(40_000, 2905, 1), (40_000, 2905), 132),
                (frames::echo_request(77), (77, 0), icmp),
            ] {
                let before = node.count(GOOD, |c| c.learned);
                assert_eq!(node.ingress("good", &pair.request(l4)), NEXT);
                let flow = node.flow(&pair, ports, proto).expect("learned");
                assert_eq!((flow.path, flow.ifindex, flow.mac), (path_of(&pair), node.index("good"), ROUTER));
                assert!(flow.born != 0 && flow.seen == flow.born && flow.replied == 0);
                assert_eq!(node.count(GOOD, |c| c.learned), before + 1);
            }
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_opens_nothing_is_not_learned() {
    Node::run(|node| {
        for pair in PAIRS {
            for l4 in [
                frames::tcp(40_000, 80, frames::SYN_ACK),
                frames::tcp(40_000, 80, frames::ACK),
                frames::sctp(40_000, 2905, 2),
                frames::echo_reply(77),
                frames::icmp((13, 135), &[0; 20]),
                frames::unreachable(&frames::ip(pair.service, pair.client, frames::udp(53, 4000), 64)),
            ] {
                assert_eq!(node.ingress("good", &pair.request(l4)), NEXT);
            }
        }
        assert_eq!(node.flow_count(), 0);
        assert_eq!(node.count(GOOD, |c| c.midflow), 4);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn frames_for_others_are_not_learned() {
    Node::run(|node| {
        let frame = V4.request(frames::tcp(40_000, 80, frames::SYN));
        node.test(maps::programs::INGRESS, "good", [0x02, 9, 9, 9, 9, 9], ROUTER, &frame);
        node.test(maps::programs::INGRESS, "good", [0xff; 6], ROUTER, &frame);
        assert_eq!(node.flow_count(), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn link_bound_traffic_is_never_learned() {
    Node::run(|node| {
        let syn = || frames::tcp(40_000, 80, frames::SYN);
        for pair in [
            Pair::new("169.254.1.1", "198.51.100.10"),
            Pair::new("203.0.113.7", "224.0.0.9"),
            Pair::new("203.0.113.7", "255.255.255.255"),
            Pair::new("0.0.0.0", "198.51.100.10"),
            Pair::new("127.0.0.1", "198.51.100.10"),
            Pair::new("fe80::1", "2001:db8:100::10"),
            Pair::new("2001:db8:113::7", "ff02::1"),
            Pair::new("::1", "2001:db8:100::10"),
            Pair::new("::", "2001:db8:100::10"),
        ] {
            node.ingress("good", &pair.request(syn()));
            node.egress("good", &pair.request(syn()));
        }
        for pair in PAIRS {
            for l4 in [frames::udp(68, 67), frames::udp(67, 68), frames::udp(546, 547), frames::udp(547, 546)]
            {
                node.ingress("good", &pair.request(l4));
            }
            let bfd = frames::ip(pair.client, pair.service, frames::udp(49_152, 3784), 255);
            node.ingress("good", &frames::ethernet(&bfd));
        }
        assert_eq!(node.flow_count(), 0);
        assert_eq!(node.count(GOOD, |c| c.never), 9 + 10);
        // Without the hop limit of single-hop BFD it is UDP like any other.
        node.ingress("good", &V4.request(frames::udp(49_152, 3784)));
        assert_eq!(node.flow_count(), 1);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_the_node_opens_is_never_steered() {
    Node::run(|node| {
        for pair in PAIRS {
            // The node is the one that asks here: its remote end is held as the client.
            for (open, answer, ports, proto) in [
                (
                    frames::tcp(50_000, 443, frames::SYN),
                    frames::tcp(443, 50_000, frames::SYN_ACK),
                    (443, 50_000),
                    6,
                ),
                (frames::udp(51_820, 51_820), frames::udp(51_820, 51_820), (51_820, 51_820), 17),
                (frames::sctp(50_000, 2905, 1), frames::sctp(2905, 50_000, 2), (2905, 50_000), 132),
            ] {
                assert_eq!(node.egress("bad", &pair.reply(open.clone())), NEXT);
                let flow = node.flow(&pair, ports, proto).expect("recorded");
                assert_eq!((flow.path, flow.seen), (PATH_NODE, 0));
                // The answers come in by the listed interface: asymmetric, and none of our business.
                assert_eq!(node.ingress("good", &pair.request(answer.clone())), NEXT);
                assert_eq!(node.ingress("good", &pair.request(answer)), NEXT);
                assert_eq!(node.egress("bad", &pair.reply(open)), NEXT);
                assert_eq!(node.flow(&pair, ports, proto).unwrap().path, PATH_NODE);
            }
        }
        assert_eq!(node.count(GOOD, |c| c.learned), 0);
        assert_eq!(node.count(BAD, |c| c.node_origin), 6);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_ping_of_the_node_and_a_ping_to_it_are_two_flows() {
    Node::run(|node| {
        for pair in PAIRS {
            node.egress("bad", &pair.reply(frames::echo_request(5)));
            node.ingress("good", &pair.request(frames::echo_request(5)));
            let icmp = if pair.client.is_ipv4() { 1 } else { 58 };
            assert_eq!(node.flow(&pair, (0, 5), icmp).unwrap().path, PATH_NODE);
            assert_eq!(node.flow(&pair, (5, 0), icmp).unwrap().path, path_of(&pair));
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_idle_flow_of_the_nodes_may_be_opened_by_the_client() {
    Node::run(|node| {
        node.set_globals(maps::Globals { features: 0, tcp_idle: 3600, udp_idle: 1, ..GLOBALS });
        node.egress("bad", &V4.reply(frames::udp(500, 500)));
        assert_eq!(node.flow(&V4, (500, 500), 17).unwrap().path, PATH_NODE);
        let learned = || {
            node.ingress("good", &V4.request(frames::udp(500, 500)));
            Some(node.flow(&V4, (500, 500), 17)?.path == PATH4).filter(|learned| *learned)
        };
        // Each attempt refreshes the record: wait out the silence between them.
        let found = (0..5).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_secs(3));
            learned()
        });
        assert!(found.is_some(), "still the node's after three seconds of silence");
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn transit_is_not_steered() {
    Node::run(|node| {
        for pair in PAIRS {
            let syn = pair.request(frames::tcp(40_000, 80, frames::SYN));
            node.ingress("good", &syn);
            assert_eq!(node.egress("bad", &syn), NEXT);
            let flow = node.flow(&pair, (40_000, 80), 6).unwrap();
            assert_eq!((flow.path, flow.flags & FLOW_TRANSIT), (PATH_NODE, FLOW_TRANSIT));
            // The answer passes through the node the other way round.
            node.ingress("bad", &pair.reply(frames::tcp(80, 40_000, frames::SYN_ACK)));
            assert_eq!(node.egress("bad", &pair.reply(frames::tcp(80, 40_000, frames::SYN_ACK))), NEXT);
        }
        assert_eq!(node.flow_count(), 2);
        assert_eq!(node.count(BAD, |c| c.transit), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn udp_that_answers_a_transit_flow_is_not_learned() {
    Node::run(|node| {
        node.change_iface("bad", |iface| iface.flags |= maps::IFACE_LEARN);
        for pair in PAIRS {
            node.ingress("good", &pair.request(frames::udp(40_000, 53)));
            node.ingress("bad", &pair.reply(frames::udp(53, 40_000)));
        }
        assert_eq!(node.flow_count(), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn tcp_in_mid_flow_is_adopted_with_a_listener_only() {
    Node::run(|node| {
        let v4 = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
        let v6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8081)).unwrap();
        let local = [Pair::new("203.0.113.7", "10.1.0.1"), Pair::new("2001:db8:113::7", "2001:db8:1::1")];
        for (pair, port) in local.iter().zip([8080, 8081]) {
            node.ingress("good", &pair.request(frames::tcp(40_000, port, frames::ACK)));
            let flow = node.flow(pair, (40_000, port), 6).expect("adopted");
            assert_eq!((flow.path, flow.flags), (path_of(pair), FLOW_ADOPTED));
            node.ingress("good", &pair.request(frames::tcp(40_000, port + 9, frames::ACK)));
            assert_eq!(node.flow(pair, (40_000, port + 9), 6), None);
        }
        assert_eq!(node.count(GOOD, |c| c.adopted), 2);
        assert_eq!(node.count(GOOD, |c| c.midflow), 2);
        drop((v4, v6));
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn virtual_ips_bound_what_is_learned_and_adopt() {
    Node::run(|node| {
        node.change_iface("good", |iface| iface.flags |= maps::IFACE_HAS_VIPS);
        for pair in PAIRS {
            let length = if pair.service.is_ipv4() { 24 } else { 64 };
            node.add_prefix(maps::names::VIPS, GOOD, pair.service, length, 1);
        }
        for pair in
            [Pair::new("203.0.113.7", "198.51.101.10"), Pair::new("2001:db8:113::7", "2001:db8:101::10")]
        {
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
        }
        assert_eq!(node.flow_count(), 0);
        assert_eq!(node.count(GOOD, |c| c.other_service), 2);
        for pair in PAIRS {
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
            node.ingress("good", &pair.request(frames::tcp(40_001, 80, frames::ACK)));
            assert_eq!(node.flow(&pair, (40_001, 80), 6).unwrap().flags, FLOW_ADOPTED);
        }
        assert_eq!(node.flow_count(), 4);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn protected_and_excepted_clients_are_not_learned() {
    Node::run(|node| {
        for pair in PAIRS {
            let length = if pair.client.is_ipv4() { 24 } else { 48 };
            node.add_prefix(maps::names::NEVER, 0, pair.client, length, maps::NEVER_PROTECTED);
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
            // A record of the node's own would only flood the table: tunnels have a port for each flow inside.
            node.egress("bad", &pair.reply(frames::udp(50_000, 4789)));
        }
        assert_eq!(node.count(GOOD, |c| c.protected), 2);
        for pair in [Pair::new("192.0.2.1", "198.51.100.10"), Pair::new("2001:db8:ee::1", "2001:db8:100::10")]
        {
            let length = if pair.client.is_ipv4() { 32 } else { 128 };
            node.add_prefix(maps::names::NEVER, GOOD, pair.client, length, maps::NEVER_EXCEPTED);
            node.change_iface("good", |iface| iface.flags |= maps::IFACE_HAS_EXCEPT);
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
        }
        assert_eq!(node.count(GOOD, |c| c.excepted), 2);
        assert_eq!(node.flow_count(), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn excepted_ports_and_protocols_are_not_learned() {
    Node::run(|node| {
        // 8000 to 8007: thirteen bits.
        let data = PortPrefix { group: GOOD, port: 8000_u16.to_be_bytes(), reserved: [0; 2] };
        let map = node.ebpf.map_mut(maps::names::PORTS).unwrap();
        LpmTrie::<_, PortPrefix, u32>::try_from(map).unwrap().insert(&Key::new(45, data), 1, 0).unwrap();
        node.change_iface("good", |iface| {
            iface.flags |= maps::IFACE_HAS_EXCEPT;
            iface.protocols = maps::PROTO_TCP;
        });
        for (port, learned) in [(7999, true), (8000, false), (8007, false), (8008, true)] {
            node.ingress("good", &V6.request(frames::tcp(40_000, port, frames::SYN)));
            assert_eq!(node.flow(&V6, (40_000, port), 6).is_some(), learned, "port {port}");
        }
        assert_eq!(node.count(GOOD, |c| c.excepted), 2);
        node.ingress("good", &V4.request(frames::udp(40_000, 80)));
        node.ingress("good", &V4.request(frames::echo_request(1)));
        node.ingress("good", &V4.request(frames::sctp(40_000, 80, 1)));
        assert_eq!(node.flow_count(), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_gateway_is_the_candidate_with_the_requests_mac() {
    Node::run(|node| {
        for (pair, family) in PAIRS.iter().zip([4, 6]) {
            node.set_mac("good", ROUTER, family, 100);
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
            assert_eq!(node.flow(pair, (40_000, 80), 6).unwrap().path, 100);
            node.ingress_from(
                [0x02, 0, 0, 0, 0, 0x77],
                "good",
                &pair.request(frames::tcp(40_001, 80, frames::SYN)),
            );
            assert_eq!(node.flow(pair, (40_001, 80), 6).unwrap().path, path_of(pair));
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_flow_follows_its_router_and_its_interface() {
    const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x55];
    Node::run(|node| {
        node.set_mac("good", ROUTER, 4, 100);
        node.set_mac("good", OTHER, 4, 101);
        let request = V4.request(frames::tcp(40_000, 80, frames::SYN));
        node.ingress("good", &request);
        // Within one gate nothing is written; in the next one the new MAC is seen.
        let path = || {
            node.ingress_from(OTHER, "good", &request);
            node.flow(&V4, (40_000, 80), 6).unwrap().path
        };
        backtrail_lab::wait_until(std::time::Duration::from_secs(30), "the other router's path", || {
            path() == 101
        })
        .unwrap();
        assert_eq!(node.count(GOOD, |c| c.moved), 1);
        // Another interface is followed at once.
        node.change_iface("bad", |iface| (iface.flags, iface.path4) = (maps::IFACE_LEARN, 102));
        node.ingress("bad", &request);
        let flow = node.flow(&V4, (40_000, 80), 6).unwrap();
        assert_eq!((flow.path, flow.ifindex), (102, node.index("bad")));
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn zones_never_meet() {
    Node::run(|node| {
        for pair in PAIRS {
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
            let reply = pair.reply(frames::tcp(80, 40_000, frames::SYN_ACK));
            assert_eq!(node.egress("bad", &reply), REDIRECT);
            node.change_iface("bad", |iface| iface.zone = 10_001);
            assert_eq!(node.egress("bad", &reply), NEXT);
            node.change_iface("bad", |iface| iface.zone = 0);
        }
    });
}

/// What shows that a client is there, and what does not.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_flow_is_confirmed_by_who_got_an_answer() {
    Node::run(|node| {
        for pair in PAIRS {
            let request = |port, flags| pair.request(frames::tcp(port, 80, flags));
            let reply = |port, flags| pair.reply(frames::tcp(80, port, flags));
            let is_confirmed = |node: &Node<'_>, port| node.is_confirmed(&pair, (port, 80));
            node.ingress("good", &request(40_000, frames::SYN));
            // Unanswered; and what follows the answer is the opener again, or the word of somebody who never asked.
            node.ingress("good", &request(40_000, frames::ACK));
            assert_eq!(node.egress("bad", &reply(40_000, frames::SYN_ACK)), REDIRECT);
            for flags in [frames::SYN, frames::RST] {
                node.ingress("good", &request(40_000, flags));
            }
            assert!(!is_confirmed(node, 40_000));
            node.ingress("good", &request(40_000, frames::ACK));
            assert!(is_confirmed(node, 40_000));
            // A refusal confirms nothing; TCP that sends more than answers does, even without a word of the client's.
            node.ingress("good", &request(40_001, frames::SYN));
            assert_eq!(node.egress("bad", &reply(40_001, frames::RST)), REDIRECT);
            assert!(!is_confirmed(node, 40_001));
            assert_eq!(node.egress("bad", &reply(40_001, frames::ACK)), REDIRECT);
            assert!(is_confirmed(node, 40_001));
            assert_eq!(node.egress("bad", &reply(40_001, frames::ACK)), REDIRECT);
        }
        assert_eq!(node.count(GOOD, |c| c.confirmed), 4);
        assert_eq!(node.flow_count(), 4, "a record is in one table only");
    });
}

/// UDP is confirmed by the request after an answer, or by a service that goes on to send.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn udp_is_confirmed_by_a_second_request_or_a_steady_service() {
    Node::run(|node| {
        let confirmed =
            |node: &Node<'_>| node.count(GOOD, |c| c.confirmed) + node.count(BAD, |c| c.confirmed);
        for (before, pair) in [0, 2].into_iter().zip(PAIRS) {
            for port in [4000, 4001] {
                node.ingress("good", &pair.request(frames::udp(port, 53)));
                node.ingress("good", &pair.request(frames::udp(port, 53)));
                assert_eq!(node.egress("bad", &pair.reply(frames::udp(53, port))), REDIRECT);
            }
            assert_eq!(confirmed(node), before);
            node.ingress("good", &pair.request(frames::udp(4000, 53)));
            assert_eq!(confirmed(node), before + 1);
            backtrail_lab::wait_until(std::time::Duration::from_secs(30), "the service is steady", || {
                assert_eq!(node.egress("bad", &pair.reply(frames::udp(53, 4001))), REDIRECT);
                confirmed(node) == before + 2
            })
            .unwrap();
        }
        assert_eq!(node.flow_count(), 4, "a record is in one table only");
    });
}
