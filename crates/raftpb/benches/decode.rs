//! How fast messages and entries are decoded, and what prost's generated parser takes for the same bytes, which ends in
//! its own types: raft's would come on top.
//!
//! ```text
//! cargo bench -p kvd-raftpb --bench decode
//! ```
#![allow(clippy::unwrap_used)] // a benchmark fails by panicking

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use divan::counter::BytesCount;
use kvd_raftpb::{codec, pb};
use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

/// Payload of an entry, in bytes.
const PAYLOAD: usize = 256;
/// Entries in a message. A heartbeat has none.
const ENTRIES: [u64; 3] = [0, 1, 100];

fn entry(index: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (index, 300, vec![7; PAYLOAD].into());
    entry
}

fn message(entries: u64) -> Bytes {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term, message.log_term) = (1, 2, 300, 300);
    (message.index, message.commit) = (100_000, 100_000);
    message.set_entries((1..=entries).map(|i| entry(100_000 + i)).collect::<Vec<_>>().into());
    let mut out = BytesMut::new();
    codec::encode_message(&message, &mut out);
    out.freeze()
}

fn one_entry() -> Bytes {
    let mut out = BytesMut::new();
    codec::encode_entry(&entry(100_000), &mut out);
    out.freeze()
}

#[divan::bench(args = ENTRIES)]
fn message_by_the_codec(bencher: Bencher<'_, '_>, entries: u64) {
    let bytes = message(entries);
    bencher.counter(BytesCount::new(bytes.len())).bench(|| codec::decode_message(bytes.clone()).unwrap());
}

#[divan::bench(args = ENTRIES)]
fn message_by_prost(bencher: Bencher<'_, '_>, entries: u64) {
    let bytes = message(entries);
    bencher.counter(BytesCount::new(bytes.len())).bench(|| pb::Message::decode(bytes.clone()).unwrap());
}

#[divan::bench]
fn entry_by_the_codec(bencher: Bencher<'_, '_>) {
    let bytes = one_entry();
    bencher.counter(BytesCount::new(bytes.len())).bench(|| codec::decode_entry(bytes.clone()).unwrap());
}

#[divan::bench]
fn entry_by_prost(bencher: Bencher<'_, '_>) {
    let bytes = one_entry();
    bencher.counter(BytesCount::new(bytes.len())).bench(|| pb::Entry::decode(bytes.clone()).unwrap());
}

fn main() {
    divan::main();
}
