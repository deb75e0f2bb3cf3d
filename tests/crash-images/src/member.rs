//! A member whose power goes: at every step of its first start, of a restart, and of a life with writes, snapshots, their
//! records, and the release of the log behind them. It is the node's own bootstrap and core, driven on one thread.

use std::future::Future;
use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use kvd_node::driver::{
    Ask, Done, Fetch, Frozen, Outside, Parts, Restored, Write as LogWrite, discard, load, read_back,
};
use kvd_node::{
    Applied, Config, Error, Home, Membership, Start, StateMachine, View, cluster_id, initial_members,
};
use kvd_vfs::{Lock, MemDisk};
use kvd_wal::{LogReader, Save, SnapshotRecord, Wal};
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::plant::{self, Plant};

/// The member's directory.
pub(crate) fn dir() -> &'static Path {
    Path::new("/m/member")
}

/// How it begins.
pub(crate) fn initial() -> Start {
    let urls = ["http://127.0.0.1:1".to_owned()];
    Start::Initial { cluster_id: cluster_id(&urls), members: initial_members(&urls) }
}

/// A state machine that is the list of its commands.
#[derive(Debug, Default)]
struct List(Arc<Mutex<Vec<Bytes>>>);

fn lock(list: &Mutex<Vec<Bytes>>) -> MutexGuard<'_, Vec<Bytes>> {
    // One thread.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Frame(Vec<Bytes>);

impl StateMachine for List {
    type View = Frame;
    type Restored = Vec<Bytes>;

    fn apply(&mut self, commands: &[Bytes], _: u64) -> Vec<Bytes> {
        lock(&self.0).extend_from_slice(commands);
        vec![Bytes::new(); commands.len()]
    }

    fn freeze(&mut self) -> Frame {
        Frame(lock(&self.0).clone())
    }

    fn restore(reader: &mut dyn Read) -> io::Result<Vec<Bytes>> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        let (mut list, mut rest) = (Vec::new(), Bytes::from(bytes));
        while rest.len() >= 4 {
            let len = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let command = rest.slice(4..).get(..len).map(Bytes::copy_from_slice);
            list.push(command.ok_or(io::ErrorKind::InvalidData)?);
            rest = rest.slice(4 + len..);
        }
        Ok(list)
    }

    fn install(&mut self, restored: Vec<Bytes>) {
        *lock(&self.0) = restored;
    }
}

impl View for Frame {
    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        for command in self.0 {
            out.write_all(&(command.len() as u32).to_le_bytes())?;
            out.write_all(&command)?;
        }
        Ok(())
    }
}

type State = Restored<Vec<Bytes>>;

/// What the core asks for in a turn, in order.
enum Effect {
    Write(LogWrite),
    Save(SnapshotMetadata, Frozen<Frame>),
    Load(Message),
    Fetch(Fetch),
    Discard((u64, u64)),
}

#[derive(Default)]
struct Effects(Vec<Effect>);

impl Outside<List> for Effects {
    /// A sole member has nobody to send to.
    fn send(&mut self, _: Vec<Message>) {}
    fn write(&mut self, write: LogWrite) {
        self.0.push(Effect::Write(write));
    }
    fn save_snapshot(&mut self, metadata: SnapshotMetadata, state: Frozen<Frame>) {
        self.0.push(Effect::Save(metadata, state));
    }
    fn load_snapshot(&mut self, message: Message) {
        self.0.push(Effect::Load(message));
    }
    fn fetch_entries(&mut self, fetch: Fetch) {
        self.0.push(Effect::Fetch(fetch));
    }
    fn discard_older(&mut self, newest: (u64, u64)) {
        self.0.push(Effect::Discard(newest));
    }
    /// A sole member asks nobody.
    fn ask(&mut self, _: Ask) {}
    fn members_changed(&mut self, _: &Arc<Membership>) {}
}

/// A member that was started.
pub(crate) struct Life {
    core: kvd_node::driver::Core<List>,
    inbox: kvd_node::driver::Attended<State>,
    handle: kvd_node::Handle,
    wal: Wal,
    reader: LogReader,
    snapshotter: kvd_snap::Snapshotter,
    list: Arc<Mutex<Vec<Bytes>>>,
    /// How often it was started, this time included.
    pub(crate) boot: u64,
    ticks: u32,
    _lock: Box<dyn Lock>,
}

/// Turns after which a command should have had its answer long ago.
const PATIENCE: usize = 200;

