//! The map: every key with its value and its place in the store's history.
//!
//! # Contract
//!
//! - The store begins, empty, at revision 1. Every command that changes something takes the next one, however many keys
//!   it changes (see [`crate::txn`]); what changes nothing takes none.
//! - A put always takes a revision, also when the value stays the same. A delete of an absent key takes none.
//! - `create_revision` is the revision of the put that made the key, `mod_revision` that of its latest put,
//!   `version` the number of puts since it was made. All three start afresh when a deleted key is put again.
//! - Keys are ordered as bytes, and so is everything that iterates them.
//! - Deterministic: no clock, no randomness, no hash order. The same writes give the same store.
//! - What is stored is *copied* from what was passed. A command's bytes are slices of the buffer that its whole batch
//!   came in; a stored slice would keep that buffer alive for as long as the key.
//! - [`Store::clone`] is O(1): the tree's nodes are shared, and a write copies the nodes on its path that are shared
//!   at that time. With no clone alive, writes happen in place.

use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use imbl::OrdMap;

use crate::key::Key;

/// The revision of a store that was never written to.
pub const FIRST_REVISION: u64 = 1;

/// What the store keeps of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The value. Cloning it copies nothing.
    pub value: Bytes,
    /// The revision of the put that made the key.
    pub create_revision: u64,
    /// The revision of the latest put.
    pub mod_revision: u64,
    /// Puts since the key was made; the first counts as 1.
    pub version: u64,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The revision that the put took.
    pub revision: u64,
    /// The key's version after it.
    pub version: u64,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The revision that the delete took, or the store's unchanged revision if there was nothing to delete.
    pub revision: u64,
    /// Whether the key was there.
    pub existed: bool,
}

/// The revisioned map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    map: OrdMap<Key, Record>,
    revision: u64,
    /// Bytes of all keys and values.
    payload_bytes: u64,
}

/// What a store held that was cleared. Dropping it takes half a second for each million keys.
#[derive(Debug)]
pub struct Cleared(OrdMap<Key, Record>);

impl Cleared {
    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there were no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store at [`FIRST_REVISION`].
    #[must_use]
    pub fn new() -> Self {
        Self { map: OrdMap::new(), revision: FIRST_REVISION, payload_bytes: 0 }
    }

    /// The latest revision that was taken.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The bytes of all keys and values, without the tree that holds them.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// What is stored under `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Record> {
        self.map.get(key)
    }

    /// The keys behind `after` with their records, in the order of the keys' bytes.
    pub fn iter_after(&self, after: &[u8]) -> impl Iterator<Item = (&[u8], &Record)> {
        let behind = self.map.range::<_, [u8]>((Bound::Excluded(after), Bound::Unbounded));
        behind.map(|(key, record)| (key.as_slice(), record))
    }

    /// All keys with their records, in the order of the keys' bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Record)> {
        self.map.iter().map(|(key, record)| (key.as_slice(), record))
    }

    /// Sets `key` to a copy of `value`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Written {
        self.put_at(self.revision + 1, key, value)
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: &[u8]) -> Deleted {
        let existed = self.remove_at(self.revision + 1, key);
        Deleted { revision: self.revision, existed }
    }

    /// Sets `key` to a copy of `value`, as a part of the command that takes `revision`: the next one, or the latest if
    /// the command has written before.
    pub(crate) fn put_at(&mut self, revision: u64, key: &[u8], value: &[u8]) -> Written {
        self.revision = revision;
        let copied = Bytes::copy_from_slice(value);
        if let Some(record) = self.map.get_mut(key) {
            self.payload_bytes = self.payload_bytes - record.value.len() as u64 + copied.len() as u64;
            record.value = copied;
            // Written before by the same command: that was the write which counts.
            record.version += u64::from(record.mod_revision != revision);
            record.mod_revision = revision;
            return Written { revision, version: record.version };
        }
        self.payload_bytes += (key.len() + copied.len()) as u64;
        let record = Record { value: copied, create_revision: revision, mod_revision: revision, version: 1 };
        self.map.insert(Key::copy_from(key), record);
        Written { revision, version: 1 }
    }

    /// Removes `key` as a part of the command that takes `revision`; says whether it was there.
    pub(crate) fn remove_at(&mut self, revision: u64, key: &[u8]) -> bool {
        let Some((key, record)) = self.map.remove_with_key(key) else { return false };
        self.payload_bytes -= (key.as_slice().len() + record.value.len()) as u64;
        self.revision = revision;
        true
    }

    /// Removes all keys as a part of the command that takes `revision`, in a time that does not depend on their number.
    pub(crate) fn clear_at(&mut self, revision: u64) -> Cleared {
        if !self.map.is_empty() {
            self.revision = revision;
        }
        self.payload_bytes = 0;
        Cleared(std::mem::take(&mut self.map))
    }

    /// The keys between two bounds, in order.
    pub(crate) fn keys_between(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Vec<Key> {
        self.map.range::<_, [u8]>((start, end)).map(|(key, _)| key.clone()).collect()
    }

    /// Puts a record of a snapshot back as it was. Keys come in ascending order, each once, into a store that was
    /// made by [`Store::at_revision`].
    pub(crate) fn insert_restored(&mut self, key: &[u8], record: Record) {
        self.payload_bytes += (key.len() + record.value.len()) as u64;
        self.map.insert(Key::copy_from(key), record);
    }

    /// An empty store whose history ended at `revision`.
    pub(crate) fn at_revision(revision: u64) -> Self {
        Self { revision, ..Self::new() }
    }
}

