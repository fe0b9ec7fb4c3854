//! One record for each prefix: what FRR announced for it, and beside that an entry of this module's user.
//!
//! A record is looked up once, by its prefix; from then on its [`Slot`] travels, through the user's queues too. A prefix that
//! is in several tables, or goes into several, takes as many records as it needs.
//!
//! FRR announces ascending prefixes, and the kernel dumps them so. While they ascend, records are only appended: such a *tail*
//! is searched by halves, and goes into the index when there is time for it.

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

use super::{Answer, Generation, Learned, LearnedTarget};

/// Where a record is: good as long as the record has a learned route or an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// Its place among all records: neighbours are there what was learned one after the other.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }

    /// The slot at an index.
    #[must_use]
    pub const fn at_index(index: u32) -> Self {
        Self(index)
    }
}

/// Number of what an entry is for, below 65,535; and of an FPM table, within the store.
pub type Scope = u16;

/// Neither table nor target.
const NONE: Scope = Scope::MAX;

/// Stands where nothing is learned.
const UNKNOWN: Learned = Learned {
    target: LearnedTarget::Nexthop(0),
    protocol: 0,
    generation: Generation(0),
    answer: Answer::Owed,
};

/// A prefix in as few bytes as it can be compared in; in the order of FRR's tables, a shorter one before those within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    v6: bool,
    // Words: a u128 would align records to 16 bytes.
    addr: [u32; 4],
    len: u8,
}

impl Key {
    fn new(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(net) => {
                Self { addr: [net.network().to_bits(), 0, 0, 0], len: net.prefix_len(), v6: false }
            }
            IpNet::V6(net) => {
                let bits = net.network().to_bits();
                let word = |shift: u32| u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or_default();
                Self { addr: [word(96), word(64), word(32), word(0)], len: net.prefix_len(), v6: true }
            }
        }
    }

    fn prefix(&self) -> IpNet {
        // A stored length fits its family, so the fallbacks are never taken.
        if self.v6 {
            let bits = self.addr.iter().fold(0u128, |bits, word| (bits << 32) | u128::from(*word));
            let addr = Ipv6Addr::from_bits(bits);
            Ipv6Net::new(addr, self.len).map_or_else(|_| IpNet::V6(addr.into()), IpNet::V6)
        } else {
            let addr = Ipv4Addr::from_bits(self.addr[0]);
            Ipv4Net::new(addr, self.len).map_or_else(|_| IpNet::V4(addr.into()), IpNet::V4)
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d] = self.addr.map(u64::from);
        state.write_u64(a | u64::from(self.len) << 32 | u64::from(self.v6) << 40);
        if self.v6 {
            state.write_u64(b | c << 32);
            state.write_u64(d);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Record<E> {
    key: Key,
    /// FPM table of `learned`.
    table: Scope,
    /// What `entry` is for.
    target: Scope,
    learned: Learned,
    entry: E,
    /// The user's word for `learned`.
    label: u16,
    /// The prefix may have other records.
    shared: bool,
}

impl<E> Record<E> {
    fn is_vacant(&self) -> bool {
        self.table == NONE && self.target == NONE
    }
}

/// A record in the index, with what its prefix hashes to: an index that grows, or looks for another prefix, leaves records
/// where they are, in memory far away.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    slot: u32,
    hash: u32,
}

impl Indexed {
    /// The hash as the table wants it, which takes the place from the lower bits and a tag from the upper ones.
    const fn spread(&self) -> u64 {
        spread(self.hash)
    }
}

fn hash(hasher: &RandomState, key: Key) -> u32 {
    u32::try_from(hasher.hash_one(key) >> 32).unwrap_or_default()
}

const fn spread(hash: u32) -> u64 {
    (hash as u64) << 32 | hash as u64
}

/// See the module.
pub(super) struct Store<E> {
    records: Vec<Record<E>>,
    free: Vec<u32>,
    /// Records by prefix, but those of the tail.
    index: HashTable<Indexed>,
    /// Where the tail begins: from here on each prefix is greater than the one before.
    tail: usize,
    /// The prefix that was new last, and how many before it ascended one after the other.
    newest: Option<Key>,
    ascending: usize,
    /// Drawn for each process: a peer cannot choose prefixes that collide. All of its bits count: the table compares the
    /// upper ones before it looks at a record, and a multiplication alone leaves them the same for all prefixes of a length.
    hasher: RandomState,
    tables: Vec<u32>,
    table_index: FxHashMap<u32, Scope>,
    /// After the record that was found last. zebra replays, and withdraws, in the order in which it announced, and the kernel
    /// dumps in much the same: mostly the next prefix is there.
    next: Cell<u32>,
    /// Learned routes by label.
    labels: Vec<usize>,
    learned: usize,
    entries: usize,
}

impl<E> Default for Store<E> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            tail: 0,
            newest: None,
            ascending: 0,
            hasher: RandomState::default(),
            tables: Vec::new(),
            table_index: FxHashMap::default(),
            next: Cell::new(0),
            labels: Vec::new(),
            learned: 0,
            entries: 0,
        }
    }
}

