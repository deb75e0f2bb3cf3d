//! A write-ahead log for the `raft` crate.
//!
//! # Contract
//! - What [`Wal::save`] acknowledged is returned by every later [`Wal::open`], byte for byte, in order, without a gap;
//!   terms and votes never go back. What was not acknowledged may be returned too, but only as a prefix of what was
//!   saved.
//! - One save is one durable write. The first write or sync that fails stops the log: every later call returns
//!   [`Error::Stopped`], and nothing is tried again.
//! - A disk without room for the next segment is no failure of a write: a log that prepares ahead says so ([`Room`]),
//!   waits, and goes on when there is room again.
//! - A torn last write is cut and reported ([`TornTail`]); damage to anything that is known to have been durable is
//!   [`Error::Corrupt`], and never cut. [`damage`] holds the decision table and the disk that it assumes.
//!
//! # Order of calls
//! ```text
//! create | open -> save* -> save_snapshot (after the snapshot's file is durable) -> release_to -> ... -> close
//! ```
//! A log is opened *at a snapshot* that it recorded and committed ([`Wal::recorded_snapshots`]); the default
//! [`SnapshotRecord`] stands for the beginning.
//!
//! The format is drawn in the `format` module and specified in `docs/wal-format.md`. [`LogStorage`] is the log as raft
//! reads it, a bounded part of it in memory; [`LogReader`] reads the rest back from the segments. [`scan::Scan`],
//! [`survey()`] and [`verify`] read a log that somebody else may have open, without the lock.
//!
//! ```
//! use kvd_vfs::MemDisk;
//! use kvd_wal::{Options, SnapshotRecord, Wal};
//! use raft::eraftpb::Entry;
//!
//! # fn main() -> kvd_wal::Result<()> {
//! let disk = MemDisk::new().disk();
//! let dir = std::path::Path::new("/member/wal");
//! let options = Options { segment_bytes: 64 << 10, ..Options::default() };
//! let mut wal = Wal::create(disk.clone(), dir, b"cluster 7, member 1", None, options.clone())?;
//! let mut entry = Entry::default();
//! (entry.index, entry.term) = (1, 1);
//! wal.save(&[entry], None, true)?;
//! wal.close()?;
//!
//! let (_wal, replay) = Wal::open(disk, dir, SnapshotRecord::default(), options)?;
//! assert_eq!(replay.entries.len(), 1);
//! # Ok(())
//! # }
//! ```

pub mod damage;
mod encoder;
mod error;
mod fetch;
mod format;
mod index;
mod log_reader;
mod names;
mod prepare;
mod reader;
mod record;
mod recover;
mod repair;
mod room;
pub mod scan;
mod storage;
mod survey;
mod terms;
mod wal;
mod window;

pub use error::{Error, Result};
pub use fetch::Fetch;
pub use log_reader::{LogReader, ReadBack};
pub use record::SnapshotRecord;
pub use recover::{Replay, Report, recorded_snapshots, verify};
pub use repair::TornTail;
pub use room::Room;
pub use storage::LogStorage;
pub use survey::{SegmentSurvey, SnapshotSurvey, Survey, survey};
pub use wal::{Options, Save, Wal};
