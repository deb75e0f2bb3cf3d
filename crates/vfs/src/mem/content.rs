//! A file's bytes: what one reads, what is durable, and the changes between the two.
//!
//! Changes are kept in the order in which they were made, cut at sector bounds. A crash lands any subset of them; with
//! two writes to one sector that gives every outcome a disk that reorders could give: old, first, second.

use super::Rot;
use crate::SECTOR;

#[derive(Debug, Clone)]
enum Change {
    /// Bytes within one sector. What lies beyond the length at that time is dropped.
    Bytes { offset: usize, data: Vec<u8> },
    /// The file reaches at least this far, zeros where nothing was written.
    Grow(usize),
    /// The file was cut or extended.
    SetLen(usize),
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Bytes { offset, data } => {
            let end = (offset + data.len()).min(bytes.len());
            if let Some(place) = bytes.get_mut(*offset..end) {
                place.copy_from_slice(&data[..place.len()]);
            }
        }
        Change::Grow(len) if bytes.len() < *len => bytes.resize(*len, 0),
        Change::Grow(_) => {}
        Change::SetLen(len) => bytes.resize(*len, 0),
    }
}

/// Whether [`apply`] would change anything.
fn matters(bytes: &[u8], change: &Change) -> bool {
    match change {
        Change::Bytes { offset, data } => {
            let end = (offset + data.len()).min(bytes.len());
            bytes.get(*offset..end).is_some_and(|place| *place != data[..place.len()])
        }
        Change::Grow(len) => bytes.len() < *len,
        Change::SetLen(len) => bytes.len() != *len,
    }
}

/// A file's bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Content {
    /// What a reader sees.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.current
    }

    /// The number of changes that a crash may lose.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn write(&mut self, mut data: &[u8], mut offset: usize) {
        self.change(Change::Grow(offset + data.len()));
        while !data.is_empty() {
            let n = (SECTOR - offset % SECTOR).min(data.len());
            self.change(Change::Bytes { offset, data: data[..n].to_vec() });
            (data, offset) = (&data[n..], offset + n);
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.change(Change::SetLen(len));
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// A sync that failed: some of the changes landed, and no later sync will write the others, although they can
    /// still be read. `lands` is asked for each, and told whether it would change anything.
    pub(super) fn sync_fails(&mut self, lands: &mut dyn FnMut(bool) -> bool) {
        for change in self.pending.drain(..) {
            if lands(matters(&self.durable, &change)) {
                apply(&mut self.durable, &change);
            }
        }
    }

    /// Power is lost.
    pub(super) fn crash(&mut self, lands: &mut dyn FnMut(bool) -> bool) {
        self.sync_fails(lands);
        self.current.clone_from(&self.durable);
    }

    /// The length of what is durable.
    pub(super) fn durable_len(&self) -> usize {
        self.durable.len()
    }

    /// Damages what is durable. A sector that was written since is still read as it was written, from the cache, until
    /// power is lost. Whether there is such a place.
    pub(super) fn rot(&mut self, rot: Rot) -> bool {
        let (Rot::Bit(place) | Rot::Sector(place)) = rot;
        let at = match rot {
            Rot::Bit(_) => usize::try_from(place / 8),
            Rot::Sector(_) => usize::try_from(place).map(|sector| sector.saturating_mul(SECTOR)),
        };
        let Some(at) = at.ok().filter(|at| *at < self.durable.len()) else { return false };
        let from = at - at % SECTOR;
        let sector = |bytes: &[u8]| from..bytes.len().min(from + SECTOR);
        let range = sector(&self.durable);
        let cached = self.current.get(sector(&self.current)) != self.durable.get(range.clone());
        let damage = |bytes: &mut [u8]| match rot {
            Rot::Bit(bit) => bytes[at] ^= 1 << (bit % 8),
            Rot::Sector(_) => bytes[range.clone()].fill(0),
        };
        damage(&mut self.durable);
        if !cached {
            damage(&mut self.current);
        }
        true
    }

    /// Puts durable bytes in place, as rot or an operator would.
    pub(super) fn overwrite(&mut self, bytes: Vec<u8>) {
        self.pending.clear();
        self.current.clone_from(&bytes);
        self.durable = bytes;
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push(change);
    }
}
