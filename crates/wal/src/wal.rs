//! [`Wal`]: the log, open for appending.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvd_mutation::{Bug, planted};
use kvd_raftpb::codec;
use kvd_vfs::{AlignedBuf, Disk, File, Lock, OpenMode, SECTOR, failpoint};
use raft::eraftpb::{Entry, HardState};

use crate::encoder::Batch;
use crate::error::{Context, Error, Result};
use crate::format::{MAX_BATCH, RECORD_HEAD};
use crate::index::Index;
use crate::log_reader::LogReader;
use crate::names::{self, LOCK, SegmentName, TEMPORARY, segment_for};
use crate::prepare::{self, Preparer};
use crate::record::{self, SnapshotRecord};
use crate::recover::{self, Replay};
use crate::repair;
use crate::room::Room;
use crate::scan::{Scan, Tail};

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The length of a segment in bytes, rounded up to sectors; 64 MiB by default. It may differ from one opening to
    /// the next. A save that does not fit gets a segment of its own length.
    pub segment_bytes: u64,
    /// Whether a thread prepares the next segment ahead of need (the default). Without it, the append that needs one
    /// prepares it: slower there, but everything happens on the caller's thread, in an order that a simulator repeats.
    pub prepare_ahead: bool,
    /// Opening a log reads all of it, and returns the entries that are not committed and, of those that are, the newest
    /// ones that take this many bytes in memory. All of them by default. What a [`crate::LogStorage`] lacks it reads
    /// when it is wanted, so that with a bound here no part of the log's life takes memory by the length of the log.
    pub replay_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: 64 << 20, prepare_ahead: true, replay_bytes: u64::MAX }
    }
}

/// What raft wants written at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Save<'a> {
    /// A snapshot that is on disk, durably: recorded before the rest. See [`Wal::save_snapshot`].
    pub snapshot: Option<SnapshotRecord>,
    /// Entries, contiguous; the first at most one behind the log's last.
    pub entries: &'a [Entry],
    /// The hard state, if it changed.
    pub hard_state: Option<&'a HardState>,
    /// Whether this must be durable before the call returns. Entries, terms and votes always are.
    pub must_sync: bool,
}

/// A write-ahead log, open for appending. Dropping it releases the lock; [`Wal::close`] also marks a clean end.
#[derive(Debug)]
pub struct Wal {
    disk: Disk,
    dir: PathBuf,
    metadata: Vec<u8>,
    /// Before the lock, so that its thread ends first.
    preparer: Preparer,
    segments: VecDeque<SegmentName>,
    tail: Segment,
    /// The checksum of the last header.
    chain: u32,
    batch: Batch,
    /// The last one given, written or not.
    hard_state: HardState,
    /// The hard state has yet to be written: it changed in nothing that must be synced.
    unwritten: bool,
    last_index: u64,
    /// The hard state and the last index that are on disk: what the head of the next segment may say.
    written: (HardState, u64),
    appended: u64,
    /// Where entries lie, for readers.
    index: Arc<Mutex<Index>>,
    /// The first and the last entry in the batch.
    staged: Option<(u64, u64)>,
    stopped: Option<Arc<Error>>,
    _lock: Box<dyn Lock>,
}

/// The segment that is appended to.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    seq: u64,
    file: Box<dyn File>,
    /// The bytes that it was prepared with.
    len: u64,
    /// Where the next batch begins. Everything below is durable.
    offset: u64,
}

impl Wal {
    /// Makes a log that begins with metadata (whose directory this is) and, if given, a snapshot and the hard state
    /// that commits it. Either all of it is there afterwards or nothing: it is built in `DIR.tmp` and renamed.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] unless the directory is absent or empty; [`Error::Io`].
    pub fn create(
        disk: Disk,
        dir: &Path,
        metadata: &[u8],
        initial: Option<(SnapshotRecord, HardState)>,
        options: Options,
    ) -> Result<Wal> {
        if disk.exists(dir).context("look for", dir)? && !disk.list(dir).context("list", dir)?.is_empty() {
            return Err(Error::AlreadyExists { dir: dir.to_owned() });
        }
        check_len(metadata.len())?;
        let mut name = dir.file_name().map_or_else(OsString::new, OsString::from);
        name.push(TEMPORARY);
        let temporary = dir.with_file_name(name);
        let wal = Wal::create_in(&disk, &temporary, dir, metadata, initial, &options);
        if wal.is_err() {
            // The first error is the one to report; what remains is removed by the next attempt.
            let _ = disk.remove_dir_all(&temporary);
        }
        wal
    }

