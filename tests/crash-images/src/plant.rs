//! Bugs that are planted to see that the checks would catch them: disks that lie to the code under test.
//!
//! A log that ignores a checksum, and one that does not sync, cannot be told from a good one on a disk that hides damage,
//! or says that it has synced and has not.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use kvd_vfs::{Disk, File, Lock, MemDisk, OpenMode, Vfs};

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Files are read as they were before they were damaged.
    HidesDamage,
    /// What is written is said to be durable, and is not.
    SkipsSync,
    /// Names are said to be durable, and are not.
    SkipsSyncDir,
    /// What is right is taken for wrong: one step more than was acknowledged is expected.
    ExpectsTooMuch,
}

impl Plant {
    /// All of them.
    pub const ALL: [Plant; 4] =
        [Plant::HidesDamage, Plant::SkipsSync, Plant::SkipsSyncDir, Plant::ExpectsTooMuch];
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Plant::HidesDamage => "hides-damage",
            Plant::SkipsSync => "skips-sync",
            Plant::SkipsSyncDir => "skips-sync-dir",
            Plant::ExpectsTooMuch => "expects-too-much",
        })
    }
}

/// The disk that the code under test is given; `undamaged` is what it was before it was damaged, if it was.
pub(crate) fn disk(plant: Option<Plant>, memory: &MemDisk, undamaged: Option<&MemDisk>) -> Disk {
    let undamaged = undamaged.filter(|_| plant == Some(Plant::HidesDamage)).cloned();
    match plant {
        Some(plant @ (Plant::SkipsSync | Plant::SkipsSyncDir)) => {
            Arc::new(Liar { plant, memory: memory.clone(), undamaged })
        }
        Some(plant) if undamaged.is_some() => Arc::new(Liar { plant, memory: memory.clone(), undamaged }),
        _ => memory.disk(),
    }
}

#[derive(Debug)]
struct Liar {
    plant: Plant,
    memory: MemDisk,
    undamaged: Option<MemDisk>,
}

#[derive(Debug)]
struct LyingFile {
    plant: Plant,
    file: Box<dyn File>,
    undamaged: Option<Box<dyn File>>,
}

impl Vfs for Liar {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.memory.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.memory.list(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let file = self.memory.open(path, mode)?;
        let undamaged = self.undamaged.as_ref().and_then(|disk| disk.open(path, OpenMode::Read).ok());
        Ok(Box::new(LyingFile { plant: self.plant, file, undamaged }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_dir_all(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.plant == Plant::SkipsSyncDir { Ok(()) } else { self.memory.sync_dir(dir) }
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.memory.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.memory.lock(path)
    }
}

impl LyingFile {
    fn read_from(&self) -> &dyn File {
        self.undamaged.as_deref().unwrap_or(&*self.file)
    }
}

impl File for LyingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_from().read_at(buf, offset)
    }
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.read_from().len()
    }
    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&mut self) -> io::Result<()> {
        if self.plant == Plant::SkipsSync { Ok(()) } else { self.file.sync_data() }
    }
}
