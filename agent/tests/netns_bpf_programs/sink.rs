//! The sink device.

use backtrail_ebpf_common::maps::{self, Iface};

use crate::frames::{self, PAIRS};
use crate::harness::{DROP, GLOBALS, GOOD, Node, REDIRECT, SINK};

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_sink_steers_follows_the_fib_or_drops() {
    Node::run(|node| {
        node.namespace.run("ip link add sink type veth peer name drain; ip link set sink up").unwrap();
        node.namespace.sysctl("net.ipv4.conf.sink.forwarding", "1").unwrap();
        node.namespace.sysctl("net.ipv6.conf.sink.forwarding", "1").unwrap();
        node.add_device("sink");
        let sink = Iface { flags: 0, path4: 0, path6: 0, ..node.listed("sink", SINK) };
        node.set_iface(sink);
        for pair in PAIRS {
            node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
            assert_eq!(node.sink("sink", &pair.reply(frames::tcp(80, 40_000, frames::SYN_ACK))), REDIRECT);
        }
        assert_eq!(node.count(GOOD, |c| c.steered), 2);
        for pair in PAIRS {
            assert_eq!(node.sink("sink", &pair.reply(frames::tcp(80, 50_000, frames::ACK))), REDIRECT);
        }
        assert_eq!(node.count(SINK, |c| c.sink_forwarded), 2);
        node.namespace.run("ip route del default; ip -6 route del default").unwrap();
        node.set_globals(maps::Globals { generation: 2, ..GLOBALS });
        for pair in PAIRS {
            assert_eq!(node.sink("sink", &pair.reply(frames::tcp(80, 50_000, frames::ACK))), DROP);
        }
        assert_eq!(node.count(SINK, |c| c.sink_dropped), 2);
    });
}
