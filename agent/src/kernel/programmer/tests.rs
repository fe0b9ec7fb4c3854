//! What becomes of operations whose answers are lost. No message here reaches the kernel, or could change anything.

use nix::sys::socket::{setsockopt, sockopt};

use super::{Arc, Batch, Encoded, Gate, RouteOp, Socket, Writer};
use crate::model::{KernelRoute, NexthopBody, NexthopId, NexthopObject, RouteKey, RouteTarget};

#[test]
fn a_send_that_fails_is_an_error_of_each_of_its_operations() {
    let socket = Socket::open().expect("a netlink socket");
    // The kernel raises it to some 4 KiB: no send of this test is that short.
    setsockopt(&socket, sockopt::SndBuf, &1).expect("a small send buffer");
    let mut writer = Writer::new(socket);
    // Nexthop 0 does not exist anywhere.
    let mut ops = vec![RouteOp::DelNexthop(NexthopId(0)); 1500];
    let other = NexthopObject { id: NexthopId(0), protocol: 201, body: NexthopBody::Other };
    ops[7] = RouteOp::AddNexthop(other);
    let done = writer.apply(Encoded::new(Batch { id: 3, ops: ops.clone() }, 1, &Arc::default()));
    assert_eq!((done.id, done.ops), (3, ops));
    let indices: Vec<usize> = done.errors.iter().map(|error| error.index).collect();
    assert_eq!(indices, (0..1500).collect::<Vec<_>>());
    let expected = |index| if index == 7 { libc::EINVAL } else { libc::EMSGSIZE };
    assert!(done.errors.iter().all(|error| error.errno == expected(error.index)));
}

#[test]
fn only_changed_nexthop_objects_keep_dumps_out_and_only_until_they_are_done() {
    let gate = Arc::new(Gate::default());
    let mut writer = Writer::new(Socket::open().expect("a netlink socket"));
    let object = NexthopObject { id: NexthopId(0), protocol: 201, body: NexthopBody::Other };
    let closes = |op: RouteOp, writer: &mut Writer| {
        let encoded = Encoded::new(Batch { id: 1, ops: vec![op] }, 1, &gate);
        let closed = gate.is_closed();
        writer.apply(encoded);
        assert!(!gate.is_closed());
        closed
    };
    assert!(!closes(RouteOp::AddNexthop(object.clone()), &mut writer));
    assert!(closes(RouteOp::ReplaceNexthop(object), &mut writer));
    assert!(closes(RouteOp::DelNexthop(NexthopId(0)), &mut writer));
}

#[test]
fn operations_print_what_they_do() {
    let key = RouteKey { table: 10_000, prefix: "192.0.2.0/24".parse().expect("a prefix"), metric: 20 };
    let route = KernelRoute {
        key,
        target: RouteTarget::Nexthop(NexthopId(1)),
        preferred_source: None,
        mtu: None,
        protocol: 201,
        scope_link: false,
    };
    assert_eq!(RouteOp::AddRoute(route).to_string(), "add route 192.0.2.0/24 table 10000 metric 20");
    assert_eq!(RouteOp::DelNexthop(NexthopId(7)).to_string(), "delete nexthop 7");
}