impl Life {
    /// Starts the member that lives on a disk, or makes it begin.
    pub(crate) fn start(plant: Option<Plant>, memory: &MemDisk, start: &Start) -> Result<Life, String> {
        let disk = plant::disk(plant, memory, None);
        let config = Config {
            snapshot_bytes: 700,
            catch_up_bytes: 0,
            segment_bytes: 2048,
            log_cache_bytes: 1000,
            prepare_segments_ahead: false,
            election_seed: Some(7),
            ..Config::new(1)
        };
        let list = List::default();
        let shared = list.0.clone();
        let home = Home::open(disk, dir()).map_err(|e| e.to_string())?;
        let node = home.start(config, start, list).map_err(|e| e.to_string())?;
        let handle = node.handle();
        let Parts { core, inbox, shown: _, wal, snapshotter, lock } = node.into_parts();
        let text = memory.read_file(&dir().join("boot")).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&text);
        let boot = text.split(' ').next().unwrap_or_default().parse::<u64>().map_err(|e| e.to_string())?;
        let reader = wal.reader();
        Ok(Life { core, inbox, handle, wal, reader, snapshotter, list: shared, boot, ticks: 0, _lock: lock })
    }

    /// What was applied, in order.
    pub(crate) fn applied(&self) -> Vec<Bytes> {
        lock(&self.list).clone()
    }

    /// The members, as they are shown.
    pub(crate) fn members(&self) -> usize {
        self.handle.membership().members.len()
    }

    /// Term, vote and commit index.
    pub(crate) fn hard_state(&self) -> (u64, u64, u64) {
        let raft = &self.core.raft().raft;
        (raft.term, raft.vote, raft.raft_log.committed)
    }

    /// Proposes a command and drives the member until it is answered.
    pub(crate) fn propose(&mut self, command: Bytes) -> Result<(), String> {
        let mut answer: Pin<Box<dyn Future<Output = Result<Applied, Error>>>> =
            Box::pin(self.handle.propose(command, Duration::from_secs(3600)));
        for _ in 0..PATIENCE {
            self.turn()?;
            if let std::task::Poll::Ready(result) =
                answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                // What the answer has set off belongs to it: snapshots come when it is quiet.
                self.turn()?;
                return result.map(drop).map_err(|error| error.to_string());
            }
        }
        Err(format!("no answer after {PATIENCE} turns"))
    }

    /// Closes the log, as a shutdown does.
    pub(crate) fn close(mut self) -> Result<(), String> {
        let state = self.core.take_unsaved();
        let saved = self.wal.save(&[], state.as_ref(), false).and_then(|()| self.wal.close());
        saved.map_err(|error| error.to_string())
    }

    fn turn(&mut self) -> Result<(), String> {
        let (waiting, reads) = self.core.load();
        let (arrivals, _) = self.inbox.take(waiting, reads);
        let mut effects = Effects::default();
        self.ticks += 1;
        let now = Duration::from_millis(100) * self.ticks;
        self.core.turn(arrivals, Some(now), &mut effects).map_err(|fatal| fatal.to_string())?;
        for effect in effects.0 {
            let done = self.do_it(effect).map_err(|error| error.to_string())?;
            if let Some(done) = done {
                self.inbox.done(done);
            }
        }
        Ok(())
    }

    fn do_it(&mut self, effect: Effect) -> Result<Option<Done<State>>, kvd_node::Fatal> {
        Ok(match effect {
            Effect::Write(write) => {
                let snapshot =
                    write.snapshot.as_ref().map(|s| SnapshotRecord { index: s.index, term: s.term });
                let hard_state = write.hard_state.as_ref();
                let save = Save { snapshot, entries: &write.entries, hard_state, must_sync: true };
                self.wal.save_group(&[save])?;
                Some(Done::Written(write.seq))
            }
            Effect::Save(metadata, state) => {
                let mut state = Some(state);
                let bytes = self.snapshotter.save(&metadata, &mut |out| match state.take() {
                    Some(state) => state.write(out),
                    None => Err(io::Error::other("a frozen state is written once")),
                })?;
                Some(Done::SnapshotSaved { metadata: Box::new(metadata), bytes })
            }
            Effect::Load(message) => {
                let restored = load::<List>(&self.snapshotter, message.get_snapshot().get_metadata())?;
                Some(Done::SnapshotLoaded { message: Box::new(message), restored })
            }
            Effect::Fetch(fetch) => Some(read_back(&mut self.reader, fetch)),
            Effect::Discard(newest) => {
                if let Some(oldest) = discard(&self.snapshotter, newest)? {
                    self.wal.release_to(oldest)?;
                }
                None
            }
        })
    }
}
