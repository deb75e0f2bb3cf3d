//! Linearizable reads.

use std::time::Duration;

use kvd_node::Error;
use raft::eraftpb::MessageType;

use crate::common::{Fate, TICK, World};

#[test]
fn a_read_at_a_follower_waits_until_it_has_applied_what_was_acknowledged_before() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| {
        let append = message.get_msg_type() == MessageType::MsgAppend && message.to == 2;
        if append { Fate::Hold } else { Fate::Deliver }
    });
    let applied = world.put(1, "a");
    let mut read = world.read(2);
    assert_eq!((read.answer(), world.journal(2).count("a")), (None, 0));
    world.release();
    assert!(read.granted() >= applied.index);
    assert_eq!(world.journal(2).count("a"), 1);
}

#[test]
fn reads_that_arrive_during_a_round_share_the_next() {
    let mut world = World::led(3);
    world.begin_transcript();
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgReadIndexResp => Fate::Hold,
        _ => Fate::Deliver,
    });
    let mut reads: Vec<_> = (0..10).map(|_| world.read(2)).collect();
    assert_eq!(world.seen("2:", "MsgReadIndex"), 1);
    world.release();
    assert_eq!(world.seen("2:", "MsgReadIndex"), 2);
    reads.iter_mut().for_each(|read| assert!(read.granted() >= 2));
}

#[test]
fn a_lost_round_is_begun_again_under_a_fresh_context() {
    let mut world = World::led(3);
    world.begin_transcript();
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgReadIndex => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut read = world.read(2);
    world.ticks(4);
    assert_eq!((world.seen("2: send", "round 2.1.1"), world.seen("2: send", "round 2.1.2")), (1, 0));
    world.tick();
    assert_eq!((world.seen("2: send", "round 2.1.1"), world.seen("2: send", "round 2.1.2")), (1, 1));
    world.wire.forget();
    world.ticks(5);
    assert!(read.granted() >= 2);
    assert_eq!(world.seen("1: send", "MsgReadIndexResp term 2 round 2.1.3"), 1);
}

#[test]
fn the_late_answer_to_a_lost_round_is_not_taken_for_a_later_one() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgReadIndexResp => Fate::Hold,
        _ => Fate::Deliver,
    });
    let _first = world.read(2);
    // A second reader comes after a write that the answer on its way does not cover.
    let applied = world.put(1, "a");
    let mut second = world.read(2);
    world.ticks(5);
    world.release();
    assert!(second.granted() >= applied.index);
}

#[test]
fn a_leader_that_was_cut_off_answers_no_reads() {
    let mut world = World::led(3);
    world.put(1, "old");
    world.wire.cut.insert(1);
    let mut read = world.read_within(1, TICK * 30);
    world.ticks(29);
    assert!(world.leader().is_some_and(|leader| leader != 1));
    let mut put = world.propose(2, "new");
    world.answer(&mut put).expect("the others have a leader");
    assert!(matches!(read.answer(), None | Some(Err(Error::NoLeader))));
    world.tick();
    assert_eq!(read.error(), Error::NoLeader);
    // Back among the others, it answers with what they wrote.
    world.wire.cut.clear();
    let mut read = world.read(1);
    world.answer(&mut read).expect("it follows");
    assert_eq!(world.journal(1).text(), ["old", "new"]);
}

#[test]
fn a_leader_answers_no_read_before_it_has_committed_in_its_own_term() {
    let mut world = World::led(3);
    world.put(1, "a");
    world.crash(1);
    // The next leader is elected, and cannot commit.
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgAppendResponse => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.ticks(5);
    world.tick_until("a leader", |world| world.leader().is_some());
    let leader = world.leader().expect("a leader");
    let mut read = world.read(leader);
    world.ticks(5);
    assert_eq!(read.answer(), None);
    world.wire.forget();
    world.answer(&mut read).expect("it commits");
    assert_eq!(world.journal(leader).text(), ["a"]);
}

#[test]
fn a_read_has_its_answer_by_its_deadline() {
    let mut world = World::new(3);
    world.tick();
    (2..=3).for_each(|id| world.crash(id));
    let timeout = Duration::from_secs(1);
    let mut read = world.read_within(1, timeout);
    world.ticks(9);
    assert_eq!(read.answer(), None);
    world.tick();
    assert_eq!(read.error(), Error::NoLeader);
}