    fn create_in(
        disk: &Disk,
        temporary: &Path,
        dir: &Path,
        metadata: &[u8],
        initial: Option<(SnapshotRecord, HardState)>,
        options: &Options,
    ) -> Result<Wal> {
        if disk.exists(temporary).context("look for", temporary)? {
            disk.remove_dir_all(temporary).context("remove", temporary)?;
        }
        disk.create_dir_all(temporary).context("create", temporary)?;
        let lock = lock(disk, temporary)?;
        let (snapshot, hard_state) = initial.unwrap_or_default();
        let mut batch = Batch::default();
        push_head(&mut batch, 0, metadata);
        batch.push(record::SNAPSHOT, &record::encode_snapshot(snapshot));
        batch.push_hard_state(&hard_state);

        let segment = SegmentName { seq: 0, first_index: 0 };
        let segment_bytes = whole_sectors(options.segment_bytes);
        let len = segment_bytes.max(batch.sealed_len());
        let path = segment.path(temporary);
        prepare::fill(disk, &path, len, &AtomicBool::new(false))?;
        let mut file = disk.open(&path, OpenMode::Log).context("open", &path)?;
        let offset = batch.sealed_len();
        let (bytes, chain) = batch.seal(segment.seq, 0, 0, 0);
        failpoint!("wal-create-before-write");
        file.write_durable_at(bytes, 0).context("write", &path)?;
        batch.clear();
        disk.sync_dir(temporary).context("sync", temporary)?;
        failpoint!("wal-create-before-rename");
        disk.rename(temporary, dir).context("rename", temporary)?;
        failpoint!("wal-create-after-rename");
        sync_parent(disk, dir)?;
        failpoint!("wal-create-after-sync");

        let preparer = Preparer::new(disk.clone(), dir.to_owned(), segment_bytes, options.prepare_ahead)?;
        let mut index = Index::default();
        index.segment(segment, offset);
        Ok(Wal {
            disk: disk.clone(),
            dir: dir.to_owned(),
            metadata: metadata.to_vec(),
            preparer,
            segments: VecDeque::from([segment]),
            tail: Segment { path: segment.path(dir), seq: segment.seq, file, len, offset },
            chain,
            batch,
            hard_state: hard_state.clone(),
            unwritten: false,
            last_index: snapshot.index,
            written: (hard_state, snapshot.index),
            appended: offset,
            index: Arc::new(Mutex::new(index)),
            staged: None,
            stopped: None,
            _lock: lock,
        })
    }

    /// Whether a directory holds a log.
    pub fn exists(disk: &Disk, dir: &Path) -> Result<bool> {
        if !disk.exists(dir).context("look for", dir)? {
            return Ok(false);
        }
        let names = disk.list(dir).context("list", dir)?;
        Ok(names.iter().any(|name| SegmentName::parse(name).is_some()))
    }

    /// What [`Wal::create`] was given: whose directory this is. Reads only, and needs no lock.
    pub fn read_metadata(disk: &Disk, dir: &Path) -> Result<Bytes> {
        recover::read_metadata(disk, dir)
    }

    /// See [`crate::recorded_snapshots`].
    pub fn recorded_snapshots(disk: &Disk, dir: &Path) -> Result<Vec<SnapshotRecord>> {
        recover::recorded_snapshots(disk, dir)
    }

