//! Each rule of `validate`, by a message that it refuses and one next to it that it lets through.

use bytes::Bytes;
use kvd_raftpb::codec;
use kvd_raftpb::validate::{
    self, MAX_CONF_CHANGE_BYTES, MAX_MEMBERS, MAX_READ_CONTEXT_BYTES, MAX_TERM_JUMP, MAX_TERM_OR_INDEX,
    Reason, Rules,
};
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
    MessageType,
};
use raft::prelude::MessageType::*;

/// Member 1 at term 5 with a durable log of ten entries hears from member 2.
const RULES: Rules = Rules { local: 1, from: 2, term: 5, last_index: 10, persisted: 10, member: true };

fn of(message_type: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(message_type);
    message.to = 1;
    message.from = 2;
    message.term = 5;
    match message_type {
        MsgPropose => {
            message.term = 0;
            message.set_entries(vec![data(b"x")].into());
        }
        MsgReadIndex => {
            message.term = 0;
            message.set_entries(vec![data(b"context")].into());
        }
        MsgReadIndexResp => message.set_entries(vec![data(b"context")].into()),
        MsgAppend => (message.index, message.log_term) = (10, 5),
        MsgRequestVote | MsgRequestPreVote => (message.index, message.log_term) = (10, 4),
        MsgSnapshot => {
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (20, 5);
            metadata.set_conf_state(conf(&[1, 2, 3], &[4], &[], &[], false));
        }
        _ => {}
    }
    message
}

fn data(data: &'static [u8]) -> Entry {
    let mut entry = Entry::default();
    entry.data = Bytes::from_static(data);
    entry
}

fn entry(index: u64, term: u64) -> Entry {
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index, term);
    entry
}

fn conf(voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64], auto_leave: bool) -> ConfState {
    let mut state = ConfState::default();
    state.voters = voters.to_vec();
    state.learners = learners.to_vec();
    state.voters_outgoing = outgoing.to_vec();
    state.learners_next = next.to_vec();
    state.auto_leave = auto_leave;
    state
}

fn change(ids: impl IntoIterator<Item = u64>) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    let single = |id| {
        let mut single = ConfChangeSingle::default();
        single.node_id = id;
        single.set_change_type(ConfChangeType::AddLearnerNode);
        single
    };
    change.set_changes(ids.into_iter().map(single).collect::<Vec<_>>().into());
    change
}

fn conf_entry(data: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.data = data.into();
    entry
}

fn verdict(message: &Message) -> Result<Message, Reason> {
    verdict_by(message, RULES)
}

fn verdict_by(message: &Message, rules: Rules) -> Result<Message, Reason> {
    let mut copy = message.clone();
    validate::message(&mut copy, &rules).map(|()| copy).map_err(|invalid| {
        assert_eq!((invalid.sender, invalid.message_type), (rules.from, message.get_msg_type()));
        assert!(invalid.to_string().contains("from member 2 refused"), "{invalid}");
        invalid.reason
    })
}

/// `change` makes a message of that type pass or be refused.
fn with(message_type: MessageType, change: impl FnOnce(&mut Message)) -> Result<Message, Reason> {
    let mut message = of(message_type);
    change(&mut message);
    verdict(&message)
}

const REMOTE: [MessageType; 14] = [
    MsgPropose,
    MsgAppend,
    MsgAppendResponse,
    MsgRequestVote,
    MsgRequestVoteResponse,
    MsgSnapshot,
    MsgHeartbeat,
    MsgHeartbeatResponse,
    MsgTransferLeader,
    MsgTimeoutNow,
    MsgReadIndex,
    MsgReadIndexResp,
    MsgRequestPreVote,
    MsgRequestPreVoteResponse,
];

#[test]
fn the_plain_message_of_each_type_passes_unchanged() {
    for message_type in REMOTE {
        let message = of(message_type);
        let passed = verdict(&message).unwrap_or_else(|e| panic!("{message_type:?}: {e}"));
        if message_type != MsgTransferLeader {
            assert_eq!(passed, message, "{message_type:?}");
        }
    }
}

