//! Leader Completeness (section 5.4): an entry that is committed in some term is in the log of the leaders of all
//! later terms.

use std::collections::BTreeSet;

use raft::{StateRole, Storage as _};

use super::committed::Committed;
use super::{Look, Verdict};

/// The terms whose leaders were looked at.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    known: BTreeSet<u64>,
}

impl LeaderCompleteness {
    /// A member after a turn. A leader that is new is compared with everything that is committed at this moment.
    pub fn look(&mut self, Look { member, raft }: Look<'_>, committed: &Committed) -> Verdict {
        let term = raft.raft.term;
        if raft.raft.state != StateRole::Leader || !self.known.insert(term) {
            return Ok(());
        }
        let store = raft.store();
        for (index, committed_in) in committed.terms().filter(|(index, _)| *index >= store.first_index()) {
            if committed_in <= term && store.term(index).ok() != Some(committed_in) {
                return Err(format!(
                    "leader completeness: member {member}, leader of term {term}, lacks entry {index} of term \
                     {committed_in}, which is committed"
                ));
            }
        }
        Ok(())
    }
}
