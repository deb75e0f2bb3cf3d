//! The seeds in `corpus/`: what the real code writes, and the hostile inputs that have a name.
//!
//! A test compares them with the files; `KVD_BLESS=1 cargo test -p kvd-fuzz` writes the files.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use kvd_kvstore::command::Command;
use kvd_kvstore::snapshot::View;
use kvd_kvstore::store::Store;
use kvd_node::View as _;
use kvd_raftpb::node::{Batch, Member, Membership, NodeState, Session};
use kvd_raftpb::{codec, node};
use kvd_snap::Snapshotter;
use kvd_vfs::{MemDisk, Vfs as _};
use kvd_wal::{Options, SnapshotRecord, Wal};
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType, SnapshotMetadata};

use crate::input::pieces;
use crate::wal_records::record;
use crate::{log_image, snap_file};

/// A seed: its target, its name, its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// All seeds.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    seeds.extend(texts());
    seeds.extend(store());
    seeds.extend(messages());
    seeds.extend(log());
    let file = snapshot_file(&[b"a body of a snapshot".as_slice(), &[7; 40]].concat());
    seeds.push(("snap_file", "whole", [vec![0, 6], file.clone()].concat()));
    seeds.push(("snap_file", "newer_version", [vec![1, 9], newer(file)].concat()));
    seeds.push(("snap_file", "no_body", [vec![0, 0], snapshot_file(b"")].concat()));
    seeds
}

fn texts() -> Vec<Seed> {
    let text = |target, name, text: &str| (target, name, text.as_bytes().to_vec());
    vec![
        text(
            "requests",
            "array",
            "\x13\x02*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n*0\r\n*1\r\n$4\r\nPING\r\n",
        ),
        text("requests", "inline", "\x13\x02GET \"a\\x00b\" 'c'\nPING\r\n"),
        text("requests", "many_arguments", "\x13\x02*1000000000\r\n"),
        text("requests", "long_argument", "\x13\x02*1\r\n$99999999999\r\n"),
        text("requests", "negative", "\x13\x02*-1\r\n*1\r\n$-1\r\n"),
        text("peer_url", "name", "http://Node-1.example.com:9021/"),
        text("peer_url", "ipv6", "http://[::1]:9021"),
        text("http_path", "escaped", "/v1/kv/a%2Fb%ff"),
        text("http_path", "id", "/12"),
        text(
            "server_answer",
            "head",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n",
        ),
        text("server_answer", "endpoint", "http://[::1]:9121/"),
        text(
            "flags",
            "member",
            "--id\n2\n--cluster\nhttp://127.0.0.1:1,http://127.0.0.1:2\n--log\nwarn,kvd=debug",
        ),
        text("flags", "client", "put\nkey\nvalue\n--endpoints\nhttp://127.0.0.1:9121"),
        text("flags", "listen", "--listen\n::1\n--listen-peer\n127.0.0.1:1\n--join\n--snapshot-bytes\n4096"),
    ]
}

fn put(key: &'static [u8], value: &'static [u8]) -> Bytes {
    Command::Put { key: key.into(), value: value.into() }.encode()
}

fn store_bytes() -> Vec<u8> {
    let mut store = Store::new();
    for (key, value) in [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")] {
        store.put(key, value);
    }
    let mut bytes = Vec::new();
    View::new(store).write(&mut bytes).expect("memory takes what is written");
    bytes
}

fn node_state() -> NodeState {
    let member = |id: u64| Member { id, peer_urls: vec![format!("http://h:{id}")], ..Member::default() };
    let membership = Membership { cluster_id: 7, members: vec![member(1), member(2)], removed: vec![3] };
    let results = vec![node::Result { counter: 5, index: 8, response: Bytes::from_static(b"done") }];
    let session = Session { member: 1, boot: 2, floor: 4, results };
    NodeState { membership: Some(membership), sessions: vec![session] }
}

