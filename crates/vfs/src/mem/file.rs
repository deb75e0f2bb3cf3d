//! Open files and locks. A crash leaves them behind, dead.

use std::io;
use std::sync::MutexGuard;

use super::names::Ino;
use super::rng::Rng;
use super::state::{EINVAL, State, os};
use super::{MemDisk, Op};
use crate::{File, Lock, SECTOR};

#[derive(Debug)]
pub(super) struct MemLock {
    pub(super) disk: MemDisk,
    pub(super) ino: Ino,
    pub(super) generation: u64,
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
pub(super) struct MemFile {
    pub(super) disk: MemDisk,
    pub(super) ino: Ino,
    pub(super) generation: u64,
    pub(super) writable: bool,
}

impl MemFile {
    /// The disk, if this handle is still good for that operation.
    fn state(&self, op: Op) -> io::Result<MutexGuard<'_, State>> {
        self.check(self.disk.enter(op), op)
    }

    fn check<'a>(&self, state: MutexGuard<'a, State>, op: Op) -> io::Result<MutexGuard<'a, State>> {
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
        match state.begin_write(Op::Write) {
            Ok(power) => {
                state.room_for((offset + buf.len()).saturating_sub(len))?;
                state.file(self.ino)?.write(buf, offset);
                State::end(power)
            }
            Err((e, _)) if state.off => Err(e),
            Err((e, lands)) => {
                let some = match lands {
                    Some(bytes) => bytes.min(buf.len() as u64) as usize,
                    None => {
                        // It stopped somewhere, after a whole sector.
                        let stop = offset + (state.rng.next() % (buf.len() as u64 + 1)) as usize;
                        (stop - stop % SECTOR).saturating_sub(offset)
                    }
                };
                state.file(self.ino)?.write(&buf[..some], offset);
                Err(e)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.check(self.disk.lock_state(), Op::Read)?.file(self.ino)?.bytes().len() as u64)
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
                state.file(self.ino)?.sync_fails(&mut |_| rng.coin());
                Err(e)
            }
        }
    }
}
