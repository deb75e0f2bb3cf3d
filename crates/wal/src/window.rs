//! A contiguous log whose newest entries are in memory; of the older ones only their terms are, and roughly where their
//! bytes lie. [`crate::LogStorage`] is one with a snapshot before it; reading a log at its opening makes one.

use std::collections::VecDeque;
use std::ops::Range;

use raft::eraftpb::Entry;

use crate::terms::{Evicted, Terms};

/// What an entry counts for: its data and context in bytes.
pub(crate) fn payload(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64
}

/// Room for so many entries is not given back.
const ROOM_KEPT: usize = 1024;

/// The entries behind some index.
#[derive(Debug)]
pub(crate) struct Window {
    /// Contiguous; the first has index `front`.
    entries: VecDeque<Entry>,
    /// The index of the first entry that is in memory, or would be.
    front: u64,
    /// The terms of all entries, those on disk only too.
    terms: Terms,
    evicted: Evicted,
    /// Payload bytes in `entries`.
    bytes: u64,
}

/// What a window holds of the entries that it does not hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    terms: Terms,
    evicted: Evicted,
}

impl Window {
    /// No entries, behind an index.
    pub(crate) fn behind(index: u64) -> Window {
        Window {
            entries: VecDeque::new(),
            front: index + 1,
            terms: Terms::default(),
            evicted: Evicted::default(),
            bytes: 0,
        }
    }

    /// The index of the first entry that is in memory, or would be.
    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    /// The index of the last entry, or of what stands before the first.
    pub(crate) fn last(&self) -> u64 {
        self.front + self.entries.len() as u64 - 1
    }

