//! What is inside an entry that kvd wrote: commands and membership changes.
//!
//! The node's own messages come from `kvd-raftpb`. The store's command is repeated here, with the fields of
//! `crates/kvstore/proto/command.proto`, which keep their numbers and meanings: a tool that reads files needs no store. A
//! command of a later version shows as an unknown one.

use bytes::Bytes;
use kvd_raftpb::node::{Batch, MemberChange};
use kvd_raftpb::pb::{ConfChangeType, ConfChangeV2};
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};
use serde_json::{Value, json};

use super::{Values, count};

/// How much of an entry is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detail {
    pub(crate) values: Option<Values>,
    pub(crate) value_bytes: usize,
}

/// Commands of a batch that a line names unless it names all of them.
const COMMANDS: usize = 3;

#[derive(Clone, PartialEq, prost::Message)]
struct Command {
    #[prost(oneof = "CommandKind", tags = "1, 2, 3, 4")]
    kind: Option<CommandKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum CommandKind {
    #[prost(message, tag = "1")]
    Put(Put),
    #[prost(message, tag = "2")]
    Delete(Delete),
    #[prost(message, tag = "3")]
    Txn(Txn),
    #[prost(message, tag = "4")]
    Sequence(Sequence),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sequence {
    #[prost(message, repeated, tag = "1")]
    commands: Vec<Command>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Delete {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Txn {
    #[prost(message, repeated, tag = "1")]
    compares: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    operations: Vec<Operation>,
}

/// What is compared with is left out.
#[derive(Clone, PartialEq, prost::Message)]
struct Compare {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Operation {
    #[prost(oneof = "OperationKind", tags = "1, 2, 3, 4, 5")]
    kind: Option<OperationKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OperationKind {
    #[prost(message, tag = "1")]
    Put(Put),
    #[prost(message, tag = "2")]
    Delete(Delete),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRange),
    #[prost(message, tag = "4")]
    Increment(Increment),
    #[prost(message, tag = "5")]
    Append(Append),
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteRange {
    #[prost(bytes = "bytes", tag = "1")]
    start: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    end: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Increment {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(sint64, tag = "2")]
    by: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Append {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    suffix: Bytes,
}

/// What an entry's data is.
enum Content {
    /// No data: a leader's first entry, or a membership change that raft refused.
    Empty,
    Batch(Batch),
    Change(ConfChangeV2, Option<MemberChange>),
    Opaque,
}

/// Reads an entry. Only a log of kvd's own has entries that are understood.
fn content(entry: &Entry, ours: bool) -> Content {
    match entry.get_entry_type() {
        _ if entry.data.is_empty() => Content::Empty,
        EntryType::EntryNormal if ours => match Batch::decode(entry.data.clone()) {
            Ok(batch) if batch.member > 0 => Content::Batch(batch),
            _ => Content::Opaque,
        },
        EntryType::EntryConfChangeV2 => match ConfChangeV2::decode(entry.data.clone()) {
            Ok(change) => {
                let member = ours.then(|| MemberChange::decode(&*entry.context).ok()).flatten();
                Content::Change(change, member)
            }
            Err(_) => Content::Opaque,
        },
        _ => Content::Opaque,
    }
}

/// An entry's data in words.
pub(crate) fn text(entry: &Entry, ours: bool, detail: Detail) -> String {
    let bytes = count(entry.data.len() as u64, "byte");
    match content(entry, ours) {
        Content::Empty => "empty".to_owned(),
        Content::Opaque => {
            let shown = detail.quoted(&entry.data).map(|shown| format!(" {shown}")).unwrap_or_default();
            format!("{bytes}{shown}")
        }
        Content::Change(change, member) => {
            let words = |change: &Changed| match change.peer_urls.as_slice() {
                [] => format!("{} {}", change.what, change.id),
                urls => format!("{} {} at {}", change.what, change.id, urls.join(" ")),
            };
            let all: Vec<String> = changes(&change, member.as_ref()).iter().map(words).collect();
            let forced = member.map(|member| member.forced).filter(|why| !why.is_empty());
            let forced = forced.map(|why| format!(", forced: {why}")).unwrap_or_default();
            match all.as_slice() {
                [] => "membership: leave the joint configuration".to_owned(),
                all => format!("membership: {}{forced}", all.join(", ")),
            }
        }
        Content::Batch(batch) => {
            let all = batch.commands.len();
            let named = if detail.values.is_some() { all } else { COMMANDS };
            let commands: Vec<String> =
                batch.commands.iter().take(named).map(|command| command_text(command, detail)).collect();
            let more = match all.saturating_sub(named) {
                0 => String::new(),
                n => format!(", and {n} more"),
            };
            let announced = batch.announcement.map(|announcement| {
                let (peers, clients) = (announcement.peer_urls.join(" "), announcement.client_urls.join(" "));
                format!(", is at {peers}, for clients at {clients}")
            });
            format!(
                "member {} boot {}{}, {}{}{}{more}",
                batch.member,
                batch.boot,
                announced.unwrap_or_default(),
                count(all as u64, "command"),
                if all > 0 { ": " } else { "" },
                commands.join(", ")
            )
        }
    }
}

fn command_text(command: &kvd_raftpb::node::Command, detail: Detail) -> String {
    match Command::decode(command.payload.clone()).ok().and_then(|command| command.kind) {
        Some(kind) => kind_text(&kind, detail),
        None => {
            let shown = detail.quoted(&command.payload).map(|shown| format!(" {shown}")).unwrap_or_default();
            format!("unknown{shown} ({})", count(command.payload.len() as u64, "byte"))
        }
    }
}

fn kind_text(kind: &CommandKind, detail: Detail) -> String {
    let list = |all: Vec<String>| {
        let named = if detail.values.is_some() { all.len() } else { all.len().min(COMMANDS) };
        let more = all.len() - named;
        format!(
            "{}{}",
            all[..named].join(", "),
            if more > 0 { format!(", and {more} more") } else { String::new() }
        )
    };
    match kind {
        CommandKind::Put(put) => put_text(put, detail),
        CommandKind::Delete(Delete { key }) => format!("delete \"{}\"", key.escape_ascii()),
        CommandKind::Txn(Txn { compares, operations }) => {
            let keys = compares.iter().map(|compare| format!("\"{}\"", compare.key.escape_ascii()));
            let condition = match compares.len() {
                0 => String::new(),
                _ => format!("if {}: ", list(keys.collect())),
            };
            let operations = operations.iter().map(|operation| operation_text(operation, detail));
            format!("transaction [{condition}{}]", list(operations.collect()))
        }
        CommandKind::Sequence(Sequence { commands }) => {
            let unknown = || "unknown".to_owned();
            let text = |command: &Command| {
                command.kind.as_ref().map_or_else(unknown, |kind| kind_text(kind, detail))
            };
            format!("sequence of {} [{}]", commands.len(), list(commands.iter().map(text).collect()))
        }
    }
}

fn put_text(Put { key, value }: &Put, detail: Detail) -> String {
    let shown = detail.quoted(value).map(|shown| format!(" = {shown}")).unwrap_or_default();
    format!("put \"{}\"{shown} ({})", key.escape_ascii(), count(value.len() as u64, "byte"))
}

fn operation_text(operation: &Operation, detail: Detail) -> String {
    match &operation.kind {
        Some(OperationKind::Put(put)) => put_text(put, detail),
        Some(OperationKind::Delete(Delete { key })) => format!("delete \"{}\"", key.escape_ascii()),
        Some(OperationKind::DeleteRange(DeleteRange { start, end })) => {
            format!("delete from \"{}\" to \"{}\"", start.escape_ascii(), end.escape_ascii())
        }
        Some(OperationKind::Increment(Increment { key, by })) => {
            format!("increment \"{}\" by {by}", key.escape_ascii())
        }
        Some(OperationKind::Append(Append { key, suffix })) => {
            let shown = detail.quoted(suffix).map(|shown| format!(" += {shown}")).unwrap_or_default();
            format!("append to \"{}\"{shown} ({})", key.escape_ascii(), count(suffix.len() as u64, "byte"))
        }
        None => "unknown".to_owned(),
    }
}

/// An entry's data as fields.
pub(crate) fn json(entry: &Entry, ours: bool, detail: Detail) -> Value {
    match content(entry, ours) {
        Content::Empty => json!({}),
        Content::Opaque => json!({ "data": detail.first_bytes(&entry.data) }),
        Content::Change(change, member) => {
            let changes: Vec<Value> = changes(&change, member.as_ref())
                .into_iter()
                .map(|one| json!({ "change": one.what, "member": one.id, "peer_urls": one.peer_urls }))
                .collect();
            let context = member.map(|change| {
                json!({
                    "proposer": change.proposer,
                    "boot": change.boot,
                    "counter": change.counter,
                    "forced": change.forced,
                })
            });
            json!({ "changes": changes, "context": context })
        }
        Content::Batch(batch) => {
            let commands: Vec<Value> =
                batch.commands.iter().map(|command| command_json(command, detail)).collect();
            json!({ "batch": {
                "member": batch.member,
                "boot": batch.boot,
                "floor": batch.floor,
                "announcement": batch.announcement.map(|announcement| {
                    json!({ "peer_urls": announcement.peer_urls, "client_urls": announcement.client_urls })
                }),
                "commands": commands,
            }})
        }
    }
}

fn command_json(command: &kvd_raftpb::node::Command, detail: Detail) -> Value {
    let mut value = match Command::decode(command.payload.clone()).ok().and_then(|command| command.kind) {
        Some(kind) => kind_json(&kind, detail),
        None => json!({
            "op": "unknown",
            "bytes": command.payload.len(),
            "data": detail.first_bytes(&command.payload),
        }),
    };
    value["counter"] = command.counter.into();
    value
}

fn kind_json(kind: &CommandKind, detail: Detail) -> Value {
    match kind {
        CommandKind::Put(put) => put_json(put, detail),
        CommandKind::Delete(Delete { key }) => {
            json!({ "op": "delete", "key": key.escape_ascii().to_string() })
        }
        CommandKind::Txn(Txn { compares, operations }) => {
            let keys: Vec<String> =
                compares.iter().map(|compare| compare.key.escape_ascii().to_string()).collect();
            let operations: Vec<Value> =
                operations.iter().map(|operation| operation_json(operation, detail)).collect();
            json!({ "op": "txn", "compares": keys, "operations": operations })
        }
        CommandKind::Sequence(Sequence { commands }) => {
            let unknown = || json!({ "op": "unknown" });
            let json = |command: &Command| {
                command.kind.as_ref().map_or_else(unknown, |kind| kind_json(kind, detail))
            };
            json!({ "op": "sequence", "commands": commands.iter().map(json).collect::<Vec<_>>() })
        }
    }
}

fn put_json(Put { key, value }: &Put, detail: Detail) -> Value {
    json!({
        "op": "put",
        "key": key.escape_ascii().to_string(),
        "value_bytes": value.len(),
        "value": detail.first_bytes(value),
    })
}

fn operation_json(operation: &Operation, detail: Detail) -> Value {
    match &operation.kind {
        Some(OperationKind::Put(put)) => put_json(put, detail),
        Some(OperationKind::Delete(Delete { key })) => {
            json!({ "op": "delete", "key": key.escape_ascii().to_string() })
        }
        Some(OperationKind::DeleteRange(DeleteRange { start, end })) => json!({
            "op": "delete_range",
            "start": start.escape_ascii().to_string(),
            "end": end.escape_ascii().to_string(),
        }),
        Some(OperationKind::Increment(Increment { key, by })) => {
            json!({ "op": "increment", "key": key.escape_ascii().to_string(), "by": by })
        }
        Some(OperationKind::Append(Append { key, suffix })) => json!({
            "op": "append",
            "key": key.escape_ascii().to_string(),
            "suffix_bytes": suffix.len(),
            "suffix": detail.first_bytes(suffix),
        }),
        None => json!({ "op": "unknown" }),
    }
}

/// One change of a membership entry.
struct Changed {
    what: &'static str,
    id: u64,
    /// Of a member that is added, if the log is kvd's own.
    peer_urls: Vec<String>,
}

fn changes(change: &ConfChangeV2, context: Option<&MemberChange>) -> Vec<Changed> {
    let name = |kind| match ConfChangeType::try_from(kind) {
        Ok(ConfChangeType::AddNode) => "add voter",
        Ok(ConfChangeType::AddLearnerNode) => "add learner",
        Ok(ConfChangeType::RemoveNode) => "remove",
        Err(_) => "unknown change of",
    };
    let members = context.map(|context| context.members.as_slice()).unwrap_or_default();
    let urls = |place: usize| members.get(place).map(|member| member.peer_urls.clone()).unwrap_or_default();
    let singles = change.changes.iter().enumerate();
    singles
        .map(|(place, single)| Changed {
            what: name(single.change_type),
            id: single.node_id,
            peer_urls: urls(place),
        })
        .collect()
}

impl Detail {
    /// The first bytes of a value, if values are wanted.
    fn first_bytes(self, bytes: &[u8]) -> Option<String> {
        let shown = &bytes[..bytes.len().min(self.value_bytes)];
        Some(match self.values? {
            Values::Escaped => shown.escape_ascii().to_string(),
            Values::Hex => hex(shown),
        })
    }

    /// The same for people; dots stand for what is left out.
    fn quoted(self, bytes: &[u8]) -> Option<String> {
        let quote = if self.values == Some(Values::Escaped) { "\"" } else { "" };
        let more = if bytes.len() > self.value_bytes { "..." } else { "" };
        self.first_bytes(bytes).map(|shown| format!("{quote}{shown}{quote}{more}"))
    }
}

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Detail = Detail { values: None, value_bytes: 64 };

    fn batch(payloads: &[&'static [u8]]) -> Entry {
        let commands = (7..)
            .zip(payloads)
            .map(|(counter, payload)| kvd_raftpb::node::Command {
                counter,
                payload: Bytes::from_static(payload),
            })
            .collect();
        let mut entry = Entry::default();
        entry.data =
            Batch { member: 2, boot: 5, floor: 6, commands, announcement: None }.encode_to_vec().into();
        entry
    }

    // The bytes that crates/kvstore's own test of its commands has.
    const PUT: &[u8] = b"\x0a\x07\x0a\x01k\x12\x02vv";
    const DELETE: &[u8] = b"\x12\x03\x0a\x01k";
    const NEWER: &[u8] = b"\x7a\x00";

    #[test]
    fn commands_are_named_with_their_keys() {
        let entry = batch(&[PUT, DELETE, NEWER, PUT]);
        let head = "member 2 boot 5, 4 commands: put \"k\"";
        assert_eq!(
            text(&entry, true, QUIET),
            format!("{head} (2 bytes), delete \"k\", unknown (2 bytes), and 1 more")
        );
        let shown = text(&entry, true, Detail { values: Some(Values::Escaped), value_bytes: 1 });
        assert_eq!(
            shown,
            format!(
                "{head} = \"v\"... (2 bytes), delete \"k\", unknown \"z\"... (2 bytes), put \"k\" = \"v\"... (2 bytes)"
            )
        );
        let value = json(&entry, true, Detail { values: Some(Values::Hex), value_bytes: 2 });
        let put = json!({ "counter": 7, "op": "put", "key": "k", "value_bytes": 2, "value": "7676" });
        assert_eq!(value["batch"]["commands"][0], put);
        assert_eq!(
            value["batch"]["commands"][2],
            json!({ "counter": 9, "op": "unknown", "bytes": 2, "data": "7a00" })
        );
    }

    #[test]
    fn what_a_transaction_and_a_sequence_do_is_named() {
        // Field numbers of crates/kvstore/proto/command.proto, by hand.
        const TXN: &[u8] = b"\x1a\x24\x0a\x05\x0a\x01c\x18\x01\x12\x07\x22\x05\x0a\x01n\x10\x03\x12\x08\x2a\x06\x0a\x01a\x12\x01s\x12\x08\x1a\x06\x0a\x01d\x12\x01e";
        const SEQUENCE: &[u8] = b"\x22\x0c\x0a\x05\x12\x03\x0a\x01k\x0a\x03\x0a\x01\x01";
        let shown = text(&batch(&[TXN]), true, QUIET);
        let want = "transaction [if \"c\": increment \"n\" by -2, append to \"a\" (1 byte), delete from \"d\" to \"e\"]";
        assert!(shown.ends_with(want), "{shown}");
        let value = json(&batch(&[TXN]), true, QUIET);
        let txn = &value["batch"]["commands"][0];
        assert_eq!(
            (&txn["op"], &txn["compares"][0], &txn["operations"][0]["by"]),
            (&json!("txn"), &json!("c"), &json!(-2))
        );
        // A sequence whose second command does not decode is unknown as a whole.
        assert!(text(&batch(&[SEQUENCE]), true, QUIET).ends_with("unknown (14 bytes)"));
        let sequence = text(&batch(&[b"\x22\x07\x0a\x05\x12\x03\x0a\x01k"]), true, QUIET);
        assert!(sequence.ends_with("sequence of 1 [delete \"k\"]"), "{sequence}");
    }

    #[test]
    fn entries_of_other_logs_are_bytes() {
        let entry = batch(&[PUT]);
        assert_eq!(text(&entry, false, QUIET), format!("{} bytes", entry.data.len()));
        let mut entry = Entry::default();
        assert_eq!(text(&entry, true, QUIET), "empty");
        entry.data = Bytes::from_static(b"\xff\x00a");
        let shown = text(&entry, true, Detail { values: Some(Values::Escaped), value_bytes: 64 });
        assert_eq!(shown, "3 bytes \"\\xff\\x00a\"");
    }
}
