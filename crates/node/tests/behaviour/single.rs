//! One member and its disk: what survives, and what a failing disk ends.

use kvd_node::{Error, Fatal};
use kvd_vfs::{MemDisk, Op};
use raft::eraftpb::MessageType;

use crate::common::member::Held;
use crate::common::threads::Cluster;
use crate::common::{Fate, World};

#[test]
fn a_member_that_lost_power_has_everything_that_it_acknowledged() {
    for seed in 0..20 {
        let mut world = World::led_with(1, |config| config.snapshot_bytes = u64::MAX);
        let mut commands = Vec::new();
        for i in 0..10 {
            commands.push(format!("{seed}.{i}"));
            world.put(1, &format!("{seed}.{i}"));
            world.member(1).running = None;
            world.member(1).disk.crash(seed * 100 + i);
            world.restart(1);
            world.elect(1);
            assert_eq!(world.journal(1).text(), commands, "seed {seed}");
        }
    }
}

#[test]
fn snapshots_and_compaction_lose_nothing_across_restarts() {
    let mut world = World::led_with(1, |config| {
        (config.snapshot_bytes, config.catch_up_bytes, config.segment_bytes) = (300, 100, 4096);
    });
    let mut commands = Vec::new();
    for round in 0..10 {
        for i in 0..40 {
            commands.push(format!("{round}.{i} {}", "x".repeat(100)));
            world.put(1, &commands[commands.len() - 1].clone());
        }
        if round % 2 == 0 {
            world.crash(1);
        } else {
            world.handle(1).shutdown();
            world.settle();
            assert!(world.members[&1].ended.is_some());
        }
        world.restart(1);
        assert!(world.status(1).snapshot > 40 * round, "round {round}: {:?}", world.status(1));
        world.elect(1);
        assert_eq!(world.journal(1).text(), commands);
    }
    let snapshots = world.members[&1].disk.disk().list("/member/snap".as_ref()).unwrap();
    assert!(snapshots.len() <= 2, "{snapshots:?}");
    let segments = world.members[&1].disk.disk().list("/member/wal".as_ref()).unwrap();
    assert!(segments.len() < 20, "{segments:?}");
}

#[test]
fn a_failed_sync_of_the_log_ends_the_member_and_nothing_is_acknowledged_after_it() {
    let mut cluster = Cluster::with(1, |config| config.prepare_segments_ahead = false);
    cluster.put(1, "a");
    let disk = cluster.members[&1].disk.clone();
    disk.fail_nth(Op::Sync, 1, MemDisk::EIO);
    let mut failed: Vec<_> = ["b", "c"].map(|command| cluster.propose(1, command)).into();
    let handle = cluster.handle(1).clone();
    let ended = cluster.end(1);
    assert!(matches!(ended, Err(Fatal::Wal(_))), "{ended:?}");
    for asked in &mut failed {
        assert!(matches!(asked.error(), Error::Unknown { .. }), "{:?} {ended:?}", asked.answer());
    }
    let mut late = crate::common::Asked::new(handle.propose("d".into(), crate::common::LONG));
    assert_eq!(late.error(), Error::Stopped);

    disk.crash_losing_all_unsynced();
    cluster.start(1, disk);
    cluster.put(1, "e");
    let text = cluster.members[&1].journal.text();
    assert_eq!((text[0].as_str(), text[text.len() - 1].as_str()), ("a", "e"));
    assert_eq!(cluster.members[&1].journal.count("d"), 0);
}

#[test]
fn a_follower_whose_sync_fails_ends_and_acknowledges_nothing() {
    let mut world = World::led(3);
    world.begin_transcript();
    world.member(2).disk.fail_nth(Op::Sync, 1, MemDisk::EIO);
    world.put(1, "a");
    assert!(matches!(world.members[&2].ended, Some(Err(Fatal::Wal(_)))), "{:?}", world.members[&2].ended);
    assert_eq!(world.seen("2: send", "MsgAppendResponse"), 0);
    world.crash(2);
    world.restart(2);
    world.tick_until("the rest", |world| world.journal(2).count("a") == 1);
}

