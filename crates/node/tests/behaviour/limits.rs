//! Every bound, and every way in which a request can be answered that did not succeed.

use std::time::Duration;

use bytes::Bytes;
use kvd_node::Error;
use kvd_raftpb::peers::PeerHandler;

use crate::common::{Asked, LONG, TICK, World};

fn propose(world: &World, at: u64, len: usize) -> Asked<kvd_node::Applied> {
    Asked::new(world.handle(at).propose(Bytes::from(vec![b'x'; len]), LONG))
}

#[test]
fn a_command_may_be_as_long_as_its_limit() {
    let mut world = World::led_with(1, |config| config.limits.command_bytes = 1000);
    for len in [999, 1000] {
        let mut asked = propose(&world, 1, len);
        world.settle();
        asked.granted();
    }
    assert_eq!(propose(&world, 1, 1001).error(), Error::TooLarge { len: 1001, limit: 1000 });
}

#[test]
fn as_many_proposals_are_in_flight_as_their_limit() {
    // With a leader that cannot commit, so that all of them stay.
    let mut world = World::led_with(3, |config| config.limits.proposals = 10);
    world.wire.cut.insert(1);
    let mut all: Vec<_> = (0..10).map(|_| propose(&world, 1, 1)).collect();
    assert_eq!(propose(&world, 1, 1).error(), Error::Overloaded);
    world.settle();
    assert_eq!(propose(&world, 1, 1).error(), Error::Overloaded, "handed over, and still in flight");
    world.wire.cut.clear();
    for asked in &mut all {
        world.answer(asked).expect("it is applied");
    }
    world.tick();
    let mut next = propose(&world, 1, 1);
    world.answer(&mut next).expect("there is room again");
}

#[test]
fn as_many_bytes_are_in_flight_as_their_limit() {
    let mut world = World::led_with(3, |config| config.limits.proposal_bytes = 100);
    world.wire.cut.insert(1);
    let _most = propose(&world, 1, 99);
    world.settle();
    assert_eq!(propose(&world, 1, 2).error(), Error::Overloaded);
    assert_eq!(propose(&world, 1, 1).answer(), None);
    assert_eq!(propose(&world, 1, 1).error(), Error::Overloaded);
}

#[test]
fn as_many_reads_are_in_flight_as_their_limit() {
    let mut world = World::led_with(3, |config| config.limits.reads = 5);
    world.wire.cut.insert(2);
    let mut reads: Vec<_> = (0..5).map(|_| world.read(2)).collect();
    assert_eq!(world.read(2).error(), Error::Overloaded);
    world.wire.cut.clear();
    for read in &mut reads {
        world.answer(read).expect("it is confirmed");
    }
    world.tick();
    assert_eq!(world.read(2).answer().map(|answer| answer.is_ok()), Some(true));
}

#[test]
fn as_many_changes_are_in_flight_as_their_limit() {
    let mut world = World::led_with(3, |config| config.limits.changes = 3);
    world.wire.cut.insert(1);
    let mut changes: Vec<_> = (10..13).map(|id| world.add_member(1, id)).collect();
    assert_eq!(world.add_member(1, 13).error(), Error::Overloaded);
    world.wire.cut.clear();
    for change in &mut changes {
        world.answer(change).expect("it is applied");
    }
    let mut next = world.add_member(1, 13);
    world.answer(&mut next).expect("there is room again");
}

#[test]
fn without_a_leader_a_proposal_waits_until_its_deadline_and_is_never_proposed() {
    let mut world = World::new(3);
    world.tick();
    (2..=3).for_each(|id| world.crash(id));
    let mut early = world.propose_within(1, "early", TICK * 9);
    let mut late = world.propose_within(1, "late", TICK * 10);
    world.ticks(8);
    assert_eq!((early.answer(), late.answer()), (None, None));
    world.tick();
    assert_eq!((early.error(), late.answer()), (Error::NoLeader, None));
    world.tick();
    assert_eq!(late.error(), Error::NoLeader);
    let mut waits = world.propose(1, "waits");
    (2..=3).for_each(|id| world.restart(id));
    world.answer(&mut waits).expect("a leader came");
    assert_eq!(world.journal(1).text(), ["waits"]);
}

#[test]
fn a_proposal_without_a_result_is_unknown_at_its_deadline_and_not_before() {
    let mut world = World::led(3);
    world.wire.cut.insert(1);
    let mut asked = world.propose_within(1, "a", TICK * 10);
    world.ticks(9);
    assert_eq!(asked.answer(), None);
    world.tick();
    assert!(matches!(asked.error(), Error::Unknown { .. }));
    // Whether it happened is unknown, but it does not happen twice.
    world.wire.cut.clear();
    let mut next = world.propose(1, "b");
    world.answer(&mut next).expect("it is applied");
    assert!(world.journal(1).count("a") <= 1);
    world.assert_agreement();
}

#[test]
fn a_change_without_a_result_is_unknown_at_its_deadline() {
    let mut world = World::led(3);
    world.wire.cut.insert(1);
    let change = kvd_node::MembershipChange::Remove { id: 3 };
    let mut asked = Asked::new(world.handle(1).change_membership(change, TICK * 5));
    world.settle();
    world.ticks(4);
    assert_eq!(asked.answer(), None);
    world.tick();
    assert!(matches!(asked.error(), Error::Unknown { .. }));
}

#[test]
fn nobody_waits_for_a_member_that_is_gone() {
    let mut world = World::led(3);
    world.wire.cut.insert(1);
    let mut put = world.propose(1, "a");
    let mut read = world.read(1);
    let mut change = world.remove_member(1, 2);
    assert_eq!((put.answer(), read.answer(), change.answer()), (None, None, None));
    world.crash(1);
    assert!(matches!(put.error(), Error::Unknown { .. }));
    assert_eq!(read.error(), Error::Stopped);
    assert!(matches!(change.error(), Error::Unknown { .. }));
    assert_eq!(world.propose(1, "b").error(), Error::Stopped);
}

#[test]
fn a_member_that_was_removed_says_so_to_those_who_wait() {
    let mut world = World::led(3);
    world.wire.cut.insert(3);
    world.ticks(30);
    // Without a leader these were never proposed.
    let mut put = world.propose(3, "a");
    let mut read = world.read(3);
    let mut change = world.remove_member(3, 1);
    world.handle(3).removed();
    world.settle();
    assert_eq!((put.error(), read.error(), change.error()), (Error::Removed, Error::Removed, Error::Removed));
}

#[test]
fn an_answer_that_nobody_waits_for_any_longer_disturbs_nobody() {
    let mut world = World::led(1);
    drop(world.handle(1).propose(Bytes::from_static(b"a"), Duration::from_secs(1)));
    drop(world.handle(1).read_index(Duration::from_secs(1)));
    world.put(1, "b");
    assert_eq!(world.journal(1).text(), ["a", "b"]);
}
