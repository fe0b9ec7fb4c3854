//! A map from (table, prefix) that spends few bytes on each of a million entries.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

/// Index of a table (or of any other 32-bit scope) in a [`PrefixMap`].
type Scope = u16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key4 {
    addr: u32,
    scope: Scope,
    len: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key6 {
    // Two halves: a u128 would align the key to 16 bytes.
    addr: [u32; 4],
    scope: Scope,
    len: u8,
}

/// Values by (scope, prefix); the scope is a 32-bit number such as a table, of which at most 65,536 are in use.
#[derive(Debug, Clone)]
pub struct PrefixMap<V> {
    v4: FxHashMap<Key4, V>,
    v6: FxHashMap<Key6, V>,
    scopes: Vec<u32>,
    scope_index: FxHashMap<u32, Scope>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self {
            v4: FxHashMap::default(),
            v6: FxHashMap::default(),
            scopes: Vec::new(),
            scope_index: FxHashMap::default(),
        }
    }
}

impl<V> PrefixMap<V> {
    fn scope(&self, scope: u32) -> Option<Scope> {
        self.scope_index.get(&scope).copied()
    }

    fn intern(&mut self, scope: u32) -> Option<Scope> {
        if let Some(index) = self.scope_index.get(&scope) {
            return Some(*index);
        }
        let index = Scope::try_from(self.scopes.len()).ok()?;
        self.scopes.push(scope);
        self.scope_index.insert(scope, index);
        Some(index)
    }

    /// Inserts, returning what was there. Entries of a 65,537th scope are not kept: no node has so many tables.
    pub fn insert(&mut self, scope: u32, prefix: &IpNet, value: V) -> Option<V> {
        let scope = self.intern(scope)?;
        match prefix {
            IpNet::V4(net) => self.v4.insert(key4(scope, net), value),
            IpNet::V6(net) => self.v6.insert(key6(scope, net), value),
        }
    }

    /// Looks up exactly this prefix.
    pub fn get(&self, scope: u32, prefix: &IpNet) -> Option<&V> {
        let scope = self.scope(scope)?;
        match prefix {
            IpNet::V4(net) => self.v4.get(&key4(scope, net)),
            IpNet::V6(net) => self.v6.get(&key6(scope, net)),
        }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, scope: u32, prefix: &IpNet) -> Option<&mut V> {
        let scope = self.scope(scope)?;
        match prefix {
            IpNet::V4(net) => self.v4.get_mut(&key4(scope, net)),
            IpNet::V6(net) => self.v6.get_mut(&key6(scope, net)),
        }
    }

    /// Removes, returning what was there.
    pub fn remove(&mut self, scope: u32, prefix: &IpNet) -> Option<V> {
        let scope = self.scope(scope)?;
        match prefix {
            IpNet::V4(net) => self.v4.remove(&key4(scope, net)),
            IpNet::V6(net) => self.v6.remove(&key6(scope, net)),
        }
    }

    /// Everything, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, IpNet, &V)> + '_ {
        let scope = |index: Scope| self.scopes.get(usize::from(index)).copied().unwrap_or_default();
        let v4 = self.v4.iter().map(move |(key, value)| (scope(key.scope), net4(key), value));
        let v6 = self.v6.iter().map(move |(key, value)| (scope(key.scope), net6(key), value));
        v4.chain(v6)
    }

    /// Changes every value.
    pub fn for_each_mut(&mut self, mut change: impl FnMut(&mut V)) {
        self.v4.values_mut().chain(self.v6.values_mut()).for_each(&mut change);
    }

    /// Keeps the values for which `keep(scope, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(u32, &mut V) -> bool) {
        let scopes = &self.scopes;
        let scope = |index: Scope| scopes.get(usize::from(index)).copied().unwrap_or_default();
        self.v4.retain(|key, value| keep(scope(key.scope), value));
        self.v6.retain(|key, value| keep(scope(key.scope), value));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn key4(scope: Scope, net: &Ipv4Net) -> Key4 {
    Key4 { addr: net.network().to_bits(), scope, len: net.prefix_len() }
}

fn key6(scope: Scope, net: &Ipv6Net) -> Key6 {
    let bits = net.network().to_bits();
    let word = |shift: u32| u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or_default();
    Key6 { addr: [word(96), word(64), word(32), word(0)], scope, len: net.prefix_len() }
}

fn net4(key: &Key4) -> IpNet {
    // A stored length is at most 32, so the fallback is never taken.
    let addr = Ipv4Addr::from_bits(key.addr);
    Ipv4Net::new(addr, key.len).map_or_else(|_| IpNet::V4(addr.into()), IpNet::V4)
}

fn net6(key: &Key6) -> IpNet {
    let bits = key.addr.iter().fold(0u128, |bits, word| (bits << 32) | u128::from(*word));
    let addr = Ipv6Addr::from_bits(bits);
    Ipv6Net::new(addr, key.len).map_or_else(|_| IpNet::V6(addr.into()), IpNet::V6)
}
