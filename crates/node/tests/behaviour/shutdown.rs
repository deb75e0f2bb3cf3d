//! How members stop.

use kvd_node::{Error, Exit, Role};

use crate::common::threads::Cluster;
use crate::common::{TICK, World};

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
