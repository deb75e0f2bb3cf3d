//! Entries read back from the segments while the log goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvd_vfs::{MemDisk, Op, RealDisk, Vfs as _};
use kvd_wal::damage::Finding;
use kvd_wal::{Error, LogReader, Options, ReadBack, Save, SnapshotRecord, Wal};
use raft::eraftpb::Entry;

use crate::support::*;

fn read(reader: &mut LogReader, low: u64, high: u64, max_bytes: u64) -> Vec<Entry> {
    match reader.read(low, high, max_bytes).unwrap() {
        ReadBack::Entries(entries) => entries,
        ReadBack::Gone { first_index } => panic!("gone up to {first_index}"),
    }
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

/// Entries 1 to `last` of 300 bytes, in saves of one to five, in segments of 4 KiB.
fn log(disk: &MemDisk, last: u64) -> (Wal, Vec<Entry>) {
    let mut wal = create(disk, 4096);
    let all = entries(1..=last, 1, 300);
    let mut rest = all.as_slice();
    for len in (1..=5).cycle() {
        let (save, left) = rest.split_at(rest.len().min(len));
        wal.save(save, None, true).unwrap();
        rest = left;
        if rest.is_empty() {
            break;
        }
    }
    (wal, all)
}

#[test]
fn every_range_of_several_segments_is_read_as_it_was_written() {
    let disk = MemDisk::new();
    let (wal, all) = log(&disk, 60);
    assert!(wal.segments() > 4);
    let check = |mut reader: LogReader| {
        for low in 1..=60 {
            for high in low..=61 {
                let want = &all[low as usize - 1..high as usize - 1];
                assert_eq!(read(&mut reader, low, high, u64::MAX), want, "{low}..{high}");
            }
        }
        assert_eq!(read(&mut reader, 61, 62, 100), [], "beyond the end");
        assert_eq!(read(&mut reader, 58, 99, u64::MAX), all[57..]);
    };
    check(wal.reader());
    check(wal.reader().clone());
    wal.close().unwrap();
    check(LogReader::open(disk.disk(), dir()).unwrap());
    let (wal, _) = open(&disk);
    check(wal.reader());
}

#[test]
fn a_read_stops_at_the_bytes_but_never_before_the_first() {
    let disk = MemDisk::new();
    let (wal, all) = log(&disk, 60);
    let mut reader = wal.reader();
    for (max, count) in [(0, 1), (339, 1), (340, 1), (679, 1), (680, 2), (681, 2), (3400, 10)] {
        // In order, which reads on from where the last one stopped, and backwards, which does not.
        let mut low = 1;
        while low <= 60 {
            let got = read(&mut reader, low, 61, max);
            assert_eq!(got, all[low as usize - 1..(low as usize - 1 + count).min(60)], "{low}, {max} bytes");
            low += got.len() as u64;
        }
        for low in (1..=60).rev() {
            assert_eq!(read(&mut reader, low, 61, max)[0].index, low);
        }
    }
}

#[test]
fn the_last_entry_of_an_index_is_read() {
    let disk = MemDisk::new();
    let (mut wal, mut all) = log(&disk, 40);
    let mut reader = wal.reader();
    assert_eq!(read(&mut reader, 24, 30, u64::MAX).len(), 6);
    // In another segment, twice, and once within one group of saves.
    for (from, to, term) in [(30, 50, 2), (25, 28, 3), (29, 31, 3), (28, 40, 4)] {
        let new = entries(from..=to, term, 200 + term as usize);
        wal.save(&new, None, true).unwrap();
        all.truncate(from as usize - 1);
        all.extend(new);
        let last = all.len() as u64;
        for low in 1..=last {
            let want = &all[low as usize - 1..];
            assert_eq!(read(&mut reader, low, last + 1, u64::MAX), want, "from {low} in term {term}");
            assert_eq!(read(&mut wal.reader(), low, last + 1, 600)[0], want[0]);
        }
        assert_eq!(read(&mut reader, last + 1, 99, 1000), []);
    }
    let (first, second, third) =
        (entries(41..=45, 4, 100), entries(43..=44, 5, 100), entries(44..=46, 6, 100));
    let save = |entries| Save { entries, must_sync: true, ..Save::default() };
    wal.save_group(&[save(&first), save(&second), save(&third)]).unwrap();
    all.extend([&first[..2], &second[..1], &third].concat());
    assert_eq!(read(&mut reader, 30, 99, u64::MAX), all[29..]);
    drop(wal);
    let (wal, replay) = open(&disk);
    assert_eq!(replay.entries, all);
    assert_eq!(read(&mut wal.reader(), 1, 99, u64::MAX), all);
}

#[test]
fn a_snapshot_of_the_leader_leaves_a_gap() {
    let disk = MemDisk::new();
    let (mut wal, all) = log(&disk, 20);
    wal.save_snapshot(snapshot(100, 2)).unwrap();
    let new = entries(101..=105, 2, 300);
    wal.save(&new, Some(&hard_state(2, 0, 101)), true).unwrap();
    let check = |mut reader: LogReader| {
        assert_eq!(read(&mut reader, 15, 103, u64::MAX), all[14..]);
        assert_eq!(read(&mut reader, 50, 103, u64::MAX), []);
        assert_eq!(read(&mut reader, 101, 200, u64::MAX), new);
    };
    check(wal.reader());
    wal.close().unwrap();
    check(LogReader::open(disk.disk(), dir()).unwrap());
}

#[test]
fn released_segments_are_gone_and_one_that_is_open_is_read_to_its_end() {
    let disk = MemDisk::new();
    let (mut wal, _) = log(&disk, 60);
    let mut reader = wal.reader();
    let in_the_middle = read(&mut reader, 1, 61, 1).len() as u64 + 1;
    wal.release_to(50).unwrap();
    let ReadBack::Gone { first_index } = reader.read(in_the_middle, 61, u64::MAX).unwrap() else {
        panic!("it was released")
    };
    assert!((40..=50).contains(&first_index), "{first_index}");
    assert_eq!(reader.read(first_index - 1, 61, 1).unwrap(), ReadBack::Gone { first_index });
    assert_eq!(
        indexes(&read(&mut reader, first_index, 61, u64::MAX)),
        (first_index..=60).collect::<Vec<_>>()
    );
    reader.rest();
    assert_eq!(read(&mut reader, 60, 61, 0).len(), 1);
}

#[test]
fn nothing_is_read_that_is_not_durable() {
    let disk = MemDisk::new();
    let (mut wal, _) = log(&disk, 10);
    let mut reader = wal.reader();
    assert_eq!(read(&mut reader, 8, 20, u64::MAX).len(), 3);
    disk.fail_nth(Op::Sync, 1, MemDisk::EIO);
    assert!(wal.save(&entries(11..=12, 1, 300), None, true).is_err());
    assert_eq!(read(&mut reader, 8, 20, u64::MAX).len(), 3, "what failed is not there");
}

#[test]
fn damage_is_reported_with_its_place_and_never_read() {
    let disk = MemDisk::new();
    let (wal, all) = log(&disk, 60);
    let paths = segments(&disk);
    for (sealed, path) in paths.iter().enumerate() {
        let good = disk.read_file(path).unwrap();
        let end = data_end(&good);
        for offset in (0..end).step_by(512) {
            for (bit, zeroed) in [(100, false), (511 * 8, false), (0, true)] {
                edit(&disk, path, |bytes| match zeroed {
                    true => bytes[offset..offset + 512].fill(0),
                    false => bytes[offset + bit / 8] ^= 1 << (bit % 8),
                });
                let mut reader = wal.reader();
                // The head of a segment holds no entries, and nobody looks there.
                match reader.read(1, 61, u64::MAX) {
                    Ok(ReadBack::Entries(entries)) => {
                        assert!(offset < 512, "segment {sealed}, {offset}");
                        assert_eq!(entries, all);
                    }
                    Ok(ReadBack::Gone { .. }) => panic!("it was not released"),
                    Err(Error::Corrupt { file, offset: at, known_durable, .. }) => {
                        assert_eq!(&file, path);
                        assert!(at <= offset as u64 && Some(offset as u64) < known_durable);
                    }
                    Err(error) => panic!("{error}"),
                }
                edit(&disk, path, |bytes| bytes.copy_from_slice(&good));
            }
        }
        let cut = good[..good.len() / 1024 * 512].to_vec();
        disk.overwrite_file(path, cut).unwrap();
        let error = wal.reader().read(1, 61, u64::MAX).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { finding: Finding::Zeros | Finding::Incomplete, .. }),
            "{error}"
        );
        disk.overwrite_file(path, good).unwrap();
    }
    assert_eq!(read(&mut wal.reader(), 1, 61, u64::MAX), all);
    kvd_vfs::Vfs::remove_file(&disk, &paths[1]).unwrap();
    let error = wal.reader().read(1, 61, u64::MAX).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == paths[1]), "{error}");
}

