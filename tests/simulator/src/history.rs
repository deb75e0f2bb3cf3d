//! What clients asked and were told.

use std::fmt;

use bytes::Bytes;
use kvd_kvstore::Record;

use crate::trace::Micros;

/// What a client asks for. No value is ever put twice, so each tells which put it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To set a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// To remove a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// A linearizable read.
    Read {
        /// The key.
        key: Bytes,
    },
    /// A read of what the member has applied.
    StaleRead {
        /// The key.
        key: Bytes,
    },
}

impl Asked {
    /// The key that it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Read { key } | Self::StaleRead { key } => {
                key
            }
        }
    }
}

/// How much of a value identifies it.
fn short(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = String::from_utf8_lossy(self.key());
        match self {
            Self::Put { value, .. } => write!(f, "put {key} = {}", short(value)),
            Self::Delete { .. } => write!(f, "delete {key}"),
            Self::Read { .. } => write!(f, "get {key}"),
            Self::StaleRead { .. } => write!(f, "get {key}, stale"),
        }
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Revision and version.
    Put((u64, u64)),
    /// Revision, and whether the key was there.
    Delete((u64, bool)),
    /// The store's revision, and what it held.
    Read((u64, Option<Record>)),
    /// That nothing was done.
    NotDone(String),
    /// Nothing: it may have been done or not.
    Nothing,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put((revision, version)) => write!(f, "revision {revision}, version {version}"),
            Self::Delete((revision, existed)) => write!(f, "revision {revision}, existed: {existed}"),
            Self::Read((revision, Some(record))) => {
                write!(f, "{} of revision {}, at {revision}", short(&record.value), record.mod_revision)
            }
            Self::Read((revision, None)) => write!(f, "nothing, at {revision}"),
            Self::NotDone(why) => write!(f, "not done: {why}"),
            Self::Nothing => write!(f, "(no answer)"),
        }
    }
}

/// An operation.
#[derive(Debug, Clone)]
pub struct Op {
    /// Who asked.
    pub client: usize,
    /// The member that was asked.
    pub member: u64,
    /// Which process of that member.
    pub life: u64,
    /// For what.
    pub asked: Asked,
    /// The moment of the question. Moments count questions and answers.
    pub called: u64,
    /// The moment of the answer.
    pub returned: Option<u64>,
    /// The answer. `None` while there is none.
    pub told: Option<Told>,
    /// The time of the answer.
    pub returned_at: Micros,
    /// How old the state may be that a stale read showed, if the member said so and its clock was never wrong.
    pub age: Option<Micros>,
}
