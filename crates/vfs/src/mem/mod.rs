//! A disk in memory that obeys the rules at the top of this crate, and fails where it is told to.
//!
//! Every operation is deterministic: two disks that were given the same calls and the same seeds hold the same bytes.
//!
//! # A crash
//! [`MemDisk::crash`] loses power: of the sector writes, length changes and name changes that were not synced, an
//! arbitrary subset, drawn from the seed, survives. Open files and locks are gone: a handle from before the crash
//! answers every call with an error. To crash *within* an operation, call [`MemDisk::power_off_at`] first: that
//! operation takes effect without being durable and fails, and so does everything after it until the crash.
//!
//! # Faults
//! [`MemDisk::fail_nth`] fails one operation; [`MemDisk::set_capacity`] fills the disk up. A failed sync is final: a
//! subset of what was pending is durable, the rest never will be, and a second sync does not say so.

mod content;
mod names;
mod rng;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::content::Content;
use self::names::{Ino, Names};
use self::rng::Rng;
use crate::{Disk, File, Lock, OpenMode, SECTOR, Vfs};

const ROOT: Ino = 0;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const ENOTEMPTY: i32 = 39;

/// The operations that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A read from a file.
    Read,
    /// A write to a file. When it fails, some of its sectors were written, and none is durable.
    Write,
    /// A change of a file's length.
    SetLen,
    /// A sync of a file.
    Sync,
    /// A sync of a directory.
    SyncDir,
    /// A new file or directory.
    Create,
    /// A rename.
    Rename,
    /// The removal of a file or directory.
    Remove,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum Node {
    Dir(Names),
    File(Content),
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<Ino, Node>,
    next: Ino,
    /// Open files, by node.
    handles: BTreeMap<Ino, u32>,
    locks: BTreeSet<Ino>,
    /// Counts crashes; handles of an older one are dead.
    generation: u64,
    /// Operations that changed something, since the disk was made.
    operations: u64,
    power_off_at: Option<u64>,
    off: bool,
    faults: Vec<(Op, u64, i32)>,
    capacity: Option<u64>,
    rng: Rng,
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::Dir(Names::default()))]),
            next: ROOT + 1,
            handles: BTreeMap::new(),
            locks: BTreeSet::new(),
            generation: 0,
            operations: 0,
            power_off_at: None,
            off: false,
            faults: Vec::new(),
            capacity: None,
            rng: Rng::new(0),
        }
    }
}

impl MemDisk {
    /// The error number of a failing device, for [`MemDisk::fail_nth`].
    pub const EIO: i32 = 5;
    /// The error number of a full disk, for [`MemDisk::fail_nth`].
    pub const ENOSPC: i32 = 28;

    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// This disk as a [`Disk`].
    pub fn disk(&self) -> Disk {
        Arc::new(self.clone())
    }

    /// Loses power; of everything that was not synced a subset drawn from `seed` survives. Faults and a power-off that
    /// were asked for are forgotten, the capacity is not.
    pub fn crash(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        self.lock_state().crash(Some(&mut rng));
    }

    /// Loses power, and everything that was not synced with it.
    pub fn crash_losing_all_unsynced(&self) {
        self.lock_state().crash(None);
    }

    /// Fails the `n`th operation of that kind from now (1 is the next) with an OS error number.
    pub fn fail_nth(&self, op: Op, n: u64, errno: i32) {
        assert!(n > 0, "1 is the next operation");
        self.lock_state().faults.push((op, n, errno));
    }

    /// Forgets the faults, and the power-off, that have not happened yet.
    pub fn clear_faults(&self) {
        let mut state = self.lock_state();
        state.faults.clear();
        state.power_off_at = None;
    }

    /// Takes the power away in the middle of the `n`th changing operation from now (1 is the next).
    pub fn power_off_at(&self, n: u64) {
        assert!(n > 0, "1 is the next operation");
        let mut state = self.lock_state();
        state.power_off_at = Some(state.operations + n);
    }

    /// Whether the power is off: every operation fails until [`MemDisk::crash`].
    pub fn is_off(&self) -> bool {
        self.lock_state().off
    }

    /// How many operations have changed something (everything but reads) since the disk was made.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Limits the bytes that all files together may have; what goes beyond fails with `ENOSPC`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_state().capacity = bytes;
    }

    /// Bytes that all files have together.
    pub fn used(&self) -> u64 {
        self.lock_state().used()
    }

    /// Seeds the choices made by faults (which sectors of a failed write or sync landed).
    pub fn seed_faults(&self, seed: u64) {
        self.lock_state().rng = Rng::new(seed);
    }

    /// A file's bytes as a reader would see them.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        Ok(state.file(ino)?.bytes().to_vec())
    }

    /// Puts bytes into a file, durable at once, as rot or an operator would. The file exists.
    pub fn overwrite_file(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        state.file(ino)?.overwrite(bytes);
        Ok(())
    }

    /// The number of changes to a file that a crash may lose.
    pub fn pending(&self, path: &Path) -> io::Result<usize> {
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        Ok(state.file(ino)?.pending())
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves the state as whole as any operation does.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the power does to the operation that just began.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// It fails in the middle of this operation: take effect, without being durable, and fail.
    Fails,
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn no_power() -> io::Error {
    io::Error::other("the simulated disk has no power")
}

fn names_in(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().ok_or_else(|| os(EINVAL))?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(os(EINVAL)),
        }
    }
    Ok(names)
}

