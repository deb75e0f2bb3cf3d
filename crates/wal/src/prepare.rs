//! Makes segments ahead of need: full of zeros, and synced.
//!
//! An append into written, synced blocks changes no file system metadata, so its sync costs the disk one write. The
//! damage rule needs the zeros too: a sector that is all zeros was never written.
//!
//! A released segment is recycled: it gets a temporary name, and is filled with zeros when the next one is made. Its
//! blocks are allocated already, so that a log which is released as fast as it grows changes nothing in the file system
//! but names.
//!
//! Want of room is waited for, with `prepare_ahead`: see `room.rs`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use kvd_vfs::{Disk, File, OpenMode, failpoint};

use crate::error::{Context, Result};
use crate::room::{Room, Who};

const CHUNK: usize = 1 << 20;

/// Released segments that wait to be recycled; more are deleted.
const SPARES: usize = 2;

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
    spares: Spares,
    room: Room,
    ahead: Option<Ahead>,
}

/// Files that may be overwritten, shared with the thread that makes segments of them.
#[derive(Debug, Clone, Default)]
struct Spares(Arc<Mutex<Vec<PathBuf>>>);

impl Spares {
    fn has_room(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() < SPARES
    }

    fn put(&self, path: PathBuf) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }

    fn take(&self) -> Option<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
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
        let spares = Spares::default();
        let maker = Maker { disk: disk.clone(), dir: dir.clone(), spares: spares.clone() };
        let room = Room::default();
        let ahead = if ahead { Some(Ahead::start(maker, segment_bytes, room.clone())?) } else { None };
        Ok(Preparer { disk, dir, segment_bytes, spares, room, ahead })
    }

    /// Whether there is room for the next segment.
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Takes a segment away that nobody needs, durably: to be recycled, or for good.
    pub(crate) fn release(&mut self, path: &Path, seq: u64) -> Result<()> {
        if !self.spares.has_room() {
            self.disk.remove_file(path).context("remove", path)?;
            return self.disk.sync_dir(&self.dir).context("sync", &self.dir);
        }
        let spare = self.dir.join(format!("released-{seq:016x}.tmp"));
        failpoint!("wal-release-before-rename");
        self.disk.rename(path, &spare).context("rename", path)?;
        failpoint!("wal-release-after-rename");
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        failpoint!("wal-release-after-sync");
        // Not earlier: after a crash it could have its old name again, and must not be full of zeros then.
        self.spares.put(spare);
        Ok(())
    }

    /// A segment of at least `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> Result<Prepared> {
        if len <= self.segment_bytes
            && let Some(ready) = self.ahead.as_ref().and_then(|ahead| ahead.ready.as_ref())
            && let Ok(prepared) = ready.recv()
        {
            return prepared;
        }
        let maker = Maker { disk: self.disk.clone(), dir: self.dir.clone(), spares: self.spares.clone() };
        let len = len.max(self.segment_bytes);
        let running = AtomicBool::new(false);
        if self.ahead.is_none() {
            return maker.make("prepared-now.tmp", len, &running);
        }
        maker.make_when_there_is_room("prepared-now.tmp", len, &running, &self.room, Who::Now)
    }
}

/// Makes segments, of spare files if there are any.
struct Maker {
    disk: Disk,
    dir: PathBuf,
    spares: Spares,
}

impl Maker {
    fn make(&self, name: &str, len: u64, stop: &AtomicBool) -> Result<Prepared> {
        let path = self.dir.join(name);
        match self.spares.take() {
            None => fill(&self.disk, &path, len, stop)?,
            Some(spare) => {
                self.disk.rename(&spare, &path).context("rename", &spare)?;
                let file = self.disk.open(&path, OpenMode::Write).context("open", &path)?;
                overwrite(file, &path, len, stop)?;
            }
        }
        Ok(Prepared { path, len })
    }

