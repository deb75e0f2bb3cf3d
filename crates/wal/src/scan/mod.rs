//! [`Scan`]: reads a log from one end to the other, batch by batch, without the lock and without changing anything.
//!
//! # Beside a running member
//! Who appends does not wait for who reads. While a scan goes on, segments are cut and released, and a released one is
//! renamed and filled with zeros under the hands of a reader that has it open. So what a scan reads is damage only if it
//! is still damage after another look:
//!
//! - The directory is listed again, *after* the bytes were read. Names of segments do not return, so a name that is
//!   still there has belonged to the same file all the time, and a name that is gone was released: the scan goes on with
//!   the first segment that is left, and says so ([`Step::Released`]).
//! - The place is read again, from a new descriptor: what looked half written may have been finished since. A header
//!   behind it proves that it *was* durable only if the place was read after that header.
//! - What is then still not a batch, and nothing says that it was durable, is a write under way if somebody holds the
//!   log's lock: the log ends there ([`End::under_way`]). If nobody does, it is what [`crate::Wal::open`] would make of
//!   it: torn or corrupt.
//!
//! What was returned was checked, and is a prefix of the log from where the scan began, or began again.
//!
//! ```
//! use kvd_vfs::MemDisk;
//! use kvd_wal::scan::{Record, Scan, Step};
//! use kvd_wal::{Options, Wal};
//!
//! # fn main() -> kvd_wal::Result<()> {
//! let disk = MemDisk::new().disk();
//! let dir = std::path::Path::new("/member/wal");
//! let options = Options { segment_bytes: 64 << 10, ..Options::default() };
//! let mut wal = Wal::create(disk.clone(), dir, b"cluster 7, member 1", None, options)?;
//! let mut entry = raft::eraftpb::Entry::default();
//! (entry.index, entry.term) = (1, 1);
//! wal.save(&[entry], None, true)?; // and it stays open
//!
//! let mut scan = Scan::open(disk, dir)?;
//! let mut entries = 0;
//! while let Some(step) = scan.step()? {
//!     if let Step::Batch(batch) = step {
//!         for record in batch.records() {
//!             entries += u64::from(matches!(record?, Record::Entry(_)));
//!         }
//!     }
//! }
//! assert_eq!((entries, scan.end().map(|end| end.closed)), (1, Some(false)));
//! # Ok(())
//! # }
//! ```

mod step;

pub use step::{Batch, End, Record, Released, Step};
pub(crate) use step::{Place, bad_record};

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_vfs::Disk;

use crate::damage::{Finding, Verdict, decide};
use crate::error::{Context, Error, Result};
use crate::names::{self, LOCK, SegmentName, segment_for};
use crate::reader::{Behind, Next, SegmentReader};
use crate::record;
use crate::repair::TornTail;

/// Reads a log, oldest batch first. Memory: a window of a quarter of a mebibyte, and the batch at hand.
#[derive(Debug)]
pub struct Scan {
    disk: Disk,
    dir: PathBuf,
    /// Whether others may change the files: nobody holds the lock for this scan.
    shared: bool,
    /// The segments that have yet to be opened, oldest first.
    ahead: VecDeque<SegmentName>,
    /// Where reading begins in the first of them.
    start: Start,
    current: Option<Current>,
    metadata: Option<Bytes>,
    closed: bool,
    doubt: Option<Doubt>,
    tail: Option<Tail>,
    end: Option<End>,
}

/// A place in a segment, and what is known of what came before.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    offset: u64,
    chain: Option<u32>,
    last_batch: u64,
}

/// The segment that is being read.
#[derive(Debug)]
struct Current {
    reader: SegmentReader,
    /// Where it ends, if another one follows: all of it was durable then. If the head that should say so is damaged, that
    /// is the error once this segment has been read.
    sealed: Option<Result<u64>>,
    last_batch: u64,
}

/// A place that was found not to be good and is looked at again.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    segment: SegmentName,
    offset: u64,
    seen: Seen,
    tries: u32,
}

/// What a place looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// As what was durable must not look.
    Damaged,
    /// As a write that was not finished, while the log was locked or not.
    Unfinished { locked: bool },
}

/// A place that changes as often as that is taken as it was last: a member was started and stopped meanwhile.
const MOST_TRIES: u32 = 8;

