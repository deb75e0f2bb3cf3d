//! The service around a real node: one member on a disk in memory.

#![allow(clippy::unwrap_used, reason = "the helpers of a test, too, fail by panicking")]

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::store::Shared;
use kvd_kvstore::{
    Consistency, Door, Error, Kv, Limits, MembershipRefusal, Operation, Service, Txn, Written,
};
use kvd_node::{Config, Exit, Home, Membership, Start, cluster_id, initial_members};
use kvd_raftpb::peers::Peers;
use kvd_vfs::{Disk, MemDisk};
use raft::eraftpb::Message;

struct NoPeers;

impl Peers for NoPeers {
    fn send(&self, _: Vec<Message>) {}
    fn update(&self, _: &Membership) {}
}

/// Runs one member from start to shutdown, and `test` against its service.
async fn with_member<T, F: Future<Output = T>>(disk: &Disk, test: impl FnOnce(Service) -> F) -> T {
    let urls = ["http://127.0.0.1:1".to_owned()];
    let start = Start::Initial { cluster_id: cluster_id(&urls), members: initial_members(&urls) };
    let store = Shared::new();
    let home = Home::open(disk.clone(), Path::new("/member")).unwrap();
    let node = home.start(Config::new(1), &start, Kv::new(store.clone())).unwrap();
    let handle = node.handle();
    let begin = tokio::time::Instant::now();
    let ticks = stream::unfold(tokio::time::interval(Duration::from_millis(10)), |mut ticks| async move {
        ticks.tick().await;
        Some(((), ticks))
    });
    let ticks = ticks.map(move |()| begin.elapsed());
    let running = tokio::spawn(node.run(Arc::new(NoPeers), ticks));
    let result = test(Service::new(handle.clone(), store)).await;
    handle.shutdown();
    assert!(matches!(running.await.unwrap().unwrap(), Exit::Shutdown));
    result
}

fn key(key: &'static str) -> Bytes {
    Bytes::from_static(key.as_bytes())
}

async fn value(service: &Service, name: &'static str, how: Consistency) -> Option<Bytes> {
    service.get(key(name), how).await.unwrap().record.map(|record| record.value)
}

#[tokio::test]
async fn writes_are_answered_once_applied_and_survive_a_restart() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        let first = service.put(key("a"), key("1")).await.unwrap();
        assert_eq!((first.revision, first.version), (2, 1));
        let second = service.put(key("a"), Bytes::from_static(b"\xff\0")).await.unwrap();
        assert_eq!((second.revision, second.version), (3, 2));
        assert_eq!(value(&service, "a", Consistency::Stale).await.unwrap(), &b"\xff\0"[..]);
        assert_eq!(value(&service, "b", Consistency::Linearizable).await, None);
        assert!(!service.delete(key("b")).await.unwrap().existed);
        service.put(key("b"), key("x")).await.unwrap();
        assert_eq!(service.delete(key("b")).await.unwrap().revision, 5);
        assert_eq!(service.status().leader, Some(1));
        assert!(service.status().member);
    })
    .await;
    with_member(&disk, async |service| {
        assert_eq!(value(&service, "a", Consistency::Linearizable).await.unwrap(), &b"\xff\0"[..]);
        let reading = service.get(key("b"), Consistency::Linearizable).await.unwrap();
        assert_eq!((reading.revision, reading.record), (5, None));
    })
    .await;
}

#[tokio::test]
async fn keys_and_values_are_checked_before_anything_is_proposed() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        let Limits { key_bytes, value_bytes } = service.limits();
        let bytes = |len: usize| Bytes::from(vec![7; len]);
        for len in [key_bytes - 1, key_bytes] {
            service.put(bytes(len), key("")).await.unwrap();
            assert!(service.get(bytes(len), Consistency::Linearizable).await.unwrap().record.is_some());
        }
        for len in [value_bytes - 1, value_bytes] {
            service.put(bytes(key_bytes), bytes(len)).await.unwrap();
        }
        let before = service.get(key("x"), Consistency::Linearizable).await.unwrap().revision;
        let too_long = Error::KeyTooLong { len: key_bytes + 1, limit: key_bytes };
        let too_large = Error::ValueTooLarge { len: value_bytes as u64 + 1, limit: value_bytes as u64 };
        assert_eq!(service.put(bytes(key_bytes + 1), key("")).await, Err(too_long.clone()));
        assert_eq!(service.delete(bytes(key_bytes + 1)).await, Err(too_long.clone()));
        assert_eq!(service.get(bytes(key_bytes + 1), Consistency::Stale).await, Err(too_long));
        assert_eq!(service.put(key("x"), bytes(value_bytes + 1)).await, Err(too_large));
        assert_eq!(service.put(key(""), key("")).await, Err(Error::EmptyKey));
        assert_eq!(service.get(key("x"), Consistency::Linearizable).await.unwrap().revision, before);
    })
    .await;
}