#[test]
fn local_messages_are_refused() {
    for message_type in [MsgHup, MsgBeat, MsgUnreachable, MsgSnapStatus, MsgCheckQuorum] {
        assert_eq!(verdict(&of(message_type)), Err(Reason::Local), "{message_type:?}");
    }
}

#[test]
fn a_message_for_another_member_is_refused() {
    for message_type in REMOTE {
        for to in [0, 2, 3] {
            assert_eq!(with(message_type, |m| m.to = to), Err(Reason::Recipient(to)), "{message_type:?}");
        }
    }
}

#[test]
fn only_forwarded_messages_come_from_somebody_else() {
    for message_type in REMOTE {
        let forwarded = matches!(message_type, MsgPropose | MsgReadIndex | MsgTransferLeader);
        assert_eq!(with(message_type, |m| m.from = 3).is_ok(), forwarded, "{message_type:?}");
        assert_eq!(with(message_type, |m| m.from = 1).is_ok(), forwarded, "{message_type:?}");
        assert_eq!(with(message_type, |m| m.from = 0), Err(Reason::Sender(0)), "{message_type:?}");
        if !forwarded {
            let own = verdict_by(&of(message_type), Rules { local: 2, ..RULES });
            assert_eq!(own, Err(Reason::Recipient(1)), "{message_type:?}");
            let mut to_self = of(message_type);
            (to_self.to, to_self.from) = (2, 2);
            let own = verdict_by(&to_self, Rules { local: 2, ..RULES });
            assert_eq!(own, Err(Reason::Sender(2)), "{message_type:?}");
        }
    }
}

#[test]
fn terms_stand_where_they_belong() {
    for message_type in REMOTE {
        let (right, wrong) = if matches!(message_type, MsgPropose | MsgReadIndex) { (0, 5) } else { (5, 0) };
        assert!(with(message_type, |m| m.term = right).is_ok(), "{message_type:?}");
        assert_eq!(with(message_type, |m| m.term = wrong), Err(Reason::Term(wrong)), "{message_type:?}");
    }
}

#[test]
fn a_term_may_be_far_above_ours_but_not_absurd() {
    for (ours, limit) in [
        (0, MAX_TERM_JUMP),
        (5, 5 + MAX_TERM_JUMP),
        (MAX_TERM_OR_INDEX - 1, MAX_TERM_OR_INDEX),
        (MAX_TERM_OR_INDEX, MAX_TERM_OR_INDEX),
    ] {
        let rules = Rules { term: ours, ..RULES };
        for term in [limit - 1, limit, limit + 1, u64::MAX] {
            for message_type in [MsgRequestVote, MsgRequestPreVote, MsgHeartbeat, MsgHeartbeatResponse] {
                let mut message = of(message_type);
                message.term = term;
                let want = if term <= limit { Ok(()) } else { Err(Reason::TermTooHigh { term, ours }) };
                assert_eq!(verdict_by(&message, rules).map(drop), want, "{message_type:?} {ours} {term}");
            }
        }
    }
    // A message of an old term is old, nothing else.
    assert!(with(MsgHeartbeat, |m| m.term = 1).is_ok());
}

#[test]
fn proposals_have_entries_and_those_are_bare() {
    let entries = |es: Vec<Entry>| with(MsgPropose, |m| m.set_entries(es.into()));
    assert!(matches!(entries(vec![]), Err(Reason::Entries(_))));
    assert!(matches!(entries(vec![data(b"a"), entry(1, 0)]), Err(Reason::Entries(_))));
    assert!(matches!(entries(vec![entry(0, 1)]), Err(Reason::Entries(_))));
    assert!(entries(vec![data(b""), data(b"a")]).is_ok());
}

