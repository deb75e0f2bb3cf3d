//! What is found in place of a recorded snapshot, and what follows: loading as a table.
//!
//! Snapshots that the log recorded are tried from the newest on. Only what is wrong with the *bytes* makes room for an
//! older one; a disk that fails, or a version that this build cannot read, says nothing about them. `docs/snap-format.md`
//! has this table for readers.

use raft::eraftpb::SnapshotMetadata;

use crate::error::Error;

/// What is found in place of a recorded snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// No file has its name.
    Absent,
    /// The bytes are not what was written: any [`crate::Damage`].
    Damaged,
    /// A whole file with another term or index in it than in its name.
    Other,
    /// A file of a newer format version.
    Newer,
    /// The disk fails: the bytes are not known.
    Unreadable,
    /// The whole file, in order.
    Whole,
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is loaded.
    Load,
    /// The next older one is tried.
    Older,
    /// The file is renamed `.broken`, and the next older one is tried.
    SetAside,
    /// An error; the file stays as it is.
    Refuse,
}

/// A row of the table.
pub type Row = (Finding, Verdict);

/// The table, complete.
pub const TABLE: [Row; 6] = [
    (Finding::Absent, Verdict::Older),
    (Finding::Damaged, Verdict::SetAside),
    (Finding::Other, Verdict::SetAside),
    (Finding::Newer, Verdict::Refuse),
    (Finding::Unreadable, Verdict::Refuse),
    (Finding::Whole, Verdict::Load),
];

impl Finding {
    /// What reading a whole file under its name found.
    pub(crate) fn of(read: &Result<SnapshotMetadata, Error>) -> Finding {
        match read {
            Ok(_) => Finding::Whole,
            Err(Error::Corrupt { .. }) => Finding::Damaged,
            Err(Error::Other { .. }) => Finding::Other,
            Err(Error::NewerVersion { .. }) => Finding::Newer,
            // The other errors are those of writers.
            Err(Error::Io { .. } | Error::Body { .. } | Error::MetadataTooLarge { .. }) => {
                Finding::Unreadable
            }
        }
    }
}

/// Looks the verdict up.
pub(crate) fn decide(finding: Finding) -> Verdict {
    let row = TABLE.iter().find(|(found, _)| *found == finding);
    // A row that is missing would be a bug of the table, and refusing is what changes nothing.
    row.map_or(Verdict::Refuse, |(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_finding_once() {
        use Finding::*;
        for finding in [Absent, Damaged, Other, Newer, Unreadable, Whole] {
            assert_eq!(TABLE.iter().filter(|(found, _)| *found == finding).count(), 1, "{finding:?}");
        }
    }
}
