//! What the records of a log come to: replayed at a snapshot, as an index of its entries, as a list of its snapshots.
//!
//! Nothing here writes. [`crate::Wal::open`] cuts a torn tail afterwards, and makes durable what was read.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_vfs::Disk;
use raft::eraftpb::{Entry, HardState};

use crate::damage::Finding;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::names::{SegmentName, segment_for, segments_in_use};
use crate::record::{self, EntryDecoder, Record, SnapshotRecord};
use crate::repair::TornTail;
use crate::scan::{Place, Scan, Step, Tail};
use crate::window::{Outline, Window};

/// Visits the records of a scan in order. Says if segments were released meanwhile: what was visited before them has a
/// gap behind it.
fn walk(mut scan: Scan, dir: &Path, visit: &mut dyn FnMut(Visited<'_>) -> Result<()>) -> Result<Tail> {
    while let Some(step) = scan.step()? {
        match step {
            Step::Batch(batch) => {
                for record in batch.raw() {
                    visit(Visited::Record(batch.place(), record?))?;
                }
            }
            Step::Released(_) => visit(Visited::Gap)?,
        }
    }
    scan.tail().cloned().ok_or_else(|| Error::Absent { dir: dir.to_owned() })
}

enum Visited<'a> {
    Record(Place<'a>, Record<'a>),
    /// Segments went: begin again.
    Gap,
}

/// What a log holds behind a snapshot.
#[derive(Debug, Clone)]
pub struct Replay {
    /// What [`crate::Wal::create`] was given.
    pub metadata: Bytes,
    /// The last hard state.
    pub hard_state: HardState,
    /// The entries behind the snapshot, contiguous: the newest of them if [`crate::Options::replay_bytes`] bounds them.
    pub entries: Vec<Entry>,
    /// The torn write that was cut, if there was one. Worth a line in the operator's log.
    pub torn: Option<TornTail>,
    /// The snapshot.
    pub(crate) at: SnapshotRecord,
    /// What is known of the entries between the snapshot and `entries`.
    pub(crate) outline: Outline,
}

/// The segments from which a log is read that is opened at a snapshot.
pub(crate) fn segments_from(
    dir: &Path,
    segments: &[SegmentName],
    at: SnapshotRecord,
) -> Result<Vec<SegmentName>> {
    match segment_for(segments, at.index).filter(|_| at.index <= record::MAX_INDEX) {
        Some(start) => Ok(segments[start..].to_vec()),
        None if segments.is_empty() => Err(Error::Absent { dir: dir.to_owned() }),
        None => Err(not_recorded(dir, at)),
    }
}

/// Reads the log from a snapshot on: a scan of [`segments_from`] it. Of the entries that are committed, the newest ones
/// that take `most` bytes stay in memory.
pub(crate) fn replay(scan: Scan, dir: &Path, at: SnapshotRecord, most: u64) -> Result<(Replay, Tail, Index)> {
    let mut log = Log {
        at,
        most,
        decoder: EntryDecoder::default(),
        hard_state: HardState::default(),
        entries: Window::behind(at.index),
        boundary: None,
        found: false,
        index: Index::default(),
    };
    let tail = walk(scan, dir, &mut |visited| match visited {
        Visited::Record(place, record) => log.visit(place, record),
        Visited::Gap => Err(Error::Released { dir: dir.to_owned(), index: at.index }),
    })?;
    if !log.found {
        return Err(not_recorded(dir, at));
    }
    let commit = log.hard_state.commit;
    if commit < at.index {
        return Err(Error::SnapshotNotCommitted { dir: dir.to_owned(), index: at.index, commit });
    }
    let last = log.entries.last();
    if commit > last {
        return Err(Error::CommitBeyondLog { dir: dir.to_owned(), commit, last });
    }
    let (metadata, torn) = (tail.metadata.clone(), tail.torn.clone());
    log.index.durable(tail.end);
    let (entries, outline) = log.entries.into_parts();
    let replay = Replay { metadata, hard_state: log.hard_state, entries, torn, at, outline };
    Ok((replay, tail, log.index))
}

fn not_recorded(dir: &Path, at: SnapshotRecord) -> Error {
    Error::SnapshotNotRecorded { dir: dir.to_owned(), index: at.index, term: at.term }
}

/// The log behind a snapshot, as its records make it.
///
/// Entries only ever replace the tail of what is there, whether they stand above the snapshot or below. The record of
/// the snapshot itself clears the log unless the log holds its last entry: then the leader sent the snapshot, because
/// this log had gone another way, and what was there is void.
struct Log {
    at: SnapshotRecord,
    most: u64,
    decoder: EntryDecoder,
    hard_state: HardState,
    entries: Window,
    /// The term of the entry at the snapshot's index, while the log holds one.
    boundary: Option<u64>,
    found: bool,
    /// Where the entries lie.
    index: Index,
}

impl Log {
    fn visit(&mut self, place: Place<'_>, record: Record<'_>) -> Result<()> {
        match record {
            Record::Entry(body) => {
                let entry = self.decoder.decode(body).map_err(|e| place.malformed(e))?;
                self.entry(place, entry)
            }
            Record::HardState(body) => {
                self.hard_state = record::decode_hard_state(body).map_err(|e| place.malformed(e))?;
                // Others may yet be replaced.
                self.entries.evict(self.hard_state.commit, self.most);
                Ok(())
            }
            Record::Snapshot(snapshot) => {
                if snapshot == self.at {
                    if self.boundary != Some(snapshot.term) {
                        self.entries.clear(self.at.index);
                    }
                    self.boundary = Some(snapshot.term);
                    self.found = true;
                }
                Ok(())
            }
            Record::Link { previous_end } => {
                self.index.next_segment(place.segment, previous_end);
                Ok(())
            }
            Record::Metadata(_) | Record::Close => Ok(()),
        }
    }

