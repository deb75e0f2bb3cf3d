//! What a message from outside must satisfy before raft may see it.
//!
//! raft 0.7 panics on confused or hostile messages, and in one case (term 0) forgets its term. [`message`] refuses
//! what no correct peer sends and what would bring raft down, and repairs the two forms that raft itself produces but
//! cannot take twice. What raft shrugs off it leaves to raft: a refusal here must never be what keeps a cluster apart.
//!
//! # Who a message is from
//! A message is from the member at the other end of its connection, with three exceptions. A follower that gets
//! `MsgPropose` or `MsgReadIndex` passes it on and leaves `from` alone, so `from` is whoever asked first, possibly the
//! receiver itself. In `MsgTransferLeader`, `from` is the member that is to lead, whoever asks for it.
//!
//! # What can make raft panic, and what stands in its way
//!
//! | in raft | reached by | answer |
//! |---|---|---|
//! | `become_follower(0)`, `debug_assert_eq!(term)` | term 0 on anything but the two forwarded requests | [`Reason::Term`] |
//! | `send`: "term should not be set" | a term on `MsgPropose`, `MsgReadIndex` | [`Reason::Term`] |
//! | the same | a forwarded `MsgTransferLeader` that meets a second follower | repaired: its term is taken off |
//! | `send`: "term should be set" | a pre-vote for an empty log with a negative priority, while our term is 0 | [`Reason::EmptyCandidate`] |
//! | term arithmetic | a term near `u64::MAX` | [`Reason::TermTooHigh`] |
//! | "stepped empty MsgProp" | `MsgPropose` without entries | [`Reason::Entries`] |
//! | `entries[0]` | `MsgReadIndex` without an entry | [`Reason::Entries`] |
//! | the protobuf parser | conf changes in `MsgPropose` | decoded here, bounded, and encoded anew |
//! | "to_commit is out of range" | a heartbeat that commits beyond our log | [`Reason::CommitBeyondLog`] |
//! | the same | an entry of term 0, or a gap: an append behind our log with log term 0 | [`Reason::Append`] |
//! | "entry conflicts with committed entry", slices | entries out of order | [`Reason::Append`] |
//! | "unable to restore config", "invalid restore" | a snapshot whose conf state contradicts itself | [`Reason::ConfState`] |
//! | index arithmetic | a snapshot index near `u64::MAX` | [`Reason::Snapshot`] |
//! | `match_hint + 1`, and every append to that peer after it | acknowledged, hinted or requested indexes beyond our log | [`Reason::BeyondLog`] |
//! | `maybe_commit`: unwrap | an acknowledgement to a leader that applied its own removal | [`Reason::NotAMember`] |
//! | `become_leader`: `last_index == persisted` | a vote, or `MsgTimeoutNow`, while our log is not durable | [`Reason::NotPersisted`] |
//!
//! Not detectable here, since a message alone does not show it: a leader that lies about entries or commits, and an
//! acknowledgement within our log of entries that the peer does not have.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::{Raft, Storage};

use crate::codec::{self, DecodeError};

/// How far above our own a term may be.
///
/// A term rises by one with each election that a quorum lets happen (pre-vote), so a member that missed this many
/// elections, or a joiner with term 0, is this many elections younger than its cluster: at one election every
/// millisecond that takes 49 days, at kvd's one a second 136 years. A real cluster is never refused, a forged term of
/// 2^63 is, and terms cannot be driven to their overflow in fewer than 2^31 messages.
pub const MAX_TERM_JUMP: u64 = 1 << 32;
/// The highest term and index that are accepted at all: what is computed from them cannot overflow.
pub const MAX_TERM_OR_INDEX: u64 = 1 << 62;
/// The longest context of a read, in bytes: raft keeps it, and echoes it to every member.
pub const MAX_READ_CONTEXT_BYTES: usize = 1024;
/// The longest encoded conf change, in bytes: some member URLs travel in its context.
pub const MAX_CONF_CHANGE_BYTES: usize = 64 << 10;
/// The most members that one conf change may touch, and that a snapshot's conf state may list. raft compares conf
/// states in quadratic time.
pub const MAX_MEMBERS: usize = 1024;

/// What the receiver knows about itself and about the connection.
///
/// Taken from raft's present state for each message, on the thread that owns raft, right before `step`: another
/// message in between may change any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Id of the receiving member.
    pub local: u64,
    /// Id of the member that the connection belongs to.
    pub from: u64,
    /// The receiver's term: `raft.term`.
    pub term: u64,
    /// Index of the last entry in the receiver's log, durable or not: `raft.raft_log.last_index()`.
    pub last_index: u64,
    /// Index of the last entry that raft knows to be durable: `raft.raft_log.persisted`.
    pub persisted: u64,
    /// Whether the receiver is part of its own configuration: `raft.prs().get(raft.id).is_some()`.
    pub member: bool,
}

