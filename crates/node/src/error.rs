//! Every way in which a request, or the member itself, can end.

use std::io;
use std::path::PathBuf;

use crate::membership::Refusal;

/// The answer to a request that did not succeed. Each waiter gets exactly one answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many requests, or bytes of requests, are in flight. Nothing was proposed; try again later.
    #[error("overloaded: too many requests in flight; try again")]
    Overloaded,
    /// No leader could be asked before the deadline. Nothing was proposed; try again.
    #[error(
        "no leader took the request within the deadline; try again, or see whether a majority of the members is up"
    )]
    NoLeader,
    /// The request was proposed and has no answer: it may have happened, may yet happen, or never will.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// Why there is no answer.
        reason: &'static str,
    },
    /// This member's disk has no room for more of the log. Nothing was proposed; free some, or ask another member.
    #[error("the disk of this member is full, so it takes no writes; free some space, or ask another member")]
    NoSpace,
    /// The payload is longer than [`crate::Limits::command_bytes`]. Nothing was proposed.
    #[error("a command of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A membership change that cannot be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This member is stopping or has stopped. Nothing was proposed; ask another member.
    #[error("this member is stopping; ask another one")]
    Stopped,
    /// This member was removed from the cluster. Nothing was proposed; ask another member.
    #[error("this member was removed from the cluster; ask another one")]
    Removed,
}

/// What ends a member. None of these can be retried in the same process.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The log failed. What was not yet durable was not acknowledged.
    #[error("the write-ahead log failed, so this member stops: {0}")]
    Wal(#[from] kvd_wal::Error),
    /// A snapshot could not be read or written.
    #[error("snapshots: {0}")]
    Snap(#[from] kvd_snap::Error),
    /// A snapshot that the log relies on cannot be restored.
    #[error("snapshot of term {term}, index {index} cannot be restored: {source}")]
    Restore {
        /// Its term.
        term: u64,
        /// Its index.
        index: u64,
        /// The cause.
        source: io::Error,
    },
    /// Every snapshot that the log recorded is missing or damaged.
    #[error(
        "no snapshot in {} can be read, and the log begins behind them; remove this member and add it under a new id, \
         or bring the files back (damaged ones end in .broken)", .0.display()
    )]
    NoSnapshot(PathBuf),
    /// raft refused its configuration or its own log.
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    /// A file of the member's directory failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process holds the member's directory.
    #[error("{} is held by another process; stop that one first, or use another data directory", .0.display())]
    Locked(PathBuf),
    /// The directory is not this member's.
    #[error("{} belongs to member {found_member} of cluster {found_cluster:016x}, not to member {member}{}; use its own flags, or another data directory", path.display(), cluster.map(|id| format!(" of cluster {id:016x}")).unwrap_or_default())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// The member it belongs to.
        found_member: u64,
        /// The cluster it belongs to.
        found_cluster: u64,
        /// The member that was asked for.
        member: u64,
        /// The cluster that was asked for, where it is known.
        cluster: Option<u64>,
    },
    /// The directory cannot become a cluster of its own.
    #[error("{} cannot begin a new cluster: {why}; take the directory of another member", path.display())]
    CannotRecover {
        /// The directory.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A committed entry that no member can read: the log was not written by this software.
    #[error(
        "committed entry {index} cannot be read: {cause}; restore this member from its peers under a new id"
    )]
    Entry {
        /// Its raft index.
        index: u64,
        /// What is wrong with it.
        cause: String,
    },
    /// A thread of the member panicked.
    #[error("the {0} thread panicked; this is a bug")]
    Panicked(&'static str),
}
