//! The names in a log's directory.
//!
//! ```text
//! 0000000000000000-0000000000000000.wal         segment: sequence, index of the first entry that it may hold
//! 0000000000000001-00000000000004d2.wal
//! 0000000000000001-00000000000004d2.wal.broken  what a torn segment held before its tail was cut; at most one is kept
//! prepared-0.tmp                                a segment prepared ahead; removed when the log is opened
//! released-0000000000000000.tmp                 one to be recycled; removed when the log is opened or closed
//! lock                                          locked while the log is open
//! ```
//! Sequence numbers are contiguous. First indexes mostly ascend, but go back when a leader replaced a tail. Other names
//! are none of ours, and left alone.

use std::path::{Path, PathBuf};

use kvd_vfs::Disk;

use crate::error::{Context, Error, Result};

pub(crate) const LOCK: &str = "lock";
pub(crate) const TEMPORARY: &str = ".tmp";
pub(crate) const BROKEN: &str = ".broken";

/// A segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentName {
    /// Position in the log; contiguous.
    pub(crate) seq: u64,
    /// Index of the first entry that it may hold.
    pub(crate) first_index: u64,
}

impl SegmentName {
    pub(crate) fn parse(name: &str) -> Option<SegmentName> {
        let (seq, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let parsed = SegmentName { seq: hex(seq)?, first_index: hex(index)? };
        // The last number of all is never given: no segment could follow.
        (parsed.seq < u64::MAX).then_some(parsed)
    }

    pub(crate) fn file_name(self) -> String {
        format!("{:016x}-{:016x}.wal", self.seq, self.first_index)
    }

    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.file_name())
    }
}

/// Exactly sixteen lower-case digits, so that one segment has one name.
fn hex(text: &str) -> Option<u64> {
    let canonical = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if canonical { u64::from_str_radix(text, 16).ok() } else { None }
}

/// The segments in a directory, ascending, without a gap. Empty if the directory is missing.
pub(crate) fn segments(disk: &Disk, dir: &Path) -> Result<Vec<SegmentName>> {
    if !disk.exists(dir).context("look for", dir)? {
        return Ok(Vec::new());
    }
    let names = disk.list(dir).context("list", dir)?;
    let mut found: Vec<SegmentName> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
    found.sort_by_key(|segment| (segment.seq, segment.first_index));
    for pair in found.windows(2) {
        let [before, next] = [pair[0], pair[1]];
        if next.seq == before.seq {
            let (first, second) = (before.file_name(), next.file_name());
            return Err(Error::DuplicateSegment { dir: dir.to_owned(), first, second });
        }
        if next.seq != before.seq + 1 {
            let missing = before.seq + 1;
            return Err(Error::MissingSegment { dir: dir.to_owned(), missing, next: next.file_name() });
        }
    }
    Ok(found)
}

/// The same of a log that others may be appending to and releasing from: a listing that was made meanwhile may lack names
/// that were there all the time. A gap is one if it is still there when the directory is listed again.
pub(crate) fn segments_in_use(disk: &Disk, dir: &Path) -> Result<Vec<SegmentName>> {
    let mut before = None;
    loop {
        match segments(disk, dir) {
            Err(Error::MissingSegment { missing, .. }) if before != Some(missing) => before = Some(missing),
            listed => return listed,
        }
    }
}

/// The position of the segment from which a log is read that is opened at an index: the last that may hold its entry.
pub(crate) fn segment_for(segments: &[SegmentName], index: u64) -> Option<usize> {
    segments.iter().rposition(|segment| segment.first_index <= index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_no_others() {
        let segment = SegmentName { seq: 1, first_index: 1234 };
        assert_eq!(segment.file_name(), "0000000000000001-00000000000004d2.wal");
        assert_eq!(SegmentName::parse(&segment.file_name()), Some(segment));
        for bad in [
            "",
            "0000000000000001-00000000000004d2",
            "0000000000000001-00000000000004D2.wal",
            "000000000000001-00000000000004d2.wal",
            "00000000000000001-00000000000004d2.wal",
            "0000000000000001_00000000000004d2.wal",
            "+000000000000001-00000000000004d2.wal",
            "ffffffffffffffff-00000000000004d2.wal",
            "0000000000000001-00000000000004d2.wal.broken",
            "0000000000000001-0000000000000002-0000000000000003.wal",
        ] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_segment_that_may_hold_the_entry_is_chosen() {
        let segments: Vec<SegmentName> = [0, 11, 5, 9]
            .iter()
            .zip(0..)
            .map(|(first_index, seq)| SegmentName { seq, first_index: *first_index })
            .collect();
        for (index, want) in [(0, 0), (4, 0), (5, 2), (8, 2), (9, 3), (11, 3), (u64::MAX, 3)] {
            assert_eq!(segment_for(&segments, index), Some(want), "index {index}");
        }
        assert_eq!(segment_for(&segments[1..], 4), None);
    }
}
