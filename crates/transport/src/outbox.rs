//! What waits to be sent to one peer in one class, and the stream that takes it.
//!
//! The node pushes from wherever it runs; the body of the stream's response takes. One mutex guards both sides and is
//! held for moving messages only: encoding happens outside of it, on the side of the stream. A push wakes the stream
//! once, however many follow before it runs.
//!
//! At most one stream is attached. A newer one replaces it: its generation is higher, the older one's connection is
//! killed, and what is queued goes out on the newer. When the attached stream breaks, what is queued is dropped: raft
//! was told that the peer is unreachable and will probe for what is missing.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Waker};

use raft::eraftpb::{Message, MessageType};
use tokio_util::sync::CancellationToken;

use crate::lock;
use crate::metrics::DropReason;
use crate::outgoing::Outgoing;

/// What shares a stream. Heartbeats and votes never wait behind bulk, because bulk has a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Appends and forwarded proposals.
    Append,
    /// Everything else, except snapshots, which have a connection each.
    Message,
}

impl Class {
    pub(crate) const ALL: [Class; 2] = [Class::Append, Class::Message];

    /// The stream that a message takes. `MsgSnapshot` takes none.
    pub(crate) fn of(message: &Message) -> Option<Class> {
        match message.get_msg_type() {
            MessageType::MsgSnapshot => None,
            MessageType::MsgAppend | MessageType::MsgPropose => Some(Class::Append),
            _ => Some(Class::Message),
        }
    }

    /// The name of the stream in its path.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::Append => "msgapp",
            Class::Message => "message",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// What a message counts for in its queue, in bytes: its payloads, and a charge for what surrounds them. Cheaper than
/// its encoded length, and not below it by much.
pub(crate) fn weight(message: &Message) -> usize {
    const MESSAGE: usize = 64;
    const ENTRY: usize = 32;
    let entries: usize = message.entries.iter().map(|e| ENTRY + e.data.len() + e.context.len()).sum();
    MESSAGE + message.context.len() + entries
}

/// A message that was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) reason: DropReason,
    /// True for the first drop since a message was last taken: the one that is worth a report.
    pub(crate) report: bool,
}

/// What [`Outbox::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There are messages in the batch.
    Some,
    /// Nothing is queued; the waker will be called.
    Nothing,
    /// The stream is over: replaced, or the outbox is closed and empty.
    Ended,
}

/// The queue of one peer and class.
#[derive(Debug)]
pub(crate) struct Outbox {
    max_messages: usize,
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    /// Counts the streams that were ever attached.
    generation: u64,
    /// Ends the connection of the attached stream; `None` without a stream.
    stream: Option<CancellationToken>,
    waker: Option<Waker>,
    /// A drop was reported, and no message was taken since.
    reported: bool,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Outbox {
        Outbox { max_messages, max_bytes, state: Mutex::default() }
    }

    /// Queues a message for the attached stream.
    pub(crate) fn push(&self, outgoing: Outgoing) -> Result<(), Dropped> {
        let bytes = weight(&outgoing.message);
        let mut state = lock(&self.state);
        let reason = if state.closed {
            DropReason::Stopped
        } else if state.stream.is_none() {
            DropReason::NoStream
        } else if state.queue.len() >= self.max_messages
            || (state.bytes + bytes > self.max_bytes && !state.queue.is_empty())
        {
            DropReason::QueueFull
        } else {
            state.bytes += bytes;
            state.queue.push_back(outgoing);
            state.reported = false;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
            return Ok(());
        };
        let report = !state.closed && !std::mem::replace(&mut state.reported, true);
        Err(Dropped { reason, report })
    }

    /// Attaches a stream whose connection ends when `kill` is cancelled. Returns its generation, and whether it
    /// replaced one, whose last messages may be lost. `None`: the outbox is closed.
    pub(crate) fn attach(&self, kill: CancellationToken) -> Option<(u64, bool)> {
        let mut state = lock(&self.state);
        if state.closed {
            return None;
        }
        state.generation += 1;
        state.waker = None;
        state.reported = false;
        let old = state.stream.replace(kill);
        let generation = state.generation;
        drop(state);
        if let Some(old) = &old {
            old.cancel();
        }
        Some((generation, old.is_some()))
    }

