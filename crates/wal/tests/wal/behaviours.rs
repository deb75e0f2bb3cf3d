//! The behaviours that etcd's own tests ask of its log, asked of this one.

use kvd_vfs::{MemDisk, Op, OpenMode, RealDisk, Vfs};
use kvd_wal::damage::Finding;
use kvd_wal::{Error, Options, Save, Wal, recorded_snapshots, verify};
use std::path::Path;
use std::sync::Arc;

use crate::support::*;

#[test]
fn a_log_begins_with_its_metadata_snapshot_and_hard_state() {
    let disk = MemDisk::new();
    let initial = Some((snapshot(1, 1), hard_state(1, 0, 1)));
    let wal = Wal::create(disk.disk(), dir(), METADATA, initial, options(4096)).unwrap();
    assert!(Wal::exists(&disk.disk(), dir()).unwrap());
    drop(wal);
    let (_, replay) = try_open_at(&disk, snapshot(1, 1)).unwrap();
    assert_eq!(replay.metadata, METADATA);
    assert_eq!(replay.hard_state, hard_state(1, 0, 1));
    assert!(replay.entries.is_empty() && replay.torn.is_none());
    assert_eq!(recorded_snapshots(&disk.disk(), dir()).unwrap(), [snapshot(1, 1)]);
}

#[test]
fn create_refuses_what_exists_and_takes_an_empty_directory() {
    let disk = MemDisk::new();
    disk.create_dir_all(dir()).unwrap();
    assert!(!Wal::exists(&disk.disk(), dir()).unwrap());
    drop(create(&disk, 4096));
    let again = Wal::create(disk.disk(), dir(), METADATA, None, options(4096)).unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{again}");
}

#[test]
fn an_absent_log_is_absent() {
    let disk = MemDisk::new();
    assert!(!Wal::exists(&disk.disk(), dir()).unwrap());
    assert!(matches!(try_open(&disk).unwrap_err(), Error::Absent { .. }));
    assert!(matches!(recorded_snapshots(&disk.disk(), dir()).unwrap_err(), Error::Absent { .. }));
    assert!(matches!(verify(&disk.disk(), dir(), BEGINNING).unwrap_err(), Error::Absent { .. }));
}

#[test]
fn a_cut_carries_metadata_and_hard_state_and_names_the_next_index() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&[entry(1, 1, 100)], Some(&hard_state(1, 3, 1)), true).unwrap();
    wal.save(&entries(2..=3, 1, 1500), Some(&hard_state(1, 3, 2)), true).unwrap();
    assert_eq!(wal.segments(), 2);
    let paths = segments(&disk);
    assert!(paths[1].ends_with("0000000000000001-0000000000000002.wal"), "{paths:?}");
    wal.save_snapshot(snapshot(2, 1)).unwrap();
    wal.close().unwrap();
    let (_, replay) = try_open_at(&disk, snapshot(2, 1)).unwrap();
    assert_eq!((replay.metadata.as_ref(), replay.hard_state.vote), (METADATA, 3));
    assert_eq!(replay.entries, entries(3..=3, 1, 1500));
}

#[test]
fn the_head_of_a_segment_never_commits_what_is_not_written() {
    // The batch that needs the new segment is lost, its head is not.
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&entries(1..=1, 1, 3000), Some(&hard_state(1, 1, 0)), true).unwrap();
    disk.fail_nth(Op::Write, 3, MemDisk::EIO);
    let failed = wal.save(&entries(2..=2, 2, 3000), Some(&hard_state(2, 2, 2)), true);
    assert!(failed.is_err());
    drop(wal);
    disk.crash_losing_all_unsynced();
    assert_eq!(segments(&disk).len(), 2);
    let (_, replay) = open(&disk);
    assert_eq!(replay.hard_state, hard_state(1, 1, 0));
}

