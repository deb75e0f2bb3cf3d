//! Where entries lie in the segments: written by the log's owner, read by [`crate::LogReader`].
//!
//! ```text
//!  mark      (1)        (90)       (140)                (130)
//!             |          |          |                    |
//!  segment 0  [head|1....89|90 ..139|140....170] segment 1 [head|130 ... 201]
//! ```
//! A mark says that the batch at an offset holds an entry, and that from there to the next mark every index up to the
//! next mark's is there once, in order. So there is one at the head of each segment, one wherever the log does not go on
//! with the next index (an overwritten tail, a snapshot from the leader), and one every [`SPARSE`] bytes in between, so
//! that a reader skips no more than that. What an overwrite replaces loses its marks: the last entry of an index wins.

use std::collections::VecDeque;

use crate::names::SegmentName;

/// Bytes of log between two marks: about four hundred bytes of memory for a segment of 64 MiB take a reader to within
/// a quarter of a mebibyte.
const SPARSE: u64 = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    first: u64,
    seq: u64,
    offset: u64,
    /// The index at which a gap begins before the next mark, where the leader's snapshot stood in for entries.
    gap: Option<u64>,
}

/// Where the entries of a log lie that are durable.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// The segments, oldest first, each with the offset up to which it is durable and may be read.
    segments: VecDeque<(SegmentName, u64)>,
    /// Ascending, by index and by place.
    marks: VecDeque<Mark>,
    /// The last entry that was noted.
    last: u64,
}

/// A part of a segment that holds an index, and those behind it up to `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) segment: SegmentName,
    /// Of the batch to begin with.
    pub(crate) offset: u64,
    /// The end of what may be read.
    pub(crate) end: u64,
    /// The first index that is not to be taken from here.
    pub(crate) until: u64,
}

/// What the index knows of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    Here(Stretch),
    /// It lies before the first entry that the log still holds, which is this one.
    Gone(u64),
    /// The log ends before it, or has a gap there.
    Absent,
}

impl Index {
    /// A segment that follows the others; it may be read up to `end`.
    pub(crate) fn segment(&mut self, name: SegmentName, end: u64) {
        self.segments.push_back((name, end));
    }

    /// A segment that follows the others, the last of which ended at `previous_end`.
    pub(crate) fn next_segment(&mut self, name: SegmentName, previous_end: u64) {
        self.durable(previous_end);
        self.segment(name, 0);
    }

    /// The last segment may now be read up to `end`.
    pub(crate) fn durable(&mut self, end: u64) {
        if let Some(last) = self.segments.back_mut() {
            last.1 = end;
        }
    }

    /// A batch of the segment `seq` holds the entries from `first` to `last`.
    pub(crate) fn batch(&mut self, seq: u64, offset: u64, first: u64, last: u64) {
        let goes_on = first == self.last + 1
            && self.marks.back().is_some_and(|mark| mark.seq == seq && offset - mark.offset < SPARSE);
        if !goes_on {
            if let Some(mark) = self.marks.back_mut().filter(|_| first > self.last + 1) {
                mark.gap = Some(self.last + 1);
            }
            while self.marks.back().is_some_and(|mark| mark.first >= first) {
                self.marks.pop_back();
            }
            self.marks.push_back(Mark { first, seq, offset, gap: None });
        }
        self.last = last;
    }

    /// The oldest segments go, those before `seq`.
    pub(crate) fn release_before(&mut self, seq: u64) {
        while self.segments.front().is_some_and(|(name, _)| name.seq < seq) {
            self.segments.pop_front();
        }
        while self.marks.front().is_some_and(|mark| mark.seq < seq) {
            self.marks.pop_front();
        }
    }

