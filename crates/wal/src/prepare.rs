//! Makes segments ahead of need: full of zeros, and synced.
//!
//! An append into written, synced blocks changes no file system metadata, so its sync costs the disk one write. The
//! damage rule needs the zeros too: a sector that is all zeros was never written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use kvd_vfs::{Disk, OpenMode};

use crate::error::{Context, Result};

const CHUNK: usize = 1 << 20;

/// A segment full of zeros, under a temporary name.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
}

/// Where the next segment comes from.
#[derive(Debug)]
pub(crate) struct Preparer {
    disk: Disk,
    dir: PathBuf,
    segment_bytes: u64,
    ahead: Option<Ahead>,
}

/// A thread that always has one segment ready.
#[derive(Debug)]
struct Ahead {
    ready: Option<Receiver<Result<Prepared>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// With `ahead`, a thread prepares; else the caller's own does, when it needs a segment.
    pub(crate) fn new(disk: Disk, dir: PathBuf, segment_bytes: u64, ahead: bool) -> Result<Preparer> {
        let ahead = if ahead { Some(Ahead::start(disk.clone(), dir.clone(), segment_bytes)?) } else { None };
        Ok(Preparer { disk, dir, segment_bytes, ahead })
    }

    /// A segment of at least `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> Result<Prepared> {
        if len <= self.segment_bytes
            && let Some(ready) = self.ahead.as_ref().and_then(|ahead| ahead.ready.as_ref())
            && let Ok(prepared) = ready.recv()
        {
            return prepared;
        }
        let path = self.dir.join("prepared-now.tmp");
        let len = len.max(self.segment_bytes);
        fill(&self.disk, &path, len, &AtomicBool::new(false))?;
        Ok(Prepared { path, len })
    }
}

impl Ahead {
    fn start(disk: Disk, dir: PathBuf, segment_bytes: u64) -> Result<Ahead> {
        let stop = Arc::new(AtomicBool::new(false));
        // No room: the thread holds the one segment that is ready until it is taken.
        let (sender, ready) = sync_channel(0);
        let stopped = stop.clone();
        let path = dir.clone();
        let thread = std::thread::Builder::new()
            .name("wal-prepare".to_owned())
            .spawn(move || run(&disk, &dir, segment_bytes, &sender, &stopped))
            .context("start the preparing thread of", &path)?;
        Ok(Ahead { ready: Some(ready), stop, thread: Some(thread) })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ready = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to report that matters now, not even a panic.
            let _ = thread.join();
        }
    }
}

fn run(disk: &Disk, dir: &Path, len: u64, sender: &SyncSender<Result<Prepared>>, stop: &AtomicBool) {
    // Two names in turn: the one that was taken may not have been renamed yet.
    for turn in (0..2).cycle() {
        let path = dir.join(format!("prepared-{turn}.tmp"));
        let filled = fill(disk, &path, len, stop);
        if stop.load(Ordering::Relaxed)
            || sender.send(filled.map(|()| Prepared { path: path.clone(), len })).is_err()
        {
            // Opening the log removes what cannot be removed now.
            let _ = disk.remove_file(&path);
            return;
        }
    }
}

/// Makes a file of zeros, durable but for its name.
pub(crate) fn fill(disk: &Disk, path: &Path, len: u64, stop: &AtomicBool) -> Result<()> {
    let mut file = disk.open(path, OpenMode::Truncate).context("create", path)?;
    let zeros = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
    let mut at = 0;
    while at < len && !stop.load(Ordering::Relaxed) {
        let n = (len - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], at).context("fill with zeros", path)?;
        at += n;
    }
    file.sync_data().context("sync", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_vfs::{MemDisk, Vfs};

    fn preparer(disk: &MemDisk, ahead: bool) -> Preparer {
        disk.create_dir_all(Path::new("d")).unwrap();
        Preparer::new(disk.disk(), PathBuf::from("d"), 4096, ahead).unwrap()
    }

    #[test]
    fn segments_are_zeros_of_the_wanted_length_either_way() {
        for ahead in [false, true] {
            let disk = MemDisk::new();
            let mut preparer = preparer(&disk, ahead);
            for (want, len) in [(1, 4096), (4095, 4096), (4096, 4096), (4097, 4097)] {
                let prepared = preparer.take(want).unwrap();
                assert_eq!(prepared.len, len);
                assert_eq!(disk.read_file(&prepared.path).unwrap(), vec![0; len as usize]);
                assert_eq!(disk.pending(&prepared.path).unwrap(), 0, "synced");
                disk.remove_file(&prepared.path).unwrap();
            }
            drop(preparer);
            assert_eq!(disk.list(Path::new("d")).unwrap(), [""; 0], "the thread cleans up");
        }
    }

    #[test]
    fn a_full_disk_is_reported_when_the_segment_is_taken() {
        for ahead in [false, true] {
            let disk = MemDisk::new();
            disk.set_capacity(Some(4095));
            let error = preparer(&disk, ahead).take(10).unwrap_err();
            assert!(error.to_string().contains("fill with zeros d/prepared"), "{error}");
        }
    }
}
