//! [`LogStorage`]: the log as raft reads it, its newest entries in memory.
//!
//! ```text
//!   boundary      boundary + 1          front                  last
//!   (index, term)
//!   ------+---------------------------+-----------------------+------
//!    gone |  on disk; terms in memory |   entries in memory   | not yet written
//! ```
//! It is owned by the raft node, not shared: the log file is written elsewhere, and this is told what was written.
//!
//! # Memory
//! [`LogStorage::evict`] drops entries from memory, oldest first, while those that are held take more than
//! [`LogStorage::set_cache_bytes`] allows. Only entries that are durable *and* applied may go: raft reads the others
//! where it cannot wait. The term of every entry stays, one item a term.
//!
//! When raft wants an entry that went, to send it to a follower that lags, it is told `LogTemporarilyUnavailable`, and
//! the request is noted. The owner takes it ([`LogStorage::next_fetch`]), has a [`crate::LogReader`] read it on another
//! thread, brings the answer ([`LogStorage::fetched`]) and lets raft ask again (`on_entries_fetched`). The answer is
//! compared with the terms of the log as it is then, since it may have been compacted or rewritten meanwhile.
//!
//! # Snapshots
//! [`Storage::snapshot`] answers with the metadata of the newest snapshot on disk and no data: a body is streamed from
//! its file. When that snapshot does not reach what is asked for, or its conf state lacks the receiver (who would
//! ignore it, and be sent it again for ever), the answer is `SnapshotTemporarilyUnavailable`, the one soft error that
//! raft has, and the need is noted for [`LogStorage::take_snapshot_request`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use raft::eraftpb::{Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::error::Error;
use crate::fetch::{Fetch, Fetches, limited};
use crate::log_reader::ReadBack;
use crate::terms::{Evicted, Terms};

/// The most that one fetch reads, in bytes.
const FETCH_MOST: u64 = 4 << 20;
/// What it reads at least, however small the cache.
const FETCH_LEAST: u64 = 64 << 10;

/// The log as raft reads it.
#[derive(Debug)]
pub struct LogStorage {
    /// Contiguous; the first has index `front`.
    entries: VecDeque<Entry>,
    /// The index of the first entry that is in memory, or would be. Above the boundary.
    front: u64,
    /// The terms of all entries, those on disk too.
    terms: Terms,
    evicted: Evicted,
    fetches: RefCell<Fetches>,
    /// How often entries were replaced.
    epoch: u64,
    cache_bytes: u64,
    /// Index and term of the entry before the first, which is gone.
    boundary: (u64, u64),
    hard_state: HardState,
    /// The newest snapshot on disk; the default while there is none.
    snapshot: SnapshotMetadata,
    /// Payload bytes in `entries`.
    bytes: u64,
    /// The index that a snapshot is wanted to reach.
    wanted: Cell<Option<u64>>,
}

/// What an entry counts for: its data and context in bytes.
pub(crate) fn payload(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64
}

/// An upper bound of what an entry takes in a message: payload, tags and lengths, three numbers.
pub(crate) fn message_share(entry: &Entry) -> u64 {
    payload(entry) + 40
}

impl Default for LogStorage {
    fn default() -> LogStorage {
        LogStorage {
            entries: VecDeque::new(),
            front: 1,
            terms: Terms::default(),
            evicted: Evicted::default(),
            fetches: RefCell::default(),
            epoch: 0,
            cache_bytes: u64::MAX,
            boundary: (0, 0),
            hard_state: HardState::default(),
            snapshot: SnapshotMetadata::default(),
            bytes: 0,
            wanted: Cell::new(None),
        }
    }
}

impl LogStorage {
    /// A log that begins after a snapshot (the default one for a member that has nothing yet) and goes on with
    /// entries, as [`crate::Wal::open`] returns them.
    ///
    /// # Panics
    /// If the entries do not follow the snapshot without a gap.
    pub fn new(snapshot: SnapshotMetadata, hard_state: HardState, entries: Vec<Entry>) -> LogStorage {
        let mut log =
            LogStorage { boundary: (snapshot.index, snapshot.term), hard_state, ..Default::default() };
        log.front = snapshot.index + 1;
        log.snapshot = snapshot;
        log.append(&entries);
        log
    }

