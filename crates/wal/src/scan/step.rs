//! What a scan returns.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_raftpb::codec;
use raft::eraftpb::{Entry, HardState};

use crate::damage::Finding;
use crate::error::{Error, Result};
use crate::names::SegmentName;
use crate::record::{self, BadRecord, SnapshotRecord};
use crate::repair::TornTail;

/// What a scan comes to.
#[derive(Debug)]
pub enum Step<'a> {
    /// A good batch.
    Batch(Batch<'a>),
    /// Segments went while they were read: what came before has a gap behind it.
    Released(Released),
}

/// Segments that a running log released while a scan was about to read them, or in the middle of the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// The sequence number of the first one that is gone.
    pub from: u64,
    /// The sequence number of the segment that comes next.
    pub next: u64,
}

/// What one durable write wrote.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The segment.
    pub file: &'a Path,
    /// Its sequence number.
    pub sequence: u64,
    /// Where the batch begins, in bytes; a multiple of 512.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
    pub(crate) segment: SegmentName,
    pub(super) records: &'a [u8],
}

/// A record of the log, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The head of a segment.
    Link {
        /// Where the segment before this one ended; 0 in the first.
        previous_end: u64,
    },
    /// What [`crate::Wal::create`] was given.
    Metadata(Bytes),
    /// An entry. It replaces the entry of its index, if there is one, and all behind that.
    Entry(Entry),
    /// A hard state; the last one counts.
    HardState(HardState),
    /// A snapshot is on disk; it counts once a hard state commits its index.
    Snapshot(SnapshotRecord),
    /// The log was closed cleanly.
    Close,
}

/// Where a log ends, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The last segment.
    pub file: PathBuf,
    /// Its sequence number.
    pub sequence: u64,
    /// Where the next batch would begin in it, in bytes.
    pub offset: u64,
    /// The length of the file.
    pub file_bytes: u64,
    /// A torn write behind the end, which opening the log would cut. Nobody has the log open.
    pub torn: Option<TornTail>,
    /// What was found at the end, if it is not zeros: a write that whoever has the log open has begun and, as far as can
    /// be seen, not ended. It stays if the member is idle and its last write has rotted: only a member that was stopped
    /// can tell.
    pub under_way: Option<Finding>,
    /// Whether the last record is the one that [`crate::Wal::close`] writes.
    pub closed: bool,
}

impl<'a> Batch<'a> {
    /// The records, decoded one by one.
    pub fn records(&self) -> impl Iterator<Item = Result<Record>> + use<'a> {
        let place = self.place();
        self.raw().map(move |record| {
            Ok(match record? {
                record::Record::Link { previous_end } => Record::Link { previous_end },
                record::Record::Metadata(bytes) => Record::Metadata(Bytes::copy_from_slice(bytes)),
                record::Record::Entry(body) => {
                    let entry = codec::decode_entry(Bytes::copy_from_slice(body));
                    Record::Entry(entry.map_err(|e| place.malformed(e.to_string()))?)
                }
                record::Record::HardState(body) => Record::HardState(
                    record::decode_hard_state(body).map_err(|problem| place.malformed(problem))?,
                ),
                record::Record::Snapshot(snapshot) => Record::Snapshot(snapshot),
                record::Record::Close => Record::Close,
            })
        })
    }

    /// The records as they are.
    pub(crate) fn raw(&self) -> impl Iterator<Item = Result<record::Record<'a>>> + use<'a> {
        let (mut bytes, place) = (self.records, self.place());
        std::iter::from_fn(move || {
            let record = record::next_record(&mut bytes)?;
            if record.is_err() {
                // Nothing behind it can be read.
                bytes = &[];
            }
            Some(record.map_err(|bad| bad_record(place, bad)))
        })
    }

    pub(crate) fn place(&self) -> Place<'a> {
        Place { file: self.file, segment: self.segment, offset: self.offset }
    }
}

/// Where a record was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a Path,
    pub(crate) segment: SegmentName,
    /// Of its batch.
    pub(crate) offset: u64,
}

impl Place<'_> {
    pub(crate) fn malformed(self, problem: impl Into<String>) -> Error {
        Error::Malformed { file: self.file.to_owned(), offset: self.offset, problem: problem.into() }
    }
}

pub(crate) fn bad_record(place: Place<'_>, bad: BadRecord) -> Error {
    match bad {
        BadRecord::UnknownKind(kind) => {
            Error::UnknownRecord { file: place.file.to_owned(), offset: place.offset, kind }
        }
        BadRecord::Malformed(problem) => place.malformed(problem),
    }
}
