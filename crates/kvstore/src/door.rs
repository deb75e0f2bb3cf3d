//! What a front door may ask of the store, and the errors that it renders.
//!
//! [`Service`](crate::Service) is the implementation; a door is generic over [`Door`] so that its tests can give it
//! every answer there is. A door parses, calls, and renders; it holds no state of the store and never sees raft.

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;

use crate::command::{Command, Refusal, Response};
use crate::store::{Deleted, Record, Store, Written};
use crate::txn::Operation;

pub use kvd_node::Refusal as MembershipRefusal;

/// How current a read has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began, by any member.
    #[default]
    Linearizable,
    /// What this member has applied, at once; it may lag behind by as much as this member does.
    Stale,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The store's revision at the time of the read.
    pub revision: u64,
    /// What is stored under the key.
    pub record: Option<Record>,
    /// How old the state was that was read.
    pub age: Age,
}

/// How old a state may be that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It held every write that was acknowledged before the read began.
    Current,
    /// It held every write that was acknowledged longer ago than this, to within a tick.
    AtMost(Duration),
    /// Nothing bounds it: this member has asked no leader yet, or got no answer.
    Unknown,
}

/// How this member stands in its cluster, as far as a door shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member's id.
    pub id: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// The leader of the current term, if this member knows one.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The index up to which this member has applied the log.
    pub applied: u64,
    /// True if the member list holds this member, as a voter or as a learner.
    pub member: bool,
}

/// The store as a front door sees it. Calls resolve with exactly one answer, by their deadline.
pub trait Door: Clone + Send + Sync + 'static {
    /// Sets `key` to `value`; resolves once that is committed and applied by this member.
    fn put(&self, key: Bytes, value: Bytes) -> impl Future<Output = Result<Written, Error>> + Send;

    /// Removes `key`; resolves once that is committed and applied by this member.
    fn delete(&self, key: Bytes) -> impl Future<Output = Result<Deleted, Error>> + Send;

    /// Proposes `command` when it is called, and resolves once that is committed and applied by this member. Commands
    /// whose calls come together are proposed together, in the order of the calls. Dropping the future gives up the
    /// answer, not the command.
    ///
    /// A read of [`Door::local`] after the answer is linearizable as of the call: what was acknowledged before it stands
    /// before the command in the log.
    fn propose(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Response, Error>> + Send + 'static + use<Self>;

    /// What this member has applied: the store between two entries. Never hold it across an `.await`.
    fn local(&self) -> impl Deref<Target = Store>;

    /// Reads `key`.
    fn get(&self, key: Bytes, how: Consistency) -> impl Future<Output = Result<Reading, Error>> + Send;

    /// A linearizable read of nothing: resolves to `Ok` if a quorum answers within `timeout`. It is the node's loop that
    /// answers, with an error after the deadline; so no answer at all means that the loop does not turn.
    fn confirm(&self, timeout: Duration) -> impl Future<Output = Result<(), Error>> + Send;

    /// Adds a member as a learner that is promoted once it has caught up; resolves once it is part of the
    /// configuration, or at once if it already is, with that URL.
    fn add_member(&self, id: u64, peer_url: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Removes a member for ever; resolves once it is no longer part of the configuration.
    fn remove_member(&self, id: u64) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes a snapshot at this member, of all that it has applied when it is called or later; resolves to its index
    /// once it is on record.
    fn snapshot(&self, timeout: Duration) -> impl Future<Output = Result<u64, Error>> + Send;

    /// How this member stands in its cluster.
    fn status(&self) -> Status;

    /// The limits that requests must keep.
    fn limits(&self) -> Limits;
}

/// How long a key and a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, in bytes.
    pub key_bytes: usize,
    /// The longest value, in bytes.
    pub value_bytes: usize,
}

impl Default for Limits {
    /// 4 KiB and 1.5 MiB.
    fn default() -> Self {
        Self { key_bytes: 4 << 10, value_bytes: 3 << 19 }
    }
}

