//! Protocol scenarios as transcripts: what each member asked for and what reached it, in order.
//!
//! The texts are in `tests/golden`. After a change that is meant, run with `KVD_BLESS=1` and read the difference.

use std::path::PathBuf;

use raft::eraftpb::MessageType;

use crate::common::{Fate, World};

/// Compares the world's transcript with the text of that name.
#[track_caller]
fn assert_golden(name: &str, world: &World) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    let text = world.transcript.join("\n") + "\n";
    if std::env::var_os("KVD_BLESS").is_some() {
        std::fs::write(&path, text).expect("the golden text is written");
        return;
    }
    let golden = std::fs::read_to_string(&path).expect("there is a golden text; make it with KVD_BLESS=1");
    if golden != text {
        let line = golden.lines().zip(text.lines()).position(|(a, b)| a != b);
        let at = line.unwrap_or(golden.lines().count().min(text.lines().count()));
        panic!(
            "{} differs from line {}:\n-{}\n+{}",
            path.display(),
            at + 1,
            golden.lines().nth(at).unwrap_or("(end)"),
            text.lines().nth(at).unwrap_or("(end)")
        );
    }
}

#[test]
fn three_members_elect_a_leader() {
    let mut world = World::new(3);
    world.tick_until("a leader", |world| world.leader().is_some());
    assert_golden("election", &world);
}

#[test]
fn a_commit_index_reaches_the_log_with_the_next_write() {
    let mut world = World::led(3);
    world.begin_transcript();
    world.put(1, "a");
    world.put(1, "b");
    assert_golden("commit", &world);
}

#[test]
fn a_joiner_is_sent_a_snapshot_that_knows_of_it_and_is_promoted() {
    let mut world = World::led_with(1, |config| (config.snapshot_bytes, config.catch_up_bytes) = (100, 0));
    for command in ["a", "b", "c", "d", "e", "f"] {
        world.put(1, command);
    }
    world.start_joiner(2);
    world.begin_transcript();
    let mut added = world.add_member(1, 2);
    world.answer(&mut added).expect("it is added");
    world.tick_until("a voter", |world| world.is_voter(2));
    assert_golden("joiner", &world);
}

#[test]
fn a_forwarded_proposal_that_is_lost_is_sent_again() {
    let mut world = World::led(3);
    world.begin_transcript();
    let mut lost = false;
    world.wire.intercept(move |_, message| {
        let loses = message.get_msg_type() == MessageType::MsgPropose && !lost;
        lost |= loses;
        if loses { Fate::Drop } else { Fate::Deliver }
    });
    let mut asked = world.propose(2, "a");
    world.answer(&mut asked).expect("it is applied");
    assert_golden("lost-forward", &world);
}

#[test]
fn a_read_round_that_is_lost_is_begun_again_under_another_context() {
    let mut world = World::led(3);
    world.begin_transcript();
    let mut lost = false;
    world.wire.intercept(move |_, message| {
        let loses = message.get_msg_type() == MessageType::MsgReadIndex && !lost;
        lost |= loses;
        if loses { Fate::Drop } else { Fate::Deliver }
    });
    let mut asked = world.read(2);
    world.answer(&mut asked).expect("it is confirmed");
    assert_golden("lost-read", &world);
}

#[test]
fn what_waited_for_a_leader_is_handed_to_it_once() {
    let mut world = World::new(3);
    let _at_the_leader = (world.propose(1, "a"), world.read(1));
    let _at_a_follower = (world.propose(2, "b"), world.read(2));
    world.elect(1);
    assert_golden("waited", &world);
}

#[test]
fn a_rejection_that_arrives_after_its_follower_has_caught_up_is_ignored() {
    let mut world = World::led(3);
    world.wire.cut.insert(3);
    world.put(1, "a");
    world.crash(1);
    world.wire.cut.clear();
    let mut held = false;
    world.wire.intercept(move |_, message| {
        let holds = message.reject && message.get_msg_type() == MessageType::MsgAppendResponse && !held;
        held |= holds;
        if holds { Fate::Hold } else { Fate::Deliver }
    });
    world.begin_transcript();
    world.elect_after_silence(2);
    world.tick_until("the rest", |world| world.journal(3).count("a") == 1);
    world.release();
    world.put(2, "b");
    assert_golden("late-rejection", &world);
}
