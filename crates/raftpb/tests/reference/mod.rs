//! What prost's generated parser makes of bytes, for the tests and the fuzz targets to hold the codec against.

use bytes::Bytes;
use kvd_raftpb::{DecodeError, codec, pb};
use prost::Message as _;

/// Panics unless the codec and prost agree on these bytes as a message: on every field, or on the refusal.
pub(crate) fn compare_message(bytes: &Bytes) {
    let encoded = codec::decode_message(bytes.clone()).map(|message| {
        let mut out = Vec::new();
        codec::encode_message_head(&message, &mut out);
        codec::encode_entries(&message.entries, &mut out);
        codec::encode_message_tail(&message, &mut out);
        out
    });
    assert_eq!(encoded, message(bytes), "the codec, prost: a message");
}

/// As [`compare_message`], for an entry.
pub(crate) fn compare_entry(bytes: &Bytes) {
    let encoded = codec::decode_entry(bytes.clone()).map(|entry| {
        let mut out = Vec::new();
        codec::encode_entry(&entry, &mut out);
        out
    });
    assert_eq!(encoded, entry(bytes), "the codec, prost: an entry");
}

/// The same message in prost's encoding, which has every field that it knows, once and in order.
fn message(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut message =
        pb::Message::decode(bytes).map_err(|cause| DecodeError::Malformed { what: "raft message", cause })?;
    known::<pb::MessageType>("message type", message.msg_type)?;
    for entry in &message.entries {
        known::<pb::EntryType>("entry type", entry.entry_type)?;
    }
    // To raft, a snapshot always has both.
    if let Some(snapshot) = &mut message.snapshot {
        snapshot.metadata.get_or_insert_default().conf_state.get_or_insert_default();
    }
    Ok(message.encode_to_vec())
}

fn entry(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let entry = pb::Entry::decode(bytes).map_err(|cause| DecodeError::Malformed { what: "entry", cause })?;
    known::<pb::EntryType>("entry type", entry.entry_type)?;
    Ok(entry.encode_to_vec())
}

fn known<E: TryFrom<i32>>(what: &'static str, value: i32) -> Result<(), DecodeError> {
    E::try_from(value).map(drop).map_err(|_| DecodeError::UnknownEnum { what, value })
}
