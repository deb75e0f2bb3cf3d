//! The operating system's disk.
//!
//! Files are made with mode 0600 and directories with 0700. A file opened for [`OpenMode::Log`] has two descriptors:
//! an ordinary one, and one with `O_DIRECT | O_DSYNC` through which [`File::write_durable_at`] goes. Where that is
//! refused, by the file system or because its blocks are larger than a sector, the write is an ordinary one followed
//! by `fdatasync`. Which of the two is decided once, when the file is opened.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use crate::aligned::is_aligned;
use crate::{AlignedBuf, File, Lock, OpenMode, SECTOR, Vfs};

/// The operating system's disk.
#[derive(Debug, Clone)]
pub struct RealDisk {
    direct: bool,
}

impl Default for RealDisk {
    fn default() -> RealDisk {
        RealDisk::new()
    }
}

impl RealDisk {
    /// A disk that appends with `O_DIRECT | O_DSYNC` where the file system takes it.
    pub fn new() -> RealDisk {
        RealDisk { direct: true }
    }

    /// A disk that always appends with a write and `fdatasync`.
    pub fn buffered() -> RealDisk {
        RealDisk { direct: false }
    }
}

/// Whether a directory cannot be opened by this process, or lies where nothing can be synced.
fn cannot_sync(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | InvalidInput | ReadOnlyFilesystem)
}

impl Vfs for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let Some(parent) = dir.parent() else { return Ok(()) };
        let exists = dir.is_dir();
        if !exists {
            self.create_dir_all(parent)?;
            match fs::DirBuilder::new().mode(0o700).create(dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                other => other?,
            }
        }
        match self.sync_dir(parent) {
            // Where directories cannot be opened, or synced, none was made by a process that had to sync it.
            Err(e) if exists && cannot_sync(&e) => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write | OpenMode::Log => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::Truncate => {
                options.write(true).create(true).truncate(true);
            }
        }
        let file = options.open(path)?;
        let direct = if mode == OpenMode::Log && self.direct { open_direct(path) } else { None };
        Ok(Box::new(RealFile { file, direct, bounce: AlignedBuf::new() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        fs::File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(e) => Err(e),
        }
    }
}

/// The lock ends with its descriptor.
#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

/// The descriptor for durable writes, if this file can have one. Some file systems refuse the flag, others take it and
/// refuse the first transfer of one sector: so it is tried.
fn open_direct(path: &Path) -> Option<fs::File> {
    use rustix::fs::OFlags;
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    let flags = i32::try_from(flags.bits()).ok()?;
    let file = fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()?;
    let mut probe = AlignedBuf::new();
    probe.resize(SECTOR);
    file.read_at(probe.as_mut_slice(), SECTOR as u64).ok()?;
    Some(file)
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    /// With `O_DIRECT | O_DSYNC`.
    direct: Option<fs::File>,
    /// Holds a copy of what is written through `direct` when the caller's bytes are not aligned.
    bounce: AlignedBuf,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn write_durable_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let Some(direct) = &self.direct else {
            self.file.write_all_at(buf, offset)?;
            return self.file.sync_data();
        };
        if is_aligned(buf) {
            return direct.write_all_at(buf, offset);
        }
        self.bounce.clear();
        self.bounce.extend_from_slice(buf);
        direct.write_all_at(self.bounce.as_slice(), offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn both() -> [RealDisk; 2] {
        [RealDisk::new(), RealDisk::buffered()]
    }

    #[test]
    fn durable_writes_read_back_with_and_without_o_direct_and_from_unaligned_memory() {
        for disk in both() {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            disk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(&[0; 8192], 0).unwrap();
            let mut file = disk.open(&path, OpenMode::Log).unwrap();
            let memory = vec![7u8; 2 * SECTOR + 1];
            for skew in 0..=1 {
                file.write_durable_at(&memory[skew..skew + 2 * SECTOR], 1024).unwrap();
            }
            let mut back = vec![0; 8192];
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back[..1024].iter().all(|b| *b == 0));
            assert!(back[1024..2048].iter().all(|b| *b == 7));
            assert_eq!(file.len().unwrap(), 8192);
            assert_eq!(file.read_exact_at(&mut back, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_file_system_that_refuses_o_direct_is_written_and_synced() {
        // procfs refuses the flag on every kernel: there is no direct descriptor, hence the ordinary path.
        assert!(open_direct(Path::new("/proc/self/comm")).is_none());
    }

    #[test]
    fn a_directory_that_exists_where_nothing_can_be_synced_is_taken_as_it_is() {
        let disk = RealDisk::new();
        disk.sync_dir(Path::new("/proc/self")).unwrap_err();
        disk.create_dir_all(Path::new("/proc/self/fd")).unwrap();
        disk.create_dir_all(Path::new("/proc/self/none")).unwrap_err();
        disk.create_dir_all(Path::new("/")).unwrap();
    }

    #[test]
    fn modes_are_private() {
        let disk = RealDisk::new();
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        disk.create_dir_all(&deep).unwrap();
        disk.create_dir_all(&deep).unwrap();
        disk.open(&deep.join("f"), OpenMode::CreateNew).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&deep), mode(&dir.path().join("a")), mode(&deep.join("f"))), (0o700, 0o700, 0o600));
    }

    #[test]
    fn open_modes_do_as_they_say() {
        let disk = RealDisk::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for mode in [OpenMode::Read, OpenMode::Write, OpenMode::Log] {
            assert_eq!(disk.open(&path, mode).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        disk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(b"abc", 0).unwrap();
        let again = disk.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.open(&path, OpenMode::Write).unwrap().len().unwrap(), 3);
        assert!(disk.open(&path, OpenMode::Read).unwrap().write_all_at(b"x", 0).is_err());
        assert!(disk.open(&path, OpenMode::Truncate).unwrap().is_empty().unwrap());
        assert_eq!(disk.list(dir.path()).unwrap(), ["f"]);
        disk.rename(&path, &dir.path().join("g")).unwrap();
        assert!(!disk.exists(&path).unwrap());
        disk.remove_file(&dir.path().join("g")).unwrap();
        disk.sync_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let disk = RealDisk::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = disk.lock(&path).unwrap();
        assert_eq!(disk.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.lock(&path).unwrap();
    }
}
