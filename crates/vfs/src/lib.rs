//! The disk behind a small trait.
//!
//! Everything that kvd keeps goes through [`Vfs`], so that tests and the simulator can put a disk of their own under
//! the real code: one that loses what was not synced, tears writes, fills up or fails.
//!
//! # The disk that we assume
//! - A sector is 512 bytes. Sectors are not written atomically with one another.
//! - Writes between two syncs may land in any order, partly, or not at all.
//! - A created, renamed or removed name is durable only after its directory was synced.
//! - A failed sync is final: the page may be marked clean, so a retry would lie. Whoever sees one stops.
//!
//! [`RealDisk`] is the operating system's; [`MemDisk`] obeys exactly the rules above, in memory, from a seed.

mod aligned;
mod mem;
mod real;

pub use aligned::AlignedBuf;
pub use mem::{MemDisk, Op, Rot};
pub use real::RealDisk;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A shared disk.
pub type Disk = Arc<dyn Vfs>;

/// A file system, or as much of one as a log and snapshots need.
pub trait Vfs: Send + Sync + Debug {
    /// Creates a directory and its missing parents (mode 0700), each synced into its parent. So is the last one that
    /// exists: whoever made it may have been killed before it was synced.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens or creates a file (mode 0600).
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;
    /// Renames a file or directory, replacing a file at `to`. Durable after [`Vfs::sync_dir`] of the parent.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Vfs::sync_dir`].
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and what is in it. Durable after [`Vfs::sync_dir`] of the parent.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether something has that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Takes the exclusive lock of a file, creating the file if need be. [`io::ErrorKind::WouldBlock`] while
    /// somebody else holds it. Released when dropped, also by the end of the process.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// A lock that is held; dropping it releases it.
pub trait Lock: Send + Sync + Debug {}

/// How [`Vfs::open`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an error if the name exists.
    CreateNew,
    /// A file for reading and writing, made empty if it exists.
    Truncate,
    /// An existing, zero-filled file for reading and durable appends ([`File::write_durable_at`]): with
    /// `O_DIRECT | O_DSYNC` where the file system takes it.
    Log,
}

/// An open file. Positions are explicit; one owner at a time writes.
pub trait File: Send + Debug {
    /// Reads up to `buf.len()` bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`. Not durable before a sync.
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset` and returns once it is durable. `offset` and `buf.len()` are multiples of
    /// [`SECTOR`], and the range lies within the file.
    fn write_durable_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(buf, offset)?;
        self.sync_data()
    }
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to a length.
    fn set_len(&mut self, len: u64) -> io::Result<()>;
    /// Makes the data, and as much metadata as reading it needs, durable.
    fn sync_data(&mut self) -> io::Result<()>;

    /// Reads exactly `buf.len()` bytes at `offset`, or fails with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The unit that the disk writes, in bytes.
pub const SECTOR: usize = 512;
