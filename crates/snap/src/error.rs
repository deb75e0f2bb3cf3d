//! What can go wrong, and whose fault it is: the disk's (an I/O error), the bytes' (damage), or the caller's.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on snapshot files failed. Every variant names its file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. Says nothing about the bytes: the file is left as it is. After a failed *write* or *sync*
    /// a retry of the same file would lie; the member that sees one stops.
    #[error("{}: {doing} failed: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The disk's words.
        source: io::Error,
    },
    /// The bytes are not what was written. A retry cannot help; another copy can.
    #[error("{}: damaged at offset {offset}: {damage}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the part begins that does not add up, in bytes from the start of the file.
        offset: u64,
        /// What does not add up.
        damage: Damage,
    },
    /// The file was written by a newer kvd, and is whole as far as can be told. Upgrade this member.
    #[error(
        "{}: snapshot format version {found} is newer than {newest}, the newest that this build reads: upgrade it",
        path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: u32,
        /// The newest version known here.
        newest: u32,
    },
    /// The file is another snapshot than the one asked for.
    #[error(
        "{}: holds the snapshot of term {} and index {}, not of term {} and index {}",
        path.display(), found.0, found.1, asked.0, asked.1
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// Term and index asked for.
        asked: (u64, u64),
        /// Term and index in its header.
        found: (u64, u64),
    },
    /// The function that was to write the body gave up. No file was left.
    #[error("{}: the state could not be written out: {source}", path.display())]
    Body {
        /// The file that would have been.
        path: PathBuf,
        /// That function's words.
        source: io::Error,
    },
    /// The metadata is larger than a reader would accept. No file was left.
    #[error("{}: metadata of {len} bytes, the limit is {limit}", path.display())]
    MetadataTooLarge {
        /// The file that would have been.
        path: PathBuf,
        /// Its encoded length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Whether this is want of room on the disk, or of the user's share of it. Nothing is left of the file then, as far
    /// as the disk still obeys, and the same may be tried again.
    pub fn is_no_space(&self) -> bool {
        let (Self::Io { source, .. } | Self::Body { source, .. }) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the bytes of the file are at fault: such a file is set aside as `.broken`, others are not.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Other { .. })
    }
}

/// Keeps the kind of an I/O error; damage becomes [`io::ErrorKind::InvalidData`]. The typed error is inside.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } | Error::Body { source, .. } => source.kind(),
            Error::Corrupt { .. } | Error::Other { .. } => io::ErrorKind::InvalidData,
            Error::NewerVersion { .. } => io::ErrorKind::Unsupported,
            Error::MetadataTooLarge { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// What does not add up in a snapshot file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file does not begin as a snapshot does.
    #[error("not a snapshot file (wrong magic)")]
    Magic,
    /// The checksum over magic and version is wrong.
    #[error("checksum of the prelude does not match")]
    Prelude,
    /// A version that was never written.
    #[error("format version {0} does not exist")]
    Version(u32),
    /// An impossible metadata length.
    #[error("metadata length {len} is not within 1..={max}")]
    MetadataLength {
        /// As stored, in bytes.
        len: u32,
        /// The limit, in bytes.
        max: u32,
    },
    /// The checksum over the metadata is wrong.
    #[error("checksum of the metadata does not match")]
    Metadata,
    /// The checksum of the metadata matches, but it cannot be decoded.
    #[error("metadata cannot be decoded: {0}")]
    MetadataEncoding(kvd_raftpb::DecodeError),
    /// An impossible chunk length.
    #[error("length {len} of chunk {chunk} is above {max}")]
    ChunkLength {
        /// Number of the chunk, from 0.
        chunk: u64,
        /// As stored, in bytes.
        len: u32,
        /// The limit, in bytes.
        max: u32,
    },
    /// The checksum of a chunk is wrong.
    #[error("checksum of chunk {0} does not match")]
    Chunk(u64),
    /// The trailer's checksum, or the mark at its end, is wrong.
    #[error("checksum of the trailer does not match")]
    Trailer,
    /// The chunks do not add up to the body length in the trailer.
    #[error("the body has {found} bytes, the trailer says {expected}")]
    BodyLength {
        /// Counted.
        found: u64,
        /// As stored.
        expected: u64,
    },
    /// The checksum over the whole file is wrong although that of each chunk matches.
    #[error("checksum of the whole file does not match")]
    Whole,
    /// The file ends early.
    #[error("ends after {0} bytes, before its trailer is complete")]
    Truncated(u64),
    /// The file goes on after its trailer.
    #[error("bytes follow the trailer")]
    TrailingBytes,
}
