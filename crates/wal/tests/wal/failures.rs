//! What happens when the disk refuses.

use kvd_vfs::{MemDisk, Op, Vfs};
use kvd_wal::{Error, Save, SnapshotRecord, Wal};

use crate::support::*;

type Call = fn(&mut Wal) -> kvd_wal::Result<()>;

/// Every call on a stopped log, each by itself.
fn assert_stopped(mut wal: Wal, why: &str) {
    let calls: [(&str, Call); 5] = [
        ("save", |wal| wal.save(&[], Some(&hard_state(9, 9, 0)), true)),
        ("save of nothing", |wal| wal.save(&[], None, false)),
        ("save_snapshot", |wal| wal.save_snapshot(SnapshotRecord::default())),
        ("sync", Wal::sync),
        ("release_to", |wal| wal.release_to(0)),
    ];
    for (name, call) in calls {
        match call(&mut wal) {
            Err(error @ Error::Stopped { .. }) => assert!(error.to_string().contains(why), "{error}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(matches!(wal.close(), Err(Error::Stopped { .. })));
}

#[test]
fn a_failed_sync_or_write_stops_the_log_and_nothing_is_tried_again() {
    for op in [Op::Sync, Op::Write] {
        let disk = MemDisk::new();
        let mut wal = create(&disk, 4096);
        wal.save(&[entry(1, 1, 100)], None, true).unwrap();
        disk.fail_nth(op, 1, MemDisk::EIO);
        match wal.save(&[entry(2, 1, 100)], None, true).unwrap_err() {
            Error::Io { path, source, .. } => {
                assert_eq!(path, segments(&disk)[0]);
                assert_eq!(source.raw_os_error(), Some(MemDisk::EIO));
            }
            other => panic!("{other}"),
        }
        let operations = disk.operations();
        assert_stopped(wal, "cannot append to /m/wal/0000000000000000-0000000000000000.wal");
        assert_eq!(disk.operations(), operations, "not one more write, sync or closing record");
    }
}

#[test]
fn whichever_call_fails_every_later_one_says_so() {
    let calls: [(&str, Call); 6] = [
        ("save of entries", |wal| wal.save(&[entry(3, 1, 100)], None, true)),
        ("save of a vote", |wal| wal.save(&[], Some(&hard_state(2, 3, 0)), true)),
        ("save of a group", |wal| {
            let group = [entry(3, 1, 100), entry(4, 1, 100)];
            let save = |at: usize| Save { entries: &group[at..=at], ..Save::default() };
            wal.save_group(&[save(0), save(1)])
        }),
        ("save_snapshot", |wal| wal.save_snapshot(snapshot(1, 1))),
        ("sync", Wal::sync),
        ("release_to", |wal| wal.release_to(2)),
    ];
    let operations = [Op::Write, Op::SetLen, Op::Sync, Op::SyncDir, Op::Create, Op::Rename, Op::Remove];
    for (name, call) in calls {
        let mut failed = 0;
        for (op, nth) in operations.into_iter().flat_map(|op| [(op, 1), (op, 2)]) {
            let (disk, mut wal) = two_segments();
            // A commit index waits, so that a sync has something to write.
            wal.save(&[], Some(&hard_state(1, 1, 1)), false).unwrap();
            disk.fail_nth(op, nth, MemDisk::EIO);
            let Err(error) = call(&mut wal) else { continue };
            failed += 1;
            assert!(matches!(error, Error::Io { .. }), "{name}: {error}");
            disk.clear_faults();
            let operations = disk.operations();
            assert_stopped(wal, "cannot");
            assert_eq!(disk.operations(), operations, "{name}, {op:?}: not one more operation");
            disk.crash_losing_all_unsynced();
            let (_, replay) = open(&disk);
            let acknowledged = [entry(1, 1, 3000), entry(2, 1, 100)];
            assert_eq!(replay.entries[..2], acknowledged, "{name}, {op:?}: what was acknowledged is there");
        }
        assert!(failed > 0, "{name} was seen to fail");
    }
}

#[test]
fn a_close_that_fails_says_so_and_loses_nothing() {
    for op in [Op::Write, Op::Sync] {
        let (disk, wal) = two_segments();
        disk.fail_nth(op, 1, MemDisk::EIO);
        assert!(matches!(wal.close().unwrap_err(), Error::Io { .. }));
        disk.crash_losing_all_unsynced();
        assert_eq!(open(&disk).1.entries, [entry(1, 1, 3000), entry(2, 1, 100)]);
    }
}

/// Entry 1 in the first segment, entry 2 in the second.
fn two_segments() -> (MemDisk, Wal) {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&[entry(1, 1, 3000)], Some(&hard_state(1, 1, 0)), true).unwrap();
    wal.save(&[entry(2, 1, 100)], None, true).unwrap();
    assert_eq!(wal.segments(), 2);
    (disk, wal)
}

#[test]
fn what_a_failed_sync_left_is_durable_once_the_log_was_opened_again() {
    // The batch can be read back from the cache, and a second sync would not write it: opening must.
    for seed in 0..50 {
        let disk = MemDisk::new();
        disk.seed_faults(seed);
        let mut wal = create(&disk, 4096);
        disk.fail_nth(Op::Sync, 1, MemDisk::EIO);
        wal.save(&[entry(1, 3, 1500)], Some(&hard_state(3, 1, 0)), true).unwrap_err();
        drop(wal);
        let (wal, seen) = open(&disk);
        drop(wal);
        disk.crash_losing_all_unsynced();
        let (_, after) = open(&disk);
        assert_eq!((seen.entries, seen.hard_state), (after.entries, after.hard_state));
    }
}

#[test]
fn a_failed_cut_stops_the_log_at_every_step_and_loses_nothing() {
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
        for nth in 1..=2 {
            let disk = MemDisk::new();
            let mut wal = create(&disk, 4096);
            wal.save(&[entry(1, 1, 3000)], None, true).unwrap();
            disk.fail_nth(op, nth, MemDisk::EIO);
            match wal.save(&[entry(2, 1, 3000)], None, true) {
                // A cut has only one of these steps.
                Ok(()) => assert!(nth == 2 && op != Op::Write && op != Op::Sync, "{op:?} {nth}"),
                Err(_) => assert_stopped(wal, "cannot"),
            }
            disk.crash_losing_all_unsynced();
            let (mut wal, replay) = open(&disk);
            assert_eq!(replay.entries[0], entry(1, 1, 3000), "{op:?} {nth}");
            let next = replay.entries.len() as u64 + 1;
            wal.save(&[entry(next, 1, 3000)], None, true).unwrap();
        }
    }
}

#[test]
fn a_failed_rename_leaves_no_log_and_nothing_in_the_way() {
    for (op, nth) in [(Op::Rename, 1), (Op::Sync, 1), (Op::Sync, 2), (Op::SyncDir, 3), (Op::Write, 1)] {
        let disk = MemDisk::new();
        disk.fail_nth(op, nth, MemDisk::EIO);
        Wal::create(disk.disk(), dir(), METADATA, None, options(4096)).unwrap_err();
        assert!(!Wal::exists(&disk.disk(), dir()).unwrap(), "{op:?}");
        assert!(!disk.exists(std::path::Path::new("/m/wal.tmp")).unwrap());
        drop(create(&disk, 4096));
    }
}

#[test]
fn no_space_at_create_leaves_nothing() {
    for capacity in [0, 512, 4095] {
        let disk = MemDisk::new();
        disk.set_capacity(Some(capacity));
        let error = Wal::create(disk.disk(), dir(), METADATA, None, options(4096)).unwrap_err();
        assert!(error.to_string().contains("fill with zeros"), "{error}");
        assert_eq!(disk.list(std::path::Path::new("/m")).unwrap(), [""; 0]);
        disk.set_capacity(Some(4096));
        drop(create(&disk, 4096));
    }
}

#[test]
fn no_space_for_the_next_segment_is_waited_for_by_a_log_that_prepares_ahead() {
    let disk = MemDisk::new();
    // The first segment, and the one that is prepared next.
    disk.set_capacity(Some(8192));
    let ahead = kvd_wal::Options { prepare_ahead: true, ..options(4096) };
    let mut wal = Wal::create(disk.disk(), dir(), METADATA, None, ahead).unwrap();
    let (sender, said) = std::sync::mpsc::channel();
    let room = wal.room();
    room.watch(move |full| sender.send(full).unwrap());
    wal.save(&[entry(1, 1, 3000)], None, true).unwrap();
    wal.save(&[entry(2, 1, 2000)], None, true).unwrap();
    assert!(said.recv().unwrap(), "the next one lacks room");
    // What fits into the rest of the segment is saved all the same.
    wal.save(&[], Some(&hard_state(2, 1, 2)), true).unwrap();
    let waiting = std::thread::spawn(move || {
        wal.save(&[entry(3, 2, 3000)], None, true).unwrap();
        wal
    });
    disk.set_capacity(None);
    waiting.join().unwrap().close().unwrap();
    assert!(!said.recv().unwrap());
    let (_, replay) = open(&disk);
    assert_eq!(replay.entries, [entry(1, 1, 3000), entry(2, 1, 2000), entry(3, 2, 3000)]);
    assert_eq!(replay.hard_state, hard_state(2, 1, 2));
}

#[test]
fn a_save_that_waits_for_room_fails_when_the_log_gives_up_and_loses_nothing() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(4096));
    let ahead = kvd_wal::Options { prepare_ahead: true, ..options(4096) };
    let mut wal = Wal::create(disk.disk(), dir(), METADATA, None, ahead).unwrap();
    wal.save(&[entry(1, 1, 3000)], None, true).unwrap();
    let room = wal.room();
    let waiting = std::thread::spawn(move || {
        let error = wal.save(&[entry(2, 1, 3000)], None, true).unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert_stopped(wal, "fill with zeros");
    });
    room.give_up();
    waiting.join().unwrap();
    assert_eq!(open(&disk).1.entries, [entry(1, 1, 3000)]);
}

#[test]
fn no_space_for_the_next_segment_stops_the_log() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(8191));
    let mut wal = create(&disk, 4096);
    wal.save(&[entry(1, 1, 3000)], None, true).unwrap();
    wal.save(&[entry(2, 1, 3000)], None, true).unwrap_err();
    assert_stopped(wal, "fill with zeros");
    disk.set_capacity(None);
    assert_eq!(open(&disk).1.entries, [entry(1, 1, 3000)]);
}

#[test]
fn an_error_while_reading_is_an_error_and_changes_nothing() {
    let disk = MemDisk::new();
    let mut wal = create(&disk, 4096);
    wal.save(&entries(1..=3, 1, 3000), None, true).unwrap();
    drop(wal);
    let operations = disk.operations();
    for nth in 1.. {
        disk.fail_nth(Op::Read, nth, MemDisk::EIO);
        match try_open(&disk) {
            Ok(_) => {
                assert!(nth > 5);
                break;
            }
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        if nth < 10 {
            assert_eq!(disk.operations(), operations, "read {nth}");
        }
    }
}