    /// Payload bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The term of an entry, in memory or not.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        self.terms.get(index).filter(|_| index <= self.last())
    }

    /// Entries that are in memory.
    pub(crate) fn range(&self, indexes: Range<u64>) -> impl Iterator<Item = &Entry> {
        let position = |index: u64| (index - self.front) as usize;
        self.entries.range(position(indexes.start)..position(indexes.end))
    }

    /// Appends an entry, which follows the last one.
    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last() + 1);
        self.bytes += payload(&entry);
        self.terms.push(entry.index, entry.term);
        self.entries.push_back(entry);
    }

    /// Forgets the entries from an index on.
    pub(crate) fn truncate(&mut self, from: u64) {
        let keep = from.saturating_sub(self.front) as usize;
        if keep < self.entries.len() {
            self.bytes -= self.entries.range(keep..).map(payload).sum::<u64>();
            self.entries.truncate(keep);
        }
        self.front = self.front.min(from);
        self.terms.truncate(from);
        self.evicted.truncate(from);
    }

    /// Forgets all entries; those to come are behind an index.
    pub(crate) fn clear(&mut self, index: u64) {
        *self = Window::behind(index);
    }

    /// Forgets the entries up to, and including, an index that is not beyond the last.
    pub(crate) fn compact(&mut self, index: u64) {
        let last = self.last();
        while self.front <= index
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= payload(&entry);
            self.front += 1;
        }
        self.front = self.front.max(index + 1);
        match index == last {
            true => self.terms.clear(),
            false => self.terms.compact(index),
        }
        self.evicted.compact(index, self.front == index + 1);
        self.shrink();
    }

    /// Drops entries up to an index from memory, oldest first, while those there take more than `most` bytes, their own
    /// structures included. The newest of all stays.
    pub(crate) fn evict(&mut self, index: u64, most: u64) {
        let structures = |entries: usize| (entries * size_of::<Entry>()) as u64;
        while self.front <= index
            && self.entries.len() > 1
            && self.bytes + structures(self.entries.len()) > most
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= payload(&entry);
            self.evicted.push(entry.index, payload(&entry));
            self.front += 1;
        }
        self.shrink();
    }

    /// Room that a burst took is given back when three quarters of it are empty.
    fn shrink(&mut self) {
        let len = self.entries.len().max(ROOM_KEPT);
        if self.entries.capacity() > 4 * len {
            self.entries.shrink_to(2 * len);
        }
    }

    /// The parts that begin at or below an index, on disk (64 KiB or more each) and in memory (one entry each): the first
    /// index of each, and its bytes.
    pub(crate) fn parts_to(&self, index: u64) -> impl Iterator<Item = (u64, u64)> {
        let held = self.entries.iter().map(|entry| (entry.index, payload(entry)));
        self.evicted.parts_to(index).chain(held.take_while(move |(first, _)| *first <= index))
    }

    /// The entries in memory, and the outline of the others.
    pub(crate) fn into_parts(self) -> (Vec<Entry>, Outline) {
        (self.entries.into(), Outline { terms: self.terms, evicted: self.evicted })
    }

    /// The log behind an index that ends with `entries`, and before them holds what the outline says.
    pub(crate) fn from_parts(index: u64, entries: Vec<Entry>, outline: Outline) -> Window {
        Window {
            front: entries.first().map_or(index + 1, |entry| entry.index),
            bytes: entries.iter().map(payload).sum(),
            entries: entries.into(),
            terms: outline.terms,
            evicted: outline.evicted,
        }
    }

    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.entries.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(range: std::ops::RangeInclusive<u64>) -> Window {
        let mut window = Window::behind(range.start() - 1);
        for index in range {
            let mut entry = Entry::default();
            (entry.index, entry.term, entry.data) = (index, 1 + index / 4, vec![1; 10].into());
            window.push(entry);
        }
        window
    }

    fn indexes(window: &Window) -> Vec<u64> {
        window.range(window.front()..window.last() + 1).map(|entry| entry.index).collect()
    }

    #[test]
    fn what_leaves_memory_keeps_its_term_and_its_place() {
        let mut window = window(3..=8);
        window.evict(5, 0);
        assert_eq!((window.front(), window.last(), window.bytes()), (6, 8, 30));
        assert_eq!(indexes(&window), [6, 7, 8]);
        let terms: Vec<_> = (2..=9).map(|index| window.term(index)).collect();
        assert_eq!(terms, [None, Some(1), Some(2), Some(2), Some(2), Some(2), Some(3), None]);
        window.evict(8, 0);
        assert_eq!((window.front(), indexes(&window)), (8, vec![8]), "the newest stays");
    }

    #[test]
    fn a_log_is_cut_within_memory_and_behind_it() {
        for (from, front, left) in [(9, 6, 3), (8, 6, 2), (6, 6, 0), (5, 5, 0), (3, 3, 0)] {
            let mut window = window(3..=8);
            window.evict(5, 0);
            window.truncate(from);
            assert_eq!((window.front(), window.last(), indexes(&window).len()), (front, from - 1, left));
            assert_eq!(window.bytes(), 10 * left as u64);
            assert_eq!(window.term(from), None);
        }
    }

    #[test]
    fn parts_make_the_same_log_again() {
        let mut window = window(3..=8);
        window.evict(5, 0);
        let (entries, outline) = window.into_parts();
        let window = Window::from_parts(2, entries, outline);
        assert_eq!((window.front(), window.last(), window.bytes(), window.term(3)), (6, 8, 30, Some(1)));
        let (entries, outline) = Window::behind(2).into_parts();
        let empty = Window::from_parts(2, entries, outline);
        assert_eq!((empty.front(), empty.last()), (3, 2));
    }

    #[test]
    fn room_that_a_burst_took_is_given_back() {
        let mut window = window(1..=100_000);
        assert!(window.room() >= 100_000);
        window.evict(99_999, 0);
        assert!(window.room() <= 4 * ROOM_KEPT, "{}", window.room());
        let mut window = self::window(1..=100_000);
        window.compact(99_999);
        assert!(window.room() <= 4 * ROOM_KEPT, "{}", window.room());
    }
}