impl<E: Copy + Default> Store<E> {
    fn record(&self, slot: Slot) -> Option<&Record<E>> {
        self.records.get(slot.0 as usize)
    }

    fn record_mut(&mut self, slot: Slot) -> Option<&mut Record<E>> {
        self.records.get_mut(slot.0 as usize)
    }

    fn table(&self, table: u32) -> Option<Scope> {
        self.table_index.get(&table).copied()
    }

    fn intern_table(&mut self, table: u32) -> Option<Scope> {
        if let Some(scope) = self.table_index.get(&table) {
            return Some(*scope);
        }
        let scope = Scope::try_from(self.tables.len()).ok().filter(|scope| *scope != NONE)?;
        self.tables.push(table);
        self.table_index.insert(table, scope);
        Some(scope)
    }

    fn hash(&self, key: Key) -> u32 {
        hash(&self.hasher, key)
    }

    /// The records of a prefix.
    fn of(&self, key: Key) -> impl Iterator<Item = (Slot, &Record<E>)> + '_ {
        let hash = self.hash(key);
        let found = self.index.iter_hash(spread(hash)).filter(move |indexed| indexed.hash == hash);
        found
            .map(|indexed| Slot(indexed.slot))
            .chain(self.find_in_tail(key))
            .filter_map(move |slot| Some((slot, self.record(slot)?)))
            .filter(move |(_, record)| record.key == key)
    }

    /// The last record, if it is the tail's.
    fn last_of_tail(&self) -> Option<&Record<E>> {
        self.records.get(self.tail..)?.last()
    }

    fn find_in_tail(&self, key: Key) -> Option<Slot> {
        self.last_of_tail().filter(|last| key <= last.key)?;
        let found = self.records.get(self.tail..)?.binary_search_by(|record| record.key.cmp(&key)).ok()?;
        u32::try_from(self.tail + found).ok().map(Slot)
    }

    #[cfg(test)]
    pub(super) fn indexed(&self) -> usize {
        self.index.len()
    }

    pub(super) fn ascending(&self) -> usize {
        self.ascending
    }

    /// Puts some of the tail's records into the index.
    pub(super) fn settle(&mut self, records: usize) {
        let end = self.tail.saturating_add(records).min(self.records.len());
        if self.tail == end {
            return;
        }
        // Room for all of the tail: so the index grows once.
        self.index.reserve(self.records.len() - self.tail, Indexed::spread);
        let Self { index, hasher, records, tail, .. } = self;
        for (slot, record) in records.iter().enumerate().take(end).skip(*tail) {
            let indexed =
                Indexed { slot: u32::try_from(slot).unwrap_or(u32::MAX), hash: hash(hasher, record.key) };
            index.insert_unique(indexed.spread(), indexed, Indexed::spread);
        }
        *tail = end;
    }

    /// The prefix's record, if it is where it is expected and the only one.
    fn guess(&self, key: Key) -> Option<(Slot, &Record<E>)> {
        let slot = Slot(self.next.get());
        let record = self.record(slot)?;
        let is_it = record.key == key && !record.shared && !record.is_vacant();
        is_it.then(|| self.found(slot)).map(|slot| (slot, record))
    }

    fn found(&self, slot: Slot) -> Slot {
        self.next.set(slot.0.wrapping_add(1));
        slot
    }

    /// The record of a prefix that is wanted.
    fn look_up(&self, key: Key, is_wanted: impl Fn(&Record<E>) -> bool) -> Option<Slot> {
        if let Some((slot, record)) = self.guess(key) {
            return is_wanted(record).then_some(slot);
        }
        let found = self.of(key).find(|(_, record)| is_wanted(record));
        found.map(|(slot, _)| self.found(slot))
    }

    /// Reads where the records of some prefixes are. What each of them waits for, memory, is waited for by all together; what
    /// is then done with one after the other finds it in the cache.
    pub(super) fn warm<'a>(&self, prefixes: impl Iterator<Item = &'a IpNet>) {
        let mut next = self.next.get();
        let known = |prefix: &&IpNet| {
            let key = Key::new(prefix);
            let is = |slot: u32| self.records.get(slot as usize).is_some_and(|record| record.key == key);
            let found = if is(next) { Some(next) } else { self.find_slot(key, is) };
            next = found.map_or(next, |index| index.wrapping_add(1));
            found.is_some()
        };
        std::hint::black_box(prefixes.filter(known).count());
    }

    fn find_slot(&self, key: Key, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hash(key);
        let found = self.index.find(spread(hash), |indexed| indexed.hash == hash && is_it(indexed.slot));
        found.map(|indexed| indexed.slot).or_else(|| self.find_in_tail(key).map(Slot::index))
    }

    /// The same for records that are known.
    pub(super) fn warm_records(&self, slots: impl Iterator<Item = Slot>) {
        let is_entry = |slot: &Slot| self.record(*slot).is_some_and(|record| record.target != NONE);
        std::hint::black_box(slots.filter(is_entry).count());
    }

    /// The same for records that go.
    pub(super) fn warm_removals(&self, slots: impl Iterator<Item = Slot>) {
        let indexed = |slot: &Slot| {
            let hash = self.record(*slot).map(|record| self.hash(record.key));
            hash.is_some_and(|hash| self.index.find(spread(hash), |indexed| indexed.slot == slot.0).is_some())
        };
        std::hint::black_box(slots.filter(indexed).count());
    }

    /// A record of the prefix that `is_wanted`, else one that `has_room`, else a new one; and whether it was wanted.
    fn place(
        &mut self,
        key: Key,
        is_wanted: impl Fn(&Record<E>) -> bool,
        has_room: impl Fn(&Record<E>) -> bool,
    ) -> Option<(Slot, bool)> {
        if let Some((slot, record)) = self.guess(key) {
            let wanted = is_wanted(record);
            if wanted || has_room(record) {
                return Some((slot, wanted));
            }
        }
        let (mut room, mut others) = (None, false);
        for (slot, record) in self.of(key) {
            if is_wanted(record) {
                return Some((self.found(slot), true));
            }
            others = true;
            room = room.or(has_room(record).then_some(slot));
        }
        match room {
            Some(slot) => Some((self.found(slot), false)),
            None => Some((self.add(key, others)?, false)),
        }
    }

    fn add(&mut self, key: Key, shared: bool) -> Option<Slot> {
        if shared {
            let others: Vec<Slot> = self.of(key).map(|(slot, _)| slot).collect();
            for slot in others {
                if let Some(record) = self.record_mut(slot) {
                    record.shared = true;
                }
            }
        }
        let record = Record {
            key,
            table: NONE,
            target: NONE,
            learned: UNKNOWN,
            entry: E::default(),
            label: 0,
            shared,
        };
        let ascends = self.newest.replace(key).is_none_or(|newest| newest < key);
        self.ascending = if ascends { self.ascending + 1 } else { 0 };
        if let Some(index) = self.free.pop() {
            *self.records.get_mut(index as usize)? = record;
            let indexed = Indexed { slot: index, hash: self.hash(key) };
            self.index.insert_unique(indexed.spread(), indexed, Indexed::spread);
            return Some(Slot(index));
        }
        let index = u32::try_from(self.records.len()).ok()?;
        if self.last_of_tail().is_some_and(|last| last.key >= key) {
            self.settle(usize::MAX);
        }
        self.records.push(record);
        Some(Slot(index))
    }

    /// Gives a record back that has neither half any more.
    fn tidy(&mut self, slot: Slot) {
        let Some(record) = self.record(slot).filter(|record| record.is_vacant()) else { return };
        let hash = self.hash(record.key);
        if slot.0 as usize >= self.tail {
            self.settle(usize::MAX);
        }
        if let Ok(found) = self.index.find_entry(spread(hash), |indexed| indexed.slot == slot.0) {
            found.remove();
            self.free.push(slot.0);
        }
        if self.index.is_empty() && self.tail == self.records.len() {
            (self.records, self.free, self.index) = (Vec::new(), Vec::new(), HashTable::new());
            self.tail = 0;
        }
    }

    // ===== learned routes =====

    /// Puts in what FRR announced; returns the record and what was there. `None`: a 65,536th table, which no node has.
    pub(super) fn learn(
        &mut self,
        table: u32,
        prefix: &IpNet,
        learned: Learned,
    ) -> Option<(Slot, Option<Learned>)> {
        let scope = self.intern_table(table)?;
        let (slot, known) = self.place(Key::new(prefix), |r| r.table == scope, |r| r.table == NONE)?;
        let record = self.record_mut(slot)?;
        record.table = scope;
        let old = std::mem::replace(&mut record.learned, learned);
        if !known {
            record.label = 0;
            self.learned += 1;
            self.count_label(0, 1);
        }
        Some((slot, known.then_some(old)))
    }

    fn count_label(&mut self, label: u16, delta: isize) {
        let label = usize::from(label);
        if self.labels.len() <= label {
            self.labels.resize(label + 1, 0);
        }
        if let Some(count) = self.labels.get_mut(label) {
            *count = count.saturating_add_signed(delta);
        }
    }

    pub(super) fn label(&self, slot: Slot) -> u16 {
        self.record(slot).map_or(0, |record| record.label)
    }

    pub(super) fn set_label(&mut self, slot: Slot, label: u16) {
        if let Some(record) = self.record_mut(slot).filter(|record| record.table != NONE) {
            let old = std::mem::replace(&mut record.label, label);
            self.count_label(old, -1);
            self.count_label(label, 1);
        }
    }

    pub(super) fn clear_labels(&mut self) {
        self.records.iter_mut().for_each(|record| record.label = 0);
        self.labels = vec![self.learned];
    }

    pub(super) fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// Where a learned route is.
    pub(super) fn find(&self, table: u32, prefix: &IpNet) -> Option<Slot> {
        let scope = self.table(table)?;
        self.look_up(Key::new(prefix), |record| record.table == scope)
    }

    /// What is learned at a slot.
    pub(super) fn learned(&self, slot: Slot) -> Option<&Learned> {
        self.record(slot).filter(|record| record.table != NONE).map(|record| &record.learned)
    }

    pub(super) fn at(&self, slot: Slot) -> Option<(u32, IpNet, Learned)> {
        let record = self.record(slot)?;
        Some((*self.tables.get(usize::from(record.table))?, record.key.prefix(), record.learned))
    }

    pub(super) fn learned_mut(&mut self, slot: Slot) -> Option<&mut Learned> {
        self.record_mut(slot).filter(|record| record.table != NONE).map(|record| &mut record.learned)
    }

    /// What is learned from `table` for the prefix of a record.
    pub(super) fn learned_from(&self, slot: Slot, table: u32) -> Option<(Slot, &Learned)> {
        let (scope, record) = (self.table(table)?, self.record(slot)?);
        if record.table == scope {
            return Some((slot, &record.learned));
        }
        if !record.shared {
            return None;
        }
        let mut others = self.of(record.key);
        others.find(|(_, record)| record.table == scope).map(|(slot, record)| (slot, &record.learned))
    }

    /// Forgets a learned route. The record stays if it has an entry.
    pub(super) fn forget(&mut self, slot: Slot) {
        if let Some(record) = self.record_mut(slot).filter(|record| record.table != NONE) {
            record.table = NONE;
            let label = record.label;
            self.learned -= 1;
            self.count_label(label, -1);
            self.tidy(slot);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, u32, IpNet, &Learned)> + '_ {
        self.slots().filter_map(|(slot, record)| {
            let table = *self.tables.get(usize::from(record.table))?;
            Some((slot, table, record.key.prefix(), &record.learned))
        })
    }

    fn slots(&self) -> impl Iterator<Item = (Slot, &Record<E>)> + '_ {
        let slots = self.records.iter().enumerate();
        slots.map(|(index, record)| (Slot(u32::try_from(index).unwrap_or(u32::MAX)), record))
    }

    pub(super) fn for_each_learned(&mut self, mut change: impl FnMut(&mut Learned)) {
        let known = self.records.iter_mut().filter(|record| record.table != NONE);
        known.for_each(|record| change(&mut record.learned));
    }

    /// Number of learned routes.
    pub(super) fn len(&self) -> usize {
        self.learned
    }

    // ===== entries =====

    /// The prefix of a record and what its entry is for.
    pub(super) fn entry(&self, slot: Slot) -> Option<(Scope, IpNet, E)> {
        let record = self.record(slot).filter(|record| record.target != NONE)?;
        Some((record.target, record.key.prefix(), record.entry))
    }

    pub(super) fn entry_mut(&mut self, slot: Slot) -> Option<(Scope, &mut E)> {
        let record = self.record_mut(slot).filter(|record| record.target != NONE)?;
        Some((record.target, &mut record.entry))
    }

    pub(super) fn find_entry(&self, target: Scope, prefix: &IpNet) -> Option<Slot> {
        self.look_up(Key::new(prefix), |record| record.target == target)
    }

    /// The entry for a target, of the prefix that a record is for.
    pub(super) fn find_beside(&self, slot: Slot, target: Scope) -> Option<Slot> {
        let record = self.record(slot)?;
        if record.target == target {
            return Some(slot);
        }
        if !record.shared {
            return None;
        }
        self.of(record.key).find(|(_, record)| record.target == target).map(|(slot, _)| slot)
    }

    /// The same; made where there is none.
    pub(super) fn entry_beside(&mut self, slot: Slot, target: Scope) -> Option<Slot> {
        let record = self.record_mut(slot)?;
        if record.target == target {
            return Some(slot);
        }
        if record.target == NONE && !record.shared {
            (record.target, record.entry) = (target, E::default());
            self.entries += 1;
            return Some(slot);
        }
        let key = record.key;
        self.occupy(key, target)
    }

    /// The entry for a target and a prefix; made where there is none.
    pub(super) fn entry_at(&mut self, target: Scope, prefix: &IpNet) -> Option<Slot> {
        self.occupy(Key::new(prefix), target)
    }

    fn occupy(&mut self, key: Key, target: Scope) -> Option<Slot> {
        let (slot, known) = self.place(key, |r| r.target == target, |r| r.target == NONE)?;
        if !known {
            let record = self.record_mut(slot)?;
            (record.target, record.entry) = (target, E::default());
            self.entries += 1;
        }
        Some(slot)
    }

    pub(super) fn drop_entry(&mut self, slot: Slot) {
        if let Some(record) = self.record_mut(slot).filter(|record| record.target != NONE) {
            record.target = NONE;
            self.entries -= 1;
            self.tidy(slot);
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Slot, Scope, IpNet, &E)> + '_ {
        let with = self.slots().filter(|(_, record)| record.target != NONE);
        with.map(|(slot, record)| (slot, record.target, record.key.prefix(), &record.entry))
    }

    pub(super) fn for_each_entry(&mut self, mut change: impl FnMut(Scope, &mut E)) {
        let with = self.records.iter_mut().filter(|record| record.target != NONE);
        with.for_each(|record| change(record.target, &mut record.entry));
    }
}
