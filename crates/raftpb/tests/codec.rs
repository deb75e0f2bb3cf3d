//! The codec keeps everything, and each side reads what the other writes. The bytes are the same but for lists of ids,
//! which prost packs and raft's encoder does not; both read both forms.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod reference;

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::encoding::{WireType, encode_key, encode_varint};
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn entry() -> impl Strategy<Value = Entry> {
    (0..3_i32, number(), number(), bytes(), bytes()).prop_map(|(kind, term, index, data, context)| {
        let mut entry = Entry::default();
        entry.set_entry_type(protobuf::ProtobufEnum::from_i32(kind).unwrap());
        (entry.term, entry.index, entry.data, entry.context) = (term, index, data, context);
        entry
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>(), 0..300_u64]
}

fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(number(), 0..4)
}

fn metadata() -> impl Strategy<Value = SnapshotMetadata> {
    (number(), number(), ids(), ids(), ids(), ids(), any::<bool>()).prop_map(
        |(index, term, voters, learners, outgoing, next, auto_leave)| {
            let mut state = ConfState::default();
            (state.voters, state.learners) = (voters, learners);
            (state.voters_outgoing, state.learners_next, state.auto_leave) = (outgoing, next, auto_leave);
            let mut metadata = SnapshotMetadata::default();
            (metadata.index, metadata.term) = (index, term);
            metadata.set_conf_state(state);
            metadata
        },
    )
}

prop_compose! {
    fn message()(
        kind in 0..19_i32,
        (to, from, term, log_term) in (number(), number(), number(), number()),
        (index, commit, commit_term, request) in (number(), number(), number(), number()),
        (reject, hint, old_priority, priority) in (any::<bool>(), number(), number(), any::<i64>()),
        context in bytes(),
        entries in prop::collection::vec(entry(), 0..4),
        snapshot in prop::option::of((bytes(), metadata())),
    ) -> Message {
        let mut message = Message::default();
        message.set_msg_type(protobuf::ProtobufEnum::from_i32(kind).unwrap());
        (message.to, message.from, message.term, message.log_term) = (to, from, term, log_term);
        (message.index, message.commit, message.commit_term) = (index, commit, commit_term);
        (message.request_snapshot, message.reject, message.reject_hint) = (request, reject, hint);
        (message.deprecated_priority, message.priority, message.context) = (old_priority, priority, context);
        message.set_entries(entries.into());
        if let Some((data, metadata)) = snapshot {
            let mut snapshot = Snapshot::default();
            snapshot.data = data;
            snapshot.set_metadata(metadata);
            message.set_snapshot(snapshot);
        }
        message
    }
}

/// A field, known or not, of any wire type, and rarely one that is right: it may repeat another, have the wrong type, be
/// a group, hold fields of its own, or claim a length that it does not have.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let with_key = |(tag, wire_type, body): (u32, WireType, Vec<u8>)| {
        let mut out = Vec::new();
        encode_key(tag, wire_type, &mut out);
        out.extend(body);
        out
    };
    let varint = number().prop_map(|number| {
        let mut out = Vec::new();
        encode_varint(number, &mut out);
        out
    });
    let small = prop_oneof![
        4 => (1..18_u32, Just(WireType::Varint), prop_oneof![varint, (0..20_u8).prop_map(|n| vec![n])]),
        2 => (1..18_u32, Just(WireType::LengthDelimited), bytes().prop_map(|bytes| delimited(&bytes))),
        1 => (1..18_u32, Just(WireType::SixtyFourBit), Just(vec![7; 8])),
        1 => (1..18_u32, Just(WireType::ThirtyTwoBit), Just(vec![7; 4])),
        1 => (1..18_u32, Just(WireType::EndGroup), Just(vec![])),
        1 => (1..18_u32, Just(WireType::LengthDelimited), Just(vec![100])),
    ]
    .prop_map(with_key);
    small.prop_recursive(4, 24, 6, move |inner| {
        let fields = prop::collection::vec(inner, 0..6).prop_map(|fields| fields.concat());
        let message = prop_oneof![Just(7_u32), Just(9), 1..18_u32];
        prop_oneof![
            4 => (message, fields.clone()).prop_map(move |(tag, fields)| {
                with_key((tag, WireType::LengthDelimited, delimited(&fields)))
            }),
            1 => (1..18_u32, fields).prop_map(move |(tag, fields)| {
                let end = with_key((tag, WireType::EndGroup, vec![]));
                with_key((tag, WireType::StartGroup, [fields, end].concat()))
            }),
        ]
    })
}