#[test]
fn a_reader_follows_a_log_that_is_written_and_released() {
    let home = tempfile::tempdir().unwrap();
    for disk in [Arc::new(RealDisk::new()), Arc::new(RealDisk::buffered())] {
        let dir = home.path().join("wal");
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        let mut wal = Wal::create(disk.clone(), &dir, METADATA, None, options).unwrap();
        let last = 3000;
        let durable = AtomicU64::new(0);
        let mut reader = wal.reader();
        std::thread::scope(|scope| {
            let durable = &durable;
            scope.spawn(move || {
                for index in 1..=last {
                    wal.save(&[entry(index, index / 100, 100 + index as usize % 900)], None, true).unwrap();
                    durable.store(index, Ordering::Release);
                    if index % 1000 == 0 {
                        wal.save_snapshot(SnapshotRecord { index, term: index / 100 }).unwrap();
                        wal.release_to(index - 300).unwrap();
                    }
                }
            });
            let mut next = 1;
            while next <= last {
                let high = durable.load(Ordering::Acquire) + 1;
                match reader.read(next, high, 10_000).unwrap() {
                    ReadBack::Entries(entries) => {
                        for found in entries {
                            assert_eq!(found, entry(next, next / 100, 100 + next as usize % 900));
                            next += 1;
                        }
                    }
                    ReadBack::Gone { first_index } => {
                        assert!(first_index > next && first_index <= last - 300);
                        next = first_index;
                    }
                }
            }
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_segment_that_was_recycled_under_a_reader_is_gone_and_no_corruption() {
    let disk = MemDisk::new();
    let (mut wal, _) = log(&disk, 60);
    let mut reader = wal.reader();
    let next = read(&mut reader, 1, 61, 1).len() as u64 + 1;
    wal.release_to(50).unwrap();
    // Until the file that the reader has open was filled with zeros, and written again.
    let mut last = 60;
    while disk.list(dir()).unwrap().iter().any(|name| name.starts_with("released-")) {
        last += 1;
        wal.save(&[entry(last, 1, 300)], None, true).unwrap();
    }
    for _ in 0..30 {
        last += 1;
        wal.save(&[entry(last, 1, 300)], None, true).unwrap();
    }
    let ReadBack::Gone { first_index } = reader.read(next, last + 1, u64::MAX).unwrap() else {
        panic!("it was released")
    };
    assert_eq!(read(&mut reader, first_index, last + 1, u64::MAX).last(), Some(&entry(last, 1, 300)));
}
