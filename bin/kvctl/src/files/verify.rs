//! `wal verify`: what a log holds, whether all of it is good, and what opening it would do.
//!
//! Two readings: one of the whole log, segment by segment, and one as the member opens it, at the newest snapshot that is
//! on record, committed, and whose file is there. Beside a running member, the log may go on in between to where it
//! cannot be opened at that snapshot any more; then both begin again.

use std::io::Write;

use kvd_snap::Listed;
use kvd_vfs::Disk;
use kvd_wal::scan::is_open;
use kvd_wal::{Report, SnapshotRecord, Survey};
use serde_json::{Value, json};

use super::dump::{end_json, metadata_json, metadata_text};
use super::{Directories, Place, count, directories, is_damage, name_of};
use crate::Error;

/// Readings of a running log that releases what is read; each takes snapshots of the member to go wrong.
const ATTEMPTS: u32 = 50;

/// What was found.
struct Found {
    running: bool,
    survey: Survey,
    /// The files beside the log, if it is in a member's directory.
    files: Option<Vec<Listed>>,
    /// The snapshot that the member would open, and what it would find.
    opened: Option<(SnapshotRecord, Report)>,
    /// What is wrong.
    error: Option<Error>,
}

/// A snapshot, by what is known of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    record: SnapshotRecord,
    recorded: bool,
    committed: bool,
    file_bytes: Option<u64>,
}