#[test]
fn conf_changes_in_proposals_are_encoded_anew() {
    // A field that nobody knows, before the change itself.
    let mut foreign = vec![0x7a, 3, 1, 2, 3];
    let plain = codec::encode_conf_change(&change([7]));
    foreign.extend_from_slice(&plain);
    let passed = with(MsgPropose, |m| m.set_entries(vec![data(b"a"), conf_entry(foreign)].into())).unwrap();
    assert_eq!(passed.entries[1].data, plain);
    assert_eq!(passed.entries[0].data, b"a"[..]);

    // The first version becomes the second.
    let mut old = ConfChange::default();
    old.node_id = 7;
    old.set_change_type(ConfChangeType::AddLearnerNode);
    let mut entry = conf_entry(protobuf::Message::write_to_bytes(&old).unwrap());
    entry.set_entry_type(EntryType::EntryConfChange);
    let passed = with(MsgPropose, |m| m.set_entries(vec![entry].into())).unwrap();
    assert_eq!(passed.entries[0].get_entry_type(), EntryType::EntryConfChangeV2);
    assert_eq!(passed.entries[0].data, plain);

    // An empty one leaves a joint configuration.
    let passed = with(MsgPropose, |m| m.set_entries(vec![conf_entry(vec![])].into())).unwrap();
    assert!(passed.entries[0].data.is_empty());
}

#[test]
fn conf_changes_are_bounded() {
    let propose = |es: Vec<Entry>| with(MsgPropose, |m| m.set_entries(es.into())).map(drop);
    let one = || conf_entry(codec::encode_conf_change(&change([7])));
    assert_eq!(propose(vec![one(), one()]), Err(Reason::ConfChange("more than one in a proposal")));
    assert_eq!(
        propose(vec![conf_entry(codec::encode_conf_change(&change([7, 0])))]),
        Err(Reason::ConfChange("of member 0"))
    );
    assert!(matches!(propose(vec![conf_entry(vec![0xff])]), Err(Reason::ConfChangeEncoding(_))));
    for (members, ok) in [(MAX_MEMBERS - 1, true), (MAX_MEMBERS, true), (MAX_MEMBERS + 1, false)] {
        let entry = conf_entry(codec::encode_conf_change(&change(1..=members as u64)));
        assert_eq!(propose(vec![entry]).is_ok(), ok, "{members}");
    }
    for (len, ok) in
        [(MAX_CONF_CHANGE_BYTES - 1, true), (MAX_CONF_CHANGE_BYTES, true), (MAX_CONF_CHANGE_BYTES + 1, false)]
    {
        let mut padded = change([7]);
        padded.context = Bytes::from(vec![1; MAX_CONF_CHANGE_BYTES - 16]);
        let missing = len - codec::encode_conf_change(&padded).len();
        padded.context = Bytes::from(vec![1; padded.context.len() + missing]);
        let bytes = codec::encode_conf_change(&padded);
        assert_eq!(bytes.len(), len);
        assert_eq!(propose(vec![conf_entry(bytes)]).is_ok(), ok, "{len}");
    }
}

#[test]
fn a_deeply_nested_bomb_is_refused() {
    // Groups within groups, which nobody sends and a parser without a bound follows to the end of its stack.
    let bomb = vec![0x0b; 60_000];
    assert!(codec::decode_message(Bytes::from(bomb.clone())).is_err());
    assert!(codec::decode_entry(Bytes::from(bomb.clone())).is_err());
    assert!(codec::decode_snapshot_metadata(&bomb).is_err());
    // As a field that nobody knows (number 31) too, also when every group ends as it should.
    let open = |depth| [0xfb, 1].repeat(depth);
    let nested = |depth| [open(depth), [0xfc, 1].repeat(depth)].concat();
    let propose = |data| with(MsgPropose, |m| m.set_entries(vec![conf_entry(data)].into()));
    for bomb in [open(30_000), nested(15_000)] {
        assert!(codec::decode_message(Bytes::from(bomb.clone())).is_err());
        assert!(matches!(propose(bomb), Err(Reason::ConfChangeEncoding(_))));
    }
    assert!(codec::decode_message(Bytes::from(nested(50))).is_ok());
    // What passes has lost the nest.
    let proposed = propose(nested(50)).unwrap();
    assert!(proposed.entries[0].data.is_empty());
}