    /// Detaches the stream of that generation, unless a newer one has replaced it. What was queued for it is dropped;
    /// returns how much that was, and whether to report it.
    pub(crate) fn detach(&self, generation: u64) -> Option<(usize, bool)> {
        let mut state = lock(&self.state);
        if state.generation != generation || state.stream.take().is_none() {
            return None;
        }
        state.waker = None;
        state.bytes = 0;
        let report = !state.closed && !std::mem::replace(&mut state.reported, true);
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        Some((dropped.len(), report))
    }

    /// Moves queued messages to the empty `batch` until they weigh `max_bytes`; at least one if there is one.
    pub(crate) fn take(
        &self,
        generation: u64,
        batch: &mut VecDeque<Outgoing>,
        max_bytes: usize,
        cx: &Context<'_>,
    ) -> Taken {
        let mut state = lock(&self.state);
        if state.generation != generation {
            return Taken::Ended;
        }
        if state.queue.is_empty() {
            if state.closed {
                return Taken::Ended;
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => state.waker = Some(cx.waker().clone()),
            }
            return Taken::Nothing;
        }
        if state.bytes <= max_bytes {
            std::mem::swap(&mut state.queue, batch);
            state.bytes = 0;
            return Taken::Some;
        }
        let mut moved = 0;
        while moved < max_bytes
            && let Some(outgoing) = state.queue.pop_front()
        {
            moved += weight(&outgoing.message);
            batch.push_back(outgoing);
        }
        state.bytes -= moved;
        Taken::Some
    }