impl Limits {
    /// Whether `key` may be read, written or removed.
    pub fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        match key.len() {
            0 => Err(Error::EmptyKey),
            len if len > self.key_bytes => Err(Error::KeyTooLong { len, limit: self.key_bytes }),
            _ => Ok(()),
        }
    }

    /// Whether a value of `len` bytes may be written.
    pub fn check_value(&self, len: u64) -> Result<(), Error> {
        match len {
            len if len > self.value_bytes as u64 => {
                Err(Error::ValueTooLarge { len, limit: self.value_bytes as u64 })
            }
            _ => Ok(()),
        }
    }

    /// Whether `command` may be proposed. The value that comes of an append is known only when it is applied.
    pub fn check_command(&self, command: &Command) -> Result<(), Error> {
        let put = |key: &[u8], value: &[u8]| {
            self.check_key(key)?;
            self.check_value(value.len() as u64)
        };
        match command {
            Command::Put { key, value } => put(key, value),
            Command::Delete { key } => self.check_key(key),
            Command::Sequence(commands) => {
                commands.iter().try_for_each(|command| self.check_command(command))
            }
            Command::Txn(txn) => {
                txn.compares.iter().try_for_each(|compare| self.check_key(&compare.key))?;
                txn.operations.iter().try_for_each(|operation| match operation {
                    Operation::Put { key, value } => put(key, value),
                    Operation::Append { key, suffix, .. } => put(key, suffix),
                    Operation::Delete { key } | Operation::Increment { key, .. } => self.check_key(key),
                    // Bounds of a range need not be keys, and an empty one has a meaning.
                    Operation::DeleteRange { start, end } => match start.len().max(end.len()) {
                        len if len > self.key_bytes => Err(Error::KeyTooLong { len, limit: self.key_bytes }),
                        _ => Ok(()),
                    },
                })
            }
        }
    }
}

impl Response {
    /// A refusal as an error; `limits` are those that the command was checked against.
    pub fn accepted(self, limits: &Limits) -> Result<Self, Error> {
        match self {
            Self::Refused(Refusal::NotANumber) => Err(Error::NotANumber),
            Self::Refused(Refusal::Overflow) => Err(Error::Overflow),
            // What the limits could not tell before: the length of a value that grows.
            Self::Refused(Refusal::TooLarge) => {
                Err(Error::WouldBeTooLarge { limit: limits.value_bytes as u64 })
            }
            Self::Refused(refusal) => Err(Error::Refused(refusal)),
            response => Ok(response),
        }
    }
}