#[test]
fn save_with_cut_keeps_every_entry_and_the_last_state() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 2048);
    for index in 1..=100 {
        wal.save(&[entry(index, index / 10, 400)], Some(&hard_state(index / 10, 1, index - 1)), true)
            .unwrap();
    }
    assert!(wal.segments() > 20);
    wal.close().unwrap();
    let (mut wal, replay) = open(&disk);
    assert_eq!(replay.entries, (1..=100).map(|i| entry(i, i / 10, 400)).collect::<Vec<_>>());
    assert_eq!(replay.hard_state, hard_state(10, 1, 99));
    wal.save(&[entry(101, 10, 400)], None, true).unwrap();
    drop(wal);
    assert_eq!(open(&disk).1.entries.len(), 101);
}

#[test]
fn entries_of_ten_to_forty_megabytes_get_segments_of_their_own() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 1 << 20);
    let mut want = Vec::new();
    for (index, megabytes) in [10, 20, 30, 40].into_iter().enumerate() {
        let large = entry(index as u64 + 1, 1, megabytes << 20);
        wal.save(std::slice::from_ref(&large), None, true).unwrap();
        want.push(large);
    }
    wal.save(&[entry(5, 1, 10)], None, true).unwrap();
    want.push(entry(5, 1, 10));
    wal.close().unwrap();
    assert!(open(&disk).1.entries == want);
}

#[test]
fn a_save_larger_than_a_segment_is_still_all_or_nothing() {
    let many = entries(1..=50, 7, 900);
    for seed in 0..50 {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        if seed > 0 {
            // The head of the new segment is the second write from here, the batch the third.
            disk.power_off_at(wal_operations_before_the_batch());
        }
        let saved = wal.save(&many, Some(&hard_state(7, 2, 50)), true);
        assert_eq!(saved.is_ok(), seed == 0);
        disk.crash(seed);
        assert_eq!(segments(&disk).len(), 2);
        let (_, replay) = open(&disk);
        if !replay.entries.is_empty() || seed == 0 {
            assert_eq!((replay.entries, replay.hard_state), (many.clone(), hard_state(7, 2, 50)));
        }
    }
}

/// A 50 KB segment is created, filled by one write and synced; its head written and synced; it is renamed, its
/// directory synced; and then the batch is written.
fn wal_operations_before_the_batch() -> u64 {
    3 + 2 + 2 + 1
}

#[test]
fn a_snapshot_its_entries_and_its_commit_index_travel_in_one_batch() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&entries(1..=3, 1, 10), Some(&hard_state(1, 1, 3)), true).unwrap();
    let before = disk.operations();
    let behind = entries(21..=22, 4, 10);
    let state = hard_state(4, 0, 21);
    let save = Save {
        snapshot: Some(snapshot(20, 4)),
        entries: &behind,
        hard_state: Some(&state),
        must_sync: false,
    };
    wal.save_group(&[save]).unwrap();
    assert_eq!(disk.operations() - before, 2);
    assert_eq!(wal.last_index(), 22);
    disk.crash_losing_all_unsynced();
    assert_eq!(Wal::read_metadata(&disk.disk(), dir()).unwrap(), METADATA);
    let (_, replay) = try_open_at(&disk, snapshot(20, 4)).unwrap();
    assert_eq!((replay.entries, replay.hard_state), (behind, state));
}

