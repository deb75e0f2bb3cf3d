//! Followers that lag further than memory reaches are served from the log's files.

use std::collections::BTreeMap;
use std::path::Path;

use kvd_node::Fatal;
use kvd_raftpb::peers::PeerHandler as _;
use kvd_vfs::{MemDisk, Op, Vfs as _};
use prometheus_client::registry::Registry;
use raft::eraftpb::{Message, MessageType};

use crate::common::member::{DIR, Held};
use crate::common::threads::Cluster;
use crate::common::{Fate, Journal, TICK, World};

/// What the log may take in memory here.
const CACHE: u64 = 4000;

/// A cluster that holds a few entries in memory, takes no snapshot by itself, and has short segments.
fn forgetful(n: u64) -> World {
    World::led_with(n, |config| (config.log_cache_bytes, config.segment_bytes) = (CACHE, 4096))
}

/// Commands of 500 bytes, proposed at 1. Memory stays within its bound after each.
fn put_many(world: &mut World, n: usize) {
    for i in 0..n {
        world.put(1, &format!("{i:0500}"));
        assert!(world.run(1).core.raft().store().bytes() <= CACHE);
    }
}

fn readbacks(world: &World) -> usize {
    world.seen("1:", "read back from")
}

#[test]
fn memory_is_bounded_and_a_follower_that_was_cut_off_catches_up_from_the_files() {
    let mut world = forgetful(3);
    world.crash(3);
    put_many(&mut world, 1000);
    let store = world.run(1).core.raft().store();
    assert!(store.first_index() < 5 && store.first_in_memory() > 900, "nothing was compacted");
    assert!(world.run(2).core.raft().store().bytes() <= CACHE, "a follower's as well");
    world.begin_transcript();
    world.restart(3);
    let applied = world.status(1).applied;
    world.tick_until("caught up", |world| world.status(3).applied >= applied);
    world.assert_agreement();
    // Of 64 KiB each, half a megabyte.
    let count = readbacks(&world);
    assert!((8..30).contains(&count), "{count}");
    assert_eq!(world.seen("1:", "MsgSnapshot"), 0);
    assert!(world.run(1).core.raft().store().bytes() <= CACHE, "what was read back is gone");
    world.put(3, "and on");
    assert_eq!(readbacks(&world), count);
}

#[test]
fn two_that_lag_are_both_served_while_there_are_new_proposals() {
    let mut world = forgetful(5);
    (4..=5).for_each(|id| world.crash(id));
    put_many(&mut world, 300);
    (4..=5).for_each(|id| world.restart(id));
    for i in 0..100 {
        world.put(1 + i % 3, "meanwhile");
        world.tick();
    }
    let applied = world.status(1).applied;
    world.tick_until("caught up", |world| (4..=5).all(|id| world.status(id).applied >= applied));
    world.assert_agreement();
    assert!(readbacks(&world) > 2);
}

/// A follower that lags, and a leader that is reading for it and has not got the answer.
fn reading() -> World {
    let mut world = forgetful(3);
    world.crash(3);
    put_many(&mut world, 200);
    world.hold(1, Held { fetches: true, ..Held::default() });
    world.restart(3);
    world.tick_until("a read", |world| !world.run(1).effects.fetches.is_empty());
    world
}

/// Cuts a leader off until the other one leads and it knows.
fn depose(world: &mut World, leader: u64, by: u64) {
    world.wire.cut.insert(leader);
    world.tick_until("another leader", |world| world.is_leader(by));
    world.wire.cut.clear();
    world.tick_until("followed", |world| !world.is_leader(leader));
}

#[test]
fn a_range_is_read_once_however_often_raft_asks() {
    let mut world = reading();
    world.ticks(5);
    (0..20).for_each(|_| drop(world.put(2, "more")));
    assert_eq!(world.run(1).effects.fetches.len(), 1);
    world.hold(1, Held::default());
    world.settle();
    world.tick_until("caught up", |world| world.status(3).applied == world.status(1).applied);
    world.assert_agreement();
}

#[test]
fn a_leader_that_is_deposed_while_it_reads_drops_the_answer() {
    let mut world = reading();
    world.hold(2, Held { fetches: true, ..Held::default() });
    depose(&mut world, 1, 2);
    assert_eq!(world.run(1).effects.fetches.len(), 1);
    world.begin_transcript();
    world.hold(1, Held::default());
    world.settle();
    assert_eq!(world.seen("1:", "MsgAppend ") + readbacks(&world), 0, "{}", world.transcript_end());
    assert!(world.run(1).core.raft().store().bytes() <= CACHE);
    world.tick_until("a read", |world| !world.run(2).effects.fetches.is_empty());
    world.hold(2, Held::default());
    world.tick_until("caught up", |world| world.status(3).applied == world.status(2).applied);
    world.assert_agreement();
}