#[tokio::test]
async fn commands_are_proposed_when_called_and_applied_in_the_order_of_the_calls() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        let add = |by| {
            let operations = vec![Operation::Increment { key: key("n"), by }];
            Command::Txn(Txn { compares: Vec::new(), operations })
        };
        let first = service.propose(add(5));
        let put = service.propose(Command::Put { key: key("n"), value: key("40") });
        let last = service.propose(add(2));
        // Only the last is awaited first: the others need nobody to poll them.
        let Response::Txn(done) = last.await.unwrap() else { panic!("a transaction") };
        assert_eq!((done.revision, done.numbers), (4, vec![42]));
        assert_eq!(service.local().get(b"n").unwrap().value, "42");
        let Response::Txn(done) = first.await.unwrap() else { panic!("a transaction") };
        assert_eq!((done.revision, done.numbers), (2, vec![5]));
        assert_eq!(put.await.unwrap(), Response::Put(Written { revision: 3, version: 2 }));
    })
    .await;
}

#[tokio::test]
async fn what_apply_refuses_has_its_reason() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        let service = service.with_limits(Limits { value_bytes: 20, ..Limits::default() });
        let one = async |operation| {
            service.propose(Command::Txn(Txn { compares: Vec::new(), operations: vec![operation] })).await
        };
        service.put(key("word"), key("x")).await.unwrap();
        service.put(key("max"), key("9223372036854775807")).await.unwrap();
        let increment = |name| Operation::Increment { key: key(name), by: 1 };
        assert_eq!(one(increment("word")).await, Err(Error::NotANumber));
        assert_eq!(one(increment("max")).await, Err(Error::Overflow));
        let append = Operation::Append { key: key("max"), suffix: key("ab"), limit: 20 };
        assert_eq!(one(append).await, Err(Error::WouldBeTooLarge { limit: 20 }));
        let too_large = Operation::Append { key: key("x"), suffix: vec![0; 21].into(), limit: 20 };
        assert_eq!(one(too_large).await, Err(Error::ValueTooLarge { len: 21, limit: 20 }));
        assert_eq!(service.local().revision(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_request_is_bounded_as_a_whole() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        let value = Bytes::from(vec![0; service.limits().value_bytes]);
        let put = |key| Operation::Put { key, value: value.clone() };
        let operations = vec![put(key("a")), put(key("b"))];
        let refused = service.propose(Command::Txn(Txn { compares: Vec::new(), operations })).await;
        assert!(matches!(refused, Err(Error::RequestTooLarge { limit: 2_097_152, .. })), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_is_taken_when_asked_for() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        service.put(key("a"), key("1")).await.unwrap();
        let applied = service.status().applied;
        assert!(service.snapshot(Duration::from_secs(30)).await.unwrap() >= applied);
    })
    .await;
}

#[tokio::test]
async fn membership_changes_are_refused_with_their_reason() {
    let disk: Disk = Arc::new(MemDisk::new());
    with_member(&disk, async |service| {
        service.add_member(1, "http://127.0.0.1:1").await.unwrap();
        let refusal = async |change: Result<(), Error>| match change {
            Err(Error::Membership(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        use MembershipRefusal::{Conflict, Invalid, LastVoter, Unknown};
        assert!(matches!(
            refusal(service.add_member(1, "http://127.0.0.1:2").await).await,
            Conflict { id: 1, .. }
        ));
        assert!(matches!(refusal(service.add_member(0, "http://127.0.0.1:2").await).await, Invalid(_)));
        assert!(matches!(refusal(service.add_member(2, "no url").await).await, Invalid(_)));
        assert_eq!(refusal(service.remove_member(7).await).await, Unknown(7));
        assert_eq!(refusal(service.remove_member(1).await).await, LastVoter(1));
        service.add_member(2, "http://127.0.0.1:2").await.unwrap();
        service.remove_member(2).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn after_the_shutdown_every_request_is_answered() {
    let disk: Disk = Arc::new(MemDisk::new());
    let service = with_member(&disk, async |service| {
        service.put(key("a"), key("1")).await.unwrap();
        service
    })
    .await;
    assert_eq!(service.put(key("a"), key("2")).await, Err(Error::Stopped));
    assert_eq!(service.confirm(Duration::from_secs(1)).await, Err(Error::Stopped));
    assert_eq!(value(&service, "a", Consistency::Stale).await.unwrap(), "1");
}