#[test]
fn non_monotonic_names_are_refused() {
    let disk = MemDisk::new();
    drop(create(&disk, 4096));
    let first = segments(&disk).remove(0);
    let copy = |name: &str| {
        let mut file = disk.open(&dir().join(name), OpenMode::CreateNew).unwrap();
        file.write_all_at(&read(&disk, &first), 0).unwrap();
    };
    copy("0000000000000000-0000000000000005.wal");
    assert!(matches!(try_open(&disk).unwrap_err(), Error::DuplicateSegment { .. }));
    disk.remove_file(&dir().join("0000000000000000-0000000000000005.wal")).unwrap();
    copy("0000000000000002-0000000000000005.wal");
    match try_open(&disk).unwrap_err() {
        Error::MissingSegment { missing: 1, next, .. } => {
            assert_eq!(next, "0000000000000002-0000000000000005.wal")
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    let filled = || {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        for index in 1..=8 {
            wal.save(&[entry(index, 1, 3000)], None, true).unwrap();
        }
        drop(wal);
        disk
    };
    let count = segments(&filled()).len();
    for missing in 0..count {
        let disk = filled();
        disk.remove_file(&segments(&disk)[missing]).unwrap();
        let opened = try_open(&disk);
        match (missing, opened) {
            (0, Err(Error::SnapshotNotRecorded { .. })) => {}
            // Nothing tells that there was more; what is left ends within the log.
            (last, Ok((_, replay))) if last == count - 1 => assert_eq!(replay.entries.len(), 7),
            (_, Err(Error::MissingSegment { missing: found, .. })) => assert_eq!(found, missing as u64),
            (_, other) => panic!("{missing}: {other:?}"),
        }
    }
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (disk, other) = (MemDisk::new(), MemDisk::new());
    for (disk, metadata) in [(&disk, METADATA), (&other, b"cluster 8, member 1".as_slice())] {
        let mut wal = Wal::create(disk.disk(), dir(), metadata, None, options(4096)).unwrap();
        for index in 1..=3 {
            wal.save(&[entry(index, 1, 3000)], None, true).unwrap();
        }
        wal.close().unwrap();
    }
    let path = segments(&disk).remove(1);
    disk.overwrite_file(&path, read(&other, &path)).unwrap();
    match try_open(&disk).unwrap_err() {
        Error::Corrupt { file, offset: 0, finding: Finding::Misplaced, .. } => assert_eq!(file, path),
        error => panic!("{error}"),
    }
}

#[test]
fn opening_at_an_uncommitted_index_reads_the_entries_behind_it() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&entries(1..=3, 1, 10), Some(&hard_state(1, 1, 0)), true).unwrap();
    drop(wal);
    assert_eq!(open(&disk).1.entries.len(), 3);
}

#[test]
fn no_log_is_opened_beyond_its_last_index() {
    let disk = MemDisk::new();
    drop(create(&disk, 4096));
    for index in [1 << 63, (1 << 63) + 1, u64::MAX] {
        let error = try_open_at(&disk, snapshot(index, 1)).unwrap_err();
        assert!(matches!(error, Error::SnapshotNotRecorded { .. }), "{error}");
    }
}

#[test]
fn a_snapshot_counts_once_it_is_committed() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&entries(1..=5, 1, 10), Some(&hard_state(1, 1, 2)), true).unwrap();
    for (index, term) in [(2, 1), (3, 1), (4, 1)] {
        wal.save_snapshot(snapshot(index, term)).unwrap();
    }
    let recorded = || recorded_snapshots(&disk.disk(), dir()).unwrap();
    assert_eq!(recorded(), [BEGINNING, snapshot(2, 1)]);
    wal.save(&[], Some(&hard_state(1, 1, 3)), true).unwrap();
    assert_eq!(recorded(), [BEGINNING, snapshot(2, 1), snapshot(3, 1)]);
    drop(wal);
    assert_eq!(try_open_at(&disk, snapshot(3, 1)).unwrap().1.entries, entries(4..=5, 1, 10));
    match try_open_at(&disk, snapshot(4, 1)).unwrap_err() {
        Error::SnapshotNotCommitted { index: 4, commit: 3, .. } => {}
        other => panic!("{other}"),
    }
    for absent in [snapshot(3, 2), snapshot(1, 1), snapshot(5, 1)] {
        let error = try_open_at(&disk, absent).unwrap_err();
        assert!(matches!(error, Error::SnapshotNotRecorded { .. }), "{error}");
    }
}

