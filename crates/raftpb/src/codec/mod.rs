//! Conversions between [`raft::eraftpb`] and bytes.
//!
//! Payloads are [`Bytes`](bytes::Bytes) on both sides, so neither direction copies them: a decoded entry shares the
//! buffer that it was decoded from.

mod decode;

use bytes::{Buf, BufMut, BytesMut};
use prost::Message as _;
use prost::encoding;
use raft::eraftpb;

use crate::pb;

pub use decode::{decode_entry, decode_message};

/// Bytes that are not what they should be. A retry cannot help: the sender or the disk is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// prost could not parse the bytes.
    #[error("not a valid {what}: {cause}")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
        /// The parser's words.
        cause: prost::DecodeError,
    },
    /// An enum field holds a number without a meaning.
    #[error("{what} {value} is unknown")]
    UnknownEnum {
        /// The enum.
        what: &'static str,
        /// Its value.
        value: i32,
    },
}

fn parse<M: prost::Message + Default>(what: &'static str, bytes: impl Buf) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|cause| DecodeError::Malformed { what, cause })
}

/// Encodes one entry, appending to `out`. As [`pb::Entry`] does, without making one: a log encodes every entry.
pub fn encode_entry(entry: &eraftpb::Entry, out: &mut impl BufMut) {
    let entry_type = entry.get_entry_type() as i32;
    if entry_type != 0 {
        encoding::int32::encode(1, &entry_type, out);
    }
    if entry.term != 0 {
        encoding::uint64::encode(2, &entry.term, out);
    }
    if entry.index != 0 {
        encoding::uint64::encode(3, &entry.index, out);
    }
    if !entry.data.is_empty() {
        encoding::bytes::encode(4, &entry.data, out);
    }
    if !entry.context.is_empty() {
        encoding::bytes::encode(6, &entry.context, out);
    }
}

/// The length in bytes of [`encode_entry`]'s output.
pub fn entry_len(entry: &eraftpb::Entry) -> usize {
    let entry_type = entry.get_entry_type() as i32;
    let mut len = 0;
    if entry_type != 0 {
        len += encoding::int32::encoded_len(1, &entry_type);
    }
    if entry.term != 0 {
        len += encoding::uint64::encoded_len(2, &entry.term);
    }
    if entry.index != 0 {
        len += encoding::uint64::encoded_len(3, &entry.index);
    }
    if !entry.data.is_empty() {
        len += encoding::bytes::encoded_len(4, &entry.data);
    }
    if !entry.context.is_empty() {
        len += encoding::bytes::encoded_len(6, &entry.context);
    }
    len
}

/// Encodes a hard state.
pub fn encode_hard_state(state: &eraftpb::HardState) -> Vec<u8> {
    pb::HardState { term: state.term, vote: state.vote, commit: state.commit }.encode_to_vec()
}

/// Decodes a hard state.
pub fn decode_hard_state(bytes: &[u8]) -> Result<eraftpb::HardState, DecodeError> {
    let state: pb::HardState = parse("hard state", bytes)?;
    let mut out = eraftpb::HardState::default();
    out.term = state.term;
    out.vote = state.vote;
    out.commit = state.commit;
    Ok(out)
}

/// Encodes a snapshot's metadata: conf state, index and term.
pub fn encode_snapshot_metadata(metadata: &eraftpb::SnapshotMetadata) -> Vec<u8> {
    metadata_to_pb(metadata).encode_to_vec()
}

/// Decodes a snapshot's metadata.
pub fn decode_snapshot_metadata(bytes: &[u8]) -> Result<eraftpb::SnapshotMetadata, DecodeError> {
    Ok(metadata_from_pb(parse("snapshot metadata", bytes)?))
}

/// Encodes a message, appending to `out`: as [`pb::Message`] does, without making one, since every message is encoded.
///
/// It is the sum of [`encode_message_head`], [`encode_entries`] and [`encode_message_tail`]. Whoever sends the same
/// entries to several members encodes them once.
pub fn encode_message(message: &eraftpb::Message, out: &mut BytesMut) {
    encode_message_head(message, out);
    encode_entries(&message.entries, out);
    encode_message_tail(message, out);
}

/// Encodes what stands before a message's entries.
pub fn encode_message_head(message: &eraftpb::Message, out: &mut impl BufMut) {
    let message_type = message.get_msg_type() as i32;
    if message_type != 0 {
        encoding::int32::encode(1, &message_type, out);
    }
    encode_number(2, message.to, out);
    encode_number(3, message.from, out);
    encode_number(4, message.term, out);
    encode_number(5, message.log_term, out);
    encode_number(6, message.index, out);
}

/// Encodes entries as they stand in a message.
pub fn encode_entries(entries: &[eraftpb::Entry], out: &mut impl BufMut) {
    for entry in entries {
        encoding::encode_key(7, encoding::WireType::LengthDelimited, out);
        encoding::encode_varint(entry_len(entry) as u64, out);
        encode_entry(entry, out);
    }
}

/// Encodes what stands behind a message's entries.
pub fn encode_message_tail(message: &eraftpb::Message, out: &mut impl BufMut) {
    encode_number(8, message.commit, out);
    if let Some(snapshot) = message.snapshot.as_ref() {
        encoding::message::encode(9, &snapshot_to_pb(snapshot), out);
    }
    if message.reject {
        encoding::bool::encode(10, &message.reject, out);
    }
    encode_number(11, message.reject_hint, out);
    if !message.context.is_empty() {
        encoding::bytes::encode(12, &message.context, out);
    }
    encode_number(13, message.request_snapshot, out);
    encode_number(14, message.deprecated_priority, out);
    encode_number(15, message.commit_term, out);
    if message.priority != 0 {
        encoding::int64::encode(16, &message.priority, out);
    }
}

