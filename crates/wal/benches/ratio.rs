//! Measures the log against a bare loop of write and sync into an identically prepared file, in alternating rounds.
//!
//! ```text
//! cargo bench -p kvd-wal --bench ratio
//! ```
//! It works in a new directory under `KVD_BENCH_DIR`, or the current one: on the disk to be measured.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_vfs::{AlignedBuf, Disk, OpenMode, RealDisk, Vfs};
use kvd_wal::{Options, Wal};
use raft::eraftpb::Entry;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 7;
const WRITES: usize = 1000;

fn entries(from: u64, count: u64) -> Vec<Entry> {
    let entry = |index| {
        let mut entry = Entry::default();
        (entry.index, entry.term, entry.data) = (index, 1, vec![7; 256].into());
        entry
    };
    (from..from + count).map(entry).collect()
}

/// The median time of one write of `len` bytes, straight to the disk.
fn bare(disk: &RealDisk, path: &Path, len: usize) -> Outcome<Duration> {
    let mut file = disk.open(path, OpenMode::Truncate)?;
    file.write_all_at(&vec![0; WRITES * len], 0)?;
    file.sync_data()?;
    let mut file = disk.open(path, OpenMode::Log)?;
    let mut buf = AlignedBuf::new();
    buf.extend_from_slice(&vec![7; len]);
    let mut times = Vec::new();
    for i in 0..WRITES {
        let start = Instant::now();
        file.write_durable_at(buf.as_slice(), (i * len) as u64)?;
        times.push(start.elapsed());
    }
    Ok(median(times))
}

/// The median time of one save of `count` entries of 256 bytes.
fn saves(disk: Disk, dir: &Path, count: u64) -> Outcome<Duration> {
    if disk.exists(dir)? {
        disk.remove_dir_all(dir)?;
    }
    // No thread that fills the next segment beside: the bare loop has none either.
    let options = Options { prepare_ahead: false, ..Options::default() };
    let mut wal = Wal::create(disk, dir, b"measure", None, options)?;
    let mut times = Vec::new();
    for i in 0..WRITES as u64 {
        let entries = entries(1 + i * count, count);
        let start = Instant::now();
        wal.save(&entries, None, true)?;
        times.push(start.elapsed());
    }
    wal.close()?;
    Ok(median(times))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() -> Outcome<()> {
    let home = tempfile::tempdir_in(std::env::var_os("KVD_BENCH_DIR").unwrap_or_else(|| ".".into()))?;
    let home = home.path();
    for (name, disk) in [("O_DIRECT|O_DSYNC", RealDisk::new()), ("write + fdatasync", RealDisk::buffered())] {
        for (count, len) in [(1, 512), (64, 18 << 10)] {
            let mut ratios = Vec::new();
            for _ in 0..ROUNDS {
                let bare = bare(&disk, &home.join("measure-bare"), len)?;
                let saved = saves(Arc::new(disk.clone()), &home.join("measure-wal"), count)?;
                ratios.push((saved.as_secs_f64() / bare.as_secs_f64(), saved, bare));
            }
            ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (ratio, saved, bare) = ratios[ROUNDS / 2];
            println!(
                "{name}: save of {count} x 256 bytes {saved:?}, bare {len} bytes {bare:?}, ratio {ratio:.2}"
            );
        }
    }
    Ok(())
}
