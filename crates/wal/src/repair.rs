//! Cuts a torn tail.
//!
//! Order: what the segment holds is copied to `NAME.wal.broken` (synced, renamed into place, the older copy removed),
//! then the tail is overwritten with zeros and synced. The cut begins with the torn batch's header, and each of its
//! sectors takes the batch nearer to nothing: interrupted anywhere, the tail is still torn, and the next open resumes.

use std::path::{Path, PathBuf};

use kvd_vfs::{Disk, OpenMode, SECTOR};

use crate::damage::Finding;
use crate::error::{Context, Result};
use crate::names::{BROKEN, SegmentName, TEMPORARY};

/// The most that is read or written at a time, in bytes.
const CHUNK: u64 = 1 << 20;

/// A write that a crash tore. It was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the torn batch begins: the log now ends here.
    pub offset: u64,
    /// Where the last sector ends that was cut.
    pub end: u64,
    /// What was found.
    pub finding: Finding,
    /// A copy of what the segment held; `None` if it was only looked at.
    pub copy: Option<PathBuf>,
}

/// Keeps a copy, then zeros everything from `torn.offset` on. Returns once that is durable.
pub(crate) fn cut(disk: &Disk, dir: &Path, segment: SegmentName, torn: &mut TornTail) -> Result<()> {
    torn.copy = Some(keep_copy(disk, dir, segment, torn.end)?);
    let path = segment.path(dir);
    let mut file = disk.open(&path, OpenMode::Write).context("open", &path)?;
    let end = torn.end.next_multiple_of(SECTOR as u64);
    let zeros = vec![0; CHUNK.min(end - torn.offset) as usize];
    let mut at = torn.offset;
    while at < end {
        let n = (end - at).min(CHUNK);
        file.write_all_at(&zeros[..n as usize], at).context("cut the torn tail of", &path)?;
        at += n;
    }
    file.sync_data().context("sync", &path)
}

fn keep_copy(disk: &Disk, dir: &Path, segment: SegmentName, len: u64) -> Result<PathBuf> {
    let from = segment.path(dir);
    let name = segment.file_name() + BROKEN;
    let (copy, temporary) = (dir.join(&name), dir.join(name.clone() + TEMPORARY));
    let source = disk.open(&from, OpenMode::Read).context("open", &from)?;
    let mut target = disk.open(&temporary, OpenMode::Truncate).context("create", &temporary)?;
    let mut buf = vec![0; CHUNK.min(len) as usize];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(CHUNK) as usize;
        source.read_exact_at(&mut buf[..n], at).context("read", &from)?;
        target.write_all_at(&buf[..n], at).context("write", &temporary)?;
        at += n as u64;
    }
    target.sync_data().context("sync", &temporary)?;
    disk.rename(&temporary, &copy).context("rename", &temporary)?;
    disk.sync_dir(dir).context("sync", dir)?;
    for other in disk.list(dir).context("list", dir)? {
        if other != name && other.strip_suffix(BROKEN).is_some_and(|n| SegmentName::parse(n).is_some()) {
            disk.remove_file(&dir.join(&other)).context("remove", &dir.join(&other))?;
        }
    }
    Ok(copy)
}

/// Removes what an earlier process left half made.
pub(crate) fn remove_temporary(disk: &Disk, dir: &Path) -> Result<()> {
    for name in disk.list(dir).context("list", dir)? {
        if name.ends_with(TEMPORARY) {
            let path = dir.join(name);
            disk.remove_file(&path).context("remove", &path)?;
        }
    }
    Ok(())
}