#[test]
fn a_leader_that_is_elected_again_while_it_reads_goes_on() {
    let mut world = reading();
    world.hold(2, Held { fetches: true, ..Held::default() });
    depose(&mut world, 1, 2);
    depose(&mut world, 2, 1);
    // The answer of its old term finds the request of the new one, or none.
    world.tick_until("a new read", |world| world.run(1).effects.fetches.len() == 2);
    world.hold(1, Held::default());
    world.settle();
    world.tick_until("caught up", |world| world.status(3).applied == world.status(1).applied);
    world.assert_agreement();
}

#[test]
fn a_log_that_is_compacted_while_it_is_read_ends_in_a_snapshot() {
    for released in [false, true] {
        let mut world = World::led_with(3, |config| {
            (config.log_cache_bytes, config.segment_bytes) = (CACHE, 4096);
            (config.snapshot_bytes, config.catch_up_bytes) = (100_000, 0);
        });
        world.hold(1, Held { saves: true, ..Held::default() });
        world.crash(3);
        for i in 0..350 {
            world.put(1, &format!("{i:0500}"));
        }
        assert_eq!(world.seen("1:", "save snapshot"), 1);
        world.hold(1, Held { saves: true, fetches: true, ..Held::default() });
        world.restart(3);
        world.tick_until("a read", |world| !world.run(1).effects.fetches.is_empty());
        let first = world.run(1).effects.fetches[0].low;
        // The snapshot is written, and a second one, after which the first segments go.
        world.hold(1, Held { fetches: true, ..Held::default() });
        world.settle();
        if released {
            for i in 0..300 {
                world.put(1, &format!("{i:0500}"));
            }
        }
        assert!(world.run(1).core.raft().store().first_index() > first);
        world.hold(1, Held::default());
        world.tick_until("caught up", |world| world.status(3).applied == world.status(1).applied);
        assert!(world.seen("1:", "MsgSnapshot") > 0);
        world.assert_agreement();
    }
}

#[test]
fn damage_in_a_sealed_segment_ends_the_member_with_file_and_offset() {
    let mut world = reading();
    let disk = world.members[&1].disk.clone();
    let dir = Path::new(DIR).join("wal");
    let low = world.run(1).effects.fetches[0].low;
    // Entries lie in segments of three or so.
    let name = disk.list(&dir).unwrap().into_iter().filter(|name| name.ends_with(".wal")).nth(5).unwrap();
    let path = dir.join(name);
    let mut bytes = disk.read_file(&path).unwrap();
    bytes[1500] ^= 4;
    disk.overwrite_file(&path, bytes).unwrap();
    assert!(low < 10);
    world.hold(1, Held::default());
    world.settle();
    let ended = world.member(1).ended.take().expect("it ended");
    let error = ended.unwrap_err();
    let Fatal::Wal(kvd_wal::Error::Corrupt { file, offset, .. }) = &error else { panic!("{error}") };
    assert_eq!(file, &path);
    assert!((512..1500).contains(offset), "{offset}");
    assert!(error.to_string().contains("is corrupt at offset"), "{error}");
    // The others go on.
    world.tick_until("another leader", |world| world.leader().is_some());
}

#[test]
fn a_running_member_reads_back_on_a_thread_of_its_own_and_counts() {
    let mut cluster = Cluster::with(3, |config| {
        (config.log_cache_bytes, config.segment_bytes) = (CACHE, 16 << 10);
        // The threads of a member that was killed live on for a moment, and would prepare into the next one's directory.
        config.prepare_segments_ahead = false;
    });
    let mut metrics = BTreeMap::new();
    for id in 1..=3 {
        let (disk, journal) = (cluster.kill(id), Journal::default());
        let node = cluster.open(id, disk.disk(), &journal).unwrap();
        metrics.insert(id, node.metrics());
        cluster.run(id, node, disk, journal);
    }
    let leader = cluster.leader();
    let lagging = 1 + leader % 3;
    let disk = cluster.kill(lagging);
    for i in 0..300 {
        cluster.put(leader, &format!("{i:0500}"));
    }
    cluster.start(lagging, disk);
    let applied = cluster.handle(leader).status().applied;
    cluster.until("caught up", |cluster| (cluster.handle(lagging).status().applied >= applied).then_some(()));
    let leader = cluster.leader();
    let mut registry = Registry::default();
    metrics[&leader].register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
        line.trim().parse::<u64>().unwrap()
    };
    assert!(value("kvd_log_readbacks_total ") > 1, "{text}");
    assert!(value("kvd_log_memory_bytes ") <= CACHE);
    cluster.handle(leader).shutdown();
    assert!(cluster.end(leader).is_ok(), "the reading thread is joined");
}

