//! Snapshots: when they are taken, what they hold, and how they reach a member that needs one.

use std::path::Path;

use kvd_node::driver::Load;
use kvd_node::{Fatal, Role};
use kvd_vfs::MemDisk;
use raft::eraftpb::MessageType;

use crate::common::member::{DIR, Held};
use crate::common::{Fate, World};

/// A cluster that takes a snapshot every few commands and keeps hardly anything behind it.
fn eager(n: u64) -> World {
    World::led_with(n, |config| (config.snapshot_bytes, config.catch_up_bytes) = (200, 0))
}

fn put_many(world: &mut World, at: u64, n: usize) {
    for i in 0..n {
        world.put(at, &format!("command {i}"));
    }
}

#[test]
fn no_snapshot_is_taken_before_its_entries_are_applied() {
    let mut world = eager(3);
    for i in 0..100 {
        let written = world.transcript.len();
        world.put(1 + i % 3, &i.to_string());
        let lines: Vec<String> = world.transcript[written..].to_vec();
        for line in lines.iter().filter(|line| line.contains("saved ")) {
            let (id, index) = line.split_once(": saved ").expect("a line of a member");
            let (id, index): (u64, u64) =
                (id.parse().unwrap(), index.split('@').next().unwrap().parse().unwrap());
            assert!(index <= world.status(id).applied);
            let mut expected = world.journal(id).commands();
            expected.retain(|(at, _)| *at <= index);
            assert_eq!(world.in_snapshot(id, index), expected, "member {id}, index {index}");
        }
    }
    assert!((1..=3).all(|id| world.seen(&format!("{id}:"), "saved ") > 2));
}

#[test]
fn a_snapshot_holds_the_state_at_its_index_however_late_it_is_written() {
    let mut world = eager(1);
    world.hold(1, Held { saves: true, ..Held::default() });
    world.begin_transcript();
    put_many(&mut world, 1, 50);
    assert_eq!(world.seen("1:", "save snapshot"), 1, "one at a time");
    let index = world.run(1).effects.saves[0].0.index;
    let mut expected = world.journal(1).commands();
    world.hold(1, Held::default());
    world.settle();
    expected.retain(|(at, _)| *at <= index);
    assert!(!expected.is_empty() && expected.len() < 50);
    assert_eq!(world.in_snapshot(1, index), expected);
}

#[test]
fn a_snapshot_brings_back_state_members_and_sessions() {
    let mut world = eager(3);
    let mut removed = world.remove_member(1, 3);
    world.answer(&mut removed).expect("it is removed");
    // A forward is kept on the wire while a copy of it is applied.
    let copy = std::rc::Rc::new(std::cell::RefCell::new(None));
    let kept = copy.clone();
    world.wire.intercept(move |_, message| {
        if message.get_msg_type() == MessageType::MsgPropose {
            kept.borrow_mut().get_or_insert(message.clone());
        }
        Fate::Deliver
    });
    let applied = world.put(2, "once");
    world.wire.forget();
    put_many(&mut world, 1, 20);
    (1..=2).for_each(|id| world.crash(id));
    (1..=2).for_each(|id| world.restart(id));
    assert!(world.status(1).snapshot > applied.index, "{:?}", world.status(1));
    world.elect(1);
    let before = world.status(1).applied;
    let copy = copy.borrow_mut().take().expect("it was sent");
    world.wire.send(2, &copy);
    world.settle();
    assert!(world.status(1).applied > before, "the late copy is committed");
    assert_eq!((world.journal(1).count("once"), world.journal(1).text().len()), (1, 21));
    let list = world.handle(1).membership();
    assert_eq!((list.members.len(), list.removed.as_slice()), (2, &[3][..]));
    world.assert_agreement();
}

#[test]
fn a_follower_that_missed_a_compaction_gets_a_snapshot_and_its_waiters_their_answers() {
    let mut world = eager(3);
    // What member 2 sends arrives, and nothing reaches it.
    world.wire.intercept(|_, message| if message.to == 2 { Fate::Drop } else { Fate::Deliver });
    let mut covered: Vec<_> = (0..3).map(|i| world.propose(2, &format!("covered {i}"))).collect();
    put_many(&mut world, 1, 30);
    assert!(world.run(1).core.raft().store().first_index() > 10);
    assert!(covered.iter_mut().all(|asked| asked.answer().is_none()));
    world.wire.forget();
    world.begin_transcript();
    world.tick_until("the snapshot", |world| world.seen("2:", "loaded") == 1);
    for (i, asked) in covered.iter_mut().enumerate() {
        let applied = asked.granted();
        assert_eq!(applied.response, (i + 1).to_string(), "its result came with the snapshot");
    }
    world.ticks(20);
    assert_eq!(world.run(2).core.load(), (Load::default(), 0));
    world.put(2, "after");
    world.settle();
    assert_eq!(world.journal(2).text().len(), 34);
    world.assert_agreement();
}