    /// Locks a log, reads what it holds behind a snapshot that it recorded (the default one for the beginning), cuts
    /// a torn tail, and goes on where it ends. Everything returned is durable, also what a process that was killed had
    /// written and not synced.
    ///
    /// # Errors
    /// [`Error::Locked`] while somebody else has it open; [`Error::Absent`]; everything that can be wrong with the
    /// files. Nothing was changed then.
    pub fn open(disk: Disk, dir: &Path, at: SnapshotRecord, options: Options) -> Result<(Wal, Replay)> {
        if !Wal::exists(&disk, dir)? {
            return Err(Error::Absent { dir: dir.to_owned() });
        }
        let lock = lock(&disk, dir)?;
        let segments = names::segments(&disk, dir)?;
        let scan = Scan::exclusive(disk.clone(), dir, recover::segments_from(dir, &segments, at)?)?;
        let (mut replay, tail, index) = recover::replay(scan, dir, at, options.replay_bytes)?;
        repair::remove_temporary(&disk, dir)?;
        if let Some(torn) = &mut replay.torn {
            repair::cut(&disk, dir, tail.segment, torn)?;
        }
        let tail_segment = reopen(&disk, dir, &tail)?;
        let segment_bytes = whole_sectors(options.segment_bytes);
        let preparer = Preparer::new(disk.clone(), dir.to_owned(), segment_bytes, options.prepare_ahead)?;
        let last_index = replay.entries.last().map_or(at.index, |entry| entry.index);
        let wal = Wal {
            disk,
            dir: dir.to_owned(),
            metadata: replay.metadata.to_vec(),
            preparer,
            segments: segments.into(),
            tail: tail_segment,
            chain: tail.chain,
            batch: Batch::default(),
            hard_state: replay.hard_state.clone(),
            unwritten: false,
            last_index,
            written: (replay.hard_state.clone(), last_index),
            appended: 0,
            index: Arc::new(Mutex::new(index)),
            staged: None,
            stopped: None,
            _lock: lock,
        };
        Ok((wal, replay))
    }

    /// Appends entries and the hard state in one durable write: after a crash all of it is there or nothing.
    ///
    /// Nothing to save writes nothing. Without entries, and with a term and vote that are known already, `must_sync =
    /// false` only remembers the hard state (the commit index): it travels with the next write, snapshot or close.
    ///
    /// # Errors
    /// [`Error::TooLarge`] writes nothing. After any other, the log is stopped and every later call says so; what was
    /// saved may or may not be there when the log is opened again.
    ///
    /// # Panics
    /// If the entries leave a gap, or go beyond index 2^63: raft's do not.
    pub fn save(&mut self, entries: &[Entry], hard_state: Option<&HardState>, must_sync: bool) -> Result<()> {
        self.save_group(&[Save { snapshot: None, entries, hard_state, must_sync }])
    }

    /// Appends several saves, in order, in one durable write: after a crash all of it is there or nothing. As
    /// [`Wal::save`] for each of them; entries that a later save of the group replaces are not written.
    pub fn save_group(&mut self, saves: &[Save<'_>]) -> Result<()> {
        self.running()?;
        let mut total = 0u64;
        let mut must_write = false;
        for save in saves {
            for entry in save.entries {
                total += (RECORD_HEAD + codec::entry_len(entry)) as u64;
            }
            let known =
                |state: &HardState| (state.term, state.vote) == (self.hard_state.term, self.hard_state.vote);
            must_write |= !save.entries.is_empty()
                || save.snapshot.is_some()
                || save.hard_state.is_some_and(|state| !known(state))
                || (save.must_sync
                    && (self.unwritten || save.hard_state.is_some_and(|s| *s != self.hard_state)));
        }
        if total > MAX_BATCH as u64 {
            return Err(Error::TooLarge { len: total, limit: MAX_BATCH as u64 });
        }
        for (save, later) in saves.iter().zip(1..) {
            let replaced =
                saves[later..].iter().filter_map(|save| save.entries.first()).map(|entry| entry.index);
            self.stage(save, replaced.min().unwrap_or(u64::MAX));
        }
        if must_write { self.flush() } else { Ok(()) }
    }

    /// Records that a snapshot is on disk, after its file is, durably. A hard state that waits goes with it, before
    /// it. The record counts once the log holds a hard state that commits its index.
    pub fn save_snapshot(&mut self, snapshot: SnapshotRecord) -> Result<()> {
        self.save_group(&[Save { snapshot: Some(snapshot), ..Save::default() }])
    }

    /// Makes everything that was saved durable: writes a hard state that waits.
    pub fn sync(&mut self) -> Result<()> {
        self.running()?;
        self.stage_hard_state();
        self.flush()
    }

    /// Deletes or recycles the segments that are not needed to open the log at a snapshot at `index`: those that hold
    /// only entries below it. The last one stays.
    pub fn release_to(&mut self, index: u64) -> Result<()> {
        self.running()?;
        let index = index + if planted(Bug::ReleasedTooFar) { 100 } else { 0 };
        let keep_from = segment_for(self.segments.make_contiguous(), index).unwrap_or(0);
        if let Some(first) = self.segments.get(keep_from) {
            // Before the files go: a reader that misses one finds here that it was released.
            lock_index(&self.index).release_before(first.seq);
        }
        for _ in 0..keep_from {
            let Some(segment) = self.segments.pop_front() else { break };
            let path = segment.path(&self.dir);
            // One by one, oldest first: whatever a crash leaves has no gap.
            let released = self.preparer.release(&path, segment.seq);
            self.stop_on_error(released)?;
        }
        Ok(())
    }

    /// Writes what waits and a closing record, which makes the end of everything before it known, and releases the
    /// lock.
    pub fn close(mut self) -> Result<()> {
        self.running()?;
        self.stage_hard_state();
        self.batch.push(record::CLOSE, &[]);
        self.flush()
    }

    /// A reader of the entries that are durable, while this goes on appending.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.disk.clone(), self.dir.clone(), self.index.clone())
    }

