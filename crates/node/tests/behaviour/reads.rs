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

/// A cluster that answers reads from the leader's lease.
fn leasing() -> World {
    World::led_with(3, |config| config.lease_reads = true)
}

#[test]
fn while_a_lease_holds_reads_need_no_message() {
    let mut world = leasing();
    let applied = world.put(1, "a");
    world.read(1).granted();
    world.begin_transcript();
    for _ in 0..100 {
        assert!(world.read(1).granted() >= applied.index);
    }
    assert_eq!(world.seen("", "send to"), 0, "{}", world.transcript_end());
    // And what was committed since the round that proved it is seen.
    let applied = world.put(2, "b");
    world.begin_transcript();
    assert!(world.read(1).granted() >= applied.index);
    assert_eq!(world.seen("", "send to"), 0);
    // A lease that has ended is renewed by a round, and the rest needs no message again.
    world.ticks(8);
    world.begin_transcript();
    (0..10).for_each(|_| assert!(world.read(1).granted() >= applied.index));
    assert_eq!(world.seen("1: send to", "MsgHeartbeat"), 2, "{}", world.transcript_end());
}

#[test]
fn a_lease_ends_before_another_member_can_lead() {
    // Wherever between two of its looks at its quorum the leader is cut off, and however late it has read.
    for (silent, since) in (0..20).flat_map(|silent| (0..10).map(move |since| (silent, since))) {
        let mut world = leasing();
        world.ticks(silent);
        world.read(1).granted();
        world.ticks(since);
        world.wire.cut.insert(1);
        let mut served = 0;
        while world.leader().is_none_or(|leader| leader == 1) {
            served += usize::from(world.read(1).answer().is_some());
            world.tick();
        }
        assert_eq!(
            served,
            8_usize.saturating_sub(since),
            "the rest of the lease, after {silent} and {since} ticks"
        );
        let leader = world.leader().expect("somebody else");
        let mut put = world.propose(leader, "new");
        world.answer(&mut put).expect("the others are a majority");
        assert_eq!(world.read(1).answer(), None, "after {silent} and {since} ticks");
    }
}

#[test]
fn a_leader_that_hands_over_has_no_lease() {
    let mut world = leasing();
    world.read(1).granted();
    world.read(1).granted();
    // Its successor leads, and it has not heard of that.
    world.wire.intercept(|from, message| {
        let says = message.get_msg_type() == MessageType::MsgTimeoutNow || from != 1 && message.to != 1;
        if says { Fate::Deliver } else { Fate::Hold }
    });
    let _removed = world.remove_member(1, 1);
    let leader = world.leader().expect("a leader");
    assert!(leader != 1 && world.is_leader(1), "{:?}", world.status(1));
    let mut put = world.propose(leader, "new");
    assert!(put.answer().is_some());
    assert_eq!(world.read(1).answer(), None);
    // Not either when it has given the transfer up.
    world.tick_one(1);
    assert_eq!(world.read(1).answer(), None);
}

#[test]
fn a_lease_of_the_leader_is_of_no_use_to_a_follower() {
    let mut world = leasing();
    world.read(1).granted();
    let mut read = world.read(2);
    assert!(read.granted() >= 2);
    world.wire.cut.insert(2);
    assert_eq!(world.read(2).answer(), None);
    // One that led and was replaced is a follower.
    let mut world = leasing();
    world.read(1).granted();
    world.wire.cut.insert(1);
    world.tick_until("another leader", |world| world.leader() != Some(1));
    world.wire.cut.clear();
    world.tick_until("followed", |world| !world.is_leader(1));
    world.wire.cut.insert(1);
    assert_eq!(world.read(1).answer(), None);
}

#[test]
fn a_lease_of_another_configuration_does_not_count() {
    let mut world = leasing();
    world.read(1).granted();
    let mut added = world.add_member(1, 4);
    added.granted();
    world.begin_transcript();
    world.read(1).granted();
    assert_eq!(world.seen("1: send to 2", "MsgHeartbeat"), 1, "a round");
    world.read(1).granted();
    assert_eq!(world.seen("1: send to 2", "MsgHeartbeat"), 1, "a lease");
}