fn parent_and_name(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| os(EINVAL))?;
    Ok((path.parent().unwrap_or(Path::new("")), name))
}

impl State {
    fn begin(&mut self, op: Op) -> io::Result<Power> {
        if self.off {
            return Err(no_power());
        }
        let mut power = Power::On;
        if op != Op::Read {
            self.operations += 1;
            if self.power_off_at == Some(self.operations) {
                self.off = true;
                power = Power::Fails;
            }
        }
        let mut failed = None;
        self.faults.retain_mut(|(which, left, errno)| {
            if *which == op {
                *left -= 1;
                if *left == 0 {
                    failed = Some(*errno);
                }
            }
            *left > 0
        });
        match failed {
            Some(errno) if power == Power::On => Err(os(errno)),
            _ => Ok(power),
        }
    }

    fn end(power: Power) -> io::Result<()> {
        if power == Power::On { Ok(()) } else { Err(no_power()) }
    }

    fn crash(&mut self, mut rng: Option<&mut Rng>) {
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir(names) => names.crash(rng.as_deref_mut()),
                Node::File(content) => content.crash(rng.as_deref_mut()),
            }
        }
        self.generation += 1;
        self.handles.clear();
        self.locks.clear();
        self.faults.clear();
        self.power_off_at = None;
        self.off = false;
        self.collect();
    }

    /// Forgets what has no name and no handle, now and after any crash.
    fn collect(&mut self) {
        let mut live: BTreeSet<Ino> = self.handles.keys().copied().collect();
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            if live.insert(ino)
                && let Some(Node::Dir(names)) = self.nodes.get(&ino)
            {
                todo.extend(names.reachable());
            }
        }
        self.nodes.retain(|ino, _| live.contains(ino));
    }

    fn used(&self) -> u64 {
        let files = self.nodes.values().map(|node| match node {
            Node::File(content) => content.bytes().len() as u64,
            Node::Dir(_) => 0,
        });
        files.sum()
    }

    fn room_for(&self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more as u64 > capacity => Err(os(MemDisk::ENOSPC)),
            _ => Ok(()),
        }
    }

    fn dir(&mut self, ino: Ino) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Dir(names)) => Ok(names),
            _ => Err(os(ENOTDIR)),
        }
    }

    fn file(&mut self, ino: Ino) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(os(EISDIR)),
        }
    }

    fn find(&mut self, path: &Path) -> io::Result<Ino> {
        let mut ino = ROOT;
        for name in names_in(path)? {
            ino = self.dir(ino)?.get(name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(ino)
    }

    fn add(&mut self, dir: Ino, name: &str, node: Node) -> io::Result<Ino> {
        let ino = self.next;
        self.dir(dir)?.put(name, ino);
        self.next += 1;
        self.nodes.insert(ino, node);
        Ok(ino)
    }

    fn remove_tree(&mut self, dir: Ino) -> io::Result<()> {
        for name in self.dir(dir)?.list() {
            let Some(ino) = self.dir(dir)?.get(&name) else { continue };
            if let Some(Node::Dir(_)) = self.nodes.get(&ino) {
                self.remove_tree(ino)?;
            }
            self.dir(dir)?.remove(&name, ino);
        }
        Ok(())
    }
}

impl Vfs for MemDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let mut ino = ROOT;
        for name in names_in(dir)? {
            ino = match state.dir(ino)?.get(name) {
                Some(found) => found,
                None => {
                    let power = state.begin(Op::Create)?;
                    let made = state.add(ino, name, Node::Dir(Names::default()))?;
                    State::end(power)?;
                    let power = state.begin(Op::SyncDir)?;
                    State::end(power)?;
                    state.dir(ino)?.sync();
                    made
                }
            };
        }
        state.dir(ino).map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.lock_state();
        state.begin(Op::Read)?;
        let ino = state.find(dir)?;
        Ok(state.dir(ino)?.list())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut state = self.lock_state();
        if state.off {
            return Err(no_power());
        }
        let found = match state.find(path) {
            Ok(ino) => Some(ino),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let create = matches!(mode, OpenMode::CreateNew | OpenMode::Truncate);
        let ino = match found {
            Some(_) if mode == OpenMode::CreateNew => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(ino) => {
                state.file(ino)?;
                if mode == OpenMode::Truncate {
                    let power = state.begin(Op::SetLen)?;
                    state.file(ino)?.set_len(0);
                    State::end(power)?;
                }
                ino
            }
            None if !create => return Err(io::ErrorKind::NotFound.into()),
            None => {
                let (parent, name) = parent_and_name(path)?;
                let dir = state.find(parent)?;
                let power = state.begin(Op::Create)?;
                let ino = state.add(dir, name, Node::File(Content::default()))?;
                State::end(power)?;
                ino
            }
        };
        *state.handles.entry(ino).or_default() += 1;
        let generation = state.generation;
        drop(state);
        Ok(Box::new(MemFile { disk: self.clone(), ino, generation, writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let ino = state.find(from)?;
        let (from_parent, from_name) = parent_and_name(from)?;
        let (to_parent, to_name) = parent_and_name(to)?;
        let (from_dir, to_dir) = (state.find(from_parent)?, state.find(to_parent)?);
        let replaced = state.dir(to_dir)?.get(to_name);
        match replaced.and_then(|ino| state.nodes.get(&ino)) {
            Some(Node::Dir(names)) if !names.is_empty() => return Err(os(ENOTEMPTY)),
            _ => {}
        }
        let power = state.begin(Op::Rename)?;
        if from_dir == to_dir {
            state.dir(from_dir)?.rename(from_name, to_name, ino);
        } else {
            state.dir(to_dir)?.put(to_name, ino);
            state.dir(from_dir)?.remove(from_name, ino);
        }
        State::end(power)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        state.file(ino)?;
        let (parent, name) = parent_and_name(path)?;
        let dir = state.find(parent)?;
        let power = state.begin(Op::Remove)?;
        state.dir(dir)?.remove(name, ino);
        State::end(power)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        let (parent, name) = parent_and_name(path)?;
        let dir = state.find(parent)?;
        let power = state.begin(Op::Remove)?;
        state.remove_tree(ino)?;
        state.dir(dir)?.remove(name, ino);
        State::end(power)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let ino = state.find(dir)?;
        let power = state.begin(Op::SyncDir)?;
        State::end(power)?;
        state.dir(ino)?.sync();
        state.collect();
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.lock_state();
        state.begin(Op::Read)?;
        match state.find(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        if !self.exists(path)? {
            self.open(path, OpenMode::CreateNew)?;
        }
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        if !state.locks.insert(ino) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = state.generation;
        drop(state);
        Ok(Box::new(MemLock { disk: self.clone(), ino, generation }))
    }
}

#[derive(Debug)]
struct MemLock {
    disk: MemDisk,
    ino: Ino,
    generation: u64,
}

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        if state.generation == self.generation {
            state.locks.remove(&self.ino);
        }
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    ino: Ino,
    generation: u64,
    writable: bool,
}

impl MemFile {
    /// The disk, if this handle is still good for that operation.
    fn state(&self, op: Op) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock_state();
        if state.generation != self.generation {
            return Err(io::Error::other("the file was opened before the simulated crash"));
        }
        if op != Op::Read && !self.writable {
            return Err(os(EINVAL));
        }
        Ok(state)
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock_state();
        if state.generation == self.generation
            && let Some(count) = state.handles.get_mut(&self.ino)
        {
            *count -= 1;
            if *count == 0 {
                state.handles.remove(&self.ino);
            }
        }
    }
}

/// A position in memory.
fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| os(EINVAL))
}