    /// Whether the disk has room for the next segment. With [`Options::prepare_ahead`], a save that needs a segment for
    /// which there is none waits until there is, or [`Room::give_up`] is called; without, it fails.
    pub fn room(&self) -> Room {
        self.preparer.room().clone()
    }

    /// Bytes appended since the log was opened.
    pub fn log_bytes(&self) -> u64 {
        self.appended
    }

    /// How many segments the log has.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The index of the last entry, or of the last snapshot if it is higher.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    fn running(&self) -> Result<()> {
        match &self.stopped {
            Some(cause) => Err(Error::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn stop_on_error<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.stopped = Some(Arc::new(error.clone()));
        }
        result
    }

    /// Puts a save's records into the batch: snapshot, entries below `replaced`, hard state.
    fn stage(&mut self, save: &Save<'_>, replaced: u64) {
        if let Some(snapshot) = save.snapshot {
            self.stage_hard_state();
            self.batch.push(record::SNAPSHOT, &record::encode_snapshot(snapshot));
            self.last_index = self.last_index.max(snapshot.index);
        }
        for entry in save.entries.iter().take_while(|entry| entry.index < replaced) {
            assert!(
                entry.index > 0 && entry.index <= (self.last_index + 1).min(record::MAX_INDEX),
                "entry {} saved to a log that ends at {}",
                entry.index,
                self.last_index
            );
            self.batch.push_entry(entry);
            self.last_index = entry.index;
            self.staged = Some((self.staged.map_or(entry.index, |(first, _)| first), entry.index));
        }
        if let Some(state) = save.hard_state
            && *state != self.hard_state
        {
            self.hard_state = state.clone();
            self.unwritten = true;
            if planted(Bug::VoteForgotten) {
                self.hard_state.vote = 0;
            }
        }
        if !save.entries.is_empty() {
            self.stage_hard_state();
        }
    }

    fn stage_hard_state(&mut self) {
        if self.unwritten {
            self.batch.push_hard_state(&self.hard_state);
            self.unwritten = false;
        }
    }

    /// Writes the batch, with the hard state if that waits; nothing if there is nothing.
    fn flush(&mut self) -> Result<()> {
        self.stage_hard_state();
        if self.batch.is_empty() {
            return Ok(());
        }
        let written = self.write_batch();
        self.stop_on_error(written)?;
        self.batch.clear();
        self.written = (self.hard_state.clone(), self.last_index);
        Ok(())
    }

    fn write_batch(&mut self) -> Result<()> {
        let len = self.batch.sealed_len();
        if self.tail.offset + len > self.tail.len {
            self.cut(len)?;
        }
        let Segment { path, seq, file, offset, .. } = &mut self.tail;
        // One write is under way at a time, so everything before this one is durable.
        let (bytes, chain) = self.batch.seal(*seq, *offset, *offset, self.chain);
        failpoint!("wal-before-append");
        let written = match planted(Bug::SyncSkipped) {
            false => file.write_durable_at(bytes, *offset).context("append to", path),
            true => file.write_all_at(bytes, *offset).context("append to", path),
        };
        if !planted(Bug::FailedSyncIgnored) {
            written?;
        }
        failpoint!("wal-after-append");
        *offset += len;
        self.chain = chain;
        self.appended += len;
        let mut index = lock_index(&self.index);
        if let Some((first, last)) = self.staged.take() {
            index.batch(*seq, *offset - len, first, last);
        }
        index.durable(*offset);
        Ok(())
    }

