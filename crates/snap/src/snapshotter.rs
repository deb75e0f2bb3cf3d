//! The directory of snapshots.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvd_mutation::{Bug, planted};
use kvd_vfs::{Disk, failpoint};
use raft::eraftpb::SnapshotMetadata;

use crate::error::Error;
use crate::loading::{self, Finding, Verdict};
use crate::reader::{self, SnapshotReader};
use crate::write::{BodyWriter, TempFile};

pub(crate) const SUFFIX: &str = ".snap";
pub(crate) const BROKEN_SUFFIX: &str = ".snap.broken";
pub(crate) const TEMP_SUFFIX: &str = ".tmp";
/// As (term, index): newer than any snapshot.
const EVERYTHING: (u64, u64) = (u64::MAX, u64::MAX);

/// Writes, reads and keeps the snapshots of one member.
///
/// Clones share the directory and may be used from several threads at once: a save, a receive and any number of
/// reads do not disturb each other. All operations block; call them off the event loop.
#[derive(Debug, Clone)]
pub struct Snapshotter {
    pub(crate) dir: Arc<Directory>,
}

impl Snapshotter {
    /// Opens a directory, creating it if need be, and removes the temporary files that a crash left there: nobody
    /// else may be writing in it. The names that are left are durable.
    pub fn open(disk: Disk, dir: &Path) -> Result<Self, Error> {
        disk.create_dir_all(dir).map_err(Error::io("creating the directory", dir))?;
        let dir = Arc::new(Directory {
            disk,
            path: dir.to_owned(),
            next_temp: AtomicU64::new(0),
            names: Mutex::new(Names::default()),
        });
        dir.remove_all(dir.list()?.into_iter().filter(|name| name.ends_with(TEMP_SUFFIX)))?;
        // What a process did that was killed before it had synced is to be seen after a power loss, too.
        dir.sync()?;
        Ok(Self { dir })
    }

    /// Writes a snapshot with the body that `write` produces, atomically and durably. Returns the length of the
    /// file in bytes. A snapshot of the same term and index is replaced.
    ///
    /// The writer that `write` is given buffers by itself. An error that `write` returns comes back as
    /// [`Error::Body`]; an error of the disk as [`Error::Io`], even if `write` dropped it. Neither leaves a file.
    pub fn save(
        &self,
        metadata: &SnapshotMetadata,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<u64, Error> {
        let temp = TempFile::create(self.dir.clone(), metadata.term, metadata.index)?;
        let mut body = BodyWriter::start(temp, metadata)?;
        let written = write(&mut body);
        if let Some(failure) = body.take_failure() {
            return Err(failure);
        }
        written.map_err(|source| Error::Body { path: body.target().to_owned(), source })?;
        body.finish()?.publish()
    }

    /// The metadata of the newest snapshot among those that the log `recorded` (as term and index), after reading
    /// its whole file.
    ///
    /// A recorded snapshot without a file is passed over. A damaged file gets the suffix `.broken` (kept as
    /// evidence, until [`Snapshotter::retain`] passes it) and the next older one is tried. An I/O error, or a file of
    /// a newer format version, is an error, and the file stays. `None` if nothing is left.
    pub fn newest_of(&self, recorded: &[(u64, u64)]) -> Result<Option<SnapshotMetadata>, Error> {
        let mut wanted = recorded.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        self.dir.note_recorded(wanted.last().copied().unwrap_or_default());
        let present = self.dir.snapshots()?;
        for id in wanted.into_iter().rev() {
            let read = present.contains(&id).then(|| self.dir.verify(id));
            let verdict = loading::decide(read.as_ref().map_or(Finding::Absent, Finding::of));
            match (verdict, read) {
                (Verdict::SetAside, Some(Err(error))) => {
                    let broken = self.dir.set_aside(id.0, id.1)?;
                    tracing::warn!(%error, kept_as = %broken.display(), "damaged snapshot set aside");
                }
                (_, Some(read)) => return read.map(Some),
                (_, None) => {}
            }
        }
        Ok(None)
    }

    /// Opens the snapshot of that term and index for reading its body.
    pub fn read(&self, term: u64, index: u64) -> Result<SnapshotReader, Error> {
        SnapshotReader::open(&self.dir.disk, &self.dir.path(term, index), (term, index))
    }

    /// Removes all but the newest `keep` snapshots (at least one), and `.broken` ones older than those that stay.
    /// Returns what is left as term and index, ascending.
    ///
    /// A file counts whether or not the log recorded it. Where another thread may have installed a snapshot that is
    /// not recorded yet, use [`Snapshotter::retain_up_to`]: else the recorded one could go first.
    pub fn retain(&self, keep: usize) -> Result<Vec<(u64, u64)>, Error> {
        self.retain_up_to(keep, EVERYTHING)
    }

    /// As [`Snapshotter::retain`], but snapshots newer than `recorded`, the newest (term, index) that the log
    /// recorded, all stay and are not counted.
    pub fn retain_up_to(&self, keep: usize, recorded: (u64, u64)) -> Result<Vec<(u64, u64)>, Error> {
        if recorded != EVERYTHING {
            self.dir.note_recorded(recorded);
        }
        let present = self.dir.snapshots()?;
        let counted = present.partition_point(|id| *id <= recorded);
        let (gone, left) = present.split_at(counted.saturating_sub(keep.max(1)));
        let broken = self.dir.list()?.into_iter().filter_map(|name| {
            let id = parse_name(&name, BROKEN_SUFFIX)?;
            left.first().is_some_and(|oldest| id < *oldest).then_some(name)
        });
        let names = gone.iter().map(|(term, index)| file_name(*term, *index));
        self.dir.remove_all(names.chain(broken.collect::<Vec<_>>()))?;
        Ok(left.to_vec())
    }

    /// Removes the snapshots that the log did not record (as term and index): a crash came between the file and its
    /// record. For use at start, before anything is saved or received.
    pub fn remove_unrecorded(&self, recorded: &[(u64, u64)]) -> Result<(), Error> {
        let unrecorded = self.dir.snapshots()?.into_iter().filter(|id| !recorded.contains(id));
        self.dir.remove_all(unrecorded.map(|(term, index)| file_name(term, index)))
    }
}

/// What the clones of a [`Snapshotter`] and its open files share.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) disk: Disk,
    path: PathBuf,
    /// Makes the names of temporary files distinct.
    next_temp: AtomicU64,
    /// Held while final names change.
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// (term, index) of the newest snapshot that the log is known to have recorded.
    recorded: (u64, u64),
}

