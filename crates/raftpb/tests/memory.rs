//! The network in memory keeps the contract of `Peers`, and does the same each time.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Cursor, Read, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvd_raftpb::memory::{LINK_MESSAGES, MemoryPeers, Network, NoSnapshots};
use kvd_raftpb::node::{Member, Membership};
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler, Peers as _, SnapshotSink, SnapshotStore};
use raft::eraftpb::{Message, MessageType};

#[derive(Debug, Clone, PartialEq)]
enum Event {
    Delivered(u64, u64),
    Unreachable(u64),
    Snapshot(u64, bool),
    Removed,
}

#[derive(Default)]
struct Recorder {
    events: Mutex<Vec<Event>>,
    answers: bool,
}

impl Recorder {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
    fn add(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl PeerHandler for Recorder {
    fn deliver(&self, from: u64, message: Message) {
        self.add(Event::Delivered(from, message.index));
    }
    fn report_unreachable(&self, id: u64) {
        self.add(Event::Unreachable(id));
    }
    fn report_snapshot(&self, id: u64, received: bool) {
        self.add(Event::Snapshot(id, received));
    }
    fn removed(&self) {
        self.add(Event::Removed);
    }
    fn membership(&self) -> Option<Membership> {
        None
    }
    fn answer(&self, from: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        assert_eq!((from, limit), (1, Duration::from_millis(9)), "of ten, one is over");
        match self.answers {
            true => Box::pin(std::future::ready(Ok(request))),
            false => Box::pin(std::future::pending()),
        }
    }
}

type Files = Arc<Mutex<HashMap<(u64, u64), Vec<u8>>>>;

#[derive(Clone, Default)]
struct Store(Files);

struct Sink(Files, (u64, u64), Vec<u8>);

impl SnapshotStore for Store {
    fn open(&self, term: u64, index: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let bytes = self.0.lock().unwrap().get(&(term, index)).cloned();
        let bytes = bytes.ok_or_else(|| io::Error::other("no such snapshot"))?;
        // Index 8 is one that breaks off.
        let len = bytes.len() as u64 + u64::from(index == 8);
        Ok((len, Box::new(Cursor::new(bytes))))
    }
    fn receive(&self, term: u64, index: u64) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Sink(self.0.clone(), (term, index), Vec::new())))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.2.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn install(self: Box<Self>) -> io::Result<()> {
        self.0.lock().unwrap().insert(self.1, self.2);
        Ok(())
    }
}

fn list(members: &[u64], removed: &[u64]) -> Membership {
    let members = members.iter().map(|id| Member { id: *id, ..Member::default() }).collect();
    Membership { cluster_id: 1, members, removed: removed.to_vec() }
}

fn message(from: u64, to: u64, index: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    (message.from, message.to, message.index) = (from, to, index);
    message
}

struct World {
    network: Network,
    handlers: Vec<Arc<Recorder>>,
    peers: Vec<Arc<MemoryPeers>>,
}

fn world(n: u64, answers: bool) -> World {
    let network = Network::new(Duration::from_millis(1));
    let members = list(&(1..=n).collect::<Vec<_>>(), &[]);
    let (mut handlers, mut peers) = (Vec::new(), Vec::new());
    for id in 1..=n {
        let handler = Arc::new(Recorder { answers, ..Recorder::default() });
        handlers.push(handler.clone());
        peers.push(network.join(id, handler, Arc::new(NoSnapshots), &members));
    }
    World { network, handlers, peers }
}

#[test]
fn messages_arrive_in_order_a_tick_later() {
    let w = world(3, false);
    w.peers[0].send(vec![message(1, 2, 1), message(1, 3, 2), message(1, 2, 3), message(1, 9, 4)]);
    w.peers[2].send(vec![message(3, 2, 5)]);
    assert!(!w.network.is_idle());
    assert_eq!(w.network.advance(), 4);
    assert!(w.network.is_idle());
    let delivered = |from, index| Event::Delivered(from, index);
    assert_eq!(w.handlers[1].take(), [delivered(1, 1), delivered(1, 3), delivered(3, 5)]);
    assert_eq!(w.handlers[2].take(), [delivered(1, 2)]);
    assert_eq!(w.handlers[0].take(), [], "who does not exist is ignored");
}

#[test]
fn a_link_is_cut_and_mended_in_one_direction() {
    let w = world(2, false);
    w.peers[0].send(vec![message(1, 2, 1)]);
    w.network.cut(1, 2);
    w.peers[0].send(vec![message(1, 2, 2)]);
    assert_eq!(w.handlers[0].take(), [Event::Unreachable(2)], "at once");
    w.peers[1].send(vec![message(2, 1, 3)]);
    w.network.advance();
    assert_eq!(w.handlers[0].take(), [Event::Unreachable(2), Event::Delivered(2, 3)], "what was on its way");
    w.network.mend(1, 2);
    w.peers[0].send(vec![message(1, 2, 4)]);
    w.network.advance();
    assert_eq!(w.handlers[1].take(), [Event::Delivered(1, 4)]);
}

#[test]
fn a_delay_keeps_the_order() {
    let w = world(2, false);
    w.network.delay(1, 2, 2);
    w.peers[0].send(vec![message(1, 2, 1)]);
    w.network.delay(1, 2, 0);
    w.peers[0].send(vec![message(1, 2, 2)]);
    for due in [0, 0, 2, 0] {
        assert_eq!(w.network.advance(), due);
    }
    assert_eq!(w.handlers[1].take(), [Event::Delivered(1, 1), Event::Delivered(1, 2)]);
}

