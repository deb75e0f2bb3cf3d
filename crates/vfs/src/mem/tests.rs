use super::*;
use crate::SECTOR;
use std::collections::BTreeSet;

fn write(disk: &MemDisk, path: &str, bytes: &[u8]) -> Box<dyn File> {
    let mut file = disk.open(Path::new(path), OpenMode::Truncate).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn synced(disk: &MemDisk, path: &str, bytes: &[u8]) -> Box<dyn File> {
    let mut file = write(disk, path, bytes);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    file
}

#[test]
fn what_was_synced_survives_and_what_was_not_is_lost() {
    let disk = MemDisk::new();
    let mut file = synced(&disk, "f", b"old");
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(disk.read_file(Path::new("f")).unwrap(), b"new");
    disk.crash_losing_all_unsynced();
    assert_eq!(disk.read_file(Path::new("f")).unwrap(), b"old");
    assert!(file.write_all_at(b"x", 0).is_err(), "a handle from before the crash");
    assert!(file.read_at(&mut [0], 0).is_err());
}

#[test]
fn a_crash_lands_every_subset_of_sectors_and_the_seed_decides() {
    let mut seen = BTreeSet::new();
    for seed in 0..64 {
        let run = || {
            let disk = MemDisk::new();
            let mut file = synced(&disk, "f", &[0; 3 * SECTOR]);
            file.write_all_at(&[1; 3 * SECTOR], 0).unwrap();
            disk.crash(seed);
            disk.read_file(Path::new("f")).unwrap()
        };
        let bytes = run();
        assert_eq!(bytes, run());
        let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|s| s[0]).collect();
        assert!(bytes.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])), "a sector is whole");
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn a_name_is_durable_only_after_its_directory_was_synced() {
    let disk = MemDisk::new();
    write(&disk, "lost", b"x").sync_data().unwrap();
    disk.crash_losing_all_unsynced();
    assert!(!disk.exists(Path::new("lost")).unwrap());

    synced(&disk, "a", b"x");
    disk.rename(Path::new("a"), Path::new("b")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..16 {
        let disk = MemDisk::new();
        synced(&disk, "a", b"x");
        disk.rename(Path::new("a"), Path::new("b")).unwrap();
        disk.crash(seed);
        seen.insert(disk.list(Path::new("")).unwrap());
    }
    assert_eq!(
        seen,
        BTreeSet::from([vec!["a".to_owned()], vec!["b".to_owned()]]),
        "one name, never two or none"
    );
}

#[test]
fn a_removed_name_may_come_back() {
    let outcome = |seed| {
        let disk = MemDisk::new();
        synced(&disk, "a", b"x");
        disk.remove_file(Path::new("a")).unwrap();
        assert!(!disk.exists(Path::new("a")).unwrap());
        disk.crash(seed);
        disk.exists(Path::new("a")).unwrap()
    };
    let outcomes: BTreeSet<bool> = (0..16).map(outcome).collect();
    assert_eq!(outcomes.len(), 2);
}

#[test]
fn a_directory_that_a_killed_process_made_is_durable_once_another_has_asked_for_it() {
    for deep in ["/a", "/a/b", "/a/b/c"] {
        for step in 1..=6 {
            let disk = MemDisk::new();
            disk.power_off_at(step);
            let first = disk.create_dir_all(Path::new(deep));
            let next = disk.fork();
            next.create_dir_all(Path::new(deep)).unwrap();
            next.crash_losing_all_unsynced();
            assert!(next.exists(Path::new(deep)).unwrap(), "{deep}, {step}: {first:?}");
        }
    }
}

#[test]
fn a_directory_moves_with_what_is_in_it() {
    let disk = MemDisk::new();
    disk.create_dir_all(Path::new("/x/wal.tmp")).unwrap();
    let mut file = disk.open(Path::new("/x/wal.tmp/f"), OpenMode::CreateNew).unwrap();
    file.write_durable_at(&[1; SECTOR], 0).unwrap();
    disk.sync_dir(Path::new("/x/wal.tmp")).unwrap();
    disk.rename(Path::new("/x/wal.tmp"), Path::new("/x/wal")).unwrap();
    disk.sync_dir(Path::new("/x")).unwrap();
    disk.crash_losing_all_unsynced();
    assert_eq!(disk.list(Path::new("/x/wal")).unwrap(), ["f"]);
    disk.remove_dir_all(Path::new("/x/wal")).unwrap();
    disk.sync_dir(Path::new("/x")).unwrap();
    assert_eq!(disk.used(), 0);
}

#[test]
fn a_failed_sync_is_final() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..16 {
        let disk = MemDisk::new();
        disk.seed_faults(seed);
        let mut file = synced(&disk, "f", b"old");
        file.write_all_at(b"new", 0).unwrap();
        disk.fail_nth(Op::Sync, 1, MemDisk::EIO);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(MemDisk::EIO));
        file.sync_data().unwrap();
        assert_eq!(disk.read_file(Path::new("f")).unwrap(), b"new", "still in the cache");
        disk.crash_losing_all_unsynced();
        outcomes.insert(disk.read_file(Path::new("f")).unwrap());
    }
    assert_eq!(outcomes.len(), 2, "the data may or may not be there");
}

