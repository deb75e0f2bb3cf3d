//! Election Safety (section 5.2): at most one leader is elected in a term.

use std::collections::BTreeMap;

use raft::StateRole;

use super::{Look, Verdict};

/// The leader of each term.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
}

impl ElectionSafety {
    /// A member after a turn.
    pub fn look(&mut self, Look { member, raft }: Look<'_>) -> Verdict {
        if raft.raft.state != StateRole::Leader {
            return Ok(());
        }
        let term = raft.raft.term;
        match *self.leaders.entry(term).or_insert(member) {
            leader if leader == member => Ok(()),
            leader => Err(format!("election safety: term {term} has two leaders, {leader} and {member}")),
        }
    }

    /// Terms that had a leader.
    pub fn leaders(&self) -> usize {
        self.leaders.len()
    }
}