/// Where a log's last segment ends.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    pub(crate) segment: SegmentName,
    pub(crate) end: u64,
    /// Where the last batch begins, the one that may not be durable yet.
    pub(crate) last_batch: u64,
    pub(crate) chain: u32,
    pub(crate) file_len: u64,
    pub(crate) torn: Option<TornTail>,
    pub(crate) under_way: Option<Finding>,
    /// Whether the last record is the one that a clean close writes.
    pub(crate) closed: bool,
    pub(crate) metadata: Bytes,
}

/// Whether a process has the log open, at this moment. Takes no lock that would keep one from opening it.
///
/// # Errors
/// [`Error::Io`] if the lock file cannot be read.
pub fn is_open(disk: &Disk, dir: &Path) -> Result<bool> {
    let path = dir.join(LOCK);
    disk.is_locked(&path).context("look at the lock", &path)
}

impl Scan {
    /// Scans all that is there.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is no log; an error of the directory.
    pub fn open(disk: Disk, dir: &Path) -> Result<Scan> {
        let segments = names::segments_in_use(&disk, dir)?;
        Scan::shared(disk, dir, segments)
    }

    /// Scans from the segment on that a log is read from which is opened at a snapshot with this index: the last one that
    /// may hold the entry. What comes before the entry in it is there, too.
    ///
    /// # Errors
    /// As [`Scan::open`]. If the entry has been released, the scan begins with what is left.
    pub fn from_index(disk: Disk, dir: &Path, index: u64) -> Result<Scan> {
        let mut segments = names::segments_in_use(&disk, dir)?;
        segments.drain(..segment_for(&segments, index).unwrap_or(0));
        Scan::shared(disk, dir, segments)
    }

    /// Scans segments that others may be writing, and releasing.
    pub(crate) fn shared(disk: Disk, dir: &Path, segments: Vec<SegmentName>) -> Result<Scan> {
        Scan::new(disk, dir, segments, true)
    }

    /// Scans segments that nobody else touches: the caller holds the lock. They are contiguous, and end with the last.
    pub(crate) fn exclusive(disk: Disk, dir: &Path, segments: Vec<SegmentName>) -> Result<Scan> {
        Scan::new(disk, dir, segments, false)
    }

    fn new(disk: Disk, dir: &Path, segments: Vec<SegmentName>, shared: bool) -> Result<Scan> {
        if segments.is_empty() {
            return Err(Error::Absent { dir: dir.to_owned() });
        }
        Ok(Scan {
            disk,
            dir: dir.to_owned(),
            shared,
            ahead: segments.into(),
            start: Start::default(),
            current: None,
            metadata: None,
            closed: false,
            doubt: None,
            tail: None,
            end: None,
        })
    }

