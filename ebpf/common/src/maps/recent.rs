//! Flows that a client has opened and not yet confirmed, and when such were last seen.

/// Entries of `rp_openers` and `rp_openers6` beside flow tables of so many entries: a quarter.
///
/// A flow stays there until it is confirmed. So openers that nobody follows up, as those of a flood from forged addresses,
/// make room for each other and never cost a flow in use.
#[inline(always)]
#[must_use]
pub const fn openers(flows: u32) -> u32 {
    if flows < 4 * 1024 { 1024 } else { flows / 4 }
}

/// Entries of `rp_recent`, a power of two: a mebibyte.
pub const RECENT: u32 = 1 << 17;
/// Gates for which an opener counts as recent.
pub const RECENT_GATES: u16 = 32;

/// When openers were last seen, four by four: a packet that is in no flow table is looked for among the openers only where
/// there was one. What the gate says is never wrong for long: after 18 hours an old one looks new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Recent {
    /// Gates.
    pub gates: [u16; 4],
}

/// Which gate is that of a flow: of `rp_recent` the entry, and in that the place. By the last four bytes of the client's address.
#[inline(always)]
#[must_use]
pub const fn recent_index((client, client_port, service_port): (u32, u16, u16)) -> (u32, usize) {
    let ports = (client_port as u32) << 16 | service_port as u32;
    // Knuth's multiplier: the high bits are the good ones.
    let hash = (client ^ ports.rotate_left(7)).wrapping_mul(0x9e37_79b1);
    (hash >> (32 - RECENT.trailing_zeros()), (hash >> 13 & 3) as usize)
}

const _: () = {
    assert!(size_of::<Recent>() == 8);
};
