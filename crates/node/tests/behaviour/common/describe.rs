//! Messages and writes as one line of text, for transcripts.

use std::fmt::Write as _;

use kvd_node::driver::Write;
use kvd_raftpb::node::{Batch, MemberChange};
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

fn entry(entry: &Entry) -> String {
    let what = match entry.get_entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => "empty".to_owned(),
        EntryType::EntryNormal => match Batch::decode(entry.data.clone()) {
            Ok(batch) => {
                let commands = batch.commands.iter().map(|command| {
                    format!("{}={}", command.counter, String::from_utf8_lossy(&command.payload))
                });
                format!(
                    "by {} floor {}: {}",
                    batch.member,
                    batch.floor,
                    commands.collect::<Vec<_>>().join(" ")
                )
            }
            Err(_) => "unreadable".to_owned(),
        },
        _ => match kvd_raftpb::codec::decode_conf_change(entry.get_entry_type(), &entry.data) {
            Ok(change) => {
                let changes =
                    change.changes.iter().map(|c| format!("{:?} {}", c.get_change_type(), c.node_id));
                let changes = changes.collect::<Vec<_>>().join(" ");
                match MemberChange::decode(entry.context.clone()) {
                    Ok(context) if !context.forced.is_empty() => {
                        format!("{changes} by force: {}", context.forced)
                    }
                    _ => changes,
                }
            }
            Err(_) => "unreadable change".to_owned(),
        },
    };
    format!("[{}@{} {what}]", entry.index, entry.term)
}

fn entries(all: &[Entry]) -> String {
    all.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// The context of a read round: member, boot and number.
fn round(context: &[u8]) -> String {
    let numbers: Vec<String> = context
        .chunks_exact(8)
        .map(|number| u64::from_le_bytes(number.try_into().expect("8 bytes")).to_string())
        .collect();
    numbers.join(".")
}

/// A message without its sender.
pub(crate) fn message(message: &Message) -> String {
    use MessageType::*;
    let mut text = format!("{:?} term {}", message.get_msg_type(), message.term);
    let _ = match message.get_msg_type() {
        MsgAppend => write!(
            text,
            " after {}@{} commit {} {}",
            message.index,
            message.log_term,
            message.commit,
            entries(&message.entries)
        ),
        MsgAppendResponse if message.reject => {
            write!(text, " rejects {}, hint {}@{}", message.index, message.reject_hint, message.log_term)
        }
        MsgAppendResponse => write!(text, " up to {} commit {}", message.index, message.commit),
        MsgRequestVote | MsgRequestPreVote => write!(text, " log {}@{}", message.index, message.log_term),
        MsgRequestVoteResponse | MsgRequestPreVoteResponse if message.reject => write!(text, " no"),
        MsgRequestVoteResponse | MsgRequestPreVoteResponse => write!(text, " yes"),
        MsgHeartbeat => write!(text, " commit {}", message.commit),
        MsgHeartbeatResponse => Ok(()),
        MsgPropose => write!(text, " {}", entries(&message.entries)),
        MsgReadIndex => write!(text, " round {}", round(&message.entries[0].data)),
        MsgReadIndexResp => {
            write!(text, " round {} index {}", round(&message.entries[0].data), message.index)
        }
        MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            let conf = metadata.get_conf_state();
            write!(
                text,
                " {}@{} voters {:?} learners {:?}",
                metadata.index, metadata.term, conf.voters, conf.learners
            )
        }
        _ => Ok(()),
    };
    text.trim_end().to_owned()
}

/// A group for the log.
pub(crate) fn write(write: &Write) -> String {
    let mut text = format!("write {}", write.seq);
    if let Some(snapshot) = &write.snapshot {
        let _ = write!(text, " record {}@{}", snapshot.index, snapshot.term);
    }
    if !write.entries.is_empty() {
        let _ = write!(text, " {}", entries(&write.entries));
    }
    if let Some(state) = &write.hard_state {
        let _ = write!(text, " term {} vote {} commit {}", state.term, state.vote, state.commit);
    }
    text
}
