//! What the tests share: members on real sockets, and peers played by hand.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod proxy;
pub mod raw;
pub mod store;

use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kvd_raftpb::node::{Member, Membership};
use kvd_transport::{BoxFuture, CallError, Config, PeerHandler, Peers as _, Transport};
use raft::eraftpb::{Message, MessageType};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use store::MemStore;

pub const CLUSTER: u64 = 0xC1;

/// Nothing in a test takes as long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("this did not happen: {what}"),
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Delivered(u64, Message),
    Unreachable(u64),
    Snapshot(u64, bool),
    Removed,
}

/// What a handler answers to a call.
pub type Answer = Box<dyn Fn(u64, Bytes, Duration) -> BoxFuture<Result<Bytes, CallError>> + Send + Sync>;

/// A handler that remembers.
#[derive(Default)]
pub struct Recorder {
    /// Without it, calls get the answer that the trait has.
    pub answer: Mutex<Option<Answer>>,
    events: Mutex<Vec<Event>>,
    changed: Notify,
    pub membership: Mutex<Option<Membership>>,
}

impl Recorder {
    fn add(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.changed.notify_waiters();
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub fn clear(&self) {
        self.events.lock().unwrap().clear();
    }

    pub fn count(&self, event: &Event) -> usize {
        self.events().iter().filter(|e| *e == event).count()
    }

    /// Indexes of the delivered messages of a type, in order of delivery.
    pub fn delivered(&self, kind: MessageType) -> Vec<u64> {
        indexes(&self.events(), kind)
    }

    /// Waits until the events satisfy the condition.
    pub async fn until(&self, what: &str, mut satisfied: impl FnMut(&[Event]) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if satisfied(&self.events.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("this did not happen: {what}; the events are {:#?}", self.events());
        }
    }

    pub async fn until_event(&self, event: Event) {
        self.until(&format!("{event:?}"), |events| events.contains(&event)).await;
    }
}

impl PeerHandler for Recorder {
    fn deliver(&self, from: u64, message: Message) {
        self.add(Event::Delivered(from, message));
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
        self.membership.lock().unwrap().clone()
    }
    fn answer(&self, from: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        match &*self.answer.lock().unwrap() {
            Some(answer) => answer(from, request, limit),
            None => Silent.answer(from, request, limit),
        }
    }
}

/// A handler with nothing but what it must have.
struct Silent;

impl PeerHandler for Silent {
    fn deliver(&self, _: u64, _: Message) {}
    fn report_unreachable(&self, _: u64) {}
    fn report_snapshot(&self, _: u64, _: bool) {}
    fn removed(&self) {}
    fn membership(&self) -> Option<Membership> {
        None
    }
}

pub fn message(kind: MessageType, from: u64, to: u64, index: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.from = from;
    message.to = to;
    message.term = 1;
    message.index = index;
    message
}

pub fn heartbeat(from: u64, to: u64, index: u64) -> Message {
    message(MessageType::MsgHeartbeat, from, to, index)
}

pub fn append(from: u64, to: u64, index: u64, payload: usize) -> Message {
    let mut entry = raft::eraftpb::Entry::default();
    entry.index = index;
    entry.term = 1;
    entry.data = vec![b'x'; payload].into();
    let mut message = message(MessageType::MsgAppend, from, to, index);
    message.set_entries(vec![entry].into());
    message
}

pub fn snapshot(from: u64, to: u64, term: u64, index: u64) -> Message {
    let mut message = message(MessageType::MsgSnapshot, from, to, 0);
    let metadata = message.mut_snapshot().mut_metadata();
    metadata.term = term;
    metadata.index = index;
    metadata.mut_conf_state().voters = vec![from, to];
    message
}

/// Members with their URLs, and removed ids.
pub fn membership(members: &[(u64, Vec<String>)], removed: &[u64]) -> Membership {
    let member =
        |(id, urls): &(u64, Vec<String>)| Member { id: *id, peer_urls: urls.clone(), ..Member::default() };
    Membership {
        cluster_id: CLUSTER,
        members: members.iter().map(member).collect(),
        removed: removed.to_vec(),
    }
}

/// Limits as they are by default, and dials that come fast.
pub fn config(id: u64) -> Config {
    Config {
        member_id: id,
        cluster_id: CLUSTER,
        redial_min: Duration::from_millis(2),
        redial_max: Duration::from_millis(20),
        ..Config::default()
    }
}

/// A URL where nobody listens: its port is taken, for as long as the socket lives, and refuses.
pub fn dead_url() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// A member on a loopback socket.
pub struct Node {
    pub id: u64,
    pub url: String,
    pub transport: Transport,
    pub handler: Arc<Recorder>,
    pub store: Arc<MemStore>,
}

impl Node {
    pub async fn start(config: Config, members: &Membership) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Node::start_on(listener, config, members)
    }