impl Directory {
    /// The final name of a snapshot.
    pub(crate) fn path(&self, term: u64, index: u64) -> PathBuf {
        self.path.join(file_name(term, index))
    }

    /// A temporary name that nobody else uses.
    pub(crate) fn next_temp(&self, term: u64, index: u64) -> PathBuf {
        let n = self.next_temp.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{term:016x}-{index:016x}.{n}{TEMP_SUFFIX}"))
    }

    /// Gives a synced temporary file its final name, durably. If that fails, the final name is taken back, unless
    /// it was that of an older file.
    pub(crate) fn publish(&self, temp: &Path, target: &Path) -> Result<(), Error> {
        let _names = self.names();
        let replaced = self.disk.exists(target).map_err(Error::io("looking for the file", target))?;
        failpoint!("snap-before-rename");
        self.disk.rename(temp, target).map_err(Error::io("renaming to it", target))?;
        failpoint!("snap-after-rename");
        if planted(Bug::SnapshotNameNotSynced) {
            return Ok(());
        }
        self.disk.sync_dir(&self.path).map_err(|source| {
            if !replaced {
                // The error that is returned matters more than one of this clean-up, and a file that the log never
                // recorded is removed at the next start.
                let _ = self.disk.remove_file(target);
            }
            Error::io("syncing the directory", &self.path)(source)
        })?;
        failpoint!("snap-after-sync");
        Ok(())
    }

    fn note_recorded(&self, recorded: (u64, u64)) {
        let mut names = self.names();
        names.recorded = names.recorded.max(recorded);
    }

    /// Reads a whole file, and whether it is what its name says.
    fn verify(&self, id: (u64, u64)) -> Result<SnapshotMetadata, Error> {
        Ok(reader::verify_as(&self.disk, &self.path(id.0, id.1), id)?.metadata)
    }

    /// Whether a snapshot that a peer sent is not to take the place of the one that is there: the log recorded that one,
    /// and it is whole.
    pub(crate) fn keeps(&self, id: (u64, u64)) -> Result<bool, Error> {
        let path = self.path(id.0, id.1);
        if id > self.names().recorded
            || !self.disk.exists(&path).map_err(Error::io("looking for the file", &path))?
        {
            return Ok(false);
        }
        match self.verify(id) {
            Ok(_) => Ok(true),
            Err(error) if error.is_corruption() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.disk.list(&self.path).map_err(Error::io("listing the directory", &self.path))
    }

    /// Term and index of each snapshot, ascending.
    fn snapshots(&self) -> Result<Vec<(u64, u64)>, Error> {
        let mut ids: Vec<_> = self.list()?.iter().filter_map(|name| parse_name(name, SUFFIX)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn set_aside(&self, term: u64, index: u64) -> Result<PathBuf, Error> {
        let _names = self.names();
        let path = self.path(term, index);
        let broken = self.path.join(format!("{term:016x}-{index:016x}{BROKEN_SUFFIX}"));
        self.disk.rename(&path, &broken).map_err(Error::io("setting aside the damaged file", &path))?;
        self.sync()?;
        Ok(broken)
    }

    fn remove_all(&self, names: impl Iterator<Item = String>) -> Result<(), Error> {
        let _names = self.names();
        let mut any = false;
        for name in names {
            let path = self.path.join(name);
            failpoint!("snap-before-remove");
            match self.disk.remove_file(&path) {
                // Somebody else removed it: so be it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::io("removing", &path))?,
            }
            any = true;
        }
        if any {
            failpoint!("snap-after-remove");
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.disk.sync_dir(&self.path).map_err(Error::io("syncing the directory", &self.path))
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        // A panic cannot have left what it guards half changed.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_name(term: u64, index: u64) -> String {
    format!("{term:016x}-{index:016x}{SUFFIX}")
}

/// Term and index in the name of a file; `None` for a name that this crate does not give.
pub(crate) fn parse_name(name: &str, suffix: &str) -> Option<(u64, u64)> {
    let (term, index) = name.strip_suffix(suffix)?.split_once('-')?;
    let hex = |digits: &str| {
        let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some((hex(term)?, hex(index)?))
}
