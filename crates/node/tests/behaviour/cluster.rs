//! Three members, and what happens to proposals when one of them, or a message, is lost.

use raft::eraftpb::MessageType;

use crate::common::{Fate, World};

/// Loses the first message of that type.
fn lose_one(world: &mut World, kind: MessageType) {
    let mut lost = false;
    world.wire.intercept(move |_, message| {
        let loses = message.get_msg_type() == kind && !lost;
        lost |= loses;
        if loses { Fate::Drop } else { Fate::Deliver }
    });
}

#[test]
fn what_was_acknowledged_survives_its_leader() {
    let mut world = World::led(3);
    let acknowledged: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    for command in &acknowledged {
        world.put(1, command);
    }
    world.crash(1);
    world.tick_until("another leader", |world| world.leader().is_some_and(|leader| leader != 1));
    assert_eq!(world.journal(2).text(), acknowledged);
    world.put(2, "after");
    world.restart(1);
    world.tick_until("the rest", |world| world.journal(1).count("after") == 1);
    world.assert_agreement();
}

#[test]
fn a_proposal_whose_leader_crashes_before_it_has_it_is_applied_once() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgPropose => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut asked = world.propose(2, "a");
    world.crash(1);
    world.wire.forget();
    world.answer(&mut asked).expect("the next leader takes it");
    world.ticks(50);
    assert_eq!(world.journal(2).text(), ["a"]);
    world.assert_agreement();
}

#[test]
fn a_member_that_becomes_leader_itself_proposes_at_once_what_its_last_leader_lost() {
    let mut world = World::led(3);
    world.crash(1);
    let mut asked = world.propose(2, "a");
    world.elect_after_silence(2);
    assert!(asked.answer().is_some(), "{}", world.transcript_end());
    assert_eq!(asked.granted().response, "1");
    world.assert_agreement();
}

#[test]
fn a_proposal_whose_leader_crashes_after_it_replicated_it_is_applied_once() {
    let mut world = World::led(3);
    // The entry reaches everybody, and nobody learns that it is committed.
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgAppendResponse => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut asked = world.propose(2, "a");
    world.crash(1);
    world.wire.forget();
    world.begin_transcript();
    world.answer(&mut asked).expect("it is committed by the next leader");
    world.ticks(50);
    assert!(world.seen("", "floor 0: 0=a") > 0, "it was proposed again");
    assert_eq!(world.journal(2).text(), ["a"]);
    world.assert_agreement();
}

#[test]
fn a_proposal_at_a_leader_that_loses_its_place_is_applied_once() {
    let mut world = World::led(3);
    world.wire.cut.insert(1);
    let mut asked = world.propose(1, "a");
    world.tick_until("another leader", |world| world.leader().is_some_and(|leader| leader != 1));
    let mut other = world.propose(2, "b");
    world.answer(&mut other).expect("the others go on");
    assert_eq!(asked.answer(), None);
    // Its own entry is overwritten by the others', so it has to be proposed to them.
    world.wire.cut.clear();
    world.answer(&mut asked).expect("it is applied in the end");
    world.ticks(50);
    assert_eq!(world.journal(1).text(), ["b", "a"]);
    world.assert_agreement();
}

#[test]
fn a_forwarded_proposal_that_arrives_twice_is_applied_once() {
    let mut world = World::led(3);
    world.begin_transcript();
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgPropose => Fate::Twice,
        _ => Fate::Deliver,
    });
    let applied = world.put(2, "a");
    assert_eq!(world.seen("1: write", "0=a"), 1);
    assert!(world.status(1).applied > applied.index, "it is in the log twice");
    assert_eq!((world.journal(1).text(), &applied.response[..]), (vec!["a".to_owned()], &b"1"[..]));
    world.ticks(10);
    world.assert_agreement();
}

#[test]
fn forwarded_proposals_that_overtake_each_other_are_each_applied_once() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgPropose => Fate::Hold,
        _ => Fate::Deliver,
    });
    let mut first = world.propose(2, "a");
    world.wire.intercept(|_, _| Fate::Deliver);
    let mut second = world.propose(2, "b");
    assert_eq!((first.answer(), second.granted().response), (None, "1".into()));
    world.release();
    assert_eq!(first.granted().response, "2");
    assert_eq!(world.journal(1).text(), ["b", "a"]);
}

#[test]
fn a_lost_forward_is_proposed_again() {
    let mut world = World::led(3);
    lose_one(&mut world, MessageType::MsgPropose);
    let mut asked = world.propose(2, "a");
    world.ticks(9);
    assert_eq!(asked.answer(), None);
    world.tick();
    assert_eq!(asked.granted().response, "1");
    world.assert_agreement();
}

#[test]
fn an_answer_is_found_even_if_the_forward_arrives_long_after_it_was_proposed_again() {
    let mut world = World::led(3);
    let mut held = false;
    world.wire.intercept(move |_, message| {
        let holds = message.get_msg_type() == MessageType::MsgPropose && !held;
        held |= holds;
        if holds { Fate::Hold } else { Fate::Deliver }
    });
    let mut asked = world.propose(2, "a");
    world.answer(&mut asked).expect("the second attempt");
    world.put(2, "b");
    // The floor is past it now.
    world.release();
    world.ticks(10);
    assert_eq!(world.journal(1).text(), ["a", "b"]);
    world.assert_agreement();
}

#[test]
fn a_forward_of_an_earlier_boot_is_not_applied_once_the_next_one_has_spoken() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgPropose => Fate::Hold,
        _ => Fate::Deliver,
    });
    let mut early = world.propose(2, "early");
    world.crash(2);
    world.restart(2);
    assert!(matches!(early.error(), kvd_node::Error::Unknown { .. }));
    world.wire.intercept(|_, _| Fate::Deliver);
    let mut late = world.propose(2, "late");
    world.answer(&mut late).expect("it is applied");
    world.release();
    world.ticks(2);
    assert_eq!(world.journal(1).text(), ["late"]);
    world.assert_agreement();
}

#[test]
fn every_single_lost_message_of_a_put_is_made_up_for() {
    for nth in 0.. {
        let mut world = World::led(3);
        let mut left = nth;
        world.wire.intercept(move |_, _| {
            left -= 1;
            if left == -1 { Fate::Drop } else { Fate::Deliver }
        });
        let before = world.transcript.len();
        let mut asked = world.propose(2, "a");
        world.answer(&mut asked).expect("it is applied");
        if !world.transcript[before..].iter().any(|line| line.contains("lost to")) {
            assert!(nth > 4, "some message is needed");
            return;
        }
        world.wire.forget();
        world.ticks(20);
        assert_eq!(world.journal(2).text(), ["a"]);
        world.assert_agreement();
    }
}
