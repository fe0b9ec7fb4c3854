//! Packets over the MTU of the path that they are steered to.

use std::net::IpAddr;

use crate::frames::{self, PAIRS, Pair, V4};
use crate::harness::{GOOD, NEXT, Node, REDIRECT};

const MTU: u32 = 1300;

/// Learns a TCP flow on `good`, whose path has a small MTU.
fn learned(node: &mut Node<'_>) {
    node.change_paths(|path| path.mtu = MTU);
    for pair in PAIRS {
        node.ingress("good", &pair.request(frames::tcp(40_000, 80, frames::SYN)));
    }
}

/// A reply with so many bytes of payload; IPv4 with don't-fragment.
fn reply(pair: &Pair, payload: usize) -> Vec<u8> {
    let mut frame = pair.reply(frames::longer(frames::tcp(80, 40_000, frames::ACK), payload));
    if pair.client.is_ipv4() {
        frame[20] = 0x40;
    }
    frame
}

/// Bytes of IP and TCP header.
fn headers(pair: &Pair) -> usize {
    if pair.client.is_ipv4() { 40 } else { 60 }
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_fits_is_steered() {
    Node::run(|node| {
        learned(node);
        for pair in PAIRS {
            let frame = reply(&pair, 1300 - headers(&pair));
            let (verdict, out) = node.egress_out("bad", &frame);
            assert_eq!((verdict, out.len()), (REDIRECT, frame.len()));
        }
        assert_eq!(node.count(GOOD, |c| c.steered), 2);
        assert_eq!(node.count(GOOD, |c| c.mtu_exceeded), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn the_sender_of_what_does_not_fit_is_told() {
    Node::run(|node| {
        learned(node);
        for pair in PAIRS {
            let frame = reply(&pair, 1301 - headers(&pair));
            let (verdict, out) = node.egress_out("bad", &frame);
            assert_eq!(verdict, REDIRECT);
            assert_eq!((&out[..6], &out[12..14]), (&node.mac("good")[..], &frame[12..14]));
            let ip = &out[14..];
            match (pair.service, pair.client) {
                (IpAddr::V4(service), IpAddr::V4(client)) => {
                    assert_eq!(
                        (ip.len(), &ip[12..16], &ip[16..20]),
                        (56, &client.octets()[..], &service.octets()[..])
                    );
                    assert_eq!(frames::checksum(&ip[..20], 0), 0);
                    assert_eq!((&ip[20..22], frames::checksum(&ip[20..], 0)), (&[3, 4][..], 0));
                    assert_eq!(ip[24..28], MTU.to_be_bytes());
                    assert_eq!(ip[28..], frame[14..42]);
                }
                (IpAddr::V6(service), IpAddr::V6(client)) => {
                    assert_eq!(
                        (ip.len(), &ip[8..24], &ip[24..40]),
                        (96, &client.octets()[..], &service.octets()[..])
                    );
                    assert_eq!((&ip[4..7], &ip[40..42]), (&[0, 56, 58][..], &[2, 0][..]));
                    assert_eq!(frames::checksum(&ip[8..], 56 + 58), 0);
                    assert_eq!(ip[44..48], MTU.to_be_bytes());
                    assert_eq!(ip[48..], frame[14..62]);
                }
                _ => panic!("one family"),
            }
        }
        assert_eq!(node.count(GOOD, |c| c.mtu_exceeded), 2);
        assert_eq!(node.count(GOOD, |c| c.steered), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn what_may_be_fragmented_is_left_to_the_fib() {
    Node::run(|node| {
        learned(node);
        let mut frame = reply(&V4, 1400);
        frame[20] = 0;
        let (verdict, out) = node.egress_out("bad", &frame);
        assert_eq!((verdict, &out[14..]), (NEXT, &frame[14..]));
        assert_eq!(node.count(GOOD, |c| c.mtu_unfit), 1);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn segments_count_not_what_they_are_cut_from() {
    Node::run(|node| {
        learned(node);
        for pair in PAIRS {
            let frame = reply(&pair, 2400);
            let fits = MTU - u32::try_from(headers(&pair)).unwrap();
            assert_eq!(node.egress_segmented("bad", &frame, fits), REDIRECT);
            assert_eq!(node.egress_segmented("bad", &frame, fits + 1), REDIRECT);
        }
        assert_eq!(node.count(GOOD, |c| c.steered), 2);
        assert_eq!(node.count(GOOD, |c| c.mtu_exceeded), 2);
    });
}

/// SCTP's segments are of different sizes: the kernel looks at each.
#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn packets_that_are_lists_of_segments_are_steered() {
    const BY_FRAGMENTS: u32 = 0xffff;
    Node::run(|node| {
        node.change_paths(|path| path.mtu = MTU);
        for pair in PAIRS {
            node.ingress("good", &pair.request(frames::sctp(40_000, 80, 1)));
            let frame = pair.reply(frames::longer(frames::sctp(80, 40_000, 0), 2400));
            assert_eq!(node.egress_segmented("bad", &frame, BY_FRAGMENTS), REDIRECT);
        }
        assert_eq!(node.count(GOOD, |c| c.steered), 2);
    });
}