#[test]
fn reads_have_one_context_of_bounded_length() {
    for message_type in [MsgReadIndex, MsgReadIndexResp] {
        let entries = |es: Vec<Entry>| with(message_type, |m| m.set_entries(es.into()));
        assert!(matches!(entries(vec![]), Err(Reason::Entries(_))));
        assert!(matches!(entries(vec![data(b"a"), data(b"b")]), Err(Reason::Entries(_))));
        assert!(matches!(entries(vec![data(b"")]), Err(Reason::Entries(_))));
        for (len, ok) in [(1, true), (MAX_READ_CONTEXT_BYTES, true), (MAX_READ_CONTEXT_BYTES + 1, false)] {
            let mut entry = Entry::default();
            entry.data = vec![1; len].into();
            assert_eq!(entries(vec![entry]).is_ok(), ok, "{message_type:?} {len}");
        }
    }
}

#[test]
fn appended_entries_follow_each_other() {
    let append = |index, log_term, entries: Vec<Entry>| {
        with(MsgAppend, |m| {
            (m.index, m.log_term) = (index, log_term);
            m.set_entries(entries.into());
        })
    };
    for (index, log_term, entries) in [
        (0, 0, vec![]),
        (0, 0, vec![entry(1, 1)]),
        (10, 5, vec![]),
        (10, 3, vec![entry(11, 3), entry(12, 4), entry(13, 5)]),
        // Beyond the log: raft answers that, with its last index.
        (100, 5, vec![entry(101, 5)]),
        (u64::MAX, 5, vec![]),
    ] {
        assert!(append(index, log_term, entries.clone()).is_ok(), "{index} {log_term} {entries:?}");
    }
    for (index, log_term, entries) in [
        (10, 0, vec![]),
        (100, 0, vec![entry(101, 5)]),
        (0, 1, vec![entry(1, 1)]),
        (10, 5, vec![entry(12, 5)]),
        (10, 5, vec![entry(10, 5)]),
        (10, 5, vec![entry(11, 5), entry(13, 5)]),
        (10, 5, vec![entry(11, 5), entry(11, 5)]),
        (10, 5, vec![entry(11, 4)]),
        (10, 3, vec![entry(11, 5), entry(12, 4)]),
        (10, 5, vec![entry(11, 6)]),
        (10, 5, vec![entry(11, 0)]),
        (u64::MAX, 5, vec![entry(0, 5)]),
        (MAX_TERM_OR_INDEX, 5, vec![entry(MAX_TERM_OR_INDEX + 1, 5)]),
    ] {
        let refused = append(index, log_term, entries.clone());
        assert!(matches!(refused, Err(Reason::Append { .. })), "{index} {log_term} {entries:?}");
    }
    assert!(matches!(append(10, 6, vec![]), Err(Reason::LogTerm { log_term: 6, .. })));
    // A commit beyond the entries is usual: raft commits what it has.
    assert!(with(MsgAppend, |m| m.commit = u64::MAX).is_ok());
}

#[test]
fn appended_conf_changes_are_checked_but_not_changed() {
    let append = |data: Vec<u8>| {
        let mut entry = conf_entry(data);
        (entry.index, entry.term) = (11, 5);
        with(MsgAppend, |m| m.set_entries(vec![entry].into()))
    };
    let mut foreign = vec![0x7a, 3, 1, 2, 3];
    foreign.extend(codec::encode_conf_change(&change([7])));
    assert_eq!(append(foreign.clone()).unwrap().entries[0].data, foreign);
    assert!(matches!(append(vec![0xff]), Err(Reason::ConfChangeEncoding(_))));
}

