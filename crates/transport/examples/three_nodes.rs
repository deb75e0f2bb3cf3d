//! Three raft nodes that talk through kvd-transport. Each proposes a greeting; it ends when all have applied all three.
//! docs/transport.md leads through it. `cargo run -p kvd-transport --example three_nodes`

use std::{collections::BTreeSet, error::Error, sync::Arc, time::Duration};

use kvd_raftpb::memory::NoSnapshots;
use kvd_raftpb::node::{Member, Membership};
use kvd_raftpb::validate::{self, Rules};
use kvd_transport::{Config, PeerHandler, Peers as _, Transport};
use raft::eraftpb::{Entry, Message, Snapshot};
use raft::{RawNode, SnapshotStatus, storage::MemStorage};
use tokio::sync::mpsc;

/// What the transport tells a node. raft has one owner, so it goes through a queue to its task.
enum Event {
    Message(u64, Message),
    Unreachable(u64),
    Snapshot(u64, bool),
}

struct Inbox(mpsc::Sender<Event>);

impl PeerHandler for Inbox {
    // A full queue drops the message, as a network may: raft sends again what it needs.
    fn deliver(&self, from: u64, message: Message) {
        let _ = self.0.try_send(Event::Message(from, message));
    }
    fn report_unreachable(&self, id: u64) {
        let _ = self.0.try_send(Event::Unreachable(id));
    }
    // This one must not be lost: raft pauses the follower until it hears of the fate of its snapshot.
    fn report_snapshot(&self, id: u64, received: bool) {
        let queue = self.0.clone();
        tokio::spawn(async move { queue.send(Event::Snapshot(id, received)).await });
    }
    fn removed(&self) {}
    fn membership(&self) -> Option<Membership> {
        None
    }
}

/// Prints what is committed, and returns the greetings.
fn apply(id: u64, entries: Vec<Entry>) -> Vec<String> {
    let texts = entries.into_iter().filter(|entry| !entry.data.is_empty());
    let texts = texts.map(|entry| String::from_utf8_lossy(&entry.data).into_owned());
    texts.inspect(|text| println!("node {id} applies {text:?}")).collect()
}

/// raft's Ready: send, write to the log, send what had to wait for the log, apply.
fn handle_ready(raft: &mut RawNode<MemStorage>, transport: &Transport) -> raft::Result<Vec<String>> {
    let (id, store) = (raft.raft.id, raft.raft.raft_log.store.clone());
    let mut ready = raft.ready();
    transport.send(ready.take_messages());
    let mut applied = apply(id, ready.take_committed_entries());
    store.wl().append(ready.entries())?;
    if let Some(state) = ready.hs() {
        store.wl().set_hardstate(state.clone());
    }
    transport.send(ready.take_persisted_messages());
    let mut light = raft.advance(ready);
    if let Some(commit) = light.commit_index() {
        store.wl().mut_hard_state().commit = commit;
    }
    transport.send(light.take_messages());
    applied.extend(apply(id, light.take_committed_entries()));
    raft.advance_apply();
    Ok(applied)
}

struct Node {
    raft: RawNode<MemStorage>,
    transport: Transport,
    inbox: mpsc::Receiver<Event>,
    greetings: BTreeSet<String>,
}

impl Node {
    /// The loop around raft, until this node has applied all greetings; then it goes on, for the sake of the others.
    async fn run(mut self, done: mpsc::Sender<u64>) -> raft::Result<()> {
        let id = self.raft.raft.id;
        let own = format!("hello from {id}");
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for turn in 0_u64.. {
            tokio::select! {
                _ = ticks.tick() => { self.raft.tick(); }
                Some(event) = self.inbox.recv() => self.take(event)?,
            }
            // A proposal may be lost, so it is made again until it is seen. It may then be applied twice.
            if turn % 50 == 0 && self.raft.raft.leader_id != 0 && !self.greetings.contains(&own) {
                let _ = self.raft.propose(vec![], own.clone().into_bytes());
            }
            if self.raft.has_ready() {
                self.greetings.extend(handle_ready(&mut self.raft, &self.transport)?);
            }
            if self.greetings.len() == 3 {
                let _ = done.try_send(id);
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> raft::Result<()> {
        match event {
            Event::Message(from, mut message) => {
                // raft panics on messages that no correct peer sends: none from outside reaches it unchecked.
                match validate::message(&mut message, &Rules::of(&self.raft.raft, from)) {
                    Ok(()) => self.raft.step(message)?,
                    Err(invalid) => eprintln!("{invalid}"),
                }
            }
            Event::Unreachable(id) => self.raft.report_unreachable(id),
            Event::Snapshot(id, true) => self.raft.report_snapshot(id, SnapshotStatus::Finish),
            Event::Snapshot(id, false) => self.raft.report_snapshot(id, SnapshotStatus::Failure),
        }
        Ok(())
    }
}

/// Where every log begins, alike at all nodes: index 1 of term 1, and who the voters are.
fn first_snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (1, 1);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    snapshot
}

/// Runs the three nodes to their end.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let (mut listeners, mut members) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        members.push(Member { id, peer_urls: vec![url], ..Member::default() });
        listeners.push(listener);
    }
    let members = Membership { cluster_id: 7, members, removed: vec![] };
    let (done, mut ended) = mpsc::channel(100);
    let mut nodes = Vec::new();
    for (id, listener) in (1..).zip(listeners) {
        let (queue, inbox) = mpsc::channel(1024);
        let config = Config { member_id: id, cluster_id: members.cluster_id, ..Config::default() };
        let transport = Transport::start(config, Arc::new(Inbox(queue)), Arc::new(NoSnapshots), &members);
        transport.serve(listener);
        let config =
            raft::Config { id, applied: 1, check_quorum: true, pre_vote: true, ..raft::Config::default() };
        let storage = MemStorage::new();
        storage.wl().apply_snapshot(first_snapshot())?;
        let raft = RawNode::new(&config, storage, &slog::Logger::root(slog::Discard, slog::o!()))?;
        let node = Node { raft, transport: transport.clone(), inbox, greetings: BTreeSet::new() };
        nodes.push((tokio::spawn(node.run(done.clone())), transport));
    }
    let mut finished = BTreeSet::new();
    while finished.len() < 3 {
        finished.extend(ended.recv().await);
    }
    for (node, transport) in nodes {
        node.abort();
        transport.stop().await;
    }
    Ok(())
}
