//! Leader Append-Only (section 5.3): a leader never overwrites or deletes entries in its log; it only appends.

use std::collections::BTreeMap;

use kvd_node::driver::Write;
use raft::StateRole;

use super::{Look, Verdict};

/// The term in which each member leads, as far as it leads.
#[derive(Debug, Default)]
pub struct LeaderAppendOnly {
    leading: BTreeMap<u64, u64>,
}

impl LeaderAppendOnly {
    /// A member hands a write to its log, which ends at `last`.
    pub fn write(&mut self, member: u64, write: &Write, last: u64) -> Verdict {
        let Some(term) = self.leading.get(&member).copied() else { return Ok(()) };
        if write.hard_state.as_ref().is_some_and(|state| state.term > term) {
            // It has heard of a later leader.
            self.leading.remove(&member);
            return Ok(());
        }
        match write.entries.first().filter(|first| first.index <= last) {
            Some(first) => Err(format!(
                "leader append-only: member {member} leads in term {term}, its log ends at {last}, and it writes entry \
                 {} of term {}",
                first.index, first.term
            )),
            None => Ok(()),
        }
    }

    /// A member after a turn.
    pub fn look(&mut self, Look { member, raft, .. }: Look<'_>) {
        if raft.raft.state == StateRole::Leader {
            self.leading.insert(member, raft.raft.term);
        } else {
            self.leading.remove(&member);
        }
    }

    /// A member's process has ended.
    pub fn ended(&mut self, member: u64) {
        self.leading.remove(&member);
    }
}
