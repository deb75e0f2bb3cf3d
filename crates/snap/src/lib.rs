//! Snapshot files for the `raft` crate: streamed, checksummed, and either whole or not there.
//!
//! A [`Snapshotter`] owns a directory of files named `TTTTTTTTTTTTTTTT-IIIIIIIIIIIIIIII.snap`: term and index of the
//! last entry that the snapshot covers, 16 hexadecimal digits each, so that names sort from old to new. A file holds
//! the [`SnapshotMetadata`](raft::eraftpb::SnapshotMetadata) and a body that only its writer understands. Bodies of
//! any size are written, read, sent and received in constant memory. `docs/snap-format.md` draws the bytes.
//!
//! # Contract
//! - *Atomic.* A snapshot is written under a temporary name, synced, renamed, and the directory is synced. After a
//!   crash at any point the final name is absent or holds the whole file.
//! - *Verified.* No byte of a body is handed out before the checksum of its chunk was found right, and the end of
//!   the body is not reported before that of the whole file was.
//! - *Damage is not an I/O error.* A damaged file is set aside under the suffix `.broken` and an older one is tried;
//!   a disk that fails is an error, and nothing is set aside. [`loading`] has the decision table.
//! - *Kept.* A snapshot that the log recorded, and that is whole, is not exchanged for one that a peer sends under its
//!   term and index.
//! - *Order.* The snapshot first, then its record in the log, then the entries after it: a file that the log never
//!   recorded is of no use, and [`Snapshotter::remove_unrecorded`] removes it.
//!
//! The disk model is that of [`kvd_vfs`]. A directory has one `Snapshotter` (and its clones) at a time; the member's
//! lock, which the caller holds, sees to that.

mod error;
mod format;
mod list;
pub mod loading;
mod reader;
mod receive;
mod snapshotter;
mod write;

pub use error::{Damage, Error};
pub use format::{CHUNK_BYTES, MAX_CHUNK_BYTES, MAX_METADATA_BYTES, VERSION};
pub use list::{Kind, Listed, State, list, parse};
pub use reader::{SnapshotReader, Summary, verify};
pub use snapshotter::Snapshotter;

/// What this crate's operations return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
