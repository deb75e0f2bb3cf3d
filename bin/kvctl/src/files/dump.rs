//! `wal dump`: every record with its place, as it streams by.
//!
//! ```text
//! segment 0000000000000000-0000000000000000.wal
//!   offset  kind           index  term  content
//!        0  snapshot           1     1
//!     1024  entry              3     2  member 1 boot 1, 1 command: put "my-key" (5 bytes)
//! the log ends in 0000000000000000-0000000000000000.wal at offset 1536, and was closed cleanly
//! ```

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use kvd_raftpb::node::Identity;
use kvd_vfs::Disk;
use kvd_wal::scan::{Batch, End, Record, Released, Scan, Step};
use prost::Message as _;
use raft::eraftpb::EntryType;
use serde_json::{Value, json};

use super::payload::{self, Detail, hex};
use super::{Dump, Kind, count, directories, name_of};
use crate::Error;

pub(crate) fn dump(disk: &Disk, flags: &Dump, out: &mut dyn Write) -> Result<(), Error> {
    let dir = directories(&flags.path)?.wal;
    let scan = match flags.from {
        Some(from) => Scan::from_index(disk.clone(), &dir, from)?,
        None => Scan::open(disk.clone(), &dir)?,
    };
    let mut printer = Printer {
        flags,
        detail: Detail { values: flags.values, value_bytes: flags.value_bytes },
        out: BufWriter::with_capacity(64 << 10, out),
        segment: PathBuf::new(),
        ours: false,
        last: None,
        printed: 0,
    };
    let result = printer.run(scan);
    // What was read before an error is worth seeing.
    printer.out.flush()?;
    result
}

struct Printer<'a> {
    flags: &'a Dump,
    detail: Detail,
    out: BufWriter<&'a mut dyn Write>,
    /// The one that was named last.
    segment: PathBuf,
    /// Whether this is a log of kvd's own.
    ours: bool,
    /// The index of the last entry.
    last: Option<u64>,
    printed: u64,
}

impl Printer<'_> {
    fn run(&mut self, mut scan: Scan) -> Result<(), Error> {
        while let Some(step) = scan.step()? {
            match step {
                Step::Batch(batch) => {
                    for record in batch.records() {
                        if self.flags.limit.is_some_and(|limit| self.printed >= limit) {
                            return Ok(());
                        }
                        self.record(&batch, &record?)?;
                    }
                }
                Step::Released(released) => self.released(released)?,
            }
        }
        match scan.end() {
            Some(end) => self.end(end),
            None => Ok(()),
        }
    }

    fn record(&mut self, batch: &Batch<'_>, record: &Record) -> Result<(), Error> {
        let replaced = match record {
            Record::Metadata(metadata) => {
                self.ours = identity(metadata).is_some();
                None
            }
            Record::Entry(entry) => {
                let before = self.last.replace(entry.index);
                before.filter(|last| entry.index <= *last)
            }
            _ => None,
        };
        if !self.is_wanted(record) {
            return Ok(());
        }
        self.printed += 1;
        if self.flags.output.is_json() {
            let line = self.record_json(batch, record, replaced);
            writeln!(self.out, "{line}")?;
            return Ok(());
        }
        if self.segment != batch.file {
            self.segment = batch.file.to_owned();
            writeln!(self.out, "segment {}", name_of(batch.file))?;
            writeln!(self.out, "{:>10}  {:<10} {:>10} {:>5}  content", "offset", "kind", "index", "term")?;
        }
        let (index, term) = index_and_term(record);
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        let content = self.content(record, replaced);
        let line = format!(
            "{:>10}  {:<10} {:>10} {:>5}  {content}",
            batch.offset,
            kind_name(record),
            number(index),
            number(term)
        );
        writeln!(self.out, "{}", line.trim_end())?;
        Ok(())
    }

    fn is_wanted(&self, record: &Record) -> bool {
        let Dump { kinds, from, to, .. } = self.flags;
        if !kinds.is_empty() && !kinds.contains(&kind(record)) {
            return false;
        }
        match index_and_term(record).0 {
            Some(index) => from.is_none_or(|from| index >= from) && to.is_none_or(|to| index <= to),
            None => from.is_none() && to.is_none(),
        }
    }

    fn content(&self, record: &Record, replaced: Option<u64>) -> String {
        match record {
            Record::Link { previous_end: 0 } => "the first segment".to_owned(),
            Record::Link { previous_end } => format!("the segment before ends at {previous_end}"),
            Record::Metadata(metadata) => metadata_text(metadata),
            Record::Entry(entry) => {
                let text = payload::text(entry, self.ours, self.detail);
                match replaced {
                    Some(last) => format!("{text}; replaces {}..={last}", entry.index),
                    None => text,
                }
            }
            Record::HardState(state) => format!("vote {}, commit {}", state.vote, state.commit),
            Record::Snapshot(_) => String::new(),
            Record::Close => "closed cleanly".to_owned(),
        }
    }

    fn record_json(&self, batch: &Batch<'_>, record: &Record, replaced: Option<u64>) -> Value {
        let mut line = json!({
            "kind": kind_name(record),
            "file": name_of(batch.file),
            "offset": batch.offset,
        });
        let fields = match record {
            Record::Link { previous_end } => json!({ "previous_end": previous_end }),
            Record::Metadata(metadata) => metadata_json(metadata),
            Record::Entry(entry) => {
                let mut fields = payload::json(entry, self.ours, self.detail);
                fields["index"] = entry.index.into();
                fields["term"] = entry.term.into();
                fields["bytes"] = entry.data.len().into();
                fields["type"] = match entry.get_entry_type() {
                    EntryType::EntryNormal => "normal",
                    EntryType::EntryConfChange => "conf-change",
                    EntryType::EntryConfChangeV2 => "conf-change-v2",
                }
                .into();
                if let Some(last) = replaced {
                    fields["replaces_to"] = last.into();
                }
                fields
            }
            Record::HardState(state) => {
                json!({ "term": state.term, "vote": state.vote, "commit": state.commit })
            }
            Record::Snapshot(snapshot) => json!({ "index": snapshot.index, "term": snapshot.term }),
            Record::Close => json!({}),
        };
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
            line.extend(fields);
        }
        line
    }

    fn released(&mut self, released: Released) -> Result<(), Error> {
        let Released { from, next } = released;
        self.last = None;
        if self.flags.output.is_json() {
            writeln!(self.out, "{}", json!({ "kind": "released", "from": from, "next": next }))?;
        } else {
            writeln!(
                self.out,
                "segments {from:016x} to {:016x} were released by the running member; going on with {next:016x}",
                next - 1
            )?;
        }
        Ok(())
    }

    fn end(&mut self, end: &End) -> Result<(), Error> {
        if self.flags.output.is_json() {
            writeln!(self.out, "{}", end_json(end))?;
        } else {
            let file = name_of(&end.file);
            let how = match (&end.torn, end.under_way) {
                (Some(torn), _) => format!(", and a torn write follows: {}", torn.finding),
                (None, Some(finding)) => format!(", and the running member writes there: {finding}"),
                (None, None) if end.closed => ", and was closed cleanly".to_owned(),
                (None, None) => String::new(),
            };
            writeln!(self.out, "the log ends in {file} at offset {}{how}", end.offset)?;
        }
        match &end.torn {
            Some(torn) => Err(Error::Torn(torn.clone())),
            None => Ok(()),
        }
    }
}

