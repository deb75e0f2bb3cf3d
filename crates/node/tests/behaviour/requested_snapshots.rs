//! Snapshots that somebody asked for.

use std::time::Duration;

use kvd_node::{Config, Error};

use crate::common::member::Held;
use crate::common::{Asked, LONG, World};

/// How many requests may wait.
fn bound() -> usize {
    Config::new(1).limits.snapshots
}

#[test]
fn a_snapshot_that_was_asked_for_holds_what_was_applied_when_it_was() {
    let mut world = World::led(3);
    for id in 1..=3 {
        world.put(id, "command");
        let applied = world.status(id).applied;
        assert!(world.status(id).snapshot < applied);
        assert_eq!(world.snapshot_within(id, LONG).granted(), applied, "at a leader and at followers");
        assert_eq!(world.status(id).snapshot, applied);
        assert!(!world.in_snapshot(id, applied).is_empty());
    }
}

#[test]
fn what_is_on_record_is_not_written_again() {
    let mut world = World::led(1);
    world.put(1, "command");
    let index = world.snapshot_within(1, LONG).granted();
    world.begin_transcript();
    assert_eq!(world.snapshot_within(1, LONG).granted(), index);
    assert_eq!(world.seen("1:", "save snapshot"), 0);
}

#[test]
fn a_request_during_a_snapshot_waits_for_the_next() {
    let mut world = World::led(1);
    world.put(1, "before");
    world.hold(1, Held { saves: true, ..Held::default() });
    let mut first = world.snapshot_within(1, LONG);
    world.put(1, "after");
    let mut second = world.snapshot_within(1, LONG);
    assert_eq!((first.answer(), second.answer()), (None, None));
    world.hold(1, Held::default());
    world.settle();
    assert!(first.granted() < second.granted());
    assert_eq!(second.granted(), world.status(1).applied);
}

#[test]
fn requests_are_bounded_and_answered_at_their_deadline_or_at_the_end() {
    let mut world = World::led(1);
    world.put(1, "command");
    world.hold(1, Held { saves: true, ..Held::default() });
    let second = Duration::from_secs(1);
    let mut waiting: Vec<Asked<u64>> = (1..bound()).map(|_| world.snapshot_within(1, second)).collect();
    let mut last = world.snapshot_within(1, LONG);
    assert_eq!(last.answer(), None, "as many as may wait");
    assert_eq!(world.snapshot_within(1, LONG).error(), Error::Overloaded, "and one more");
    world.tick_until("the deadline", |_| waiting[0].answer().is_some());
    for asked in &mut waiting {
        assert!(matches!(asked.error(), Error::Unknown { .. }));
    }
    assert_eq!(last.answer(), None);
    world.handle(1).shutdown();
    world.tick_until("the end", |_| last.answer().is_some());
    assert_eq!(last.error(), Error::Stopped);
}
