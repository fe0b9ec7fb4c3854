#![no_main]

use backtrail_ebpf_common::packet;
use backtrail_ebpf_common::packet::fast::{Ethernet, Plain4, Plain6};
use backtrail_ebpf_common::packet::{Headers, Link, Unparsed, parse};
use libfuzzer_sys::fuzz_target;

#[path = "../oracle.rs"]
mod oracle;

/// Bit of the first byte: VLAN tags are the device's own.
const TAGGED: u8 = 1;
/// Bit of the first byte: no L2 header.
const BARE: u8 = 2;

/// A header struct with the bytes at `offset`.
fn view<T>(bytes: &[u8], offset: usize) -> Option<T> {
    let bytes = bytes.get(offset..offset + size_of::<T>())?;
    // SAFETY: as many bytes as `T` has; the header structs are made of bytes alone.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// What the fast parser takes, the slow one takes, unless the packet ends within the transport header.
fn agree<K: PartialEq + std::fmt::Debug>(fast: K, slow: Result<K, Unparsed>) {
    assert!(slow == Err(Unparsed::Truncated) || slow == Ok(fast));
}

fuzz_target!(|input: &[u8]| {
    let Some((options, frame)) = input.split_first() else { return };
    if options & BARE != 0 {
        assert_eq!(oracle::disagreement(frame), None);
        return;
    }
    let slow = parse(&oracle::Slice(frame), Link { length: 14, ethertype: 0, tagged: options & TAGGED != 0 });
    if let Ok(headers) = &slow {
        assert!(headers.family == 4 || headers.family == 6);
        assert!(headers.l4 == 0 || headers.l4 > headers.l3);
    }
    let Some(ethernet) = view::<Ethernet>(frame, 0) else { return };
    if let Some(ip) = view::<Plain4>(frame, Plain4::L3).filter(|ip| ip.is_plain(&ethernet)) {
        agree(ip.request(7), slow.map(|headers: Headers| headers.request4(7)));
    } else if let Some(ip) = view::<Plain6>(frame, Plain6::L3).filter(|ip| ip.is_plain(&ethernet)) {
        agree(ip.request(7), slow.map(|headers: Headers| headers.request6(7)));
    }
    if let Some(ip) = frame.get(14..) {
        assert_eq!(oracle::disagreement(ip), None);
    }
});
