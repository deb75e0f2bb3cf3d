//! Reads a log: every record in order, then what its tail looks like.
//!
//! Nothing here writes. [`crate::Wal::open`] cuts a torn tail afterwards, and makes durable what was read.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_vfs::Disk;
use raft::eraftpb::{Entry, HardState};

use crate::damage::{Finding, Verdict, decide};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::names::{SegmentName, segment_for, segments};
use crate::reader::{Behind, Next, SegmentReader};
use crate::record::{self, BadRecord, EntryDecoder, Record, SnapshotRecord};
use crate::repair::TornTail;
use crate::window::{Outline, Window};

/// Where a log's last segment ends.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: SegmentName,
    pub(crate) end: u64,
    /// Where the last batch begins, the one that may not be durable yet.
    pub(crate) last_batch: u64,
    pub(crate) chain: u32,
    pub(crate) file_len: u64,
    pub(crate) torn: Option<TornTail>,
    /// Whether the last record is the one that a clean close writes.
    pub(crate) closed: bool,
    pub(crate) metadata: Bytes,
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

pub(crate) type Visit<'a> = &'a mut dyn FnMut(Place<'_>, Record<'_>) -> Result<()>;

/// Visits the records of segments, which are contiguous, not none, and end with the log's last.
pub(crate) fn walk(disk: &Disk, dir: &Path, segments: &[SegmentName], visit: Visit<'_>) -> Result<Tail> {
    let mut walk = Walk { chain: None, metadata: None, closed: false, visit };
    for pair in segments.windows(2) {
        let durable = read_link(disk, dir, pair[1])?;
        walk.sealed(SegmentReader::open(disk, dir, pair[0], walk.chain)?, durable)?;
    }
    let Some(last) = segments.last() else {
        return Err(Error::Absent { dir: dir.to_owned() });
    };
    walk.last(SegmentReader::open(disk, dir, *last, walk.chain)?, *last)
}

struct Walk<'a> {
    chain: Option<u32>,
    metadata: Option<Bytes>,
    closed: bool,
    visit: Visit<'a>,
}

