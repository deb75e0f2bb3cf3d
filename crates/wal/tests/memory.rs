//! Memory does not grow with the log: measured, for a log of 8 MiB and one of 64.
//!
//! The one test of this binary: the allocator counts for the whole process.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::path::Path;
use std::sync::Arc;

use kvd_vfs::{Disk, RealDisk};
use kvd_wal::{LogStorage, Options, SnapshotRecord, Wal};
use peak_alloc::PeakAlloc;
use raft::eraftpb::{Entry, HardState, SnapshotMetadata};
use raft::{GetEntriesContext, Storage as _};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const ENTRY: u64 = 4 << 10;
const CACHE: u64 = 1 << 20;
/// What goes beyond the cache: what is read back, at most seven times an eighth of it; windows and buffers of some
/// hundred KiB; the places and terms of the entries, which are few bytes for many of them.
const BOUND: u64 = CACHE + CACHE * 7 / 8 + (2 << 20);

fn options() -> Options {
    Options { segment_bytes: 4 << 20, prepare_ahead: false, replay_bytes: CACHE }
}

/// The most memory that `work` takes, beyond what was taken before.
fn peak<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    (ALLOCATOR.peak_usage().saturating_sub(before) as u64, result)
}

/// Writes a log of that many entries, all committed, as a member does that applies what it writes.
fn write(disk: &Disk, dir: &Path, entries: u64) {
    let mut wal = Wal::create(disk.clone(), dir, b"member 1", None, options()).unwrap();
    let mut storage = LogStorage::new(SnapshotMetadata::default(), HardState::default(), Vec::new());
    storage.set_cache_bytes(CACHE);
    for first in (1..=entries).step_by(64) {
        let batch: Vec<Entry> = (first..(first + 64).min(entries + 1))
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, 1 + index / 100);
                entry.data = vec![index as u8; ENTRY as usize].into();
                entry
            })
            .collect();
        let last = batch.last().unwrap().clone();
        let mut state = HardState::default();
        (state.term, state.commit) = (last.term, last.index);
        wal.save(&batch, Some(&state), true).unwrap();
        storage.append(&batch);
        storage.evict(last.index);
    }
}

/// A follower behind by the whole log: everything is read back for it, in parts. Returns how many entries it got.
fn send_everything(wal: &Wal, storage: &mut LogStorage) -> u64 {
    let mut reader = wal.reader();
    let mut next = 1;
    while next <= wal.last_index() {
        let high = wal.last_index() + 1;
        match storage.entries(next, high, CACHE / 8, GetEntriesContext::empty(true)) {
            Ok(entries) => {
                for entry in entries {
                    assert_eq!((entry.index, entry.data[0]), (next, next as u8));
                    next += 1;
                }
            }
            Err(raft::Error::Store(raft::StorageError::LogTemporarilyUnavailable)) => {
                let fetch = storage.next_fetch().unwrap();
                let answer = reader.read(fetch.low, fetch.high, fetch.max_bytes).unwrap();
                storage.fetched(fetch, answer).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    next - 1
}

#[test]
fn a_follower_that_is_far_behind_costs_no_more_than_the_cache() {
    let mut peaks = Vec::new();
    for mebibytes in [8_u64, 64] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("wal");
        // Without O_DIRECT: the time goes into what is measured, and the disk is not.
        let disk: Disk = Arc::new(RealDisk::buffered());
        let entries = (mebibytes << 20) / ENTRY;
        let (writing, ()) = peak(|| write(&disk, &dir, entries));
        let (opening, (wal, mut storage)) = peak(|| {
            let (wal, replay) = Wal::open(disk.clone(), &dir, SnapshotRecord::default(), options()).unwrap();
            let mut storage = LogStorage::recovered(SnapshotMetadata::default(), replay, wal.reader());
            storage.set_cache_bytes(CACHE);
            (wal, storage)
        });
        let (sending, sent) = peak(|| send_everything(&wal, &mut storage));
        assert_eq!(sent, entries);
        for (what, taken) in [("writing", writing), ("opening", opening), ("sending", sending)] {
            assert!(taken <= BOUND, "{what} {mebibytes} MiB of log took {taken} bytes of memory");
        }
        peaks.push([writing, opening, sending]);
    }
    for (short, long) in peaks[0].into_iter().zip(peaks[1]) {
        assert!(long <= short + (512 << 10), "eight times the log takes more memory: {peaks:?}");
    }
}
