//! The fifteen traps of building on raft, most dangerous first: each has its test here, or says where it is.

use std::path::Path;
use std::sync::Arc;
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use kvd_node::{Config, Exit, Fatal, Home, Role, Start, initial_members};
use kvd_raftpb::peers::PeerHandler;
use kvd_vfs::MemDisk;
use raft::Storage;
use raft::eraftpb::{Message, MessageType, Snapshot};

use crate::common::member::{DIR, Held};
use crate::common::threads::Cluster;
use crate::common::world::url;
use crate::common::{Fate, Journal, World};

fn eager(n: u64) -> World {
    World::led_with(n, |config| (config.snapshot_bytes, config.catch_up_bytes) = (200, 0))
}

/// A commit index that is known in memory and never written: the newest snapshots lie beyond the commit on disk, are
/// filtered out at start, and raft finds its hard state out of range.
#[test]
fn trap_01_the_commit_index_is_on_disk_before_a_snapshot_that_needs_it() {
    let mut world = eager(3);
    let mut commands = Vec::new();
    for i in 0..40 {
        commands.push(i.to_string());
        world.put(1, &i.to_string());
        for id in 1..=3 {
            let newest = world.recorded(id).last().expect("at least the first").1;
            assert_eq!(newest, world.status(id).snapshot, "what the log recorded is what may be used");
        }
        if i % 8 == 0 {
            (1..=3).for_each(|id| world.crash(id));
            (1..=3).for_each(|id| world.restart(id));
            world.elect(1);
        }
    }
    assert!(world.status(1).snapshot > 20);
    assert_eq!(world.journal(1).text(), commands);
}

/// A joiner that bootstraps from a conf state commits alone. See also
/// `raftexample::a_joiner_that_is_restarted_does_not_bootstrap`.
#[test]
fn trap_02_a_joiner_never_leads_a_cluster_of_its_own() {
    let mut world = World::new(1);
    world.start_joiner(2);
    world.crash(1);
    world.ticks(100);
    assert_eq!(
        (world.status(2).role, world.status(2).term, world.status(2).leader),
        (Role::Follower, 0, None)
    );
    // An initial member of three does not, either, without another.
    let mut world = World::new(3);
    (2..=3).for_each(|id| world.crash(id));
    world.ticks(100);
    assert_eq!((world.leader(), world.status(1).term, world.status(1).commit), (None, 1, 1));
}

/// Messages that promise what is not durable. See also `single::an_acknowledgement_waits_for_the_sync`,
/// `single::a_vote_waits_for_the_sync` and `single::a_failed_sync_of_the_log_ends_the_member_...`.
#[test]
fn trap_03_what_a_member_has_promised_it_has_on_disk() {
    for seed in 0..10 {
        let mut world = World::led(3);
        world.member(2).held.writes = seed % 2 == 0;
        let index = world.status(1).commit + 1;
        let mut asked = world.propose(1, "a");
        let acknowledged = world.has_acknowledged(2, index);
        assert_ne!(acknowledged, world.members[&2].held.writes);
        world.member(2).running = None;
        world.member(2).disk.crash(seed);
        world.restart(2);
        if acknowledged {
            assert_eq!(world.run(2).core.raft().store().last_index(), index);
        }
        world.answer(&mut asked).expect("it is applied");
    }
}

/// A member id used again on an empty disk, or on the disk of another.
#[test]
fn trap_04_a_directory_is_its_members_alone() {
    let disk = MemDisk::new();
    let start = |id: u64, cluster_id: u64, join: bool| {
        let members = initial_members(&[url(1), url(2), url(3)]);
        let start = if join { Start::Join { cluster_id } } else { Start::Initial { cluster_id, members } };
        Home::open(disk.disk(), Path::new(DIR))?.start(Config::new(id), &start, Journal::default()).map(drop)
    };
    start(1, 77, false).expect("a new directory");
    for (id, cluster, join) in [(2, 77, false), (1, 78, false), (2, 77, true), (1, 78, true)] {
        match start(id, cluster, join) {
            Err(Fatal::NotOurs { found_member: 1, found_cluster: 77, member, .. }) => assert_eq!(member, id),
            other => panic!("{other:?}"),
        }
    }
    start(1, 77, true).expect("it is itself, whatever the flags say of its beginning");
}

