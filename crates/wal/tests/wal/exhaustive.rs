//! Every single-bit flip and every truncation of a log of 64 KiB. Takes a minute or two, so it is a stage of its own:
//! `.ci/run damage`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kvd_vfs::MemDisk;
use kvd_wal::{Error, Report, verify};

use crate::support::*;

const SEGMENT: usize = 16 << 10;
const SEGMENTS: usize = 4;

/// Four segments of 16 KiB with entries of many lengths. The same bytes each time. Its last index.
fn log() -> (MemDisk, u64) {
    let disk = MemDisk::new();
    let mut wal = create(&disk, SEGMENT as u64);
    let mut last = 0;
    while wal.segments() < SEGMENTS || wal.log_bytes() < (SEGMENT * SEGMENTS - 4096) as u64 {
        last += 1;
        let len = [9, 700, 40, 2900, 1][last as usize % 5];
        wal.save(&[entry(last, 1, len)], Some(&hard_state(1, 1, last - 1)), true).unwrap();
    }
    assert_eq!(wal.segments(), SEGMENTS);
    (disk, last)
}

/// Runs `check` for every number below `count`, each thread on a disk of its own.
fn in_parallel(count: usize, check: impl Fn(&MemDisk, u64, usize) + Sync) {
    const STEP: usize = 1024;
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (disk, last) = log();
                loop {
                    let from = next.fetch_add(STEP, Ordering::Relaxed);
                    if from >= count {
                        return;
                    }
                    (from..count.min(from + STEP)).for_each(|n| check(&disk, last, n));
                }
            });
        }
    });
}

/// Looks at the log with one segment changed, and mends it.
fn with(disk: &MemDisk, segment: usize, change: impl FnOnce(&mut Vec<u8>)) -> Result<Report, Error> {
    let path = segments(disk).remove(segment);
    let good = read(disk, &path);
    let mut bytes = good.clone();
    change(&mut bytes);
    disk.overwrite_file(&path, bytes).unwrap();
    let looked = verify(&disk.disk(), dir(), BEGINNING);
    disk.overwrite_file(&path, good).unwrap();
    looked
}

fn ends() -> Vec<usize> {
    let (disk, _) = log();
    segments(&disk).iter().map(|path| data_end(&read(&disk, path))).collect()
}

#[test]
#[ignore = "a stage of its own: .ci/run damage"]
fn every_flipped_bit_of_a_64_kib_log_is_refused_or_harmless() {
    let ends = ends();
    in_parallel(SEGMENTS * SEGMENT * 8, |disk, last, bit| {
        let (segment, at) = (bit / 8 / SEGMENT, bit / 8 % SEGMENT);
        // Behind the data lie zeros; of the last segment, the sector where the next batch would begin counts too.
        let counts = at < ends[segment] + if segment == SEGMENTS - 1 { 512 } else { 0 };
        match with(disk, segment, |bytes| bytes[at] ^= 1 << (bit % 8)) {
            Ok(report) => assert!(!counts && report.last_index == last, "bit {bit}"),
            Err(Error::Corrupt { file, .. }) => {
                // The head of a segment also speaks of the one before.
                let own = segments(disk).into_iter().position(|path| path == file);
                assert!(counts && own.is_some_and(|own| own == segment || own + 1 == segment), "bit {bit}");
            }
            Err(other) => panic!("bit {bit}: {other}"),
        }
    });
}

#[test]
#[ignore = "a stage of its own: .ci/run damage"]
fn every_truncation_of_a_64_kib_log_is_refused_or_cuts_what_was_written_last() {
    let ends = ends();
    let head = 512;
    in_parallel(SEGMENTS * SEGMENT, |disk, last, cut| {
        let (segment, len) = (cut / SEGMENT, cut % SEGMENT);
        let looked = with(disk, segment, |bytes| bytes.truncate(len));
        let whole = len >= ends[segment];
        match looked {
            Ok(report) if whole => {
                assert_eq!((report.last_index, report.torn), (last, None), "{segment}, {len}")
            }
            // A crash may take the last write alone; nobody can tell it from a file that lost its end.
            Ok(report) => {
                assert!(segment == SEGMENTS - 1 && len >= head, "{segment}, {len}: lost without a word");
                assert!(report.last_index < last && report.end <= len as u64, "{segment}, {len}");
            }
            Err(Error::Corrupt { .. }) => {
                assert!(!whole && (segment < SEGMENTS - 1 || len < head), "{segment}, {len}");
            }
            Err(other) => panic!("{segment}, {len}: {other}"),
        }
    });
}
