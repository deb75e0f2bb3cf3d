//! A cluster of one member without threads: its loop and its log are driven by hand, on a disk in memory.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvd_kvstore::snapshot::View;
use kvd_kvstore::store::Store;
use kvd_kvstore::{Kv, Service, Shared};
use kvd_node::driver::{Attended, Done};
use kvd_node::driver::{Core, Fetch, Frozen, Outside, Parts, Restored, Write};
use kvd_node::{Config, Handle, Home, Membership, Start, initial_members};
use kvd_vfs::MemDisk;
use kvd_wal::{Save, Wal};
use raft::StateRole;
use raft::eraftpb::{Message, SnapshotMetadata};

/// More than any path writes: no path is to take a snapshot.
const NO_SNAPSHOT: u64 = 1 << 40;

/// The one member, which leads.
pub(crate) struct Member {
    core: Core<Kv>,
    inbox: Attended<Restored<Store>>,
    wal: Wal,
    handle: Handle,
    store: Shared,
    /// Keeps the directory's lock.
    _lock: Box<dyn kvd_vfs::Lock>,
}

impl Member {
    #[expect(
        clippy::expect_used,
        reason = "a new member on an empty disk in memory; if it fails, there is nothing to count"
    )]
    pub(crate) fn start() -> Member {
        let config = Config {
            snapshot_bytes: NO_SNAPSHOT,
            prepare_segments_ahead: false,
            election_seed: Some(1),
            segment_bytes: 16 << 20,
            ..Config::new(1)
        };
        let start =
            Start::Initial { cluster_id: 1, members: initial_members(&["http://127.0.0.1:1".to_owned()]) };
        let store = Shared::new();
        let disk = MemDisk::new().disk();
        let node = Home::open(disk, Path::new("/kvd"))
            .and_then(|home| home.start(config, &start, Kv::new(store.clone())))
            .expect("a new member starts");
        let handle = node.handle();
        let Parts { core, inbox, wal, lock, .. } = node.into_parts();
        let mut member = Member { core, inbox, wal, handle, store, _lock: lock };
        for tick in 1.. {
            member.turn(Some(Duration::from_millis(100 * tick)));
            if member.core.raft().raft.state == StateRole::Leader {
                break;
            }
        }
        member.settle();
        member
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    pub(crate) fn service(&self) -> Service {
        Service::new(self.handle.clone(), self.store.clone())
    }

    /// Turns until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        while self.turn(None) || self.core.has_more() {}
    }

    /// Serves for as long as it is polled.
    pub(crate) async fn serve(mut self) {
        loop {
            poll_fn(|cx| self.inbox.poll_arrival(cx)).await;
            self.settle();
        }
    }

    /// One turn of the loop, and of the log what it asks for; whether that was anything.
    #[expect(
        clippy::expect_used,
        reason = "a disk in memory does not fail; if it did, there is nothing to count"
    )]
    fn turn(&mut self, tick: Option<Duration>) -> bool {
        let (load, reads) = self.core.load();
        let (arrivals, _) = self.inbox.take(load, reads);
        let mut effects = Effects::default();
        self.core.turn(arrivals, tick, &mut effects).expect("the member goes on");
        let wrote = !effects.writes.is_empty();
        for write in effects.writes {
            assert!(write.snapshot.is_none(), "no path takes a snapshot");
            let save = Save {
                entries: &write.entries,
                hard_state: write.hard_state.as_ref(),
                must_sync: true,
                ..Save::default()
            };
            self.wal.save_group(&[save]).expect("the log takes it");
            self.inbox.done(Done::Written(write.seq));
        }
        wrote
    }
}

/// What a turn asked for: of all that there is, a member alone needs its log written.
#[derive(Default)]
struct Effects {
    writes: Vec<Write>,
}

impl Outside<Kv> for Effects {
    fn send(&mut self, _: Vec<Message>) {}
    fn write(&mut self, write: Write) {
        self.writes.push(write);
    }
    fn save_snapshot(&mut self, _: SnapshotMetadata, _: Frozen<View>) {
        unreachable!("no path takes a snapshot");
    }
    fn load_snapshot(&mut self, _: Message) {
        unreachable!("nobody sends one");
    }
    fn fetch_entries(&mut self, _: Fetch) {
        unreachable!("nobody lags");
    }
    fn discard_older(&mut self, _: (u64, u64)) {}
    fn ask(&mut self, _: kvd_node::driver::Ask) {
        unreachable!("it leads, so it asks nobody");
    }
    fn members_changed(&mut self, _: &Arc<Membership>) {}
}
