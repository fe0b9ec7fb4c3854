//! The hot path, routes by nexthop id, allocates nothing.

#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use zebra_fpm::frame::{Encoding, write_frame};
use zebra_fpm::netlink::encode;
use zebra_fpm::{Decoder, NexthopId, Protocol, Route, RouteDel, RouteKey, TableId, Update};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A route and a delete of each family, a frame each.
fn stream(routes: u32) -> Vec<u8> {
    let mut stream = Vec::new();
    for n in 0..routes {
        let v4 = IpNet::V4(Ipv4Net::from(Ipv4Addr::from(0x0a00_0000 + n)));
        let v6 = IpNet::V6(Ipv6Net::from(Ipv6Addr::from(0xfd00 << 112 | u128::from(n))));
        for dst in [v4, v6] {
            let key = RouteKey::new(TableId(5000), dst);
            let add = Update::Route(Route::by_nexthop(key, Protocol::BGP, NexthopId(15)));
            let del = Update::RouteDel(RouteDel { key, protocol: Some(Protocol::BGP), metric: None });
            for update in [add, del] {
                write_frame(Encoding::Netlink, &mut stream, |payload| encode(&update, 1, payload))
                    .expect("a route fits a frame");
            }
        }
    }
    stream
}

// The only test of this file: another one would allocate meanwhile.
#[test]
fn routes_by_nexthop_id_allocate_nothing() {
    const ROUTES: u32 = 10_000;
    let stream = stream(ROUTES);
    let mut decoder = Decoder::new();
    decoder.frames().extend(&stream);
    let mut updates = Vec::with_capacity(4 * ROUTES as usize);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    while decoder.next_frame(&mut updates).expect("whole frames").is_some() {}
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!((updates.len(), allocations), (4 * ROUTES as usize, 0));
}
