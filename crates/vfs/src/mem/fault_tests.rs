use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use super::*;
use crate::SECTOR;

const F: &str = "f";

fn path() -> &'static Path {
    Path::new(F)
}

fn synced(bytes: &[u8]) -> (MemDisk, Box<dyn File>) {
    let disk = MemDisk::new();
    let mut file = disk.open(path(), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    (disk, file)
}

fn bytes(disk: &MemDisk) -> Vec<u8> {
    disk.read_file(path()).unwrap()
}

#[test]
fn a_short_write_lands_its_first_bytes_and_fails() {
    for (asked, lands) in [(0, 0), (1, 1), (699, 699), (700, 700), (701, 700), (u64::MAX, 700)] {
        let (disk, mut file) = synced(&[0; 1000]);
        disk.short_write_nth(2, asked, MemDisk::ENOSPC);
        file.write_all_at(&[1; 100], 0).unwrap();
        let error = file.write_all_at(&[2; 700], 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let mut want = [[1; 100].as_slice(), &[0; 900]].concat();
        want[100..100 + lands].fill(2);
        assert!(bytes(&disk) == want, "{asked}");
        disk.crash_losing_all_unsynced();
        assert_eq!(bytes(&disk), [0; 1000], "nothing of it is durable");
    }
}

#[test]
fn rot_flips_one_bit_or_zeroes_one_sector_of_what_is_durable() {
    let good = vec![0xff; 2 * SECTOR + 10];
    for (rot, from, to, byte) in [
        (Rot::Bit(0), 0, 1, 0xfe),
        (Rot::Bit(8 * 700 + 7), 700, 701, 0x7f),
        (Rot::Sector(1), SECTOR, 2 * SECTOR, 0),
        (Rot::Sector(2), 2 * SECTOR, 2 * SECTOR + 10, 0),
    ] {
        let (disk, _) = synced(&good);
        disk.rot(path(), rot).unwrap();
        let mut want = good.clone();
        want[from..to].fill(byte);
        assert!(bytes(&disk) == want, "{rot:?}");
        disk.crash_losing_all_unsynced();
        assert!(bytes(&disk) == want, "{rot:?}");
        assert_eq!(disk.pending(path()).unwrap(), 0);
    }
    let (disk, _) = synced(&good);
    for beyond in [Rot::Bit(8 * good.len() as u64), Rot::Sector(3), Rot::Sector(u64::MAX)] {
        disk.rot(path(), beyond).unwrap_err();
    }
    assert!(bytes(&disk) == good);
    disk.rot(Path::new("none"), Rot::Bit(0)).unwrap_err();
}

#[test]
fn rot_under_a_write_is_seen_once_the_write_is_lost() {
    let (disk, mut file) = synced(&[7; 2 * SECTOR]);
    file.write_all_at(&[8; SECTOR], 0).unwrap();
    disk.rot(path(), Rot::Bit(0)).unwrap();
    disk.rot(path(), Rot::Bit(8 * SECTOR as u64)).unwrap();
    let seen = bytes(&disk);
    assert_eq!((seen[0], seen[SECTOR]), (8, 6), "the cache has the first sector");
    disk.crash_losing_all_unsynced();
    assert_eq!(bytes(&disk)[0], 6);
}

#[test]
fn rot_from_a_seed_is_the_same_each_time_and_of_both_kinds() {
    let rot = |seed| {
        let (disk, _) = synced(&[0xff; 2 * SECTOR]);
        let rot = disk.rot_somewhere(path(), seed).unwrap();
        assert!(bytes(&disk) != [0xff; 2 * SECTOR]);
        (rot, bytes(&disk))
    };
    let drawn: Vec<_> = (0..32).map(rot).collect();
    assert!(drawn == (0..32).map(rot).collect::<Vec<_>>());
    assert!(drawn.iter().any(|(rot, _)| matches!(rot, Rot::Bit(_))));
    let sectors: BTreeSet<u64> =
        drawn.iter().filter_map(|(rot, _)| if let Rot::Sector(n) = rot { Some(*n) } else { None }).collect();
    assert_eq!(sectors, BTreeSet::from([0, 1]));
    let (empty, _) = synced(&[]);
    empty.rot_somewhere(path(), 0).unwrap_err();
}

#[test]
fn a_stalled_operation_returns_when_it_is_released_and_no_other_waits() {
    let (disk, mut file) = synced(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.stall_nth(Op::Sync, 1);
    let sync = thread::spawn(move || file.sync_data().map(|()| file));
    while disk.stalled() == 0 {
        thread::yield_now();
    }
    // Everything else goes on meanwhile, another sync of another file too.
    let mut other = disk.open(Path::new("g"), OpenMode::CreateNew).unwrap();
    other.sync_data().unwrap();
    assert!(disk.pending(path()).unwrap() > 0, "it has not taken effect");
    assert_eq!(disk.stalled(), 1);
    disk.release();
    sync.join().unwrap().unwrap();
    assert_eq!((disk.stalled(), disk.pending(path()).unwrap()), (0, 0));
}

#[test]
fn power_loss_ends_a_stall() {
    for op in [Op::Read, Op::Write, Op::SetLen, Op::Sync, Op::SyncDir, Op::Create, Op::Rename, Op::Remove] {
        let (disk, mut file) = synced(b"old");
        disk.stall_nth(op, 1);
        let (handle, name) = (disk.clone(), Path::new("g"));
        let stalled = thread::spawn(move || match op {
            Op::Read => file.read_at(&mut [0], 0).map(drop),
            Op::Write => file.write_all_at(b"new", 0),
            Op::SetLen => file.set_len(0),
            Op::Sync => file.sync_data(),
            Op::SyncDir => handle.sync_dir(Path::new("")),
            Op::Create => handle.open(name, OpenMode::CreateNew).map(drop),
            Op::Rename => handle.rename(path(), name),
            Op::Remove => handle.remove_file(path()),
        });
        while disk.stalled() == 0 {
            thread::yield_now();
        }
        disk.crash_losing_all_unsynced();
        let result = stalled.join().unwrap();
        // A handle is dead after the crash. A call by name is one of the process that comes after it.
        let by_name = matches!(op, Op::SyncDir | Op::Create | Op::Rename | Op::Remove);
        assert_eq!(result.is_ok(), by_name, "{op:?}");
    }
}

#[test]
fn a_delay_is_virtual_and_told_once() {
    let (disk, mut file) = synced(b"old");
    disk.delay_nth(Op::Sync, 2, Duration::from_secs(3600));
    disk.delay_nth(Op::Write, 1, Duration::from_secs(1));
    file.sync_data().unwrap();
    assert_eq!(disk.take_delay(), Duration::ZERO);
    file.write_all_at(b"new", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.take_delay(), Duration::from_secs(3601));
    file.sync_data().unwrap();
    assert_eq!(disk.take_delay(), Duration::ZERO);
}

#[test]
fn faults_that_are_cleared_do_not_happen() {
    let (disk, mut file) = synced(b"old");
    disk.short_write_nth(1, 0, MemDisk::EIO);
    disk.stall_nth(Op::Write, 1);
    disk.delay_nth(Op::Write, 1, Duration::from_secs(1));
    disk.power_off_at(1);
    disk.clear_faults();
    file.write_all_at(b"new", 0).unwrap();
    assert_eq!(disk.take_delay(), Duration::ZERO);
}

#[test]
fn a_chosen_crash_is_asked_for_what_matters_and_gives_every_outcome() {
    let (disk, mut file) = synced(&[0; 3 * SECTOR]);
    // The middle sector is written as it was, and the length does not change: neither is a choice.
    file.write_all_at(&[[1; SECTOR], [0; SECTOR], [2; SECTOR]].concat(), 0).unwrap();
    disk.rename(path(), Path::new("g")).unwrap();
    let mut outcomes = BTreeSet::new();
    for choices in 0..8 {
        let image = disk.fork();
        let mut asked = 0;
        image.crash_choosing(&mut || {
            asked += 1;
            choices >> (asked - 1) & 1 == 1
        });
        assert_eq!(asked, 3);
        let name = image.list(Path::new("")).unwrap().remove(0);
        let bytes = image.read_file(Path::new(&name)).unwrap();
        outcomes.insert((name, bytes[0], bytes[2 * SECTOR]));
    }
    assert_eq!(outcomes.len(), 8);
    assert_eq!(disk.pending(path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(disk.pending(Path::new("g")).unwrap() > 0, "the disk itself has lost nothing");
}

#[test]
fn a_fork_is_what_the_next_process_finds_and_another_disk() {
    let (disk, mut file) = synced(b"old");
    let lock = disk.lock(Path::new("lock")).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    disk.power_off_at(1);
    file.write_all_at(b"NEW", 0).unwrap_err();
    let fork = disk.fork();
    assert!(disk.is_off() && !fork.is_off());
    assert_eq!(bytes(&fork), b"NEW", "the cache outlives the process");
    drop(fork.lock(Path::new("lock")).unwrap());
    fork.remove_file(path()).unwrap();
    disk.crash_losing_all_unsynced();
    assert_eq!(bytes(&disk), b"old");
    drop(lock);
}