#[test]
fn reading_works_while_another_holds_the_lock_and_opening_does_not() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&entries(1..=4, 2, 100), Some(&hard_state(2, 1, 3)), true).unwrap();
    wal.save_snapshot(snapshot(3, 2)).unwrap();
    match try_open(&disk).unwrap_err() {
        Error::Locked { path } => assert_eq!(path, dir().join("lock")),
        other => panic!("{other}"),
    }
    let report = verify(&disk.disk(), dir(), BEGINNING).unwrap();
    assert_eq!((report.last_index, report.last_term, report.segments, report.closed), (4, 2, 1, false));
    assert_eq!((report.hard_state, report.metadata.as_ref()), (hard_state(2, 1, 3), METADATA));
    assert_eq!(recorded_snapshots(&disk.disk(), dir()).unwrap(), [BEGINNING, snapshot(3, 2)]);
    drop(wal);
    let (wal, _) = open(&disk);
    wal.close().unwrap();
    let report = verify(&disk.disk(), dir(), snapshot(3, 2)).unwrap();
    assert!(report.closed && report.torn.is_none());
    assert_eq!(report.last_index, 4);
}

#[test]
fn the_lock_is_released_by_a_close_a_drop_and_an_opening_that_fails() {
    let disk = MemDisk::new();
    create(&disk, 4096).close().unwrap();
    drop(open(&disk));
    assert!(matches!(try_open_at(&disk, snapshot(9, 9)).unwrap_err(), Error::SnapshotNotRecorded { .. }));
    let first = segments(&disk).remove(0);
    let good = read(&disk, &first);
    edit(&disk, &first, |bytes| bytes[100] ^= 1);
    assert!(matches!(try_open(&disk).unwrap_err(), Error::Corrupt { .. }));
    disk.overwrite_file(&first, good).unwrap();
    let (wal, _) = open(&disk);
    assert!(matches!(try_open(&disk).unwrap_err(), Error::Locked { .. }), "it is held while it is open");
    drop(wal);
    drop(open(&disk));
}

#[test]
fn saving_nothing_writes_nothing() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&[], Some(&hard_state(1, 1, 0)), true).unwrap();
    let (operations, bytes) = (disk.operations(), wal.log_bytes());
    wal.save(&[], None, true).unwrap();
    wal.save(&[], None, false).unwrap();
    wal.save(&[], Some(&hard_state(1, 1, 0)), true).unwrap();
    wal.save_group(&[]).unwrap();
    wal.save_group(&[Save::default(), Save::default()]).unwrap();
    wal.sync().unwrap();
    assert_eq!((disk.operations(), wal.log_bytes()), (operations, bytes));
}

#[test]
fn a_commit_index_waits_for_the_next_write_and_a_vote_does_not() {
    let recovered = |disk: &MemDisk| {
        disk.crash_losing_all_unsynced();
        open(disk).1.hard_state
    };
    let begun = || {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        wal.save(&entries(1..=5, 1, 10), Some(&hard_state(1, 1, 0)), true).unwrap();
        let operations = disk.operations();
        wal.save(&[], Some(&hard_state(1, 1, 4)), false).unwrap();
        assert_eq!(disk.operations(), operations);
        (disk, wal)
    };
    let (disk, _wal) = begun();
    assert_eq!(recovered(&disk), hard_state(1, 1, 0));
    type Then = fn(&mut Wal);
    let carriers: [Then; 5] = [
        |wal| wal.save(&[entry(6, 1, 1)], None, true).unwrap(),
        |wal| wal.save(&[entry(6, 1, 1)], None, false).unwrap(),
        |wal| wal.save_snapshot(snapshot(2, 1)).unwrap(),
        |wal| wal.sync().unwrap(),
        |wal| wal.save(&[], Some(&hard_state(1, 1, 4)), true).unwrap(),
    ];
    for (i, then) in carriers.into_iter().enumerate() {
        let (disk, mut wal) = begun();
        then(&mut wal);
        assert_eq!(recovered(&disk), hard_state(1, 1, 4), "carrier {i}");
    }
    let (disk, wal) = begun();
    wal.close().unwrap();
    assert_eq!(recovered(&disk), hard_state(1, 1, 4));
    for state in [hard_state(2, 1, 0), hard_state(1, 2, 0)] {
        let (disk, mut wal) = begun();
        wal.save(&[], Some(&state), false).unwrap();
        assert_eq!(recovered(&disk), state, "a term or vote is always durable");
    }
}