    /// Tries again for as long as there is no room, unless told to stop or to give up; then it is the error.
    fn make_when_there_is_room(
        &self,
        name: &str,
        len: u64,
        stop: &AtomicBool,
        room: &Room,
        who: Who,
    ) -> Result<Prepared> {
        loop {
            let made = self.make(name, len, stop);
            let Err(error) = &made else {
                room.set(who, false);
                return made;
            };
            if !error.is_no_space() {
                return made;
            }
            // What it got is of use to others meanwhile. It was never a part of the log, so nothing is lost, not even
            // if it cannot be removed: then the next attempt makes it empty.
            let _ = self.disk.remove_file(&self.dir.join(name));
            room.set(who, true);
            if !room.wait() || stop.load(Ordering::Relaxed) {
                return made;
            }
        }
    }
}

impl Ahead {
    fn start(maker: Maker, segment_bytes: u64, room: Room) -> Result<Ahead> {
        let stop = Arc::new(AtomicBool::new(false));
        // No room: the thread holds the one segment that is ready until it is taken.
        let (sender, ready) = sync_channel(0);
        let stopped = stop.clone();
        let path = maker.dir.clone();
        let thread = std::thread::Builder::new()
            .name("wal-prepare".to_owned())
            .spawn(move || run(&maker, segment_bytes, &sender, &stopped, &room))
            .context("start the preparing thread of", &path)?;
        Ok(Ahead { ready: Some(ready), stop, thread: Some(thread) })
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.stop.store(true, Ordering::Relaxed);
        }
        self.room.give_up();
        self.ahead = None;
        while let Some(spare) = self.spares.take() {
            // Opening the log removes what cannot be removed now.
            let _ = self.disk.remove_file(&spare);
        }
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

fn run(maker: &Maker, len: u64, sender: &SyncSender<Result<Prepared>>, stop: &AtomicBool, room: &Room) {
    // Two names in turn: the one that was taken may not have been renamed yet.
    for name in ["prepared-0.tmp", "prepared-1.tmp"].iter().cycle() {
        let made = maker.make_when_there_is_room(name, len, stop, room, Who::Ahead);
        if stop.load(Ordering::Relaxed) || sender.send(made).is_err() {
            // Opening the log removes what cannot be removed now.
            let _ = maker.disk.remove_file(&maker.dir.join(name));
            return;
        }
    }
}

/// Makes a file of zeros, durable but for its name.
pub(crate) fn fill(disk: &Disk, path: &Path, len: u64, stop: &AtomicBool) -> Result<()> {
    let file = disk.open(path, OpenMode::Truncate).context("create", path)?;
    overwrite(file, path, len, stop)
}

/// Makes a file as long as is wanted, all of it zeros, and durable.
fn overwrite(mut file: Box<dyn File>, path: &Path, len: u64, stop: &AtomicBool) -> Result<()> {
    if file.len().context("read", path)? > len {
        file.set_len(len).context("cut", path)?;
    }
    let zeros = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
    let mut at = 0;
    while at < len && !stop.load(Ordering::Relaxed) {
        let n = (len - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..n as usize], at).context("fill with zeros", path)?;
        at += n;
    }
    failpoint!("wal-prepare-before-sync");
    file.sync_data().context("sync", path)?;
    failpoint!("wal-prepare-after-sync");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvd_vfs::{MemDisk, Op, Vfs};

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
    fn a_released_segment_becomes_zeros_of_the_wanted_length_and_few_wait() {
        let disk = MemDisk::new();
        let mut preparer = preparer(&disk, false);
        let put = |name: &str, len: usize| {
            let path = PathBuf::from("d").join(name);
            let mut file = disk.open(&path, OpenMode::CreateNew).unwrap();
            file.write_all_at(&vec![7; len], 0).unwrap();
            path
        };
        for (seq, len) in [(1, 4096), (2, 9000), (3, 100)] {
            preparer.release(&put("s", len), seq).unwrap();
        }
        let names = disk.list(Path::new("d")).unwrap();
        assert_eq!(names, ["released-0000000000000001.tmp", "released-0000000000000002.tmp"]);
        for want in [4096, 5000] {
            let path = preparer.take(want).unwrap().path;
            assert_eq!(disk.read_file(&path).unwrap(), vec![0; want as usize]);
            assert_eq!(disk.pending(&path).unwrap(), 0, "synced");
            disk.rename(&path, Path::new("d/used")).unwrap();
        }
        preparer.release(&put("t", 100), 4).unwrap();
        drop(preparer);
        assert_eq!(disk.list(Path::new("d")).unwrap(), ["used"]);
    }