/// The store between its one writer (the node's loop) and its readers. See the crate's documentation for who locks
/// what, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<RwLock<Store>>);

impl Shared {
    /// A new, empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Locks for reading. Never hold the guard across an `.await`.
    ///
    /// # Panics
    /// If a write panicked midway: such a store is in no state of the history and must not be read.
    pub fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.0.read().unwrap_or_else(half_written)
    }

    /// Locks for writing: the node's loop only.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.0.write().unwrap_or_else(half_written)
    }
}

fn half_written<G>(_: PoisonError<G>) -> G {
    panic!("applying a command panicked: the store is half written and is no longer served")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn revisions_start_at_one_and_count_writes() {
        let mut store = Store::new();
        assert_eq!((store.revision(), store.len(), store.payload_bytes()), (1, 0, 0));
        assert_eq!(store.put(b"a", b"x"), Written { revision: 2, version: 1 });
        assert_eq!(store.put(b"a", b"x"), Written { revision: 3, version: 2 }, "the same value bumps, too");
        assert_eq!(store.delete(b"b"), Deleted { revision: 3, existed: false });
        assert_eq!(store.delete(b"a"), Deleted { revision: 4, existed: true });
        assert_eq!(store.delete(b"a"), Deleted { revision: 4, existed: false });
        assert_eq!(store.put(b"a", b"y"), Written { revision: 5, version: 1 });
        let record = store.get(b"a").unwrap();
        assert_eq!((record.create_revision, record.mod_revision, record.version), (5, 5, 1));
    }

    #[test]
    fn a_stored_value_does_not_keep_its_batch_alive() {
        let batch = Bytes::from(vec![b'v'; 1024]);
        let (key, value) = (batch.slice(0..8), batch.slice(8..1024));
        let mut store = Store::new();
        store.put(&key, &value);
        store.put(&key, &value);
        drop((key, value));
        assert!(batch.is_unique(), "the store holds on to the buffer that the command came in");
        assert_eq!(store.get(&[b'v'; 8]).unwrap().value.len(), 1016);
    }

    #[test]
    fn a_clone_stays_as_it_was() {
        let mut store = Store::new();
        for i in 0..1000u32 {
            store.put(&i.to_be_bytes(), b"before");
        }
        let frozen = store.clone();
        for i in 0..1000u32 {
            store.put(&i.to_be_bytes(), b"after");
        }
        store.delete(&7u32.to_be_bytes());
        assert!(frozen.iter().all(|(_, record)| record.value == "before"));
        assert_eq!((frozen.len(), frozen.revision()), (1000, 1001));
        assert_eq!((store.len(), store.revision()), (999, 2002));
    }

    #[test]
    #[should_panic(expected = "half written")]
    fn a_half_written_store_is_not_read() {
        let shared = Shared::new();
        let writer = shared.clone();
        let crashed = std::thread::spawn(move || {
            let _guard = writer.write();
            panic!("a bug in apply");
        });
        assert!(crashed.join().is_err());
        let _ = shared.read().revision();
    }

    #[derive(Clone, Debug)]
    enum Op {
        Put(Vec<u8>, Vec<u8>),
        Delete(Vec<u8>),
        Clone,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        // Few different keys, so that they meet; any bytes, the empty key among them.
        let key = prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7f, 0xff]), 0..3);
        let op = prop_oneof![
            4 => (key.clone(), prop::collection::vec(any::<u8>(), 0..8)).prop_map(|(k, v)| Op::Put(k, v)),
            2 => key.prop_map(Op::Delete),
            1 => Just(Op::Clone),
        ];
        prop::collection::vec(op, 0..200)
    }

    proptest! {
        #[test]
        fn behaves_like_a_naive_map(ops in ops()) {
            let mut store = Store::new();
            let mut model: BTreeMap<Vec<u8>, (Vec<u8>, u64, u64, u64)> = BTreeMap::new();
            let mut revision = 1;
            let mut clones = Vec::new();
            for op in ops {
                match op {
                    Op::Put(key, value) => {
                        revision += 1;
                        let entry = model.entry(key.clone()).or_insert((Vec::new(), revision, 0, 0));
                        *entry = (value.clone(), entry.1, revision, entry.3 + 1);
                        let expected = Written { revision, version: entry.3 };
                        prop_assert_eq!(store.put(&key, &value), expected);
                    }
                    Op::Delete(key) => {
                        let existed = model.remove(&key).is_some();
                        revision += u64::from(existed);
                        prop_assert_eq!(store.delete(&key), Deleted { revision, existed });
                    }
                    Op::Clone => clones.push((store.clone(), model.clone(), revision)),
                }
            }
            clones.push((store, model, revision));
            for (store, model, revision) in clones {
                prop_assert_eq!(store.revision(), revision);
                let got: Vec<_> = store
                    .iter()
                    .map(|(k, r)| (k.to_vec(), (r.value.to_vec(), r.create_revision, r.mod_revision, r.version)))
                    .collect();
                let bytes: usize = model.iter().map(|(k, v)| k.len() + v.0.len()).sum();
                prop_assert_eq!(store.payload_bytes(), bytes as u64);
                prop_assert_eq!(store.len(), model.len());
                prop_assert_eq!(got, model.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