fn store() -> Vec<Seed> {
    let commands = [put(b"key", b"value"), Command::Delete { key: "key".into() }.encode(), put(b"", b"")];
    let body = [vec![0], pieces([node_state().encode_to_vec()]), store_bytes()].concat();
    vec![
        ("commands", "put_delete", pieces(commands)),
        ("store_snapshot", "two_keys", [&[1], &store_bytes()[8..]].concat()),
        ("store_snapshot", "with_magic", [&[0], store_bytes().as_slice()].concat()),
        ("node_snapshot", "two_members", body),
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    codec::encode_message(message, &mut bytes);
    bytes.to_vec()
}

fn message(kind: MessageType, term: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.to, message.from, message.term) = (1, 2, term);
    message
}

fn append(after: u64, log_term: u64, term: u64, data: &[Bytes], commit: u64) -> Message {
    let mut message = message(MessageType::MsgAppend, term);
    (message.index, message.log_term, message.commit) = (after, log_term, commit);
    let entries = data.iter().zip(after + 1..).map(|(data, index)| {
        let mut entry = Entry::default();
        (entry.index, entry.term, entry.data) = (index, term, data.clone());
        entry
    });
    message.set_entries(entries.collect::<Vec<_>>().into());
    message
}

/// Messages inside messages, as deep as the input is long: field 7 of a message holds entries.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth {
        let mut outer = vec![0x3a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.extend(bytes);
        bytes = outer;
    }
    bytes
}

fn messages() -> Vec<Seed> {
    use MessageType::*;
    let from_2 = |message: &Message| [vec![0], encoded(message)].concat();
    let bare = |role: u8, messages: &[Message]| [vec![role], pieces(messages.iter().map(from_2))].concat();
    let forged_vote = {
        let mut vote = message(MsgRequestVote, 1 << 63);
        (vote.index, vote.log_term) = (1 << 62, 1 << 62);
        vote
    };
    let mut vote = message(MsgRequestVote, 2);
    (vote.index, vote.log_term) = (4, 1);
    let mut proposal = message(MsgPropose, 0);
    let mut change = Entry::default();
    change.set_entry_type(EntryType::EntryConfChangeV2);
    change.data = vec![0x12, 0x02, 0x10, 0x02].into();
    proposal.set_entries(vec![change].into());
    let mut snapshot = message(MsgSnapshot, 2);
    let metadata = snapshot.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (9, 2);
    metadata.mut_conf_state().voters = vec![1, 2];
    let mut bomb = message(MsgPropose, 0);
    let mut nest = Entry::default();
    nest.set_entry_type(EntryType::EntryConfChangeV2);
    nest.data = nested(200).into();
    bomb.set_entries(vec![nest].into());
    let mut seeds = vec![
        ("raft_message", "forged_vote", bare(0, &[forged_vote])),
        ("raft_message", "empty_proposal", bare(3, &[message(MsgPropose, 0)])),
        ("raft_message", "gapped_append", bare(0, &[append(50, 1, 1, &["x".into()], 51)])),
        ("raft_message", "nested_bomb", bare(3, &[bomb])),
        ("raft_message", "nested_message", [vec![0], pieces([[vec![0], nested(300)].concat()])].concat()),
        ("raft_message", "vote", bare(2, &[vote])),
        ("raft_message", "append", bare(0, &[append(4, 1, 1, &["x".into(), "y".into()], 5)])),
        ("raft_message", "conf_change", bare(7, &[proposal])),
        ("raft_message", "snapshot", bare(0, &[snapshot])),
        ("raft_message", "heartbeat", bare(0, &[message(MsgHeartbeat, 1), message(MsgTimeoutNow, 1)])),
    ];

    let frame = |message: &Message| {
        let bytes = encoded(message);
        [(bytes.len() as u32).to_le_bytes().as_slice(), &bytes].concat()
    };
    let stream = [frame(&message(MsgHeartbeat, 1)), vec![0; 4], frame(&append(4, 1, 1, &["x".into()], 4))];
    seeds.push(("frames", "stream", [vec![16, 6], stream.concat()].concat()));
    seeds.push(("frames", "too_long", vec![4, 0, 0xff, 0xff, 0xff, 0xff]));

    let batch = |counter, command: Bytes| {
        let commands = vec![node::Command { counter, payload: command }];
        Bytes::from(Batch { member: 2, boot: 1, floor: 1, commands, announcement: None }.encode_to_vec())
    };
    let entries = [batch(1, put(b"key", b"value")), batch(2, put(b"key", b"2"))];
    let deliver = |message: &Message| [vec![0], pieces([encoded(message)])].concat();
    let body = [&(node_state().encoded_len() as u32).to_le_bytes(), &*node_state().encode_to_vec()].concat();
    let body = [body, store_bytes()].concat();
    let follower = [
        deliver(&append(1, 1, 2, &entries, 3)),
        vec![192],
        deliver(&append(3, 2, 2, &["no batch".into()], 3)),
        vec![160, 192],
    ];
    seeds.push(("member", "follower", follower.concat()));
    let installs = [vec![128, 2, 9], pieces([body]), deliver(&append(9, 2, 2, &entries[..1], 10))];
    seeds.push(("member", "snapshot", installs.concat()));
    seeds.push(("member", "candidate", [vec![160; 25], vec![224], pieces([put(b"k", b"v")])].concat()));
    seeds
}

