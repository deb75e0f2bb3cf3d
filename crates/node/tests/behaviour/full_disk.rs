//! A disk without room: commands are refused with their reason, reads go on, and so do commands once there is room.

use std::time::Duration;

use kvd_node::Error;
use kvd_node::driver::Done;
use kvd_vfs::{MemDisk, Op};

use crate::common::member::Held;
use crate::common::{TICK, World};

/// What the log's preparer says.
fn say(world: &mut World, id: u64, full: bool) {
    world.run(id).inbox.done(Done::Room { full });
    world.settle();
}

#[test]
fn a_member_without_room_refuses_commands_and_serves_reads_until_there_is_room() {
    let mut world = World::led(1);
    let before = world.put(1, "before").index;
    say(&mut world, 1, true);
    let mut refused = world.propose(1, "while full");
    assert_eq!(world.answer(&mut refused), Err(Error::NoSpace));
    let mut read = world.read(1);
    assert_eq!(world.answer(&mut read), Ok(before));
    say(&mut world, 1, false);
    world.put(1, "after");
    assert_eq!(world.journal(1).text(), ["before", "after"]);
}

#[test]
fn a_leader_without_room_hands_over_to_a_member_that_has_it() {
    let mut world = World::led(3);
    assert_eq!(world.leader(), Some(1));
    say(&mut world, 1, true);
    world.tick_until("another leader", |world| world.leader().is_some_and(|leader| leader != 1));
    world.put(2, "through the others");
    // It is a follower like any other: what is left of its segment takes what it is sent.
    world.tick_until("the full member follows", |world| world.journal(1).text().len() == 1);
    let mut refused = world.propose(1, "at the full one");
    assert_eq!(world.answer(&mut refused), Err(Error::NoSpace));
}

#[test]
fn a_member_without_room_that_is_elected_hands_over_as_well() {
    let mut world = World::led(3);
    say(&mut world, 2, true);
    world.crash(1);
    world.elect_after_silence(2);
    world.tick_until("the member with room leads", |world| world.leader() == Some(3));
    world.put(3, "through the one with room");
}

#[test]
fn leadership_does_not_go_round_among_members_without_room() {
    let mut world = World::led(3);
    for id in 1..=3 {
        say(&mut world, id, true);
    }
    world.ticks(20);
    let (leader, term) = (world.leader().expect("one leads"), world.status(1).term);
    world.ticks(100);
    assert_eq!((world.leader(), world.status(1).term), (Some(leader), term));
    let mut read = world.read(leader);
    world.answer(&mut read).expect("reads go on");
}

#[test]
fn a_leader_without_room_takes_no_commands_of_others_but_changes_of_members() {
    let mut world = World::led(3);
    for id in 1..=3 {
        say(&mut world, id, true);
    }
    world.ticks(20);
    let leader = world.leader().expect("one leads, although it has no room");
    let [with_room, other] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    say(&mut world, with_room, false);
    let mut forwarded = world.propose_within(with_room, "forwarded", 20 * TICK);
    assert!(matches!(world.answer(&mut forwarded), Err(Error::Unknown { .. })));
    let mut removed = world.remove_member(with_room, other);
    world.answer(&mut removed).expect("the change is made");
    say(&mut world, leader, false);
    world.put(with_room, "with room");
    assert_eq!(world.journal(with_room).text().last().map(String::as_str), Some("with room"));
}

#[test]
fn a_snapshot_without_room_is_tried_again() {
    let mut world = World::led_with(1, |config| (config.snapshot_bytes, config.catch_up_bytes) = (200, 0));
    world.hold(1, Held { saves: true, ..Held::default() });
    for n in 0..20 {
        world.put(1, &format!("command {n}"));
    }
    let recorded = world.recorded(1);
    world.member(1).disk.fail_nth(Op::Write, 1, MemDisk::ENOSPC);
    world.hold(1, Held::default());
    world.settle();
    assert_eq!(world.recorded(1), recorded, "it was not taken");
    world.put(1, "it goes on");
    assert_eq!(world.recorded(1), recorded, "and is not tried again at once");
    let attempts = Duration::from_secs(6).as_nanos() / TICK.as_nanos();
    world.ticks(usize::try_from(attempts).expect("a few"));
    assert!(world.recorded(1) > recorded, "{:?}", world.recorded(1));
    world.crash(1);
    world.restart(1);
    world.elect(1);
    assert_eq!(world.journal(1).text().len(), 21);
}
