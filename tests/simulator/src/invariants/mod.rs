//! What must hold at every step: one file a property, each with the section of the Raft paper (the extended version)
//! that states it.
//!
//! A property is fed with what the simulator sees (a member after a turn, a write, a message) and answers with the
//! first thing that breaks it.

pub mod committed;
pub mod durability;
pub mod election_safety;
pub mod leader_completeness;
pub mod log_matching;
pub mod state_equality;

use raft::RawNode;

use kvd_wal::LogStorage;

/// What a property answers: `Err` is a violation.
pub type Verdict = Result<(), String>;

/// A member after a turn.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// Its id.
    pub member: u64,
    /// Its raft.
    pub raft: &'a RawNode<LogStorage>,
}

/// All properties of a cluster.
#[derive(Debug, Default)]
pub struct Invariants {
    /// At most one leader a term.
    pub election_safety: election_safety::ElectionSafety,
    /// Logs that agree in an entry agree in all before it.
    pub log_matching: log_matching::LogMatching,
    /// What is committed stays as it is.
    pub committed: committed::Committed,
    /// Leaders have everything that is committed.
    pub leader_completeness: leader_completeness::LeaderCompleteness,
    /// Equal states at equal applied indexes.
    pub state_equality: state_equality::StateEquality,
}

impl Invariants {
    /// Looks at a member after each of its turns.
    pub fn after_turn(&mut self, look: Look<'_>) -> Verdict {
        self.election_safety.look(look)?;
        self.committed.look(look)?;
        self.leader_completeness.look(look, &self.committed)
    }
}
