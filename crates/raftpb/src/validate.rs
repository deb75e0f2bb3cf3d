//! What a message from outside must satisfy before raft may see it.

use raft::eraftpb::Message;

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {}

/// placeholder
pub fn message(_message: &mut Message, _local: u64, _from: u64) -> Result<(), Invalid> {
    Ok(())
}
