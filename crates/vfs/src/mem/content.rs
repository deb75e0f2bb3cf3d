//! A file's bytes: what one reads, what is durable, and the changes between the two.
//!
//! Changes are kept in the order in which they were made, cut at sector bounds. A crash lands any subset of them; with
//! two writes to one sector that gives every outcome a disk that reorders could give: old, first, second.

use super::rng::Rng;
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
    /// still be read.
    pub(super) fn sync_fails(&mut self, rng: &mut Rng) {
        for change in self.pending.drain(..) {
            if rng.coin() {
                apply(&mut self.durable, &change);
            }
        }
    }

    /// Power is lost. Without a generator nothing that is pending survives.
    pub(super) fn crash(&mut self, rng: Option<&mut Rng>) {
        match rng {
            Some(rng) => self.sync_fails(rng),
            None => self.pending.clear(),
        }
        self.current.clone_from(&self.durable);
    }

    /// Puts durable bytes in place, as rot or an operator would.
    pub(super) fn overwrite(&mut self, bytes: Vec<u8>) {
        self.pending.clear();
        self.durable.clone_from(&bytes);
        self.current = bytes;
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        self.pending.push(change);
    }
}
