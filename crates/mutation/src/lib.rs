//! Bugs that are planted on purpose, one at a time, to show that the simulator would catch them.
//!
//! # Contract
//! - Without the feature `planted`, [`planted`] is the constant `false`: no release has any of this.
//! - With it, a thread selects at most one bug with [`select`], and only code on that thread has it. The simulator runs a
//!   cluster on one thread, so simulations beside one another do not disturb each other.
//! - A site is one line, and says what is left out or done wrongly. The bug's story stands here, once.
//!
//! A bug that was found in kvd itself, or that others shipped, stays in this list for good.

use std::fmt;

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $name:ident: $of:literal,)+) => {
        /// A bug that can be planted. Each stands for one that somebody shipped, or for a rule whose breach is easy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $what])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it stands for: who shipped it, or the rule that it breaks.
            #[must_use]
            pub fn stands_for(self) -> &'static str {
                match self {
                    $(Self::$name => $of,)+
                }
            }
        }
    };
}

bugs! {
    // --- The order of effects (crates/node/src/ready.rs).
    /// A write counts as durable as soon as it is handed to the log.
    AckBeforeSync: "acknowledging before fsync: NATS 2.12.1; etcd#14370, a single voter",
    /// Votes and acknowledgements leave before what they promise is durable.
    PromiseBeforeSync: "raft 0.7's persisted_messages sent with messages",
    /// Only entries are synced; a term or a vote alone waits for the next of them.
    TermNotSynced: "the sync rule: entries, or a changed term or vote",
    /// The commit index never reaches the log.
    CommitNotWritten: "LightReady's commit index dropped: newest snapshots are filtered out at start",
    /// A snapshot of the leader is installed and not recorded in the log.
    InstallNotRecorded: "raft and the state machine start from different snapshots",

    // --- The log (crates/wal).
    /// The log drops the vote from each hard state.
    VoteForgotten: "two votes in a term after a restart",
    /// A write of the log that failed is taken for done.
    FailedSyncIgnored: "fsync failed, was tried again, and 'succeeded'",
    /// The log's writes are not synced.
    SyncSkipped: "acknowledging before fsync: the write reached the page cache only",
    /// What a killed process left unsynced is taken as durable at the next start.
    ReplayNotSynced: "a log that is read back is not yet on the disk",
    /// A new segment's name is not synced.
    CutNotSynced: "etcd: rename without a sync of the directory",
    /// Segments go that the kept snapshots still need.
    ReleasedTooFar: "snapshot records after purge; log released beyond what opening needs",
    /// Damage below an offset that was durable is cut like a torn write.
    CutBelowDurable: "etcd#6378, #10025: repair heuristics that hide loss",
    /// The log does not compare checksums.
    LogChecksumSkipped: "bits rot, and nobody looks",
    /// The log in memory is cut beyond its snapshot.
    CompactedTooFar: "compacting beyond what raft has applied",

    // --- Snapshot files (crates/snap).
    /// A snapshot's file gets its name before its bytes are durable.
    SnapshotNotSynced: "snapshot record before its file is durable",
    /// A snapshot's name is not synced.
    SnapshotNameNotSynced: "rename without a sync of the directory",
    /// Snapshot files are read without comparing checksums.
    SnapshotChecksumSkipped: "bits rot, and nobody looks",

    // --- What a snapshot holds (crates/node, crates/kvstore).
    /// A snapshot holds one entry more than its index says.
    SnapshotNewerThanIndex: "applied index not atomic with data: etcd 3.5, #13766",
    /// A snapshot has no conf state.
    SnapshotWithoutConfState: "raft-rs#472: the receiver ignores it",
    /// A snapshot has the conf state of the one before it.
    SnapshotWithOldConfState: "raft-rs#472: a learner that joined since is not in it",
    /// A snapshot does not hold the sessions.
    SnapshotWithoutSessions: "the record of what was applied is lost with the log",
    /// A snapshot of the leader does not replace the sessions.
    InstallKeepsSessions: "part of the state is not part of the snapshot",
    /// A key's version starts afresh when it is read from a snapshot.
    RestoredVersionLost: "apply is not deterministic: etcd#14571",
    /// The report that a snapshot was lost on its way is ignored.
    SnapshotReportLost: "a lost snapshot that nobody reports freezes the follower for ever",

    // --- Commands.
    /// A command is applied as often as it is in the log.
    DedupeIgnored: "a proposal that was sent again is applied twice",
    /// The count of a member's starts is not durable, so request ids come back.
    BootNotSynced: "request ids used twice",
    /// The check beside the count of a member's starts is not looked at.
    BootUnchecked: "kvd itself: a flipped bit brought request ids back",
    /// A proposal that was lost with its leader is not sent again.
    ProposalLost: "silent proposal loss: forwarded, and the leader changed",

    // --- Reads.
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutRound: "a paused leader answers from the past: the oldest one of all",
    /// The leader's lease does not end.
    LeaseOutlived: "raft's LeaseBased: a lease that is looked at once in an election time-out",
    /// A ReadIndex round that is begun again has the context of the lost one.
    ReadContextReused: "etcd#20418; raft 0.7 joins the pending round, at its old index",
    /// A read is served when its index is known, not when it is applied.
    ReadBeforeApplied: "ReadIndex without the wait for apply",

    // --- Membership.
    /// A learner is promoted however far behind it is.
    PromotedEarly: "a quorum that waits for a member without a log",
    /// A removed member stays a voter.
    RemovedStillVotes: "member list and raft's configuration fall apart",
    /// A learner is a voter from the start.
    LearnerVotes: "member list and raft's configuration fall apart",
    /// A removed id may join again.
    RemovedIdReturns: "raftexample: removed ids come back",

    // --- In the simulator's half, where a whole member is needed.
    /// One member applies a command differently from the others.
    ApplyDiffers: "expiry decided by local clocks: etcd#11689; redisraft",
    /// A member whose disk was emptied comes back under its id.
    WipedComesBack: "etcd#20269: votes and acknowledgements forgotten",
}

impl Bug {
    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.to_string() == name)
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// Whether bugs can be planted in this build.
pub const COMPILED: bool = cfg!(feature = "planted");

#[cfg(feature = "planted")]
std::thread_local! {
    static SELECTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, in place of the one before; `None` for none. Without the feature nothing happens:
/// see [`COMPILED`].
pub fn select(bug: Option<Bug>) {
    #[cfg(feature = "planted")]
    SELECTED.set(bug);
    #[cfg(not(feature = "planted"))]
    let _ = bug;
}

/// Whether this bug is planted on this thread.
#[cfg(feature = "planted")]
#[inline]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    SELECTED.get() == Some(bug)
}

/// Whether this bug is planted on this thread: it is not.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bug_has_a_name_of_its_own() {
        for bug in Bug::ALL {
            assert_eq!(Bug::named(&bug.to_string()), Some(*bug));
        }
        assert_eq!(Bug::named("NoSuchBug"), None);
    }

    #[test]
    fn a_bug_is_planted_only_where_it_was_compiled_in_and_selected() {
        assert!(!planted(Bug::AckBeforeSync));
        select(Some(Bug::AckBeforeSync));
        assert_eq!(planted(Bug::AckBeforeSync), COMPILED);
        assert!(!planted(Bug::VoteForgotten));
        std::thread::spawn(|| assert!(!planted(Bug::AckBeforeSync))).join().unwrap();
        select(None);
        assert!(!planted(Bug::AckBeforeSync));
    }
}
