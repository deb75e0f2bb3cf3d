//! How members stop.

use std::path::Path;

use kvd_node::{ChangeOutcome, Error, Exit, Fatal, Role};
use raft::eraftpb::MessageType;

use crate::common::member::Held;
use crate::common::threads::Cluster;
use crate::common::{Fate, TICK, World};

#[test]
fn a_leader_that_stops_hands_over_first_and_nobody_waits_for_an_election() {
    let mut world = World::led(3);
    world.put(1, "a");
    world.handle(1).shutdown();
    world.settle();
    assert!(matches!(world.members[&1].ended, Some(Ok(Exit::Shutdown))));
    let leader = world.leader().expect("a leader without a single tick");
    assert_ne!(leader, 1);
    let mut asked = world.propose(leader, "b");
    assert_eq!(asked.granted().response, "2");
}

#[test]
fn a_running_leader_hands_over_too() {
    let mut cluster = Cluster::new(3);
    cluster.put(1, "a");
    let leader = cluster.leader();
    let mut asked = cluster.propose(leader, "b");
    cluster.handle(leader).shutdown();
    assert!(matches!(cluster.end(leader), Ok(Exit::Shutdown)));
    assert!(asked.answer().expect("an answer").is_ok(), "it was in flight");
    assert_ne!(cluster.leader(), leader);
    let other = 1 + leader % 3;
    cluster.put(other, "c");
    assert_eq!(cluster.members[&other].journal.text(), ["a", "b", "c"]);
}

#[test]
fn what_is_in_flight_is_finished_and_what_comes_later_is_refused() {
    let mut world = World::led(3);
    world.member(1).held.writes = true;
    let mut before = world.propose(1, "a");
    world.handle(1).shutdown();
    world.settle();
    assert_eq!((before.answer(), world.is_leader(1)), (None, true));
    world.member(1).held.writes = false;
    world.settle();
    assert_eq!(before.granted().response, "1");
    assert!(matches!(world.members[&1].ended, Some(Ok(Exit::Shutdown))));
    assert_eq!(world.propose(1, "b").error(), Error::Stopped);
    assert_eq!(world.read(1).error(), Error::Stopped);
    assert_eq!(world.remove_member(1, 2).error(), Error::Stopped);
}

#[test]
fn the_grace_bounds_how_long_it_waits() {
    let mut world = World::led_with(3, |config| config.shutdown_grace = TICK * 5);
    world.wire.cut.insert(1);
    let mut asked = world.propose(1, "a");
    world.handle(1).shutdown();
    world.settle();
    // Five ticks for what is in flight, and five for a successor.
    world.ticks(9);
    assert!(world.members[&1].ended.is_none() && asked.answer().is_none());
    world.tick();
    assert!(matches!(world.members[&1].ended, Some(Ok(Exit::Shutdown))));
    assert!(matches!(asked.error(), Error::Unknown { .. }));
}

#[test]
fn a_clean_stop_leaves_nothing_to_replay_differently() {
    let mut world = World::led(3);
    (0..5).for_each(|i| drop(world.put(1, &i.to_string())));
    let commit = world.status(2).commit;
    for id in [2, 3, 1] {
        world.handle(id).shutdown();
        world.settle();
        assert!(matches!(world.members[&id].ended, Some(Ok(Exit::Shutdown))) || id == 1);
    }
    world.ticks(41);
    assert!(world.members[&1].ended.is_some(), "alone it waits for nobody for longer than the grace");
    world.restart(2);
    world.tick_one(2);
    assert!(world.status(2).commit >= commit, "{:?}", world.status(2));
    assert_eq!((world.status(2).role, world.journal(2).text().len()), (Role::Follower, 5));
}

#[test]
fn a_read_in_flight_is_waited_for() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgReadIndexResp => Fate::Hold,
        _ => Fate::Deliver,
    });
    let mut read = world.read(2);
    world.handle(2).shutdown();
    world.settle();
    assert!(world.members[&2].ended.is_none() && read.answer().is_none());
    world.release();
    assert!(read.granted() >= 2);
    assert!(matches!(world.members[&2].ended, Some(Ok(Exit::Shutdown))));
}

#[test]
fn a_membership_change_in_flight_is_waited_for() {
    let mut world = World::led(3);
    // It is committed by the others, and applied here later.
    world.wire.intercept(|_, message| {
        let append = message.get_msg_type() == MessageType::MsgAppend && message.to == 2;
        if append { Fate::Hold } else { Fate::Deliver }
    });
    let mut removed = world.remove_member(2, 3);
    world.handle(2).shutdown();
    world.settle();
    assert!(world.members[&2].ended.is_none() && removed.answer().is_none());
    world.release();
    assert!(matches!(removed.granted(), ChangeOutcome::Applied { .. }));
    assert!(matches!(world.members[&2].ended, Some(Ok(Exit::Shutdown))));
}

#[test]
fn a_promotion_that_nobody_waits_for_is_not_waited_for() {
    let mut world = World::led(1);
    world.start_joiner(2);
    let mut added = world.add_member(1, 2);
    world.answer(&mut added).expect("it is added");
    world.hold(1, Held { writes: true, ..Held::default() });
    world.begin_transcript();
    world.tick_until("a promotion on its way", |world| world.seen("1: write", "AddNode 2") > 0);
    world.handle(1).shutdown();
    world.settle();
    assert!(matches!(world.members[&1].ended, Some(Ok(Exit::Shutdown))), "without a tick");
}

#[test]
fn a_snapshot_that_is_being_written_is_given_up() {
    // It would take fifteen seconds.
    let mut cluster = Cluster::with(1, |config| {
        (config.snapshot_bytes, config.snapshot_rate) = (300_000, 20_000);
    });
    let disk = cluster.members[&1].disk.clone();
    let files = || disk.disk().list(Path::new("/member/snap")).expect("a directory");
    let first = files();
    while files() == first {
        cluster.put(1, &"x".repeat(10_000));
    }
    assert!(files().iter().any(|name| name.ends_with(".tmp")), "{:?}", files());
    cluster.handle(1).shutdown();
    assert!(matches!(cluster.end(1), Ok(Exit::Shutdown)), "it is no failure");
    assert_eq!(files(), first, "nothing is left of it");
}

#[test]
fn a_thread_that_panics_ends_the_member_and_is_named() {
    let mut cluster = Cluster::with(1, |config| config.snapshot_bytes = 500);
    cluster.members[&1].journal.panic_when_written();
    let mut asked: Vec<_> = (0..50).map(|i| cluster.propose(1, &format!("{i:0100}"))).collect();
    let disk = cluster.members[&1].disk.clone();
    let ended = cluster.end(1);
    assert!(matches!(ended, Err(Fatal::Panicked("kvd-snap-save"))), "{ended:?}");
    let answers: Vec<_> = asked.iter_mut().map(|asked| asked.answer().expect("an answer")).collect();
    // What was acknowledged is there: the log was closed all the same.
    let acknowledged = answers.iter().filter(|answer| answer.is_ok()).count();
    cluster.start(1, disk);
    cluster.put(1, "after");
    assert!(cluster.members[&1].journal.text().len() > acknowledged);
}
