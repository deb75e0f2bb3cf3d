//! A snapshot of any size is written, checked, read, sent and received in the same memory: measured, for 4 and 64 MiB.
//!
//! The one test of this binary: the allocator counts for the whole process.
#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::io::{self, Read, Write};
use std::sync::Arc;

use kvd_raftpb::peers::SnapshotStore as _;
use kvd_snap::{CHUNK_BYTES, Snapshotter};
use kvd_vfs::RealDisk;
use peak_alloc::PeakAlloc;
use raft::eraftpb::SnapshotMetadata;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A few chunks at a time, on either side.
const BOUND: usize = 8 * CHUNK_BYTES;

/// The most memory that `work` takes, beyond what was taken before.
fn peak(work: impl FnOnce() -> io::Result<()>) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work().unwrap();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

#[test]
fn a_snapshot_of_any_size_takes_a_few_chunks_of_memory() {
    let mut peaks = Vec::new();
    for mebibytes in [4_u64, 64] {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Arc::new(RealDisk::new());
        let sender = Snapshotter::open(disk.clone(), home.path()).unwrap();
        let receiver = Snapshotter::open(disk, other.path()).unwrap();
        let mut metadata = SnapshotMetadata::default();
        (metadata.term, metadata.index) = (2, 7);
        metadata.mut_conf_state().voters = vec![1, 2, 3];

        let len = mebibytes << 20;
        let saving = peak(|| {
            let mut body = |out: &mut dyn Write| io::copy(&mut io::repeat(7).take(len), out).map(drop);
            Ok(sender.save(&metadata, &mut body).map(drop)?)
        });
        let loading = peak(|| Ok(sender.newest_of(&[(2, 7)]).map(drop)?));
        let reading = peak(|| {
            let read = io::copy(&mut sender.read(2, 7)?, &mut io::sink())?;
            assert_eq!(read, len);
            Ok(())
        });
        let moving = peak(|| {
            let (bytes, mut file) = sender.open(2, 7)?;
            let mut sink = receiver.receive(2, 7)?;
            assert_eq!(io::copy(&mut file, &mut sink)?, bytes);
            sink.install()
        });
        assert_eq!(receiver.newest_of(&[(2, 7)]).unwrap(), Some(metadata));
        let all = [("saving", saving), ("loading", loading), ("reading", reading), ("moving", moving)];
        for (what, taken) in all {
            assert!(taken <= BOUND, "{what} {mebibytes} MiB took {taken} bytes of memory");
        }
        peaks.push([saving, loading, reading, moving]);
    }
    for (small, large) in peaks[0].into_iter().zip(peaks[1]) {
        assert!(large <= small + CHUNK_BYTES, "a larger snapshot takes more memory: {peaks:?}");
    }
}