impl Walk<'_> {
    /// A segment that another one follows: it was durable up to `durable`, and ended there.
    fn sealed(&mut self, mut reader: SegmentReader, durable: u64) -> Result<()> {
        while reader.offset < durable {
            let offset = reader.offset;
            match reader.next()? {
                Next::Batch => self.batch(&reader, offset)?,
                Next::Finding(finding, _) => return Err(corrupt(&reader, finding, Some(durable))),
            }
        }
        if reader.offset > durable {
            return Err(corrupt(&reader, Finding::Misplaced, Some(durable)));
        }
        self.chain = reader.chain;
        Ok(())
    }

    fn last(&mut self, mut reader: SegmentReader, segment: SegmentName) -> Result<Tail> {
        let mut last_batch = 0;
        let (finding, behind) = loop {
            let offset = reader.offset;
            match reader.next()? {
                Next::Batch => {
                    self.batch(&reader, offset)?;
                    last_batch = offset;
                }
                Next::Finding(finding, behind) => break (finding, behind),
            }
        };
        // A segment gets its name only when its head is durable.
        let head = reader.offset == 0;
        let torn = match decide(finding, head || behind.known_durable.is_some()) {
            Verdict::End => None,
            Verdict::Torn => Some(torn_tail(&reader, finding, behind)),
            Verdict::Corrupt => return Err(corrupt(&reader, finding, behind.known_durable)),
        };
        let (Some(chain), Some(metadata)) = (reader.chain, self.metadata.take()) else {
            let place = Place { file: &reader.path, segment: reader.name, offset: 0 };
            return Err(place.malformed("a segment without metadata"));
        };
        let (end, file_len, closed) = (reader.offset, reader.file_len(), self.closed);
        Ok(Tail { segment, end, last_batch, chain, file_len, torn, closed, metadata })
    }

    fn batch(&mut self, reader: &SegmentReader, offset: u64) -> Result<()> {
        let place = Place { file: &reader.path, segment: reader.name, offset };
        let mut bytes = reader.records();
        let mut first = true;
        while let Some(record) = record::next_record(&mut bytes) {
            let record = record.map_err(|bad| bad_record(place, bad))?;
            if (offset == 0 && first) != matches!(record, Record::Link { .. }) {
                return Err(
                    place.malformed("a link that is not at the head of a segment, or a head without one")
                );
            }
            first = false;
            self.closed = matches!(record, Record::Close);
            if let Record::Metadata(metadata) = record {
                match &self.metadata {
                    Some(known) if known != metadata => {
                        return Err(Error::MetadataMismatch { file: place.file.to_owned() });
                    }
                    Some(_) => {}
                    None => self.metadata = Some(Bytes::copy_from_slice(metadata)),
                }
            }
            (self.visit)(place, record)?;
        }
        if self.metadata.is_none() {
            return Err(place.malformed("a segment whose head has no metadata"));
        }
        Ok(())
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

fn torn_tail(reader: &SegmentReader, finding: Finding, behind: Behind) -> TornTail {
    TornTail { file: reader.path.clone(), offset: reader.offset, end: behind.end, finding, copy: None }
}

pub(crate) fn corrupt(reader: &SegmentReader, finding: Finding, known_durable: Option<u64>) -> Error {
    Error::Corrupt { file: reader.path.clone(), offset: reader.offset, finding, known_durable }
}

/// Where the segment before this one ended, as the head of this one says.
fn read_link(disk: &Disk, dir: &Path, segment: SegmentName) -> Result<u64> {
    let mut reader = SegmentReader::open(disk, dir, segment, None)?;
    if let Next::Finding(finding, behind) = reader.next()? {
        return Err(corrupt(&reader, finding, behind.known_durable));
    }
    let place = Place { file: &reader.path, segment: reader.name, offset: 0 };
    match record::next_record(&mut reader.records()) {
        Some(Ok(Record::Link { previous_end })) => Ok(previous_end),
        Some(Err(bad)) => Err(bad_record(place, bad)),
        _ => Err(place.malformed("a segment whose head has no link")),
    }
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

/// Reads the log from a snapshot on. Of the entries that are committed, the newest ones that take `most` bytes stay in
/// memory.
pub(crate) fn replay(
    disk: &Disk,
    dir: &Path,
    segments: &[SegmentName],
    at: SnapshotRecord,
    most: u64,
) -> Result<(Replay, Tail, Index)> {
    let Some(start) = segment_for(segments, at.index).filter(|_| at.index <= record::MAX_INDEX) else {
        return Err(match segments.is_empty() {
            true => Error::Absent { dir: dir.to_owned() },
            false => not_recorded(dir, at),
        });
    };
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
    let tail = walk(disk, dir, &segments[start..], &mut |place, record| log.visit(place, record))?;
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
    let segments = segments(disk, dir)?;
    let mut index = Index::default();
    let mut decoder = EntryDecoder::default();
    let tail = walk(disk, dir, &segments, &mut |place, record| {
        match record {
            Record::Link { previous_end } => index.next_segment(place.segment, previous_end),
            Record::Entry(body) => {
                let entry = decoder.decode(body).map_err(|e| place.malformed(e))?.index;
                index.batch(place.segment.seq, place.offset, entry, entry);
            }
            _ => {}
        }
        Ok(())
    })?;
    index.durable(tail.end);
    Ok(index)
}

/// The metadata in the head of the last segment.
pub(crate) fn read_metadata(disk: &Disk, dir: &Path) -> Result<Bytes> {
    let segments = segments(disk, dir)?;
    let last = segments.len().saturating_sub(1);
    Ok(walk(disk, dir, &segments[last..], &mut |_, _| Ok(()))?.metadata)
}

/// The snapshots that a log can be opened at, ascending: those it recorded, committed, and still has the segments for.
///
/// Reads only, and needs no lock: a tail that another process is writing counts as the end.
pub fn recorded_snapshots(disk: &Disk, dir: &Path) -> Result<Vec<SnapshotRecord>> {
    let segments = segments(disk, dir)?;
    let mut found = Vec::new();
    let mut commit = 0;
    walk(disk, dir, &segments, &mut |place, record| {
        match record {
            Record::Snapshot(snapshot) => found.push(snapshot),
            Record::HardState(body) => {
                commit = record::decode_hard_state(body).map_err(|e| place.malformed(e))?.commit;
            }
            _ => {}
        }
        Ok(())
    })?;
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
    /// A torn write behind the end, which opening the log would cut.
    pub torn: Option<TornTail>,
    /// Whether the log was closed cleanly, so that nothing about its last write is in doubt.
    pub closed: bool,
}

/// Reads a log from a snapshot on and checks everything that [`crate::Wal::open`] checks, without the lock and without
/// changing anything. If another process appends at the same time, a write that is under way may look torn.
pub fn verify(disk: &Disk, dir: &Path, at: SnapshotRecord) -> Result<Report> {
    let segments = segments(disk, dir)?;
    let (replay, tail, _) = replay(disk, dir, &segments, at, 0)?;
    let last = replay.entries.last();
    Ok(Report {
        metadata: replay.metadata,
        hard_state: replay.hard_state,
        last_index: last.map_or(at.index, |entry| entry.index),
        last_term: last.map_or(at.term, |entry| entry.term),
        segments: segments.len() - segment_for(&segments, at.index).unwrap_or(0),
        tail: tail.segment.path(dir),
        end: tail.end,
        torn: replay.torn,
        closed: tail.closed,
    })
}
