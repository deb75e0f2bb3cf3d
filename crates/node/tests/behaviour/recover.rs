//! One member's directory becomes a cluster of its own.

use std::path::Path;

use kvd_node::{Exit, Fatal, Home, Known, Recovery, Role, Start};
use kvd_vfs::MemDisk;

use crate::common::journal::Journal;
use crate::common::member::DIR;
use crate::common::{Fate, World};
use raft::eraftpb::MessageType;

/// A cluster of three that has lost members 1 and 3. Member 2 has one entry that nobody knows to be committed.
fn lost() -> World {
    let mut world = World::led_with(3, |config| config.snapshot_bytes = 600);
    for i in 0..40 {
        world.put(1, &i.to_string());
    }
    // 2 gets the entry, and does not get to know that it is committed.
    world.wire.intercept(|_, message| match message.get_msg_type() {
        MessageType::MsgAppend if message.entries.is_empty() => Fate::Drop,
        MessageType::MsgHeartbeat => Fate::Drop,
        MessageType::MsgAppend if message.to == 3 => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.put(1, "acknowledged");
    for id in [1, 2, 3] {
        world.crash(id);
    }
    world.wire.forget();
    world
}

fn plan(disk: &MemDisk) -> Result<kvd_node::PlannedRecovery<Journal>, Fatal> {
    Home::open(disk.disk(), Path::new(DIR))?.plan_recovery(Journal::default(), 7)
}

fn known(disk: &MemDisk) -> Known {
    Home::open(disk.disk(), Path::new(DIR)).expect("open").known().expect("read").expect("a member")
}

/// Starts the new cluster and sees that it has everything.
fn check(world: &mut World, new_cluster: u64) {
    world.member(2).start = Start::Join { cluster_id: new_cluster };
    world.restart(2);
    world.tick_until("it leads", |world| world.status(2).role == Role::Leader);
    world.put(2, "after");
    let mut wanted: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    wanted.extend(["acknowledged".into(), "after".into()]);
    assert_eq!(world.journal(2).text(), wanted);
    let list = world.list(2);
    assert_eq!(list.cluster_id, new_cluster);
    assert_eq!(list.members.iter().map(|member| member.id).collect::<Vec<_>>(), [2]);
    assert_eq!(list.removed, [1, 3]);
    // Its log is one that it can start from again.
    world.crash(2);
    world.restart(2);
    world.tick_until("it leads again", |world| world.status(2).role == Role::Leader);
    assert_eq!(world.journal(2).text(), wanted);
}

#[test]
fn the_plan_says_what_is_kept_and_what_is_lost() {
    let world = lost();
    let disk = &world.members[&2].disk;
    let Recovery { member, old_cluster, new_cluster, last_index, commit, dropped, .. } =
        plan(disk).expect("a plan").recovery().clone();
    assert_eq!((member.id, old_cluster), (2, world.cluster_id()));
    assert_ne!(new_cluster, old_cluster);
    assert_eq!(last_index, commit + 1, "the last entry is not known to be committed");
    assert_eq!(dropped.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 3]);
    // Nothing has happened.
    assert_eq!(known(disk).identity.cluster_id, old_cluster);
    let other = Home::open(disk.disk(), Path::new(DIR)).expect("open");
    let other = other.plan_recovery(Journal::default(), 8).expect("a plan");
    assert_ne!(other.recovery().new_cluster, new_cluster);
}

#[test]
fn the_new_cluster_has_all_of_the_members_log() {
    let mut world = lost();
    let planned = plan(&world.members[&2].disk).expect("a plan");
    let new_cluster = planned.recovery().new_cluster;
    planned.carry_out().expect("it is carried out");
    check(&mut world, new_cluster);
}

#[test]
fn a_power_failure_at_any_step_leaves_the_old_member_or_the_new_one() {
    let operations = {
        let world = lost();
        let disk = &world.members[&2].disk;
        let before = disk.operations();
        plan(disk).expect("a plan").carry_out().expect("it is carried out");
        disk.operations() - before
    };
    let mut ends = [0, 0];
    for n in 1..=operations {
        let mut world = lost();
        let disk = world.members[&2].disk.clone();
        let old_cluster = world.cluster_id();
        disk.power_off_at(n);
        let ended = plan(&disk).and_then(|planned| planned.carry_out());
        assert!(ended.is_err() && disk.is_off(), "at operation {n} of {operations}: {ended:?}");
        disk.crash(n);
        let found = known(&disk).identity;
        assert_eq!(found.member_id, 2);
        let is_new = found.cluster_id != old_cluster;
        ends[usize::from(is_new)] += 1;
        if is_new {
            check(&mut world, found.cluster_id);
        } else {
            // The old member is as it was, and the next attempt succeeds.
            world.restart(2);
            world.crash(2);
            let planned = plan(&disk).expect("a plan");
            let new_cluster = planned.recovery().new_cluster;
            planned.carry_out().expect("it is carried out");
            check(&mut world, new_cluster);
        }
    }
    assert!(ends.iter().all(|count| *count > 0), "{ends:?} of {operations}");
}

#[test]
fn a_directory_without_a_cluster_begins_none() {
    let empty = MemDisk::new();
    assert!(matches!(plan(&empty), Err(Fatal::CannotRecover { .. })));
    // A member that was removed.
    let mut world = World::led(3);
    let mut removed = world.remove_member(1, 3);
    world.answer(&mut removed).expect("it is removed");
    world.tick_until("its end", |world| world.members[&3].ended.is_some());
    assert!(matches!(world.members[&3].ended, Some(Ok(Exit::Removed))));
    assert!(matches!(plan(&world.members[&3].disk), Err(Fatal::CannotRecover { .. })));
    // A joiner that never got anything.
    world.start_joiner(4);
    world.crash(4);
    assert!(matches!(plan(&world.members[&4].disk), Err(Fatal::CannotRecover { .. })));
    // A member that runs.
    assert!(matches!(plan(&world.members[&2].disk), Err(Fatal::Locked(_))));
}

#[test]
fn changes_behind_the_snapshot_count() {
    let mut world = World::led(3);
    world.join(1, 4);
    let changes =
        vec![kvd_node::MembershipChange::Remove { id: 2 }, kvd_node::MembershipChange::Remove { id: 3 }];
    let mut removed = world.change_all(1, changes, None);
    world.answer(&mut removed).expect("they are removed");
    world.put(1, "a");
    world.ticks(2);
    world.crash(4);
    let planned = plan(&world.members[&4].disk).expect("a plan");
    assert_eq!(planned.recovery().dropped.iter().map(|member| member.id).collect::<Vec<_>>(), [1]);
    planned.carry_out().expect("it is carried out");
    let list = known(&world.members[&4].disk).membership.expect("a list");
    assert_eq!(list.removed, [1, 2, 3]);
    assert!(!list.members[0].learner);
}
