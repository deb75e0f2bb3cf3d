//! Membership changes.

use kvd_node::{ChangeOutcome, Error, Exit, Refusal, Role};
use raft::eraftpb::MessageType;

use crate::common::world::url;
use crate::common::{Fate, World};

fn refused(refusal: Refusal) -> Error {
    Error::Refused(refusal)
}

#[test]
fn a_learner_is_promoted_once_it_has_caught_up_and_not_before() {
    let mut world = World::led(3);
    world.start_joiner(4);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgSnapshot | MessageType::MsgAppend if message.to == 4 => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut added = world.add_member(1, 4);
    world.answer(&mut added).expect("it is added");
    for i in 0..130 {
        world.put(1, &i.to_string());
    }
    world.ticks(50);
    let member = world.handle(1).membership();
    assert!(world.run(1).core.raft().raft.prs().conf().learners().contains(&4), "{member:?}");
    world.wire.forget();
    world.tick_until("a voter", |world| world.is_voter(4));
    assert_eq!(world.journal(4).text().len(), 130);
    assert!(world.run(1).core.raft().raft.prs().conf().voters().contains(4));
}

#[test]
fn a_learner_is_promoted_128_entries_behind_and_not_129() {
    for behind in [128, 129] {
        let mut world = World::led(1);
        world.start_joiner(2);
        let mut added = world.add_member(1, 2);
        world.answer(&mut added).expect("it is added");
        world.begin_transcript();
        world.tick_until("the snapshot", |world| world.seen("2:", "discard") > 0);
        // It is there, and its disk is slow.
        world.member(2).held.writes = true;
        (0..behind).for_each(|i| drop(world.put(1, &i.to_string())));
        world.ticks(10);
        assert_eq!(world.run(1).core.raft().raft.prs().conf().voters().contains(2), behind == 128);
        world.member(2).held.writes = false;
        world.settle();
        world.tick_until("a voter", |world| world.is_voter(2));
    }
}

#[test]
fn a_learner_that_is_not_there_is_not_promoted_and_does_not_count() {
    let mut world = World::led(2);
    let mut added = world.add_member(2, 3);
    world.answer(&mut added).expect("it is added");
    world.ticks(100);
    assert!(world.run(1).core.raft().raft.prs().conf().learners().contains(&3));
    world.put(2, "two of two are enough");
}

#[test]
fn a_follower_that_is_removed_ends_as_removed() {
    let mut world = World::led(3);
    let mut removed = world.remove_member(1, 3);
    assert!(matches!(world.answer(&mut removed), Ok(ChangeOutcome::Applied { .. })));
    world.tick_until("its end", |world| world.members[&3].ended.is_some());
    assert!(matches!(world.members[&3].ended, Some(Ok(Exit::Removed))));
    world.put(2, "a");
    assert_eq!((world.journal(1).text(), world.journal(3).text().len()), (vec!["a".to_owned()], 0));
}

#[test]
fn a_member_that_missed_its_removal_learns_of_it_from_the_others() {
    let mut world = World::led(3);
    world.wire.cut.insert(3);
    let mut removed = world.remove_member(1, 3);
    world.answer(&mut removed).expect("it is removed");
    world.ticks(30);
    let mut waiting = world.propose(3, "a");
    assert!(world.members[&3].ended.is_none());
    world.wire.cut.clear();
    world.tick_until("its end", |world| world.members[&3].ended.is_some());
    assert!(matches!(world.members[&3].ended, Some(Ok(Exit::Removed))));
    assert!(matches!(waiting.error(), Error::Removed | Error::Unknown { .. }));
}

#[test]
fn a_leader_that_is_removed_hands_over_first() {
    for asked_at in 1..=3 {
        let mut world = World::led(3);
        world.put(1, "a");
        world.begin_transcript();
        let mut removed = world.remove_member(asked_at, 1);
        let outcome = world.answer(&mut removed);
        world.tick_until("its end", |world| world.members[&1].ended.is_some());
        assert!(matches!(outcome, Ok(ChangeOutcome::Applied { .. })), "asked at {asked_at}: {outcome:?}");
        assert!(matches!(world.members[&1].ended, Some(Ok(Exit::Removed))));
        // It did not lead when the change was proposed.
        let appended = |line: &&String| {
            line.starts_with("1: send") && line.contains("MsgAppend ") && line.contains("RemoveNode 1")
        };
        assert_eq!(world.transcript.iter().find(appended), None);
        assert!(world.seen("1: send", "MsgTimeoutNow") > 0);
        let leader = world.leader().expect("its successor");
        world.put(leader, "b");
        let list = world.members[&leader].told.clone().expect("the list");
        assert_eq!(list.removed, [1]);
    }
}

