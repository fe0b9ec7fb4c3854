//! Maps that the agent alone writes, with a copy of their content: only differences reach the kernel.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError};

use super::SteeringError;
use super::layout::TrieKey;

/// A map, whatever its kind.
pub(super) trait Store {
    /// Key.
    type Key: Copy + Ord;
    /// Value.
    type Value: Copy + PartialEq;
    /// Reads all of it.
    fn dump(&self) -> Result<BTreeMap<Self::Key, Self::Value>, MapError>;
    /// Writes one element.
    fn put(&mut self, key: Self::Key, value: Self::Value) -> Result<(), MapError>;
    /// Removes one element; one that is not there is removed already.
    fn remove(&mut self, key: Self::Key) -> Result<(), MapError>;
}

/// A map and what it holds.
pub(super) struct Table<S: Store> {
    name: &'static str,
    store: S,
    content: BTreeMap<S::Key, S::Value>,
}

impl<S: Store> Table<S> {
    /// Adopts a map with what it holds.
    pub(super) fn open(name: &'static str, store: S) -> Result<Self, SteeringError> {
        let content = store.dump().map_err(SteeringError::map("read", name))?;
        Ok(Self { name, store, content })
    }

    /// What it holds.
    pub(super) fn content(&self) -> &BTreeMap<S::Key, S::Value> {
        &self.content
    }

    /// Writes what is wanted and not there yet; counts the writes.
    pub(super) fn put(&mut self, wanted: &BTreeMap<S::Key, S::Value>) -> Result<usize, SteeringError> {
        let mut writes = 0;
        for (key, value) in wanted {
            if self.content.get(key) != Some(value) {
                self.store.put(*key, *value).map_err(SteeringError::map("write", self.name))?;
                self.content.insert(*key, *value);
                writes += 1;
            }
        }
        Ok(writes)
    }

    /// Removes what is there and not wanted; counts the writes.
    pub(super) fn prune(&mut self, wanted: &BTreeMap<S::Key, S::Value>) -> Result<usize, SteeringError> {
        let stale: Vec<S::Key> =
            self.content.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        for key in &stale {
            self.store.remove(*key).map_err(SteeringError::map("write", self.name))?;
            self.content.remove(key);
        }
        Ok(stale.len())
    }
}

impl<T, K: Pod + Ord, V: Pod + PartialEq> Store for HashMap<T, K, V>
where
    T: BorrowMut<MapData>,
{
    type Key = K;
    type Value = V;

    fn dump(&self) -> Result<BTreeMap<K, V>, MapError> {
        self.iter().collect()
    }

    fn put(&mut self, key: K, value: V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn remove(&mut self, key: K) -> Result<(), MapError> {
        absent_is_removed(HashMap::remove(self, &key))
    }
}

impl<T, K: Pod + Ord, V: Pod + PartialEq> Store for LpmTrie<T, K, V>
where
    T: BorrowMut<MapData>,
{
    type Key = TrieKey<K>;
    type Value = V;

    fn dump(&self) -> Result<BTreeMap<TrieKey<K>, V>, MapError> {
        self.iter().map(|entry| entry.map(|(key, value)| ((key.prefix_len(), key.data()), value))).collect()
    }

    fn put(&mut self, (length, data): TrieKey<K>, value: V) -> Result<(), MapError> {
        self.insert(&Key::new(length, data), value, 0)
    }

    fn remove(&mut self, (length, data): TrieKey<K>) -> Result<(), MapError> {
        absent_is_removed(LpmTrie::remove(self, &Key::new(length, data)))
    }
}

/// An element of an array that is all zeros counts as not there.
pub(super) trait Zero: Copy {
    /// All zeros.
    const ZERO: Self;
}

impl<T, V: Pod + PartialEq + Zero> Store for Array<T, V>
where
    T: BorrowMut<MapData>,
{
    type Key = u32;
    type Value = V;

    fn dump(&self) -> Result<BTreeMap<u32, V>, MapError> {
        let all = (0..self.len()).map(|index| self.get(&index, 0).map(|value| (index, value)));
        all.filter(|entry| !matches!(entry, Ok((_, value)) if *value == V::ZERO)).collect()
    }

    fn put(&mut self, index: u32, value: V) -> Result<(), MapError> {
        self.set(index, value, 0)
    }

    fn remove(&mut self, index: u32) -> Result<(), MapError> {
        self.set(index, V::ZERO, 0)
    }
}

fn absent_is_removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
