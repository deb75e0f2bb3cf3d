//! The paths. Values have 256 bytes, batches 64 commands.

use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kvd_http_api::{Extras, HttpApi};
use kvd_kvstore::command::Command;
use kvd_kvstore::{Kv, Shared};
use kvd_node::StateMachine;
use kvd_raftpb::codec::{decode_message, encode_message};
use kvd_vfs::MemDisk;
use kvd_wal::{Options, Wal};
use raft::eraftpb::{Entry, Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::count_this;
use crate::member::Member;

const BATCH: u64 = 64;
const ROUNDS: u64 = 100;

/// Each with the operations that are counted: messages, saves, commands or requests.
pub(crate) const ALL: &[(&str, u64, fn())] = &[
    ("encode", ROUNDS, encode),
    ("decode", ROUNDS, decode),
    ("save", ROUNDS, save),
    ("apply", ROUNDS * BATCH, apply),
    ("propose", ROUNDS * BATCH, propose),
    ("http-put", ROUNDS, http_put),
    ("http-get-stale", ROUNDS, http_get_stale),
];

fn command(number: u64) -> Bytes {
    // Odd multiples walk through all keys before they repeat.
    let key = format!("key-{:06}", number.wrapping_mul(7919) % 10_000);
    Command::Put { key: key.into(), value: vec![7; 256].into() }.encode()
}

fn entries(from: u64) -> Vec<Entry> {
    let entry = |index| {
        let mut entry = Entry::default();
        (entry.index, entry.term, entry.data) = (index, 1, command(index));
        entry
    };
    (from..from + BATCH).map(entry).collect()
}

/// As a leader sends it: 64 entries.
fn message() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term, message.index, message.log_term) = (1, 2, 1, 1, 1);
    message.set_entries(entries(2).into());
    message
}

/// A message to bytes.
fn encode() {
    let message = message();
    let mut out = BytesMut::with_capacity(1 << 20);
    let mut round = || {
        out.clear();
        encode_message(&message, &mut out);
    };
    round();
    count_this(|| (0..ROUNDS).for_each(|_| round()));
}

/// And back.
#[expect(clippy::expect_used, reason = "its own encoding; if it cannot be read, there is nothing to count")]
fn decode() {
    let mut out = BytesMut::new();
    encode_message(&message(), &mut out);
    let bytes = out.freeze();
    let round = || drop(decode_message(bytes.clone()).expect("what was encoded"));
    round();
    count_this(|| (0..ROUNDS).for_each(|_| round()));
}

/// A durable save of 64 entries.
#[expect(
    clippy::expect_used,
    reason = "a disk in memory does not fail; if it did, there is nothing to count"
)]
fn save() {
    let options = Options { segment_bytes: 16 << 20, prepare_ahead: false, ..Options::default() };
    let mut wal =
        Wal::create(MemDisk::new().disk(), Path::new("/wal"), b"paths", None, options).expect("a new log");
    let batches: Vec<Vec<Entry>> = (0..=ROUNDS).map(|round| entries(1 + round * BATCH)).collect();
    let mut save = |batch: &Vec<Entry>| wal.save(batch, None, true).expect("the log takes it");
    save(&batches[0]);
    count_this(|| batches[1..].iter().for_each(&mut save));
}

/// Commands into a store of 10,000 keys.
fn apply() {
    let mut kv = Kv::new(Shared::new());
    let fill: Vec<Bytes> = (0..10_000).map(command).collect();
    kv.apply(&fill, 1);
    let batches: Vec<Vec<Bytes>> =
        (0..ROUNDS).map(|round| (round * BATCH..(round + 1) * BATCH).map(command).collect()).collect();
    count_this(|| {
        for (index, batch) in (2..).zip(&batches) {
            drop(kv.apply(batch, index));
        }
    });
}

/// From the proposals of a batch to their results, with a log in memory between.
fn propose() {
    let mut member = Member::start();
    let handle = member.handle();
    let mut round = |number: u64| {
        let results: Vec<_> =
            (0..BATCH).map(|n| handle.propose(command(number * BATCH + n), Duration::from_secs(5))).collect();
        member.settle();
        for result in results {
            let result = pin!(result).poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(result, Poll::Ready(Ok(_))), "no result: {result:?}");
        }
    };
    round(0);
    count_this(|| (1..=ROUNDS).for_each(&mut round));
}

/// A PUT from its bytes to the bytes of its answer: the door, the store, the loop and a log in memory, and a client on
/// the same thread.
fn http_put() {
    let body = "v".repeat(256);
    let request = format!("PUT /key-000001 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 256\r\n\r\n{body}");
    http(&request, "HTTP/1.1 204 ");
}

/// A GET that needs no round of heartbeats: the door alone.
fn http_get_stale() {
    http("GET /key-000001?consistency=stale HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "HTTP/1.1 404 ");
}

#[expect(clippy::expect_used, reason = "without a listener on loopback there is nothing to count")]
fn http(request: &str, status: &str) {
    let runtime: Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = LocalSet::new();
    let member = Member::start();
    let service = member.service();
    tasks.spawn_local(member.serve());
    let (_server, mut stream) = runtime.block_on(tasks.run_until(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = HttpApi::new(service, Extras::default()).serve(listener).expect("an address");
        let stream = TcpStream::connect(server.local_addr()).await.expect("a connection");
        (server, stream)
    }));
    let mut answer = vec![0; 4096];
    let mut rounds = |count: u64| {
        runtime.block_on(tasks.run_until(async {
            for _ in 0..count {
                stream.write_all(request.as_bytes()).await.expect("a request is sent");
                // An answer is one segment: it is written at once, and is short.
                let length = stream.read(&mut answer).await.expect("an answer");
                assert!(answer[..length].starts_with(status.as_bytes()), "another answer than {status}");
            }
        }));
    };
    rounds(10);
    count_this(|| rounds(ROUNDS));
}