/// The length in bytes of [`encode_message`]'s output.
pub fn message_len(message: &eraftpb::Message) -> usize {
    let message_type = message.get_msg_type() as i32;
    let numbers = [
        (2, message.to),
        (3, message.from),
        (4, message.term),
        (5, message.log_term),
        (6, message.index),
        (8, message.commit),
        (11, message.reject_hint),
        (13, message.request_snapshot),
        (14, message.deprecated_priority),
        (15, message.commit_term),
    ];
    let mut len = 0;
    if message_type != 0 {
        len += encoding::int32::encoded_len(1, &message_type);
    }
    for (tag, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        len += encoding::uint64::encoded_len(tag, &number);
    }
    for entry in message.entries.iter() {
        let entry_len = entry_len(entry);
        len += encoding::key_len(7) + encoding::encoded_len_varint(entry_len as u64) + entry_len;
    }
    if let Some(snapshot) = message.snapshot.as_ref() {
        len += encoding::message::encoded_len(9, &snapshot_to_pb(snapshot));
    }
    if message.reject {
        len += encoding::bool::encoded_len(10, &message.reject);
    }
    if !message.context.is_empty() {
        len += encoding::bytes::encoded_len(12, &message.context);
    }
    if message.priority != 0 {
        len += encoding::int64::encoded_len(16, &message.priority);
    }
    len
}

fn encode_number(tag: u32, number: u64, out: &mut impl BufMut) {
    if number != 0 {
        encoding::uint64::encode(tag, &number, out);
    }
}

/// Encodes a membership change for the data of an `EntryConfChangeV2`.
pub fn encode_conf_change(change: &eraftpb::ConfChangeV2) -> Vec<u8> {
    pb::ConfChangeV2 {
        transition: change.get_transition() as i32,
        changes: change
            .changes
            .iter()
            .map(|c| pb::ConfChangeSingle { change_type: c.get_change_type() as i32, node_id: c.node_id })
            .collect(),
        context: change.context.clone(),
    }
    .encode_to_vec()
}

/// Decodes the data of an entry of the given type to a membership change, of either version.
pub fn decode_conf_change(
    entry_type: eraftpb::EntryType,
    data: &[u8],
) -> Result<eraftpb::ConfChangeV2, DecodeError> {
    let pb = match entry_type {
        eraftpb::EntryType::EntryConfChange => {
            let one: pb::ConfChange = parse("conf change", data)?;
            pb::ConfChangeV2 {
                transition: 0,
                changes: vec![pb::ConfChangeSingle { change_type: one.change_type, node_id: one.node_id }],
                context: one.context,
            }
        }
        _ => parse::<pb::ConfChangeV2>("conf change v2", data)?,
    };
    let mut out = eraftpb::ConfChangeV2::default();
    out.set_transition(match pb.transition {
        0 => eraftpb::ConfChangeTransition::Auto,
        1 => eraftpb::ConfChangeTransition::Implicit,
        2 => eraftpb::ConfChangeTransition::Explicit,
        value => return Err(DecodeError::UnknownEnum { what: "conf change transition", value }),
    });
    let mut changes = Vec::with_capacity(pb.changes.len());
    for change in pb.changes {
        let mut single = eraftpb::ConfChangeSingle::default();
        single.node_id = change.node_id;
        single.set_change_type(match change.change_type {
            0 => eraftpb::ConfChangeType::AddNode,
            1 => eraftpb::ConfChangeType::RemoveNode,
            2 => eraftpb::ConfChangeType::AddLearnerNode,
            value => return Err(DecodeError::UnknownEnum { what: "conf change type", value }),
        });
        changes.push(single);
    }
    out.set_changes(changes.into());
    out.context = pb.context;
    Ok(out)
}

fn metadata_to_pb(metadata: &eraftpb::SnapshotMetadata) -> pb::SnapshotMetadata {
    let conf = metadata.get_conf_state();
    pb::SnapshotMetadata {
        conf_state: Some(pb::ConfState {
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            voters_outgoing: conf.voters_outgoing.clone(),
            learners_next: conf.learners_next.clone(),
            auto_leave: conf.auto_leave,
        }),
        index: metadata.index,
        term: metadata.term,
    }
}

fn snapshot_to_pb(snapshot: &eraftpb::Snapshot) -> pb::Snapshot {
    pb::Snapshot { data: snapshot.data.clone(), metadata: snapshot.metadata.as_ref().map(metadata_to_pb) }
}

fn metadata_from_pb(metadata: pb::SnapshotMetadata) -> eraftpb::SnapshotMetadata {
    let mut out = eraftpb::SnapshotMetadata::default();
    out.index = metadata.index;
    out.term = metadata.term;
    let conf = metadata.conf_state.unwrap_or_default();
    let to = out.mut_conf_state();
    to.voters = conf.voters;
    to.learners = conf.learners;
    to.voters_outgoing = conf.voters_outgoing;
    to.learners_next = conf.learners_next;
    to.auto_leave = conf.auto_leave;
    out
}
