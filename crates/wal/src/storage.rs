//! [`LogStorage`]: the log in memory, as raft reads it.
//!
//! ```text
//!   boundary          first                         last
//!   (index, term)     boundary + 1
//!   ------+-----------------+-----------------------+------
//!    gone | snapshot covers |  entries held here    | not yet written
//! ```
//! It is owned by the raft node, not shared: the log file is written elsewhere, and this is told what was written.
//!
//! # Snapshots
//! [`Storage::snapshot`] answers with the metadata of the newest snapshot on disk and no data: a body is streamed from
//! its file. When that snapshot does not reach what is asked for, or its conf state lacks the receiver (who would
//! ignore it, and be sent it again for ever), the answer is `SnapshotTemporarilyUnavailable`, the one soft error that
//! raft has, and the need is noted for [`LogStorage::take_snapshot_request`].

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

/// The log in memory.
#[derive(Debug, Default)]
pub struct LogStorage {
    /// Contiguous; the first has index `boundary.0 + 1`.
    entries: VecDeque<Entry>,
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
fn payload(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64
}

/// An upper bound of what an entry takes in a message: payload, tags and lengths, three numbers.
fn message_share(entry: &Entry) -> u64 {
    payload(entry) + 40
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
        let keep = self.position(first.index);
        self.bytes -= self.entries.range(keep..).map(payload).sum::<u64>();
        self.entries.truncate(keep);
        for (entry, index) in entries.iter().zip(first.index..) {
            assert_eq!(entry.index, index, "entries in one append are contiguous");
            self.bytes += payload(entry);
            self.entries.push_back(entry.clone());
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
        self.entries.clear();
        self.bytes = 0;
        self.boundary = (snapshot.index, snapshot.term);
        self.hard_state.commit = self.hard_state.commit.max(snapshot.index);
        self.hard_state.term = self.hard_state.term.max(snapshot.term);
        self.snapshot = snapshot;
    }

    /// Drops the entries up to and including `index`, but none beyond the newest snapshot: what is dropped must be
    /// had from somewhere. The term at `index` stays answerable.
    pub fn compact(&mut self, index: u64) {
        let index = index.min(self.snapshot.index).min(self.last());
        while self.boundary.0 < index
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= payload(&entry);
            self.boundary = (entry.index, entry.term);
        }
    }

    /// As [`LogStorage::compact`], but the last entries up to `index` stay while they hold no more than `keep` bytes
    /// of payload: a follower that lags a little is served from here instead of by a snapshot.
    pub fn compact_keeping(&mut self, index: u64, keep: u64) {
        let mut behind: u64 = self.entries.iter().take_while(|entry| entry.index <= index).map(payload).sum();
        let mut to = self.boundary.0;
        for entry in self.entries.iter().take_while(|entry| entry.index <= index) {
            if behind <= keep {
                break;
            }
            behind -= payload(entry);
            to = entry.index;
        }
        self.compact(to);
    }

    /// Payload bytes (data and context) held in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The index of the first entry that is held, or would be.
    pub fn first_index(&self) -> u64 {
        self.boundary.0 + 1
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
        self.boundary.0 + self.entries.len() as u64
    }

    /// Where an index that is above the boundary is, or would be.
    fn position(&self, index: u64) -> usize {
        (index - self.boundary.0 - 1) as usize
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
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "entries up to {high} of a log that ends at {}", self.last());
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let mut out = Vec::new();
        for entry in self.entries.range(self.position(low)..self.position(high.max(low))) {
            size = size.saturating_add(message_share(entry));
            if size > max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.boundary.0 {
            return Ok(self.boundary.1);
        }
        if index < self.boundary.0 {
            return Err(StorageError::Compacted.into());
        }
        match self.entries.get(self.position(index)) {
            Some(entry) => Ok(entry.term),
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