    #[test]
    fn what_may_get_its_name_back_in_a_crash_is_not_overwritten() {
        let disk = MemDisk::new();
        let mut preparer = preparer(&disk, false);
        let path = PathBuf::from("d/s");
        let mut file = disk.open(&path, OpenMode::CreateNew).unwrap();
        file.write_all_at(&[7; 4096], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        disk.fail_nth(Op::SyncDir, 1, MemDisk::EIO);
        preparer.release(&path, 1).unwrap_err();
        preparer.take(4096).unwrap();
        disk.crash_losing_all_unsynced();
        assert!(disk.read_file(&path).unwrap() == [7; 4096], "under its old name it is as it was");
    }

    #[test]
    fn a_full_disk_is_reported_when_the_segment_is_taken_on_the_callers_thread() {
        let disk = MemDisk::new();
        disk.set_capacity(Some(4095));
        let error = preparer(&disk, false).take(10).unwrap_err();
        assert!(error.to_string().contains("fill with zeros d/prepared"), "{error}");
    }

    /// A preparer on a disk with room for one segment, which was taken; it has said that it lacks room.
    fn without_room() -> (MemDisk, Preparer, Receiver<bool>) {
        let disk = MemDisk::new();
        disk.set_capacity(Some(4096));
        let mut preparer = preparer(&disk, true);
        let (sender, said) = std::sync::mpsc::channel();
        preparer.room().watch(move |full| sender.send(full).unwrap());
        disk.rename(&preparer.take(1).unwrap().path, Path::new("d/used")).unwrap();
        assert!(said.recv().unwrap());
        (disk, preparer, said)
    }

    #[test]
    fn a_segment_is_prepared_as_soon_as_there_is_room() {
        for want in [10, 5000] {
            let (disk, mut preparer, said) = without_room();
            let taking = std::thread::spawn(move || {
                let len = preparer.take(want).unwrap().len;
                (preparer, len)
            });
            disk.set_capacity(None);
            let (preparer, len) = taking.join().unwrap();
            assert_eq!(len, want.max(4096));
            assert!(!said.recv().unwrap(), "it says that it has room");
            assert!(!preparer.room().is_full());
        }
    }

    #[test]
    fn what_an_attempt_got_is_given_back() {
        let (disk, mut preparer, _said) = without_room();
        preparer.room().give_up();
        preparer.take(10).unwrap_err();
        drop(preparer);
        assert_eq!(disk.list(Path::new("d")).unwrap(), ["used"]);
    }

    #[test]
    fn giving_up_ends_the_wait_with_the_error() {
        for want in [10, 5000] {
            let (_disk, mut preparer, _said) = without_room();
            let room = preparer.room().clone();
            let taking = std::thread::spawn(move || preparer.take(want).unwrap_err());
            room.give_up();
            assert!(taking.join().unwrap().is_no_space());
        }
    }

    #[test]
    fn a_disk_that_fails_otherwise_is_not_waited_for() {
        let disk = MemDisk::new();
        let mut preparer = preparer(&disk, true);
        drop(preparer.take(1));
        drop(preparer.take(1));
        disk.fail_nth(Op::Write, 1, MemDisk::EIO);
        while let Ok(prepared) = preparer.take(10) {
            disk.remove_file(&prepared.path).unwrap();
        }
        assert!(!preparer.room().is_full());
    }
}
