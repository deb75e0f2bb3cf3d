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
//! [`MemDisk::crash_choosing`] lets the caller decide instead of the seed, and [`MemDisk::fork`] makes a copy of the disk
//! to crash: so all outcomes of one moment can be had.
//!
//! # Faults
//! | fault | asked for with | what happens |
//! |---|---|---|
//! | an operation fails (EIO, ...) | [`MemDisk::fail_nth`] | an error; a write lands some of its sectors, a sync some of what is pending |
//! | a short write | [`MemDisk::short_write_nth`] | so many bytes land, then an error |
//! | a full disk | [`MemDisk::set_capacity`] | `ENOSPC` |
//! | rot | [`MemDisk::rot`], [`MemDisk::rot_somewhere`] | a bit flips, or a sector becomes zeros, under what was durable |
//! | a stall | [`MemDisk::stall_nth`] | the operation does not return before [`MemDisk::release`] |
//! | a slow operation, where one thread does everything | [`MemDisk::delay_nth`] | [`MemDisk::take_delay`] says how long it took |
//! | power loss | [`MemDisk::power_off_at`], [`MemDisk::crash`] | as above |
//!
//! A failed sync is final: a subset of what was pending is durable, the rest never will be, and a second sync does not
//! say so.

mod content;
mod faults;
mod file;
mod names;
mod rng;
mod state;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use self::content::Content;
use self::file::{MemFile, MemLock};
use self::names::{Ino, Names};
use self::rng::Rng;
use self::state::{ENOTEMPTY, Node, ROOT, State, names_in, no_power, os, parent_and_name};
use crate::{Disk, File, Lock, OpenMode, Vfs};

pub use self::faults::Rot;

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
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when stalled operations may go on.
    released: Condvar,
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

    /// A disk of its own with the same files, as they are read and as they are durable. It has power, no faults, and
    /// nobody who has a file open: what the next process finds when this one is killed.
    pub fn fork(&self) -> MemDisk {
        let shared = Shared { state: Mutex::new(self.lock_state().fork()), released: Condvar::new() };
        MemDisk { shared: Arc::new(shared) }
    }

    /// Loses power; of everything that was not synced a subset drawn from `seed` survives. Faults and a power-off that
    /// were asked for are forgotten, the capacity is not.
    pub fn crash(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        self.crash_with(&mut |_| rng.coin());
    }

    /// Loses power, and everything that was not synced with it.
    pub fn crash_losing_all_unsynced(&self) {
        self.crash_with(&mut |_| false);
    }

    /// Loses power as [`MemDisk::crash`] does. `survives` is asked, in the order in which files were made and changes
    /// came, for each change that was not synced, and would change what is durable by then.
    pub fn crash_choosing(&self, survives: &mut dyn FnMut() -> bool) {
        self.crash_with(&mut |matters| matters && survives());
    }

    fn crash_with(&self, lands: &mut dyn FnMut(bool) -> bool) {
        self.lock_state().crash(lands);
        self.shared.released.notify_all();
    }

    /// Whether the power is off: every operation fails until [`MemDisk::crash`].
    pub fn is_off(&self) -> bool {
        self.lock_state().off
    }

    /// How many operations have changed something (everything but reads) since the disk was made.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// How many operations have failed with that error number, because they were told to or found no room.
    pub fn failures(&self, errno: i32) -> u64 {
        self.lock_state().failures.get(&errno).copied().unwrap_or(0)
    }

    /// Bytes that all files have together.
    pub fn used(&self) -> u64 {
        self.lock_state().used()
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
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_names<'a>(&'a self, state: MutexGuard<'a, State>, dir: Ino) -> io::Result<MutexGuard<'a, State>> {
        let mut state = self.pause(state, Op::SyncDir);
        let power = state.begin(Op::SyncDir)?;
        State::end(power)?;
        state.dir(dir)?.sync();
        Ok(state)
    }

    /// The disk, at the beginning of an operation: waits if it stalls.
    fn enter(&self, op: Op) -> MutexGuard<'_, State> {
        self.pause(self.lock_state(), op)
    }
}

impl Vfs for MemDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let mut ino = ROOT;
        // The parent of the last directory that exists, until that one is synced.
        let mut parent = None;
        for name in names_in(dir)? {
            if let Some(found) = state.dir(ino)?.get(name) {
                parent = Some(ino);
                ino = found;
                continue;
            }
            if let Some(parent) = parent.take() {
                state = self.sync_names(state, parent)?;
            }
            state = self.pause(state, Op::Create);
            let power = state.begin(Op::Create)?;
            let made = state.add(ino, name, Node::Dir(Names::default()))?;
            State::end(power)?;
            state = self.sync_names(state, ino)?;
            ino = made;
        }
        if let Some(parent) = parent {
            state = self.sync_names(state, parent)?;
        }
        state.dir(ino).map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.enter(Op::Read);
        state.begin(Op::Read)?;
        let ino = state.find(dir)?;
        Ok(state.dir(ino)?.list())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut state = self.lock_state();
        if matches!(mode, OpenMode::CreateNew | OpenMode::Truncate) {
            let there = state.find(path).is_ok();
            state = self.pause(state, if there { Op::SetLen } else { Op::Create });
        }
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
        let mut state = self.enter(Op::Rename);
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
        let mut state = self.enter(Op::Remove);
        let ino = state.find(path)?;
        state.file(ino)?;
        let (parent, name) = parent_and_name(path)?;
        let dir = state.find(parent)?;
        let power = state.begin(Op::Remove)?;
        state.dir(dir)?.remove(name, ino);
        State::end(power)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter(Op::Remove);
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
        let mut state = self.sync_names(state, ino)?;
        state.collect();
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.enter(Op::Read);
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

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
