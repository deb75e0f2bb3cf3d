//! Log Matching (section 5.3): if two logs hold an entry with the same index and term, they are the same up to it.
//!
//! By induction: whoever writes an entry of some index and term writes the same bytes behind the same term.

use std::collections::BTreeMap;

use raft::eraftpb::Entry;

use super::Verdict;
use super::state_equality::add;

/// What was written at each index and term, by whoever was first.
#[derive(Debug, Default)]
pub struct LogMatching {
    entries: BTreeMap<(u64, u64), (u64, u64)>,
}

impl LogMatching {
    /// A member writes an entry behind one of term `before`, or has it in its log when it starts.
    pub fn entry(&mut self, member: u64, before: u64, entry: &Entry) -> Verdict {
        let hash = add(add(entry.entry_type as u64, &entry.data), &entry.context);
        let (index, term) = (entry.index, entry.term);
        let (first_before, first_hash) = *self.entries.entry((index, term)).or_insert((before, hash));
        if (first_before, first_hash) != (before, hash) {
            let what = if first_hash == hash { "behind another term" } else { "with other bytes" };
            return Err(format!(
                "log matching: member {member} holds entry {index} of term {term} {what} (term {before} before it, \
                 elsewhere {first_before})"
            ));
        }
        if before > term {
            return Err(format!(
                "log matching: member {member} holds entry {index} of term {term} behind one of term {before}"
            ));
        }
        Ok(())
    }
}
