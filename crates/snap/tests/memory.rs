//! A snapshot of 4 GiB is written, read back, sent and received in memory that does not grow with it.
//!
//! The disk here keeps next to nothing: every chunk of the body is the same, so it remembers the 8 bytes before each, in
//! memory that was taken beforehand, and makes the rest up. What is left is what the snapshotter takes itself. The system
//! says how much that was: the most that the process ever had resident.

#![allow(clippy::unwrap_used)] // a test fails by panicking, its helpers too

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use kvd_raftpb::peers::SnapshotStore;
use kvd_snap::{CHUNK_BYTES, Snapshotter};
use kvd_vfs::{Disk, File, Lock, OpenMode, Vfs};
use raft::eraftpb::SnapshotMetadata;

const BODY: u64 = 4 << 30;
const CHUNKS: u64 = BODY / CHUNK_BYTES as u64;
/// Bytes before a chunk.
const HEAD: usize = 8;
/// The most that the process may grow, in bytes. A few chunks and pages of code that was not called before are allowed
/// for; a body, or a byte for each of its kilobytes, is not.
const BOUND: u64 = 4 << 20;

#[test]
fn four_gibibytes_are_written_read_sent_and_received_in_constant_memory() {
    let disk: Disk = Arc::new(Forgetful::default());
    let snapshotter = Snapshotter::open(disk.clone(), Path::new("/a")).unwrap();
    let other = Snapshotter::open(disk, Path::new("/b")).unwrap();
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (1, 5);
    let (pattern, mut buffer) = (pattern(), vec![0; CHUNK_BYTES]);
    let before = peak();
    let written =
        snapshotter.save(&metadata, &mut |out| (0..CHUNKS).try_for_each(|_| out.write_all(&pattern)));
    assert!(written.unwrap() > BODY);
    grown(before, "writing");

    let mut reader = snapshotter.read(1, 5).unwrap();
    for _ in 0..CHUNKS {
        reader.read_exact(&mut buffer).unwrap();
        assert!(buffer == pattern);
    }
    assert_eq!(reader.read(&mut buffer).unwrap(), 0, "the end, and all checksums");
    grown(before, "reading");

    let (len, mut sent) = snapshotter.open(1, 5).unwrap();
    let mut received = other.receive(1, 5).unwrap();
    assert_eq!(io::copy(&mut sent, &mut received).unwrap(), len);
    received.install().unwrap();
    grown(before, "sending and receiving");

    // The measure would have seen more.
    let held = vec![1u8; 2 * BOUND as usize];
    assert!(peak() - before > BOUND && held[held.len() - 1] == 1);
}

fn grown(before: u64, doing: &str) {
    let grown = peak() - before;
    assert!(grown <= BOUND, "{doing} took {grown} bytes, the bound is {BOUND}");
}

/// The most bytes that this process ever had resident.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// What every chunk holds.
fn pattern() -> Vec<u8> {
    (0..CHUNK_BYTES as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A disk whose files are snapshots of the same chunks.
#[derive(Debug, Default)]
struct Forgetful {
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Kept>>>>,
}

/// What is kept of a file.
#[derive(Debug)]
struct Kept {
    pattern: Vec<u8>,
    /// Everything before the first chunk.
    header: Vec<u8>,
    heads: Vec<[u8; HEAD]>,
    /// Everything behind the last chunk.
    trailer: Vec<u8>,
    len: u64,
}

impl Kept {
    fn new() -> Kept {
        // Filled once, so that its pages are resident before anything is counted.
        let mut heads = vec![[1; HEAD]; CHUNKS as usize];
        heads.clear();
        Kept { pattern: pattern(), header: Vec::new(), heads, trailer: Vec::new(), len: 0 }
    }

    /// The part that an offset lies in: its bytes from there on.
    fn part(&self, offset: u64) -> &[u8] {
        let Some(behind) = offset.checked_sub(self.header.len() as u64) else {
            return &self.header[offset as usize..];
        };
        let (chunk, at) = (behind / (HEAD + CHUNK_BYTES) as u64, behind % (HEAD + CHUNK_BYTES) as u64);
        match self.heads.get(chunk as usize) {
            Some(head) if at < HEAD as u64 => &head[at as usize..],
            Some(_) => &self.pattern[at as usize - HEAD..],
            None => self.trailer.get(at as usize..).unwrap_or_default(),
        }
    }

    /// Appends bytes, all of which must be what a snapshot of these chunks has there.
    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.append_some(bytes);
            self.len += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    fn append_some(&mut self, bytes: &[u8]) -> usize {
        // The header's length is in it, behind the 16 bytes of the prelude.
        let header = match self.header.get(16..20) {
            Some(len) => 24 + u32::from_le_bytes(len.try_into().unwrap()) as usize,
            None => 20,
        };
        if self.header.len() < header {
            let n = bytes.len().min(header - self.header.len());
            self.header.extend_from_slice(&bytes[..n]);
            return n;
        }
        let behind = self.len - self.header.len() as u64;
        let at = (behind % (HEAD + CHUNK_BYTES) as u64) as usize;
        if behind / (HEAD + CHUNK_BYTES) as u64 == CHUNKS {
            self.trailer.extend_from_slice(bytes);
            return bytes.len();
        }
        if at < HEAD {
            if at == 0 {
                self.heads.push([0; HEAD]);
            }
            let n = bytes.len().min(HEAD - at);
            self.heads.last_mut().unwrap()[at..at + n].copy_from_slice(&bytes[..n]);
            return n;
        }
        let n = bytes.len().min(HEAD + CHUNK_BYTES - at);
        assert!(bytes[..n] == self.pattern[at - HEAD..at - HEAD + n], "another body is written");
        n
    }
}

#[derive(Debug)]
struct Handle(Arc<Mutex<Kept>>);

impl Handle {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }
}

impl File for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let kept = self.kept();
        let part = kept.part(offset);
        let n = buf.len().min(part.len());
        buf[..n].copy_from_slice(&part[..n]);
        Ok(n)
    }
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut kept = self.kept();
        assert_eq!(offset, kept.len, "snapshots are appended to");
        kept.append(buf);
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.kept().len)
    }
    fn set_len(&mut self, _: u64) -> io::Result<()> {
        unimplemented!("no snapshot is cut")
    }
    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Vfs for Forgetful {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        // One file for each directory, its memory taken now.
        self.files.lock().unwrap().insert(dir.join("spare"), Arc::new(Mutex::new(Kept::new())));
        Ok(())
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let names = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut files = self.files.lock().unwrap();
        if mode == OpenMode::CreateNew {
            let spare = files.remove(&path.with_file_name("spare")).unwrap();
            files.insert(path.to_owned(), spare);
        }
        let kept = files.get(path).ok_or(io::ErrorKind::NotFound)?.clone();
        Ok(Box::new(Handle(kept)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let kept = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), kept);
        Ok(())
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        unimplemented!("nothing is removed")
    }
    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        unimplemented!("nothing is removed")
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.lock().unwrap().contains_key(path))
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Lock>> {
        unimplemented!("nothing is locked")
    }
}
