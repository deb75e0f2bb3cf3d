//! Messages on their way out. Entries that several members get are encoded once.
//!
//! A leader's append to each of its followers is a message of its own, with the same entries: they share their payloads.
//! [`share`] finds such messages among those that are sent together. The first stream that writes one of them encodes
//! the entries, and the others take the bytes. Long entries are not copied into a stream's buffer at all: they go out as
//! a chunk of their own, in the same write.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, Bytes, BytesMut};
use kvd_raftpb::codec::{encode_entries, encode_message_head, encode_message_tail};
use raft::eraftpb::{Entry, Message};

use crate::codec::TooLong;

/// How many messages back the same entries are looked for. raft makes the appends of one step one after the other.
const WINDOW: usize = 16;
/// Entries from this length on, in bytes, are not copied into the buffer of the stream.
const UNCOPIED_BYTES: usize = 16 << 10;

/// Entries that several messages carry: encoded by whoever needs the bytes first.
pub(crate) type Shared = Arc<OnceLock<Bytes>>;

/// A message, and the encoded entries that it shares with others.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    shared: Option<Shared>,
}

impl Outgoing {
    pub(crate) fn new(message: Message, shared: Option<Shared>) -> Outgoing {
        Outgoing { message, shared }
    }

    /// Appends the message's frame to `buffer`; if its entries are not to be copied, moves what is in `buffer` to
    /// `chunks`, and the entries too.
    pub(crate) fn encode(
        &self,
        max: u32,
        buffer: &mut BytesMut,
        chunks: &mut VecDeque<Bytes>,
    ) -> Result<(), TooLong> {
        let Some(shared) = &self.shared else {
            return crate::codec::encode_frame(&self.message, max, buffer);
        };
        let entries = shared.get_or_init(|| {
            let mut out = BytesMut::new();
            encode_entries(&self.message.entries, &mut out);
            out.freeze()
        });
        let start = buffer.len();
        buffer.put_u32_le(0);
        encode_message_head(&self.message, buffer);
        let entries_at = buffer.len();
        encode_message_tail(&self.message, buffer);
        let len = buffer.len() - start - 4 + entries.len();
        let Some(short) = u32::try_from(len).ok().filter(|short| *short <= max) else {
            buffer.truncate(start);
            return Err(TooLong { len: len as u64, max });
        };
        buffer[start..start + 4].copy_from_slice(&short.to_le_bytes());
        let tail = buffer.split_off(entries_at);
        if entries.len() < UNCOPIED_BYTES {
            buffer.extend_from_slice(entries);
        } else {
            chunks.push_back(buffer.split().freeze());
            chunks.push_back(entries.clone());
        }
        buffer.extend_from_slice(&tail);
        Ok(())
    }
}

/// For each message, the entries that it shares with an earlier or a later one.
pub(crate) fn share(messages: &[Message]) -> Vec<Option<Shared>> {
    let mut shared: Vec<Option<Shared>> = vec![None; messages.len()];
    for (at, message) in messages.iter().enumerate().filter(|(_, message)| !message.entries.is_empty()) {
        let window = at.saturating_sub(WINDOW)..at;
        let same = window.rev().find(|other| same_entries(&messages[*other].entries, &message.entries));
        if let Some(other) = same {
            shared[at] = Some(shared[other].get_or_insert_default().clone());
        }
    }
    shared
}

/// Whether both are made of the same payloads in memory. A look at the payloads themselves could cost what it saves.
fn same_entries(a: &[Entry], b: &[Entry]) -> bool {
    let same_bytes = |a: &Bytes, b: &Bytes| a.len() == b.len() && (a.is_empty() || a.as_ptr() == b.as_ptr());
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.index == b.index
                && a.term == b.term
                && a.entry_type == b.entry_type
                && same_bytes(&a.data, &b.data)
                && same_bytes(&a.context, &b.context)
        })
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::*;
    use crate::codec::encode_frame;

    fn entries(index: u64, payload: usize) -> Vec<Entry> {
        let mut entry = Entry::default();
        (entry.index, entry.term, entry.data) = (index, 1, vec![7; payload].into());
        vec![entry.clone(), entry]
    }

    fn append(to: u64, entries: Vec<Entry>) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.to, message.commit, message.commit_term) = (to, 300 + to, 5);
        message.set_entries(entries.into());
        message
    }

    fn frame(message: &Message) -> BytesMut {
        let mut out = BytesMut::new();
        encode_frame(message, u32::MAX, &mut out).unwrap();
        out
    }

    #[test]
    fn an_append_to_two_followers_is_encoded_once() {
        for payload in [10, UNCOPIED_BYTES] {
            let same = entries(1, payload);
            let mut messages = vec![append(2, same.clone()), append(3, same)];
            let shared = share(&messages);
            let (Some(a), Some(b)) = (&shared[0], &shared[1]) else { panic!("nothing is shared") };
            assert!(Arc::ptr_eq(a, b) && a.get().is_none(), "and not encoded in advance");
            let mut outs = Vec::new();
            for (message, shared) in messages.drain(..).zip(shared) {
                let (mut buffer, mut chunks) = (BytesMut::from(&b"before"[..]), VecDeque::new());
                let want = [&b"before"[..], &frame(&message)].concat();
                let mut outgoing = Outgoing::new(message, shared);
                if !outs.is_empty() {
                    // Had the second one been encoded, it would show.
                    outgoing.message.mut_entries()[0].index = 99;
                }
                outgoing.encode(u32::MAX, &mut buffer, &mut chunks).unwrap();
                chunks.push_back(buffer.freeze());
                assert_eq!(chunks.iter().flatten().copied().collect::<Vec<u8>>(), want);
                outs.push(chunks);
            }
            if payload == UNCOPIED_BYTES {
                assert_eq!(outs[0][1].as_ptr(), outs[1][1].as_ptr(), "the same bytes, not a copy");
            }
        }
    }

    #[test]
    fn only_the_same_entries_are_shared() {
        let same = entries(1, 10);
        let mut messages = vec![
            append(2, same.clone()),
            append(3, entries(1, 10)),
            append(4, vec![]),
            append(5, same[..1].to_vec()),
            append(6, vec![]),
        ];
        let mut other_term = same.clone();
        other_term[1].term = 2;
        messages.push(append(7, other_term));
        assert!(share(&messages).iter().all(Option::is_none));
        // Up to the window's end, and not beyond.
        for (between, found) in [(WINDOW - 2, true), (WINDOW - 1, true), (WINDOW, false)] {
            let mut messages = vec![append(2, same.clone())];
            messages.extend((0..between).map(|_| append(3, vec![])));
            messages.push(append(4, same.clone()));
            assert_eq!(share(&messages)[0].is_some(), found, "{between}");
        }
    }

    #[test]
    fn the_limit_counts_the_shared_entries() {
        let same = entries(1, 1000);
        let messages = [append(2, same.clone()), append(3, same)];
        let shared = share(&messages);
        let len = u32::try_from(frame(&messages[0]).len() - 4).unwrap();
        for (max, fits) in [(len - 1, false), (len, true), (len + 1, true)] {
            let outgoing = Outgoing::new(messages[0].clone(), shared[0].clone());
            let mut buffer = BytesMut::from(&b"before"[..]);
            assert_eq!(outgoing.encode(max, &mut buffer, &mut VecDeque::new()).is_ok(), fits);
            assert_eq!(buffer.len(), if fits { 6 + 4 + len as usize } else { 6 });
        }
    }
}
