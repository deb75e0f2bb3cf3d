//! What stays in memory of entries whose payloads do not: their terms, and roughly where the bytes lie.

use std::collections::VecDeque;

/// The terms of a contiguous range of indexes, one item a term. Terms never descend along a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    /// The first index of each term, and the term. Ascending by index.
    runs: VecDeque<(u64, u64)>,
}

impl Terms {
    /// The entry that follows has this index and term.
    pub(crate) fn push(&mut self, index: u64, term: u64) {
        if self.runs.back().is_none_or(|(_, last)| *last != term) {
            self.runs.push_back((index, term));
        }
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.runs.back().is_some_and(|(first, _)| *first >= index) {
            self.runs.pop_back();
        }
    }

    /// Forgets the entries up to, and including, `index`, which is not the last one.
    pub(crate) fn compact(&mut self, index: u64) {
        while self.runs.get(1).is_some_and(|(first, _)| *first <= index + 1) {
            self.runs.pop_front();
        }
        if let Some(front) = self.runs.front_mut() {
            front.0 = front.0.max(index + 1);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }

    /// The term of an index that is not beyond the last.
    pub(crate) fn get(&self, index: u64) -> Option<u64> {
        let behind = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs.get(behind.checked_sub(1)?).map(|(_, term)| *term)
    }
}

/// Bytes of payload that one item counts, at least.
const GRAIN: u64 = 64 << 10;

/// How many payload bytes lie where, of the entries that are on disk only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evicted {
    /// The first index of each part, and its bytes. Ascending, without a gap.
    parts: VecDeque<(u64, u64)>,
}

impl Evicted {
    /// The entry that follows has so many bytes.
    pub(crate) fn push(&mut self, index: u64, bytes: u64) {
        match self.parts.back_mut() {
            Some((_, part)) if *part < GRAIN => *part += bytes,
            _ => self.parts.push_back((index, bytes)),
        }
    }

    /// Forgets the parts that begin at or behind an index.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.parts.back().is_some_and(|(first, _)| *first >= index) {
            self.parts.pop_back();
        }
    }

    /// Forgets the parts that lie wholly at or below an index; all if none of these entries is left.
    pub(crate) fn compact(&mut self, index: u64, all: bool) {
        while self.parts.len() > 1 && self.parts.get(1).is_some_and(|(first, _)| *first <= index + 1) {
            self.parts.pop_front();
        }
        if all {
            self.parts.clear();
        }
    }

    /// The parts that begin at or below an index: the first index of each, and its bytes.
    pub(crate) fn parts_to(&self, index: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.parts.iter().copied().take_while(move |(first, _)| *first <= index)
    }

    /// The bytes of all parts.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let mut terms = Terms::default();
        for (index, term) in [(4, 1), (5, 1), (6, 3), (7, 3), (8, 4)] {
            terms.push(index, term);
        }
        terms
    }

    fn got(terms: &Terms) -> Vec<Option<u64>> {
        (3..=8).map(|index| terms.get(index)).collect()
    }

    #[test]
    fn each_term_is_one_item() {
        let terms = terms();
        assert_eq!(terms.runs.len(), 3);
        assert_eq!(got(&terms), [None, Some(1), Some(1), Some(3), Some(3), Some(4)]);
    }

    #[test]
    fn terms_go_from_both_ends() {
        for (to, left) in [(4, 3), (5, 2), (6, 2), (7, 1)] {
            let mut compacted = terms();
            compacted.compact(to);
            assert_eq!(compacted.runs.len(), left, "{to}");
            assert_eq!(compacted.get(to), None);
            for index in to + 1..=8 {
                assert_eq!(compacted.get(index), terms().get(index), "{to} {index}");
            }
        }
        for (from, left) in [(9, 3), (8, 2), (7, 2), (6, 1), (5, 1), (4, 0)] {
            let mut truncated = terms();
            truncated.truncate(from);
            assert_eq!(truncated.runs.len(), left, "{from}");
            truncated.push(from, 9);
            assert_eq!((truncated.get(from), truncated.get(from - 1)), (Some(9), terms().get(from - 1)));
        }
    }

    #[test]
    fn evicted_bytes_are_counted_in_parts() {
        let mut evicted = Evicted::default();
        for (index, bytes) in [(1, GRAIN - 1), (2, 1), (3, GRAIN), (4, 5), (5, 6)] {
            evicted.push(index, bytes);
        }
        assert_eq!(evicted.parts_to(9).collect::<Vec<_>>(), [(1, GRAIN), (3, GRAIN), (4, 11)]);
        assert_eq!(evicted.parts_to(3).count(), 2);
        evicted.compact(1, false);
        assert_eq!(evicted.bytes(), 2 * GRAIN + 11);
        evicted.compact(2, false);
        assert_eq!(evicted.bytes(), GRAIN + 11);
        evicted.truncate(4);
        assert_eq!(evicted.bytes(), GRAIN);
        evicted.compact(3, true);
        assert_eq!(evicted.bytes(), 0);
    }
}