#[test]
fn a_message_that_is_lost_is_read_back_once_more() {
    let mut world = forgetful(3);
    world.crash(3);
    put_many(&mut world, 300);
    world.restart(3);
    let mut n = 0;
    world.wire.intercept(move |_, message| {
        n += usize::from(message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty());
        if n % 3 == 1 && message.get_msg_type() == MessageType::MsgAppend {
            Fate::Drop
        } else {
            Fate::Deliver
        }
    });
    let applied = world.status(1).applied;
    world.tick_until("caught up", |world| world.status(3).applied >= applied);
    world.assert_agreement();
}

#[test]
fn a_long_log_is_applied_after_a_restart_without_being_held_in_memory() {
    for n in [1, 3] {
        let mut world = forgetful(n);
        put_many(&mut world, 1000);
        let applied = world.status(1).applied;
        (1..=n).for_each(|id| world.crash(id));
        for id in 1..=n {
            world.restart(id);
            assert!(world.run(id).core.raft().store().bytes() <= CACHE);
        }
        world.tick_until("a leader", |world| world.leader().is_some());
        let leader = world.leader().unwrap();
        world.put(leader, "and on");
        world.tick_until("all of it", |world| (1..=n).all(|id| world.status(id).applied > applied));
        world.assert_agreement();
    }
}

/// Member 2 of three, just started, with a log that it needs more than twenty turns to apply, none of which it had yet.
fn far_behind() -> World {
    let mut world = World::led_with(3, |config| config.log_cache_bytes = CACHE);
    for i in 0..1500 {
        world.put(1, &format!("{i:08192}"));
    }
    world.crash(2);
    world.member(2).restart().unwrap();
    assert!(world.status(2).commit > 1490 && world.status(2).applied == 1);
    world
}

#[test]
fn a_member_that_has_yet_to_apply_a_long_log_does_not_campaign() {
    let mut world = far_behind();
    world.crash(1);
    for turn in 0..20 {
        let now = TICK * turn;
        assert_eq!(world.member(2).turn(Some(now)), [], "no election time-out is longer");
    }
    let status = world.status(2);
    assert!(status.applied > 1000 && status.applied < status.commit, "{status:?}");
    world.settle();
    world.elect_after_silence(2);
    world.put(2, "and on");
    world.assert_agreement();
}

#[test]
fn a_leader_cannot_hand_over_to_a_member_that_has_yet_to_apply_a_long_log() {
    let mut world = far_behind();
    let commit = world.status(2).commit;
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgTimeoutNow);
    (message.from, message.to, message.term) = (1, 2, world.status(1).term);
    world.handle(2).deliver(1, message.clone());
    while world.status(2).applied < commit {
        assert_eq!(world.member(2).turn(None), []);
    }
    world.handle(2).deliver(1, message);
    world.settle();
    assert!(world.is_leader(2), "afterwards it can");
}

#[test]
fn an_error_that_is_no_damage_is_over_the_next_time_and_ends_nobody() {
    // EIO, ENOMEM, ENFILE, EMFILE: the disk, or the system, is short of something for a moment.
    for errno in [MemDisk::EIO, 12, 23, 24] {
        let mut world = reading();
        let disk = world.members[&1].disk.clone();
        for _ in 0..3 {
            disk.fail_nth(Op::Read, 1, errno);
            world.hold(1, Held::default());
            world.settle();
            assert!(world.is_leader(1), "{errno}: {:?}", world.members[&1].ended);
            world.hold(1, Held { fetches: true, ..Held::default() });
            world.tick_until("asked again", |world| !world.run(1).effects.fetches.is_empty());
        }
        world.hold(1, Held::default());
        world.tick_until("caught up", |world| world.status(3).applied == world.status(1).applied);
        world.assert_agreement();
        assert!(world.run(1).core.raft().store().bytes() <= CACHE);
    }
}
