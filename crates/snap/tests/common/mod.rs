//! What the tests share: a disk in memory with a snapshotter on it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kvd_raftpb::peers::SnapshotStore;
use kvd_snap::Snapshotter;
use kvd_vfs::{Disk, MemDisk};
use raft::eraftpb::SnapshotMetadata;

pub fn dir() -> &'static Path {
    Path::new("/member/snap")
}

pub fn setup() -> (MemDisk, Snapshotter) {
    let mem = MemDisk::new();
    let snapshotter = Snapshotter::open(mem.disk(), dir()).unwrap();
    (mem, snapshotter)
}

pub fn metadata(term: u64, index: u64) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (term, index);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    metadata
}

/// Bytes without a pattern that chunks could share.
pub fn body(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

pub fn save(snapshotter: &Snapshotter, term: u64, index: u64, body: &[u8]) -> kvd_snap::Result<u64> {
    snapshotter.save(&metadata(term, index), &mut |out| out.write_all(body))
}

pub fn read(snapshotter: &Snapshotter, term: u64, index: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    snapshotter.read(term, index)?.read_to_end(&mut out)?;
    Ok(out)
}

pub fn path(term: u64, index: u64) -> PathBuf {
    dir().join(format!("{term:016x}-{index:016x}.snap"))
}

pub fn names(disk: &Disk) -> Vec<String> {
    disk.list(dir()).unwrap()
}

/// The raw bytes of a stored snapshot.
pub fn raw(snapshotter: &Snapshotter, term: u64, index: u64) -> Vec<u8> {
    let (len, mut reader) = snapshotter.open(term, index).unwrap();
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    assert_eq!(out.len() as u64, len);
    out
}

/// Receives bytes in pieces, and installs them.
pub fn receive(
    snapshotter: &Snapshotter,
    term: u64,
    index: u64,
    bytes: &[u8],
    piece: usize,
) -> io::Result<()> {
    let mut sink = snapshotter.receive(term, index)?;
    for piece in bytes.chunks(piece) {
        sink.write_all(piece)?;
    }
    sink.install()
}

/// The typed error inside an I/O error.
pub fn typed(error: &io::Error) -> &kvd_snap::Error {
    error.get_ref().and_then(|e| e.downcast_ref()).unwrap_or_else(|| panic!("not typed: {error:?}"))
}
