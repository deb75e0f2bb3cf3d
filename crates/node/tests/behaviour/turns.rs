//! What one turn of the loop does, and what it leaves to the next.

use std::path::Path;
use std::sync::Arc;

use futures_executor::LocalPool;
use futures_util::task::LocalSpawnExt as _;
use futures_util::{FutureExt as _, stream};
use kvd_node::{Home, Membership};
use kvd_raftpb::peers::Peers;
use raft::eraftpb::Message;

use crate::common::member::DIR;
use crate::common::{Asked, Journal, LONG, World};

/// Readys that a turn handles, `ready::MAX_READIES`.
const MOST: usize = 8;

/// A member that starts again with so many Readys of committed entries to apply: none takes two such commands.
fn behind(readies: usize) -> World {
    let mut world = World::led_with(1, |config| {
        config.limits.command_bytes = 3 << 20;
        (config.segment_bytes, config.snapshot_bytes) = (16 << 20, u64::MAX);
    });
    for _ in 0..readies {
        world.put(1, &"x".repeat(3 << 20));
    }
    world.handle(1).shutdown();
    world.settle();
    world.restart(1);
    assert_eq!(world.journal(1).commands().len(), 0);
    world
}

#[test]
fn a_turn_handles_eight_readies_and_leaves_the_rest_to_the_next() {
    for (readies, first, more) in [(MOST - 1, MOST - 1, false), (MOST, MOST, true), (MOST + 1, MOST, true)] {
        let mut world = behind(readies);
        world.member(1).turn(None);
        let applied = world.journal(1).commands().len();
        assert_eq!((applied, world.run(1).core.has_more()), (first, more), "{readies}");
        world.member(1).turn(None);
        let applied = world.journal(1).commands().len();
        assert_eq!((applied, world.run(1).core.has_more()), (readies, false), "{readies}");
    }
}

struct Nobody;

impl Peers for Nobody {
    fn send(&self, _: Vec<Message>) {}
    fn update(&self, _: &Membership) {}
}

#[test]
fn the_next_turn_comes_without_a_tick_or_an_arrival() {
    let world = behind(MOST + 1);
    let (config, start) = (world.members[&1].config.clone(), world.members[&1].start.clone());
    let disk = world.members[&1].disk.clone();
    drop(world);
    let journal = Journal::default();
    let home = Home::open(disk.disk(), Path::new(DIR)).expect("nobody holds it");
    let node = home.start(config, &start, journal.clone()).expect("the member opens");
    let handle = node.handle();
    let mut pool = LocalPool::new();
    let run = node.run(Arc::new(Nobody), stream::pending()).map(drop);
    pool.spawner().spawn_local(run).expect("the pool is there");
    // One arrival, which has to wait for a leader.
    let _read = Asked::new(handle.read_index(LONG));
    pool.run_until_stalled();
    assert_eq!(journal.commands().len(), MOST + 1);
}
