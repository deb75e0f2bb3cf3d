//! What a frame must be for its message to reach the handler, whichever way it came.

use bytes::Bytes;
use kvd_raftpb::DecodeError;
use kvd_raftpb::codec::decode_message;
use raft::eraftpb::{Message, MessageType};

pub(crate) use crate::metrics::FrameFault;
use crate::peer::Peer;
use crate::shared::Shared;

/// Decodes a message of that peer, or says why the handler must not see it. The framing around it is intact, so whatever
/// comes next may be read.
pub(crate) fn decode(shared: &Shared, peer: &Peer, bytes: Bytes) -> Result<Message, FrameFault> {
    match decode_message(bytes) {
        Err(DecodeError::Malformed { .. } | DecodeError::UnknownEnum { .. }) => Err(FrameFault::Malformed),
        Ok(message) if message.from != peer.id && !passed_on(&message) => Err(FrameFault::Sender),
        Ok(message) if message.to != shared.config.member_id => Err(FrameFault::Recipient),
        Ok(message) if message.get_msg_type() == MessageType::MsgSnapshot => Err(FrameFault::Snapshot),
        Ok(message) => Ok(message),
    }
}

/// Requests that a member passes on to the leader as they came: they are from whoever asked first. The handler decides.
fn passed_on(message: &Message) -> bool {
    use MessageType::{MsgPropose, MsgReadIndex, MsgTransferLeader};
    matches!(message.get_msg_type(), MsgPropose | MsgReadIndex | MsgTransferLeader)
}

/// Counts a frame that was not delivered.
pub(crate) fn refuse(peer: &Peer, fault: FrameFault) {
    tracing::debug!(peer = peer.id, ?fault, "frame refused");
    peer.metrics.refused(fault);
}
