//! How fast a log is written, opened and read back.
//!
//! ```text
//! cargo bench -p kvd-wal --bench log
//! ```
//! Works in a new directory under `KVD_BENCH_DIR`, or the current one. What is opened and read lies in the page cache.
#![allow(clippy::unwrap_used)] // a benchmark fails by panicking

use std::path::Path;
use std::sync::{Arc, LazyLock};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kvd_vfs::{Disk, OpenMode, RealDisk};
use kvd_wal::{LogReader, Options, ReadBack, SnapshotRecord, Wal};
use raft::eraftpb::{Entry, HardState};
use tempfile::TempDir;

/// Payload of an entry, in bytes.
const PAYLOAD: usize = 256;

fn disk() -> Disk {
    Arc::new(RealDisk::new())
}

fn home() -> TempDir {
    tempfile::tempdir_in(std::env::var_os("KVD_BENCH_DIR").unwrap_or_else(|| ".".into())).unwrap()
}

fn entries(from: u64, count: u64) -> Vec<Entry> {
    let entry = |index| {
        let mut entry = Entry::default();
        (entry.index, entry.term, entry.data) = (index, 1, vec![7; PAYLOAD].into());
        entry
    };
    (from..from + count).map(entry).collect()
}

/// One durable save of so many entries.
#[divan::bench(args = [1, 64, 1024])]
fn save(bencher: Bencher<'_, '_>, count: u64) {
    let home = home();
    let mut wal = Wal::create(disk(), &home.path().join("wal"), b"bench", None, Options::default()).unwrap();
    let mut next = 1;
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(|| {
            next += count;
            entries(next - count, count)
        })
        .bench_local_values(|entries| wal.save(&entries, None, true).unwrap());
}

/// A log of a gibibyte, everything in it committed, and its last index.
struct Large {
    home: TempDir,
    last: u64,
}

static LARGE: LazyLock<Large> = LazyLock::new(|| {
    let home = home();
    let dir = home.path().join("wal");
    let mut wal = Wal::create(disk(), &dir, b"bench", None, Options::default()).unwrap();
    while wal.log_bytes() < 1 << 30 {
        let next = wal.last_index() + 1;
        let mut state = HardState::default();
        (state.term, state.commit) = (1, next - 1);
        wal.save(&entries(next, 4096), Some(&state), true).unwrap();
    }
    let last = wal.last_index();
    wal.close().unwrap();
    warm(&dir);
    Large { home, last }
});

/// Reads every file once.
fn warm(dir: &Path) {
    let disk = disk();
    let mut buf = vec![0; 1 << 20];
    for name in disk.list(dir).unwrap() {
        let file = disk.open(&dir.join(name), OpenMode::Read).unwrap();
        let mut at = 0;
        while let n @ 1.. = file.read_at(&mut buf, at).unwrap() {
            at += n as u64;
        }
    }
}

/// Opens a log of a gibibyte, with all entries in memory afterwards or as kvd does it.
#[divan::bench(args = [u64::MAX, 32 << 20], sample_count = 5, sample_size = 1)]
fn open_a_gibibyte(bencher: Bencher<'_, '_>, replay_bytes: u64) {
    let dir = LARGE.home.path().join("wal");
    let options = Options { replay_bytes, prepare_ahead: false, ..Options::default() };
    bencher
        .counter(BytesCount::new(1u64 << 30))
        .bench_local(|| Wal::open(disk(), &dir, SnapshotRecord::default(), options.clone()).unwrap());
}

/// Reads all entries of a log of a gibibyte back, 4 MiB at a time.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn read_back_a_gibibyte(bencher: Bencher<'_, '_>) {
    let dir = LARGE.home.path().join("wal");
    let reader = LogReader::open(disk(), &dir).unwrap();
    bencher.counter(BytesCount::new(1u64 << 30)).with_inputs(|| reader.clone()).bench_local_values(
        |mut reader| {
            let mut next = 1;
            while next <= LARGE.last {
                match reader.read(next, LARGE.last + 1, 4 << 20).unwrap() {
                    ReadBack::Entries(entries) => next = entries.last().unwrap().index + 1,
                    ReadBack::Gone { .. } => panic!("nothing was released"),
                }
            }
        },
    );
}

fn main() {
    divan::main();
    // Statics are not dropped.
    if let Some(large) = LazyLock::get(&LARGE) {
        let _ = std::fs::remove_dir_all(large.home.path());
    }
}
