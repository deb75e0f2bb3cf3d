//! A snapshot store in memory that fails on demand. The last byte of a snapshot is the sum of the others.

use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use kvd_transport::{SnapshotSink, SnapshotStore};

/// Snapshots by term and index.
type Files = HashMap<(u64, u64), Vec<u8>>;

/// What opening a snapshot gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Whole,
    /// Ends a byte before the announced length.
    Short,
    /// Goes on for a byte beyond it.
    Long,
    /// Fails in the middle.
    Error,
    /// Blocks in the middle until [`MemStore::release`].
    Blocked,
}

#[derive(Debug, Default)]
pub struct MemStore {
    files: Mutex<Files>,
    pub mode: Mutex<Mode>,
    /// A sink fails when it has this many bytes.
    pub disk_full_at: Mutex<Option<usize>>,
    temporary: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    installed: Arc<Mutex<Files>>,
}

pub fn snapshot_bytes(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len - 1).map(|i| (i % 251) as u8).collect();
    bytes.push(sum(&bytes));
    bytes
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

impl MemStore {
    pub fn put(&self, term: u64, index: u64, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert((term, index), bytes);
    }

    /// What was installed, by term and index.
    pub fn installed(&self) -> Files {
        self.installed.lock().unwrap().clone()
    }

    /// Sinks that are neither installed nor dropped: on a disk, temporary files.
    pub fn temporary(&self) -> usize {
        self.temporary.load(Ordering::SeqCst)
    }

    pub fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Lets blocked readers go on.
    pub fn release(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl SnapshotStore for MemStore {
    fn open(&self, term: u64, index: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let files = self.files.lock().unwrap();
        let bytes = files.get(&(term, index)).ok_or_else(|| io::Error::other("no such snapshot"))?.clone();
        let len = bytes.len() as u64;
        let half = bytes.len() / 2;
        Ok(match *self.mode.lock().unwrap() {
            Mode::Whole => (len, Box::new(Cursor::new(bytes))),
            Mode::Short => (len + 1, Box::new(Cursor::new(bytes))),
            Mode::Long => (len - 1, Box::new(Cursor::new(bytes))),
            Mode::Error => (len, Box::new(Cursor::new(bytes[..half].to_vec()).chain(Failing))),
            Mode::Blocked => {
                let blocked = Blocked(self.gate.clone());
                let rest = Cursor::new(bytes[half..].to_vec());
                (len, Box::new(Cursor::new(bytes[..half].to_vec()).chain(blocked).chain(rest)))
            }
        })
    }

    fn receive(&self, term: u64, index: u64) -> io::Result<Box<dyn SnapshotSink>> {
        self.temporary.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Sink {
            key: (term, index),
            bytes: Vec::new(),
            limit: *self.disk_full_at.lock().unwrap(),
            temporary: self.temporary.clone(),
            installed: self.installed.clone(),
        }))
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the disk is gone"))
    }
}

struct Blocked(Arc<(Mutex<bool>, Condvar)>);

impl Read for Blocked {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
        Ok(0)
    }
}

struct Sink {
    key: (u64, u64),
    bytes: Vec<u8>,
    limit: Option<usize>,
    temporary: Arc<AtomicUsize>,
    installed: Arc<Mutex<Files>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.limit.is_some_and(|limit| self.bytes.len() + bytes.len() > limit) {
            return Err(io::Error::other("no space left"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn install(mut self: Box<Self>) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes);
        match bytes.split_last() {
            Some((last, rest)) if *last == sum(rest) => {
                self.installed.lock().unwrap().insert(self.key, bytes);
                Ok(())
            }
            _ => Err(io::Error::other("the checksum does not fit")),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.temporary.fetch_sub(1, Ordering::SeqCst);
    }
}
