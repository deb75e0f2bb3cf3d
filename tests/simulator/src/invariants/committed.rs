//! The half of State Machine Safety (section 5.4.3) that the log shows: no two members commit different entries at an
//! index. And a member's commit index never goes back while it runs.

use std::collections::BTreeMap;

use raft::Storage as _;

use super::{Look, Verdict};

/// The term of each committed entry, and how far each member has told so.
#[derive(Debug, Default)]
pub struct Committed {
    terms: BTreeMap<u64, u64>,
    seen: BTreeMap<u64, u64>,
}

impl Committed {
    /// A member starts: what it knows as committed may be less than what it knew before.
    pub fn started(&mut self, look: Look<'_>) -> Verdict {
        self.seen.remove(&look.member);
        // What is committed was committed before it ended.
        self.look(look, |_, _| {})
    }

    /// A member after a turn. `new` is called for each entry, index and term, that nobody has committed before.
    pub fn look(&mut self, Look { member, raft }: Look<'_>, mut new: impl FnMut(u64, u64)) -> Verdict {
        let commit = raft.raft.raft_log.committed;
        let seen = *self.seen.get(&member).unwrap_or(&0);
        if commit < seen {
            return Err(format!("commit index of member {member} went back from {seen} to {commit}"));
        }
        let store = raft.store();
        for index in (seen + 1).max(store.first_index())..=commit {
            let Ok(term) = store.term(index) else {
                return Err(format!("member {member} commits {index} and does not hold it"));
            };
            let first = *self.terms.entry(index).or_insert_with(|| {
                new(index, term);
                term
            });
            if first != term {
                return Err(format!(
                    "state machine safety: member {member} commits term {term} at index {index}, another one term {first}"
                ));
            }
        }
        self.seen.insert(member, commit);
        Ok(())
    }

    /// Every index that was committed anywhere, with its term.
    pub fn terms(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.terms.iter().map(|(index, term)| (*index, *term))
    }

    /// Number of committed entries.
    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// Whether nothing was committed.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}
