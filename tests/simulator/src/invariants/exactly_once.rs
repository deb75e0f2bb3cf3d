//! Exactly once (section 8; section 6.3 of the thesis): a command that was proposed several times, because its answer or
//! its leader was lost, is applied once.
//!
//! Each command carries the ids that its proposer gave it. This goes through the committed entries in order and compares
//! what each was seen to apply with the commands whose ids had not come before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_raftpb::node::Batch;
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};

use super::Verdict;
use crate::machine::Notes;

/// What the log holds, and what of it has come before.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    /// The batch of each entry that was written, by index and term.
    batches: BTreeMap<(u64, u64), Batch>,
    seen: BTreeSet<(u64, u64, u64)>,
    /// The entries that may be applied, for each index the commands that are new there.
    fresh: BTreeMap<u64, Vec<Bytes>>,
    checked: u64,
    committed: u64,
    /// Commands that came again.
    pub repeats: u64,
}

impl ExactlyOnce {
    /// An entry is written to somebody's log.
    pub fn entry(&mut self, entry: &Entry) {
        let known = entry.index <= self.committed || self.batches.contains_key(&(entry.index, entry.term));
        if entry.get_entry_type() == EntryType::EntryNormal
            && !entry.data.is_empty()
            && !known
            && let Ok(batch) = Batch::decode(entry.data.clone())
        {
            self.batches.insert((entry.index, entry.term), batch);
        }
    }

    /// An entry is committed; they come in order.
    pub fn committed(&mut self, index: u64, term: u64) {
        if index <= self.committed {
            return;
        }
        self.committed = index;
        let Some(batch) = self.batches.remove(&(index, term)) else { return };
        let mut fresh = Vec::new();
        for command in batch.commands {
            if self.seen.insert((batch.member, batch.boot, command.counter)) {
                fresh.push(command.payload);
            } else {
                self.repeats += 1;
            }
        }
        self.fresh.insert(index, fresh);
    }

    /// Looks at what was applied since the last look, up to `applied`.
    pub fn look(&mut self, applied: u64, notes: &Notes) -> Verdict {
        if applied <= self.checked {
            return Ok(());
        }
        for (index, effects) in notes.applied.range(self.checked + 1..=applied) {
            let Some(fresh) = self.fresh.remove(index) else { continue };
            let mut fresh = fresh.iter();
            for (command, _) in effects {
                if !fresh.any(|new| new == command) {
                    return Err(format!(
                        "exactly once: entry {index} applies a command that was applied before"
                    ));
                }
            }
        }
        self.checked = applied;
        Ok(())
    }
}
