//! Bugs that the simulator plants in its own half of a member, to show that it would see them.

use std::fmt;

/// A planted bug. Each stands for one that others shipped (see the table in the design's chapter on reliability).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// A write is called durable when it is queued.
    AckBeforeSync,
    /// The log drops the vote from each hard state.
    VoteForgotten,
    /// The fate of a snapshot that was sent is never reported.
    SnapshotReportLost,
    /// A linearizable read is served at once, from what this member has applied.
    ReadWithoutRound,
    /// One member applies a command differently from the others.
    ApplyDiffers,
    /// A command is applied each time that it arrives in the log.
    AppliedTwice,
    /// Log segments are released that the kept snapshots still need.
    ReleasedTooFar,
    /// The last entry of each write is not written.
    EntryNotWritten,
    /// A snapshot that was installed is not recorded in the log.
    InstallNotRecorded,
    /// A failed write of the log is retried and called durable.
    FailedSyncIgnored,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::AckBeforeSync,
        Self::VoteForgotten,
        Self::SnapshotReportLost,
        Self::ReadWithoutRound,
        Self::ApplyDiffers,
        Self::AppliedTwice,
        Self::ReleasedTooFar,
        Self::EntryNotWritten,
        Self::InstallNotRecorded,
        Self::FailedSyncIgnored,
    ];

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutation| mutation.to_string() == name)
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
