//! A disk that fails, fills up or loses power.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io;

use common::*;
use kvd_raftpb::peers::SnapshotStore;
use kvd_snap::{CHUNK_BYTES, Error, Snapshotter};
use kvd_vfs::{MemDisk, Op};

const EIO: i32 = MemDisk::EIO;

fn is_eio(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.raw_os_error() == Some(EIO))
}

#[test]
fn a_disk_that_cannot_be_read_is_not_damage() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 4, b"older").unwrap();
    save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES)).unwrap();
    let recorded = [(1, 4), (1, 5)];
    // Every read in turn, until none is left to fail.
    let mut failures = 0;
    loop {
        mem.fail_nth(Op::Read, failures + 1, EIO);
        match snapshotter.newest_of(&recorded) {
            Err(error) => assert!(is_eio(&error) && !error.is_corruption(), "{error}"),
            Ok(newest) => {
                assert_eq!(newest, Some(metadata(1, 5)));
                break;
            }
        }
        assert_eq!(names(&mem.disk()).len(), 2, "nothing is set aside");
        failures += 1;
    }
    assert!(failures > 5, "{failures}");
}

#[test]
fn reads_that_fail_are_errors_of_the_reader() {
    for nth in 1..30 {
        let (mem, snapshotter) = setup();
        save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES)).unwrap();
        mem.fail_nth(Op::Read, nth, EIO);
        match read(&snapshotter, 1, 5) {
            Ok(_) => return assert!(nth > 5, "{nth}"),
            Err(error) => assert!(is_eio(typed(&error)), "{error}"),
        }
        let (mem, snapshotter) = setup();
        save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES)).unwrap();
        let (_, mut sending) = snapshotter.open(1, 5).unwrap();
        mem.fail_nth(Op::Read, 1, EIO);
        let error = io::Read::read(&mut sending, &mut [0; 100]).unwrap_err();
        assert!(is_eio(typed(&error)), "{error}");
    }
    panic!("reading never succeeded");
}

/// The steps of a save or install that change the disk.
const STEPS: [Op; 5] = [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir];

#[test]
fn a_save_that_fails_anywhere_leaves_neither_name() {
    for op in STEPS {
        let (mem, snapshotter) = setup();
        save(&snapshotter, 1, 4, b"older").unwrap();
        mem.fail_nth(op, 1, EIO);
        let error = save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES)).unwrap_err();
        assert!(is_eio(&error), "{op:?}: {error}");
        assert_eq!(names(&mem.disk()), ["0000000000000001-0000000000000004.snap"], "{op:?}");
        // Every write in turn, those at the end too.
        for nth in 1..=4 {
            let (mem, snapshotter) = setup();
            mem.fail_nth(Op::Write, nth, EIO);
            let result = save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES));
            assert!(result.is_err_and(|error| is_eio(&error)), "write {nth}");
            assert!(names(&mem.disk()).is_empty(), "write {nth}");
        }
    }
}

#[test]
fn a_write_error_that_the_state_machine_drops_is_not_lost() {
    let (mem, snapshotter) = setup();
    mem.fail_nth(Op::Write, 2, EIO);
    let error = snapshotter
        .save(&metadata(1, 5), &mut |out| {
            for piece in body(3 * CHUNK_BYTES).chunks(1000) {
                let _ = out.write_all(piece);
            }
            Ok(())
        })
        .unwrap_err();
    assert!(is_eio(&error), "{error}");
    assert!(names(&mem.disk()).is_empty());
}

#[test]
fn an_install_that_fails_anywhere_leaves_neither_name() {
    let (_, other) = setup();
    save(&other, 1, 5, &body(2 * CHUNK_BYTES)).unwrap();
    let bytes = raw(&other, 1, 5);
    for op in STEPS {
        let (mem, snapshotter) = setup();
        mem.fail_nth(op, 1, EIO);
        let error = receive(&snapshotter, 1, 5, &bytes, 10_000).unwrap_err();
        assert!(is_eio(typed(&error)), "{op:?}: {error}");
        assert!(names(&mem.disk()).is_empty(), "{op:?}");
        receive(&snapshotter, 1, 5, &bytes, 10_000).unwrap();
    }
}

#[test]
fn a_failed_replacement_leaves_a_whole_file() {
    for op in [Op::Sync, Op::Rename, Op::SyncDir] {
        let (mem, snapshotter) = setup();
        save(&snapshotter, 1, 5, b"state").unwrap();
        mem.fail_nth(op, 1, EIO);
        save(&snapshotter, 1, 5, b"state").unwrap_err();
        assert_eq!(read(&snapshotter, 1, 5).unwrap(), b"state", "{op:?}");
        assert_eq!(names(&mem.disk()).len(), 1, "{op:?}");
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_temporary_file_is_removed() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 4, b"older").unwrap();
    mem.set_capacity(Some(mem.used() + CHUNK_BYTES as u64));
    let error = save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES)).unwrap_err();
    let full =
        |e: &Error| matches!(e, Error::Io { source, .. } if source.raw_os_error() == Some(MemDisk::ENOSPC));
    assert!(full(&error), "{error}");
    assert_eq!(names(&mem.disk()), ["0000000000000001-0000000000000004.snap"]);
    mem.set_capacity(None);
    save(&snapshotter, 1, 5, &body(2 * CHUNK_BYTES)).unwrap();
}

