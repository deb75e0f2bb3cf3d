//! A byte buffer whose start is aligned to a sector, as `O_DIRECT` wants it.
//!
//! Made without `unsafe`: the buffer under it is a page longer than needed, and the bytes start at its first
//! aligned address.

use crate::SECTOR;

/// The alignment in bytes: the page size, which satisfies every device.
const ALIGN: usize = 4096;

/// A growable buffer, aligned to 4096 bytes. Its memory is kept when it is cleared.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// An empty buffer.
    pub fn new() -> AlignedBuf {
        AlignedBuf::default()
    }

    /// Forgets the bytes, not the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Gives back memory beyond `keep` bytes if the buffer is empty.
    pub fn shrink_to(&mut self, keep: usize) {
        if self.len == 0 && self.raw.len() > keep + ALIGN {
            *self = AlignedBuf::new();
        }
    }

    /// The bytes, aligned.
    pub fn as_slice(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }

    /// The bytes, aligned.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts, or extends with zeros.
    pub fn resize(&mut self, len: usize) {
        if len > self.len {
            self.reserve(len);
            let (from, to) = (self.start + self.len, self.start + len);
            self.raw[from..to].fill(0);
        }
        self.len = len;
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let len = self.len + bytes.len();
        self.reserve(len);
        self.raw[self.start + self.len..self.start + len].copy_from_slice(bytes);
        self.len = len;
    }

    /// Makes room for `capacity` bytes in all. A larger buffer has another address, hence another first aligned byte.
    fn reserve(&mut self, capacity: usize) {
        if self.start + capacity <= self.raw.len() {
            return;
        }
        let capacity = capacity.max(2 * self.len).next_multiple_of(SECTOR);
        let mut raw = vec![0; capacity + ALIGN];
        let start = raw.as_ptr().align_offset(ALIGN);
        raw[start..start + self.len].copy_from_slice(self.as_slice());
        self.raw = raw;
        self.start = start;
    }
}

/// Whether `O_DIRECT` takes a buffer at that address.
pub(crate) fn is_aligned(buf: &[u8]) -> bool {
    buf.as_ptr().align_offset(SECTOR) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_keeps_its_bytes_while_it_grows() {
        let mut buf = AlignedBuf::new();
        let mut want = Vec::new();
        for i in 0..20_000u32 {
            buf.extend_from_slice(&i.to_le_bytes());
            want.extend_from_slice(&i.to_le_bytes());
        }
        assert_eq!(buf.as_slice(), want);
        assert_eq!(buf.as_slice().as_ptr().align_offset(ALIGN), 0);
        buf.resize(want.len() + 700);
        assert!(buf.as_slice()[want.len()..].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_cleared_buffer_shows_no_old_bytes() {
        let mut buf = AlignedBuf::new();
        buf.extend_from_slice(&[7; 1000]);
        buf.clear();
        buf.resize(1000);
        assert_eq!(buf.as_slice(), [0; 1000]);
        buf.clear();
        buf.shrink_to(10);
        assert!(buf.is_empty());
    }
}