    pub fn start_on(listener: TcpListener, config: Config, members: &Membership) -> Node {
        let handler = Arc::new(Recorder::default());
        let store = Arc::new(MemStore::default());
        let id = config.member_id;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let transport = Transport::start(config, handler.clone(), store.clone(), members);
        transport.serve(listener);
        Node { id, url, transport, handler, store }
    }

    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub fn send(&self, message: Message) {
        self.transport.send(vec![message]);
    }

    /// The value of a series on the metrics page; the labels as they stand there.
    pub fn metric(&self, series: &str) -> f64 {
        metric(&self.transport, series)
    }

    pub async fn stop(&self) {
        soon("the transport stops", self.transport.stop()).await;
        assert_eq!(self.transport.tasks(), 0);
    }
}

pub fn page(transport: &Transport) -> String {
    let mut registry = prometheus_client::registry::Registry::default();
    transport.metrics().register(&mut registry);
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    page
}

pub fn metric(transport: &Transport, series: &str) -> f64 {
    let page = page(transport);
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Members 1 to n that know each other.
pub async fn cluster(n: u64) -> Vec<Node> {
    let mut listeners = Vec::new();
    for _ in 0..n {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let list: Vec<_> = (1..).zip(&listeners).map(|(id, listener)| (id, vec![url(listener)])).collect();
    let members = membership(&list, &[]);
    let nodes = (1..).zip(listeners).map(|(id, listener)| Node::start_on(listener, config(id), &members));
    let nodes: Vec<_> = nodes.collect();
    for from in &nodes {
        for to in &nodes {
            if from.id != to.id {
                connected(from, to).await;
            }
        }
    }
    nodes
}

/// Sends on both streams until both carry, then forgets what that left with the two handlers.
pub async fn connected(from: &Node, to: &Node) {
    for kind in [MessageType::MsgReadIndex, MessageType::MsgPropose] {
        let mut last = 0;
        loop {
            last += 1;
            assert!(last < 100_000, "no stream from {} to {}", from.id, to.id);
            from.send(message(kind, from.id, to.id, last));
            // A message without a stream is dropped; the next attempt may find one.
            let arrived = to.handler.until("a first message", |events| indexes(events, kind).contains(&last));
            if tokio::time::timeout(Duration::from_millis(5), arrived).await.is_ok() {
                break;
            }
        }
    }
    from.handler.clear();
    to.handler.clear();
}

pub fn indexes(events: &[Event], kind: MessageType) -> Vec<u64> {
    let index = |event: &Event| match event {
        Event::Delivered(_, message) if message.get_msg_type() == kind => Some(message.index),
        _ => None,
    };
    events.iter().filter_map(index).collect()
}

/// Asserts that two lists are equal, with a short text when they are not.
pub fn same<T: PartialEq + Debug>(got: &[T], want: &[T]) {
    if let Some(at) = (0..got.len().max(want.len())).find(|&i| got.get(i) != want.get(i)) {
        panic!("at {at}: got {:?}, want {:?}", got.get(at), want.get(at));
    }
}