    /// Appends entries. Those that overlap replace what is there, and everything behind them.
    ///
    /// # Panics
    /// On a gap, within the entries or before them, and on an entry that was compacted away: raft makes neither.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.boundary.0 && first.index <= self.last() + 1,
            "an append at index {} to a log of {}..={}",
            first.index,
            self.first_index(),
            self.last()
        );
        if first.index <= self.last() {
            self.truncate(first.index);
        }
        for (entry, index) in entries.iter().zip(first.index..) {
            assert_eq!(entry.index, index, "entries in one append are contiguous");
            self.bytes += payload(entry);
            self.terms.push(index, entry.term);
            self.entries.push_back(entry.clone());
        }
    }

    /// Forgets the entries from an index on, which is above the boundary.
    fn truncate(&mut self, from: u64) {
        self.epoch += 1;
        let keep = from.saturating_sub(self.front) as usize;
        self.bytes -= self.entries.range(keep..).map(payload).sum::<u64>();
        self.entries.truncate(keep);
        self.front = self.front.min(from);
        self.terms.truncate(from);
        self.evicted.truncate(from);
        self.fetches.get_mut().keep_within(self.boundary.0 + 1, from);
    }

    /// Notes the hard state, for [`Storage::initial_state`].
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The hard state last noted.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Notes the newest snapshot on disk. An older one than the one known is ignored.
    pub fn set_snapshot(&mut self, snapshot: SnapshotMetadata) {
        if snapshot.index >= self.snapshot.index {
            self.snapshot = snapshot;
        }
    }

    /// The newest snapshot on disk.
    pub fn snapshot_metadata(&self) -> &SnapshotMetadata {
        &self.snapshot
    }

    /// Replaces the whole log by a snapshot that the leader sent.
    ///
    /// # Panics
    /// If the snapshot is older than the newest one known: raft refuses those.
    pub fn install(&mut self, snapshot: SnapshotMetadata) {
        assert!(
            snapshot.index >= self.snapshot.index,
            "snapshot {} is older than the newest, {}",
            snapshot.index,
            self.snapshot.index
        );
        self.entries.clear();
        self.bytes = 0;
        self.epoch += 1;
        self.terms.clear();
        self.evicted.compact(snapshot.index, true);
        self.fetches.get_mut().clear();
        self.boundary = (snapshot.index, snapshot.term);
        self.front = snapshot.index + 1;
        self.hard_state.commit = self.hard_state.commit.max(snapshot.index);
        self.hard_state.term = self.hard_state.term.max(snapshot.term);
        self.snapshot = snapshot;
    }

    /// Drops the entries up to and including `index`, but none beyond the newest snapshot: what is dropped must be
    /// had from somewhere. The term at `index` stays answerable.
    pub fn compact(&mut self, index: u64) {
        let index = index.min(self.snapshot.index).min(self.last());
        let Some(term) = self.terms.get(index) else { return };
        if index <= self.boundary.0 {
            return;
        }
        self.boundary = (index, term);
        while self.front <= index
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= payload(&entry);
            self.front += 1;
        }
        self.front = self.front.max(index + 1);
        match index == self.last() {
            true => self.terms.clear(),
            false => self.terms.compact(index),
        }
        self.evicted.compact(index, self.front == index + 1);
        self.fetches.get_mut().keep_within(index + 1, u64::MAX);
    }

    /// As [`LogStorage::compact`], but the last entries up to `index` stay while they hold no more than `keep` bytes
    /// of payload: a follower that lags a little is served from here instead of by a snapshot. Of those that are not in
    /// memory parts of 64 KiB stay or go.
    pub fn compact_keeping(&mut self, index: u64, keep: u64) {
        let parts = || {
            let held = self.entries.iter().map(|entry| (entry.index, payload(entry)));
            self.evicted.parts_to(index).chain(held.take_while(|(first, _)| *first <= index))
        };
        let mut behind: u64 = parts().map(|(_, bytes)| bytes).sum();
        let mut to = self.boundary.0;
        let ends = parts().skip(1).map(|(first, _)| first - 1).chain([index]);
        for ((_, bytes), end) in parts().zip(ends) {
            if behind <= keep {
                break;
            }
            behind -= bytes;
            to = end;
        }
        self.compact(to);
    }

    /// Sets how many bytes the entries in memory may take, their own structures included. Not bounded by default.
    pub fn set_cache_bytes(&mut self, bytes: u64) {
        self.cache_bytes = bytes;
    }

    /// Drops entries up to `index` from memory, oldest first, while they take more than they may. Those entries must be
    /// durable and applied; the newest of all stays.
    pub fn evict(&mut self, index: u64) {
        let structures = |entries: usize| (entries * size_of::<Entry>()) as u64;
        while self.front <= index
            && self.entries.len() > 1
            && self.bytes + structures(self.entries.len()) > self.cache_bytes
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= payload(&entry);
            self.evicted.push(entry.index, payload(&entry));
            self.front += 1;
        }
    }

    /// What is to be read back next, for [`LogStorage::fetched`] to be told the answer. `None` if nothing is, or if
    /// enough is being read.
    pub fn next_fetch(&mut self) -> Option<Fetch> {
        let max_bytes = (self.cache_bytes / 8).clamp(FETCH_LEAST, FETCH_MOST);
        self.fetches.get_mut().next(max_bytes, self.epoch)
    }

    /// Takes the answer to a fetch, and returns with what `on_entries_fetched` is to be called. An answer that the log
    /// has moved past is dropped; raft finds out when it asks again.
    ///
    /// # Errors
    /// [`Error::NotInLog`] if an entry of the log, as it has been since the fetch began, is not on disk.
    pub fn fetched(&mut self, fetch: Fetch, answer: ReadBack) -> Result<Vec<GetEntriesContext>, Error> {
        let waiting = self.fetches.get_mut().answered(fetch.low);
        if let ReadBack::Gone { first_index } = answer {
            // A released segment: the entries that are left of it go the same way. They lie before a snapshot.
            self.compact(first_index.saturating_sub(1));
        }
        if fetch.low <= self.boundary.0 || fetch.low > self.last() {
            return Ok(waiting);
        }
        let mut entries = match answer {
            ReadBack::Entries(entries) => entries,
            ReadBack::Gone { .. } => Vec::new(),
        };
        let ours = |(entry, index): &(&Entry, u64)| {
            entry.index == *index && index <= &self.last() && self.terms.get(*index) == Some(entry.term)
        };
        let good = entries.iter().zip(fetch.low..).take_while(ours).count();
        entries.truncate(good);
        if !entries.is_empty() {
            if !waiting.is_empty() {
                self.fetches.get_mut().keep(entries);
            }
        } else if self.epoch == fetch.epoch {
            let term = self.terms.get(fetch.low).unwrap_or(0);
            return Err(Error::NotInLog { index: fetch.low, term });
        }
        Ok(waiting)
    }

    /// Forgets what was to be read back, and what was: nobody is to be sent anything.
    pub fn forget_fetches(&mut self) {
        self.fetches.get_mut().clear();
    }

    /// Payload bytes (data and context) held in memory, those that were read back included.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.fetches.borrow().bytes()
    }

    /// The index of the first entry of the log, or of the first that it would have. It may be on disk only.
    pub fn first_index(&self) -> u64 {
        self.boundary.0 + 1
    }

    /// The index of the first entry that is in memory, or would be.
    pub fn first_in_memory(&self) -> u64 {
        self.front
    }

    /// The index of the last entry, or of the boundary if there is none.
    pub fn last_index(&self) -> u64 {
        self.last()
    }

    /// The index that a snapshot is wanted to reach, if raft asked in vain since the last call. Its conf state must
    /// be the one at the index it is taken at.
    pub fn take_snapshot_request(&self) -> Option<u64> {
        self.wanted.take()
    }

    fn last(&self) -> u64 {
        self.front + self.entries.len() as u64 - 1
    }

    /// Where an index that is not before the front is, or would be.
    fn position(&self, index: u64) -> usize {
        (index - self.front) as usize
    }
}

impl Storage for LogStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.snapshot.get_conf_state().clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "entries up to {high} of a log that ends at {}", self.last());
        let max = max_size.into().unwrap_or(u64::MAX);
        if low >= self.front {
            return Ok(limited(self.entries.range(self.position(low)..self.position(high.max(low))), max));
        }
        let mut fetches = self.fetches.borrow_mut();
        if let Some(entries) = fetches.take(low, high, max) {
            return Ok(entries);
        }
        if !context.can_async() {
            // Applied entries only are dropped from memory, and raft wants those for its followers alone.
            return Err(StorageError::Unavailable.into());
        }
        fetches.want(low, high.min(self.front), context);
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.boundary.0 {
            return Ok(self.boundary.1);
        }
        if index < self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        match self.terms.get(index).filter(|_| index <= self.last()) {
            Some(term) => Ok(term),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.boundary.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let metadata = &self.snapshot;
        let conf = metadata.get_conf_state();
        let members = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
        let known = members.iter().any(|ids| ids.contains(&to));
        if metadata.index == 0 || metadata.index < request_index || !known {
            let index = request_index.max(self.wanted.get().unwrap_or(0));
            self.wanted.set(Some(index));
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