#[test]
fn a_snapshot_that_is_lost_is_reported_and_sent_again() {
    let mut world = eager(3);
    world.wire.cut.insert(3);
    put_many(&mut world, 1, 30);
    let mut lost = 0;
    world.wire.intercept(move |_, message| {
        let loses = message.get_msg_type() == MessageType::MsgSnapshot && lost < 3;
        lost += u64::from(loses);
        if loses { Fate::Drop } else { Fate::Deliver }
    });
    world.wire.cut.clear();
    world.begin_transcript();
    world.tick_until("the state", |world| world.journal(3).text().len() == 30);
    assert_eq!(world.seen("1: lost to 3", "MsgSnapshot"), 3);
    world.assert_agreement();
}

#[test]
fn a_member_that_loses_power_while_it_takes_in_a_snapshot_begins_where_it_was() {
    // With every point at which it can: before the file is read back, before it is recorded, after.
    for point in 0..3 {
        let mut world = eager(3);
        world.put(1, "first");
        world.settle();
        world.wire.cut.insert(3);
        put_many(&mut world, 1, 30);
        world.wire.cut.clear();
        match point {
            0 => world.hold(3, Held { loads: true, ..Held::default() }),
            1 => world.hold(3, Held { writes: true, ..Held::default() }),
            _ => {}
        }
        world.begin_transcript();
        let reached = ["load snapshot", "record", "discard"][point];
        world.tick_until("the snapshot", |world| world.seen("3:", reached) > 0);
        world.crash(3);
        world.restart(3);
        world.tick_one(3);
        // Of the log before, the commit index need not have reached the disk.
        let known = if point == 2 { 25..=31 } else { 0..=1 };
        assert!(known.contains(&world.journal(3).text().len()), "{point}: {:?}", world.journal(3).text());
        world.tick_until("the rest", |world| world.journal(3).text().len() == 31);
        world.assert_agreement();
    }
}

#[test]
fn a_snapshot_file_that_the_log_never_recorded_is_not_used() {
    let mut world = eager(1);
    world.hold(1, Held { saves: true, ..Held::default() });
    put_many(&mut world, 1, 20);
    let recorded = world.recorded(1);
    world.hold(1, Held { writes: true, ..Held::default() });
    world.settle();
    assert_eq!((world.seen("1:", "saved"), world.recorded(1)), (1, recorded.clone()));
    world.crash(1);
    world.restart(1);
    assert_eq!(world.status(1).snapshot, recorded.last().expect("the first").1);
    let files = world.members[&1].disk.disk().list("/member/snap".as_ref()).expect("a directory");
    assert_eq!(files.len(), recorded.len(), "{files:?}");
    world.elect(1);
    assert_eq!(world.journal(1).text().len(), 20);
}

#[test]
fn a_snapshot_that_cannot_be_written_ends_the_member() {
    let mut world = eager(1);
    world.hold(1, Held { saves: true, ..Held::default() });
    put_many(&mut world, 1, 20);
    world.member(1).disk.fail_nth(kvd_vfs::Op::Write, 1, MemDisk::EIO);
    world.hold(1, Held::default());
    world.settle();
    assert!(matches!(world.members[&1].ended, Some(Err(Fatal::Snap(_)))));
    world.crash(1);
    world.restart(1);
    world.elect(1);
    assert_eq!(world.journal(1).text().len(), 20);
}

#[test]
fn a_damaged_newest_snapshot_is_set_aside_for_the_one_before() {
    let mut world = eager(1);
    put_many(&mut world, 1, 60);
    let [.., older, newest] = world.recorded(1)[..] else { panic!("two snapshots") };
    world.crash(1);
    let path = format!("/member/snap/{:016x}-{:016x}.snap", newest.0, newest.1);
    let disk = world.members[&1].disk.clone();
    let mut bytes = disk.read_file(path.as_ref()).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    disk.overwrite_file(path.as_ref(), bytes).expect("it is there");
    world.restart(1);
    assert_eq!(world.status(1).snapshot, older.1);
    world.elect(1);
    assert_eq!(world.journal(1).text().len(), 60);
}