pub(crate) fn verify(disk: &Disk, place: &Place, out: &mut dyn Write) -> Result<(), Error> {
    let directories = directories(&place.path)?;
    let found = examine(disk, &directories)?;
    match place.output.is_json() {
        true => writeln!(out, "{}", found.json(&directories))?,
        false => found.text(&directories, out)?,
    }
    out.flush()?;
    match found.error {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn examine(disk: &Disk, directories: &Directories) -> Result<Found, Error> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let running = is_open(disk, &directories.wal)?;
        let mut found = Found { running, survey: Survey::default(), files: None, opened: None, error: None };
        match kvd_wal::survey(disk, &directories.wal) {
            Ok(survey) => found.survey = survey,
            Err(error) if is_damage(&error) => {
                found.error = Some(error.into());
                return Ok(found);
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(error) = found.survey.error.clone() {
            found.error = Some(error.into());
            return Ok(found);
        }
        // After the log was read: the file of a snapshot is there before its record is.
        if let Some(snap) = &directories.snap {
            found.files = Some(kvd_snap::list(disk, snap)?);
        }
        let opened = match found.opens_at() {
            Some(at) => {
                kvd_wal::verify(disk, &directories.wal, at).map(|report| (at, report)).map_err(Error::from)
            }
            None => Err(Error::NoSnapshot { dir: directories.wal.clone() }),
        };
        match opened {
            Ok((at, report)) => {
                if let Some(torn) = report.torn.clone() {
                    found.error = Some(Error::Torn(torn));
                }
                found.opened = Some((at, report));
                return Ok(found);
            }
            Err(error) if attempt < ATTEMPTS && goes_on(&error) && is_open(disk, &directories.wal)? => {}
            Err(error) => {
                found.error = Some(error);
                return Ok(found);
            }
        }
    }
}

/// Whether an error may come of a log that went on between two readings.
fn goes_on(error: &Error) -> bool {
    use kvd_wal::Error as E;
    matches!(error, Error::NoSnapshot { .. } | Error::Wal(E::Released { .. } | E::SnapshotNotRecorded { .. }))
}

impl Found {
    /// The snapshot that the member would begin with.
    fn opens_at(&self) -> Option<SnapshotRecord> {
        let committed = self.survey.snapshots.iter().filter(|found| found.committed);
        let mut candidates: Vec<SnapshotRecord> = committed.map(|found| found.snapshot).collect();
        candidates.sort_by_key(|record| (record.term, record.index));
        let Some(files) = &self.files else { return candidates.pop() };
        // A joiner that never got a snapshot begins with the default one, which has no file.
        if candidates.iter().all(|record| record.index == 0) {
            return candidates.pop();
        }
        let there = |record: &SnapshotRecord| files.iter().any(|file| is_file_of(file, record));
        candidates.into_iter().rfind(there)
    }

    /// Snapshots on record or on disk, by index and term.
    fn snapshots(&self) -> Vec<Known> {
        let mut all: Vec<Known> = Vec::new();
        for found in &self.survey.snapshots {
            let known = Known {
                record: found.snapshot,
                recorded: true,
                committed: found.committed,
                file_bytes: None,
            };
            if !all.contains(&known) {
                all.push(known);
            }
        }
        for file in self.files.iter().flatten().filter(|file| file.kind == kvd_snap::Kind::Snapshot) {
            let record = SnapshotRecord { index: file.index, term: file.term };
            match all.iter_mut().find(|known| known.record == record) {
                Some(known) => known.file_bytes = Some(file.bytes),
                None => all.push(Known { record, file_bytes: Some(file.bytes), ..Known::default() }),
            }
        }
        all.sort_by_key(|known| known.record);
        all
    }

    fn state(&self) -> &'static str {
        match (self.running, self.survey.end.as_ref().map(|end| end.closed)) {
            (true, _) => "open: a process holds its lock",
            (false, Some(true)) => "closed cleanly",
            (false, Some(false)) => "not closed cleanly: whoever had it open was killed, or lost power",
            (false, None) => "not open",
        }
    }

    fn verdict(&self) -> &'static str {
        match &self.error {
            None => "good",
            Some(Error::Torn(_)) => "torn",
            Some(error) if error.exit_code() == 1 => "damaged",
            Some(_) => "unreadable",
        }
    }

    fn text(&self, directories: &Directories, out: &mut dyn Write) -> Result<(), Error> {
        let survey = &self.survey;
        writeln!(out, "log         {}", directories.wal.display())?;
        writeln!(out, "state       {}", self.state())?;
        if !survey.segments.is_empty() {
            writeln!(out, "metadata    {}", metadata_text(&survey.metadata))?;
        }
        if let Some(released) = survey.released {
            writeln!(out, "released    what came before segment {:016x}, while it was read", released.next)?;
        }
        writeln!(out, "segments    {}", survey.segments.len())?;
        for segment in &survey.segments {
            let entries = match segment.indexes {
                Some((low, high)) => format!("{}, {low}..={high}", count(segment.entries, "entry")),
                None => "no entries".to_owned(),
            };
            writeln!(
                out,
                "  {}  {} in {}; {entries}",
                name_of(&segment.file),
                count(segment.bytes, "byte"),
                count(segment.batches, "batch")
            )?;
        }
        match survey.entries {
            Some((first, last)) => writeln!(out, "entries     {first}..={last}")?,
            None => writeln!(out, "entries     none")?,
        }
        let state = &survey.hard_state;
        writeln!(out, "hard state  term {}, vote {}, commit {}", state.term, state.vote, state.commit)?;
        writeln!(out, "snapshots   {}", self.snapshots().len())?;
        for known in self.snapshots() {
            writeln!(
                out,
                "  index {}, term {}: {}",
                known.record.index,
                known.record.term,
                self.relation(known)
            )?;
        }
        if let Some(end) = &survey.end {
            writeln!(out, "end         {} at offset {}", name_of(&end.file), end.offset)?;
            if let Some(torn) = &end.torn {
                writeln!(
                    out,
                    "torn        {}: opening the log cuts {}",
                    torn.finding,
                    count(torn.end - torn.offset, "byte")
                )?;
            }
            if let Some(finding) = end.under_way {
                writeln!(out, "under way   a write of the running member: {finding}")?;
            }
        }
        if let Some((at, report)) = &self.opened {
            writeln!(
                out,
                "opens at    snapshot {}, term {}; the last entry is {}, term {}",
                at.index, at.term, report.last_index, report.last_term
            )?;
        }
        writeln!(out, "verdict     {}", self.verdict())?;
        Ok(())
    }

    /// How a snapshot stands to the log.
    fn relation(&self, known: Known) -> String {
        let log = match (known.recorded, known.committed) {
            (true, true) => "on record",
            (true, false) => "on record, not committed",
            (false, _) if self.running => "not on record yet",
            (false, _) => "not on record, so the next start removes it",
        };
        match (known.file_bytes, &self.files) {
            (Some(bytes), _) => format!("{log}; {}", count(bytes, "byte")),
            (None, Some(_)) if known.record.index > 0 => format!("{log}; no file"),
            (None, _) => log.to_owned(),
        }
    }

    fn json(&self, directories: &Directories) -> Value {
        let survey = &self.survey;
        let range =
            |range: Option<(u64, u64)>| range.map(|(first, last)| json!({ "first": first, "last": last }));
        let segments: Vec<Value> = survey
            .segments
            .iter()
            .map(|segment| {
                json!({
                    "file": name_of(&segment.file),
                    "sequence": segment.sequence,
                    "bytes": segment.bytes,
                    "batches": segment.batches,
                    "entries": segment.entries,
                    "indexes": range(segment.indexes),
                })
            })
            .collect();
        let snapshots: Vec<Value> = self
            .snapshots()
            .iter()
            .map(|known| {
                json!({
                    "index": known.record.index,
                    "term": known.record.term,
                    "recorded": known.recorded,
                    "committed": known.committed,
                    "file_bytes": known.file_bytes,
                })
            })
            .collect();
        let opens_at = self.opened.as_ref().map(|(at, report)| {
            json!({
                "index": at.index,
                "term": at.term,
                "last_index": report.last_index,
                "last_term": report.last_term,
            })
        });
        let state = &survey.hard_state;
        json!({
            "log": directories.wal.display().to_string(),
            "open": self.running,
            "identity": metadata_json(&survey.metadata),
            "segments": segments,
            "entries": range(survey.entries),
            "hard_state": { "term": state.term, "vote": state.vote, "commit": state.commit },
            "snapshots": snapshots,
            "end": survey.end.as_ref().map(end_json),
            "opens_at": opens_at,
            "verdict": self.verdict(),
            "error": self.error.as_ref().map(ToString::to_string),
        })
    }
}

fn is_file_of(file: &Listed, record: &SnapshotRecord) -> bool {
    file.kind == kvd_snap::Kind::Snapshot && (file.term, file.index) == (record.term, record.index)
}
