//! A member's log, reduced to what the properties need: the term at each index.

use kvd_node::driver::Write;
use kvd_wal::LogStorage;
use raft::Storage as _;
use raft::eraftpb::Entry;

/// The terms of a log behind a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shadow {
    boundary: (u64, u64),
    terms: Vec<u64>,
}

impl Shadow {
    /// The log that a member holds.
    pub(crate) fn of(store: &LogStorage) -> Self {
        let before = store.first_index() - 1;
        let term = |index| store.term(index).unwrap_or(0);
        let terms = (store.first_index()..=store.last_index()).map(term).collect();
        Self { boundary: (before, term(before)), terms }
    }

    /// The index of the snapshot behind which it begins.
    pub(crate) fn boundary(&self) -> u64 {
        self.boundary.0
    }

    /// The index of the last entry.
    pub(crate) fn last(&self) -> u64 {
        self.boundary.0 + self.terms.len() as u64
    }

    /// The term at an index; `None` below the snapshot and above the end.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.boundary.0 {
            return Some(self.boundary.1);
        }
        self.terms.get(usize::try_from(index.checked_sub(self.boundary.0 + 1)?).ok()?).copied()
    }

    /// Takes up what a write adds. Each entry is shown together with the term of the one before it.
    pub(crate) fn write(&mut self, write: &Write, mut entry: impl FnMut(u64, &Entry)) {
        if let Some(snapshot) = &write.snapshot
            && self.term(snapshot.index) != Some(snapshot.term)
            && snapshot.index > self.boundary.0
        {
            // The leader's: the log is replaced. One of our own lies within the log.
            *self = Self { boundary: (snapshot.index, snapshot.term), terms: Vec::new() };
        }
        for new in &write.entries {
            entry(self.term(new.index - 1).unwrap_or(0), new);
            self.terms.truncate((new.index - self.boundary.0 - 1) as usize);
            self.terms.push(new.term);
        }
    }
}