#[test]
fn trap_04_a_member_that_lost_its_disk_does_not_go_on_under_its_id() {
    let mut world = World::led(3);
    (0..10).for_each(|i| drop(world.put(1, &i.to_string())));
    world.crash(3);
    world.member(3).disk = MemDisk::new();
    world.restart(3);
    world.begin_transcript();
    // Its leader believes that it has ten commands. What it says to that is refused: the operator must remove it and
    // add it again under a new id. (That it does not start at all while another member remembers it is for whoever
    // can ask them: see the tests of the binary.)
    world.tick();
    assert_eq!(world.seen("3: send", "MsgHeartbeatResponse"), 0);
    assert_eq!(
        (world.seen("3:", "send to 1: MsgAppendResponse term 2 up to"), world.journal(3).text().len()),
        (0, 0)
    );
}

/// See `snapshots::a_snapshot_file_that_the_log_never_recorded_is_not_used` and
/// `snapshots::a_member_that_loses_power_while_it_takes_in_a_snapshot_begins_where_it_was`, too.
#[test]
fn trap_05_the_file_comes_before_its_record_and_raft_and_state_load_the_same() {
    let mut world = eager(3);
    (0..20).for_each(|i| drop(world.put(1, &i.to_string())));
    let lines = &world.transcript;
    let mut records = 0;
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" record ")) {
        let (who, rest) = line.split_once(':').expect("a member");
        let what = rest.split_once(" record ").expect("a record").1.split(' ').next().expect("an index");
        let saved = lines[..at].iter().any(|line| *line == format!("{who}: saved {what}"));
        let loaded = lines[..at].iter().any(|line| *line == format!("{who}: loaded {what}"));
        assert!(saved || loaded, "{line}");
        records += 1;
    }
    assert!(records > 3);
    for id in 1..=3 {
        world.crash(id);
        world.restart(id);
        // Before any entry of the log is applied, the state is that of the snapshot from which raft begins.
        let index = world.status(id).snapshot;
        assert_eq!(world.run(id).core.raft().store().snapshot_metadata().index, index);
        assert_eq!(world.journal(id).commands(), world.in_snapshot(id, index));
    }
}

/// Such a snapshot is ignored by its receiver and sent again for ever.
#[test]
fn trap_06_a_snapshot_that_is_sent_knows_its_receiver() {
    let mut world = eager(1);
    (0..30).for_each(|i| drop(world.put(1, &i.to_string())));
    for id in 2..=4 {
        world.begin_transcript();
        world.join(1, id);
        let sent: Vec<_> = world
            .transcript
            .iter()
            .filter(|line| line.contains("send to") && line.contains("MsgSnapshot"))
            .collect();
        assert!(!sent.is_empty());
        for line in sent {
            assert!(line.split_once("learners").expect("a conf state").1.contains(&id.to_string()), "{line}");
        }
    }
    assert_eq!(world.journal(4).text().len(), 30);
}

/// The world checks after every turn of every test that nobody compacts beyond a snapshot, and that no snapshot is
/// beyond what is applied.
#[test]
fn trap_07_nothing_is_compacted_that_raft_may_still_apply() {
    let mut world = eager(3);
    world.hold(2, Held { writes: true, ..Held::default() });
    (0..30).for_each(|i| drop(world.put(1, &i.to_string())));
    world.hold(2, Held { saves: true, ..Held::default() });
    (0..30).for_each(|i| drop(world.put(1, &i.to_string())));
    world.hold(2, Held::default());
    world.settle();
    world.ticks(10);
    assert_eq!(world.journal(2).text().len(), 60);
    world.assert_agreement();
}