impl File for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state(Op::Read)?;
        state.begin(Op::Read)?;
        let bytes = state.file(self.ino)?.bytes();
        let from = position(offset)?.min(bytes.len());
        let n = buf.len().min(bytes.len() - from);
        buf[..n].copy_from_slice(&bytes[from..from + n]);
        Ok(n)
    }

    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state(Op::Write)?;
        let offset = position(offset)?;
        let len = state.file(self.ino)?.bytes().len();
        match state.begin(Op::Write) {
            Ok(power) => {
                state.room_for((offset + buf.len()).saturating_sub(len))?;
                state.file(self.ino)?.write(buf, offset);
                State::end(power)
            }
            Err(e) if state.off => Err(e),
            Err(e) => {
                // A failed write stopped somewhere, after a whole sector.
                let stop = offset + (state.rng.next() % (buf.len() as u64 + 1)) as usize;
                let some = (stop - stop % SECTOR).saturating_sub(offset);
                state.file(self.ino)?.write(&buf[..some], offset);
                Err(e)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state(Op::Read)?.file(self.ino)?.bytes().len() as u64)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.state(Op::SetLen)?;
        let len = position(len)?;
        let old = state.file(self.ino)?.bytes().len();
        let power = state.begin(Op::SetLen)?;
        state.room_for(len.saturating_sub(old))?;
        state.file(self.ino)?.set_len(len);
        State::end(power)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let mut state = self.state(Op::Sync)?;
        match state.begin(Op::Sync) {
            Ok(power) => {
                State::end(power)?;
                state.file(self.ino)?.sync();
                Ok(())
            }
            Err(e) if state.off => Err(e),
            Err(e) => {
                let mut rng = Rng::new(state.rng.next());
                state.file(self.ino)?.sync_fails(&mut rng);
                Err(e)
            }
        }
    }
}

#[cfg(test)]
mod tests;
