//! A log on a simulated disk, and short names for what goes into it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_vfs::MemDisk;
use kvd_wal::{Options, Replay, Result, SnapshotRecord, Wal};
use raft::eraftpb::{Entry, HardState};

pub(crate) const DIR: &str = "/m/wal";
pub(crate) const METADATA: &[u8] = b"cluster 7, member 1";
pub(crate) const BEGINNING: SnapshotRecord = SnapshotRecord { index: 0, term: 0 };

pub(crate) fn dir() -> &'static Path {
    Path::new(DIR)
}

pub(crate) fn options(segment_bytes: u64) -> Options {
    Options { segment_bytes, prepare_ahead: false, ..Options::default() }
}

pub(crate) fn entry(index: u64, term: u64, len: usize) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    // Telling and not zero, so that a lost or swapped sector is seen.
    entry.data =
        Bytes::from((0..len).map(|i| (i as u64 * 7 + index * 31 + term) as u8 | 1).collect::<Vec<u8>>());
    entry
}

pub(crate) fn entries(range: std::ops::RangeInclusive<u64>, term: u64, len: usize) -> Vec<Entry> {
    range.map(|index| entry(index, term, len)).collect()
}

pub(crate) fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

pub(crate) fn snapshot(index: u64, term: u64) -> SnapshotRecord {
    SnapshotRecord { index, term }
}

pub(crate) fn create(disk: &MemDisk, segment_bytes: u64) -> Wal {
    Wal::create(disk.disk(), dir(), METADATA, None, options(segment_bytes)).unwrap()
}

pub(crate) fn try_open_at(disk: &MemDisk, at: SnapshotRecord) -> Result<(Wal, Replay)> {
    Wal::open(disk.disk(), dir(), at, options(4096))
}

pub(crate) fn try_open(disk: &MemDisk) -> Result<(Wal, Replay)> {
    try_open_at(disk, BEGINNING)
}

pub(crate) fn open(disk: &MemDisk) -> (Wal, Replay) {
    try_open(disk).unwrap()
}

/// The paths of the segments, ascending.
pub(crate) fn segments(disk: &MemDisk) -> Vec<PathBuf> {
    let names = disk.disk().list(dir()).unwrap();
    names.into_iter().filter(|name| name.ends_with(".wal")).map(|name| dir().join(name)).collect()
}

pub(crate) fn read(disk: &MemDisk, path: &Path) -> Vec<u8> {
    disk.read_file(path).unwrap()
}

/// Changes a file's bytes, durably.
pub(crate) fn edit(disk: &MemDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = read(disk, path);
    change(&mut bytes);
    disk.overwrite_file(path, bytes).unwrap();
}

/// Where the data of a segment ends: behind the last sector that is not all zeros.
pub(crate) fn data_end(bytes: &[u8]) -> usize {
    bytes.chunks(512).rposition(|sector| sector.iter().any(|b| *b != 0)).map_or(0, |i| (i + 1) * 512)
}
