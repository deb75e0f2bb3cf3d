//! Several operations under one revision, or none of them.
//!
//! # Contract
//!
//! - Compares see the store before the first operation; an operation sees what those before it did.
//! - A transaction takes one revision however many keys it changes, and none if it changes nothing. A key that is
//!   written several times in it counts as written once.
//! - If a compare does not hold nothing is done, and the answer says so. If an operation cannot be done (an increment
//!   of what is no number) nothing is done either, and the transaction is refused.
//! - The answer holds no value: it is kept in the requester's session. Whoever wants the value that a write replaces
//!   reads it first, and writes on the condition that the key still has that revision.

use std::ops::Bound;

use bytes::Bytes;

use crate::command::{FORMAT_KEY_BYTES, FORMAT_NUMBERS, FORMAT_VALUE_BYTES, Refusal};
use crate::store::{Cleared, Store};

/// Operations, and the conditions under which they are done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of them must hold.
    pub compares: Vec<Compare>,
    /// Done in order.
    pub operations: Vec<Operation>,
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// What must be so.
    pub target: Target,
}

/// What a [`Compare`] asks of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its latest put took this revision; 0: it is absent.
    ModRevision(u64),
    /// It is there, or is not.
    Exists(bool),
}

/// One step of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key to a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Removes every key from `start` on and before `end`. All keys at once take no time; part of them takes the node's
    /// loop about a microsecond a key.
    DeleteRange {
        /// The first key.
        start: Bytes,
        /// The first key that stays; empty: none does.
        end: Bytes,
    },
    /// Adds to a value that is a decimal number of 64 bits; an absent key counts as 0.
    Increment {
        /// The key.
        key: Bytes,
        /// What is added.
        by: i64,
    },
    /// Adds bytes to the end of a value; an absent key counts as empty.
    Append {
        /// The key.
        key: Bytes,
        /// What is added.
        suffix: Bytes,
        /// The longest value that may come of it, in bytes.
        limit: u64,
    },
}

/// What a [`Txn`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The revision that it took, or the store's unchanged revision if nothing was changed.
    pub revision: u64,
    /// Whether every compare held. If not, no operation was done.
    pub succeeded: bool,
    /// How many keys were removed.
    pub deleted: u64,
    /// For each increment the number that came of it, for each append the length, in the order of the operations.
    pub numbers: Vec<i64>,
}

impl Operation {
    /// Whether the store may refuse it.
    fn can_fail(&self) -> bool {
        matches!(self, Self::Increment { .. } | Self::Append { .. })
    }

    /// Whether its key and value fit into a snapshot.
    fn fits(&self) -> bool {
        let key = |key: &Bytes| key.len() <= FORMAT_KEY_BYTES;
        let value = |value: &Bytes| value.len() <= FORMAT_VALUE_BYTES;
        match self {
            Self::Put { key: k, value: v } | Self::Append { key: k, suffix: v, .. } => key(k) && value(v),
            Self::Delete { key: k } | Self::Increment { key: k, .. } => key(k),
            Self::DeleteRange { start, end } => key(start) && key(end),
        }
    }
}

impl Txn {
    /// Whether every member takes it: its keys and values fit into a snapshot, and its answer is small.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let numbers = self.operations.iter().filter(|operation| operation.can_fail()).count();
        let keys_fit = self.compares.iter().all(|compare| compare.key.len() <= FORMAT_KEY_BYTES);
        if numbers > FORMAT_NUMBERS || !keys_fit || !self.operations.iter().all(Operation::fits) {
            return Err(Refusal::TooLarge);
        }
        Ok(())
    }
}

impl Store {
    /// Does `txn`. What it took out as a whole goes to `cleared`, for the caller to free where that may take its time.
    ///
    /// # Errors
    /// The reason why an operation cannot be done; then nothing has been.
    pub fn transact(&mut self, txn: &Txn, cleared: &mut Vec<Cleared>) -> Result<Done, Refusal> {
        txn.check()?;
        let mut done = Done { revision: self.revision(), ..Done::default() };
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(done);
        }
        // A clone makes the writes copy what they change, so it is taken only where there may be something to undo.
        let before = (txn.operations.len() > 1 && txn.operations.iter().any(Operation::can_fail))
            .then(|| self.clone());
        let revision = self.revision() + 1;
        for operation in &txn.operations {
            if let Err(refusal) = self.operate(operation, revision, &mut done, cleared) {
                if let Some(before) = before {
                    *self = before;
                }
                return Err(refusal);
            }
        }
        Ok(Done { revision: self.revision(), succeeded: true, ..done })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.get(&compare.key);
        match compare.target {
            Target::ModRevision(revision) => record.map_or(0, |record| record.mod_revision) == revision,
            Target::Exists(exists) => record.is_some() == exists,
        }
    }

    fn operate(
        &mut self,
        operation: &Operation,
        revision: u64,
        done: &mut Done,
        cleared: &mut Vec<Cleared>,
    ) -> Result<(), Refusal> {
        match operation {
            Operation::Put { key, value } => {
                self.put_at(revision, key, value);
            }
            Operation::Delete { key } => done.deleted += u64::from(self.remove_at(revision, key)),
            Operation::DeleteRange { start, end } if start.is_empty() && end.is_empty() => {
                let all = self.clear_at(revision);
                done.deleted += all.len() as u64;
                cleared.push(all);
            }
            Operation::DeleteRange { start, end } => {
                let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end[..]) };
                for key in self.keys_between(Bound::Included(start), end) {
                    done.deleted += u64::from(self.remove_at(revision, key.as_slice()));
                }
            }
            Operation::Increment { key, by } => {
                let number = match self.get(key) {
                    Some(record) => parse_number(&record.value).ok_or(Refusal::NotANumber)?,
                    None => 0,
                };
                let number = number.checked_add(*by).ok_or(Refusal::Overflow)?;
                self.put_at(revision, key, number.to_string().as_bytes());
                done.numbers.push(number);
            }
            Operation::Append { key, suffix, limit } => {
                let old = self.get(key).map_or(&[][..], |record| &record.value);
                let len = old.len() + suffix.len();
                if len as u64 > *limit || len > FORMAT_VALUE_BYTES {
                    return Err(Refusal::TooLarge);
                }
                let value = [old, suffix].concat();
                self.put_at(revision, key, &value);
                done.numbers.push(len as i64);
            }
        }
        Ok(())
    }
}

/// Reads a decimal number of 64 bits in the one form in which it is written: no sign but `-`, no leading zero, no space.
#[must_use]
pub fn parse_number(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    match text.strip_prefix('-').unwrap_or(text).as_bytes().first()? {
        b'0' => (text == "0").then_some(0),
        b'1'..=b'9' => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "txn_tests.rs"]
mod tests;
