//! What a member says is on its disk (figure 2: "updated on stable storage before responding to RPCs").
//!
//! - It speaks in no term, grants no vote, and acknowledges no entry that it would forget in a crash.
//! - It grants one vote a term (section 5.2), also across restarts.
//! - When it starts again, it holds everything that it had made durable, and starts from the newest snapshot that it had
//!   on record: a snapshot's file is durable before its record.

use std::collections::BTreeMap;

use kvd_node::driver::Write;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Look, Verdict};
use crate::shadow::Shadow;

/// What is on a member's disk for certain.
#[derive(Debug, Clone, Default)]
pub struct Durable {
    term: u64,
    vote: u64,
    log: Shadow,
    votes: BTreeMap<u64, u64>,
    /// The index of the newest snapshot on record.
    snapshot: u64,
}

impl Durable {
    /// A write is durable. `entry` is called for each of its entries, with the term of the one before it.
    pub fn written(&mut self, write: &Write, entry: impl FnMut(u64, &Entry)) {
        self.log.write(write, entry);
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = self.snapshot.max(snapshot.index);
        }
        if let Some(state) = &write.hard_state {
            (self.term, self.vote) = (state.term, state.vote);
        }
    }

    /// Who it has voted for in a term, as far as anybody was told or a disk knows.
    pub fn voted_for(&self, term: u64) -> Option<u64> {
        let on_disk = Some(self.vote).filter(|vote| self.term == term && *vote != 0);
        self.votes.get(&term).copied().or(on_disk)
    }

    /// Whether it holds the entry at an index, in a log or in a snapshot.
    pub fn holds(&self, index: u64, term: Option<u64>) -> bool {
        let known = self.log.term(index);
        (known.is_some() && known == term) || index < self.log.boundary()
    }

    /// The index of the last entry on its disk.
    pub fn last(&self) -> u64 {
        self.log.last()
    }

    /// The member starts. `disturbed`: the first index that a write which was under way may have overwritten. `rotten`:
    /// its disk was damaged, so it may fall back to an older snapshot.
    pub fn started(
        &mut self,
        Look { member, raft }: Look<'_>,
        disturbed: Option<u64>,
        rotten: bool,
    ) -> Verdict {
        let (term, vote) = (raft.raft.term, raft.raft.vote);
        if term < self.term || (term == self.term && self.vote != 0 && vote != self.vote) {
            return Err(format!(
                "durability: member {member} starts in term {term} with vote {vote}; on its disk were term {} and \
                 vote {}",
                self.term, self.vote
            ));
        }
        let from = raft.store().snapshot_metadata().index;
        if from < self.snapshot && !rotten {
            return Err(format!(
                "durability: member {member} starts from the snapshot at {from}; on record was one at {}",
                self.snapshot
            ));
        }
        self.snapshot = from;
        let found = Shadow::of(raft.store());
        let undisturbed = disturbed.map_or(self.log.last(), |first| self.log.last().min(first - 1));
        for index in raft.store().first_index()..=undisturbed {
            if self.log.term(index).is_some() && found.term(index) != self.log.term(index) {
                return Err(format!(
                    "durability: member {member} starts with {:?} at index {index}; on its disk was term {:?}",
                    found.term(index),
                    self.log.term(index)
                ));
            }
        }
        (self.term, self.vote, self.log) = (term, vote, found);
        Ok(())
    }

    /// The member sends a message.
    pub fn sent(&mut self, member: u64, message: &Message) -> Verdict {
        let kind = message.get_msg_type();
        let pre_vote =
            matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        if !pre_vote && message.term > self.term {
            return Err(format!(
                "durability: member {member} sends {kind:?} in term {}, and would start again in term {}",
                message.term, self.term
            ));
        }
        // An acknowledgement may be outlived by its entry: a member that stood still takes in an old leader's entries and
        // a new one's that replace them in one turn. That a leader was elected without an entry shows that no majority
        // had it, so the late word of one member commits nothing.
        let replaced = self.log.term(self.log.last()).is_some_and(|term| term > message.term);
        let beyond = message.index > self.log.last() && !replaced;
        if kind == MessageType::MsgAppendResponse && !message.reject && beyond {
            return Err(format!(
                "durability: member {member} acknowledges entry {}, and its disk ends at {}",
                message.index,
                self.log.last()
            ));
        }
        if kind == MessageType::MsgRequestVoteResponse && !message.reject {
            // In a term that is over on its disk it votes for nobody else.
            if self.term == message.term && self.vote != message.to {
                return Err(format!(
                    "durability: member {member} votes for {} in term {}, and would forget it",
                    message.to, message.term
                ));
            }
            let first = *self.votes.entry(message.term).or_insert(message.to);
            if first != message.to {
                return Err(format!(
                    "election safety: member {member} votes for {first} and {} in term {}",
                    message.to, message.term
                ));
            }
        }
        Ok(())
    }
}
