//! Whether what the clients were told can be true.
//!
//! The store gives each change a revision, so there is one order of all changes, and the cluster's own notes say what
//! it is: the commands that were applied, by log index. That order is the witness. It is checked, not searched for:
//!
//! - **acknowledged once, never lost**: what was acknowledged is in it, at the revision that the client was told;
//! - **unknown at most once**: no put is in it twice, and none whose client was told that nothing was done; deletes
//!   that nobody was told of are no more than those without an answer;
//! - **linearizable**: whatever was asked after something else was answered comes after it; reads show what the order
//!   says at their revision. Stale reads show some earlier state, and never an older one than the same process showed
//!   before; and one that says how old its state may be shows every write that was acknowledged longer ago than that.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvd_kvstore::Record;
use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::store::FIRST_REVISION;

use crate::history::{Asked, Op, Told};
use crate::machine::Notes;
use crate::plan::MS;
use crate::trace::Micros;

/// A change of the store.
struct Change {
    key: Bytes,
    /// The record after it; `None` for a delete.
    record: Option<Record>,
}

/// All changes in the order of their revisions.
struct Order {
    /// That of revision `FIRST_REVISION + 1` is the first.
    changes: Vec<Change>,
    /// The changes of each key: revisions, ascending.
    by_key: BTreeMap<Bytes, Vec<u64>>,
    /// The revision of each value.
    values: BTreeMap<Bytes, u64>,
}

impl Order {
    fn of(notes: &Notes) -> Result<Self, String> {
        let mut order = Self { changes: Vec::new(), by_key: BTreeMap::new(), values: BTreeMap::new() };
        for (index, effects) in &notes.applied {
            for (command, response) in effects {
                order
                    .add(command.clone(), response.clone())
                    .map_err(|what| format!("log index {index}: {what}"))?;
            }
        }
        Ok(order)
    }

    fn add(&mut self, command: Bytes, response: Bytes) -> Result<(), String> {
        let next = FIRST_REVISION + 1 + self.changes.len() as u64;
        let decoded = (Command::decode(command), Response::decode(response));
        let (Ok(command), Some(response)) = decoded else { return Err("an unreadable command".into()) };
        let (key, record) = match (command, response) {
            (Command::Put { key, value }, Response::Put(written)) if written.revision == next => {
                if let Some(first) = self.values.insert(value.clone(), next) {
                    return Err(format!("a put is applied twice, at revisions {first} and {next}"));
                }
                let before = self.at(&key, next).and_then(|change| change.record.as_ref());
                let (create_revision, version) =
                    before.map_or((next, 1), |record| (record.create_revision, record.version + 1));
                if version != written.version {
                    return Err(format!("version {} instead of {version}", written.version));
                }
                (key, Some(Record { value, create_revision, mod_revision: next, version }))
            }
            (Command::Delete { key }, Response::Delete(deleted)) => {
                let existed = self.at(&key, next).is_some_and(|change| change.record.is_some());
                let revision = if existed { next } else { next - 1 };
                if (deleted.revision, deleted.existed) != (revision, existed) {
                    return Err(format!("a delete says {deleted:?} instead of ({revision}, {existed})"));
                }
                if !existed {
                    return Ok(());
                }
                (key, None)
            }
            (command, response) => return Err(format!("{command:?} answered with {response:?} at {next}")),
        };
        self.by_key.entry(key.clone()).or_default().push(next);
        self.changes.push(Change { key, record });
        Ok(())
    }

    fn change(&self, revision: u64) -> Option<&Change> {
        self.changes.get(usize::try_from(revision.checked_sub(FIRST_REVISION + 1)?).ok()?)
    }

    /// The newest change of a key up to a revision.
    fn at(&self, key: &Bytes, revision: u64) -> Option<&Change> {
        let revisions = self.by_key.get(key)?;
        let newer = revisions.partition_point(|r| *r <= revision);
        self.change(*revisions.get(newer.checked_sub(1)?)?)
    }
}

/// Checks a whole history.
///
/// # Errors
/// The first operation that cannot be explained.
pub fn judge(history: &[Op], notes: &Notes) -> Result<(), String> {
    let order = Order::of(notes)?;
    for (number, op) in history.iter().enumerate() {
        explain(op, &order).map_err(|what| format!("operation #{number} ({}): {what}", op.asked))?;
    }
    deletes(history, &order)?;
    real_time(history, &order)?;
    stale(history)?;
    bounded(history)
}

/// Whether an answer agrees with the order of changes.
fn explain(op: &Op, order: &Order) -> Result<(), String> {
    match (&op.asked, &op.told) {
        (Asked::Put { value, .. }, Some(Told::NotDone(why))) if order.values.contains_key(value) => {
            Err(format!("it was done, although the answer was: {why}"))
        }
        (Asked::Put { key, value }, Some(Told::Put((revision, version)))) => match order.change(*revision) {
            Some(Change { key: found, record: Some(record) })
                if found == key && record.value == value && record.version == *version =>
            {
                Ok(())
            }
            _ => Err(format!("acknowledged at revision {revision}, and not there")),
        },
        (Asked::Delete { key }, Some(Told::Delete((revision, true)))) => match order.change(*revision) {
            Some(Change { key: found, record: None }) if found == key => Ok(()),
            _ => Err(format!("acknowledged at revision {revision}, and not there")),
        },
        (Asked::Delete { key }, Some(Told::Delete((revision, false)))) => {
            match order.at(key, *revision).is_some_and(|change| change.record.is_some()) {
                true => Err(format!("nothing to delete at revision {revision}, although there was")),
                false => Ok(()),
            }
        }
        (Asked::Read { key } | Asked::StaleRead { key }, Some(Told::Read((revision, record)))) => {
            let expected = order.at(key, *revision).and_then(|change| change.record.as_ref());
            if *revision > FIRST_REVISION + order.changes.len() as u64 {
                Err(format!("revision {revision} never was"))
            } else if expected == record.as_ref() {
                Ok(())
            } else {
                Err(format!("at revision {revision} it is {expected:?}, not {record:?}"))
            }
        }
        (_, None | Some(Told::NotDone(_) | Told::Nothing)) => Ok(()),
        (_, Some(told)) => Err(format!("answered with {told}")),
    }
}