#[test]
fn a_link_is_bounded() {
    let w = world(2, false);
    w.peers[0].send((0..LINK_MESSAGES as u64).map(|i| message(1, 2, i)).collect());
    assert_eq!(w.handlers[0].take(), []);
    w.peers[0].send(vec![message(1, 2, 0)]);
    assert_eq!(w.handlers[0].take(), [Event::Unreachable(2)]);
    assert_eq!(w.network.advance(), LINK_MESSAGES);
    w.peers[0].send(vec![message(1, 2, 0)]);
    assert_eq!(w.handlers[0].take(), []);
}

#[test]
fn a_crash_loses_what_was_for_the_dead_and_a_restart_goes_on() {
    let w = world(2, false);
    w.network.leave(2);
    w.peers[0].send(vec![message(1, 2, 1)]);
    w.network.advance();
    assert_eq!(w.handlers[0].take(), [Event::Unreachable(2)]);
    w.peers[1].send(vec![message(2, 1, 2)]);
    assert_eq!(w.network.advance(), 0, "the dead send nothing");
    let again = Arc::new(Recorder::default());
    let _two = w.network.join(2, again.clone(), Arc::new(NoSnapshots), &list(&[1, 2], &[]));
    w.peers[0].send(vec![message(1, 2, 3)]);
    w.network.advance();
    assert_eq!(again.take(), [Event::Delivered(1, 3)]);
}

#[test]
fn a_removed_member_learns_of_it_once() {
    let w = world(3, false);
    w.peers[0].update(&list(&[1, 2], &[3]));
    w.peers[0].send(vec![message(1, 3, 1)]);
    w.peers[2].send(vec![message(3, 1, 1), message(3, 1, 2)]);
    w.network.advance();
    assert_eq!(w.handlers[2].take(), [Event::Removed, Event::Unreachable(1), Event::Unreachable(1)]);
    assert_eq!(w.handlers[0].take(), []);
    // Whoever is not known yet gets nothing, and no such answer.
    w.peers[1].update(&list(&[1, 2], &[]));
    w.peers[2].send(vec![message(3, 2, 1)]);
    w.network.advance();
    assert_eq!(w.handlers[2].take(), [Event::Unreachable(2)]);
}

#[test]
fn the_fate_of_a_snapshot_is_reported_once() {
    let network = Network::new(Duration::from_millis(1));
    let members = list(&[1, 2], &[]);
    let (handlers, stores) =
        ([(); 2].map(|()| Arc::new(Recorder::default())), [(); 2].map(|()| Store::default()));
    let one = network.join(1, handlers[0].clone(), Arc::new(stores[0].clone()), &members);
    let _two = network.join(2, handlers[1].clone(), Arc::new(stores[1].clone()), &members);
    for index in [7, 8] {
        stores[0].0.lock().unwrap().insert((1, index), vec![7; 100_000]);
    }
    let snapshot = |to, index| {
        let mut message = message(1, to, index);
        message.set_msg_type(MessageType::MsgSnapshot);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.term, metadata.index) = (1, index);
        message
    };
    for (index, to, received) in [(7, 2, true), (8, 2, false), (9, 2, false), (7, 3, false)] {
        one.send(vec![snapshot(to, index)]);
        network.advance();
        assert_eq!(handlers[0].take(), [Event::Snapshot(to, received)], "{index} to {to}");
        assert_eq!(handlers[1].take().len(), usize::from(received));
    }
    assert_eq!(*stores[1].0.lock().unwrap(), HashMap::from([((1, 7), vec![7; 100_000])]));
    network.cut(1, 2);
    one.send(vec![snapshot(2, 7)]);
    assert_eq!(handlers[0].take(), [Event::Snapshot(2, false)]);
}

fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T> + Send>>) -> Poll<T> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

const TEN: Duration = Duration::from_millis(10);

#[test]
fn a_call_is_answered() {
    let w = world(2, true);
    let mut call = w.peers[0].call(2, "why".into(), TEN);
    assert_eq!(poll(&mut call), Poll::Pending);
    w.network.advance();
    assert_eq!(poll(&mut call), Poll::Ready(Ok("why".into())));
}

#[test]
fn a_call_that_is_lost_says_what_is_known() {
    let unknown =
        |poll: Poll<Result<Bytes, CallError>>| matches!(poll, Poll::Ready(Err(CallError::Unknown { .. })));
    let not_done =
        |poll: Poll<Result<Bytes, CallError>>| matches!(poll, Poll::Ready(Err(CallError::NotDone { .. })));
    let w = world(2, true);
    assert!(not_done(poll(&mut w.peers[0].call(9, "x".into(), TEN))), "nobody");
    let mut lost = w.peers[0].call(2, "x".into(), TEN);
    w.network.cut(1, 2);
    assert!(not_done(poll(&mut w.peers[0].call(2, "x".into(), TEN))), "not sent");
    w.network.advance();
    assert!(unknown(poll(&mut lost)), "the request");
    w.network.mend(1, 2);
    w.network.cut(2, 1);
    let mut lost = w.peers[0].call(2, "x".into(), TEN);
    w.network.advance();
    assert!(unknown(poll(&mut lost)), "the answer");

    let w = world(2, false);
    let mut late = w.peers[0].call(2, "x".into(), TEN);
    for _ in 0..10 {
        w.network.advance();
        assert_eq!(poll(&mut late), Poll::Pending);
    }
    w.network.advance();
    assert!(unknown(poll(&mut late)));
}
