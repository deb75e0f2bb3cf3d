//! What must hold at every step: one file a property, each with the section of the Raft paper (the extended version)
//! that states it.
//!
//! A property is fed with what the simulator sees (a member after a turn, a write, a message) and answers with the
//! first thing that breaks it.

pub mod committed;
pub mod configuration;
pub mod durability;
pub mod election_safety;
pub mod exactly_once;
pub mod leader_append_only;
pub mod leader_completeness;
pub mod log_matching;
pub mod promotion;
pub mod quorum;
pub mod state_equality;

use raft::RawNode;
use raft::eraftpb::{ConfState, Entry};

use kvd_kvstore::store::Store;
use kvd_raftpb::node::NodeState;
use kvd_wal::LogStorage;

use self::durability::Durable;
use crate::machine::{self, SharedNotes};

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

/// What a member has applied.
pub struct State<'a> {
    /// The index up to which.
    pub applied: u64,
    /// raft's configuration.
    pub conf: &'a ConfState,
    /// Members and sessions.
    pub node: NodeState,
    /// The store.
    pub store: &'a Store,
}

/// All properties of a cluster.
#[derive(Debug, Default)]
pub struct Invariants {
    /// At most one leader a term.
    pub election_safety: election_safety::ElectionSafety,
    /// Leaders only append.
    pub leader_append_only: leader_append_only::LeaderAppendOnly,
    /// Logs that agree in an entry agree in all before it.
    pub log_matching: log_matching::LogMatching,
    /// What is committed stays as it is.
    pub committed: committed::Committed,
    /// Leaders have everything that is committed.
    pub leader_completeness: leader_completeness::LeaderCompleteness,
    /// Leaders are elected, and entries committed, by majorities that overlap.
    pub quorum: quorum::Quorum,
    /// Equal states at equal applied indexes.
    pub state_equality: state_equality::StateEquality,
    /// Equal configurations at equal applied indexes.
    pub configuration: configuration::Configuration,
    /// Commands that come again change nothing.
    pub exactly_once: exactly_once::ExactlyOnce,
}

impl Invariants {
    /// Looks at a member after each of its turns.
    pub fn after_turn(&mut self, look: Look<'_>, disks: &[(u64, &Durable)]) -> Verdict {
        self.election_safety.look(look)?;
        self.leader_append_only.look(look);
        let once = &mut self.exactly_once;
        self.committed.look(look, |index, term| once.committed(index, term))?;
        self.leader_completeness.look(look, &self.committed)?;
        self.quorum.look(look, disks)
    }

    /// Looks at a member's state when it has applied something.
    pub fn applied(&mut self, member: u64, state: &State<'_>, notes: &SharedNotes) -> Verdict {
        let list = state.node.membership.clone().unwrap_or_default();
        self.configuration.look(member, state.applied, state.conf, &list)?;
        self.state_equality.look(member, state.applied, state.store, &state.node)?;
        self.exactly_once.look(state.applied, &machine::lock(notes))
    }

    /// An entry is written to a member's log behind one of term `before`, or is there when the member starts.
    pub fn entry(&mut self, member: u64, before: u64, entry: &Entry) -> Verdict {
        self.exactly_once.entry(entry);
        self.log_matching.entry(member, before, entry)
    }

    /// A member has written a snapshot that claims to be one of `index`: it holds the state that others have there.
    pub fn snapshot(
        &self,
        member: u64,
        index: u64,
        conf: &ConfState,
        state: (&Store, &NodeState),
    ) -> Verdict {
        self.configuration.snapshot(member, index, conf)?;
        self.state_equality.snapshot(member, index, state)
    }
}
