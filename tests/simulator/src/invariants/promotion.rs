//! New members catch up first (section 6): a leader makes a voter only of a learner that has something of the log, so that
//! no quorum waits for a member that cannot answer.

use kvd_node::driver::Write;
use kvd_raftpb::codec;
use kvd_wal::LogStorage;
use raft::eraftpb::{ConfChangeType, EntryType};
use raft::{RawNode, StateRole};

use super::Verdict;

/// A member hands a write to its log. `last` tells where the log on the disk of a member ends.
///
/// # Errors
/// If it leads and makes a voter of a member whose disk holds nothing.
pub fn write(write: &Write, raft: &RawNode<LogStorage>, last: impl Fn(u64) -> u64) -> Verdict {
    if raft.raft.state != StateRole::Leader {
        return Ok(());
    }
    for entry in write.entries.iter().filter(|entry| entry.term == raft.raft.term) {
        let kind = entry.get_entry_type();
        if kind == EntryType::EntryNormal {
            continue;
        }
        let Ok(change) = codec::decode_conf_change(kind, &entry.data) else { continue };
        for single in change.changes.iter() {
            if single.get_change_type() == ConfChangeType::AddNode && last(single.node_id) == 0 {
                return Err(format!(
                    "promotion: leader {} makes a voter of member {}, whose disk holds nothing of the log",
                    raft.raft.id, single.node_id
                ));
            }
        }
    }
    Ok(())
}