#[test]
fn errors_at_open_listing_and_removal_are_errors() {
    let (mem, snapshotter) = setup();
    for index in 1..=3 {
        save(&snapshotter, 1, index, b"").unwrap();
    }
    mem.fail_nth(Op::Remove, 1, EIO);
    assert!(is_eio(&snapshotter.retain(1).unwrap_err()));
    mem.fail_nth(Op::SyncDir, 1, EIO);
    assert!(is_eio(&snapshotter.remove_unrecorded(&[(1, 3)]).unwrap_err()));
    assert_eq!(snapshotter.retain(1).unwrap(), [(1, 3)]);
    mem.fail_nth(Op::Create, 1, EIO);
    assert!(is_eio(&Snapshotter::open(mem.disk(), std::path::Path::new("/new")).unwrap_err()));
}

/// Cuts the power in the middle of every operation of `work`, with several outcomes for what was not synced, and
/// calls `check` with what a restart finds: `done` says whether `work` had returned.
fn crash_everywhere(
    prepare: impl Fn(&Snapshotter),
    work: impl Fn(&Snapshotter) -> bool,
    check: impl Fn(&MemDisk, bool),
) {
    let mut steps = 0;
    for nth in 1.. {
        let mut finished = false;
        for seed in 0..20 {
            let (mem, snapshotter) = setup();
            prepare(&snapshotter);
            mem.power_off_at(nth);
            let done = work(&snapshotter);
            finished = !mem.is_off();
            assert!(done || !finished, "only the power makes it fail");
            drop(snapshotter);
            mem.crash(seed);
            check(&mem, done);
        }
        steps = nth;
        if finished {
            break;
        }
    }
    assert!(steps > 6, "{steps} steps");
}

#[test]
fn a_crash_anywhere_in_a_save_leaves_the_old_or_the_new() {
    let new = body(CHUNK_BYTES + 100);
    crash_everywhere(
        |s| assert!(save(s, 1, 4, b"older").is_ok()),
        |s| save(s, 1, 5, &new).is_ok(),
        |mem, done| {
            let again = Snapshotter::open(mem.disk(), dir()).unwrap();
            assert!(!names(&mem.disk()).iter().any(|name| name.contains("tmp")), "orphans are removed");
            let newest = again.newest_of(&[(1, 4), (1, 5)]).unwrap().unwrap();
            assert!(
                !names(&mem.disk()).iter().any(|name| name.contains("broken")),
                "no half file has the name"
            );
            match newest.index {
                4 => assert!(!done, "what was saved is there"),
                _ => assert!(read(&again, 1, 5).unwrap() == new),
            }
            assert_eq!(read(&again, 1, 4).unwrap(), b"older");
        },
    );
}

#[test]
fn a_crash_anywhere_in_a_receive_leaves_nothing_or_the_whole() {
    let (_, other) = setup();
    save(&other, 1, 5, &body(CHUNK_BYTES + 100)).unwrap();
    let bytes = raw(&other, 1, 5);
    crash_everywhere(
        |_| {},
        |s| receive(s, 1, 5, &bytes, 50_000).is_ok(),
        |mem, done| {
            let again = Snapshotter::open(mem.disk(), dir()).unwrap();
            let newest = again.newest_of(&[(1, 5)]).unwrap();
            assert!(newest.is_some() || !done);
            assert_eq!(names(&mem.disk()).len(), usize::from(newest.is_some()));
            if newest.is_some() {
                assert!(raw(&again, 1, 5) == bytes);
            }
        },
    );
}

#[test]
fn a_crash_anywhere_in_a_replacement_leaves_a_whole_file() {
    let new = body(CHUNK_BYTES + 100);
    crash_everywhere(
        |s| assert!(save(s, 1, 5, b"state").is_ok()),
        |s| save(s, 1, 5, &new).is_ok(),
        |mem, done| {
            let again = Snapshotter::open(mem.disk(), dir()).unwrap();
            assert!(again.newest_of(&[(1, 5)]).unwrap().is_some());
            let found = read(&again, 1, 5).unwrap();
            assert!(found == new || (!done && found == b"state"));
        },
    );
}

#[test]
fn what_a_killed_process_removed_stays_removed_once_the_directory_was_opened() {
    let (mem, snapshotter) = setup();
    for index in 1..=3 {
        save(&snapshotter, 1, index, b"state").unwrap();
    }
    // Two removals, and no sync.
    mem.power_off_at(2);
    snapshotter.retain(1).unwrap_err();
    let next = mem.fork();
    let again = Snapshotter::open(next.disk(), dir()).unwrap();
    assert_eq!(again.retain(1).unwrap(), [(1, 3)]);
    next.crash_losing_all_unsynced();
    assert_eq!(names(&next.disk()), ["0000000000000001-0000000000000003.snap"]);
}

#[test]
fn the_sink_of_a_disk_without_power_is_dropped_in_peace() {
    let (mem, snapshotter) = setup();
    let sink = snapshotter.receive(1, 5).unwrap();
    mem.power_off_at(1);
    drop(sink);
    mem.crash_losing_all_unsynced();
    Snapshotter::open(mem.disk(), dir()).unwrap();
}
