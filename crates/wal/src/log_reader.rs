//! [`LogReader`]: entries read back from the segments, while the log's owner appends.
//!
//! It reads what is durable and nothing behind it, from sealed segments and from the one that is appended to. Of an
//! index that was overwritten it reads the last entry. Every batch that it passes is checked as it is when a log is
//! opened: damage is [`Error::Corrupt`], for nothing that is durable may be torn.
//!
//! Memory: one window of a mebibyte, the batch at hand, and what is returned. It remembers where it stopped, so that
//! reading on from there opens nothing and reads nothing twice; [`LogReader::rest`] forgets it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kvd_vfs::Disk;
use raft::eraftpb::Entry;

use crate::error::{Error, Result};
use crate::index::{Index, Lookup, Stretch};
use crate::names;
use crate::reader::{Next, SegmentReader};
use crate::record::{self, EntryDecoder, Record};
use crate::recover;
use crate::scan::{self, Place};
use crate::storage::message_share;
use crate::wal::lock_index;

/// What [`LogReader::read`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadBack {
    /// Entries, contiguous, the first one asked for in front. Empty if the log does not hold that one (any more): it
    /// was overwritten by a shorter log, or never written.
    Entries(Vec<Entry>),
    /// The segment of the first entry was released.
    Gone {
        /// The first entry that the log still has, or will have.
        first_index: u64,
    },
}

/// Reads entries back. Independent of the [`crate::Wal`] that writes them, and of other readers; [`Clone`] gives another
/// one, and each goes to a thread of its own.
#[derive(Debug)]
pub struct LogReader {
    disk: Disk,
    dir: PathBuf,
    index: Arc<Mutex<Index>>,
    /// Whether the log's owner, in this process, keeps the index up to date. Else only the directory says what went.
    live: bool,
    decoder: EntryDecoder,
    cursor: Option<Cursor>,
}

impl Clone for LogReader {
    fn clone(&self) -> Self {
        LogReader {
            live: self.live,
            ..LogReader::new(self.disk.clone(), self.dir.clone(), self.index.clone())
        }
    }
}

impl LogReader {
    pub(crate) fn new(disk: Disk, dir: PathBuf, index: Arc<Mutex<Index>>) -> LogReader {
        LogReader { disk, dir, index, live: true, decoder: EntryDecoder::default(), cursor: None }
    }

    /// A reader of a log that nobody writes, or of what it held at this moment. Checks all of it. What another process
    /// releases afterwards is [`ReadBack::Gone`].
    ///
    /// # Errors
    /// As [`crate::verify`].
    pub fn open(disk: Disk, dir: &Path) -> Result<LogReader> {
        let index = recover::index(&disk, dir)?;
        let index = Arc::new(Mutex::new(index));
        Ok(LogReader { live: false, ..LogReader::new(disk, dir.to_owned(), index) })
    }

