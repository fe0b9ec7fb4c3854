//! The tc programs under BPF_PROG_TEST_RUN: one packet at a time, against the kernel's own devices, routes and sockets.
//!
//! `BACKTRAIL_BPF_OBJECT` names another object than the embedded one.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod harness;
mod learn;
mod mtu;
mod parse;
mod sink;
mod steer;
mod table;
mod tun;

use backtrail_lab::frames;
use harness::{NEXT, Node};

/// Instructions that the verifier may walk for each program: 1.4 times as many as on the kernel that walks most, 7.2.
const BUDGET: u32 = 50_000;

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn programs_stay_within_their_instruction_budget() {
    Node::run(|node| {
        for (name, count) in node.verified_instructions() {
            println!("MEASURED {name}: {count} instructions verified");
            assert!(count <= BUDGET, "{name} has {count} verified instructions, budget {BUDGET}");
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces: cargo xtask test netns"]
fn an_unlisted_device_passes_everything() {
    Node::run(|node| {
        node.forget_interfaces();
        for pair in frames::PAIRS {
            let request = pair.request(frames::tcp(40_000, 80, frames::SYN));
            assert_eq!(node.ingress("good", &request), NEXT);
            assert_eq!(node.egress("bad", &pair.reply(frames::tcp(80, 40_000, frames::SYN_ACK))), NEXT);
        }
        assert_eq!(node.flow_count(), 0);
    });
}