#[test]
fn one_save_is_one_write_and_so_are_several() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 1 << 20);
    let before = disk.operations();
    wal.save(&entries(1..=64, 1, 256), Some(&hard_state(1, 1, 0)), true).unwrap();
    assert_eq!(disk.operations() - before, 2, "a write and its sync");
    let (a, b) = (entries(65..=70, 1, 256), entries(69..=75, 2, 256));
    let (one, two) = (hard_state(1, 1, 60), hard_state(2, 1, 61));
    let before = disk.operations();
    wal.save_group(&[
        Save { entries: &a, hard_state: Some(&one), must_sync: true, snapshot: None },
        Save { entries: &b, hard_state: Some(&two), must_sync: true, snapshot: None },
    ])
    .unwrap();
    assert_eq!(disk.operations() - before, 2);
    disk.crash_losing_all_unsynced();
    let (_, replay) = open(&disk);
    assert_eq!(replay.hard_state, two);
    let want: Vec<_> = [entries(1..=64, 1, 256), entries(65..=68, 1, 256), b].concat();
    assert_eq!(replay.entries, want);
}

#[test]
fn released_segments_are_deleted_and_the_log_opens_where_it_was_released_to() {
    for release in 0..=10 {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        for index in 1..=10 {
            wal.save(&[entry(index, 1, 3000)], Some(&hard_state(1, 1, index)), true).unwrap();
            wal.save_snapshot(snapshot(index, 1)).unwrap();
        }
        let before = wal.segments();
        wal.release_to(release).unwrap();
        assert_eq!(wal.segments(), segments(&disk).len());
        wal.release_to(release).unwrap();
        wal.close().unwrap();
        let at = snapshot(release, if release == 0 { 0 } else { 1 });
        let (wal, replay) = try_open_at(&disk, at).unwrap();
        assert_eq!(replay.entries, entries(at.index + 1..=10, 1, 3000), "released to {release}");
        match release {
            0 | 1 => assert_eq!(wal.segments(), before),
            10 => assert!(wal.segments() <= 2),
            _ => assert!(wal.segments() < before),
        }
    }
}

#[test]
fn snapshot_records_after_a_purge_are_those_that_can_be_opened() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    for index in 1..=10 {
        wal.save(&[entry(index, 1, 3000)], Some(&hard_state(1, 1, index)), true).unwrap();
        wal.save_snapshot(snapshot(index, 1)).unwrap();
    }
    wal.release_to(7).unwrap();
    drop(wal);
    let recorded = recorded_snapshots(&disk.disk(), dir()).unwrap();
    assert_eq!(recorded, (7..=10).map(|index| snapshot(index, 1)).collect::<Vec<_>>());
    for at in recorded {
        try_open_at(&disk, at).unwrap();
    }
}

#[test]
fn a_tail_without_slack_is_appended_to_in_the_next_segment() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&[entry(1, 1, 100)], None, true).unwrap();
    drop(wal);
    for (path, index) in [(0, 2), (1, 3)] {
        let path = segments(&disk)[path].clone();
        edit(&disk, &path, |bytes| bytes.truncate(data_end(bytes)));
        let (mut wal, replay) = open(&disk);
        assert!(replay.torn.is_none());
        wal.save(&[entry(index, 1, 100)], None, true).unwrap();
    }
    let (wal, replay) = open(&disk);
    assert_eq!(replay.entries, entries(1..=3, 1, 100));
    assert_eq!(wal.segments(), 3);
}

