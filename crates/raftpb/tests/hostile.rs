//! Whatever passes validation, raft takes without a panic: arbitrary messages into real nodes of every role.
//!
//! The messages are decoded from bytes, and their numbers are drawn close to the receiver's own, where the edges are.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec;
use kvd_raftpb::validate::{self, Reason, Rules};
use proptest::prelude::*;
use protobuf::ProtobufEnum as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
    Snapshot,
};
use raft::storage::MemStorage;
use raft::{Config, Raft, RawNode, StateRole};

type Node = RawNode<MemStorage>;

/// Member 1 of a cluster of that many, with three entries behind its bootstrap at index 1.
fn node(voters: u64, pre_vote: bool) -> Node {
    let storage = MemStorage::new_with_conf_state(((1..=voters).collect::<Vec<_>>(), vec![]));
    {
        let mut core = storage.wl();
        let entries: Vec<_> = (1..=4).map(|index| entry(index, 1)).collect();
        core.append(&entries).unwrap();
        (core.mut_hard_state().term, core.mut_hard_state().commit) = (1, 2);
    }
    let config = Config {
        id: 1,
        election_tick: 10,
        heartbeat_tick: 1,
        check_quorum: true,
        pre_vote,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 4,
        ..Config::default()
    };
    let mut node = RawNode::new(&config, storage, &slog::Logger::root(slog::Discard, slog::o!())).unwrap();
    settle(&mut node);
    node
}

fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry
}

/// Handles everything that is ready, as a member does.
fn settle(node: &mut Node) {
    while node.has_ready() {
        let mut ready = node.ready();
        let store = node.store().clone();
        if !ready.snapshot().is_empty() {
            store.wl().apply_snapshot(ready.snapshot().clone()).unwrap();
        }
        let mut committed = ready.take_committed_entries();
        store.wl().append(ready.entries()).unwrap();
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
                let change = codec::decode_conf_change(entry.get_entry_type(), &entry.data).unwrap();
                // raft may refuse a change that does not fit its configuration; a member goes on.
                if let Ok(state) = node.apply_conf_change(&change) {
                    store.wl().set_conf_state(state);
                }
            }
        }
        node.advance_apply();
    }
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

fn node_in(role: Role, voters: u64) -> Node {
    let mut node = node(voters, matches!(role, Role::PreCandidate));
    match role {
        Role::Follower => {}
        Role::PreCandidate | Role::Candidate => node.campaign().unwrap(),
        Role::Leader => {
            node.campaign().unwrap();
            settle(&mut node);
            if voters > 1 {
                let mut vote = Message::default();
                vote.set_msg_type(MessageType::MsgRequestVoteResponse);
                (vote.from, vote.to, vote.term) = (2, 1, node.raft.term);
                node.step(vote).unwrap();
                settle(&mut node);
                // It has committed an entry of its own term, so it serves reads.
                let mut response = Message::default();
                response.set_msg_type(MessageType::MsgAppendResponse);
                (response.from, response.to, response.term) = (2, 1, node.raft.term);
                response.index = node.raft.raft_log.last_index();
                node.step(response).unwrap();
            }
        }
    }
    settle(&mut node);
    node
}

/// A number near the receiver's own, or an extreme.
#[derive(Debug, Clone, Copy)]
enum Number {
    Zero,
    Near(i8),
    Max(u64),
    Any(u64),
}

impl Number {
    fn at(self, base: u64) -> u64 {
        match self {
            Self::Zero => 0,
            Self::Near(by) => base.saturating_add_signed(by.into()),
            Self::Max(below) => u64::MAX - below,
            Self::Any(n) => n,
        }
    }
}

fn number() -> impl Strategy<Value = Number> {
    prop_oneof![
        2 => Just(Number::Zero),
        12 => (-3_i8..4).prop_map(Number::Near),
        1 => (0_u64..2).prop_map(Number::Max),
        1 => any::<u64>().prop_map(Number::Any),
    ]
}

fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0_u64..5, 0..4)
}