#[test]
fn an_acknowledgement_waits_for_the_sync() {
    let mut world = World::led(3);
    world.hold(2, Held { writes: true, ..Held::default() });
    world.hold(3, Held { writes: true, ..Held::default() });
    world.begin_transcript();
    let index = world.status(1).commit + 1;
    let mut asked = world.propose(1, "a");
    // Heartbeats go on meanwhile, and are answered.
    world.ticks(5);
    assert_eq!(asked.answer(), None);
    assert_eq!(world.seen("2: write", "0=a") + world.seen("3: write", "0=a"), 2);
    assert!(!world.has_acknowledged(2, index) && !world.has_acknowledged(3, index));
    world.hold(2, Held::default());
    world.settle();
    assert!(asked.granted().index == index && world.has_acknowledged(2, index) && world.is_leader(1));
}

#[test]
fn a_vote_waits_for_the_sync() {
    let mut world = World::new(3);
    world.hold(2, Held { writes: true, ..Held::default() });
    world.hold(3, Held { writes: true, ..Held::default() });
    for _ in 0..20 {
        world.tick_one(1);
    }
    assert_eq!((world.seen("2: write", "vote 1"), world.seen("3: write", "vote 1")), (1, 1));
    assert_eq!(world.seen("2:", "MsgRequestVoteResponse") + world.seen("3:", "MsgRequestVoteResponse"), 0);
    world.hold(3, Held::default());
    world.settle();
    assert_eq!(world.seen("3:", "MsgRequestVoteResponse"), 1);
    assert!(world.is_leader(1));
}

#[test]
fn a_leader_counts_itself_only_after_its_own_sync() {
    let mut world = World::led(3);
    let commit = world.status(1).commit;
    world.wire.cut.insert(3);
    world.hold(1, Held { writes: true, ..Held::default() });
    let mut asked = world.propose(1, "a");
    assert!(world.has_acknowledged(2, commit + 1));
    assert_eq!((asked.answer(), world.status(1).commit), (None, commit));
    world.hold(1, Held::default());
    world.settle();
    assert_eq!(asked.granted().index, commit + 1);
}

#[test]
fn while_the_disk_stalls_a_follower_keeps_its_leader() {
    let mut world = World::led(3);
    world.wire.intercept(|from, message| {
        let appends = message.get_msg_type() == MessageType::MsgAppendResponse && from == 3;
        if appends { Fate::Drop } else { Fate::Deliver }
    });
    world.hold(2, Held { writes: true, ..Held::default() });
    let mut asked = world.propose(1, "a");
    world.ticks(50);
    assert_eq!((world.leader(), world.status(2).term, asked.answer()), (Some(1), 2, None));
    world.hold(2, Held::default());
    world.answer(&mut asked).expect("it is applied");
}

#[test]
fn a_sole_voter_tells_its_learners_of_a_term_once_it_is_durable() {
    // It elects itself in one step, and after a power loss it could lead the same term once more, with other entries.
    let mut world = World::led(1);
    world.start_joiner(2);
    // Nothing from the learner arrives, so it stays one.
    world.wire.intercept(|from, _| if from == 2 { Fate::Drop } else { Fate::Deliver });
    let mut added = world.add_member(1, 2);
    world.answer(&mut added).expect("it is added");
    // With this, the log knows that it is committed.
    world.put(1, "a");
    world.crash(1);
    world.restart(1);
    world.hold(1, Held { writes: true, ..Held::default() });
    world.begin_transcript();
    // Long enough for heartbeats, too.
    (0..5).for_each(|_| world.tick_one(1));
    assert!(world.is_leader(1) && world.status(1).term == 3, "{:?}", world.status(1));
    assert!(world.run(1).core.raft().raft.prs().conf().learners().contains(&2));
    assert_eq!(world.seen("1: send to 2:", ""), 0, "{}", world.transcript_end());
    // Lost, it is led again: nobody has heard of it.
    world.crash(1);
    world.restart(1);
    world.elect(1);
    assert_eq!(world.status(1).term, 3);
    assert!(world.seen("1: send to 2:", "term 3") > 0);
}