    /// Reads the entries from `low` up to, and without, `high`: as many as fit into `max_bytes` of messages, but one at
    /// least.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Malformed`] and [`Error::IndexGap`] name the file and the offset. The log itself is
    /// not stopped by them: that is for the caller to decide.
    pub fn read(&mut self, low: u64, high: u64, max_bytes: u64) -> Result<ReadBack> {
        let mut taken = Taken { entries: Vec::new(), next: low, left: max_bytes, full: false };
        while taken.next < high && !taken.full {
            let looked_up = lock_index(&self.index).look_up(taken.next);
            let stretch = match looked_up {
                Lookup::Here(stretch) => stretch,
                Lookup::Gone(first_index) if taken.entries.is_empty() => {
                    return Ok(ReadBack::Gone { first_index });
                }
                Lookup::Gone(_) | Lookup::Absent => break,
            };
            let there = self.cursor.take().filter(|cursor| cursor.stands_at(taken.next, &stretch));
            let mut cursor = match there {
                Some(cursor) => cursor,
                None => match Cursor::open(&self.disk, &self.dir, &stretch) {
                    Ok(cursor) => cursor,
                    // Released between the look into the index and the opening: look again.
                    Err(error) if is_absent(&error) && !self.is_still(taken.next, &stretch)? => continue,
                    Err(error) => return Err(error),
                },
            };
            match cursor.take(&mut taken, high.min(stretch.until), &stretch, &mut self.decoder) {
                Ok(()) => self.cursor = Some(cursor),
                // Released meanwhile, and recycled: what was taken was checked before.
                Err(_) if !self.is_still(taken.next, &stretch)? => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ReadBack::Entries(taken.entries))
    }

    /// Closes the file that is open for reading on. An open one keeps the space of a segment that was released.
    pub fn rest(&mut self) {
        self.cursor = None;
        self.decoder = EntryDecoder::default();
    }

    /// Whether a stretch that was looked up before still holds the entry: its segment was not released.
    fn is_still(&self, index: u64, stretch: &Stretch) -> Result<bool> {
        if !self.live
            && let Some(oldest) = names::segments_in_use(&self.disk, &self.dir)?.first()
        {
            lock_index(&self.index).release_before(oldest.seq);
        }
        Ok(match lock_index(&self.index).look_up(index) {
            Lookup::Here(now) => now.segment == stretch.segment,
            Lookup::Gone(_) | Lookup::Absent => false,
        })
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// What a read has so far.
struct Taken {
    entries: Vec<Entry>,
    /// The index that follows.
    next: u64,
    /// Bytes that may still be taken.
    left: u64,
    /// The next entry is one too many.
    full: bool,
}

/// A place in a segment, between two entries.
#[derive(Debug)]
struct Cursor {
    reader: SegmentReader,
    /// The offset of the batch whose records are in the reader.
    batch: u64,
    /// The first record of it that was not passed, in record bytes.
    at: usize,
    /// The index that follows here.
    next: u64,
}

impl Cursor {
    fn open(disk: &Disk, dir: &Path, stretch: &Stretch) -> Result<Cursor> {
        let mut reader = SegmentReader::open(disk, dir, stretch.segment, None)?;
        reader.offset = stretch.offset;
        Ok(Cursor { reader, batch: stretch.offset, at: 0, next: 0 })
    }

    /// Whether reading on from here gives the entry of an index that lies in a stretch. An overwrite would have begun a
    /// stretch behind this place.
    fn stands_at(&self, index: u64, stretch: &Stretch) -> bool {
        self.next == index && self.reader.name == stretch.segment && self.batch >= stretch.offset
    }

    /// Takes entries up to, and without, `until`, or until they are enough.
    fn take(
        &mut self,
        taken: &mut Taken,
        until: u64,
        stretch: &Stretch,
        decoder: &mut EntryDecoder,
    ) -> Result<()> {
        self.reader.set_end(stretch.end);
        while taken.next < until && !taken.full {
            if self.at == self.reader.records().len() {
                self.next_batch(stretch.end, taken.next)?;
            }
            self.take_record(taken, decoder)?;
        }
        self.next = taken.next;
        Ok(())
    }

    fn next_batch(&mut self, end: u64, wanted: u64) -> Result<()> {
        self.batch = self.reader.offset;
        self.at = 0;
        if self.batch >= end {
            return Err(self.place().malformed(format!("entry {wanted} is not where it was written")));
        }
        match self.reader.next()? {
            Next::Batch => Ok(()),
            Next::Finding(finding, _) => Err(scan::corrupt(&self.reader, finding, Some(end))),
        }
    }

    fn take_record(&mut self, taken: &mut Taken, decoder: &mut EntryDecoder) -> Result<()> {
        let mut rest = &self.reader.records()[self.at..];
        let before = rest.len();
        let Some(record) = record::next_record(&mut rest) else { return Ok(()) };
        let record = record.map_err(|bad| scan::bad_record(self.place(), bad))?;
        let passed = before - rest.len();
        if let Record::Entry(body) = record {
            let entry = decoder.decode(body).map_err(|problem| self.place().malformed(problem))?;
            if entry.index > taken.next || (entry.index < taken.next && !taken.entries.is_empty()) {
                let (file, offset) = (self.reader.path.clone(), self.batch);
                return Err(Error::IndexGap { file, offset, expected: taken.next, found: entry.index });
            }
            if entry.index == taken.next {
                let share = message_share(&entry);
                if share > taken.left && !taken.entries.is_empty() {
                    taken.full = true;
                    return Ok(());
                }
                taken.left = taken.left.saturating_sub(share);
                taken.entries.push(entry);
                taken.next += 1;
            }
        }
        self.at += passed;
        Ok(())
    }

    fn place(&self) -> Place<'_> {
        Place { file: &self.reader.path, segment: self.reader.name, offset: self.batch }
    }
}
