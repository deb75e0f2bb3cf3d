//! What is wrong at an offset, and what follows from it: recovery as a table.
//!
//! # The disk that we assume
//! Sectors of 512 bytes are written whole or not at all, in any order; what was synced stays unless it rots. Segments
//! are zeros before they are used, and no sector of a batch is all zeros. Hence a zero sector was never written (or was
//! written and lost by a disk that lied), and a damaged one that is not zero is no crash's doing.
//!
//! # Evidence
//! Each header says up to where the segment was durable when it was written. A header that survives *behind* the damage
//! and names an offset beyond it proves that the damaged batch was durable: that is rot, not a torn write. The head of
//! the next segment says so for the whole segment before it, and a segment has its name only once its own head is
//! durable.

use std::fmt;

use kvd_mutation::{Bug, planted};

/// What a reader finds where the next batch should begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Zeros in place of a header, and zeros to the end of the file.
    Zeros,
    /// Zeros in place of a header, and something that is not zero behind them.
    ZerosThenMore,
    /// A batch that the end of the file cuts short.
    Incomplete,
    /// A good header, a wrong checksum, and a sector of zeros within the batch.
    ZeroSector,
    /// A good header, a wrong checksum, and no sector of zeros.
    BadChecksum,
    /// Neither a header nor zeros.
    BadHeader,
    /// A good header that belongs elsewhere: another segment, offset or predecessor.
    Misplaced,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finding::Zeros => "the log ends here",
            Finding::ZerosThenMore => "zeros in place of a batch header, with data behind them",
            Finding::Incomplete => "the file ends within a batch",
            Finding::ZeroSector => "a sector of zeros within a batch",
            Finding::BadChecksum => "the checksum of a batch does not match",
            Finding::BadHeader => "the header of a batch is damaged",
            Finding::Misplaced => "a batch that belongs elsewhere",
        })
    }
}

/// What recovery does about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends here.
    End,
    /// The last write was torn and never acknowledged: cut it, whatever follows.
    Torn,
    /// Durable bytes are damaged: refuse.
    Corrupt,
}

/// A row of the decision table: a finding, whether everything up to behind it is known to have been durable, and the
/// verdict.
pub type Row = (Finding, bool, Verdict);

/// The decision table, complete.
pub const TABLE: [Row; 14] = [
    (Finding::Zeros, false, Verdict::End),
    (Finding::Zeros, true, Verdict::Corrupt),
    (Finding::ZerosThenMore, false, Verdict::Torn),
    (Finding::ZerosThenMore, true, Verdict::Corrupt),
    (Finding::Incomplete, false, Verdict::Torn),
    (Finding::Incomplete, true, Verdict::Corrupt),
    (Finding::ZeroSector, false, Verdict::Torn),
    (Finding::ZeroSector, true, Verdict::Corrupt),
    (Finding::BadChecksum, false, Verdict::Corrupt),
    (Finding::BadChecksum, true, Verdict::Corrupt),
    (Finding::BadHeader, false, Verdict::Corrupt),
    (Finding::BadHeader, true, Verdict::Corrupt),
    (Finding::Misplaced, false, Verdict::Corrupt),
    (Finding::Misplaced, true, Verdict::Corrupt),
];

/// Looks the verdict up.
pub(crate) fn decide(finding: Finding, known_durable: bool) -> Verdict {
    if planted(Bug::CutBelowDurable) && finding != Finding::Zeros {
        return Verdict::Torn;
    }
    let row = TABLE.iter().find(|(found, durable, _)| (*found, *durable) == (finding, known_durable));
    // A row that is missing would be a bug of the table, and refusing is what cannot lose anything.
    row.map_or(Verdict::Corrupt, |(_, _, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_case_once_and_nothing_durable_is_ever_cut() {
        use Finding::*;
        for finding in [Zeros, ZerosThenMore, Incomplete, ZeroSector, BadChecksum, BadHeader, Misplaced] {
            for durable in [false, true] {
                let rows = TABLE.iter().filter(|(f, d, _)| (*f, *d) == (finding, durable));
                assert_eq!(rows.count(), 1, "{finding:?} {durable}");
            }
            assert_eq!(decide(finding, true), Verdict::Corrupt);
        }
    }
}