#[test]
fn a_segment_is_filled_to_its_last_sector() {
    // 448 + 511 * n record bytes fill whole sectors; the head of the first segment takes one.
    for (spare, segments) in [(-1, 1), (0, 1), (1, 2)] {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        let room = 448 + 511 * 6;
        let probe = entry(1, 1, 3000);
        let overhead = {
            let mut out = bytes::BytesMut::new();
            kvd_raftpb::codec::encode_entry(&probe, &mut out);
            out.len() + 5 - 3000
        };
        let len = (room as i64 + spare) as usize - overhead;
        wal.save(&[entry(1, 1, len)], None, true).unwrap();
        assert_eq!(wal.segments(), segments, "{spare} bytes beyond the segment");
        drop(wal);
        assert_eq!(open(&disk).1.entries, [entry(1, 1, len)]);
    }
}

#[test]
fn an_overlapping_entry_truncates_the_tail() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 2048);
    wal.save(&entries(1..=10, 1, 500), None, true).unwrap();
    wal.save(&entries(4..=5, 2, 500), Some(&hard_state(2, 0, 4)), true).unwrap();
    wal.save_snapshot(snapshot(4, 2)).unwrap();
    wal.save(&entries(6..=8, 2, 500), None, true).unwrap();
    drop(wal);
    let want = [entries(1..=3, 1, 500), entries(4..=8, 2, 500)].concat();
    assert_eq!(open(&disk).1.entries, want);
    assert_eq!(try_open_at(&disk, snapshot(4, 2)).unwrap().1.entries, want[4..]);
}

#[test]
fn a_tail_that_was_replaced_below_the_snapshot_stays_replaced() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 1 << 20);
    wal.save(&entries(1..=10, 1, 50), None, true).unwrap();
    wal.save(&entries(3..=5, 2, 50), Some(&hard_state(2, 0, 5)), true).unwrap();
    wal.save_snapshot(snapshot(5, 2)).unwrap();
    drop(wal);
    let (_, replay) = try_open_at(&disk, snapshot(5, 2)).unwrap();
    assert!(replay.entries.is_empty(), "6..=10 of term 1 went when 3 was replaced");
}

#[test]
fn a_snapshot_from_the_leader_voids_a_log_that_went_another_way() {
    for (at, keeps) in [(snapshot(6, 1), true), (snapshot(6, 4), false), (snapshot(20, 4), false)] {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 1 << 20);
        wal.save(&entries(1..=10, 1, 50), Some(&hard_state(4, 0, 2)), true).unwrap();
        wal.save_snapshot(at).unwrap();
        wal.save(&[], Some(&hard_state(4, 0, at.index)), true).unwrap();
        drop(wal);
        let (mut wal, replay) = try_open_at(&disk, at).unwrap();
        let want = if keeps { entries(7..=10, 1, 50) } else { Vec::new() };
        assert_eq!(replay.entries, want, "{at:?}");
        let next = if keeps { 11 } else { at.index + 1 };
        wal.save(&[entry(next, 4, 50)], None, true).unwrap();
        wal.save_snapshot(at).unwrap();
        drop(wal);
        let last = try_open_at(&disk, at).unwrap().1.entries.pop();
        assert_eq!(last, Some(entry(next, 4, 50)), "the same record again voids nothing");
    }
}

