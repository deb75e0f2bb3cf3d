//! Entries and messages from bytes, straight into raft's types: a log and a stream decode every entry.
//!
//! # Contract
//! What comes out, and what is refused in which words, is what prost makes of the bytes as [`pb::Entry`] and
//! [`pb::Message`]. Keys, numbers, lengths, unknown fields and nesting are read by prost's own functions, with their
//! bounds; only where a field is put is said here. As there, the last value of a field wins, a snapshot in several
//! pieces is merged, and an enum is judged by its last value. Tests and fuzz targets hold the two against each other.

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;
use prost::encoding::{self, DecodeContext, WireType};
use raft::eraftpb::{self, EntryType, MessageType};

use super::DecodeError;
use crate::pb;

/// The key of a message's entries as everybody writes it: field 7, with a length.
const ENTRIES_KEY: u8 = 7 << 3 | WireType::LengthDelimited as u8;

/// Decodes one entry. Its payload shares `bytes`.
pub fn decode_entry(bytes: Bytes) -> Result<eraftpb::Entry, DecodeError> {
    let mut entry = eraftpb::Entry::default();
    let mut raw = RawEntry { entry: &mut entry, entry_type: 0 };
    raw.merge(Cursor::over(&bytes)).map_err(|cause| DecodeError::Malformed { what: "entry", cause })?;
    raw.finish()?;
    Ok(entry)
}

/// Decodes a message. The payloads of its entries share `bytes`. Pass the result through
/// [`crate::validate::message`] before raft sees it.
pub fn decode_message(bytes: Bytes) -> Result<eraftpb::Message, DecodeError> {
    let mut raw = RawMessage::default();
    let mut cursor = Cursor::over(&bytes);
    while cursor.has_remaining() {
        raw.merge_field(&mut cursor)
            .map_err(|cause| DecodeError::Malformed { what: "raft message", cause })?;
    }
    raw.finish()
}

/// The place that is read in a buffer. Payloads are slices of it and share its memory.
struct Cursor<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn over(whole: &'a Bytes) -> Self {
        Self { whole, rest: whole }
    }
}

impl Buf for Cursor<'_> {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        self.rest
    }

    fn advance(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        self.whole.slice_ref(bytes)
    }
}

/// An entry in the making, where it will stay. Its type is a number until the last byte is read.
struct RawEntry<'a> {
    entry: &'a mut eraftpb::Entry,
    entry_type: i32,
}

impl RawEntry<'_> {
    fn finish(self) -> Result<(), DecodeError> {
        self.entry.set_entry_type(match self.entry_type {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            value => return Err(DecodeError::UnknownEnum { what: "entry type", value }),
        });
        Ok(())
    }
}

/// For [`encoding::message::merge`], which counts how deep an entry's unknown fields are nested.
impl prost::Message for RawEntry<'_> {
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        let entry = &mut *self.entry;
        let (field, merged) = match tag {
            1 => ("entry_type", encoding::int32::merge(wire_type, &mut self.entry_type, buf, ctx)),
            2 => ("term", encoding::uint64::merge(wire_type, &mut entry.term, buf, ctx)),
            3 => ("index", encoding::uint64::merge(wire_type, &mut entry.index, buf, ctx)),
            4 => ("data", encoding::bytes::merge(wire_type, &mut entry.data, buf, ctx)),
            6 => ("context", encoding::bytes::merge(wire_type, &mut entry.context, buf, ctx)),
            _ => return encoding::skip_field(wire_type, tag, buf, ctx),
        };
        merged.map_err(|error| located(error, "Entry", field))
    }

    fn encode_raw(&self, out: &mut impl BufMut) {
        super::encode_entry(self.entry, out);
    }

    fn encoded_len(&self) -> usize {
        super::entry_len(self.entry)
    }

    fn clear(&mut self) {
        *self.entry = eraftpb::Entry::default();
        self.entry_type = 0;
    }
}

/// A message in the making. The enums are judged when the last byte is read, the message's own before its entries'.
#[derive(Default)]
struct RawMessage {
    message: eraftpb::Message,
    msg_type: i32,
    entries: Vec<eraftpb::Entry>,
    /// Why the first entry of an unknown type is refused.
    bad_entry: Option<DecodeError>,
    /// Rare, and merged if it comes in pieces: that is left to prost.
    snapshot: Option<pb::Snapshot>,
}