#[derive(Debug, Clone)]
struct Draft {
    kind: i32,
    from: u64,
    own_from: bool,
    numbers: [Number; 9],
    bare_term: bool,
    reject: bool,
    priority: i64,
    context: bool,
    /// For each entry: type, whether index and term are what they should be, the numbers otherwise, and its ids.
    entries: Vec<(i32, bool, Number, Number, Vec<u64>)>,
    snapshot: Option<(Number, Number, [Vec<u64>; 4], bool)>,
}

prop_compose! {
    fn draft()(
        kind in 0..19_i32,
        from in 1..4_u64,
        own_from in prop::bool::weighted(0.95),
        numbers in prop::array::uniform9(number()),
        bare_term in prop::bool::weighted(0.9),
        reject in any::<bool>(),
        priority in -1_i64..2,
        context in any::<bool>(),
        entries in prop::collection::vec((0..3_i32, prop::bool::weighted(0.9), number(), number(), ids()), 0..4),
        snapshot in prop::option::weighted(0.8, (
            number(), number(), [ids(), ids(), ids(), ids()], prop::bool::weighted(0.2),
        )),
    ) -> Draft {
        Draft { kind, from, own_from, numbers, bare_term, reject, priority, context, entries, snapshot }
    }
}

impl Draft {
    /// The message, with its numbers around those of the receiver.
    fn message(&self, raft: &Raft<MemStorage>) -> Message {
        use MessageType::*;
        let [term, log_term, index, commit, commit_term, hint, request, _, priority] = self.numbers;
        let last = raft.raft_log.last_index();
        let mut message = Message::default();
        let kind = MessageType::from_i32(self.kind).unwrap();
        message.set_msg_type(kind);
        message.to = 1;
        message.from = if self.own_from { self.from } else { 3 };
        let bare = matches!(kind, MsgPropose | MsgReadIndex) == self.bare_term;
        message.term = if bare { 0 } else { term.at(raft.term).max(1) };
        message.index = index.at(last);
        message.log_term = match raft.raft_log.term(message.index) {
            Ok(right) if self.bare_term => right,
            _ => log_term.at(raft.term),
        };
        message.commit = commit.at(raft.raft_log.committed);
        message.commit_term = commit_term.at(raft.term);
        message.reject = self.reject;
        message.reject_hint = hint.at(last);
        if kind == MsgAppendResponse && self.reject {
            message.request_snapshot = if let Number::Near(_) = request { 0 } else { request.at(last) };
        }
        (message.priority, message.deprecated_priority) = (self.priority, priority.at(0));
        if self.context {
            message.context = Bytes::from_static(b"CampaignTransfer");
        }
        let first = message.index;
        let bare = kind == MsgPropose;
        let entries = self.entries.iter().zip(1..).map(|((kind, right, term, index, ids), nth)| {
            let mut entry = Entry::default();
            entry.set_entry_type(EntryType::from_i32(*kind).unwrap());
            entry.data = if *kind == 0 { Bytes::from_static(b"data") } else { change(ids) };
            if *kind == 1 {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            (entry.index, entry.term) = match (bare, right) {
                (true, true) => (0, 0),
                (false, true) => (first.wrapping_add(nth), message.term),
                (_, false) => (index.at(last), term.at(raft.term)),
            };
            entry
        });
        message.set_entries(entries.collect::<Vec<_>>().into());
        if matches!(kind, MsgReadIndex | MsgReadIndexResp) && self.bare_term {
            message.mut_entries().truncate(1);
        }
        if let (MsgSnapshot, Some((index, term, [voters, learners, outgoing, next], auto))) =
            (kind, &self.snapshot)
        {
            let mut state = ConfState::default();
            (state.voters, state.learners) = (voters.clone(), learners.clone());
            // Half of all snapshots are of a simple configuration, and mostly a right one.
            if self.context {
                state.voters.extend([1, 2]);
                state.voters.sort_unstable();
                state.voters.dedup();
                state.voters.retain(|id| *id != 0);
                state.learners.retain(|id| *id > 2 && !voters.contains(id));
            } else {
                (state.voters_outgoing, state.learners_next) = (outgoing.clone(), next.clone());
                state.auto_leave = *auto;
            }
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            (metadata.index, metadata.term) = (index.at(last), term.at(raft.term));
            if self.context {
                metadata.term = metadata.term.clamp(1, message.term.max(1));
            }
            metadata.set_conf_state(state);
            message.set_snapshot(snapshot);
        }
        let mut bytes = BytesMut::new();
        codec::encode_message(&message, &mut bytes);
        codec::decode_message(bytes.freeze()).unwrap()
    }
}

fn change(ids: &[u64]) -> Bytes {
    let mut change = ConfChangeV2::default();
    let single = |(nth, id): (usize, &u64)| {
        let mut single = ConfChangeSingle::default();
        single.node_id = *id;
        single.set_change_type(ConfChangeType::from_i32(((nth as u64 + id) % 3) as i32).unwrap());
        single
    };
    change.set_changes(ids.iter().enumerate().map(single).collect::<Vec<_>>().into());
    codec::encode_conf_change(&change).into()
}

thread_local! {
    /// How many messages raft got, by type; how many were refused.
    static SEEN: RefCell<([u32; 19], u32)> = const { RefCell::new(([0; 19], 0)) };
}

/// Steps the message if it passes. The connection is the draft's, whoever the message claims to be from.
fn offer(node: &mut Node, draft: &Draft) {
    let mut message = draft.message(&node.raft);
    let passed = validate::message(&mut message, &Rules::of(&node.raft, draft.from));
    SEEN.with_borrow_mut(|(taken, refused)| match passed {
        Ok(()) => taken[message.get_msg_type() as usize] += 1,
        Err(_) => *refused += 1,
    });
    if passed.is_ok() {
        let _ = node.step(message);
    }
}

/// Runs `drafts` against a member of every role. `together`: how many are stepped before a Ready is handled.
fn run(drafts: &[Draft], together: usize) {
    for voters in [1, 3] {
        for role in [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader] {
            let mut node = node_in(role, voters);
            for batch in drafts.chunks(together) {
                for draft in batch {
                    offer(&mut node, draft);
                }
                settle(&mut node);
                node.tick();
                settle(&mut node);
                // What a leader does after it applied its own removal is beyond messages: kvd stops it there.
                if node.raft.prs().get(1).is_none() && node.raft.state == StateRole::Leader {
                    break;
                }
            }
        }
    }
}

#[test]
fn what_passes_does_not_bring_raft_down() {
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let strategy = (prop::collection::vec(draft(), 1..40), 1..6_usize);
    proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
    .run(&strategy, |(drafts, together)| {
        run(&drafts, together);
        Ok(())
    })
    .unwrap();
    // The test is worth something only if raft got many messages of each type that may pass.
    SEEN.with_borrow(|(taken, refused)| {
        for kind in 0..19 {
            let local = [0, 1, 10, 11, 12].contains(&kind);
            assert_eq!(taken[kind] > 200, !local, "{kind}: {taken:?}, refused {refused}");
        }
        assert!(*refused > 1000);
    });
}

/// The panics that the rules stand in the way of are real: each of these messages brings an unprotected raft down.
#[test]
fn what_is_refused_would_bring_raft_down() {
    use MessageType::*;
    type Case = (&'static str, Role, u64, fn(&mut Message));
    let cases: [Case; 12] = [
        ("an empty proposal", Role::Leader, 3, |m| (m.term, m.msg_type) = (0, MsgPropose)),
        ("a proposal with a term", Role::Follower, 3, |m| {
            m.msg_type = MsgPropose;
            m.set_entries(vec![Entry::default()].into());
        }),
        ("a read without entries", Role::Leader, 3, |m| (m.term, m.msg_type) = (0, MsgReadIndex)),
        ("a heartbeat beyond the log", Role::Follower, 3, |m| (m.msg_type, m.commit) = (MsgHeartbeat, 99)),
        ("a gapped append", Role::Follower, 3, |m| {
            (m.msg_type, m.index, m.commit) = (MsgAppend, 50, 51);
            m.set_entries(vec![entry(51, 1)].into());
        }),
        ("entries out of order", Role::Follower, 3, |m| {
            (m.msg_type, m.index, m.log_term) = (MsgAppend, 4, 1);
            m.set_entries(vec![entry(2, 1), entry(9, 1)].into());
            m.commit = 6;
        }),
        ("an entry of term 0", Role::Follower, 3, |m| {
            (m.msg_type, m.index, m.log_term, m.commit) = (MsgAppend, 4, 1, 5);
            m.set_entries(vec![entry(5, 0)].into());
        }),
        ("a snapshot without voters", Role::Follower, 3, |m| {
            m.msg_type = MsgSnapshot;
            let metadata = m.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (9, 1);
            metadata.mut_conf_state().learners = vec![1];
        }),
        ("a snapshot with a doubtful role", Role::Follower, 3, |m| {
            m.msg_type = MsgSnapshot;
            let metadata = m.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (9, 1);
            (metadata.mut_conf_state().voters, metadata.mut_conf_state().learners) = (vec![1, 2], vec![2]);
        }),
        ("a snapshot that leaves no joint configuration", Role::Follower, 3, |m| {
            m.msg_type = MsgSnapshot;
            let metadata = m.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (9, 1);
            metadata.mut_conf_state().voters = vec![1, 2];
            metadata.mut_conf_state().auto_leave = true;
        }),
        ("a transfer passed on twice", Role::Follower, 3, |m| m.msg_type = MsgTransferLeader),
        ("an append response beyond arithmetic", Role::Leader, 3, |m| {
            (m.msg_type, m.index) = (MsgAppendResponse, u64::MAX);
        }),
    ];
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut wrong = Vec::new();
    for (name, role, voters, case) in cases {
        let mut node = node_in(role, voters);
        if matches!(role, Role::Follower) {
            // It knows a leader, to whom it would pass things on.
            let mut heartbeat = Message::default();
            heartbeat.set_msg_type(MsgHeartbeat);
            (heartbeat.from, heartbeat.to, heartbeat.term) = (2, 1, node.raft.term);
            node.step(heartbeat).unwrap();
            settle(&mut node);
        }
        let mut message = Message::default();
        (message.from, message.to, message.term) = (2, 1, node.raft.term);
        case(&mut message);
        let mut checked = message.clone();
        let passed = validate::message(&mut checked, &Rules::of(&node.raft, 2)).is_ok();
        let repaired = passed && checked != message;
        if passed && !repaired {
            wrong.push(format!("{name}: let through"));
        }
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = node.step(message);
            settle(&mut node);
        }));
        if stepped.is_ok() {
            wrong.push(format!("{name}: raft took it"));
        }
    }
    std::panic::set_hook(quiet);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A leader that applied its own removal panics at the next acknowledgement that commits something.
