//! Appends to a log, loses power in the middle of a write, and recovers what was acknowledged.

use std::path::Path;

use kvd_vfs::MemDisk;
use kvd_wal::{Options, SnapshotRecord, Wal};
use raft::eraftpb::{Entry, HardState};

fn entry(index: u64, data: String) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, 1, data.into());
    entry
}

fn main() -> kvd_wal::Result<()> {
    // `Arc::new(kvd_vfs::RealDisk::new())` is the disk to use in earnest; this one can lose its power.
    let disk = MemDisk::new();
    let dir = Path::new("/member/wal");
    let options = Options { segment_bytes: 64 << 10, prepare_ahead: false, ..Options::default() };

    let mut wal = Wal::create(disk.disk(), dir, b"cluster 7, member 1", None, options.clone())?;
    let mut state = HardState::default();
    (state.term, state.vote) = (1, 1);
    wal.save(&[entry(1, "acknowledged".into())], Some(&state), true)?;

    disk.power_off_at(1);
    let lost = wal.save(&[entry(2, "torn ".repeat(1000))], None, true);
    println!("the second save: {lost:?}");
    drop(wal);
    disk.crash(6);

    let (wal, replay) = Wal::open(disk.disk(), dir, SnapshotRecord::default(), options)?;
    if let Some(torn) = &replay.torn {
        println!("cut at offset {}: {}", torn.offset, torn.finding);
    }
    for entry in &replay.entries {
        println!("entry {}: {}", entry.index, String::from_utf8_lossy(&entry.data));
    }
    assert_eq!((replay.entries.len(), replay.hard_state), (1, state));
    wal.close()
}
