//! What a directory of snapshots looks like to somebody who only reads it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use kvd_snap::{Error, Kind, Listed, SnapshotReader, State, list};
use kvd_vfs::{OpenMode, Vfs};
use std::io::Read;
use std::path::Path;

fn state(mem: &kvd_vfs::MemDisk, listed: &Listed) -> State {
    listed.check(&mem.disk()).unwrap()
}

#[test]
fn files_are_listed_by_term_and_index_with_their_states() {
    let (mem, snapshotter) = setup();
    for (term, index) in [(2, 30), (1, 40), (3, 50)] {
        save(&snapshotter, term, index, &body(1000)).unwrap();
    }
    // One is damaged and was set aside, one is damaged and nobody knows, one is being received; and others' files.
    let flip = |term, index| {
        let mut bytes = mem.read_file(&path(term, index)).unwrap();
        bytes[100] ^= 1;
        mem.overwrite_file(&path(term, index), bytes).unwrap();
    };
    flip(3, 50);
    assert_eq!(snapshotter.newest_of(&[(3, 50)]).unwrap(), None);
    flip(2, 30);
    for name in ["0000000000000004-0000000000000060.7.tmp", "0000000000000004-0000000000000060.tmp", "notes"]
    {
        mem.open(&dir().join(name), OpenMode::CreateNew).unwrap();
    }
    let found = list(&mem.disk(), dir()).unwrap();
    let shapes: Vec<_> = found.iter().map(|file| (file.kind, file.term, file.index)).collect();
    let wanted =
        [(Kind::Snapshot, 1, 40), (Kind::Snapshot, 2, 30), (Kind::Broken, 3, 50), (Kind::Temporary, 4, 0x60)];
    assert_eq!(shapes, wanted);
    assert!(matches!(state(&mem, &found[0]), State::Good(summary) if summary.file_bytes == found[0].bytes));
    assert!(matches!(state(&mem, &found[1]), State::Corrupt(Error::Corrupt { .. })));
    assert!(matches!(state(&mem, &found[2]), State::Broken(Some(Error::Corrupt { .. }))));
    assert!(matches!(state(&mem, &found[3]), State::Temporary));
    assert_eq!(list(&mem.disk(), Path::new("/none")).unwrap(), []);
}

#[test]
fn a_file_that_goes_meanwhile_is_gone_and_an_error_of_the_disk_is_one() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 1, b"one").unwrap();
    save(&snapshotter, 1, 2, b"two").unwrap();
    let found = list(&mem.disk(), dir()).unwrap();
    snapshotter.retain(1).unwrap();
    assert!(matches!(state(&mem, &found[0]), State::Gone));
    mem.fail_nth(kvd_vfs::Op::Read, 1, kvd_vfs::MemDisk::EIO);
    assert!(matches!(found[1].check(&mem.disk()), Err(Error::Io { .. })));
}

#[test]
fn a_name_that_lies_is_damage_and_a_newer_version_is_none() {
    let (mem, snapshotter) = setup();
    save(&snapshotter, 1, 1, b"one").unwrap();
    let bytes = raw(&snapshotter, 1, 1);
    mem.rename(&path(1, 1), &path(1, 2)).unwrap();
    let found = list(&mem.disk(), dir()).unwrap();
    assert!(matches!(state(&mem, &found[0]), State::Corrupt(Error::Other { .. })));
    // Whoever asks for a file by its path gets it under any name.
    let mut text = String::new();
    SnapshotReader::open_file(&mem.disk(), &path(1, 2)).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "one");

    let mut newer = bytes;
    newer[8] = 2;
    let crc = crc32fast::hash(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    mem.overwrite_file(&path(1, 2), newer).unwrap();
    assert!(matches!(found[0].check(&mem.disk()), Err(Error::NewerVersion { found: 2, .. })));
}
