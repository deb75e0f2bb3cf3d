//! Commands and responses to bytes and back.
//!
//! A command is encoded once, by the member that takes the request; each member decodes it when it applies it. The
//! decoded key and value are slices of the entry's buffer: the store copies what it keeps.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::pb;
use crate::store::{Deleted, Written};
use crate::txn::{Compare, Done, Operation, Target, Txn};

pub use crate::pb::Refusal;

/// The longest key, in bytes, that any version of the store takes: what a snapshot may carry. The limit that a
/// client meets ([`crate::Limits`]) is lower and may be set by a flag; this one may not, because every member must
/// refuse the same commands.
pub const FORMAT_KEY_BYTES: usize = 64 << 10;
/// The longest value, in bytes, that any version of the store takes. See [`FORMAT_KEY_BYTES`].
pub const FORMAT_VALUE_BYTES: usize = 64 << 20;
/// The most increments and appends in one command: each has a number in the response, which sessions keep.
pub const FORMAT_NUMBERS: usize = 128;

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets a key to a value.
    Put {
        /// The key: any bytes.
        key: Bytes,
        /// The value: any bytes.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key: any bytes.
        key: Bytes,
    },
    /// Does several things under one revision, or none of them.
    Txn(Txn),
    /// Commands that are applied one after the other, each with a revision and a response of its own. There is no
    /// sequence among them.
    Sequence(Vec<Command>),
}

impl Command {
    /// The bytes that are proposed.
    #[must_use]
    pub fn encode(self) -> Bytes {
        pb::Command::from(self).encode_to_vec().into()
    }

    /// Reads a command; keys and values are slices of `bytes`. What is refused here every member refuses alike.
    pub fn decode(bytes: Bytes) -> Result<Self, Refusal> {
        let command = pb::Command::decode(bytes).map_err(|_| Refusal::Malformed)?;
        match command.kind {
            // One that cannot be read is refused with all of them: whoever wrote it is of another version.
            Some(pb::command::Kind::Sequence(pb::Sequence { commands })) => {
                commands.into_iter().map(Self::single).collect::<Result<_, _>>().map(Self::Sequence)
            }
            kind => Self::single(pb::Command { kind }),
        }
    }

    fn single(command: pb::Command) -> Result<Self, Refusal> {
        let fits = |key: &Bytes, value: usize| key.len() <= FORMAT_KEY_BYTES && value <= FORMAT_VALUE_BYTES;
        match command.kind {
            Some(pb::command::Kind::Put(pb::Put { key, value })) if fits(&key, value.len()) => {
                Ok(Self::Put { key, value })
            }
            Some(pb::command::Kind::Delete(pb::Delete { key })) if fits(&key, 0) => Ok(Self::Delete { key }),
            Some(pb::command::Kind::Txn(txn)) => {
                let txn = Txn::try_from(txn)?;
                txn.check()?;
                Ok(Self::Txn(txn))
            }
            Some(pb::command::Kind::Put(_) | pb::command::Kind::Delete(_)) => Err(Refusal::TooLarge),
            Some(pb::command::Kind::Sequence(_)) | None => Err(Refusal::UnknownKind),
        }
    }
}

