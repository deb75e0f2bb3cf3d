//! The behaviours that raftexample's own tests show, of members that run for real.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;

use bytes::Bytes;
use kvd_node::{Applied, Error, Exit, Role};
use kvd_vfs::MemDisk;

use crate::common::threads::Cluster;
use crate::common::{Asked, Journal, LONG, World};

type Answer = Pin<Box<dyn Future<Output = Result<Applied, Error>> + Send>>;

#[test]
fn proposing_from_within_apply_does_not_deadlock() {
    let mut cluster = Cluster::new(1);
    let (answers, answered) = mpsc::channel::<Answer>();
    let handle = cluster.handle(1).clone();
    cluster.members[&1].journal.watch(move |command| {
        if command.len() < 5 {
            let longer = [command, &b"+"[..]].concat();
            answers.send(Box::pin(handle.propose(longer.into(), LONG))).expect("the test listens");
        }
    });
    cluster.put(1, "a");
    for _ in 0..4 {
        let mut next = Asked::new(cluster.until("a proposal from within", |_| answered.try_recv().ok()));
        cluster.answer(&mut next).expect("it is applied");
    }
    assert_eq!(cluster.members[&1].journal.text(), ["a", "a+", "a++", "a+++", "a++++"]);
}

#[test]
fn a_task_that_proposes_whenever_it_sees_a_result_does_not_deadlock() {
    let mut cluster = Cluster::new(3);
    let handles: Vec<_> = cluster.members.values().map(|member| member.handle.clone()).collect();
    let mut all = Asked::new(async move {
        for round in 0..10 {
            for handle in &handles {
                handle.propose(Bytes::from(round.to_string()), LONG).await?;
            }
        }
        Ok(())
    });
    cluster.answer(&mut all).expect("every proposal is applied");
    assert_eq!(
        cluster.until("all of it", |c| Some(c.members[&1].journal.text()).filter(|t| t.len() == 30))[29],
        "9"
    );
}

#[test]
fn a_member_closed_before_it_replays_answers_its_waiters_and_can_be_opened_again() {
    let cluster = Cluster::new(0);
    let (disk, journal) = (MemDisk::new(), Journal::default());
    for _ in 0..3 {
        let node = cluster.open(1, disk.disk(), &journal).expect("it opens");
        let handle = node.handle();
        let mut put = Asked::new(handle.propose(Bytes::from_static(b"a"), LONG));
        let mut read = Asked::new(handle.read_index(LONG));
        assert_eq!((put.answer(), read.answer()), (None, None));
        drop(node);
        assert!(matches!(put.error(), Error::Stopped | Error::Unknown { .. }));
        assert_eq!(read.error(), Error::Stopped);
        assert_eq!(Asked::new(handle.propose(Bytes::from_static(b"a"), LONG)).error(), Error::Stopped);
    }
    assert_eq!(journal.text(), [""; 0]);
}

#[test]
fn a_member_told_to_stop_before_its_first_turn_stops() {
    let mut cluster = Cluster::new(1);
    let mut asked = cluster.propose(1, "a");
    cluster.handle(1).shutdown();
    let (handle, journal) = (cluster.handle(1).clone(), cluster.members[&1].journal.clone());
    assert!(matches!(cluster.end(1), Ok(Exit::Shutdown)));
    // It had until the end of the grace to be applied.
    match asked.answer().expect("an answer") {
        Ok(_) => assert_eq!(journal.text(), ["a"]),
        Err(error) => assert_eq!((error, journal.text().len()), (Error::Stopped, 0)),
    }
    assert_eq!(Asked::new(handle.propose(Bytes::from_static(b"b"), LONG)).error(), Error::Stopped);
    assert_eq!(Asked::new(handle.read_index(LONG)).error(), Error::Stopped);
}

