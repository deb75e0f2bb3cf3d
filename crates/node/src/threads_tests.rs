//! The threads themselves, over a disk in memory.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Mutex;
use std::task::{Context, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use futures_executor::block_on;
use futures_util::{StreamExt as _, stream};
use kvd_raftpb::node::Membership;
use kvd_vfs::{Disk, MemDisk};
use kvd_wal::{Options, Save, SnapshotRecord};
use raft::eraftpb::{ConfState, Entry, HardState};

use super::*;
use crate::bootstrap::{Home, Start, initial_members};
use crate::config::{Config, Limits};
use crate::event::Subscribers;
use crate::handle::Status;
use crate::state_machine::View;

/// A state machine whose snapshots are written by a function of the test.
struct Scripted;

type Writing = dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send;

struct Script(Box<Writing>);

impl View for Script {
    fn write(self, out: &mut dyn io::Write) -> io::Result<()> {
        (self.0)(out)
    }
}

impl StateMachine for Scripted {
    type View = Script;
    type Restored = ();
    fn apply(&mut self, commands: &[Bytes], _: u64) -> Vec<Bytes> {
        commands.to_vec()
    }
    fn freeze(&mut self) -> Script {
        Script(Box::new(|_| Ok(())))
    }
    fn restore(_: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
    fn install(&mut self, (): ()) {}
}

struct Nobody;

impl Peers for Nobody {
    fn send(&self, _: Vec<Message>) {}
    fn update(&self, _: &Membership) {}
}

const WAL: &str = "/wal";

fn options() -> Options {
    Options { segment_bytes: 4096, prepare_ahead: false, ..Options::default() }
}

fn create(disk: &Disk) -> Wal {
    Wal::create(disk.clone(), Path::new(WAL), b"", None, options()).unwrap();
    Wal::open(disk.clone(), Path::new(WAL), SnapshotRecord { index: 0, term: 0 }, options()).unwrap().0
}

fn snapshotter(disk: &Disk) -> Snapshotter {
    Snapshotter::open(disk.clone(), Path::new("/snap")).unwrap()
}

/// The threads, at work.
struct Works {
    threads: Threads<Scripted>,
    inbox: Mail<Scripted>,
}

fn start(wal: Wal, snapshotter: Snapshotter) -> Works {
    let inbox = Arc::new(Inbox::new(Limits::default()));
    let shown = Shown {
        subscribers: Subscribers::default(),
        refreshing: false,
        status: Status::default(),
        membership: Arc::default(),
        progress: Arc::default(),
    };
    let (peers, shown) = (Arc::new(Nobody), Arc::new(Mutex::new(shown)));
    let threads =
        Threads::start(wal, snapshotter, u64::MAX, inbox.clone(), peers, shown, Metrics::default()).unwrap();
    Works { threads, inbox }
}

impl Works {
    fn save(
        &mut self,
        index: u64,
        script: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
    ) {
        let state = Frozen::of(Membership::default(), Script(Box::new(script)));
        self.threads.save_snapshot(metadata(index), state);
    }

    /// Waits for what the threads have to say next.
    #[track_caller]
    fn said(&self) -> Vec<Done<Restored<()>>> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let (mut cx, begun) = (Context::from_waker(&waker), Instant::now());
        while self.inbox.poll_arrival(&mut cx).is_pending() {
            assert!(begun.elapsed() < PATIENCE, "the threads say nothing");
            thread::park_timeout(PATIENCE);
        }
        self.inbox.take(Default::default(), 0).0.done
    }
}

/// Nothing here takes a thread that long.
const PATIENCE: Duration = Duration::from_secs(10);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn metadata(index: u64) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (1, index);
    metadata.set_conf_state(ConfState::from((vec![1], Vec::new())));
    metadata
}

fn entry(index: u64, len: usize) -> Entry {
    let mut entry = Entry::default();
    (entry.term, entry.index, entry.data) = (1, index, vec![7; len].into());
    entry
}

fn hard_state(commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (1, 1, commit);
    state
}

#[test]
fn the_log_is_released_as_far_as_the_oldest_snapshot_that_is_kept_and_no_further() {
    // Wherever in a segment that one lies.
    for len in [100, 1000, 3000] {
        for newest in 3..=10 {
            let memory = MemDisk::new();
            let (disk, snapshots) = (memory.disk(), snapshotter(&memory.disk()));
            let mut wal = create(&disk);
            for index in 1..=10 {
                let (entries, state) = ([entry(index, len)], hard_state(index));
                let save =
                    Save { entries: &entries, hard_state: Some(&state), must_sync: true, ..Save::default() };
                wal.save_group(&[save]).unwrap();
                let script = &mut |out: &mut dyn io::Write| out.write_all(b"state");
                snapshots.save(&metadata(index), script).unwrap();
                wal.save_snapshot(SnapshotRecord { index, term: 1 }).unwrap();
            }
            let before = wal.segments();
            let mut works = start(wal, snapshots.clone());
            works.threads.discard_older((1, newest));
            // What it releases comes before the log is closed.
            works.threads.helpers.remove("kvd-discard").unwrap().join().unwrap();
            works.threads.stop(None, Vec::new()).unwrap();

            let recorded = Wal::recorded_snapshots(&disk, Path::new(WAL)).unwrap();
            let oldest = newest - 1;
            for at in oldest..=10 {
                let at = SnapshotRecord { index: at, term: 1 };
                assert!(recorded.contains(&at), "{at:?} of {recorded:?}, newest {newest}, {len} bytes");
                assert_eq!(snapshots.read(1, at.index).unwrap().metadata().index, at.index);
                let (wal, replay) = Wal::open(disk.clone(), Path::new(WAL), at, options()).unwrap();
                let indexes: Vec<u64> = replay.entries.iter().map(|entry| entry.index).collect();
                assert_eq!(indexes, (at.index + 1..=10).collect::<Vec<_>>());
                wal.close().unwrap();
            }
            assert!(snapshots.read(1, oldest - 1).is_err(), "its file is gone");
            if len == 3000 && oldest > 2 {
                assert!(
                    recorded[0].index >= oldest - 1,
                    "its segments are gone: {recorded:?}, before {before}"
                );
            }
        }
    }
}