#[test]
fn a_leader_that_removed_itself_takes_no_acknowledgement() {
    let mut node = node_in(Role::Leader, 3);
    let mut removal = ConfChangeV2::default();
    let mut single = ConfChangeSingle::default();
    single.node_id = 1;
    single.set_change_type(ConfChangeType::RemoveNode);
    removal.set_changes(vec![single].into());
    node.propose(vec![], b"tail".to_vec()).unwrap();
    settle(&mut node);
    node.apply_conf_change(&removal).unwrap();
    let last_index = node.raft.raft_log.last_index();
    for from in [2, 3] {
        let mut response = Message::default();
        response.set_msg_type(MessageType::MsgAppendResponse);
        (response.from, response.to, response.term, response.index) = (from, 1, node.raft.term, last_index);
        let refused = validate::message(&mut response.clone(), &Rules::of(&node.raft, from)).unwrap_err();
        assert_eq!(refused.reason, Reason::NotAMember);
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.step(response)));
        assert_eq!(stepped.is_err(), from == 3, "the second acknowledgement commits");
    }
}

/// A joiner of term 0 cannot turn a pre-vote down: its answer would have to carry that term.
#[test]
fn a_joiner_is_not_asked_to_vote_for_an_empty_log() {
    let config = Config { id: 1, election_tick: 10, heartbeat_tick: 1, ..Config::default() };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut node = RawNode::new(&config, MemStorage::new(), &logger).unwrap();
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgRequestPreVote);
    (message.from, message.to, message.term, message.priority) = (2, 1, 1, -1);
    let refused = validate::message(&mut message.clone(), &Rules::of(&node.raft, 2)).unwrap_err();
    assert_eq!(refused.reason, Reason::EmptyCandidate);
    let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.step(message)));
    assert!(stepped.is_err());
}
