//! Saves a snapshot, damages the newest one, and loads what is left.
//!
//! `cargo run -p kvd-snap --example save_and_load`

use std::io::Read as _;
use std::sync::Arc;

use kvd_snap::Snapshotter;
use kvd_vfs::RealDisk;
use raft::eraftpb::SnapshotMetadata;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let snapshots = Snapshotter::open(Arc::new(RealDisk::new()), dir.path())?;

    for index in [100, 200] {
        let mut metadata = SnapshotMetadata::default();
        (metadata.term, metadata.index) = (3, index);
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        let bytes = snapshots.save(&metadata, &mut |out| write!(out, "the state at index {index}"))?;
        println!("saved index {index}: {bytes} bytes");
    }

    // One flipped bit in the newer file.
    let newer = dir.path().join(format!("{:016x}-{:016x}.snap", 3, 200));
    let mut bytes = std::fs::read(&newer)?;
    bytes[60] ^= 1;
    std::fs::write(&newer, bytes)?;

    // The log knows which snapshots count. The damaged one is set aside, the older one is found.
    let metadata = snapshots.newest_of(&[(3, 100), (3, 200)])?.ok_or("no snapshot is left")?;
    let mut state = String::new();
    snapshots.read(metadata.term, metadata.index)?.read_to_string(&mut state)?;
    println!("loaded: {state}");
    for entry in std::fs::read_dir(dir.path())? {
        println!("on disk: {}", entry?.file_name().display());
    }
    Ok(())
}
