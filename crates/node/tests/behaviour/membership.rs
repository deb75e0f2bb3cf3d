//! Membership changes.

use kvd_node::{Announcement, ChangeOutcome, Error, Exit, MembershipChange, Refusal, Role};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::common::world::url;
use crate::common::{Fate, TICK, World};

fn add(id: u64) -> MembershipChange {
    MembershipChange::Add { id, peer_urls: vec![url(id)] }
}

/// Whether an entry leaves a joint configuration.
fn leaves(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal && entry.data.is_empty()
}

fn refused(refusal: Refusal) -> Error {
    Error::Refused(refusal)
}

/// A rule that keeps the log from a member.
fn nothing_for(id: u64) -> impl FnMut(u64, &Message) -> Fate {
    move |_, message| match message.get_msg_type() {
        MessageType::MsgSnapshot | MessageType::MsgAppend if message.to == id => Fate::Drop,
        _ => Fate::Deliver,
    }
}

#[test]
fn a_learner_is_promoted_once_it_has_caught_up_and_not_before() {
    let mut world = World::led(3);
    world.start_joiner(4);
    world.wire.intercept(nothing_for(4));
    let mut added = world.add_member(1, 4);
    world.answer(&mut added).expect("it is added");
    world.put(1, "a");
    world.ticks(50);
    let member = world.list(1);
    assert!(world.run(1).core.raft().raft.prs().conf().learners().contains(&4), "{member:?}");
    world.wire.forget();
    world.tick_until("a voter", |world| world.is_voter(4));
    assert_eq!(world.journal(4).text(), ["a"]);
    assert!(world.run(1).core.raft().raft.prs().conf().voters().contains(4));
}