impl Rules {
    /// The rules for a message that came over the connection of member `from`.
    pub fn of<S: Storage>(raft: &Raft<S>, from: u64) -> Self {
        Self {
            local: raft.id,
            from,
            term: raft.term,
            last_index: raft.raft_log.last_index(),
            persisted: raft.raft_log.persisted,
            member: raft.prs().get(raft.id).is_some(),
        }
    }
}

/// A message that raft must not see. A retry cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message_type:?} from member {sender} refused: {reason}")]
pub struct Invalid {
    /// The member that the connection belongs to.
    pub sender: u64,
    /// What it sent.
    pub message_type: MessageType,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// For another member.
    #[error("it is for member {0}")]
    Recipient(u64),
    /// From another member than the connection, or from nobody.
    #[error("it claims to be from member {0}")]
    Sender(u64),
    /// A message that raft only sends to itself.
    #[error("a member sends it only to itself")]
    Local,
    /// A term where none belongs, or none where one does.
    #[error("term {0} on a message of this type")]
    Term(u64),
    /// A term that cannot be.
    #[error("term {term} is not plausible, ours is {ours}")]
    TermTooHigh {
        /// The term in the message.
        term: u64,
        /// Ours.
        ours: u64,
    },
    /// A log position that the candidate, or the leader, cannot have.
    #[error("log term {log_term}, commit term {commit_term} are above the message's term {term}")]
    LogTerm {
        /// As sent.
        log_term: u64,
        /// As sent.
        commit_term: u64,
        /// As sent.
        term: u64,
    },
    /// A candidate without a log.
    #[error("the candidate has an empty log")]
    EmptyCandidate,
    /// The wrong number of entries, or entries that should be bare.
    #[error("{0}")]
    Entries(&'static str),
    /// Appended entries that do not follow each other, or their predecessor.
    #[error("entry at index {index}, term {term}: {what}")]
    Append {
        /// Index in the entry, or of the predecessor.
        index: u64,
        /// Its term.
        term: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A conf change that cannot be decoded.
    #[error("conf change: {0}")]
    ConfChangeEncoding(DecodeError),
    /// A conf change that is too large, or one too many, or changes member 0.
    #[error("conf change: {0}")]
    ConfChange(&'static str),
    /// A heartbeat that commits what we do not have, although its sender believes that we acknowledged it.
    #[error(
        "it commits index {commit}, our log ends at {last_index}: this member has lost what it acknowledged; \
         remove it from the cluster and add it again under a new id"
    )]
    CommitBeyondLog {
        /// As sent.
        commit: u64,
        /// Ours.
        last_index: u64,
    },
    /// A snapshot without a place in a log.
    #[error("snapshot of index {index} and term {term} in a message of term {message_term}")]
    Snapshot {
        /// As sent.
        index: u64,
        /// As sent.
        term: u64,
        /// As sent.
        message_term: u64,
    },
    /// A snapshot's conf state that contradicts itself.
    #[error("conf state: {0}")]
    ConfState(&'static str),
    /// A follower speaks of entries that its leader, we, never had.
    #[error("it speaks of index {index}, our log ends at {last_index}")]
    BeyondLog {
        /// As sent.
        index: u64,
        /// Ours.
        last_index: u64,
    },
    /// A snapshot is requested other than by a rejection.
    #[error("a snapshot request that is not a rejection")]
    SnapshotRequest,
    /// We are not in our own configuration.
    #[error("this member is not part of the cluster's configuration")]
    NotAMember,
    /// Leadership is offered before our log is durable.
    #[error("our log is durable to index {persisted} and ends at {last_index}: we cannot lead yet")]
    NotPersisted {
        /// Ours.
        persisted: u64,
        /// Ours.
        last_index: u64,
    },
}

/// Checks a message that came over a connection, and repairs what may be repaired.
///
/// Repairs: conf changes in proposals are encoded anew, as `EntryConfChangeV2`; the term of a `MsgTransferLeader` of
/// our own term is taken off.
///
/// # Errors
/// [`Invalid`] names the sender and the reason. The message may have been changed, and must be dropped.
pub fn message(message: &mut Message, rules: &Rules) -> Result<(), Invalid> {
    check(message, rules).map_err(|reason| Invalid {
        sender: rules.from,
        message_type: message.get_msg_type(),
        reason,
    })
}

fn check(message: &mut Message, rules: &Rules) -> Result<(), Reason> {
    use MessageType::*;
    let message_type = message.get_msg_type();
    if matches!(message_type, MsgHup | MsgBeat | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum) {
        return Err(Reason::Local);
    }
    if message.to != rules.local {
        return Err(Reason::Recipient(message.to));
    }
    check_sender(message, rules)?;
    check_term(message, rules)?;
    // raft looks at the content of an older message only to answer it, and at that of a response only if the
    // terms are equal.
    let current = message.term >= rules.term;
    let same_term = message.term == rules.term;
    match message_type {
        MsgPropose => check_proposal(message)?,
        MsgReadIndex | MsgReadIndexResp => check_read(message)?,
        MsgAppend => check_append(message)?,
        MsgHeartbeat if current && message.commit > rules.last_index => {
            return Err(Reason::CommitBeyondLog { commit: message.commit, last_index: rules.last_index });
        }
        MsgSnapshot => check_snapshot(message)?,
        MsgRequestVote | MsgRequestPreVote | MsgRequestVoteResponse | MsgRequestPreVoteResponse => {
            check_vote(message, rules)?;
        }
        MsgAppendResponse => check_append_response(message, rules)?,
        MsgTimeoutNow if current => check_persisted(rules)?,
        // With its term, a second follower on its way would panic when it passes the request on. Without one,
        // raft takes it as if it came from here. Older and newer ones raft drops.
        MsgTransferLeader if same_term => message.term = 0,
        _ => {}
    }
    if message.request_snapshot != 0 && message_type != MsgAppendResponse {
        return Err(Reason::SnapshotRequest);
    }
    Ok(())
}

fn check_sender(message: &Message, rules: &Rules) -> Result<(), Reason> {
    use MessageType::{MsgPropose, MsgReadIndex, MsgTransferLeader};
    let forwarded = matches!(message.get_msg_type(), MsgPropose | MsgReadIndex | MsgTransferLeader);
    let sane = match forwarded {
        true => message.from != 0,
        false => message.from == rules.from && message.from != 0 && message.from != rules.local,
    };
    if sane { Ok(()) } else { Err(Reason::Sender(message.from)) }
}

fn check_term(message: &Message, rules: &Rules) -> Result<(), Reason> {
    let term = message.term;
    let without = matches!(message.get_msg_type(), MessageType::MsgPropose | MessageType::MsgReadIndex);
    if without != (term == 0) {
        return Err(Reason::Term(term));
    }
    if term > rules.term.saturating_add(MAX_TERM_JUMP).min(MAX_TERM_OR_INDEX) {
        return Err(Reason::TermTooHigh { term, ours: rules.term });
    }
    Ok(())
}

fn check_log_terms(message: &Message) -> Result<(), Reason> {
    let (log_term, commit_term, term) = (message.log_term, message.commit_term, message.term);
    if log_term > term || commit_term > term {
        return Err(Reason::LogTerm { log_term, commit_term, term });
    }
    Ok(())
}

fn check_proposal(message: &mut Message) -> Result<(), Reason> {
    if message.entries.is_empty() {
        return Err(Reason::Entries("a proposal without entries"));
    }
    let mut conf_changes = 0;
    for entry in message.mut_entries().iter_mut() {
        if entry.term != 0 || entry.index != 0 {
            return Err(Reason::Entries("a proposed entry that has a term or an index already"));
        }
        if entry.get_entry_type() == EntryType::EntryNormal {
            continue;
        }
        conf_changes += 1;
        if conf_changes > 1 {
            return Err(Reason::ConfChange("more than one in a proposal"));
        }
        // raft parses these bytes with a parser that recurses without a bound: it gets ours instead.
        let change = decode_conf_change(entry)?;
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = codec::encode_conf_change(&change).into();
    }
    Ok(())
}

fn decode_conf_change(entry: &Entry) -> Result<raft::eraftpb::ConfChangeV2, Reason> {
    if entry.data.len() > MAX_CONF_CHANGE_BYTES {
        return Err(Reason::ConfChange("too long"));
    }
    let change =
        codec::decode_conf_change(entry.get_entry_type(), &entry.data).map_err(Reason::ConfChangeEncoding)?;
    if change.changes.len() > MAX_MEMBERS {
        return Err(Reason::ConfChange("too many members"));
    }
    // raft skips member 0, so such a change would do something else than it says.
    if change.changes.iter().any(|one| one.node_id == 0) {
        return Err(Reason::ConfChange("of member 0"));
    }
    Ok(change)
}

fn check_read(message: &Message) -> Result<(), Reason> {
    match message.get_entries() {
        [one] if one.data.is_empty() => Err(Reason::Entries("a read with an empty context")),
        [one] if one.data.len() > MAX_READ_CONTEXT_BYTES => {
            Err(Reason::Entries("a read with too long a context"))
        }
        [_] => Ok(()),
        _ => Err(Reason::Entries("a read without exactly one entry")),
    }
}

fn check_append(message: &Message) -> Result<(), Reason> {
    check_log_terms(message)?;
    let refuse = |index, term, what| Err(Reason::Append { index, term, what });
    let (mut index, mut term) = (message.index, message.log_term);
    // raft takes term 0 for "not in the log": a predecessor of term 0 would match anywhere behind our log.
    if (index == 0) != (term == 0) {
        return refuse(index, term, "only index 0 has term 0");
    }
    for entry in message.entries.iter() {
        if index >= MAX_TERM_OR_INDEX || entry.index != index + 1 {
            return refuse(entry.index, entry.term, "does not follow the one before it");
        }
        if entry.term == 0 || entry.term < term || entry.term > message.term {
            return refuse(
                entry.index,
                entry.term,
                "its term is below the one before, or above the message's",
            );
        }
        if entry.get_entry_type() != EntryType::EntryNormal {
            // Checked, not changed: the bytes of a log are the same on every member. What could not be applied
            // later is better refused now.
            decode_conf_change(entry)?;
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn check_vote(message: &Message, rules: &Rules) -> Result<(), Reason> {
    check_log_terms(message)?;
    match message.get_msg_type() {
        MessageType::MsgRequestPreVote if rules.term == 0 && message.index == 0 => {
            Err(Reason::EmptyCandidate)
        }
        // Votes are asked for once the candidate's log is durable: a vote before that was not asked for.
        MessageType::MsgRequestVoteResponse if message.term == rules.term && !message.reject => {
            check_persisted(rules)
        }
        _ => Ok(()),
    }
}

fn check_persisted(rules: &Rules) -> Result<(), Reason> {
    let Rules { persisted, last_index, .. } = *rules;
    if persisted == last_index { Ok(()) } else { Err(Reason::NotPersisted { persisted, last_index }) }
}

fn check_append_response(message: &Message, rules: &Rules) -> Result<(), Reason> {
    if message.request_snapshot != 0 && !message.reject {
        return Err(Reason::SnapshotRequest);
    }
    if message.term != rules.term {
        return Ok(());
    }
    if !rules.member {
        return Err(Reason::NotAMember);
    }
    // A follower that requests a snapshot says how long its log is, which may be longer than ours.
    let hint = if message.request_snapshot == 0 { message.reject_hint } else { 0 };
    let index = message.index.max(hint).max(message.request_snapshot);
    if index > rules.last_index {
        return Err(Reason::BeyondLog { index, last_index: rules.last_index });
    }
    Ok(())
}

fn check_snapshot(message: &Message) -> Result<(), Reason> {
    let metadata = message.get_snapshot().get_metadata();
    let (index, term, message_term) = (metadata.index, metadata.term, message.term);
    if index == 0 || index > MAX_TERM_OR_INDEX || term == 0 || term > message_term {
        return Err(Reason::Snapshot { index, term, message_term });
    }
    conf_state(metadata.get_conf_state()).map_err(Reason::ConfState)
}

/// Whether raft could have come to this configuration, and can be restored to it: voters there are, nobody has two
/// roles that exclude each other, and the marks of a joint configuration stand only on one.
///
/// # Errors
/// What is wrong, in words.
pub fn conf_state(state: &ConfState) -> Result<(), &'static str> {
    let lists = [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next];
    if lists.iter().map(|list| list.len()).sum::<usize>() > MAX_MEMBERS {
        return Err("too many members");
    }
    if state.voters.is_empty() {
        return Err("no voters");
    }
    for list in lists {
        let mut sorted = list.clone();
        sorted.sort_unstable();
        if sorted.first() == Some(&0) {
            return Err("member 0");
        }
        if sorted.windows(2).any(|two| two[0] == two[1]) {
            return Err("a member twice in a list");
        }
    }
    let meet = |a: &[u64], b: &[u64]| a.iter().any(|id| b.contains(id));
    if meet(&state.learners, &state.voters) || meet(&state.learners, &state.voters_outgoing) {
        return Err("a learner that is a voter");
    }
    if meet(&state.learners_next, &state.voters) {
        return Err("a next learner that is a voter still");
    }
    if !state.learners_next.iter().all(|id| state.voters_outgoing.contains(id)) {
        return Err("a next learner that is not an outgoing voter");
    }
    if state.voters_outgoing.is_empty() && state.auto_leave {
        return Err("it leaves a joint configuration that it is not in");
    }
    Ok(())
}