    fn entry(&mut self, place: Place<'_>, entry: Entry) -> Result<()> {
        self.index.batch(place.segment.seq, place.offset, entry.index, entry.index);
        if entry.index <= self.at.index {
            self.entries.clear(self.at.index);
            self.boundary = (entry.index == self.at.index).then_some(entry.term);
            return Ok(());
        }
        let expected = self.entries.last() + 1;
        if entry.index > expected {
            let (file, offset) = (place.file.to_owned(), place.offset);
            return Err(Error::IndexGap { file, offset, expected, found: entry.index });
        }
        if entry.index < expected {
            self.entries.truncate(entry.index);
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// Where the entries of a whole log lie.
pub(crate) fn index(disk: &Disk, dir: &Path) -> Result<Index> {
    let mut index = Index::default();
    let mut decoder = EntryDecoder::default();
    let tail = walk(Scan::open(disk.clone(), dir)?, dir, &mut |visited| {
        match visited {
            Visited::Record(place, Record::Link { previous_end }) => {
                index.next_segment(place.segment, previous_end);
            }
            Visited::Record(place, Record::Entry(body)) => {
                let entry = decoder.decode(body).map_err(|e| place.malformed(e))?.index;
                index.batch(place.segment.seq, place.offset, entry, entry);
            }
            Visited::Record(..) => {}
            Visited::Gap => index = Index::default(),
        }
        Ok(())
    })?;
    index.durable(tail.end);
    Ok(index)
}

/// The metadata in the head of the last segment.
pub(crate) fn read_metadata(disk: &Disk, dir: &Path) -> Result<Bytes> {
    let scan = Scan::from_index(disk.clone(), dir, u64::MAX)?;
    Ok(walk(scan, dir, &mut |_| Ok(()))?.metadata)
}

/// The snapshots that a log can be opened at, ascending: those it recorded, committed, and still has the segments for.
///
/// Reads only, needs no lock, and may be called beside the process that has the log open; see [`crate::scan`].
pub fn recorded_snapshots(disk: &Disk, dir: &Path) -> Result<Vec<SnapshotRecord>> {
    let mut found = Vec::new();
    let mut commit = 0;
    walk(Scan::open(disk.clone(), dir)?, dir, &mut |visited| {
        match visited {
            Visited::Record(_, Record::Snapshot(snapshot)) => found.push(snapshot),
            Visited::Record(place, Record::HardState(body)) => {
                commit = record::decode_hard_state(body).map_err(|e| place.malformed(e))?.commit;
            }
            Visited::Record(..) => {}
            Visited::Gap => found.clear(),
        }
        Ok(())
    })?;
    let segments = segments_in_use(disk, dir)?;
    found.retain(|snapshot| snapshot.index <= commit && segment_for(&segments, snapshot.index).is_some());
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What [`verify`] saw.
#[derive(Debug, Clone)]
pub struct Report {
    /// What [`crate::Wal::create`] was given.
    pub metadata: Bytes,
    /// The last hard state.
    pub hard_state: HardState,
    /// The index of the last entry, or of the snapshot if none follows it.
    pub last_index: u64,
    /// The term of that entry.
    pub last_term: u64,
    /// How many segments were read.
    pub segments: usize,
    /// The last segment.
    pub tail: PathBuf,
    /// Where the log ends in it, in bytes.
    pub end: u64,
    /// A torn write behind the end, which opening the log would cut. Nobody has the log open.
    pub torn: Option<TornTail>,
    /// A write that whoever has the log open has not ended yet; see [`crate::scan::End::under_way`].
    pub under_way: Option<Finding>,
    /// Whether the log was closed cleanly, so that nothing about its last write is in doubt.
    pub closed: bool,
}

/// Reads a log from a snapshot on and checks everything that [`crate::Wal::open`] checks, without the lock and without
/// changing anything.
///
/// May be called beside the process that has the log open: what that process is writing, and releases meanwhile, is no
/// damage; see [`crate::scan`].
///
/// # Errors
/// As [`crate::Wal::open`], but never [`Error::Locked`]. [`Error::Released`] if the log went on, while it was read, to
/// where it cannot be opened at this snapshot any more: ask [`recorded_snapshots`] again.
pub fn verify(disk: &Disk, dir: &Path, at: SnapshotRecord) -> Result<Report> {
    let segments = segments_from(dir, &segments_in_use(disk, dir)?, at)?;
    let count = segments.len();
    let (replay, tail, _) = replay(Scan::shared(disk.clone(), dir, segments)?, dir, at, 0)?;
    let last = replay.entries.last();
    Ok(Report {
        metadata: replay.metadata,
        hard_state: replay.hard_state,
        last_index: last.map_or(at.index, |entry| entry.index),
        last_term: last.map_or(at.term, |entry| entry.term),
        segments: count,
        tail: tail.segment.path(dir),
        end: tail.end,
        torn: replay.torn,
        under_way: tail.under_way,
        closed: tail.closed,
    })
}
