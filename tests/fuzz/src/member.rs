//! A whole member (core, log, snapshots, store) that its peers lie to.
//!
//! ```text
//! steps: kind u8, then
//!   0..=127    from peer 2 or 3 (even or odd): a piece, a message
//!   128..=159  from peer 2 or 3: the piece is a snapshot's body, which the transport has stored; term u8, index u8
//!   160..=191  a tick
//!   192..=223  the disk waits, or works again
//!   224..=255  a command of a client: a piece
//! ```
//! No message brings the member down. It may end in two ways: a peer says, through the log, that it was removed; or a
//! leader commits an entry that nobody can read, which is an error with a name.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvd_kvstore::store::Store;
use kvd_kvstore::{Kv, Shared, snapshot};
use kvd_node::driver::{
    Attended, Core, Done, Fetch, Frozen, LogReader, Outside, Parts, Restored, Write, discard, load, read_back,
};
use kvd_node::{Config, Exit, Fatal, Handle, Home, Member as ListedMember, Membership, Start};
use kvd_raftpb::codec;
use kvd_raftpb::peers::{PeerHandler as _, SnapshotStore as _};
use kvd_snap::Snapshotter;
use kvd_vfs::{Lock, MemDisk, Vfs as _};
use kvd_wal::{Save, SnapshotRecord, Wal};
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};

use crate::input::Input;

const CLUSTER: u64 = 7;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut member = Member::new();
    while !input.is_empty() {
        let kind = input.byte();
        let from = u64::from(kind % 2) + 2;
        let mut tick = false;
        match kind {
            0..=127 => {
                if let Ok(message) = codec::decode_message(Bytes::copy_from_slice(input.piece())) {
                    member.handle.deliver(from, message);
                }
            }
            128..=159 => {
                let (term, index) = (input.byte().into(), input.byte().into());
                member.snapshot(from, term, index, input.piece());
            }
            160..=191 => tick = true,
            192..=223 => member.effects.held = !member.effects.held,
            _ => {
                // Nobody waits for the answer.
                let command = Bytes::copy_from_slice(input.piece());
                drop(member.handle.propose(command, Duration::from_secs(5)));
            }
        }
        if !member.goes_on(tick) {
            return;
        }
    }
    member.effects.held = false;
    if member.goes_on(false) {
        member.restarts();
    }
}

/// What the core asked for and nobody has done yet.
#[derive(Default)]
struct Effects {
    held: bool,
    writes: VecDeque<Write>,
    saves: VecDeque<(SnapshotMetadata, Frozen<snapshot::View>)>,
    loads: VecDeque<Message>,
    fetches: VecDeque<Fetch>,
    discard: Option<(u64, u64)>,
}

impl Outside<Kv> for Effects {
    fn send(&mut self, _: Vec<Message>) {}

    fn write(&mut self, write: Write) {
        self.writes.push_back(write);
    }

    fn save_snapshot(&mut self, metadata: SnapshotMetadata, state: Frozen<snapshot::View>) {
        self.saves.push_back((metadata, state));
    }

    fn load_snapshot(&mut self, message: Message) {
        self.loads.push_back(message);
    }

    fn fetch_entries(&mut self, fetch: Fetch) {
        self.fetches.push_back(fetch);
    }

    fn discard_older(&mut self, newest: (u64, u64)) {
        self.discard = Some(newest);
    }

    /// The answer never comes.
    fn ask(&mut self, _: kvd_node::driver::Ask) {}

    fn members_changed(&mut self, _: &Arc<Membership>) {}
}

/// In the order in which the parts are to be dropped.
struct Member {
    handle: Handle,
    core: Core<Kv>,
    inbox: Attended<Restored<Store>>,
    wal: Wal,
    reader: LogReader,
    snapshotter: Snapshotter,
    effects: Effects,
    ticks: u64,
    lock: Box<dyn Lock>,
    mem: MemDisk,
}

fn start() -> Start {
    let members = (1..=3).map(|id| ListedMember {
        id,
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        ..ListedMember::default()
    });
    Start::Initial { cluster_id: CLUSTER, members: members.collect() }
}

/// The snapshot file that a peer would have.
fn file(metadata: &SnapshotMetadata, body: &[u8]) -> Vec<u8> {
    let (mem, dir) = (MemDisk::new(), Path::new("/peer"));
    let snapshotter = Snapshotter::open(mem.disk(), dir).expect("a sound disk");
    snapshotter.save(metadata, &mut |out| out.write_all(body)).expect("a sound disk");
    mem.read_file(&dir.join(mem.list(dir).expect("a sound disk").remove(0))).expect("a sound disk")
}