#[test]
fn the_nth_operation_fails_and_no_other() {
    let disk = MemDisk::new();
    let mut file = synced(&disk, "f", b"");
    disk.fail_nth(Op::Write, 2, MemDisk::EIO);
    file.write_all_at(b"1", 0).unwrap();
    assert!(file.write_all_at(b"22", 1).is_err());
    assert_eq!(disk.failures(MemDisk::EIO), 1);
    file.write_all_at(b"3", 0).unwrap();
}

#[test]
fn a_full_disk_refuses_the_byte_beyond() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(1000));
    let mut file = write(&disk, "f", &[0; 999]);
    file.write_all_at(&[1; 1000], 0).unwrap();
    let full = file.write_all_at(&[1], 1000).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert!(file.set_len(1001).is_err());
    file.write_all_at(&[2; 1000], 0).unwrap();
    assert_eq!((disk.failures(MemDisk::ENOSPC), disk.failures(MemDisk::EIO)), (2, 0));
}

#[test]
fn power_goes_in_the_middle_of_an_operation() {
    let disk = MemDisk::new();
    let mut file = synced(&disk, "f", &[0; SECTOR]);
    disk.power_off_at(2);
    file.write_all_at(&[1; SECTOR], 0).unwrap();
    assert!(file.sync_data().is_err());
    assert!(disk.is_off());
    assert!(file.write_all_at(&[2; SECTOR], 0).is_err());
    assert!(disk.open(Path::new("f"), OpenMode::Read).is_err());
    assert!(disk.exists(Path::new("f")).is_err());
    disk.crash_losing_all_unsynced();
    assert_eq!(disk.read_file(Path::new("f")).unwrap(), [0; SECTOR]);
}

#[test]
fn a_lock_excludes_until_dropped_or_the_power_is_lost() {
    let disk = MemDisk::new();
    let path = Path::new("lock");
    let held = disk.lock(path).unwrap();
    assert_eq!(disk.lock(path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(held);
    let held = disk.lock(path).unwrap();
    disk.crash(0);
    let again = disk.lock(path).unwrap();
    drop(held);
    assert!(disk.lock(path).is_err(), "the dead lock released nothing");
    drop(again);
}

#[test]
fn a_file_cut_and_extended_reads_zeros() {
    let disk = MemDisk::new();
    let mut file = write(&disk, "f", &[9; 10]);
    file.set_len(4).unwrap();
    file.write_all_at(&[8], 6).unwrap();
    assert_eq!(disk.read_file(Path::new("f")).unwrap(), [9, 9, 9, 9, 0, 0, 8]);
    assert_eq!(file.read_at(&mut [0; 4], 100).unwrap(), 0);
}