#[test]
fn a_heartbeat_commits_what_the_log_holds() {
    for (commit, ok) in [(9, true), (10, true), (11, false), (u64::MAX, false)] {
        let want = if ok { Ok(()) } else { Err(Reason::CommitBeyondLog { commit, last_index: 10 }) };
        assert_eq!(with(MsgHeartbeat, |m| m.commit = commit).map(drop), want);
        assert_eq!(with(MsgHeartbeat, |m| (m.commit, m.term) = (commit, 6)).map(drop), want);
        // raft answers an old leader without looking further: it has to learn of the new term.
        assert!(with(MsgHeartbeat, |m| (m.commit, m.term) = (commit, 4)).is_ok());
    }
    let text = Reason::CommitBeyondLog { commit: 11, last_index: 10 }.to_string();
    assert!(text.contains("under a new id"), "{text}");
}

#[test]
fn a_follower_speaks_of_what_its_leader_has() {
    let response =
        |change: fn(&mut Message, u64), n: u64| with(MsgAppendResponse, |m| change(m, n)).map(drop);
    let cases: [fn(&mut Message, u64); 3] = [
        |m, n| m.index = n,
        |m, n| (m.reject, m.reject_hint) = (true, n),
        |m, n| (m.reject, m.request_snapshot) = (true, n),
    ];
    for (which, case) in cases.into_iter().enumerate() {
        assert_eq!(response(case, 10), Ok(()), "{which}");
        for n in [11, u64::MAX] {
            assert_eq!(response(case, n), Err(Reason::BeyondLog { index: n, last_index: 10 }), "{which}");
        }
    }
    // Of another term raft takes nothing but the term.
    for term in [4, 6] {
        assert!(with(MsgAppendResponse, |m| (m.index, m.term) = (u64::MAX, term)).is_ok());
    }
    // With a request for a snapshot comes the length of a log that may be longer than ours.
    assert!(
        with(MsgAppendResponse, |m| (m.reject, m.request_snapshot, m.reject_hint) = (true, 8, 99)).is_ok()
    );
}

#[test]
fn a_snapshot_is_requested_by_a_rejection() {
    assert_eq!(with(MsgAppendResponse, |m| m.request_snapshot = 8), Err(Reason::SnapshotRequest));
    for message_type in REMOTE.into_iter().filter(|t| *t != MsgAppendResponse) {
        let refused = with(message_type, |m| m.request_snapshot = 8);
        assert_eq!(refused, Err(Reason::SnapshotRequest), "{message_type:?}");
    }
}

#[test]
fn a_member_outside_the_configuration_takes_no_acknowledgement() {
    let rules = Rules { member: false, ..RULES };
    assert_eq!(verdict_by(&of(MsgAppendResponse), rules), Err(Reason::NotAMember));
    for message_type in REMOTE.into_iter().filter(|t| *t != MsgAppendResponse) {
        assert!(verdict_by(&of(message_type), rules).is_ok(), "{message_type:?}");
    }
}

#[test]
fn nobody_is_made_leader_before_its_log_is_durable() {
    let rules = Rules { persisted: 9, ..RULES };
    let refused = Err(Reason::NotPersisted { persisted: 9, last_index: 10 });
    assert_eq!(verdict_by(&of(MsgRequestVoteResponse), rules), refused);
    assert_eq!(verdict_by(&of(MsgTimeoutNow), rules), refused);
    let mut newer = of(MsgTimeoutNow);
    newer.term = 6;
    assert_eq!(verdict_by(&newer, rules), refused);
    let mut rejection = of(MsgRequestVoteResponse);
    rejection.reject = true;
    assert!(verdict_by(&rejection, rules).is_ok());
    for message_type in REMOTE.into_iter().filter(|t| !matches!(t, MsgRequestVoteResponse | MsgTimeoutNow)) {
        assert!(verdict_by(&of(message_type), rules).is_ok(), "{message_type:?}");
    }
}

#[test]
fn candidates_have_a_plausible_log() {
    for message_type in [MsgRequestVote, MsgRequestPreVote] {
        assert!(with(message_type, |m| m.log_term = 5).is_ok());
        let refused = with(message_type, |m| m.log_term = 6);
        assert!(matches!(refused, Err(Reason::LogTerm { log_term: 6, .. })));
        let refused = with(message_type, |m| m.commit_term = 6);
        assert!(matches!(refused, Err(Reason::LogTerm { commit_term: 6, .. })));
    }
    let mut message = of(MsgRequestPreVote);
    (message.index, message.log_term) = (0, 0);
    let joiner = Rules { term: 0, last_index: 0, persisted: 0, member: false, ..RULES };
    assert_eq!(verdict_by(&message, joiner), Err(Reason::EmptyCandidate));
    assert!(verdict(&message).is_ok());
    message.index = 1;
    assert!(verdict_by(&message, joiner).is_ok());
}

