//! The flow tables when they fill up.

use backtrail_ebpf_common::maps;

use crate::frames::{self, PAIRS, Pair};
use crate::harness::{GOOD, Node, REDIRECT};

/// Entries of each table here.
const ENTRIES: u32 = 4096;

fn opener(pair: &Pair, port: u16) -> Vec<u8> {
    pair.request(frames::tcp(port, 80, frames::SYN))
}

fn reply(pair: &Pair, port: u16) -> Vec<u8> {
    pair.reply(frames::tcp(80, port, frames::ACK))
}

/// Sends openers, each from a port of its own; the node answers, and nobody follows them up.
fn flood(node: &Node<'_>, pair: &Pair, ports: std::ops::Range<u16>) {
    for port in ports {
        node.ingress("good", &opener(pair, port));
        let answer = pair.reply(frames::tcp(80, port, frames::SYN_ACK));
        assert_eq!(node.egress("bad", &answer), REDIRECT, "port {port}");
    }
}

/// Opens connections, each from a port of its own.
fn open(node: &Node<'_>, pair: &Pair, ports: std::ops::Range<u16>) {
    for port in ports {
        flood(node, pair, port..port + 1);
        node.ingress("good", &pair.request(frames::tcp(port, 80, frames::ACK)));
    }
}

fn lost(node: &Node<'_>, pair: &Pair, ports: std::ops::Range<u16>) -> usize {
    ports.filter(|port| !node.is_confirmed(pair, (*port, 80))).count()
}

/// The kernel evicts before a table is full, for each CPU keeps free entries for itself: not below nine tenths.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn no_flow_is_lost_below_nine_tenths_of_the_capacity() {
    Node::run_with(ENTRIES, |node| {
        let last = 10_000 + u16::try_from(ENTRIES * 9 / 10).unwrap();
        for pair in PAIRS {
            open(node, &pair, 10_000..last);
            assert_eq!(lost(node, &pair, 10_000..last), 0);
        }
        assert_eq!(node.count(GOOD, |c| c.full), 0);
        assert_eq!(node.count(GOOD, |c| c.confirmed), 2 * u64::from(last - 10_000));
    });
}

/// A flood of openers, three times what fits, costs no connection: not one in use, however many were learned in one row, nor a
/// silent one. It shows in the counters.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_flood_of_openers_costs_no_connection() {
    Node::run_with(ENTRIES, |node| {
        let (used, silent) = (1000..2000, 2000..2500);
        for pair in PAIRS {
            open(node, &pair, used.clone());
            open(node, &pair, silent.clone());
            for burst in 0..48_u16 {
                let first = 10_000 + burst * 256;
                flood(node, &pair, first..first + 256);
                for port in used.clone().step_by(7) {
                    assert_eq!(node.egress("bad", &reply(&pair, port)), REDIRECT, "port {port}");
                }
                // Who connects meanwhile is let in.
                open(node, &pair, 3000 + burst..3001 + burst);
            }
            assert_eq!(lost(node, &pair, used.start..silent.end), 0);
            assert_eq!(lost(node, &pair, 3000..3048), 0);
        }
        let (learned, confirmed) = (node.count(GOOD, |c| c.learned), node.count(GOOD, |c| c.confirmed));
        assert_eq!((learned, confirmed), (2 * (1548 + 48 * 256), 2 * 1548));
    });
}

/// More connections than fit cost those that are silent; those in use stay. (Where more than 128 in use were learned in one row,
/// the kernel takes one of them: it looks no further.)
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn too_many_connections_cost_the_silent_ones() {
    Node::run_with(ENTRIES, |node| {
        let (used, silent) = (1000..1100, 2000..2200);
        for pair in PAIRS {
            open(node, &pair, used.clone());
            open(node, &pair, silent.clone());
            for burst in 0..32_u16 {
                let first = 10_000 + burst * 256;
                open(node, &pair, first..first + 256);
                for port in used.clone() {
                    assert_eq!(node.egress("bad", &reply(&pair, port)), REDIRECT, "port {port}");
                }
            }
            assert_eq!(lost(node, &pair, used.clone()), 0);
            assert_eq!(lost(node, &pair, silent.clone()), silent.len());
        }
    });
}

/// Both tables are as large as they were asked to be, and no larger than what is documented.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn tables_take_the_memory_that_is_documented() {
    Node::run_with(1 << 18, |node| {
        let bytes = [maps::names::FLOWS, maps::names::FLOWS6].map(|name| node.memory(name));
        println!("rp_flows {} bytes an entry, rp_flows6 {}", bytes[0] >> 18, bytes[1] >> 18);
        assert!(bytes[0] >> 18 <= 160 && bytes[1] >> 18 <= 192, "{bytes:?}");
    });
}