/// `MemStorage` forgets the term at the boundary and offers snapshots of its own making.
#[test]
fn trap_08_the_log_answers_at_its_boundary_and_offers_what_is_on_disk() {
    let mut world = eager(1);
    (0..30).for_each(|i| drop(world.put(1, &i.to_string())));
    for _ in 0..2 {
        let log = world.run(1).core.raft().store();
        let first = log.first_index();
        assert!(first > 10);
        assert_eq!(log.term(first - 1).expect("the boundary's term"), 2);
        assert!(log.term(first - 2).is_err());
        let offered: Snapshot = log.snapshot(0, 1).expect("the newest on disk");
        let metadata = offered.get_metadata();
        assert!(world.in_snapshot(1, metadata.index).len() > 10);
        assert!(world.recorded(1).contains(&(metadata.term, metadata.index)));
        world.crash(1);
        world.restart(1);
    }
}

/// raft panics on messages that no correct peer sends; `kvd_raftpb::validate` has a test for each kind.
#[test]
fn trap_09_hostile_messages_are_refused_and_the_member_goes_on() {
    let mut world = World::led(3);
    world.put(1, "a");
    let before = world.status(1);
    let of = |kind: MessageType, from: u64| {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.to, message.from, message.term) = (1, from, 2);
        message
    };
    let mut all =
        vec![of(MessageType::MsgHup, 2), of(MessageType::MsgBeat, 2), of(MessageType::MsgPropose, 2)];
    let mut heartbeat = of(MessageType::MsgHeartbeat, 2);
    (heartbeat.term, heartbeat.commit) = (3, 1 << 40);
    let mut append = of(MessageType::MsgAppend, 2);
    (append.term, append.index, append.log_term) = (3, 1 << 40, 0);
    let mut acknowledgement = of(MessageType::MsgAppendResponse, 2);
    acknowledgement.index = u64::MAX;
    let mut misdirected = of(MessageType::MsgHeartbeat, 2);
    misdirected.to = 3;
    let mut no_context = of(MessageType::MsgReadIndex, 2);
    no_context.term = 0;
    let mut far = of(MessageType::MsgRequestVote, 2);
    far.term = u64::MAX;
    let mut unreadable = of(MessageType::MsgPropose, 2);
    unreadable.term = 0;
    let mut entry = raft::eraftpb::Entry::default();
    entry.data = Bytes::from_static(b"\xff\xff\xff");
    unreadable.set_entries(vec![entry].into());
    all.extend([heartbeat, append, acknowledgement, misdirected, no_context, far, unreadable]);
    for message in all {
        world.handle(1).deliver(2, message);
        world.settle();
    }
    // Nor from somebody who claims to be another.
    world.handle(1).deliver(9, of(MessageType::MsgHeartbeat, 2));
    world.settle();
    assert_eq!(world.status(1), before);
    assert_eq!(world.put(2, "b").response, "2");
}

/// A follower whose snapshot was lost without a word waits for ever:
/// `snapshots::a_snapshot_that_is_lost_is_reported_and_sent_again`.
#[test]
fn trap_10_a_lost_snapshot_does_not_freeze_its_follower() {
    let mut world = eager(3);
    world.wire.cut.insert(3);
    (0..30).for_each(|i| drop(world.put(1, &i.to_string())));
    world.wire.cut.clear();
    // It is lost on the way with everything else, by a cut in the middle.
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgSnapshot => Fate::Hold,
        _ => Fate::Deliver,
    });
    world.begin_transcript();
    world.tick_until("a snapshot on its way", |world| world.seen("1: send", "MsgSnapshot") > 0);
    world.wire.cut.insert(3);
    world.release();
    world.wire.cut.clear();
    world.tick_until("the state", |world| world.journal(3).text().len() == 30);
}