impl RawMessage {
    fn merge_field(&mut self, buf: &mut Cursor<'_>) -> Result<(), prost::DecodeError> {
        use encoding::{bool, bytes, int32, int64, uint64};
        let ctx = DecodeContext::default();
        let (tag, wire_type) = encoding::decode_key(buf)?;
        let to = &mut self.message;
        let (field, merged) = match tag {
            1 => ("msg_type", int32::merge(wire_type, &mut self.msg_type, buf, ctx)),
            2 => ("to", uint64::merge(wire_type, &mut to.to, buf, ctx)),
            3 => ("from", uint64::merge(wire_type, &mut to.from, buf, ctx)),
            4 => ("term", uint64::merge(wire_type, &mut to.term, buf, ctx)),
            5 => ("log_term", uint64::merge(wire_type, &mut to.log_term, buf, ctx)),
            6 => ("index", uint64::merge(wire_type, &mut to.index, buf, ctx)),
            7 => ("entries", self.merge_entry(wire_type, buf, ctx)),
            8 => ("commit", uint64::merge(wire_type, &mut to.commit, buf, ctx)),
            9 => {
                let snapshot = self.snapshot.get_or_insert_default();
                ("snapshot", encoding::message::merge(wire_type, snapshot, buf, ctx))
            }
            10 => ("reject", bool::merge(wire_type, &mut to.reject, buf, ctx)),
            11 => ("reject_hint", uint64::merge(wire_type, &mut to.reject_hint, buf, ctx)),
            12 => ("context", bytes::merge(wire_type, &mut to.context, buf, ctx)),
            13 => ("request_snapshot", uint64::merge(wire_type, &mut to.request_snapshot, buf, ctx)),
            14 => ("deprecated_priority", uint64::merge(wire_type, &mut to.deprecated_priority, buf, ctx)),
            15 => ("commit_term", uint64::merge(wire_type, &mut to.commit_term, buf, ctx)),
            16 => ("priority", int64::merge(wire_type, &mut to.priority, buf, ctx)),
            _ => return encoding::skip_field(wire_type, tag, buf, ctx),
        };
        merged.map_err(|error| located(error, "Message", field))
    }

    fn merge_entry(
        &mut self,
        wire_type: WireType,
        buf: &mut Cursor<'_>,
        ctx: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve(entries_in_a_row(buf.rest));
        }
        let entry = self.entries.push_mut(eraftpb::Entry::default());
        let mut raw = RawEntry { entry, entry_type: 0 };
        encoding::message::merge(wire_type, &mut raw, buf, ctx)?;
        if let Err(error) = raw.finish() {
            self.bad_entry.get_or_insert(error);
        }
        Ok(())
    }

    fn finish(self) -> Result<eraftpb::Message, DecodeError> {
        let mut message = self.message;
        message.set_msg_type(message_type(self.msg_type)?);
        if let Some(error) = self.bad_entry {
            return Err(error);
        }
        message.set_entries(self.entries.into());
        if let Some(snapshot) = self.snapshot {
            let to = message.mut_snapshot();
            to.data = snapshot.data;
            to.set_metadata(super::metadata_from_pb(snapshot.metadata.unwrap_or_default()));
        }
        Ok(message)
    }
}

fn message_type(value: i32) -> Result<MessageType, DecodeError> {
    use MessageType::*;
    Ok(match value {
        0 => MsgHup,
        1 => MsgBeat,
        2 => MsgPropose,
        3 => MsgAppend,
        4 => MsgAppendResponse,
        5 => MsgRequestVote,
        6 => MsgRequestVoteResponse,
        7 => MsgSnapshot,
        8 => MsgHeartbeat,
        9 => MsgHeartbeatResponse,
        10 => MsgUnreachable,
        11 => MsgSnapStatus,
        12 => MsgCheckQuorum,
        13 => MsgTransferLeader,
        14 => MsgTimeoutNow,
        15 => MsgReadIndex,
        16 => MsgReadIndexResp,
        17 => MsgRequestPreVote,
        18 => MsgRequestPreVoteResponse,
        value => return Err(DecodeError::UnknownEnum { what: "message type", value }),
    })
}

/// How many entries begin `bytes`, the first without its key, so that they get memory once. They are counted and not
/// believed: each has all of its bytes there. Whatever else follows ends the count, and is judged when it is decoded.
fn entries_in_a_row(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(len) = encoding::decode_varint(&mut bytes) {
        let Some(rest) = usize::try_from(len).ok().and_then(|len| bytes.get(len..)) else { break };
        count += 1;
        let Some((&ENTRIES_KEY, rest)) = rest.split_first() else { break };
        bytes = rest;
    }
    count
}

/// Says where in a message the bytes went wrong, as prost's derived parsers do.
#[cold]
fn located(mut error: prost::DecodeError, message: &'static str, field: &'static str) -> prost::DecodeError {
    error.push(message, field);
    error
}
