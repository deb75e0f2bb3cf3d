//! Members as they run for real: [`Node::run`] on an executor, with its threads, over disks in memory.
//!
//! A tick passes when nobody has had anything to do for a moment. A machine under load may stretch that moment, or see
//! an election more; no test here depends on how many ticks it gets.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_executor::LocalPool;
use futures_util::future::{AbortHandle, abortable};
use futures_util::task::LocalSpawnExt as _;
use kvd_node::{Applied, Config, Exit, Fatal, Handle, Home, Membership, Node, Role, Start};
use kvd_node::{cluster_id, initial_members};
use kvd_raftpb::peers::{BoxFuture, CallError, PeerHandler, Peers, SnapshotStore};
use kvd_snap::Snapshotter;
use kvd_vfs::{Disk, MemDisk};
use raft::eraftpb::{Message, MessageType};

use super::asked::{Asked, LONG};
use super::journal::Journal;
use super::world::{TICK, url};

/// How long nobody has had anything to do when a tick passes.
const QUIET: Duration = Duration::from_millis(5);

type Directory = Arc<Mutex<BTreeMap<u64, (Handle, Snapshotter)>>>;

/// A network that delivers at once to whoever is up.
pub(crate) struct Link {
    from: u64,
    others: Directory,
}

impl Peers for Link {
    fn send(&self, messages: Vec<Message>) {
        let others = self.others.lock().unwrap();
        let Some((own, snapshots)) = others.get(&self.from) else { return };
        for message in messages {
            let to = message.to;
            let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
            let Some((other, store)) = others.get(&to) else {
                if is_snapshot {
                    own.report_snapshot(to, false)
                } else {
                    own.report_unreachable(to)
                }
                continue;
            };
            if is_snapshot {
                let metadata = message.get_snapshot().get_metadata();
                let received = copy(snapshots, store, metadata.term, metadata.index).is_ok();
                own.report_snapshot(to, received);
                if !received {
                    continue;
                }
            }
            other.deliver(self.from, message);
        }
    }

    fn update(&self, _: &Membership) {}

    fn call(&self, to: u64, request: Bytes, limit: Duration) -> BoxFuture<Result<Bytes, CallError>> {
        match self.others.lock().unwrap().get(&to) {
            Some((leader, _)) => leader.answer(self.from, request, limit),
            None => Box::pin(std::future::ready(Err(CallError::not_done("it is not there")))),
        }
    }
}

fn copy(from: &Snapshotter, to: &Snapshotter, term: u64, index: u64) -> std::io::Result<()> {
    let (_, mut body) = from.open(term, index)?;
    let mut sink = to.receive(term, index)?;
    std::io::copy(&mut body, &mut sink)?;
    sink.install()
}

pub(crate) struct Live {
    pub(crate) handle: Handle,
    pub(crate) journal: Journal,
    pub(crate) disk: MemDisk,
    ticks: mpsc::UnboundedSender<Duration>,
    abort: AbortHandle,
    ended: Rc<RefCell<Option<Result<Exit, Fatal>>>>,
}

/// A cluster of running members.
pub(crate) struct Cluster {
    pub(crate) members: BTreeMap<u64, Live>,
    pool: LocalPool,
    others: Directory,
    now: Duration,
    urls: Vec<String>,
    configure: fn(&mut Config),
}

impl Cluster {
    pub(crate) fn new(n: u64) -> Self {
        Self::with(n, |_| ())
    }

    pub(crate) fn with(n: u64, configure: fn(&mut Config)) -> Self {
        let mut cluster = Self {
            members: BTreeMap::new(),
            pool: LocalPool::new(),
            others: Directory::default(),
            now: Duration::ZERO,
            urls: (1..=n).map(url).collect(),
            configure,
        };
        for id in 1..=n {
            cluster.start(id, MemDisk::new());
        }
        cluster
    }

    pub(crate) fn initial(&self) -> Start {
        Start::Initial { cluster_id: cluster_id(&self.urls), members: initial_members(&self.urls) }
    }