    /// Takes no more messages. An attached stream writes out what is queued and ends.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u64, payload: usize) -> Outgoing {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.index = index;
        message.context = vec![0; payload].into();
        Outgoing::new(message, None)
    }

    fn attached(max_messages: usize, max_bytes: usize) -> (Outbox, u64) {
        let outbox = Outbox::new(max_messages, max_bytes);
        let (generation, _) = outbox.attach(CancellationToken::new()).unwrap();
        (outbox, generation)
    }

    fn take(outbox: &Outbox, generation: u64, max: usize) -> (Taken, Vec<u64>) {
        let mut batch = VecDeque::new();
        let taken = outbox.take(generation, &mut batch, max, &Context::from_waker(Waker::noop()));
        (taken, batch.iter().map(|m| m.message.index).collect())
    }

    fn refused(reason: DropReason, report: bool) -> Result<(), Dropped> {
        Err(Dropped { reason, report })
    }

    #[test]
    fn every_type_of_message_has_its_class() {
        use MessageType::*;
        for kind in [MsgAppend, MsgPropose] {
            assert_eq!(class_of(kind), Some(Class::Append), "{kind:?}");
        }
        for kind in [
            MsgAppendResponse,
            MsgRequestVote,
            MsgRequestVoteResponse,
            MsgRequestPreVote,
            MsgRequestPreVoteResponse,
            MsgHeartbeat,
            MsgHeartbeatResponse,
            MsgTransferLeader,
            MsgTimeoutNow,
            MsgReadIndex,
            MsgReadIndexResp,
        ] {
            assert_eq!(class_of(kind), Some(Class::Message), "{kind:?}");
        }
        assert_eq!(class_of(MsgSnapshot), None);
        for class in Class::ALL {
            assert_eq!(Class::parse(class.name()), Some(class));
        }
        assert_eq!(Class::parse("snapshot"), None);
    }

    fn class_of(kind: MessageType) -> Option<Class> {
        let mut message = Message::default();
        message.set_msg_type(kind);
        Class::of(&message)
    }

    #[test]
    fn the_queue_is_bounded_in_messages() {
        let (outbox, generation) = attached(3, usize::MAX);
        assert_eq!(outbox.push(message(1, 0)), Ok(()));
        assert_eq!(outbox.push(message(2, 0)), Ok(()));
        assert_eq!(outbox.push(message(3, 0)), Ok(()));
        assert_eq!(outbox.push(message(4, 0)), refused(DropReason::QueueFull, true));
        assert_eq!(outbox.push(message(5, 0)), refused(DropReason::QueueFull, false));
        assert_eq!(take(&outbox, generation, usize::MAX), (Taken::Some, vec![1, 2, 3]));
        assert_eq!(outbox.push(message(6, 0)), Ok(()));
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let one = weight(&message(0, 100).message);
        for (limit, fits) in [(2 * one - 1, false), (2 * one, true), (2 * one + 1, true)] {
            let (outbox, generation) = attached(10, limit);
            assert_eq!(outbox.push(message(1, 100)), Ok(()));
            assert_eq!(outbox.push(message(2, 100)).is_ok(), fits);
            take(&outbox, generation, usize::MAX);
            assert_eq!(outbox.push(message(3, 100)), Ok(()), "taking makes room");
        }
    }

    #[test]
    fn an_empty_queue_takes_a_message_of_any_size() {
        let (outbox, _) = attached(10, 1);
        assert_eq!(outbox.push(message(1, 100)), Ok(()));
        assert_eq!(outbox.push(message(2, 0)), refused(DropReason::QueueFull, true));
    }

    #[test]
    fn one_take_is_bounded_and_keeps_the_order() {
        let one = weight(&message(0, 10).message);
        for (max, first) in [(2 * one - 1, 2), (2 * one, 2), (2 * one + 1, 3), (1, 1), (5 * one, 5)] {
            let (outbox, generation) = attached(10, usize::MAX);
            for index in 0..5 {
                assert_eq!(outbox.push(message(index, 10)), Ok(()));
            }
            assert_eq!(take(&outbox, generation, max).1, (0..first).collect::<Vec<_>>(), "{max}");
            assert_eq!(take(&outbox, generation, usize::MAX).1, (first..5).collect::<Vec<_>>());
            assert_eq!(take(&outbox, generation, max).0, Taken::Nothing);
        }
    }

    #[test]
    fn without_a_stream_messages_are_dropped_and_reported_once() {
        let outbox = Outbox::new(10, 1000);
        assert_eq!(outbox.push(message(1, 0)), refused(DropReason::NoStream, true));
        assert_eq!(outbox.push(message(2, 0)), refused(DropReason::NoStream, false));
        let (generation, replaced) = outbox.attach(CancellationToken::new()).unwrap();
        assert!(!replaced);
        assert_eq!(outbox.push(message(3, 0)), Ok(()));
        assert_eq!(outbox.detach(generation), Some((1, true)));
        assert_eq!(outbox.detach(generation), None);
        assert_eq!(outbox.push(message(4, 0)), refused(DropReason::NoStream, false));
        let (generation, _) = outbox.attach(CancellationToken::new()).unwrap();
        assert_eq!(take(&outbox, generation, 1000), (Taken::Nothing, vec![]), "nothing old is left");
    }

    #[test]
    fn the_newest_stream_inherits_the_queue() {
        let (outbox, old) = attached(10, 1000);
        let kill = CancellationToken::new();
        let (newer, replaced) = outbox.attach(kill.clone()).unwrap();
        assert!(replaced);
        assert_eq!(outbox.push(message(1, 0)), Ok(()));
        assert_eq!(take(&outbox, old, 1000), (Taken::Ended, vec![]));
        assert_eq!(outbox.detach(old), None);
        assert!(!kill.is_cancelled());
        let (newest, _) = outbox.attach(CancellationToken::new()).unwrap();
        assert!(kill.is_cancelled());
        assert_eq!(take(&outbox, newer, 1000), (Taken::Ended, vec![]));
        assert_eq!(take(&outbox, newest, 1000), (Taken::Some, vec![1]));
    }

    #[test]
    fn a_closed_outbox_is_written_out_and_ends() {
        let (outbox, generation) = attached(10, 1000);
        assert_eq!(outbox.push(message(1, 0)), Ok(()));
        outbox.close();
        assert_eq!(outbox.push(message(2, 0)), refused(DropReason::Stopped, false));
        assert_eq!(take(&outbox, generation, 1000), (Taken::Some, vec![1]));
        assert_eq!(take(&outbox, generation, 1000).0, Taken::Ended);
        assert!(outbox.attach(CancellationToken::new()).is_none());
    }
}
