//! [`survey`]: what a whole log holds, for whoever looks after it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_vfs::Disk;
use raft::eraftpb::HardState;

use crate::error::{Error, Result};
use crate::record::SnapshotRecord;
use crate::scan::{Batch, End, Record, Released, Scan, Step};

/// What [`survey`] saw, as far as it got.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// What [`crate::Wal::create`] was given; empty before the first batch.
    pub metadata: Bytes,
    /// The segments, oldest first.
    pub segments: Vec<SegmentSurvey>,
    /// The last hard state.
    pub hard_state: HardState,
    /// The first and the last index of the entries that the log ends with, contiguous, replaced ones left out. `None` if
    /// it ends with a snapshot record that no entry precedes.
    pub entries: Option<(u64, u64)>,
    /// The snapshots on record, in the order of the log.
    pub snapshots: Vec<SnapshotSurvey>,
    /// The last time that segments went while the log was read. What they held is not counted.
    pub released: Option<Released>,
    /// Where the log ends, if the survey got there.
    pub end: Option<End>,
    /// Why it did not.
    pub error: Option<Error>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSurvey {
    /// The file.
    pub file: PathBuf,
    /// The sequence number.
    pub sequence: u64,
    /// Bytes that batches take, good ones.
    pub bytes: u64,
    /// How many batches there are.
    pub batches: u64,
    /// How many entries there are, replaced ones included.
    pub entries: u64,
    /// The lowest and the highest index of them.
    pub indexes: Option<(u64, u64)>,
}

/// The record of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSurvey {
    /// Which snapshot.
    pub snapshot: SnapshotRecord,
    /// The segment that has the record.
    pub file: PathBuf,
    /// Where its batch begins.
    pub offset: u64,
    /// Whether the last hard state commits it: the log can be opened at no other.
    pub committed: bool,
}

/// Reads a whole log, without the lock and without changing anything; see [`crate::scan`] for what that means beside the
/// process that has it open. Memory grows with the number of segments and of snapshot records.
///
/// Damage is no error of this function: what was read before it is returned, with [`Survey::error`].
///
/// # Errors
/// [`Error::Absent`] if there is no log; an error of the directory.
pub fn survey(disk: &Disk, dir: &Path) -> Result<Survey> {
    let mut scan = Scan::open(disk.clone(), dir)?;
    let mut survey = Survey::default();
    let error = loop {
        match scan.step() {
            Ok(Some(Step::Batch(batch))) => {
                if let Err(error) = survey.batch(&batch) {
                    break Some(error);
                }
            }
            Ok(Some(Step::Released(released))) => {
                survey = Survey { released: Some(released), ..Survey::default() };
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    (survey.error, survey.end) = (error, scan.end().cloned());
    let commit = survey.hard_state.commit;
    for found in &mut survey.snapshots {
        found.committed = found.snapshot.index <= commit;
    }
    Ok(survey)
}

impl Survey {
    fn batch(&mut self, batch: &Batch<'_>) -> Result<()> {
        for record in batch.records() {
            match record? {
                Record::Link { .. } => self.segments.push(SegmentSurvey {
                    file: batch.file.to_owned(),
                    sequence: batch.sequence,
                    bytes: 0,
                    batches: 0,
                    entries: 0,
                    indexes: None,
                }),
                Record::Metadata(metadata) => self.metadata = metadata,
                Record::Entry(entry) => self.entry(entry.index),
                Record::HardState(state) => self.hard_state = state,
                Record::Snapshot(snapshot) => self.snapshots.push(SnapshotSurvey {
                    snapshot,
                    file: batch.file.to_owned(),
                    offset: batch.offset,
                    committed: false,
                }),
                Record::Close => {}
            }
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.bytes = batch.end;
            segment.batches += 1;
        }
        Ok(())
    }

    fn entry(&mut self, index: u64) {
        self.entries = Some(match self.entries {
            Some((first, last)) if index <= last + 1 => (first.min(index), index),
            _ => (index, index),
        });
        if let Some(segment) = self.segments.last_mut() {
            segment.entries += 1;
            let (low, high) = segment.indexes.unwrap_or((index, index));
            segment.indexes = Some((low.min(index), high.max(index)));
        }
    }
}