impl Member {
    fn new() -> Self {
        Self::open(MemDisk::new()).expect("a new member starts")
    }

    fn open(mem: MemDisk) -> Result<Self, Fatal> {
        let config = Config {
            election_seed: Some(1),
            segment_bytes: 8192,
            prepare_segments_ahead: false,
            snapshot_bytes: 4096,
            catch_up_bytes: 1024,
            log_cache_bytes: 4096,
            ..Config::new(1)
        };
        let home = Home::open(mem.disk(), Path::new("/m"))?;
        let node = home.start(config, &start(), Kv::new(Shared::new()))?;
        let handle = node.handle();
        let Parts { core, inbox, wal, snapshotter, lock, .. } = node.into_parts();
        let (reader, effects) = (wal.reader(), Effects::default());
        Ok(Self { handle, core, inbox, wal, reader, snapshotter, effects, ticks: 0, lock, mem })
    }

    /// A snapshot as the transport hands it over: the file, then the message.
    fn snapshot(&mut self, from: u64, term: u64, index: u64, body: &[u8]) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.to, message.from, message.term) = (1, from, term);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.term, metadata.index) = (term, index);
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        let sent = file(metadata, body);
        let mut sink = self.snapshotter.receive(term, index).expect("a sound disk takes a snapshot");
        sink.write_all(&sent).and_then(|()| sink.install()).expect("the file is whole");
        self.handle.deliver(from, message);
    }

    /// Gives it turns, and the disk work, until nothing is left to do. False: its life is over.
    fn goes_on(&mut self, mut tick: bool) -> bool {
        loop {
            self.ticks += u64::from(tick);
            let now = std::mem::take(&mut tick).then_some(Duration::from_millis(100 * self.ticks));
            let (load, reads) = self.core.load();
            let (arrivals, _) = self.inbox.take(load, reads);
            match self.core.turn(arrivals, now, &mut self.effects) {
                Ok(None) => {}
                Ok(Some(Exit::Removed)) | Err(Fatal::Entry { .. }) => return false,
                Ok(Some(exit)) => panic!("nobody asked for an end: {exit:?}"),
                Err(fatal) => panic!("a peer brought the member down: {fatal}"),
            }
            let worked = !self.effects.held && self.disk_step();
            if !worked && !self.core.has_more() {
                return true;
            }
        }
    }

    fn disk_step(&mut self) -> bool {
        let Self { effects, wal, inbox, snapshotter, reader, .. } = self;
        let done = if let Some(write) = effects.writes.pop_front() {
            let snapshot = write.snapshot.as_ref().map(|s| SnapshotRecord { index: s.index, term: s.term });
            let save = Save {
                snapshot,
                entries: &write.entries,
                hard_state: write.hard_state.as_ref(),
                must_sync: true,
            };
            wal.save_group(&[save]).expect("a sound disk takes a write");
            Done::Written(write.seq)
        } else if let Some((metadata, state)) = effects.saves.pop_front() {
            let mut state = Some(state);
            let bytes = snapshotter
                .save(&metadata, &mut |out| state.take().expect("it is written once").write(out))
                .expect("a sound disk takes a snapshot");
            Done::SnapshotSaved { metadata: Box::new(metadata), bytes }
        } else if let Some(message) = effects.loads.pop_front() {
            match load::<Kv>(snapshotter, message.get_snapshot().get_metadata()) {
                Ok(restored) => Done::SnapshotLoaded { message: Box::new(message), restored },
                Err(_) => Done::SnapshotRejected,
            }
        } else if let Some(fetch) = effects.fetches.pop_front() {
            read_back(reader, fetch)
        } else if let Some(newest) = effects.discard.take() {
            if let Some(oldest) = discard(snapshotter, newest).expect("a sound disk") {
                wal.release_to(oldest).expect("a sound disk");
            }
            return true;
        } else {
            return false;
        };
        inbox.done(done);
        true
    }

    /// Loses power: what was acknowledged to peers must be there again.
    fn restarts(self) {
        let Self { handle, core, inbox, wal, reader, snapshotter, effects, lock, mem, .. } = self;
        let before = core.status();
        drop((handle, core, inbox, wal, reader, snapshotter, effects, lock));
        mem.crash_losing_all_unsynced();
        let again = match Self::open(mem) {
            Ok(again) => again,
            Err(fatal) => panic!("what ran does not start again: {fatal}"),
        };
        assert!(again.core.status().term >= before.term, "a term went back");
    }
}
