//! Log directories made of bytes, and what must hold for any of them.
//!
//! The format is written out here once more, from docs/wal-format.md and not from the code: an error in the one is not
//! an error in the other.

use std::path::Path;

use kvd_vfs::{MemDisk, OpenMode, Vfs as _};
use kvd_wal::{Error, Options, ReadBack, Replay, SnapshotRecord, Wal, recorded_snapshots, verify};
use raft::eraftpb::{Entry, HardState};

pub(crate) const SECTOR: usize = 512;
pub(crate) const HEADER: usize = 64;
const DIR: &str = "/wal";
/// Snapshots of one log that it is opened at: beyond a few there is nothing new.
const MOST_SNAPSHOTS: usize = 3;

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn options() -> Options {
    Options { segment_bytes: 4096, prepare_ahead: false, replay_bytes: u64::MAX }
}

/// Corrects the header at the start of `batch`, which reaches to the end of the segment, for its place. What the low bits
/// of byte 6, which the format leaves unused, name stays as it is: 1 the place, 2 the checksum of the batch, 4 the
/// chain, 8 the checksum of the header, 16 the durable offset. Returns the batch's length and the chain for the next.
pub(crate) fn correct_header(batch: &mut [u8], seq: u64, offset: u64, chain: u32) -> (usize, u32) {
    let leave = batch[6];
    batch[6] = 0;
    if leave & 1 == 0 {
        batch[8..16].copy_from_slice(&seq.to_le_bytes());
        batch[16..24].copy_from_slice(&offset.to_le_bytes());
    }
    if leave & 16 == 0 {
        batch[24..32].copy_from_slice(&offset.to_le_bytes());
    }
    let length = u32::from_le_bytes([batch[32], batch[33], batch[34], batch[35]]) as usize;
    let len = SECTOR + length.saturating_sub(SECTOR - HEADER).div_ceil(SECTOR - 1) * SECTOR;
    if leave & 2 == 0 && len <= batch.len() {
        let crc = crc32fast::hash(&batch[HEADER..len]);
        batch[36..40].copy_from_slice(&crc.to_le_bytes());
    }
    if leave & 4 == 0 {
        batch[40..44].copy_from_slice(&chain.to_le_bytes());
    }
    if leave & 8 == 0 {
        let crc = crc32fast::hash(&batch[..60]);
        batch[60..64].copy_from_slice(&crc.to_le_bytes());
    }
    (len, u32::from_le_bytes([batch[60], batch[61], batch[62], batch[63]]))
}

/// A segment: its sequence number, first index and bytes.
pub(crate) type Segment = (u64, u64, Vec<u8>);

fn disk(segments: &[Segment]) -> MemDisk {
    let mem = MemDisk::new();
    mem.create_dir_all(dir()).expect("a new disk takes a directory");
    for (seq, first, bytes) in segments {
        let path = dir().join(format!("{seq:016x}-{first:016x}.wal"));
        mem.open(&path, OpenMode::Truncate).expect("a new file");
        mem.overwrite_file(&path, bytes.clone()).expect("it was just made");
    }
    mem.sync_dir(dir()).expect("a sync");
    mem
}

fn files(mem: &MemDisk) -> Vec<(String, Vec<u8>)> {
    let names = mem.list(dir()).expect("list").into_iter().filter(|name| name.ends_with(".wal"));
    names.map(|name| (name.clone(), mem.read_file(&dir().join(name)).expect("read"))).collect()
}

/// Opens the directory wherever it can be opened, and goes on with it.
///
/// # Panics
/// If a promise of the log is broken.
pub(crate) fn check(segments: &[Segment]) {
    let mem = disk(segments);
    let _ = Wal::read_metadata(&mem.disk(), dir());
    let mut at = recorded_snapshots(&mem.disk(), dir()).unwrap_or_default();
    at.truncate(MOST_SNAPSHOTS);
    at.push(SnapshotRecord::default());
    for at in at {
        open_at(&disk(segments), at);
    }
}

fn open_at(mem: &MemDisk, at: SnapshotRecord) {
    let before = files(mem);
    let verified = verify(&mem.disk(), dir(), at);
    assert_eq!(files(mem), before, "verify only reads");
    let (wal, replay) = match Wal::open(mem.disk(), dir(), at, options()) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(verified.is_err(), "verify passed what cannot be opened: {error}");
            assert_eq!(files(mem), before, "a refusal changed something: {error}");
            return;
        }
    };
    let report = verified.expect("what can be opened passes verify");
    assert_eq!(report.hard_state, replay.hard_state);
    assert_eq!(report.last_index, wal.last_index());
    assert_eq!(report.torn.map(|torn| torn.offset), replay.torn.as_ref().map(|torn| torn.offset));
    contiguous(&replay, at);
    append_and_reopen(mem, at, wal, replay);
}

fn contiguous(replay: &Replay, at: SnapshotRecord) {
    for (entry, index) in replay.entries.iter().zip(at.index + 1..) {
        assert_eq!(entry.index, index, "entries follow the snapshot, and each other");
    }
}

fn append_and_reopen(mem: &MemDisk, at: SnapshotRecord, mut wal: Wal, replay: Replay) {
    let last = wal.last_index();
    if last >= 1 << 63 {
        // The last index of a log: nothing goes behind it.
        return;
    }
    let mut entry = Entry::default();
    (entry.index, entry.term) = (last + 1, replay.hard_state.term);
    entry.data = b"appended".as_slice().into();
    let mut state = HardState::default();
    (state.term, state.vote) = (replay.hard_state.term.saturating_add(1), 1);
    state.commit = replay.hard_state.commit;
    wal.save(std::slice::from_ref(&entry), Some(&state), true).expect("a sound disk takes an entry");
    let mut want = replay.entries.clone();
    want.push(entry.clone());
    match wal.reader().read(entry.index, entry.index + 1, u64::MAX) {
        Ok(ReadBack::Entries(read)) => assert_eq!(read, [entry], "what was just appended is read back"),
        other => panic!("what was just appended is not read back: {other:?}"),
    }
    // Without a closing record: as after a kill.
    drop(wal);
    mem.crash_losing_all_unsynced();
    let (wal, again) = match Wal::open(mem.disk(), dir(), at, options()) {
        Ok(opened) => opened,
        Err(error) => panic!("what was opened and appended to does not open again: {error}"),
    };
    assert!(again.torn.is_none(), "a cut is final, and what was saved is whole");
    assert_eq!(again.entries, want, "acknowledged entries are there, and no others");
    assert_eq!(again.hard_state, state, "votes and terms never go back");
    wal.close().expect("a sound disk takes the closing record");
    match verify(&mem.disk(), dir(), at) {
        Ok(report) => assert!(report.closed),
        Err(error @ Error::Io { .. }) => panic!("{error}"),
        Err(error) => panic!("a log that was closed does not pass: {error}"),
    }
}