#[test]
fn a_transfer_request_of_our_term_loses_its_term() {
    for (term, left) in [(4, 4), (5, 0), (6, 6)] {
        assert_eq!(with(MsgTransferLeader, |m| m.term = term).unwrap().term, left);
    }
}

#[test]
fn a_snapshot_has_a_place_in_the_log() {
    let place = |index, term| {
        with(MsgSnapshot, |m| {
            let metadata = m.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (index, term);
        })
        .map(drop)
    };
    for (index, term) in [(1, 1), (20, 5), (MAX_TERM_OR_INDEX, 5)] {
        assert_eq!(place(index, term), Ok(()));
    }
    for (index, term) in [(0, 1), (1, 0), (20, 6), (MAX_TERM_OR_INDEX + 1, 5), (u64::MAX, 5)] {
        assert_eq!(place(index, term), Err(Reason::Snapshot { index, term, message_term: 5 }));
    }
    let none = with(MsgSnapshot, |m| drop(m.take_snapshot()));
    assert!(matches!(none, Err(Reason::Snapshot { index: 0, .. })));
}

#[test]
fn a_snapshots_conf_state_does_not_contradict_itself() {
    let many = |n: u64| (1..=n).collect::<Vec<_>>();
    for state in [
        conf(&[1], &[], &[], &[], false),
        conf(&[3, 1, 2], &[5, 4], &[], &[], false),
        conf(&[1, 2, 3], &[5], &[1, 2, 4, 6], &[4], true),
        conf(&[1, 2], &[], &[1, 2, 3], &[], false),
        conf(&many(MAX_MEMBERS as u64), &[], &[], &[], false),
    ] {
        assert_eq!(validate::conf_state(&state), Ok(()), "{state:?}");
        let restored = with(MsgSnapshot, |m| m.mut_snapshot().mut_metadata().set_conf_state(state));
        assert!(restored.is_ok());
    }
    for (state, why) in [
        (conf(&[], &[], &[], &[], false), "no voters"),
        (conf(&[], &[1], &[], &[], false), "no voters"),
        (conf(&[], &[], &[1, 2], &[], false), "no voters"),
        (conf(&[1, 0], &[], &[], &[], false), "member 0"),
        (conf(&[1], &[0], &[], &[], false), "member 0"),
        (conf(&[1, 2, 1], &[], &[], &[], false), "twice"),
        (conf(&[1], &[2, 2], &[], &[], false), "twice"),
        (conf(&[1], &[], &[2, 2], &[], false), "twice"),
        (conf(&[1], &[], &[2], &[2, 2], false), "twice"),
        (conf(&[1, 2], &[2], &[], &[], false), "a learner that is a voter"),
        (conf(&[1], &[2], &[1, 2], &[], false), "a learner that is a voter"),
        (conf(&[1, 2], &[], &[1, 2], &[2], false), "next learner that is a voter"),
        (conf(&[1], &[2], &[], &[2], false), "not an outgoing voter"),
        (conf(&[1], &[], &[], &[2], false), "not an outgoing voter"),
        (conf(&[1], &[], &[], &[], true), "leaves a joint"),
        (conf(&many(MAX_MEMBERS as u64 + 1), &[], &[], &[], false), "too many"),
    ] {
        let found = validate::conf_state(&state).unwrap_err();
        assert!(found.contains(why), "{state:?}: {found}");
        let refused = with(MsgSnapshot, |m| m.mut_snapshot().mut_metadata().set_conf_state(state));
        assert_eq!(refused, Err(Reason::ConfState(found)));
    }
}