#[test]
fn an_older_snapshot_does_not_open_a_log_that_went_on_from_a_newer_one() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 1 << 20);
    wal.save(&entries(1..=3, 1, 50), Some(&hard_state(1, 0, 3)), true).unwrap();
    wal.save_snapshot(snapshot(20, 4)).unwrap();
    wal.save(&[], Some(&hard_state(4, 0, 20)), true).unwrap();
    match verify(&disk.disk(), dir(), BEGINNING).unwrap_err() {
        Error::CommitBeyondLog { commit: 20, last: 3, .. } => {}
        other => panic!("{other}"),
    }
    wal.save(&[entry(21, 4, 50)], None, true).unwrap();
    match verify(&disk.disk(), dir(), BEGINNING).unwrap_err() {
        Error::IndexGap { expected: 4, found: 21, .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
#[should_panic(expected = "entry 3 saved to a log that ends at 1")]
fn saving_a_gap_is_a_bug() {
    let mut wal = create(&MemDisk::new(), 4096);
    wal.save(&[entry(1, 1, 1), entry(3, 1, 1)], None, true).unwrap();
}

#[test]
fn stale_temporary_files_and_directories_are_removed_and_other_files_are_left() {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/m/wal.tmp/deep")).unwrap();
    disk.open(Path::new("/m/wal.tmp/0000000000000000-0000000000000000.wal"), OpenMode::CreateNew).unwrap();
    let mut wal = create(&disk, 4096);
    assert!(!disk.exists(Path::new("/m/wal.tmp")).unwrap());
    wal.save(&[entry(1, 1, 1)], None, true).unwrap();
    drop(wal);
    let polluted = ["notes.txt", "1-1.wal", "0000000000000001-0000000000000001.wal.bak", "lost+found"];
    for name in
        polluted.into_iter().chain(["prepared-0.tmp", "0000000000000001-0000000000000002.wal.broken.tmp"])
    {
        disk.open(&dir().join(name), OpenMode::CreateNew).unwrap();
    }
    let (_wal, replay) = open(&disk);
    assert_eq!(replay.entries.len(), 1);
    let mut want: Vec<&str> = vec!["0000000000000000-0000000000000000.wal", "lock"];
    want.extend(polluted);
    want.sort_unstable();
    assert_eq!(disk.list(dir()).unwrap(), want);
}

#[test]
fn a_directory_with_the_name_of_a_segment_is_refused_and_left() {
    let home = tempfile::tempdir().unwrap();
    for (disk, dir) in [
        (MemDisk::new().disk(), dir().to_owned()),
        (Arc::new(RealDisk::new()) as kvd_vfs::Disk, home.path().join("wal")),
    ] {
        drop(Wal::create(disk.clone(), &dir, METADATA, None, options(4096)).unwrap());
        let name = dir.join("0000000000000001-0000000000000001.wal");
        disk.create_dir_all(&name).unwrap();
        match Wal::open(disk.clone(), &dir, BEGINNING, options(4096)).unwrap_err() {
            Error::Io { path, .. } => assert_eq!(path, name),
            other => panic!("{other}"),
        }
        assert!(disk.exists(&name).unwrap());
    }
}

#[test]
fn a_log_on_a_real_disk_is_prepared_ahead_and_reads_back() {
    for disk in [RealDisk::new(), RealDisk::buffered()] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("wal");
        let options = Options { segment_bytes: 64 << 10, ..Options::default() };
        let disk: kvd_vfs::Disk = Arc::new(disk);
        let mut wal = Wal::create(disk.clone(), &dir, METADATA, None, options.clone()).unwrap();
        for index in 1..=200 {
            wal.save(&[entry(index, 1, 1000)], Some(&hard_state(1, 1, index - 1)), true).unwrap();
        }
        assert!(wal.segments() > 3);
        assert!(matches!(
            Wal::open(disk.clone(), &dir, BEGINNING, options.clone()).unwrap_err(),
            Error::Locked { .. }
        ));
        drop(wal);
        let (mut wal, replay) = Wal::open(disk.clone(), &dir, BEGINNING, options.clone()).unwrap();
        assert!(replay.entries == entries(1..=200, 1, 1000));
        wal.save_snapshot(snapshot(150, 1)).unwrap();
        wal.release_to(150).unwrap();
        wal.save(&[entry(201, 1, 200 << 10)], None, true).unwrap();
        wal.close().unwrap();
        assert!(disk.list(&dir).unwrap().iter().all(|name| !name.ends_with(".tmp")));
        let (_, replay) = Wal::open(disk, &dir, snapshot(150, 1), options).unwrap();
        assert_eq!(replay.entries.len(), 51);
    }
}
