//! Packets that the fast parser leaves to the slow one.

use std::net::IpAddr;

use backtrail_ebpf_common::maps;

use crate::frames::{self, Pair, V4, V6};
use crate::harness::{BAD, GOOD, NEXT, Node, REDIRECT};

/// IPv4 with options or a fragment field.
fn v4(pair: &Pair, reply: bool, l4: &frames::L4, options: &[u8], fragment: u16) -> Vec<u8> {
    let (IpAddr::V4(client), IpAddr::V4(service)) = (pair.client, pair.service) else { panic!("IPv4") };
    let (source, destination) = if reply { (service, client) } else { (client, service) };
    let frames::Proto::Number(proto) = l4.proto else { panic!("no ICMP") };
    frames::ethernet(&frames::ipv4(source, destination, proto, &l4.bytes, 64, options, fragment))
}

/// IPv6 with extension headers in front of `l4`.
fn v6(pair: &Pair, reply: bool, next: u8, extensions: &[u8], l4: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(client), IpAddr::V6(service)) = (pair.client, pair.service) else { panic!("IPv6") };
    let (source, destination) = if reply { (service, client) } else { (client, service) };
    let payload = [extensions, l4].concat();
    frames::ethernet(&frames::ipv6(source, destination, next, &payload, 64))
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn ipv4_options_are_skipped() {
    Node::run(|node| {
        let options = [1, 1, 1, 1, 1, 1, 1, 0];
        node.ingress("good", &v4(&V4, false, &frames::tcp(40_000, 80, frames::SYN), &options, 0));
        assert!(node.flow(&V4, (40_000, 80), 6).is_some());
        let reply = v4(&V4, true, &frames::tcp(80, 40_000, frames::SYN_ACK), &options, 0);
        assert_eq!(node.egress("bad", &reply), REDIRECT);
        // Don't-fragment is no fragment.
        let reply = v4(&V4, true, &frames::tcp(80, 40_000, frames::ACK), &[], 0x4000);
        assert_eq!(node.egress("bad", &reply), REDIRECT);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn ipv6_extension_headers_are_skipped() {
    Node::run(|node| {
        let syn = frames::tcp(40_000, 80, frames::SYN).bytes;
        let answer = frames::tcp(80, 40_000, frames::SYN_ACK).bytes;
        // Hop-by-hop, destination options of two words, routing, then the transport header.
        let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
        chain.extend([43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([6, 0, 4, 0, 0, 0, 0, 0]);
        node.ingress("good", &v6(&V6, false, 0, &chain, &syn));
        assert!(node.flow(&V6, (40_000, 80), 6).is_some());
        assert_eq!(node.egress("bad", &v6(&V6, true, 0, &chain, &answer)), REDIRECT);
        // A chain without end is not followed to its end.
        let endless = [60, 0, 1, 4, 0, 0, 0, 0].repeat(12);
        assert_eq!(node.egress("bad", &v6(&V6, true, 60, &endless, &answer)), NEXT);
        assert_eq!(node.count(BAD, |c| c.too_deep), 1);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn fragments_follow_their_first_one() {
    Node::run(|node| {
        node.ingress("good", &v4(&V4, false, &frames::udp(4000, 53), &[], 0x2000));
        let first = v4(&V4, true, &frames::udp(53, 4000), &[], 0x2000);
        let later = v4(&V4, true, &frames::udp(0xdead, 0xbeef), &[], 185);
        assert_eq!(node.egress("bad", &later), NEXT, "before the first");
        assert_eq!(node.egress("bad", &first), REDIRECT);
        assert_eq!(node.egress("bad", &later), REDIRECT);
        assert_eq!(node.egress("good", &later), NEXT, "already right");

        node.ingress("good", &V6.request(frames::udp(4000, 53)));
        let header = |offset: u16| {
            let [a, b] = offset.to_be_bytes();
            [17, 0, a, b, 9, 9, 9, 9]
        };
        let first = v6(&V6, true, 44, &header(1), &frames::udp(53, 4000).bytes);
        let later = v6(&V6, true, 44, &header(1480), &[0xee; 40]);
        assert_eq!(node.egress("bad", &later), NEXT);
        assert_eq!(node.egress("bad", &first), REDIRECT);
        assert_eq!(node.egress("bad", &later), REDIRECT);
        assert_eq!(node.count(BAD, |c| c.lost_fragments), 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn tags_are_followed_where_they_are_the_devices_own() {
    Node::run(|node| {
        node.change_iface("good", |iface| iface.flags |= maps::IFACE_TAGGED);
        node.change_iface("bad", |iface| iface.flags |= maps::IFACE_TAGGED);
        for (tags, port) in [(&[(0x8100, 100)][..], 4000), (&[(0x88a8, 100), (0x8100, 200)][..], 4001)] {
            let syn = V4.request(frames::tcp(port, 80, frames::SYN));
            node.ingress("good", &frames::tagged(&syn, tags));
            assert!(node.flow(&V4, (port, 80), 6).is_some());
            let reply = V4.reply(frames::tcp(80, port, frames::SYN_ACK));
            let (verdict, frame) = node.egress_out("bad", &frames::tagged(&reply, tags));
            assert_eq!(verdict, REDIRECT);
            assert_eq!(frame[12..], reply[12..], "the target device has its own tag");
        }
        let deep = frames::tagged(
            &V4.reply(frames::tcp(80, 4000, frames::ACK)),
            &[(0x88a8, 1), (0x88a8, 2), (0x8100, 3)],
        );
        assert_eq!(node.egress("bad", &deep), NEXT);
        assert_eq!(node.count(BAD, |c| c.too_deep), 1);
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn bad_packets_pass_and_are_counted() {
    Node::run(|node| {
        let good = V4.request(frames::tcp(40_000, 80, frames::SYN));
        let mut short_header = good.clone();
        short_header[14] = 0x44;
        let mut version = V6.request(frames::tcp(40_000, 80, frames::SYN));
        version[14] = 0x50;
        for frame in [&short_header, &version] {
            assert_eq!(node.ingress("good", frame), NEXT);
        }
        assert_eq!(node.count(GOOD, |c| c.malformed), 2);
        let v6 = V6.request(frames::tcp(40_000, 80, frames::SYN));
        for cut in [&good[..36], &good[..40], &v6[..56]] {
            assert_eq!(node.ingress("good", cut), NEXT);
        }
        // The second has ports, and no flags that would make it an opener.
        assert_eq!(node.count(GOOD, |c| c.truncated), 2);
        assert_eq!(node.count(GOOD, |c| c.midflow), 1);
        let arp = [&[0; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        let vrrp = V4.request(frames::L4 { proto: frames::Proto::Number(112), bytes: vec![0; 20] });
        let esp = V6.request(frames::L4 { proto: frames::Proto::Number(50), bytes: vec![0; 20] });
        for frame in [arp, vrrp, esp] {
            assert_eq!(node.ingress("good", &frame), NEXT);
        }
        assert_eq!(node.count(GOOD, |c| c.other_protocol), 3);
        assert_eq!(node.flow_count(), 0);
    });
}
