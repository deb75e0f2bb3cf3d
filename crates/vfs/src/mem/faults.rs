//! What [`MemDisk`] can be told to do wrong.

use std::io;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::rng::Rng;
use super::state::{EINVAL, Fault, State, os};
use super::{MemDisk, Op};
use crate::SECTOR;

/// Damage to durable bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// A bit flips: number n is bit n % 8 of byte n / 8.
    Bit(u64),
    /// A sector becomes zeros: number n begins at byte n * [`SECTOR`].
    Sector(u64),
}

impl MemDisk {
    /// Fails the `n`th operation of that kind from now (1 is the next) with an OS error number.
    pub fn fail_nth(&self, op: Op, n: u64, errno: i32) {
        self.plan(Fault { op, left: n, errno, lands: None });
    }

    /// Fails the `n`th write from now (1 is the next) with an OS error number, after `bytes` of it. They can be read, and
    /// are no more durable than those of a whole write.
    pub fn short_write_nth(&self, n: u64, bytes: u64, errno: i32) {
        self.plan(Fault { op: Op::Write, left: n, errno, lands: Some(bytes) });
    }

    fn plan(&self, fault: Fault) {
        assert!(fault.left > 0, "1 is the next operation");
        self.lock_state().faults.push(fault);
    }

    /// Takes the power away in the middle of the `n`th changing operation from now (1 is the next).
    pub fn power_off_at(&self, n: u64) {
        assert!(n > 0, "1 is the next operation");
        let mut state = self.lock_state();
        state.power_off_at = Some(state.operations + n);
    }

    /// Forgets the failures, stalls and delays, and the power-off, that have not happened yet.
    pub fn clear_faults(&self) {
        self.lock_state().clear_faults();
    }

    /// Limits the bytes that all files together may have; what goes beyond fails with `ENOSPC`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_state().capacity = bytes;
    }

    /// Seeds the choices made by faults (which sectors of a failed write or sync landed).
    pub fn seed_faults(&self, seed: u64) {
        self.lock_state().rng = Rng::new(seed);
    }

    /// Damages a file where it is durable. A sector that was written since, or that no sync could write, is read from the
    /// cache as it was written until power is lost.
    ///
    /// # Errors
    /// If there is no such file, or no such place in what is durable of it.
    pub fn rot(&self, path: &Path, rot: Rot) -> io::Result<()> {
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        if state.file(ino)?.rot(rot) { Ok(()) } else { Err(os(EINVAL)) }
    }

    /// Damages a file at a place drawn from `seed`: a bit as often as a sector. Says what it did.
    ///
    /// # Errors
    /// As [`MemDisk::rot`]; an empty file has no place.
    pub fn rot_somewhere(&self, path: &Path, seed: u64) -> io::Result<Rot> {
        let mut rng = Rng::new(seed);
        let mut state = self.lock_state();
        let ino = state.find(path)?;
        let file = state.file(ino)?;
        let bytes = file.durable_len() as u64;
        if bytes == 0 {
            return Err(os(EINVAL));
        }
        let rot = match rng.coin() {
            true => Rot::Bit(rng.next() % (bytes * 8)),
            false => Rot::Sector(rng.next() % bytes.div_ceil(SECTOR as u64)),
        };
        file.rot(rot);
        Ok(rot)
    }

    /// Stalls the `n`th operation of that kind from now (1 is the next): before it takes effect, it waits for
    /// [`MemDisk::release`] or a crash. For those who have a thread to spare; see [`MemDisk::delay_nth`].
    pub fn stall_nth(&self, op: Op, n: u64) {
        assert!(n > 0, "1 is the next operation");
        self.lock_state().stalls.push((op, n));
    }

    /// How many operations stall now.
    pub fn stalled(&self) -> usize {
        self.lock_state().stalled
    }

    /// Lets what stalls now go on.
    pub fn release(&self) {
        self.lock_state().releases += 1;
        self.shared.released.notify_all();
    }

    /// Makes the `n`th operation of that kind from now (1 is the next) take so long in virtual time: it returns at once,
    /// and adds to what [`MemDisk::take_delay`] returns. For a simulator, whose one thread must not wait.
    pub fn delay_nth(&self, op: Op, n: u64, long: Duration) {
        assert!(n > 0, "1 is the next operation");
        self.lock_state().delays.push((op, n, long));
    }

    /// The virtual time that delayed operations took since this was last asked.
    pub fn take_delay(&self) -> Duration {
        std::mem::take(&mut self.lock_state().delayed)
    }

    /// Waits if the operation that is about to begin stalls.
    pub(super) fn pause<'a>(&'a self, mut state: MutexGuard<'a, State>, op: Op) -> MutexGuard<'a, State> {
        if state.off || !state.stalls(op) {
            return state;
        }
        state.stalled += 1;
        let before = state.releases;
        while state.releases == before {
            state = self.shared.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stalled -= 1;
        state
    }
}