fn log() -> Vec<Seed> {
    let mem = MemDisk::new();
    let dir = Path::new("/wal");
    let options = Options { segment_bytes: 2048, prepare_ahead: false, ..Options::default() };
    let mut wal = Wal::create(mem.disk(), dir, b"member 1", None, options).expect("a sound disk");
    let entries: Vec<Entry> =
        append(0, 0, 1, &["one".into(), vec![9; 600].into(), "three".into()], 0).take_entries().into_vec();
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (1, 2, 2);
    wal.save(&entries[..1], Some(&state), true).expect("a sound disk");
    wal.save(&entries[1..2], None, true).expect("a sound disk");
    wal.save_snapshot(SnapshotRecord { index: 2, term: 1 }).expect("a sound disk");
    wal.save(&entries[2..], Some(&state), true).expect("a sound disk");
    drop(wal);
    let names = mem.list(dir).expect("a sound disk").into_iter().filter(|name| name.ends_with(".wal"));
    let files: Vec<Vec<u8>> =
        names.map(|name| mem.read_file(&dir.join(name)).expect("a sound disk")).collect();
    let first_indexes = [0_u8, 3];
    assert_eq!(files.len(), first_indexes.len());
    let mut image = vec![1];
    for (file, first) in files.iter().zip(first_indexes) {
        let end = file.chunks(log_image::SECTOR).rposition(|sector| sector.iter().any(|b| *b != 0));
        let end = end.map_or(0, |sector| (sector + 1) * log_image::SECTOR);
        image.extend([first, (file.len() / log_image::SECTOR) as u8]);
        image.extend(pieces([&file[..end]]));
    }
    let mut encoded_entry = BytesMut::new();
    codec::encode_entry(&entries[0], &mut encoded_entry);
    let records = [
        record(3, &encoded_entry),
        record(4, &codec::encode_hard_state(&state)),
        record(5, &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]),
        record(6, b""),
    ];
    let mut cut = pieces(&records[..2]);
    cut.extend(pieces([[0xff, 0xff]]));
    cut.push(2);
    cut.extend(pieces(&records[2..]));
    vec![
        ("wal_dir", "two_segments", image),
        ("wal_records", "one_segment", [vec![0], pieces(&records)].concat()),
        ("wal_records", "two_segments", [vec![2], cut].concat()),
    ]
}

fn snapshot_file(body: &[u8]) -> Vec<u8> {
    let mem = MemDisk::new();
    let dir = Path::new("/snap");
    let snapshotter = Snapshotter::open(mem.disk(), dir).expect("a sound disk");
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (snap_file::TERM, snap_file::INDEX);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    snapshotter.save(&metadata, &mut |out| out.write_all(body)).expect("a sound disk");
    let name = mem.list(dir).expect("a sound disk").remove(0);
    mem.read_file(&dir.join(name)).expect("a sound disk")
}

/// The file as a later version might begin.
fn newer(mut file: Vec<u8>) -> Vec<u8> {
    file[8] = 2;
    let crc = crc32fast::hash(&file[..12]);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    file
}
