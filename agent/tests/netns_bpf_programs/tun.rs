//! Devices without L2 header, with real packets: BPF_PROG_TEST_RUN knows Ethernet only.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType, tc};
use backtrail_ebpf_common::maps::{self, Iface};
use backtrail_lab::open_tun;

use crate::frames::{self, V4};
use crate::harness::{BAD, GOOD, Node};

const TUN: &str = "tun9";
/// The node's address on `good`.
const SERVICE: &str = "10.1.0.1";

/// A tun device that the programs know.
fn add_tun(node: &mut Node<'_>) -> File {
    let file = open_tun(node.namespace, TUN).unwrap();
    node.add_device(TUN);
    file
}

fn attach(node: &mut Node<'_>, device: &str, program: &str, direction: TcAttachType) {
    // Of use before 6.6 only, and there already for the second program.
    tc::qdisc_add_clsact(device).ok();
    let program: &mut SchedClassifier = node.ebpf.program_mut(program).unwrap().try_into().unwrap();
    program.attach(device, direction).unwrap();
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_request_by_a_tunnel_is_answered_by_it() {
    Node::run(|node| {
        let mut tun = add_tun(node);
        let iface = Iface { l2_length: 0, mac: [0; 6], ..node.listed(TUN, GOOD) };
        node.set_iface(iface);
        let path = maps::Path { l2_length: 0, mac: [0; 6], ..node.auto_path(TUN, 4) };
        node.set_path(crate::harness::PATH4, path);
        attach(node, TUN, maps::programs::INGRESS, TcAttachType::Ingress);
        attach(node, "bad", maps::programs::EGRESS, TcAttachType::Egress);
        let request = frames::ip(V4.client, SERVICE.parse().unwrap(), frames::echo_request(9), 64);
        tun.write_all(&with_checksums(request)).unwrap();
        let mut packet = [0; 256];
        let mut length = 0;
        backtrail_lab::wait_until(Duration::from_secs(30), "the echo reply", || {
            // The kernel's own router solicitations come out here, too.
            length = tun.read(&mut packet).unwrap_or(0);
            length > 20 && packet[0] == 0x45 && packet[9] == 1
        })
        .unwrap();
        assert_eq!((packet[20], &packet[24..26]), (0, &[0, 9][..]), "an echo reply with the id");
        assert_eq!((node.count(GOOD, |c| c.learned), node.count(GOOD, |c| c.steered)), (1, 1));
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn a_reply_that_would_leave_by_a_tunnel_gets_its_l2_header() {
    Node::run(|node| {
        let _tun = add_tun(node);
        node.namespace.run(&format!("ip route replace default dev {TUN}")).unwrap();
        let iface = Iface { l2_length: 0, mac: [0; 6], path4: 0, path6: 0, ..node.listed(TUN, BAD) };
        node.set_iface(iface);
        let gateway = [10, 1, 0, 254, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        node.change_paths(|path| (path.gateway_family, path.gateway) = (4, gateway));
        attach(node, "good", maps::programs::INGRESS, TcAttachType::Ingress);
        attach(node, TUN, maps::programs::EGRESS, TcAttachType::Egress);
        node.routers.run(&format!("ip addr add {}/32 dev lo", V4.client)).unwrap();
        let ping = format!("ping -c 1 -W 30 -I {} {SERVICE}", V4.client);
        node.routers.run(&ping).unwrap();
        assert_eq!((node.count(GOOD, |c| c.learned), node.count(GOOD, |c| c.steered)), (1, 1));
    });
}

/// IPv4 with ICMP, both checksums filled in.
fn with_checksums(mut packet: Vec<u8>) -> Vec<u8> {
    let header = frames::checksum(&packet[..20], 0).to_be_bytes();
    packet[10..12].copy_from_slice(&header);
    let icmp = frames::checksum(&packet[20..], 0).to_be_bytes();
    packet[22..24].copy_from_slice(&icmp);
    packet
}