/// Why a request was not done. Every message is one line and says what to do where something can be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The empty key is no key.
    #[error("the key is empty")]
    EmptyKey,
    /// The key is over the limit. Nothing was done.
    #[error("the key has {len} bytes and may have at most {limit}")]
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The value is over the limit. Nothing was done.
    #[error("the value has {len} bytes and may have at most {limit}")]
    ValueTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The request as a whole is over the limit. Nothing was done.
    #[error("the request has {len} bytes and may have at most {limit}")]
    RequestTooLarge {
        /// Its length in bytes, as it would have been proposed.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The value that would come of it is over the limit. Nothing was done.
    #[error("the value would have more than {limit} bytes")]
    WouldBeTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The value cannot be added to. Nothing was done.
    #[error("the value is not a decimal number of 64 bits")]
    NotANumber,
    /// The sum does not fit. Nothing was done.
    #[error("the number would not fit into 64 bits")]
    Overflow,
    /// As many requests are in flight as this member takes. Nothing was done; a retry later can help.
    #[error("this member is overloaded and did nothing: try again later")]
    Overloaded,
    /// No leader was found by the deadline. Nothing was done; a retry can help.
    #[error("no leader was found in time and nothing was done: try again, or at another member")]
    NoLeader,
    /// This member's disk is full. Nothing was done; another member can help, or a retry once there is room.
    #[error(
        "the disk of this member is full and nothing was done: free some space there, or try another member"
    )]
    NoSpace,
    /// A change was proposed and its fate is not known: it may have been done, or may yet be.
    #[error("the outcome is unknown, the change may or may not be done: {reason}")]
    Unknown {
        /// Why there is no answer.
        reason: &'static str,
    },
    /// This member is stopping. Nothing was done; another member can help.
    #[error("this member is stopping and did nothing: try another member")]
    Stopped,
    /// This member was removed from its cluster. Nothing was done; another member can help.
    #[error("this member was removed from the cluster and did nothing: try another member")]
    Removed,
    /// The membership change cannot be. Nothing was done.
    #[error(transparent)]
    Membership(#[from] MembershipRefusal),
    /// The state machine refused the command; members run versions that do not understand each other, or it is a bug.
    #[error("the store refused the command ({0:?}): are all members of the same version?")]
    Refused(Refusal),
    /// The response to a command that was applied cannot be read; as [`Error::Refused`], but the change was done.
    #[error("the change was done, but its response cannot be read: are all members of the same version?")]
    BadResponse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_those_that_are_documented() {
        let limits = Limits::default();
        assert_eq!((limits.key_bytes, limits.value_bytes), (4096, 1_572_864));
    }

    #[test]
    fn keys_are_checked_at_the_limit() {
        let limits = Limits::default();
        assert_eq!(limits.check_key(b""), Err(Error::EmptyKey));
        assert_eq!(limits.check_key(b"k"), Ok(()));
        assert_eq!(limits.check_key(&[0; 4095]), Ok(()));
        assert_eq!(limits.check_key(&[0; 4096]), Ok(()));
        assert_eq!(limits.check_key(&[0; 4097]), Err(Error::KeyTooLong { len: 4097, limit: 4096 }));
    }

    #[test]
    fn values_are_checked_at_the_limit() {
        let limits = Limits::default();
        for len in [0, 1_572_863, 1_572_864] {
            assert_eq!(limits.check_value(len), Ok(()));
        }
        let error = Error::ValueTooLarge { len: 1_572_865, limit: 1_572_864 };
        assert_eq!(limits.check_value(1_572_865), Err(error));
    }

    #[test]
    fn every_key_and_value_of_a_command_is_checked() {
        use crate::txn::{Compare, Target, Txn};
        let limits = Limits { key_bytes: 2, value_bytes: 3 };
        let bytes = |len: usize| Bytes::from(vec![b'x'; len]);
        let one = |operation| Command::Txn(Txn { compares: Vec::new(), operations: vec![operation] });
        type Make = Box<dyn Fn(Bytes) -> Command>;
        let by_key: [Make; 6] = [
            Box::new(|key| Command::Put { key, value: Bytes::new() }),
            Box::new(|key| Command::Delete { key }),
            Box::new(move |key| one(Operation::Put { key, value: Bytes::new() })),
            Box::new(move |key| one(Operation::Delete { key })),
            Box::new(move |key| one(Operation::Increment { key, by: 1 })),
            Box::new(|key| {
                let compares = vec![Compare { key, target: Target::Exists(true) }];
                Command::Txn(Txn { compares, operations: Vec::new() })
            }),
        ];
        for make in by_key {
            let check = |len| limits.check_command(&make(bytes(len)));
            assert_eq!((check(0), check(1), check(2)), (Err(Error::EmptyKey), Ok(()), Ok(())));
            assert_eq!(check(3), Err(Error::KeyTooLong { len: 3, limit: 2 }));
        }
        let by_value: [Make; 3] = [
            Box::new(|value| Command::Put { key: "k".into(), value }),
            Box::new(move |value| one(Operation::Put { key: "k".into(), value })),
            Box::new(move |suffix| one(Operation::Append { key: "k".into(), suffix, limit: 3 })),
        ];
        for make in by_value {
            let check = |len| limits.check_command(&make(bytes(len)));
            assert_eq!((check(0), check(2), check(3)), (Ok(()), Ok(()), Ok(())));
            assert_eq!(check(4), Err(Error::ValueTooLarge { len: 4, limit: 3 }));
        }
        for (start, end) in [(0, 2), (2, 0), (3, 0), (0, 3)] {
            let range = one(Operation::DeleteRange { start: bytes(start), end: bytes(end) });
            assert_eq!(limits.check_command(&range).is_ok(), start.max(end) < 3);
        }
    }

    #[test]
    fn the_snapshot_format_can_carry_what_the_limits_allow() {
        let limits = Limits::default();
        assert!(limits.key_bytes <= crate::command::FORMAT_KEY_BYTES);
        assert!(limits.value_bytes <= crate::command::FORMAT_VALUE_BYTES);
    }
}