    /// The next batch, or that segments went; `None` at the end of the log, which [`Scan::end`] describes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and everything else that can be wrong with the files. The scan is of no use after one.
    pub fn step(&mut self) -> Result<Option<Step<'_>>> {
        while self.tail.is_none() {
            let advanced = self.advance().and_then(|advanced| match advanced {
                Advance::End(finding, behind) => self.at_the_end(finding, behind),
                other => Ok(other),
            });
            let advanced = match advanced {
                Err(error) if self.shared && may_have_been_released(&error) => self.look_again(error)?,
                other => other?,
            };
            match advanced {
                Advance::Batch { offset } => return Ok(self.batch_at(offset).map(Step::Batch)),
                Advance::Released(released) => return Ok(Some(Step::Released(released))),
                Advance::Again | Advance::End(..) => {}
            }
        }
        Ok(None)
    }

    /// Where the log ends, once [`Scan::step`] has returned `None`.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    pub(crate) fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// Reads on where the scan stands.
    fn advance(&mut self) -> Result<Advance> {
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let current = self.open_next()?;
                self.current.insert(current)
            }
        };
        let offset = current.reader.offset;
        let sealed = current.sealed.as_ref().and_then(|end| end.as_ref().ok()).copied();
        if sealed == Some(offset) {
            self.start = Start { offset: 0, chain: current.reader.chain, last_batch: 0 };
            self.current = None;
            return Ok(Advance::Again);
        }
        if let Some(end) = sealed.filter(|end| offset > *end) {
            return Err(corrupt(&current.reader, Finding::Misplaced, Some(end)));
        }
        match current.reader.next()? {
            Next::Batch => {
                current.last_batch = offset;
                self.check_records(offset)?;
                Ok(Advance::Batch { offset })
            }
            Next::Finding(finding, behind) => match &current.sealed {
                Some(Ok(end)) => Err(corrupt(&current.reader, finding, Some(*end))),
                Some(Err(error)) => Err(error.clone()),
                None => Ok(Advance::End(finding, behind)),
            },
        }
    }

    fn open_next(&mut self) -> Result<Current> {
        let Some(name) = self.ahead.front().copied() else {
            return Err(Error::Absent { dir: self.dir.clone() });
        };
        // In this order: what the link says was durable before the segment is read.
        let sealed = match self.ahead.get(1) {
            Some(next) => match read_link(&self.disk, &self.dir, *next) {
                Err(error @ Error::Corrupt { .. }) => Some(Err(error)),
                other => Some(Ok(other?)),
            },
            None => None,
        };
        let mut reader = SegmentReader::open(&self.disk, &self.dir, name, self.start.chain)?;
        reader.offset = self.start.offset;
        self.ahead.pop_front();
        Ok(Current { reader, sealed, last_batch: self.start.last_batch })
    }

    /// What holds for the records of every batch. The reader stands behind the one that began at the offset.
    fn check_records(&mut self, offset: u64) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let place = Place { file: &current.reader.path, segment: current.reader.name, offset };
        let mut bytes = current.reader.records();
        let mut first = true;
        while let Some(record) = record::next_record(&mut bytes) {
            let record = record.map_err(|bad| bad_record(place, bad))?;
            if (offset == 0 && first) != matches!(record, record::Record::Link { .. }) {
                return Err(
                    place.malformed("a link that is not at the head of a segment, or a head without one")
                );
            }
            first = false;
            self.closed = matches!(record, record::Record::Close);
            if let record::Record::Metadata(metadata) = record {
                match &self.metadata {
                    Some(known) if known != metadata => {
                        return Err(Error::MetadataMismatch { file: place.file.to_owned() });
                    }
                    Some(_) => {}
                    None => self.metadata = Some(Bytes::copy_from_slice(metadata)),
                }
            }
        }
        if self.metadata.is_none() {
            return Err(place.malformed("a segment whose head has no metadata"));
        }
        Ok(())
    }

    fn batch_at(&self, offset: u64) -> Option<Batch<'_>> {
        let reader = &self.current.as_ref()?.reader;
        Some(Batch {
            file: &reader.path,
            sequence: reader.name.seq,
            offset,
            end: reader.offset,
            segment: reader.name,
            records: reader.records(),
        })
    }

    /// There is no batch in the last segment where the next one should begin.
    fn at_the_end(&mut self, finding: Finding, behind: Behind) -> Result<Advance> {
        let Some(current) = &self.current else { return Ok(Advance::Again) };
        // A segment gets its name only when its head is durable.
        let durable = current.reader.offset == 0 || behind.known_durable.is_some();
        let verdict = decide(finding, durable);
        let mut under_way = None;
        if self.shared {
            let (segment, offset) = (current.reader.name, current.reader.offset);
            match self.list_again(segment)? {
                Listed::Released(released) => return Ok(self.skip(released)),
                // Another segment follows by now, and tells where this one ended.
                Listed::There if !self.ahead.is_empty() => return Ok(self.read_again(segment)),
                Listed::There | Listed::Vanished => {}
            }
            if verdict != Verdict::End && !durable {
                let locked = is_open(&self.disk, &self.dir)?;
                if !self.seen_before(segment, offset, Seen::Unfinished { locked }) {
                    return Ok(self.read_again(segment));
                }
                under_way = locked.then_some(finding);
            }
        }
        self.finish(finding, behind, verdict, under_way)?;
        Ok(Advance::Again)
    }

    fn finish(
        &mut self,
        finding: Finding,
        behind: Behind,
        verdict: Verdict,
        under_way: Option<Finding>,
    ) -> Result<()> {
        let Some(Current { reader, last_batch, .. }) = &self.current else { return Ok(()) };
        let torn = match verdict {
            _ if under_way.is_some() => None,
            Verdict::End => None,
            Verdict::Torn => Some(TornTail {
                file: reader.path.clone(),
                offset: reader.offset,
                end: behind.end,
                finding,
                copy: None,
            }),
            Verdict::Corrupt => return Err(corrupt(reader, finding, behind.known_durable)),
        };
        let (Some(chain), Some(metadata)) = (reader.chain, self.metadata.clone()) else {
            let place = Place { file: &reader.path, segment: reader.name, offset: 0 };
            return Err(place.malformed("a segment without metadata"));
        };
        self.end = Some(End {
            file: reader.path.clone(),
            sequence: reader.name.seq,
            offset: reader.offset,
            file_bytes: reader.file_len(),
            torn: torn.clone(),
            under_way,
            closed: self.closed,
        });
        self.tail = Some(Tail {
            segment: reader.name,
            end: reader.offset,
            last_batch: *last_batch,
            chain,
            file_len: reader.file_len(),
            torn,
            under_way,
            closed: self.closed,
            metadata,
        });
        Ok(())
    }

    /// After an error that a release would explain: was it one? If the segment is there, and the place is still not good
    /// when it is read again, the error stands.
    fn look_again(&mut self, error: Error) -> Result<Advance> {
        let (segment, offset) = match (&self.current, self.ahead.front()) {
            (Some(current), _) => (current.reader.name, current.reader.offset),
            (None, Some(next)) => (*next, self.start.offset),
            (None, None) => return Err(error),
        };
        match self.list_again(segment)? {
            Listed::Released(released) => Ok(self.skip(released)),
            Listed::Vanished => Err(error),
            Listed::There if self.seen_before(segment, offset, Seen::Damaged) => Err(error),
            Listed::There => Ok(self.read_again(segment)),
        }
    }

    /// Whether a place looked the same when it was looked at before. Remembers what it looks like.
    fn seen_before(&mut self, segment: SegmentName, offset: u64, seen: Seen) -> bool {
        let before = self.doubt.filter(|doubt| (doubt.segment, doubt.offset) == (segment, offset));
        let tries = before.map_or(0, |doubt| doubt.tries) + 1;
        self.doubt = Some(Doubt { segment, offset, seen, tries });
        tries > MOST_TRIES || before.is_some_and(|doubt| doubt.seen == seen)
    }

    /// Looks which segments follow one, and whether that one is still there.
    fn list_again(&mut self, segment: SegmentName) -> Result<Listed> {
        let mut now = names::segments_in_use(&self.disk, &self.dir)?;
        if let Some(at) = now.iter().position(|name| *name == segment) {
            self.ahead = now.split_off(at + 1).into();
            return Ok(Listed::There);
        }
        // Segments go from the oldest on.
        match now.first() {
            Some(first) if first.seq > segment.seq => {
                let released = Released { from: segment.seq, next: first.seq };
                self.ahead = now.into();
                Ok(Listed::Released(released))
            }
            _ => Ok(Listed::Vanished),
        }
    }

    /// Goes on behind what was released: nothing is known of what came before.
    fn skip(&mut self, released: Released) -> Advance {
        self.start = Start::default();
        (self.current, self.doubt, self.closed) = (None, None, false);
        Advance::Released(released)
    }

    /// Opens the segment anew where the scan stands in it. What follows it has just been listed.
    fn read_again(&mut self, segment: SegmentName) -> Advance {
        if let Some(Current { reader, last_batch, .. }) = self.current.take() {
            self.start = Start { offset: reader.offset, chain: reader.chain, last_batch };
        }
        self.ahead.push_front(segment);
        Advance::Again
    }
}

enum Advance {
    Batch {
        offset: u64,
    },
    Released(Released),
    End(Finding, Behind),
    /// Nothing to return yet; or the end, if there is a tail.
    Again,
}

enum Listed {
    There,
    Released(Released),
    /// Gone although it was not the oldest: nobody who uses the log does that.
    Vanished,
}

/// Whether an error may come of a segment that was released while it was read.
fn may_have_been_released(error: &Error) -> bool {
    match error {
        Error::Corrupt { .. } => true,
        Error::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
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
        Some(Ok(record::Record::Link { previous_end })) => Ok(previous_end),
        Some(Err(bad)) => Err(bad_record(place, bad)),
        _ => Err(place.malformed("a segment whose head has no link")),
    }
}