#[test]
fn every_thread_is_joined_also_when_one_has_panicked() {
    let memory = MemDisk::new();
    let mut works = start(create(&memory.disk()), snapshotter(&memory.disk()));
    works.save(1, |_| panic!("a bug of the state machine, for a test"));
    let said = works.said();
    assert!(matches!(said[..], [Done::Failed(Fatal::Panicked("kvd-snap-save"))]));
    // The log has something to do for a while.
    let entries: Vec<Entry> = (1..=8).map(|index| entry(index, 4 << 20)).collect();
    works.threads.write(Write { seq: 1, snapshot: None, entries, hard_state: Some(hard_state(8)) });
    let ended = works.threads.stop(None, Vec::new());
    assert!(matches!(ended, Err(Fatal::Panicked("kvd-snap-save"))), "{ended:?}");
    let start = SnapshotRecord { index: 0, term: 0 };
    let (_, replay) = Wal::open(memory.disk(), Path::new(WAL), start, options()).expect("it was closed");
    assert_eq!((replay.entries.len(), replay.torn), (8, None));
}

#[test]
fn the_end_of_the_threads_is_the_first_failure_that_one_of_them_reported() {
    // Also one that the loop took from its inbox and did not look at, for it was over.
    for unheard in [false, true] {
        let memory = MemDisk::new();
        let mut works = start(create(&memory.disk()), snapshotter(&memory.disk()));
        memory.fail_nth(kvd_vfs::Op::Sync, 1, MemDisk::EIO);
        let (entries, hard_state) = (vec![entry(1, 10)], Some(hard_state(1)));
        works.threads.write(Write { seq: 1, snapshot: None, entries, hard_state });
        let said = works.said();
        let [Done::Failed(Fatal::Wal(_))] = &said[..] else { panic!("the log's failure") };
        let said = match unheard {
            true => said,
            false => {
                said.into_iter().for_each(|done| works.inbox.done(done));
                Vec::new()
            }
        };
        works.save(1, |_| panic!("another failure, for a test"));
        let ended = works.threads.stop(None, said);
        assert!(matches!(ended, Err(Fatal::Wal(_))), "{ended:?}");
    }
}

#[test]
fn a_snapshot_that_is_being_written_is_given_up_when_the_threads_stop() {
    let memory = MemDisk::new();
    let mut works = start(create(&memory.disk()), snapshotter(&memory.disk()));
    let ((begins, begun), (goes_on, go_on)) = (mpsc::channel(), mpsc::channel::<()>());
    works.save(1, move |out| {
        out.write_all(&[1; 1 << 20])?;
        begins.send(()).unwrap();
        // Until the test has nobody to tell any more, which is when it stops the threads.
        let _ = go_on.recv();
        (0..1000).try_for_each(|_| out.write_all(&[1; 1000]))
    });
    begun.recv().unwrap();
    let stopping = works.threads.stopping.clone();
    let stopper = thread::spawn(move || works.threads.stop(None, Vec::new()));
    while !stopping.is_stopped() {
        thread::yield_now();
    }
    drop(goes_on);
    stopper.join().unwrap().expect("a snapshot that was given up is no failure");
    assert_eq!(memory.disk().list(Path::new("/snap")).unwrap(), [""; 0]);
}

/// Says that a thread has failed when the loop tells it of members: within a turn, behind what that one handles.
struct Fails(Mail<Scripted>);

impl Peers for Fails {
    fn send(&self, _: Vec<Message>) {}
    fn update(&self, _: &Membership) {
        self.0.done(Done::Failed(Fatal::Panicked("a thread")));
    }
}

#[test]
fn a_failure_during_the_last_turn_is_the_end_of_the_member() {
    let home = Home::open(MemDisk::new().disk(), Path::new("/member")).unwrap();
    let members = initial_members(&["http://a:1".to_owned()]);
    let node = home.start(Config::new(1), &Start::Initial { cluster_id: 7, members }, Scripted).unwrap();
    let (handle, peers) = (node.handle(), Arc::new(Fails(node.inbox.0.clone())));
    // The member makes itself known with its first entry, which has the command. With its result nobody waits any more.
    let answer = handle.propose(Bytes::from_static(b"last"), Duration::from_secs(5));
    handle.shutdown();
    let ticks = stream::iter([Duration::from_millis(100)]).chain(stream::pending());
    let ended = block_on(node.run(peers, ticks));
    assert!(block_on(answer).is_ok());
    assert!(matches!(ended, Err(Fatal::Panicked("a thread"))), "{ended:?}");
}
