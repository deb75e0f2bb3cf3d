//! What opening a long log holds in memory, and how the rest of it is had.

use kvd_vfs::MemDisk;
use kvd_wal::{Error, LogStorage, Options, Replay, SnapshotRecord, Wal};
use raft::eraftpb::{Entry, HardState, SnapshotMetadata};
use raft::{GetEntriesContext, Storage};

use crate::support::*;

fn reopen(disk: &MemDisk, at: SnapshotRecord, replay_bytes: u64) -> (Wal, Replay) {
    Wal::open(disk.disk(), dir(), at, Options { replay_bytes, ..options(4096) }).unwrap()
}

fn recovered(disk: &MemDisk, at: SnapshotRecord, replay_bytes: u64) -> (Wal, LogStorage) {
    let (wal, replay) = reopen(disk, at, replay_bytes);
    let mut metadata = SnapshotMetadata::default();
    (metadata.index, metadata.term) = (at.index, at.term);
    let storage = LogStorage::recovered(metadata, replay, wal.reader());
    (wal, storage)
}

/// What raft is given, part by part, when it applies everything behind an index.
fn apply_all(log: &mut LogStorage, from: u64) -> Vec<Entry> {
    let mut applied = Vec::new();
    let mut index = from;
    while index < log.last_index() {
        log.read_ahead(index).unwrap();
        let high = log.last_index() + 1;
        let part = log.entries(index + 1, high, 1500, GetEntriesContext::empty(false)).unwrap();
        index = part.last().expect("one entry at least").index;
        applied.extend(part);
    }
    applied
}

/// Entries 1 to 60, half of them committed with every save, and a hard state that commits 50 in the end.
fn log(disk: &MemDisk) -> Vec<Entry> {
    let mut wal = create(disk, 4096);
    let all: Vec<Entry> = (1..=60).map(|index| entry(index, 1 + index / 7, 300)).collect();
    for save in all.chunks(4) {
        let (index, term) = (save[0].index, save[0].term);
        wal.save(save, Some(&hard_state(term, 1, index / 2)), true).unwrap();
    }
    wal.save(&[], Some(&hard_state(9, 1, 50)), true).unwrap();
    all
}

#[test]
fn of_what_is_committed_the_newest_stay_in_memory() {
    let disk = MemDisk::new();
    let all = log(&disk);
    let one = (300 + size_of::<Entry>()) as u64;
    for (most, from) in [
        (0, 51),
        (10 * one - 1, 51),
        (10 * one, 51),
        (11 * one - 1, 51),
        (11 * one, 50),
        (60 * one - 1, 2),
        (60 * one, 1),
        (u64::MAX, 1),
    ] {
        let (wal, replay) = reopen(&disk, BEGINNING, most);
        assert_eq!(replay.entries, all[from - 1..], "{most} bytes");
        assert_eq!(wal.last_index(), 60);
    }
}

#[test]
fn what_is_not_in_memory_is_read_when_it_is_to_be_applied() {
    let disk = MemDisk::new();
    let all = log(&disk);
    for most in [0, 5000, u64::MAX] {
        let (_wal, mut storage) = recovered(&disk, BEGINNING, most);
        assert_eq!(storage.is_behind(0), most != u64::MAX);
        for entry in &all {
            assert_eq!(storage.term(entry.index).unwrap(), entry.term);
        }
        assert!(storage.entries(1, 61, None, GetEntriesContext::empty(false)).is_ok() == (most == u64::MAX));
        assert_eq!(apply_all(&mut storage, 0), all);
        assert!(!storage.is_behind(60));
        storage.read_ahead(60).unwrap();
    }
}

#[test]
fn a_log_opened_at_a_snapshot_is_read_from_there() {
    let disk = MemDisk::new();
    let all = log(&disk);
    let at = SnapshotRecord { index: 20, term: 3 };
    let (mut wal, _) = reopen(&disk, BEGINNING, 0);
    wal.save_snapshot(at).unwrap();
    wal.release_to(20).unwrap();
    drop(wal);
    let (_wal, mut storage) = recovered(&disk, at, 0);
    assert_eq!((storage.first_index(), storage.first_in_memory()), (21, 51));
    assert_eq!(apply_all(&mut storage, 20), all[20..]);
    // As much of it as is asked for is kept for others, the parts on disk too.
    let mut metadata = SnapshotMetadata::default();
    (metadata.index, metadata.term) = (45, 7);
    storage.set_snapshot(metadata);
    storage.compact_keeping(45, u64::MAX);
    assert_eq!(storage.first_index(), 21);
    storage.compact_keeping(45, 0);
    assert_eq!(storage.first_index(), 46);
}

#[test]
fn a_tail_that_was_replaced_again_and_again_reads_the_same_with_any_bound() {
    for seed in 1..40u64 {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        let (mut last, mut state, mut random) = (0, HardState::default(), seed);
        for term in 1..40 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = |n: u64, shift: u32| (random >> shift) % n;
            let from = state.commit + 1 + draw(last - state.commit + 1, 20);
            last = from + draw(5, 30);
            state = hard_state(term, 0, state.commit + draw(last - state.commit + 1, 40));
            wal.save(&entries(from..=last, term, 100), Some(&state), true).unwrap();
        }
        drop(wal);
        let (_, whole) = reopen(&disk, BEGINNING, u64::MAX);
        for most in [0, 1000] {
            let (_wal, mut storage) = recovered(&disk, BEGINNING, most);
            assert_eq!(apply_all(&mut storage, 0), whole.entries, "seed {seed}");
        }
    }
}

#[test]
fn what_was_damaged_since_is_an_error_and_no_entry() {
    let disk = MemDisk::new();
    log(&disk);
    let (_wal, mut storage) = recovered(&disk, BEGINNING, 0);
    let path = segments(&disk).remove(0);
    edit(&disk, &path, |bytes| bytes[700] ^= 1);
    let error = storage.read_ahead(0).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, offset: 512, .. } if *file == path), "{error}");
}