    /// Where an entry lies.
    pub(crate) fn look_up(&self, index: u64) -> Lookup {
        if index > self.last {
            return Lookup::Absent;
        }
        let behind = self.marks.partition_point(|mark| mark.first <= index);
        let Some(mark) = behind.checked_sub(1).and_then(|at| self.marks.get(at)) else {
            return Lookup::Gone(self.marks.front().map_or(self.last + 1, |mark| mark.first));
        };
        if mark.gap.is_some_and(|gap| index >= gap) {
            return Lookup::Absent;
        }
        let position = self.segments.binary_search_by_key(&mark.seq, |(name, _)| name.seq);
        let Some((segment, end)) = position.ok().and_then(|at| self.segments.get(at)) else {
            return Lookup::Gone(self.last + 1);
        };
        let next = self.marks.get(behind).map_or(self.last + 1, |next| next.first);
        let until = mark.gap.map_or(next, |gap| gap.min(next));
        Lookup::Here(Stretch { segment: *segment, offset: mark.offset, end: *end, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(seq: u64) -> SegmentName {
        SegmentName { seq, first_index: 0 }
    }

    fn here(seq: u64, offset: u64, end: u64, until: u64) -> Lookup {
        Lookup::Here(Stretch { segment: name(seq), offset, end, until })
    }

    fn index() -> Index {
        let mut index = Index::default();
        index.segment(name(0), 512);
        index
    }

    #[test]
    fn marks_stand_apart_by_the_sparse_distance_and_at_each_segment() {
        let mut index = index();
        assert_eq!(index.look_up(1), Lookup::Absent);
        for (offset, entry) in [(512, 1), (1024, 2), (511 + SPARSE, 3), (512 + SPARSE, 4), (513 + SPARSE, 5)]
        {
            index.batch(0, offset, entry, entry);
        }
        index.durable(9000 + SPARSE);
        index.segment(name(1), 512);
        index.batch(1, 512, 6, 9);
        index.durable(1024);
        assert_eq!(index.marks.len(), 3);
        assert_eq!(index.look_up(0), Lookup::Gone(1));
        for entry in 1..=3 {
            assert_eq!(index.look_up(entry), here(0, 512, 9000 + SPARSE, 4), "{entry}");
        }
        for entry in 4..=5 {
            assert_eq!(index.look_up(entry), here(0, 512 + SPARSE, 9000 + SPARSE, 6));
        }
        assert_eq!(index.look_up(9), here(1, 512, 1024, 10));
        assert_eq!(index.look_up(10), Lookup::Absent);
    }

    #[test]
    fn what_was_overwritten_is_found_at_its_last_place() {
        let mut index = index();
        index.batch(0, 512, 1, 5);
        index.batch(0, 1024, 6, 8);
        index.batch(0, 1536, 4, 4);
        index.durable(2048);
        assert_eq!(index.look_up(3), here(0, 512, 2048, 4));
        assert_eq!(index.look_up(4), here(0, 1536, 2048, 5));
        assert_eq!(index.look_up(5), Lookup::Absent, "it was replaced by nothing");
        index.batch(0, 2048, 1, 2);
        assert_eq!(index.look_up(2), here(0, 2048, 2048, 3));
        // A snapshot of the leader leaves a gap.
        index.batch(0, 2560, 100, 100);
        assert_eq!(index.look_up(2), here(0, 2048, 2048, 3));
        assert_eq!((index.look_up(3), index.look_up(99)), (Lookup::Absent, Lookup::Absent));
        assert_eq!(index.look_up(100), here(0, 2560, 2048, 101));
    }

    #[test]
    fn released_segments_are_gone() {
        let mut index = index();
        index.batch(0, 512, 1, 5);
        index.segment(name(1), 512);
        index.batch(1, 512, 6, 8);
        index.segment(name(2), 512);
        index.release_before(1);
        assert_eq!(index.look_up(5), Lookup::Gone(6));
        assert_eq!(index.look_up(6), here(1, 512, 512, 9));
        index.release_before(2);
        assert_eq!(index.look_up(8), Lookup::Gone(9));
    }
}
