//! Route sets of a full table's shape.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Of a thousand routes of the Internet's table, how many have each length.
const SHAPE: [(u8, u32); 12] = [
    (13, 2),
    (14, 3),
    (15, 4),
    (16, 14),
    (17, 9),
    (18, 15),
    (19, 27),
    (20, 46),
    (21, 56),
    (22, 118),
    (23, 104),
    (24, 602),
];

/// A generator of numbers that look random and are the same in every run (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// 32 bits.
    pub(crate) fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Fisher and Yates.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.next() as usize % (last + 1));
        }
    }
}

/// `count` different prefixes, ascending as zebra replays them.
pub(crate) fn full_table(count: u32, seed: u64) -> Vec<Ipv4Net> {
    let mut random = Random::new(seed);
    let mut set = BTreeSet::new();
    while set.len() < count as usize {
        let length = length(random.next() % 1000);
        let address = Ipv4Addr::from(random.next());
        // The lab's own networks are in 10/8; the rest is not unicast.
        if matches!(address.octets(), [0 | 10 | 127 | 224.., ..]) {
            continue;
        }
        if let Ok(net) = Ipv4Net::new(address, length) {
            set.insert(net.trunc());
        }
    }
    set.into_iter().collect()
}

/// `count` different IPv6 prefixes of 2000::/3 with the usual lengths: half are /48, the rest /29 to /47.
pub(crate) fn table6(count: u32, seed: u64) -> Vec<Ipv6Net> {
    let mut random = Random::new(seed);
    let mut set = BTreeSet::new();
    while set.len() < count as usize {
        let draw = random.next() % 38;
        let length = u8::try_from(29 + draw).unwrap_or(48).min(48);
        let high = u64::from(random.next()) << 32 | u64::from(random.next());
        let address = Ipv6Addr::from_bits((u128::from(high >> 3) << 64) | (1 << 125));
        if let Ok(net) = Ipv6Net::new(address, length) {
            set.insert(net.trunc());
        }
    }
    set.into_iter().collect()
}

fn length(draw: u32) -> u8 {
    let mut below = 0;
    for (length, share) in SHAPE {
        below += share;
        if draw < below {
            return length;
        }
    }
    24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_prefixes_are_global_and_different() {
        let routes = table6(5000, 1);
        assert!(routes.len() == 5000 && routes.is_sorted());
        assert!(routes.iter().all(|net| net.addr().segments()[0] >> 13 == 1 && net.prefix_len() <= 48));
    }

    #[test]
    fn the_shape_is_that_of_a_full_table() {
        assert_eq!(SHAPE.iter().map(|(_, share)| share).sum::<u32>(), 1000);
        let routes = full_table(20_000, 1);
        let share = routes.iter().filter(|net| net.prefix_len() == 24).count() * 100 / routes.len();
        assert!((57..=63).contains(&share), "{share} % of /24");
        assert!(routes.is_sorted() && routes.iter().all(|net| (13..=24).contains(&net.prefix_len())));
    }
}