/// See `membership::a_leader_that_is_removed_hands_over_first`.
#[test]
fn trap_11_a_leader_outside_the_configuration_sends_nothing_any_more() {
    let mut world = World::led(2);
    let mut removed = world.remove_member(2, 1);
    world.answer(&mut removed).expect("it is removed");
    world.tick_until("its end", |world| world.members[&1].ended.is_some());
    assert!(matches!(world.members[&1].ended, Some(Ok(Exit::Removed))));
    world.begin_transcript();
    world.ticks(30);
    assert_eq!((world.seen("1:", ""), world.is_leader(2)), (0, true));
}

/// See also `cluster::a_lost_forward_is_proposed_again`,
/// `cluster::every_single_lost_message_of_a_put_is_made_up_for` and
/// `membership::a_change_that_raft_made_empty_because_another_was_pending_is_proposed_again`.
#[test]
fn trap_12_a_proposal_that_raft_drops_is_not_forgotten() {
    let mut world = World::led(3);
    // raft drops proposals while leadership is handed over, and here that takes its time.
    let mut lost = false;
    world.wire.intercept(move |_, message| match message.get_msg_type() {
        MessageType::MsgTimeoutNow if !lost => {
            lost = true;
            Fate::Drop
        }
        _ => Fate::Deliver,
    });
    let mut removed = world.remove_member(1, 1);
    let mut put = world.propose(2, "a");
    assert_eq!(put.answer(), None);
    world.answer(&mut put).expect("it is applied");
    world.answer(&mut removed).expect("it is removed");
    assert_eq!(world.journal(2).text(), ["a"]);
}

/// A repair that cuts the log at any damage loses what was acknowledged. The tables of what is torn and what is
/// corrupt are in `kvd_wal`'s tests.
#[test]
fn trap_13_damage_within_the_durable_log_is_an_error_and_not_repaired() {
    let mut world = World::led(1);
    (0..10).for_each(|i| drop(world.put(1, &i.to_string())));
    world.crash(1);
    let disk = world.members[&1].disk.clone();
    let path = Path::new("/member/wal/0000000000000000-0000000000000000.wal");
    let bytes = disk.read_file(path).expect("the log");
    let at = bytes.windows(3).position(|window| window == b"\x12\x01\x35").expect("the command 5");
    let mut damaged = bytes.clone();
    damaged[at + 2] ^= 1;
    disk.overwrite_file(path, damaged).expect("the log");
    let refused = world.member(1).restart();
    assert!(matches!(refused, Err(Fatal::Wal(_))), "{refused:?}");
    disk.overwrite_file(path, bytes).expect("the log");
    world.restart(1);
    world.elect(1);
    assert_eq!(world.journal(1).text().len(), 10);
}

/// Streams that survive reconnects, unbounded lengths and reordering are `kvd_transport`'s: its tests have them. What
/// arrives in another order than it was sent does no harm here.
#[test]
fn trap_14_messages_that_overtake_each_other_do_no_harm() {
    let mut world = World::led(3);
    let mut count = 0;
    world.wire.intercept(move |_, _| {
        count += 1;
        if count % 3 == 0 { Fate::Hold } else { Fate::Deliver }
    });
    let mut asked: Vec<_> = (0..10).map(|i| world.propose(1 + i % 3, &i.to_string())).collect();
    world.release();
    for asked in &mut asked {
        world.answer(asked).expect("it is applied");
    }
    world.ticks(20);
    assert_eq!(world.journal(1).text().len(), 10);
    world.assert_agreement();
}

/// Whatever blocks is on a thread of its own: here the writing of a snapshot, which does not come to its end.
#[test]
fn trap_15_a_snapshot_that_takes_its_time_blocks_nobody() {
    let mut cluster = Cluster::with(1, |config| config.snapshot_bytes = 500);
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    cluster.members[&1].journal.write_behind(gate.clone());
    for i in 0..100 {
        cluster.put(1, &i.to_string());
    }
    assert_eq!(cluster.handle(1).status().snapshot, 1);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    cluster.until("the snapshot", |cluster| (cluster.handle(1).status().snapshot > 1).then_some(()));
}
