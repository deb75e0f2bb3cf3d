//! The body of a snapshot from which a member starts: the member list, the sessions, the store. The file and the log
//! around it are sound.
//!
//! ```text
//! options u8 | body
//! ```
//! Option 1: the input has the body's length word; otherwise it is `u16 length, NodeState, store` and gets one.

use std::path::Path;

use kvd_kvstore::{Kv, Shared};
use kvd_node::{Config, Home, Start};
use kvd_raftpb::node::Identity;
use kvd_snap::Snapshotter;
use kvd_vfs::{MemDisk, Vfs as _};
use kvd_wal::{Options, SnapshotRecord, Wal};
use prost::Message as _;
use raft::eraftpb::{HardState, SnapshotMetadata};

use crate::input::Input;

const CLUSTER: u64 = 7;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut body = Vec::new();
    if input.byte() & 1 == 0 {
        let head = input.piece();
        body.extend_from_slice(&(head.len() as u32).to_le_bytes());
        body.extend_from_slice(head);
    }
    body.extend_from_slice(input.rest());
    let mem = directory(&body);
    let home = Home::open(mem.disk(), Path::new("/m")).expect("a sound disk");
    let known = home.known().expect("the log and the file are sound").expect("there is a member");
    let config = Config { segment_bytes: 4096, prepare_segments_ahead: false, ..Config::new(1) };
    let started = home.start(config, &Start::Join { cluster_id: CLUSTER }, Kv::new(Shared::new()));
    if started.is_ok() {
        assert!(known.membership.is_some(), "what a member starts from can be read beforehand");
    }
}

fn directory(body: &[u8]) -> MemDisk {
    let mem = MemDisk::new();
    let snapshotter = Snapshotter::open(mem.disk(), Path::new("/m/snap")).expect("a sound disk");
    let mut metadata = SnapshotMetadata::default();
    (metadata.term, metadata.index) = (2, 9);
    metadata.mut_conf_state().voters = vec![1, 2, 3];
    snapshotter.save(&metadata, &mut |out| out.write_all(body)).expect("a sound disk");
    let mut state = HardState::default();
    (state.term, state.commit) = (2, 9);
    let identity = Identity { cluster_id: CLUSTER, member_id: 1 }.encode_to_vec();
    let initial = Some((SnapshotRecord { index: 9, term: 2 }, state));
    let options = Options { segment_bytes: 4096, prepare_ahead: false, ..Options::default() };
    mem.create_dir_all(Path::new("/m")).expect("a sound disk");
    Wal::create(mem.disk(), Path::new("/m/wal"), &identity, initial, options)
        .and_then(Wal::close)
        .expect("a sound disk");
    mem
}
