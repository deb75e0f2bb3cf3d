//! The one source of chance: SplitMix64 (Steele, Lea, Flood 2014). A seed in, the same choices out, on every machine.

use std::ops::Range;

/// A generator.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that makes the choices of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of a range that is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.number() % (range.end - range.start)
    }

    /// An index of something that has `len` elements, at least one.
    pub fn index(&mut self, len: usize) -> usize {
        (self.number() % len as u64) as usize
    }

    /// True so often in a thousand times.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.number() % 1000 < chance
    }

    /// One of the elements, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// Puts the elements in any order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for i in (1..elements.len()).rev() {
            elements.swap(i, self.index(i + 1));
        }
    }
}