#[test]
fn a_member_that_takes_in_a_snapshot_does_not_campaign_before_it_is_on_record() {
    let mut world = eager(3);
    world.wire.cut.insert(3);
    put_many(&mut world, 1, 30);
    world.wire.cut.clear();
    world.hold(3, Held { writes: true, ..Held::default() });
    world.begin_transcript();
    world.tick_until("a record on its way", |world| world.seen("3: write", "record") > 0);
    // Its leader is gone again, for longer than two elections, and its disk takes as long.
    world.wire.cut.insert(3);
    world.ticks(50);
    assert_eq!(world.status(3).role, Role::Follower);
    assert!(world.journal(3).text().len() > 20, "the state is in place");
    world.hold(3, Held::default());
    world.settle();
    world.tick_until("a campaign", |world| world.status(3).role == Role::Candidate);
    world.wire.cut.clear();
    let mut asked = world.propose(3, "after");
    world.answer(&mut asked).expect("it is applied");
    world.ticks(5);
    world.assert_agreement();
}

#[test]
fn a_member_without_a_snapshot_that_can_be_read_does_not_start_and_says_what_to_do() {
    let mut world = eager(1);
    put_many(&mut world, 1, 60);
    world.crash(1);
    let disk = world.members[&1].disk.clone();
    let dir = Path::new(DIR).join("snap");
    let names = disk.disk().list(&dir).expect("a directory");
    assert_eq!(names.len(), 2, "{names:?}");
    let mut kept = Vec::new();
    for name in &names {
        let path = dir.join(name);
        let bytes = disk.read_file(&path).expect("it is there");
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        disk.overwrite_file(&path, damaged).expect("it is there");
        kept.push((path, bytes));
    }
    // Each time: the log is never taken for that of a member that has nothing.
    for _ in 0..2 {
        let refused = world.member(1).restart().expect_err("there is nothing to start from");
        assert!(matches!(&refused, Fatal::NoSnapshot(at) if *at == dir), "{refused}");
        assert!(refused.to_string().contains("bring the files back"), "{refused}");
    }
    let names = disk.disk().list(&dir).expect("a directory");
    assert!(names.len() == 2 && names.iter().all(|name| name.ends_with(".snap.broken")), "{names:?}");
    for (path, bytes) in kept {
        disk.disk().rename(&path.with_extension("snap.broken"), &path).expect("it is brought back");
        disk.overwrite_file(&path, bytes).expect("it is there");
    }
    world.restart(1);
    world.elect(1);
    assert_eq!(world.journal(1).text().len(), 60);
}

#[test]
fn a_snapshot_with_another_conf_state_than_the_announced_one_is_refused() {
    let mut world = eager(3);
    world.wire.cut.insert(3);
    put_many(&mut world, 1, 30);
    let copy = std::rc::Rc::new(std::cell::RefCell::new(None));
    let kept = copy.clone();
    world.wire.intercept(move |_, message| match message.get_msg_type() {
        MessageType::MsgSnapshot => {
            kept.borrow_mut().get_or_insert(message.clone());
            Fate::Drop
        }
        _ => Fate::Deliver,
    });
    world.wire.cut.clear();
    world.tick_until("a snapshot", |_| copy.borrow().is_some());
    world.wire.forget();
    let mut message = copy.borrow_mut().take().expect("it was sent");
    message.mut_snapshot().mut_metadata().mut_conf_state().learners.push(9);
    world.begin_transcript();
    world.wire.send(1, &message);
    world.settle();
    assert_eq!((world.seen("3: load snapshot", ""), world.run(3).effects.loads.len()), (1, 0));
    assert_eq!((world.status(3).snapshot, world.journal(3).text().len()), (1, 0), "it is not put in place");
    // The next one is as it was announced.
    world.tick_until("the state", |world| world.journal(3).text().len() == 30);
    assert_eq!(world.run(3).core.raft().store().snapshot_metadata().get_conf_state().learners, [0; 0]);
    world.assert_agreement();
}