#[test]
fn a_learner_is_promoted_after_a_round_below_an_election_time_out() {
    // Writes go on, and are acknowledged by the learner so many ticks later: so long is a round.
    for (ticks, promoted) in [(9, true), (10, false), (11, false)] {
        let mut world = World::led(1);
        world.start_joiner(2);
        world.wire.intercept(nothing_for(2));
        let mut added = world.add_member(1, 2);
        world.answer(&mut added).expect("it is added");
        world.wire.forget();
        world.settle();
        for _ in 0..8 {
            if world.is_voter(2) {
                break;
            }
            world.wire.intercept(|_, message| match message.get_msg_type() {
                MessageType::MsgAppendResponse if message.from == 2 => Fate::Hold,
                _ => Fate::Deliver,
            });
            world.put(1, "a");
            world.ticks(ticks);
            world.release();
        }
        let voters = world.run(1).core.raft().raft.prs().conf().to_conf_state().voters;
        assert_eq!(voters.contains(&2), promoted, "acknowledged after {ticks} ticks");
        if !promoted {
            assert!(world.catch_up(1, 2).expect("it learns").round > 2);
            world.tick_until("a voter", |world| world.is_voter(2));
        }
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
    let conflict = MembershipChange::Add { id: 4, peer_urls: vec![url(3)] };
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
fn the_leader_makes_one_change_after_the_other() {
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
    assert_eq!(world.seen("1: write", "AddLearnerNode 4"), 1);
    assert_eq!(world.seen("1: write", "AddLearnerNode 5"), 0);
    world.release();
    let outcomes = (world.answer(&mut first), world.answer(&mut second));
    assert!(matches!(outcomes, (Ok(ChangeOutcome::Applied { .. }), Ok(ChangeOutcome::Applied { .. }))));
    assert_eq!(world.seen("1: write", "empty"), 0, "raft refused one");
    assert_eq!(world.run(1).core.raft().raft.prs().conf().learners().len(), 2);
}

#[test]
fn a_change_whose_answer_got_lost_is_asked_for_again_and_happens_once() {
    let mut world = World::led(3);
    world.answers_get_lost = true;
    let mut removed = world.remove_member(2, 3);
    world.tick_until("it is removed", |world| world.list(1).removed == [3]);
    assert_eq!(removed.answer(), None);
    world.answers_get_lost = false;
    assert!(world.answer(&mut removed).is_ok());
    // For somebody else it is a mistake.
    let mut again = world.remove_member(2, 3);
    assert_eq!(world.answer(&mut again), Err(refused(Refusal::Removed(3))));
}

#[test]
fn without_an_answer_in_time_a_change_is_unknown_and_without_a_leader_not_made() {
    let mut world = World::led(3);
    world.answers_get_lost = true;
    let mut lost = world.change_within(2, MembershipChange::Remove { id: 3 }, TICK * 20);
    assert!(matches!(world.answer(&mut lost), Err(Error::Unknown { .. })));
    world.crash(1);
    let mut never = world.change_within(2, MembershipChange::Remove { id: 1 }, TICK * 20);
    assert_eq!(world.answer(&mut never), Err(Error::NoLeader));
}

#[test]
fn a_leader_that_lost_its_change_with_the_leadership_makes_it_again() {
    let mut world = World::led(3);
    // The entry stays with the old leader.
    world.wire.intercept(|from, message| match message.get_msg_type() {
        MessageType::MsgAppend if from == 1 => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut added = world.add_member(1, 4);
    world.wire.cut.insert(1);
    world.wire.forget();
    world.elect_after_silence(2);
    world.put(2, "a");
    assert_eq!(added.answer(), None);
    world.wire.cut.clear();
    assert!(matches!(world.answer(&mut added), Ok(ChangeOutcome::Applied { .. })));
    assert_eq!(world.list(2).members.len(), 4);
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

#[test]
fn several_members_change_at_once() {
    for asked_at in 1..=3 {
        let mut world = World::led(3);
        for id in [4, 5] {
            world.join(1, id);
        }
        world.put(1, "before");
        let changes = [1, 2, 3].map(|id| MembershipChange::Remove { id }).to_vec();
        let mut swapped = world.change_all(asked_at, [changes, vec![add(6)]].concat(), None);
        assert!(
            matches!(world.answer(&mut swapped), Ok(ChangeOutcome::Applied { .. })),
            "asked at {asked_at}"
        );
        world.tick_until("the end of those who go", |world| {
            (1..=3).all(|id| world.members[&id].ended.is_some())
        });
        assert!((1..=3).all(|id| matches!(world.members[&id].ended, Some(Ok(Exit::Removed)))));
        world.tick_until("a leader", |world| world.leader().is_some());
        let leader = world.leader().expect("a leader");
        world.put(leader, "after");
        let list = world.list(leader);
        assert_eq!(list.removed, [1, 2, 3]);
        assert_eq!(
            list.members.iter().map(|m| (m.id, m.learner)).collect::<Vec<_>>(),
            [(4, false), (5, false), (6, true)]
        );
        let state = world.run(leader).core.raft().raft.prs().conf().to_conf_state();
        assert!(state.voters_outgoing.is_empty(), "{state:?}");
    }
}

#[test]
fn one_bad_change_refuses_them_all() {
    let mut world = World::led(3);
    let changes = vec![add(4), MembershipChange::Remove { id: 9 }];
    let mut asked = world.change_all(2, changes, None);
    assert_eq!(world.answer(&mut asked), Err(refused(Refusal::Unknown(9))));
    assert_eq!(world.list(1).members.len(), 3);
    let mut nothing = world.change_all(2, vec![add(2), add(3)], None);
    assert_eq!(world.answer(&mut nothing), Ok(ChangeOutcome::AlreadySo));
    assert!(world.run(1).core.raft().raft.prs().conf().to_conf_state().voters_outgoing.is_empty());
}

#[test]
fn the_removal_of_all_voters_is_refused_by_the_leader_that_there_is() {
    for asked in [1, 2] {
        let mut world = World::led(3);
        let term = world.run(1).core.status().term;
        let all = (1..=3).map(|id| MembershipChange::Remove { id }).collect();
        let mut removed = world.change_all(asked, all, None);
        assert!(matches!(world.answer(&mut removed), Err(Error::Refused(Refusal::LastVoter(_)))));
        assert_eq!(
            (world.leader(), world.run(1).core.status().term),
            (Some(1), term),
            "leadership goes round"
        );
    }
}

#[test]
fn a_leader_that_is_removed_with_others_hands_over_to_one_that_stays() {
    let mut world = World::led(5);
    let changes = [1, 3, 4, 5].map(|id| MembershipChange::Remove { id }).to_vec();
    let mut removed = world.change_all(2, changes, Some("the test wants one member"));
    assert!(world.answer(&mut removed).is_ok());
    assert_eq!(world.leader(), Some(2));
    assert_eq!(world.run(2).core.status().term, 3, "one transfer");
}

#[test]
fn a_leader_that_dies_in_a_joint_configuration_is_followed_by_one_that_leaves_it() {
    // It dies when the entry that enters is where it is, and no further.
    for committed in [false, true] {
        let mut world = World::led(5);
        world.wire.intercept(move |_, message| match message.get_msg_type() {
            // The entry that leaves has no changes.
            MessageType::MsgAppend if message.entries.iter().any(leaves) => Fate::Drop,
            MessageType::MsgAppendResponse if !committed => Fate::Drop,
            _ => Fate::Deliver,
        });
        let changes = vec![MembershipChange::Remove { id: 4 }, MembershipChange::Remove { id: 5 }, add(6)];
        let mut swapped = world.change_all(2, changes, None);
        world.settle();
        let joint = |world: &World, id| {
            !world.run(id).core.raft().raft.prs().conf().to_conf_state().voters_outgoing.is_empty()
        };
        assert_eq!(joint(&world, 1), committed);
        assert_eq!(swapped.answer(), None);
        world.crash(1);
        world.wire.forget();
        assert!(world.answer(&mut swapped).is_ok(), "committed: {committed}");
        let leader = world.leader().expect("a leader");
        assert!(!joint(&world, leader));
        world.put(leader, "after");
        world.restart(1);
        world.tick_until("the first one knows", |world| world.list(1).removed == [4, 5]);
        assert!(!joint(&world, 1));
        world.assert_agreement();
    }
}

#[test]
fn a_member_restarts_in_a_joint_configuration() {
    let mut world = World::led_with(3, |config| config.snapshot_bytes = 1);
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgAppend if message.entries.iter().any(leaves) => Fate::Drop,
        _ => Fate::Deliver,
    });
    let changes = vec![MembershipChange::Remove { id: 3 }, add(4)];
    let mut swapped = world.change_all(1, changes, None);
    world.ticks(2);
    for id in [1, 2, 3] {
        world.crash(id);
    }
    world.wire.forget();
    for id in [1, 2, 3] {
        world.restart(id);
    }
    world.tick_until("it is left", |world| world.list(2).removed == [3]);
    assert!(matches!(swapped.answer(), None | Some(Err(Error::Unknown { .. }))));
    assert!(world.list(2).members.iter().all(|member| !member.leaving));
}

#[test]
fn changes_that_endanger_the_quorum_need_a_reason() {
    let mut world = World::led(3);
    world.crash(3);
    world.ticks(16);
    // Of 1 and 3 only one would answer.
    let lost = Refusal::LosesQuorum { voters: vec![1, 3], active: vec![1] };
    let mut removed = world.remove_member(2, 2);
    assert_eq!(world.answer(&mut removed), Err(refused(lost)));
    // The one that is away may go.
    let mut removed = world.remove_member(2, 3);
    assert!(world.answer(&mut removed).is_ok());
    // A learner that was never there is not made a voter,
    let mut added = world.add_member(1, 4);
    world.answer(&mut added).expect("it is added");
    world.ticks(15);
    let promote = vec![MembershipChange::Promote { id: 4 }];
    let mut promoted = world.change_all(2, promote.clone(), None);
    assert_eq!(world.answer(&mut promoted), Err(refused(Refusal::NotCaughtUp(4))));
    // but for a reason, which everybody gets to know.
    world.begin_transcript();
    let mut promoted = world.change_all(2, promote, Some("it is on its way"));
    assert!(world.answer(&mut promoted).is_ok());
    assert!(world.run(1).core.raft().raft.prs().conf().voters().contains(4));
    assert!(world.seen("1: write", "by force: it is on its way") > 0, "{}", world.transcript_end());
}

#[test]
fn a_new_leader_waits_before_it_refuses() {
    let mut world = World::led(3);
    world.crash(1);
    world.elect_after_silence(2);
    world.restart(1);
    // It has not heard of member 1 since.
    let mut removed = world.remove_member(2, 3);
    assert!(matches!(world.answer(&mut removed), Ok(ChangeOutcome::Applied { .. })));
}

#[test]
fn leadership_goes_where_it_is_asked_to() {
    for asked_at in 1..=3 {
        let mut world = World::led(3);
        world.ticks(2);
        let mut transferred = world.transfer(asked_at, Some(3));
        assert_eq!(world.answer(&mut transferred), Ok(3), "asked at {asked_at}");
        assert!(world.is_leader(3));
        let mut again = world.transfer(asked_at, Some(3));
        assert_eq!(world.answer(&mut again), Ok(3));
        let mut anywhere = world.transfer(asked_at, None);
        let leader = world.answer(&mut anywhere).expect("somebody leads");
        assert!(leader != 3 && world.is_leader(leader));
    }
}

#[test]
fn leadership_that_cannot_go_there_stays() {
    let mut world = World::led(3);
    world.start_joiner(4);
    world.wire.intercept(nothing_for(4));
    let mut added = world.add_member(1, 4);
    world.answer(&mut added).expect("it is added");
    world.ticks(15);
    for (to, refusal) in [(4, Refusal::NotTakenOver { to: 4, leader: 1 }), (9, Refusal::Unknown(9))] {
        let mut asked = world.transfer(2, Some(to));
        assert_eq!(world.answer(&mut asked), Err(refused(refusal)));
    }
    // One that answers and does not get far enough to take over.
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgTimeoutNow => Fate::Drop,
        _ => Fate::Deliver,
    });
    let mut asked = world.transfer(2, Some(3));
    assert_eq!(world.answer(&mut asked), Err(refused(Refusal::NotTakenOver { to: 3, leader: 1 })));
    world.wire.forget();
    world.put(1, "it leads on");
    let mut single = World::led(1);
    let mut asked = single.transfer(1, None);
    assert!(matches!(single.answer(&mut asked), Err(Error::Refused(Refusal::Invalid(_)))));
    // Who is cut off is not asked.
    world.wire.cut.insert(2);
    world.ticks(16);
    let mut asked = world.transfer(1, Some(2));
    assert_eq!(world.answer(&mut asked), Err(refused(Refusal::NotTakenOver { to: 2, leader: 1 })));
}

#[test]
fn a_removed_member_that_starts_again_disturbs_nobody() {
    let mut world = World::led(3);
    world.wire.cut.insert(3);
    let mut removed = world.remove_member(1, 3);
    world.answer(&mut removed).expect("it is removed");
    let term = world.status(1).term;
    // It does not know, and asks for votes that nobody gives; no term rises.
    world.ticks(60);
    world.crash(3);
    world.wire.cut.clear();
    // Nor when it comes back, and its messages are answered as if it belonged here.
    world.refuse_the_removed = false;
    world.restart(3);
    world.ticks(60);
    assert_eq!((world.status(1).term, world.status(2).term), (term, term));
    assert!(world.is_leader(1));
    world.refuse_the_removed = true;
    world.tick_until("its end", |world| world.members[&3].ended.is_some());
    assert!(matches!(world.members[&3].ended, Some(Ok(Exit::Removed))));
    assert_eq!(world.status(1).term, term);
}

#[test]
fn a_start_tells_the_others_where_the_member_is() {
    let mut world = World::led_with(3, |config| {
        let client_urls = vec![format!("http://client-{}:80", config.id)];
        config.announce = Some(Announcement { peer_urls: Vec::new(), client_urls });
    });
    for id in 1..=3 {
        world.put(id, "a");
    }
    world.ticks(2);
    let clients =
        |world: &World, at| world.list(at).members.iter().map(|m| m.client_urls.clone()).collect::<Vec<_>>();
    let all = [1, 2, 3].map(|id| vec![format!("http://client-{id}:80")]);
    assert_eq!(clients(&world, 1), all);
    assert_eq!(clients(&world, 3), all);
    // It comes back elsewhere.
    world.crash(2);
    world.member(2).config.announce =
        Some(Announcement { peer_urls: vec![url(22)], client_urls: vec!["http://client-22:80".into()] });
    world.restart(2);
    world.tick_until("it is heard of", |world| {
        world.members[&1].told.as_ref().is_some_and(|list| list.members[1].peer_urls == [url(22)])
    });
    assert_eq!(clients(&world, 3)[1], ["http://client-22:80"]);
}