#[test]
fn the_last_voter_is_not_removed() {
    let mut world = World::led(2);
    let mut removed = world.remove_member(1, 2);
    world.answer(&mut removed).expect("one is left");
    world.tick_until("a leader", |world| world.is_leader(1));
    let mut last = world.remove_member(1, 1);
    assert_eq!(world.answer(&mut last), Err(refused(Refusal::LastVoter(1))));
    // A learner is no reason to let it go.
    let mut added = world.add_member(1, 9);
    world.answer(&mut added).expect("it is added");
    let mut last = world.remove_member(1, 1);
    assert_eq!(world.answer(&mut last), Err(refused(Refusal::LastVoter(1))));
    world.put(1, "a");
}

#[test]
fn changes_that_cannot_be_are_refused_with_their_reason() {
    let mut world = World::led(3);
    let ask = |asked: &mut crate::common::Asked<ChangeOutcome>, world: &mut World| world.answer(asked);
    let mut again = world.add_member(2, 2);
    assert_eq!(ask(&mut again, &mut world), Ok(ChangeOutcome::AlreadySo));
    let conflict = kvd_node::MembershipChange::Add { id: 4, peer_urls: vec![url(3)] };
    let mut conflict = world.change(2, conflict);
    let taken = Refusal::Conflict { id: 3, urls: vec![url(3)] };
    assert_eq!(ask(&mut conflict, &mut world), Err(refused(taken)));
    let mut unknown = world.remove_member(3, 9);
    assert_eq!(ask(&mut unknown, &mut world), Err(refused(Refusal::Unknown(9))));
    let mut removed = world.remove_member(1, 3);
    ask(&mut removed, &mut world).expect("it is removed");
    let mut back = world.add_member(2, 3);
    assert_eq!(ask(&mut back, &mut world), Err(refused(Refusal::Removed(3))));
    let mut twice = world.remove_member(2, 3);
    assert_eq!(ask(&mut twice, &mut world), Err(refused(Refusal::Removed(3))));
    assert_eq!(world.status(1).role, Role::Leader);
}

#[test]
fn a_change_that_raft_made_empty_because_another_was_pending_is_proposed_again() {
    let mut world = World::led(3);
    // Neither can be committed yet when the second arrives.
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgAppendResponse => Fate::Hold,
        _ => Fate::Deliver,
    });
    world.begin_transcript();
    let mut first = world.add_member(2, 4);
    let mut second = world.add_member(3, 5);
    assert_eq!((first.answer(), second.answer()), (None, None));
    assert_eq!(world.seen("1: write", "AddLearnerNode 4") + world.seen("1: write", "AddLearnerNode 5"), 1);
    assert_eq!(world.seen("1: write", "empty"), 1, "{}", world.transcript_end());
    world.wire.release();
    let outcomes = (world.answer(&mut first), world.answer(&mut second));
    assert!(matches!(outcomes, (Ok(ChangeOutcome::Applied { .. }), Ok(ChangeOutcome::Applied { .. }))));
    assert_eq!(world.run(1).core.raft().raft.prs().conf().learners().len(), 2);
}

#[test]
fn changes_asked_for_at_all_members_at_once_all_succeed() {
    let mut world = World::led(3);
    let mut all: Vec<_> = (0..9).map(|i| world.add_member(1 + i % 3, 10 + i)).collect();
    for asked in &mut all {
        assert!(matches!(world.answer(asked), Ok(ChangeOutcome::Applied { .. })));
    }
    assert_eq!(world.members[&3].told.as_ref().expect("the list").members.len(), 12);
}

#[test]
fn a_change_survives_the_leader_that_was_to_make_it() {
    let mut world = World::led(3);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgAppendResponse => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut added = world.add_member(2, 4);
    world.crash(1);
    world.wire.forget();
    let outcome = world.answer(&mut added);
    assert!(matches!(outcome, Ok(ChangeOutcome::Applied { .. } | ChangeOutcome::AlreadySo)), "{outcome:?}");
    world.ticks(20);
    let list = world.members[&2].told.clone().expect("the list");
    assert_eq!(list.members.iter().filter(|member| member.id == 4).count(), 1);
}

#[test]
fn members_come_and_go_until_none_of_the_first_is_left() {
    let mut world = World::led(3);
    for new in 4..=6 {
        let at = world.leader().expect("a leader");
        world.put(at, &format!("before {new}"));
        world.join(at, new);
        let mut removed = world.remove_member(new, new - 3);
        world.answer(&mut removed).expect("it is removed");
        world.tick_until("a leader", |world| world.leader().is_some_and(|leader| leader != new - 3));
    }
    let leader = world.leader().expect("a leader");
    world.put(leader, "last");
    world.ticks(2);
    assert_eq!(world.journal(6).text(), ["before 4", "before 5", "before 6", "last"]);
    assert!((1..=3).all(|id| matches!(world.members[&id].ended, Some(Ok(Exit::Removed)))));
    world.assert_agreement();
}
