//! What a message from outside must satisfy before raft may see it.

use raft::eraftpb::Message;

/// What the receiver knows about itself and about the connection; the checker compares the message with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Id of the receiving member.
    pub local: u64,
    /// Id of the member that the connection belongs to.
    pub from: u64,
    /// The receiver's term: `raft.term`.
    pub term: u64,
    /// Index of the first entry in the receiver's log: `raft.raft_log.first_index()`.
    pub first_index: u64,
    /// Index of the last entry in the receiver's log, persisted or not: `raft.raft_log.last_index()`.
    pub last_index: u64,
    /// The receiver's commit index: `raft.raft_log.committed`.
    pub commit: u64,
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {}

/// Checks a message, and repairs what may be repaired. To be called with the receiver's present state, on the thread
/// that owns raft, right before `step`.
pub fn message(_message: &mut Message, _rules: &Rules) -> Result<(), Invalid> {
    Ok(())
}