/// Every delete in the order was asked for: by somebody who was told so, or by somebody without an answer.
fn deletes(history: &[Op], order: &Order) -> Result<(), String> {
    let mut open: BTreeMap<&Bytes, i64> = BTreeMap::new();
    for change in order.changes.iter().filter(|change| change.record.is_none()) {
        *open.entry(&change.key).or_default() += 1;
    }
    for op in history {
        if let (Asked::Delete { key }, None | Some(Told::Nothing | Told::Delete((_, true)))) =
            (&op.asked, &op.told)
        {
            *open.entry(key).or_default() -= 1;
        }
    }
    match open.iter().find(|(_, count)| **count > 0) {
        Some((key, count)) => Err(format!("{count} deletes of {key:?} that nobody asked for")),
        None => Ok(()),
    }
}

/// The revision at which an operation took effect, and whether it took that revision itself.
fn point(op: &Op, order: &Order) -> Option<(u64, bool)> {
    match (&op.asked, op.told.as_ref()) {
        (Asked::StaleRead { .. }, _) => None,
        (_, Some(Told::Put((revision, _)) | Told::Delete((revision, true)))) => Some((*revision, true)),
        (_, Some(Told::Delete((revision, false)) | Told::Read((revision, _)))) => Some((*revision, false)),
        (Asked::Put { value, .. }, _) => order.values.get(value).map(|revision| (*revision, true)),
        _ => None,
    }
}

/// What was asked after something was answered comes after it.
fn real_time(history: &[Op], order: &Order) -> Result<(), String> {
    let mut answers: Vec<(u64, u64, usize)> = Vec::new();
    for (number, op) in history.iter().enumerate() {
        let answered = matches!(op.told, Some(Told::Put(_) | Told::Delete(_) | Told::Read(_)));
        if let (true, Some(returned), Some((revision, _))) = (answered, op.returned, point(op, order)) {
            answers.push((returned, revision, number));
        }
    }
    answers.sort_unstable();
    let mut answers = answers.into_iter().peekable();
    let mut newest = (0, 0);
    // The history is in the order of its questions.
    for (number, op) in history.iter().enumerate() {
        while let Some((_, revision, by)) = answers.next_if(|(returned, ..)| *returned < op.called) {
            newest = newest.max((revision, by));
        }
        if let Some((revision, own)) = point(op, order)
            && (revision < newest.0 || (own && revision == newest.0))
        {
            return Err(format!(
                "not linearizable: operation #{number} ({}) is at revision {revision}, but #{} was answered with \
                 {} before it was asked",
                op.asked, newest.1, newest.0
            ));
        }
    }
    Ok(())
}

/// A process does not show an older state than it has shown.
fn stale(history: &[Op]) -> Result<(), String> {
    let mut reads: Vec<(u64, u64, (u64, u64), usize)> = Vec::new();
    for (number, op) in history.iter().enumerate() {
        if let (Asked::StaleRead { .. }, Some(Told::Read((revision, _))), Some(returned)) =
            (&op.asked, &op.told, op.returned)
        {
            reads.push((returned, *revision, (op.member, op.life), number));
        }
    }
    reads.sort_unstable();
    let mut newest: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for (_, revision, process, number) in reads {
        let seen = newest.entry(process).or_default();
        if revision < *seen {
            return Err(format!("stale read #{number} shows revision {revision} after {seen}"));
        }
        *seen = revision;
    }
    Ok(())
}

/// What "to within a tick" is: the tick, and what a member's loop may take to have it.
const WITHIN: Micros = 150 * MS;

/// A stale read that says how old its state may be keeps its word.
fn bounded(history: &[Op]) -> Result<(), String> {
    let mut writes: Vec<(Micros, u64)> = history
        .iter()
        .filter_map(|op| match op.told {
            Some(Told::Put((revision, _)) | Told::Delete((revision, true))) => {
                Some((op.returned_at, revision))
            }
            _ => None,
        })
        .collect();
    writes.sort_unstable();
    // The newest revision that was acknowledged up to each of them.
    let mut newest = 0;
    for (_, revision) in &mut writes {
        newest = newest.max(*revision);
        *revision = newest;
    }
    for (number, op) in history.iter().enumerate() {
        let (Some(Told::Read((revision, _))), Some(age)) = (&op.told, op.age) else { continue };
        let Some(before) = op.returned_at.checked_sub(age + WITHIN) else { continue };
        let known = writes.partition_point(|(acknowledged, _)| *acknowledged < before);
        if let Some((_, must)) =
            known.checked_sub(1).map(|last| writes[last]).filter(|(_, must)| must > revision)
        {
            return Err(format!(
                "stale read #{number} shows revision {revision} and says that it is at most {} ms old; {must} was \
                 acknowledged before that",
                age / MS
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
