//! What can go wrong, each with the file, the offset and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::damage::Finding;

/// What every function here returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the log. None can be cured by trying again, except [`Error::Locked`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused. After a write or sync the log is stopped; see [`Error::Stopped`].
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A write or sync failed earlier, so nobody knows what the file holds. Restart the process: opening the log again
    /// finds out.
    #[error("the log takes no more writes since an earlier failure ({cause}); restart to recover")]
    Stopped {
        /// The first failure.
        cause: Arc<Error>,
    },
    /// Another process has the log open. Retry when it has ended.
    #[error("{} is locked by another process; stop that one first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// [`crate::Wal::create`] was asked to make a log where something already is.
    #[error("{} already exists and is not empty; open it, or choose another directory", dir.display())]
    AlreadyExists {
        /// The log's directory.
        dir: PathBuf,
    },
    /// There is no log.
    #[error("no log segments in {}; create a log first, or restore the directory", dir.display())]
    Absent {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Bytes that were durable, or that no crash can explain, are damaged. Nothing was changed. Restore the member from
    /// a backup, or remove it from the cluster and add it again under a new id.
    #[error(
        "{} is corrupt at offset {offset}: {finding}{}; nothing was changed: restore the file, or remove this member \
         and add it under a new id",
        file.display(),
        describe_durable(*known_durable)
    )]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Where the damaged batch begins.
        offset: u64,
        /// What is wrong there.
        finding: Finding,
        /// The offset of the segment that is known to have been durable, if it lies behind the damage.
        known_durable: Option<u64>,
    },
    /// A batch with a good checksum holds a record that makes no sense: a bug, of the writer or of this reader.
    #[error("{} at offset {offset}: {problem}; keep the file and report this", file.display())]
    Malformed {
        /// The segment.
        file: PathBuf,
        /// Where the batch begins.
        offset: u64,
        /// What makes no sense.
        problem: String,
    },
    /// A newer version wrote this.
    #[error(
        "{} at offset {offset} has format version {found}, this program reads up to {supported}; use a newer version",
        file.display()
    )]
    UnsupportedVersion {
        /// The segment.
        file: PathBuf,
        /// Where the batch begins.
        offset: u64,
        /// The version found.
        found: u16,
        /// The newest version that can be read.
        supported: u16,
    },
    /// A record of a kind that this version does not know.
    #[error("{} at offset {offset} holds a record of unknown kind {kind}; use a newer version", file.display())]
    UnknownRecord {
        /// The segment.
        file: PathBuf,
        /// Where the batch begins.
        offset: u64,
        /// The kind found.
        kind: u8,
    },
    /// The sequence numbers of the segments have a gap.
    #[error("segment {missing} of the log in {} is missing, but {next} is there; restore it", dir.display())]
    MissingSegment {
        /// The log's directory.
        dir: PathBuf,
        /// The sequence number that should come next.
        missing: u64,
        /// The file that is there instead.
        next: String,
    },
    /// Two segments have one sequence number.
    #[error("two segments in {} have the same sequence number: {first} and {second}; restore the directory", dir.display())]
    DuplicateSegment {
        /// The log's directory.
        dir: PathBuf,
        /// One of the files.
        first: String,
        /// The other.
        second: String,
    },
    /// Entries do not follow one another.
    #[error("{} at offset {offset}: entry {found} where {expected} should follow; restore the file", file.display())]
    IndexGap {
        /// The segment.
        file: PathBuf,
        /// Where the batch begins.
        offset: u64,
        /// The highest index that would have followed.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// A segment belongs to another log.
    #[error("{} has other metadata than the segments before it: it belongs to another log", file.display())]
    MetadataMismatch {
        /// The segment.
        file: PathBuf,
    },
    /// The log does not know the snapshot that it was to be opened at.
    #[error(
        "the log in {} has no record of a snapshot at index {index}, term {term}; use one of `Wal::recorded_snapshots`",
        dir.display()
    )]
    SnapshotNotRecorded {
        /// The log's directory.
        dir: PathBuf,
        /// The snapshot's index.
        index: u64,
        /// The snapshot's term.
        term: u64,
    },
    /// The log does not say that what the snapshot covers was committed: the record was written, but not the hard state
    /// that makes it valid.
    #[error(
        "the log in {} is committed up to {commit} only, it cannot be opened at a snapshot at {index}; \
         use one of `Wal::recorded_snapshots`",
        dir.display()
    )]
    SnapshotNotCommitted {
        /// The log's directory.
        dir: PathBuf,
        /// The snapshot's index.
        index: u64,
        /// The commit index.
        commit: u64,
    },
    /// The log went on while it was read, and released segments that opening it at this snapshot needs. It can be opened
    /// at a newer one.
    #[error(
        "the log in {} went on while it was read, and cannot be opened at a snapshot at {index} any more; \
         use one of `Wal::recorded_snapshots`",
        dir.display()
    )]
    Released {
        /// The log's directory.
        dir: PathBuf,
        /// The snapshot's index.
        index: u64,
    },
    /// The log says that more is committed than it holds behind this snapshot: there was a newer one.
    #[error(
        "the log in {} is committed up to {commit} but ends at {last} when opened at this snapshot; \
         open it at a newer snapshot, or restore the one that is missing",
        dir.display()
    )]
    CommitBeyondLog {
        /// The log's directory.
        dir: PathBuf,
        /// The commit index.
        commit: u64,
        /// The last index.
        last: u64,
    },
    /// An entry that was saved, is durable and was not replaced is not in the segments. Its file was exchanged under a
    /// running log, or this is a bug.
    #[error(
        "entry {index} of term {term} is in the log, but its files do not have it; were they changed while the log was \
         open? Restart, which reads all of them, and keep them if that fails"
    )]
    NotInLog {
        /// The entry's index.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// A save is larger than a batch may be. Nothing was written.
    #[error("a save of {len} bytes is larger than the limit of {limit}; nothing was written")]
    TooLarge {
        /// The save's length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl Error {
    /// Whether this is want of room on the disk, or of the user's share of it.
    pub fn is_no_space(&self) -> bool {
        let Error::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

fn describe_durable(offset: Option<u64>) -> String {
    match offset {
        Some(offset) => format!(", although everything below offset {offset} was durable"),
        None => String::new(),
    }
}

/// Adds what was tried, and on what, to an I/O error.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: Arc::new(source) })
    }
}
