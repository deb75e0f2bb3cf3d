//! A peer's messages, decoded, validated and stepped into a bare raft of every role.
//!
//! ```text
//! role u8 | pieces: sender u8, then a message; an empty piece is a tick
//! ```
//! Whatever passes [`validate::message`] brings nothing down, and takes back no term, vote or commit.

use bytes::{Bytes, BytesMut};
use kvd_raftpb::{codec, validate};
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};

use crate::input::Input;
use crate::reference;

type Node = RawNode<MemStorage>;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut node = node_in(input.byte());
    while !input.is_empty() {
        let before = node.raft.hard_state();
        match input.piece() {
            [] => {
                // raft draws it from the thread's generator.
                node.raft.set_randomized_election_timeout(10);
                node.tick();
            }
            [sender, bytes @ ..] => offer(&mut node, u64::from(sender % 2) + 2, bytes),
        }
        if !settle(&mut node) {
            break;
        }
        never_back(&before, &node.raft.hard_state());
        // What a leader does after it applied its own removal is beyond messages: kvd stops it there.
        if node.raft.prs().get(1).is_none() && node.raft.state == StateRole::Leader {
            break;
        }
    }
}

fn offer(node: &mut Node, from: u64, bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    reference::compare_message(&bytes);
    let Ok(mut message) = codec::decode_message(bytes) else { return };
    let mut again = BytesMut::new();
    codec::encode_message(&message, &mut again);
    assert_eq!(codec::decode_message(again.freeze()).as_ref(), Ok(&message));
    if validate::message(&mut message, &validate::Rules::of(&node.raft, from)).is_ok() {
        // raft's refusals are answers.
        let _ = node.step(message);
    }
}

fn never_back(before: &HardState, now: &HardState) {
    assert!(now.term >= before.term, "a term went back");
    assert!(now.commit >= before.commit, "a commit was taken back");
    let revoted = now.term == before.term && before.vote != 0 && now.vote != before.vote;
    assert!(!revoted, "a second vote in one term");
}

/// Member 1 of one or three, with three entries behind its bootstrap, half of them committed.
fn node_in(role: u8) -> Node {
    let voters = if role & 4 == 0 { 3 } else { 1 };
    let storage = MemStorage::new_with_conf_state(((1..=voters).collect::<Vec<_>>(), vec![]));
    {
        let mut core = storage.wl();
        let entries: Vec<_> = (1..=4)
            .map(|index| {
                let mut entry = Entry::default();
                (entry.index, entry.term) = (index, 1);
                entry
            })
            .collect();
        core.append(&entries).expect("they follow each other");
        (core.mut_hard_state().term, core.mut_hard_state().commit) = (1, 2);
    }
    let config = Config {
        id: 1,
        election_tick: 10,
        heartbeat_tick: 1,
        check_quorum: true,
        pre_vote: role & 3 == 1,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 4,
        ..Config::default()
    };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, storage, &logger).expect("the configuration is sound");
    settle(&mut node);
    if role & 3 != 0 {
        node.campaign().expect("a follower campaigns");
        settle(&mut node);
    }
    if role & 3 == 3 && voters > 1 {
        let mut vote = Message::default();
        vote.set_msg_type(MessageType::MsgRequestVoteResponse);
        (vote.from, vote.to, vote.term) = (2, 1, node.raft.term);
        node.step(vote).expect("a vote is taken");
        settle(&mut node);
        // It has committed an entry of its own term, so it serves reads.
        let mut response = Message::default();
        response.set_msg_type(MessageType::MsgAppendResponse);
        (response.from, response.to, response.term) = (2, 1, node.raft.term);
        response.index = node.raft.raft_log.last_index();
        node.step(response).expect("an acknowledgement is taken");
        settle(&mut node);
        assert_eq!(node.raft.state, StateRole::Leader);
    }
    node
}

/// Handles everything that is ready, as a member does. False: a leader's snapshot contradicts what was committed, which
/// raft takes and this storage does not.
fn settle(node: &mut Node) -> bool {
    while node.has_ready() {
        let mut ready = node.ready();
        let store = node.store().clone();
        if !ready.snapshot().is_empty() && store.wl().apply_snapshot(ready.snapshot().clone()).is_err() {
            return false;
        }
        let mut committed = ready.take_committed_entries();
        store.wl().append(ready.entries()).expect("raft leaves no gap");
        if let Some(state) = ready.hs() {
            store.wl().set_hardstate(state.clone());
        }
        let mut light = node.advance(ready);
        if let Some(commit) = light.commit_index() {
            store.wl().mut_hard_state().commit = commit;
        }
        committed.extend(light.take_committed_entries());
        for entry in &committed {
            if entry.get_entry_type() != EntryType::EntryNormal {
                let change = codec::decode_conf_change(entry.get_entry_type(), &entry.data)
                    .expect("a change that cannot be decoded never reaches the log");
                // raft may refuse a change that does not fit its configuration; a member goes on.
                if let Ok(state) = node.apply_conf_change(&change) {
                    store.wl().set_conf_state(state);
                }
            }
        }
        node.advance_apply();
    }
    true
}
