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
//! After a restart there may be more to apply than memory may hold ([`LogStorage::recovered`]). raft cannot wait for
//! those entries, so the owner has a part of them read before it asks for a Ready ([`LogStorage::read_ahead`]), and
//! lets no campaign begin before all are applied ([`LogStorage::is_behind`]).
//!
//! # Snapshots
//! [`Storage::snapshot`] answers with the metadata of the newest snapshot on disk and no data: a body is streamed from
//! its file. When that snapshot does not reach what is asked for, or its conf state lacks the receiver (who would
//! ignore it, and be sent it again for ever), the answer is `SnapshotTemporarilyUnavailable`, the one soft error that
//! raft has, and the need is noted for [`LogStorage::take_snapshot_request`].

use std::cell::{Cell, RefCell};

use kvd_mutation::{Bug, planted};
use raft::eraftpb::{Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::error::Error;
use crate::fetch::{Fetch, Fetches, limited};
use crate::log_reader::{LogReader, ReadBack};
use crate::recover::Replay;
use crate::window::{Window, payload};

/// The most that one fetch reads, in bytes.
const FETCH_MOST: u64 = 4 << 20;
/// What it reads at least, however small the cache.
const FETCH_LEAST: u64 = 64 << 10;

/// The log as raft reads it.
#[derive(Debug)]
pub struct LogStorage {
    /// The entries behind the boundary.
    log: Window,
    /// Index and term of the entry before the first, which is gone.
    boundary: (u64, u64),
    fetches: RefCell<Fetches>,
    /// Since a restart, while entries that are to be applied are on disk only: what reads them, and some that it read.
    behind: Option<Behind>,
    /// How often entries were replaced.
    epoch: u64,
    cache_bytes: u64,
    hard_state: HardState,
    /// The newest snapshot on disk; the default while there is none.
    snapshot: SnapshotMetadata,
    /// The index that a snapshot is wanted to reach.
    wanted: Cell<Option<u64>>,
}

#[derive(Debug)]
struct Behind {
    reader: LogReader,
    /// Contiguous.
    entries: Vec<Entry>,
}

/// An upper bound of what an entry takes in a message: payload, tags and lengths, three numbers.
pub(crate) fn message_share(entry: &Entry) -> u64 {
    payload(entry) + 40
}

impl Default for LogStorage {
    fn default() -> LogStorage {
        LogStorage::new(SnapshotMetadata::default(), HardState::default(), Vec::new())
    }
}

impl LogStorage {
    /// A log that begins after a snapshot (the default one for a member that has nothing yet) and goes on with entries.
    ///
    /// # Panics
    /// If the entries do not follow the snapshot without a gap.
    pub fn new(snapshot: SnapshotMetadata, hard_state: HardState, entries: Vec<Entry>) -> LogStorage {
        let mut log = LogStorage::with(snapshot, hard_state, Window::behind);
        log.append(&entries);
        log
    }

    /// The log that [`crate::Wal::open`] found behind a snapshot. What of it is not in the replay is read when it is to
    /// be applied: see [`LogStorage::read_ahead`].
    ///
    /// # Panics
    /// If the log was opened at another snapshot.
    pub fn recovered(snapshot: SnapshotMetadata, replay: Replay, reader: LogReader) -> LogStorage {
        let (hard_state, entries, outline) = (replay.hard_state, replay.entries, replay.outline);
        assert_eq!(replay.at.index, snapshot.index, "a log that was opened at its snapshot");
        let mut log =
            LogStorage::with(snapshot, hard_state, |index| Window::from_parts(index, entries, outline));
        if log.log.front() > log.first_index() {
            log.behind = Some(Behind { reader, entries: Vec::new() });
        }
        log
    }

    fn with(
        snapshot: SnapshotMetadata,
        hard_state: HardState,
        log: impl FnOnce(u64) -> Window,
    ) -> LogStorage {
        LogStorage {
            log: log(snapshot.index),
            boundary: (snapshot.index, snapshot.term),
            fetches: RefCell::default(),
            behind: None,
            epoch: 0,
            cache_bytes: u64::MAX,
            hard_state,
            snapshot,
            wanted: Cell::new(None),
        }
    }

    /// Appends entries. Those that overlap replace what is there, and everything behind them.
    ///
    /// # Panics
    /// On a gap, within the entries or before them, and on an entry that was compacted away: raft makes neither.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.boundary.0 && first.index <= self.last_index() + 1,
            "an append at index {} to a log of {}..={}",
            first.index,
            self.first_index(),
            self.last_index()
        );
        if first.index <= self.last_index() {
            self.epoch += 1;
            self.log.truncate(first.index);
            self.fetches.get_mut().keep_within(self.boundary.0 + 1, first.index);
        }
        for (entry, index) in entries.iter().zip(first.index..) {
            assert_eq!(entry.index, index, "entries in one append are contiguous");
            self.log.push(entry.clone());
        }
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
        self.epoch += 1;
        self.log.clear(snapshot.index);
        self.fetches.get_mut().clear();
        self.behind = None;
        self.boundary = (snapshot.index, snapshot.term);
        self.hard_state.commit = self.hard_state.commit.max(snapshot.index);
        self.hard_state.term = self.hard_state.term.max(snapshot.term);
        self.snapshot = snapshot;
    }

    /// Drops the entries up to and including `index`, but none beyond the newest snapshot: what is dropped must be
    /// had from somewhere. The term at `index` stays answerable.
    pub fn compact(&mut self, index: u64) {
        let too_far = if planted(Bug::CompactedTooFar) { 10 } else { 0 };
        let index = (index.min(self.snapshot.index) + too_far).min(self.last_index());
        let Some(term) = self.log.term(index) else { return };
        if index <= self.boundary.0 {
            return;
        }
        self.boundary = (index, term);
        self.log.compact(index);
        self.fetches.get_mut().keep_within(index + 1, u64::MAX);
    }

    /// As [`LogStorage::compact`], but the last entries up to `index` stay while they hold no more than `keep` bytes
    /// of payload: a follower that lags a little is served from here instead of by a snapshot. Of those that are not in
    /// memory parts of 64 KiB stay or go.
    pub fn compact_keeping(&mut self, index: u64, keep: u64) {
        let parts = || self.log.parts_to(index);
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
        self.log.evict(index, self.cache_bytes);
    }

    fn fetch_bytes(&self) -> u64 {
        (self.cache_bytes / 8).clamp(FETCH_LEAST, FETCH_MOST)
    }

    /// Whether entries behind `applied` are on disk only. Then raft must not campaign, nor count votes: it would look
    /// through all that are committed and not applied, and here they are had in parts.
    pub fn is_behind(&self, applied: u64) -> bool {
        applied + 1 < self.log.front()
    }

    /// Before raft is asked for what is to be applied behind `applied`: reads some of it, if it is on disk only. This
    /// blocks for as long as reading an eighth of the cache takes, at most 4 MiB, and is needed after a restart only:
    /// entries that were applied are the only ones that leave memory later.
    ///
    /// # Errors
    /// As [`LogReader::read`]; [`Error::NotInLog`] if the entries are not on disk.
    pub fn read_ahead(&mut self, applied: u64) -> Result<(), Error> {
        let low = applied + 1;
        if !self.is_behind(applied) {
            self.behind = None;
            return Ok(());
        }
        let fetch_bytes = self.fetch_bytes();
        let not_in_log = || Error::NotInLog { index: low, term: self.log.term(low).unwrap_or(0) };
        let behind = self.behind.as_mut().ok_or_else(not_in_log)?;
        if behind.entries.last().is_some_and(|last| last.index >= low) {
            return Ok(());
        }
        let read = behind.reader.read(low, self.log.front(), fetch_bytes)?;
        let ReadBack::Entries(entries) = read else { return Err(not_in_log()) };
        if entries.is_empty() || entries.iter().any(|entry| self.log.term(entry.index) != Some(entry.term)) {
            return Err(not_in_log());
        }
        behind.entries = entries;
        Ok(())
    }

    /// What is to be read back next, for [`LogStorage::fetched`] to be told the answer. `None` if nothing is, or if
    /// enough is being read.
    pub fn next_fetch(&mut self) -> Option<Fetch> {
        let max_bytes = self.fetch_bytes();
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
        if fetch.low <= self.boundary.0 || fetch.low > self.last_index() {
            return Ok(waiting);
        }
        let mut entries = match answer {
            ReadBack::Entries(entries) => entries,
            ReadBack::Gone { .. } => Vec::new(),
        };
        let ours = |(entry, index): &(&Entry, u64)| {
            entry.index == *index && self.log.term(*index) == Some(entry.term)
        };
        let good = entries.iter().zip(fetch.low..).take_while(ours).count();
        entries.truncate(good);
        if !entries.is_empty() {
            if !waiting.is_empty() {
                self.fetches.get_mut().keep(entries);
            }
        } else if self.epoch == fetch.epoch {
            let term = self.log.term(fetch.low).unwrap_or(0);
            return Err(Error::NotInLog { index: fetch.low, term });
        }
        Ok(waiting)
    }

    /// A fetch has no answer, for the disk could not be read. Who waits for it has to ask again.
    pub fn not_fetched(&mut self, fetch: Fetch) {
        self.fetches.get_mut().answered(fetch.low);
    }

    /// Forgets what was to be read back, and what was: nobody is to be sent anything.
    pub fn forget_fetches(&mut self) {
        self.fetches.get_mut().clear();
    }

    /// Payload bytes (data and context) held in memory, those that were read back included.
    pub fn bytes(&self) -> u64 {
        let behind = self.behind.iter().flat_map(|behind| &behind.entries).map(payload).sum::<u64>();
        self.log.bytes() + self.fetches.borrow().bytes() + behind
    }

    /// The index of the first entry of the log, or of the first that it would have. It may be on disk only.
    pub fn first_index(&self) -> u64 {
        self.boundary.0 + 1
    }

    /// The index of the first entry that is in memory, or would be.
    pub fn first_in_memory(&self) -> u64 {
        self.log.front()
    }

    /// The index of the last entry, or of the boundary if there is none.
    pub fn last_index(&self) -> u64 {
        self.log.last()
    }

    /// The index that a snapshot is wanted to reach, if raft asked in vain since the last call. Its conf state must
    /// be the one at the index it is taken at.
    pub fn take_snapshot_request(&self) -> Option<u64> {
        self.wanted.take()
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
        let last = self.last_index();
        assert!(high <= last + 1, "entries up to {high} of a log that ends at {last}");
        let max = max_size.into().unwrap_or(u64::MAX);
        if low >= self.log.front() {
            return Ok(limited(self.log.range(low..high.max(low)), max));
        }
        if !context.can_async() {
            // What is to be applied: after a restart it is on disk only, and was read ahead.
            let ahead = self.behind.iter().flat_map(|behind| &behind.entries);
            let entries = limited(ahead.filter(|entry| (low..high).contains(&entry.index)), max);
            return match entries.first() {
                Some(first) if first.index == low => Ok(entries),
                _ => Err(StorageError::Unavailable.into()),
            };
        }
        let mut fetches = self.fetches.borrow_mut();
        if let Some(entries) = fetches.take(low, high, max) {
            return Ok(entries);
        }
        fetches.want(low, high.min(self.log.front()), context);
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.boundary.0 {
            return Ok(self.boundary.1);
        }
        if index < self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        self.log.term(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.boundary.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last())
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