    /// Opens a member without running it.
    pub(crate) fn open(&self, id: u64, disk: Disk, journal: &Journal) -> Result<Node<Journal>, Fatal> {
        let mut config = Config::new(id);
        config.segment_bytes = 64 << 10;
        (self.configure)(&mut config);
        Home::open(disk, Path::new("/member"))?.start(config, &self.initial(), journal.clone())
    }

    /// Opens a member and runs it.
    pub(crate) fn start(&mut self, id: u64, disk: MemDisk) {
        let journal = Journal::default();
        let node = self.open(id, disk.disk(), &journal).expect("the member opens");
        self.run(id, node, disk, journal);
    }

    pub(crate) fn run(&mut self, id: u64, node: Node<Journal>, disk: MemDisk, journal: Journal) {
        let handle = node.handle();
        self.others.lock().unwrap().insert(id, (handle.clone(), node.snapshots()));
        let (ticks, clock) = mpsc::unbounded();
        let (run, abort) =
            abortable(node.run(Arc::new(Link { from: id, others: self.others.clone() }), clock));
        let ended = Rc::new(RefCell::new(None));
        let end = ended.clone();
        let task = async move {
            if let Ok(result) = run.await {
                *end.borrow_mut() = Some(result);
            }
        };
        self.pool.spawner().spawn_local(task).expect("the pool is there");
        self.members.insert(id, Live { handle, journal, disk, ticks, abort, ended });
    }

    pub(crate) fn handle(&self, id: u64) -> &Handle {
        &self.members[&id].handle
    }

    /// Runs everybody until it is so.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> Option<T>) -> T {
        let mut ticks = 0;
        loop {
            self.pool.run_until_stalled();
            if let Some(found) = so(self) {
                return found;
            }
            let begun = Instant::now();
            thread::park_timeout(QUIET);
            if begun.elapsed() >= QUIET {
                ticks += 1;
                assert!(ticks < 1000, "not within 1000 ticks: {what}\n{}", self.describe());
                self.now += TICK;
                for member in self.members.values() {
                    // It may have ended.
                    let _ = member.ticks.unbounded_send(self.now);
                }
            }
        }
    }

    fn describe(&self) -> String {
        let all = self.members.values().map(|m| format!("{:?} {:?}", m.handle.status(), m.ended.borrow()));
        all.collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    pub(crate) fn answer<T: Clone + Debug>(&mut self, asked: &mut Asked<T>) -> Result<T, kvd_node::Error> {
        self.until("an answer", |_| asked.answer())
    }

    pub(crate) fn propose(&self, at: u64, command: &str) -> Asked<Applied> {
        Asked::new(self.handle(at).propose(Bytes::copy_from_slice(command.as_bytes()), LONG))
    }

    #[track_caller]
    pub(crate) fn put(&mut self, at: u64, command: &str) -> Applied {
        let mut asked = self.propose(at, command);
        self.answer(&mut asked).expect("it is applied")
    }

    #[track_caller]
    pub(crate) fn leader(&mut self) -> u64 {
        self.until("a leader", |cluster| {
            let mut all = cluster.members.iter().filter(|(_, member)| member.ended.borrow().is_none());
            all.find(|(_, member)| member.handle.status().role == Role::Leader).map(|(id, _)| *id)
        })
    }

    /// Waits for the end of a member's run.
    #[track_caller]
    pub(crate) fn end(&mut self, id: u64) -> Result<Exit, Fatal> {
        let ended =
            self.until("the end of a member", |cluster| cluster.members[&id].ended.borrow_mut().take());
        self.others.lock().unwrap().remove(&id);
        self.members.remove(&id);
        ended
    }

    /// Takes a member away in the middle of whatever it does; its disk loses what was not synced.
    pub(crate) fn kill(&mut self, id: u64) -> MemDisk {
        let member = self.members.remove(&id).expect("it runs");
        self.others.lock().unwrap().remove(&id);
        member.abort.abort();
        self.pool.run_until_stalled();
        member.disk.crash_losing_all_unsynced();
        member.disk
    }
}