/// How a log ends, as fields.
pub(crate) fn end_json(end: &End) -> Value {
    let torn = end.torn.as_ref().map(|torn| {
        json!({
            "offset": torn.offset,
            "end": torn.end,
            "finding": torn.finding.to_string(),
        })
    });
    json!({
        "kind": "end",
        "file": name_of(&end.file),
        "offset": end.offset,
        "file_bytes": end.file_bytes,
        "closed": end.closed,
        "torn": torn,
        "under_way": end.under_way.map(|finding| finding.to_string()),
    })
}

/// Whose log it is, if it is one of kvd's members.
pub(crate) fn identity(metadata: &[u8]) -> Option<Identity> {
    Identity::decode(metadata).ok().filter(|identity| identity.cluster_id != 0 && identity.member_id != 0)
}

/// Metadata in words: the cluster's id as it stands in the member's own messages.
pub(crate) fn metadata_text(metadata: &[u8]) -> String {
    match identity(metadata) {
        Some(identity) => format!("member {} of cluster {:016x}", identity.member_id, identity.cluster_id),
        None => format!("{}: \"{}\"", count(metadata.len() as u64, "byte"), metadata.escape_ascii()),
    }
}

/// Metadata as fields.
pub(crate) fn metadata_json(metadata: &[u8]) -> Value {
    let identity = identity(metadata);
    json!({
        "member_id": identity.as_ref().map(|identity| identity.member_id),
        "cluster_id": identity.map(|identity| format!("{:016x}", identity.cluster_id)),
        "metadata": hex(metadata),
    })
}

fn index_and_term(record: &Record) -> (Option<u64>, Option<u64>) {
    match record {
        Record::Entry(entry) => (Some(entry.index), Some(entry.term)),
        Record::Snapshot(snapshot) => (Some(snapshot.index), Some(snapshot.term)),
        Record::HardState(state) => (None, Some(state.term)),
        Record::Link { .. } | Record::Metadata(_) | Record::Close => (None, None),
    }
}

fn kind(record: &Record) -> Kind {
    match record {
        Record::Link { .. } => Kind::Link,
        Record::Metadata(_) => Kind::Metadata,
        Record::Entry(_) => Kind::Entry,
        Record::HardState(_) => Kind::HardState,
        Record::Snapshot(_) => Kind::Snapshot,
        Record::Close => Kind::Close,
    }
}

/// As it is given to `--kinds`.
fn kind_name(record: &Record) -> &'static str {
    match kind(record) {
        Kind::Link => "link",
        Kind::Metadata => "metadata",
        Kind::Entry => "entry",
        Kind::HardState => "hard-state",
        Kind::Snapshot => "snapshot",
        Kind::Close => "close",
    }
}