    /// Goes on in a new segment that has room for a batch of that length behind its head.
    fn cut(&mut self, batch_len: u64) -> Result<()> {
        let mut head = Batch::default();
        push_head(&mut head, self.tail.offset, &self.metadata);
        head.push_hard_state(&self.written.0);
        let head_len = head.sealed_len();
        let prepared = self.preparer.take(head_len + batch_len)?;
        let name = SegmentName { seq: self.tail.seq + 1, first_index: self.written.1 + 1 };
        let path = name.path(&self.dir);

        let mut file = self.disk.open(&prepared.path, OpenMode::Log).context("open", &prepared.path)?;
        let (bytes, chain) = head.seal(name.seq, 0, 0, self.chain);
        failpoint!("wal-cut-before-head");
        file.write_durable_at(bytes, 0).context("write", &prepared.path)?;
        failpoint!("wal-cut-before-rename");
        self.disk.rename(&prepared.path, &path).context("rename", &prepared.path)?;
        failpoint!("wal-cut-after-rename");
        if !planted(Bug::CutNotSynced) {
            self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        }
        failpoint!("wal-cut-after-sync");

        self.segments.push_back(name);
        lock_index(&self.index).segment(name, head_len);
        self.tail = Segment { path, seq: name.seq, file, len: prepared.len, offset: head_len };
        self.chain = chain;
        self.appended += head_len;
        Ok(())
    }
}

/// Nothing panics half-way through a change of the index.
pub(crate) fn lock_index(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The head of a segment: a link to the one before, which ended at an offset, and whose log this is.
fn push_head(batch: &mut Batch, previous_end: u64, metadata: &[u8]) {
    batch.push(record::LINK, &previous_end.to_le_bytes());
    batch.push(record::METADATA, metadata);
}

/// Opens the last segment for appending, and makes what was read from it durable, and its name: the process that wrote
/// it may have been killed before it synced. The last batch is written again, since a sync may also have *failed*: then
/// it can be read, yet no further sync would write it.
fn reopen(disk: &Disk, dir: &Path, tail: &Tail) -> Result<Segment> {
    let path = tail.segment.path(dir);
    let mut file = disk.open(&path, OpenMode::Log).context("open", &path)?;
    let mut last = AlignedBuf::new();
    last.resize((tail.end - tail.last_batch) as usize);
    file.read_exact_at(last.as_mut_slice(), tail.last_batch).context("read", &path)?;
    failpoint!("wal-open-before-rewrite");
    if !planted(Bug::ReplayNotSynced) {
        file.write_durable_at(last.as_slice(), tail.last_batch).context("write", &path)?;
        failpoint!("wal-open-after-rewrite");
        file.sync_data().context("sync", &path)?;
        disk.sync_dir(dir).context("sync", dir)?;
        sync_parent(disk, dir)?;
    }
    let len = tail.file_len - tail.file_len % SECTOR as u64;
    Ok(Segment { path, seq: tail.segment.seq, file, len, offset: tail.end })
}

fn lock(disk: &Disk, dir: &Path) -> Result<Box<dyn Lock>> {
    let path = dir.join(LOCK);
    match disk.lock(&path) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Error::Locked { path }),
        other => other.context("lock", &path),
    }
}

fn sync_parent(disk: &Disk, dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(Path::new(""));
    disk.sync_dir(parent).context("sync", parent)
}

fn whole_sectors(bytes: u64) -> u64 {
    bytes.max(SECTOR as u64).next_multiple_of(SECTOR as u64)
}

fn check_len(len: usize) -> Result<usize> {
    if len > MAX_BATCH {
        return Err(Error::TooLarge { len: len as u64, limit: MAX_BATCH as u64 });
    }
    Ok(len)
}