#[test]
fn closing_while_proposals_are_in_flight_gives_each_waiter_one_true_answer() {
    for killed in [false, true] {
        let mut cluster = Cluster::new(1);
        cluster.put(1, "first");
        let mut asked: Vec<_> =
            (0..50).map(|i| (i.to_string(), cluster.propose(1, &i.to_string()))).collect();
        let disk = cluster.members[&1].disk.clone();
        if killed {
            // Some of it is on its way when it ends.
            cluster.answer(&mut asked[0].1).expect("it is applied");
            asked.extend((50..99).map(|i| (i.to_string(), cluster.propose(1, &i.to_string()))));
            cluster.kill(1);
        } else {
            cluster.handle(1).shutdown();
            assert!(matches!(cluster.end(1), Ok(Exit::Shutdown)));
        }
        cluster.start(1, disk);
        cluster.put(1, "last");
        for (command, asked) in &mut asked {
            let times = cluster.members[&1].journal.count(command);
            match asked.answer().expect("an answer") {
                Ok(_) => assert_eq!(times, 1, "{command} was acknowledged"),
                Err(Error::Unknown { .. }) => assert!(times <= 1, "{command}"),
                Err(error) => assert_eq!(times, 0, "{command}: {error}"),
            }
        }
    }
}

#[test]
fn what_was_put_at_one_member_is_got_at_each() {
    let mut cluster = Cluster::new(3);
    for put_at in 1..=3 {
        let command = format!("from {put_at}");
        cluster.put(put_at, &command);
        for get_at in 1..=3 {
            let mut read = Asked::new(cluster.handle(get_at).read_index(LONG));
            cluster.answer(&mut read).expect("a read");
            assert_eq!(
                cluster.members[&get_at].journal.count(&command),
                1,
                "put at {put_at}, got at {get_at}"
            );
        }
    }
}

#[test]
fn members_that_are_killed_one_after_the_other_keep_everything() {
    let mut cluster = Cluster::with(3, |config| (config.snapshot_bytes, config.catch_up_bytes) = (400, 100));
    let mut commands = Vec::new();
    for round in 0..6 {
        for i in 0..5 {
            commands.push(format!("{round}.{i}"));
            cluster.put(1 + i % 3, &format!("{round}.{i}"));
        }
        let id = 1 + round % 3;
        let disk = cluster.kill(id);
        cluster.start(id, disk);
    }
    for id in 1..=3 {
        let mut read = Asked::new(cluster.handle(id).read_index(LONG));
        cluster.answer(&mut read).expect("a read");
        assert_eq!(cluster.members[&id].journal.text(), commands);
    }
}

#[test]
fn a_node_is_added_to_a_running_cluster() {
    let mut world = World::led(3);
    world.put(1, "a");
    world.join(2, 4);
    world.put(4, "b");
    world.settle();
    assert_eq!(world.journal(4).text(), ["a", "b"]);
    world.assert_agreement();
}

#[test]
fn a_joiner_that_is_restarted_does_not_bootstrap() {
    let mut world = World::led(3);
    world.put(1, "a");
    world.start_joiner(4);
    // Nobody has added it yet, and it waits, as often as it is started.
    for _ in 0..2 {
        world.ticks(50);
        assert_eq!(
            (world.status(4).role, world.status(4).term, world.status(4).leader),
            (Role::Follower, 0, None)
        );
        assert!(world.handle(4).membership().members.is_empty());
        world.crash(4);
        world.restart(4);
    }
    let mut added = world.add_member(1, 4);
    world.answer(&mut added).expect("it is added");
    world.tick_until("a voter", |world| world.is_voter(4));

    // Without the others it is no cluster of its own, and it still knows whose it is.
    (1..=4).for_each(|id| world.crash(id));
    world.restart(4);
    world.ticks(100);
    let status = world.status(4);
    assert_eq!((status.cluster_id, status.leader), (world.cluster_id(), None));
    assert_eq!(world.handle(4).membership().members.len(), 4);
    (1..=3).for_each(|id| world.restart(id));
    world.tick_until("a leader", |world| world.leader().is_some());
    world.put(4, "b");
    world.assert_agreement();
}