impl From<Command> for pb::Command {
    fn from(command: Command) -> Self {
        use pb::command::Kind;
        let kind = match command {
            Command::Put { key, value } => Kind::Put(pb::Put { key, value }),
            Command::Delete { key } => Kind::Delete(pb::Delete { key }),
            Command::Txn(txn) => Kind::Txn(txn.into()),
            Command::Sequence(commands) => {
                Kind::Sequence(pb::Sequence { commands: commands.into_iter().map(Self::from).collect() })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl From<Txn> for pb::Txn {
    fn from(txn: Txn) -> Self {
        let compare = |compare: Compare| {
            let target = match compare.target {
                Target::ModRevision(revision) => pb::compare::Target::ModRevision(revision),
                Target::Exists(exists) => pb::compare::Target::Exists(exists),
            };
            pb::Compare { key: compare.key, target: Some(target) }
        };
        let operation = |operation: Operation| {
            use pb::operation::Kind;
            let kind = match operation {
                Operation::Put { key, value } => Kind::Put(pb::Put { key, value }),
                Operation::Delete { key } => Kind::Delete(pb::Delete { key }),
                Operation::DeleteRange { start, end } => Kind::DeleteRange(pb::DeleteRange { start, end }),
                Operation::Increment { key, by } => Kind::Increment(pb::Increment { key, by }),
                Operation::Append { key, suffix, limit } => Kind::Append(pb::Append { key, suffix, limit }),
            };
            pb::Operation { kind: Some(kind) }
        };
        Self {
            compares: txn.compares.into_iter().map(compare).collect(),
            operations: txn.operations.into_iter().map(operation).collect(),
        }
    }
}

impl TryFrom<pb::Txn> for Txn {
    type Error = Refusal;

    fn try_from(txn: pb::Txn) -> Result<Self, Refusal> {
        let compare = |compare: pb::Compare| {
            let target = match compare.target.ok_or(Refusal::UnknownKind)? {
                pb::compare::Target::ModRevision(revision) => Target::ModRevision(revision),
                pb::compare::Target::Exists(exists) => Target::Exists(exists),
            };
            Ok(Compare { key: compare.key, target })
        };
        let operation = |operation: pb::Operation| {
            use pb::operation::Kind;
            Ok(match operation.kind.ok_or(Refusal::UnknownKind)? {
                Kind::Put(pb::Put { key, value }) => Operation::Put { key, value },
                Kind::Delete(pb::Delete { key }) => Operation::Delete { key },
                Kind::DeleteRange(pb::DeleteRange { start, end }) => Operation::DeleteRange { start, end },
                Kind::Increment(pb::Increment { key, by }) => Operation::Increment { key, by },
                Kind::Append(pb::Append { key, suffix, limit }) => Operation::Append { key, suffix, limit },
            })
        };
        Ok(Self {
            compares: txn.compares.into_iter().map(compare).collect::<Result<_, _>>()?,
            operations: txn.operations.into_iter().map(operation).collect::<Result<_, _>>()?,
        })
    }
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A put was done.
    Put(Written),
    /// A delete was done, also if there was nothing to delete.
    Delete(Deleted),
    /// A transaction was done, or one of its compares did not hold.
    Txn(Done),
    /// What each command of a sequence did.
    Sequence(Vec<Response>),
    /// Nothing was done.
    Refused(Refusal),
}

impl Response {
    /// The bytes that go back to the requester, and into its session.
    #[must_use]
    pub fn encode(self) -> Bytes {
        self.encode_in(&mut BytesMut::new())
    }

    /// As [`Response::encode`], in a buffer that many responses share: each is small, and one allocation for each would
    /// be felt.
    pub(crate) fn encode_in(self, buffer: &mut BytesMut) -> Bytes {
        let encoded = pb::Response::from(self).encode(buffer);
        debug_assert!(encoded.is_ok(), "it fails only for want of room, and the buffer grows");
        buffer.split().freeze()
    }

    /// Reads a response; `None` if the bytes are none that this version knows.
    #[must_use]
    pub fn decode(bytes: Bytes) -> Option<Self> {
        Self::read(pb::Response::decode(bytes).ok()?)
    }

    fn read(response: pb::Response) -> Option<Self> {
        use pb::response::Kind;
        Some(match response.kind? {
            Kind::Put(pb::Written { revision, version }) => Self::Put(Written { revision, version }),
            Kind::Delete(pb::Deleted { revision, existed }) => Self::Delete(Deleted { revision, existed }),
            Kind::Txn(pb::Done { revision, succeeded, deleted, numbers }) => {
                Self::Txn(Done { revision, succeeded, deleted, numbers })
            }
            Kind::Sequence(pb::Responses { responses }) => {
                Self::Sequence(responses.into_iter().map(Self::read).collect::<Option<_>>()?)
            }
            Kind::Refused(refusal) => Self::Refused(Refusal::try_from(refusal).ok()?),
        })
    }
}

impl From<Response> for pb::Response {
    fn from(response: Response) -> Self {
        use pb::response::Kind;
        let kind = match response {
            Response::Put(Written { revision, version }) => Kind::Put(pb::Written { revision, version }),
            Response::Delete(Deleted { revision, existed }) => {
                Kind::Delete(pb::Deleted { revision, existed })
            }
            Response::Txn(Done { revision, succeeded, deleted, numbers }) => {
                Kind::Txn(pb::Done { revision, succeeded, deleted, numbers })
            }
            Response::Sequence(responses) => {
                Kind::Sequence(pb::Responses { responses: responses.into_iter().map(Self::from).collect() })
            }
            Response::Refused(refusal) => Kind::Refused(refusal.into()),
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: usize, value: usize) -> Bytes {
        Command::Put { key: vec![0; key].into(), value: vec![0xff; value].into() }.encode()
    }

    fn every_operation() -> Txn {
        let key = || Bytes::from_static(b"k\xff");
        Txn {
            compares: vec![
                Compare { key: key(), target: Target::ModRevision(0) },
                Compare { key: key(), target: Target::Exists(false) },
            ],
            operations: vec![
                Operation::Put { key: key(), value: "v".into() },
                Operation::Delete { key: key() },
                Operation::DeleteRange { start: "".into(), end: key() },
                Operation::Increment { key: key(), by: i64::MIN },
                Operation::Append { key: key(), suffix: "".into(), limit: u64::MAX },
            ],
        }
    }

    #[test]
    fn commands_survive_encoding() {
        for command in [
            Command::Put { key: "k".into(), value: Bytes::from_static(b"a\xff\0b") },
            Command::Put { key: "".into(), value: "".into() },
            Command::Delete { key: Bytes::from_static(&[0xff, 0xfe]) },
            Command::Txn(every_operation()),
            Command::Txn(Txn::default()),
            Command::Sequence(vec![Command::Delete { key: "k".into() }, Command::Txn(every_operation())]),
        ] {
            assert_eq!(Command::decode(command.clone().encode()), Ok(command));
        }
    }

    #[test]
    fn responses_survive_encoding() {
        for response in [
            Response::Put(Written { revision: 2, version: 1 }),
            Response::Delete(Deleted { revision: u64::MAX, existed: true }),
            Response::Delete(Deleted { revision: 0, existed: false }),
            Response::Txn(Done { revision: 7, succeeded: true, deleted: 3, numbers: vec![0, -1, i64::MAX] }),
            Response::Txn(Done::default()),
            Response::Sequence(vec![Response::Refused(Refusal::Overflow), Response::Txn(Done::default())]),
            Response::Refused(Refusal::Malformed),
            Response::Refused(Refusal::Overflow),
        ] {
            assert_eq!(Response::decode(response.clone().encode()), Some(response));
        }
        assert_eq!(Response::decode(Bytes::new()), None);
        assert_eq!(Response::decode(Bytes::from_static(b"\xff")), None);
        assert_eq!(Response::decode(Bytes::from_static(&[0x18, 0x63])), None, "an unknown refusal");
    }

    #[test]
    fn bytes_of_a_command() {
        let command = Command::Put { key: "k".into(), value: "vv".into() };
        assert_eq!(command.encode(), &b"\x0a\x07\x0a\x01k\x12\x02vv"[..]);
        assert_eq!(Command::Delete { key: "k".into() }.encode(), &b"\x12\x03\x0a\x01k"[..]);
    }

    #[test]
    fn what_no_snapshot_can_carry_is_refused() {
        assert!(Command::decode(put(FORMAT_KEY_BYTES - 1, 1)).is_ok());
        assert!(Command::decode(put(FORMAT_KEY_BYTES, 1)).is_ok());
        assert_eq!(Command::decode(put(FORMAT_KEY_BYTES + 1, 1)), Err(Refusal::TooLarge));
        assert!(Command::decode(put(1, FORMAT_VALUE_BYTES - 1)).is_ok());
        assert!(Command::decode(put(1, FORMAT_VALUE_BYTES)).is_ok());
        assert_eq!(Command::decode(put(1, FORMAT_VALUE_BYTES + 1)), Err(Refusal::TooLarge));
        let key = vec![0; FORMAT_KEY_BYTES + 1].into();
        assert_eq!(Command::decode(Command::Delete { key }.encode()), Err(Refusal::TooLarge));
    }

    #[test]
    fn a_transaction_whose_answer_or_parts_are_too_large_is_refused() {
        let increment = || Operation::Increment { key: "k".into(), by: 1 };
        let decode = |operations: Vec<Operation>| {
            Command::decode(Command::Txn(Txn { compares: Vec::new(), operations }).encode()).map(drop)
        };
        for (numbers, decoded) in [
            (FORMAT_NUMBERS - 1, Ok(())),
            (FORMAT_NUMBERS, Ok(())),
            (FORMAT_NUMBERS + 1, Err(Refusal::TooLarge)),
        ] {
            assert_eq!(decode((0..numbers).map(|_| increment()).collect()), decoded);
        }
        let long = Bytes::from(vec![0; FORMAT_KEY_BYTES + 1]);
        for operation in [
            Operation::Put { key: long.clone(), value: "".into() },
            Operation::Delete { key: long.clone() },
            Operation::DeleteRange { start: "".into(), end: long.clone() },
            Operation::DeleteRange { start: long.clone(), end: "".into() },
            Operation::Increment { key: long.clone(), by: 1 },
            Operation::Append { key: long.clone(), suffix: "".into(), limit: 1 },
            Operation::Append {
                key: "k".into(),
                suffix: vec![0; FORMAT_VALUE_BYTES + 1].into(),
                limit: u64::MAX,
            },
        ] {
            assert_eq!(decode(vec![operation]), Err(Refusal::TooLarge));
        }
        let compares = vec![Compare { key: long, target: Target::Exists(true) }];
        let compare = Command::Txn(Txn { compares, operations: Vec::new() });
        assert_eq!(Command::decode(compare.encode()), Err(Refusal::TooLarge));
        // A compare without a target, an operation of no kind.
        for bytes in [&[0x1a, 0x02, 0x0a, 0x00][..], &[0x1a, 0x02, 0x12, 0x00]] {
            assert_eq!(Command::decode(Bytes::from_static(bytes)), Err(Refusal::UnknownKind));
        }
    }

    #[test]
    fn there_is_no_sequence_in_a_sequence() {
        let nested = Command::Sequence(vec![Command::Sequence(Vec::new())]);
        assert_eq!(Command::decode(nested.encode()), Err(Refusal::UnknownKind));
    }

    #[test]
    fn bytes_that_are_no_command_are_refused() {
        assert_eq!(Command::decode(Bytes::new()), Err(Refusal::UnknownKind));
        assert_eq!(Command::decode(Bytes::from_static(&[0x7a, 0x00])), Err(Refusal::UnknownKind), "field 15");
        assert_eq!(Command::decode(Bytes::from_static(&[0x0a, 0x05, 0x0a])), Err(Refusal::Malformed));
        assert_eq!(Command::decode(Bytes::from_static(&[0xff; 32])), Err(Refusal::Malformed));
    }
}