fn delimited(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// What happened to bytes on their way.
#[derive(Debug, Clone)]
enum Damage {
    None,
    Byte(Index, u8),
    Bit(Index, u8),
    More(Index, u8),
    End(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        2 => Just(Damage::None),
        1 => any::<(Index, u8)>().prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        1 => any::<(Index, u8)>().prop_map(|(at, byte)| Damage::More(at, byte)),
        1 => any::<Index>().prop_map(Damage::End),
    ]
}

impl Damage {
    fn to(&self, bytes: &[u8]) -> Bytes {
        let mut bytes = bytes.to_vec();
        let len = bytes.len();
        match self {
            Damage::Byte(at, byte) if len > 0 => bytes[at.index(len)] = *byte,
            Damage::Bit(at, bit) if len > 0 => bytes[at.index(len)] ^= 1 << bit,
            Damage::More(at, byte) => bytes.insert(at.index(len + 1), *byte),
            Damage::End(at) => bytes.truncate(at.index(len + 1)),
            _ => {}
        }
        bytes.into()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_decoder_agrees_with_prosts(
        fields in prop::collection::vec(field(), 0..12),
        message in message(),
        damage in damage(),
    ) {
        let fields = damage.to(&fields.concat());
        reference::compare_message(&fields);
        reference::compare_entry(&fields);
        let mut ours = BytesMut::new();
        codec::encode_message(&message, &mut ours);
        reference::compare_message(&damage.to(&ours));
        // It has lists of ids in the other form.
        let rafts = message.write_to_bytes().unwrap();
        reference::compare_message(&damage.to(&rafts));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_survive_and_raft_reads_them(message in message()) {
        let mut out = BytesMut::new();
        codec::encode_message(&message, &mut out);
        prop_assert_eq!(out.len(), codec::message_len(&message));
        let theirs = message.write_to_bytes().unwrap();
        if message.snapshot.is_none() {
            prop_assert_eq!(theirs.len(), out.len());
        }
        // Field by field in the order of the schema, as prost has them.
        let prosts: kvd_raftpb::pb::Message = prost::Message::decode(&out[..]).unwrap();
        prop_assert_eq!(&prost::Message::encode_to_vec(&prosts), &out);
        prop_assert_eq!(&Message::parse_from_bytes(&out).unwrap(), &message);
        prop_assert_eq!(&codec::decode_message(Bytes::from(theirs)).unwrap(), &message);
        prop_assert_eq!(&codec::decode_message(out.freeze()).unwrap(), &message);
    }

    #[test]
    fn entries_survive_and_have_rafts_bytes(entry in entry()) {
        let mut out = BytesMut::new();
        codec::encode_entry(&entry, &mut out);
        prop_assert_eq!(out.len(), codec::entry_len(&entry));
        prop_assert_eq!(&out[..], &entry.write_to_bytes().unwrap()[..]);
        prop_assert_eq!(codec::decode_entry(out.freeze()).unwrap(), entry);
    }

    #[test]
    fn snapshot_metadata_survives_and_raft_reads_it(metadata in metadata()) {
        let out = codec::encode_snapshot_metadata(&metadata);
        let theirs = metadata.write_to_bytes().unwrap();
        prop_assert_eq!(&codec::decode_snapshot_metadata(&theirs).unwrap(), &metadata);
        prop_assert_eq!(&SnapshotMetadata::parse_from_bytes(&out).unwrap(), &metadata);
        prop_assert_eq!(&codec::decode_snapshot_metadata(&out).unwrap(), &metadata);
    }

    #[test]
    fn hard_states_survive_and_have_rafts_bytes(term in number(), vote in number(), commit in number()) {
        let mut state = HardState::default();
        (state.term, state.vote, state.commit) = (term, vote, commit);
        let out = codec::encode_hard_state(&state);
        prop_assert_eq!(&out, &state.write_to_bytes().unwrap());
        prop_assert_eq!(codec::decode_hard_state(&out).unwrap(), state);
    }

    #[test]
    fn conf_changes_survive_and_have_rafts_bytes(
        transition in 0..3_i32,
        changes in prop::collection::vec((0..3_i32, number()), 0..4),
        context in bytes(),
    ) {
        let mut change = ConfChangeV2::default();
        change.set_transition(protobuf::ProtobufEnum::from_i32(transition).unwrap());
        let single = |(kind, id): (i32, u64)| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(protobuf::ProtobufEnum::from_i32(kind).unwrap());
            single.node_id = id;
            single
        };
        change.set_changes(changes.into_iter().map(single).collect::<Vec<_>>().into());
        change.context = context;
        let out = codec::encode_conf_change(&change);
        prop_assert_eq!(&out, &change.write_to_bytes().unwrap());
        prop_assert_eq!(codec::decode_conf_change(EntryType::EntryConfChangeV2, &out).unwrap(), change);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let noise = Bytes::from(noise);
        let _ = codec::decode_message(noise.clone());
        let _ = codec::decode_entry(noise.clone());
        let _ = codec::decode_hard_state(&noise);
        let _ = codec::decode_snapshot_metadata(&noise);
        let _ = codec::decode_conf_change(EntryType::EntryConfChange, &noise);
        let _ = codec::decode_conf_change(EntryType::EntryConfChangeV2, &noise);
    }
}

#[test]
fn the_default_conf_change_is_empty() {
    // raft reads an empty EntryConfChangeV2 as "leave the joint configuration".
    assert!(codec::encode_conf_change(&ConfChangeV2::default()).is_empty());
    let change = codec::decode_conf_change(EntryType::EntryConfChangeV2, &[]).unwrap();
    assert!(change.leave_joint());
    assert_eq!(change.get_transition(), ConfChangeTransition::Auto);
}

#[test]
fn the_first_version_of_conf_changes_becomes_the_second() {
    let mut old = raft::eraftpb::ConfChange::default();
    (old.node_id, old.context) = (7, Bytes::from_static(b"urls"));
    old.set_change_type(ConfChangeType::RemoveNode);
    let bytes = old.write_to_bytes().unwrap();
    let change = codec::decode_conf_change(EntryType::EntryConfChange, &bytes).unwrap();
    assert_eq!(change, raft_v2(old));
}

fn raft_v2(change: raft::eraftpb::ConfChange) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    (single.node_id, single.change_type) = (change.node_id, change.change_type);
    let mut out = ConfChangeV2::default();
    out.set_changes(vec![single].into());
    out.context = change.context;
    out
}

#[test]
fn unknown_numbers_in_enums_are_named() {
    for (text, error) in [
        ("message type 19 is unknown", codec::decode_message(Bytes::from_static(&[0x08, 19])).unwrap_err()),
        ("entry type 3 is unknown", codec::decode_entry(Bytes::from_static(&[0x08, 3])).unwrap_err()),
        (
            "conf change transition 3 is unknown",
            codec::decode_conf_change(EntryType::EntryConfChangeV2, &[0x08, 3]).unwrap_err(),
        ),
        (
            "conf change type 3 is unknown",
            codec::decode_conf_change(EntryType::EntryConfChange, &[0x10, 3]).unwrap_err(),
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn enums_are_judged_when_everything_is_read() {
    // Type 3 is no entry's, and 19 no message's.
    let (bad, worse) = ([0x3a, 2, 0x08, 3], [0x3a, 2, 0x08, 4]);
    for (bytes, error) in [
        ([&bad[..], &worse].concat(), Some("entry type 3 is unknown")),
        ([&bad[..], &[0x08, 19]].concat(), Some("message type 19 is unknown")),
        ([&bad[..], &[0x0f]].concat(), Some("not a valid raft message")),
        // A value that is replaced does not count.
        (vec![0x3a, 4, 0x08, 3, 0x08, 1], None),
        (vec![0x08, 19, 0x08, 3], None),
    ] {
        let bytes = Bytes::from(bytes);
        let refused = codec::decode_message(bytes.clone()).err().map(|e| e.to_string());
        assert!(refused.as_deref().unwrap_or_default().starts_with(error.unwrap_or_default()), "{refused:?}");
        assert_eq!(refused.is_some(), error.is_some(), "{refused:?}");
        reference::compare_message(&bytes);
    }
}

#[test]
fn a_decoded_payload_shares_the_buffer_that_it_came_in() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    let mut entry = Entry::default();
    entry.data = Bytes::from(vec![7; 1000]);
    message.set_entries(vec![entry].into());
    let mut out = BytesMut::new();
    codec::encode_message(&message, &mut out);
    let buffer = out.freeze();
    let decoded = codec::decode_message(buffer.clone()).unwrap();
    assert!(buffer.as_ptr_range().contains(&decoded.entries[0].data.as_ptr()));
}

#[test]
fn groups_nest_as_deep_as_prost_lets_them() {
    // In a message, in an entry alone, and in an entry of a message, where one level is spent.
    for depth in 95..105 {
        let nest = [vec![0x2b; depth], vec![0x2c; depth]].concat();
        let bytes = Bytes::from(nest.clone());
        reference::compare_message(&bytes);
        reference::compare_entry(&bytes);
        reference::compare_message(&[vec![0x3a], delimited(&nest)].concat().into());
    }
    let entry = |depth| codec::decode_entry([vec![0x2b; depth], vec![0x2c; depth]].concat().into());
    assert!(entry(99).is_ok());
    assert!(entry(105).is_err());
}

#[test]
fn entries_get_memory_for_their_number() {
    for count in [0, 1, 2, 5, 100, 1000] {
        let mut message = Message::default();
        let entries: Vec<_> = (1..=count)
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.data) = (index, Bytes::from(vec![7; index as usize % 300]));
                entry
            })
            .collect();
        message.set_entries(entries.into());
        let mut out = BytesMut::new();
        codec::encode_message(&message, &mut out);
        let decoded = codec::decode_message(out.freeze()).unwrap();
        assert_eq!(decoded, message);
        assert!(decoded.entries.into_vec().capacity() <= (count as usize).max(4), "{count}");
    }
    // What is claimed beyond the bytes gets none.
    for claim in [&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0x3a, 1], &[0x3a, 0, 0x3a], &[0x3a]] {
        let bytes = Bytes::copy_from_slice(claim);
        assert!(codec::decode_message(bytes.clone()).is_err());
        reference::compare_message(&bytes);
    }
}
